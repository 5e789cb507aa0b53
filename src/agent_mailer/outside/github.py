"""GitHub's events, as its documentation has them (docs.github.com, "Webhook events and payloads").

What nobody would work on, or whose words are not ours to guess, is ignored with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent_mailer.amounts import counted
from agent_mailer.outside.event import BadEvent, Event, Ignored, Reason, State
from agent_mailer.outside.generic import moment_ms

T = TypeVar("T")
EVENT_HEADER = "X-GitHub-Event"
DELIVERY_HEADER = "X-GitHub-Delivery"
FAILED = frozenset(("failure", "timed_out", "startup_failure"))
PASSED = frozenset(("success",))
ISSUE_ACTIONS = frozenset(("opened", "labeled", "closed", "reopened"))
PULL_ACTIONS = frozenset(("opened", "synchronize", "review_requested", "closed", "reopened", "ready_for_review"))
MOST_COMMITS = 20
_BRANCH, _TAG = "refs/heads/", "refs/tags/"


class _Named(msgspec.Struct, frozen=True):
    name: str = ""
    login: str = ""
    full_name: str = ""
    slug: str = ""
    ref: str = ""


class _Issue(msgspec.Struct, frozen=True):
    """An issue, or a pull request."""

    number: int = 0
    title: str = ""
    body: str | None = None
    html_url: str = ""
    updated_at: str | None = None
    user: _Named | None = None
    labels: tuple[_Named, ...] = ()
    merged: bool | None = None
    head: _Named | None = None
    base: _Named | None = None
    pull_request: msgspec.Raw | None = None


class _Comment(msgspec.Struct, frozen=True):
    body: str | None = None
    html_url: str = ""
    updated_at: str | None = None
    user: _Named | None = None


class _Run(msgspec.Struct, frozen=True):
    """A run of a workflow, or a suite of checks."""

    name: str | None = None
    conclusion: str | None = None
    head_branch: str | None = None
    head_sha: str = ""
    html_url: str = ""
    url: str = ""
    updated_at: str | None = None
    app: _Named | None = None


class _Commit(msgspec.Struct, frozen=True):
    id: str = ""
    message: str = ""


class _Said(msgspec.Struct, frozen=True):
    action: str = ""
    repository: _Named | None = None
    organization: _Named | None = None
    sender: _Named | None = None
    issue: _Issue | None = None
    pull_request: _Issue | None = None
    comment: _Comment | None = None
    workflow_run: _Run | None = None
    check_suite: _Run | None = None
    label: _Named | None = None
    requested_reviewer: _Named | None = None
    ref: str = ""
    deleted: bool = False
    forced: bool = False
    compare: str = ""
    commits: tuple[_Commit, ...] = ()

    def origin(self) -> str:
        if self.repository is not None and self.repository.full_name:
            return self.repository.full_name
        return self.organization.login if self.organization is not None else "github"

    def by(self) -> str:
        return self.sender.login if self.sender is not None else ""


_decode = msgspec.json.Decoder(_Said).decode


def read(name: str, body: bytes) -> Event | Ignored:
    """`name`: what `EVENT_HEADER` says. Raises BadEvent."""
    make = _MAKERS.get(name)
    if make is None:
        return Ignored(Reason.EVENT_UNKNOWN, name)
    try:
        said = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvent(str(error)) from None
    return make(said)


def _issues(said: _Said) -> Event | Ignored:
    if said.action not in ISSUE_ACTIONS:
        return Ignored(Reason.ACTION_UNKNOWN, "issues")
    issue = _there(said.issue, "issue")
    with_label = f" ({said.label.name})" if said.action == "labeled" and said.label else ""
    return _about(said, "issues", issue, f"Issue #{issue.number} {said.action}{with_label}", issue.body or "")


def _pull_request(said: _Said) -> Event | Ignored:
    if said.action not in PULL_ACTIONS:
        return Ignored(Reason.ACTION_UNKNOWN, "pull_request")
    pull = _there(said.pull_request, "pull_request")
    what = {
        "synchronize": "has new commits",
        "review_requested": "wants a review",
        "ready_for_review": "is ready for review",
        "closed": "merged" if pull.merged else "closed",
    }.get(said.action, said.action)
    return _about(said, "pull_request", pull, f"Pull request #{pull.number} {what}", pull.body or "")


def _issue_comment(said: _Said) -> Event | Ignored:
    if said.action != "created":
        return Ignored(Reason.ACTION_UNKNOWN, "issue_comment")
    issue, comment = _there(said.issue, "issue"), _there(said.comment, "comment")
    what = "Pull request" if issue.pull_request is not None else "Issue"
    event = _about(said, "issue_comment", issue, f"Comment on {what.lower()} #{issue.number}", comment.body or "")
    return msgspec.structs.replace(
        event,
        at_ms=moment_ms(comment.updated_at or "", "comment.updated_at"),
        facts=(*_facts(said, comment.html_url), ("title", issue.title)),
    )


def _about(said: _Said, name: str, about: _Issue, what: str, text: str) -> Event:
    is_pull = name == "pull_request" or about.pull_request is not None
    branch = about.base.ref if about.base is not None else None
    heads = (("branch", about.head.ref), ("into", about.base.ref)) if about.head and about.base else ()
    labels = tuple(one.name for one in about.labels)
    return Event(
        name,
        f"[{said.origin()}] {what}: {about.title}",
        said.origin(),
        said.action,
        key=f"{'pull' if is_pull else 'issue'}:{about.number}",
        at_ms=moment_ms(about.updated_at or "", "updated_at"),
        branch=branch,
        labels=labels,
        facts=(*_facts(said, about.html_url), *heads, ("labels", ", ".join(labels))),
        text=text,
    )


def _workflow_run(said: _Said) -> Event | Ignored:
    run = _there(said.workflow_run, "workflow_run")
    return _ended(said, "workflow_run", run, run.name or "a workflow", run.html_url)


def _check_suite(said: _Said) -> Event | Ignored:
    suite = _there(said.check_suite, "check_suite")
    app = suite.app.slug or suite.app.name if suite.app is not None else ""
    return _ended(said, "check_suite", suite, app or "checks", suite.html_url or suite.url)


def _ended(said: _Said, name: str, run: _Run, what: str, url: str) -> Event | Ignored:
    """Told once until it passes again."""
    if said.action != "completed":
        return Ignored(Reason.ACTION_UNKNOWN, name)
    if run.conclusion not in FAILED | PASSED:
        return Ignored(Reason.NO_NEWS, name)
    passed = run.conclusion in PASSED
    branch = run.head_branch or ""
    words = "passes again" if passed else "failed" if run.conclusion == "failure" else run.conclusion or ""
    return Event(
        name,
        f"[{said.origin()}] {what} {words}{f' on {branch}' if branch else ''}",
        said.origin(),
        said.action,
        key=f"{name}:{what}:{branch}",
        state=State.RESOLVED if passed else State.OPEN,
        at_ms=moment_ms(run.updated_at or "", "updated_at"),
        branch=branch,
        facts=(*_facts(said, url), ("branch", branch), ("commit", run.head_sha), ("conclusion", run.conclusion or "")),
    )


def _push(said: _Said) -> Event | Ignored:
    if said.deleted:
        return Ignored(Reason.NO_NEWS, "push")
    branch = said.ref.removeprefix(_BRANCH) if said.ref.startswith(_BRANCH) else None
    where = branch if branch is not None else f"the tag {said.ref.removeprefix(_TAG)}"
    many = len(said.commits)
    lines = [f"{one.id[:12]} {one.message.splitlines()[0] if one.message else ''}" for one in said.commits]
    if many > MOST_COMMITS:
        lines = [*lines[:MOST_COMMITS], f"and {many - MOST_COMMITS} more"]
    what = counted(many, "commit") if many else "A push"
    return Event(
        "push",
        f"[{said.origin()}] {what} to {where}{' (forced)' if said.forced else ''}",
        said.origin(),
        key=f"push:{said.ref}",
        branch=branch,
        facts=_facts(said, said.compare),
        text="\n".join(lines),
    )


def _ping(said: _Said) -> Event | Ignored:
    return Event("ping", f"[{said.origin()}] GitHub calls this hook", said.origin(), facts=_facts(said, ""))


_MAKERS: dict[str, Callable[[_Said], Event | Ignored]] = {
    "issues": _issues,
    "pull_request": _pull_request,
    "issue_comment": _issue_comment,
    "workflow_run": _workflow_run,
    "check_suite": _check_suite,
    "push": _push,
    "ping": _ping,
}


def _facts(said: _Said, url: str) -> tuple[tuple[str, str], ...]:
    return (("by", said.by()), ("about", url))


def _there(value: T | None, name: str) -> T:
    if value is None:
        raise BadEvent(f"`{name}` is missing")
    return value
