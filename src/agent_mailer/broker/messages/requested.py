"""From what a request says, however it was read, to what is to be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from fastapi import Request

from agent_mailer.broker.answers import encode
from agent_mailer.broker.callers import settings_of
from agent_mailer.broker.data import Settings
from agent_mailer.broker.leases import Fence
from agent_mailer.broker.messages.forms import MOST_ATTACHMENT_BYTES, idempotency_key
from agent_mailer.broker.messages.sending import check_size
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import fence_of
from agent_mailer.groups import taken_by_one


class Sending(Protocol):
    """What a send says, however it was read."""

    @property
    def to_agent(self) -> str | list[str]: ...

    @property
    def action(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def body(self) -> str: ...

    @property
    def attachments(self) -> Sequence[Any]: ...

    @property
    def parent_id(self) -> str | None: ...

    @property
    def forward_scope(self) -> str | None: ...

    @property
    def thread_id(self) -> str | None: ...

    @property
    def hops(self) -> int: ...

    @property
    def automatic(self) -> str: ...

    @property
    def priority(self) -> str: ...

    @property
    def kind(self) -> str | None: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def one_of(self) -> str | None: ...

    @property
    def visited(self) -> Sequence[str]: ...


def submission_of(request: Request, form: Sending, *, sender: tuple[str, str, str], bound: bool) -> Submission:
    """What is to be stored; `sender` is its user's id, its id and its address. Raises Fault 400, 413, 422."""
    asked = submission_with(settings_of(request), form, sender=sender, bound=bound, key=None, fence=None)
    return msgspec.structs.replace(asked, key=idempotency_key(request), fence=fence_of(request))


def submission_with(
    settings: Settings,
    form: Sending,
    *,
    sender: tuple[str, str, str],
    bound: bool,
    key: str | None,
    fence: Fence | None,
) -> Submission:
    """The same of one whose key and hold of the agent are known. Raises Fault 400, 413."""
    longest = settings.max_body_bytes
    check_size(len(form.body.encode()), longest)
    if form.attachments and len(encode(form.attachments)) > MOST_ATTACHMENT_BYTES:
        raise Fault(413, f"Attachments too large. Maximum: {MOST_ATTACHMENT_BYTES} bytes of JSON")
    if form.one_of and not taken_by_one(form.labels):
        raise Fault(400, "one_of is only allowed with the label one-of:GROUP")
    user_id, agent_id, address = sender
    new = NewMessage(
        from_agent=address,
        to=(form.to_agent,) if isinstance(form.to_agent, str) else tuple(form.to_agent),
        action=form.action,
        subject=form.subject,
        body=form.body,
        attachments=tuple(form.attachments),
        parent_id=form.parent_id or None,
        forward_scope=form.forward_scope,
        thread_id=form.thread_id,
        hops=form.hops,
        automatic=form.automatic,
        priority=form.priority,
        kind=form.kind,
        labels=tuple(form.labels),
        visited=tuple(form.visited),
        one_of=form.one_of or "",
    )
    return Submission(new, user_id, agent_id, bound, key, longest, settings.quota, fence)
