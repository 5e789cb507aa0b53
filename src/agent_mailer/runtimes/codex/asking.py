"""How codex asks a person: hooks of ours on its command line, and no other word that could stand in for his. Pure.

In `codex exec` nothing is asked, but where approvals have a reviewer that is no person: then a hook on
`PermissionRequest` is heard first, and its word is final. Where it says nothing a model would decide: that one is given
no time, and what it has not allowed by then is refused. A hook that codex does not know by its hash it skips without a
word, so it is told the hash of ours: that trusts these alone, where `--dangerously-bypass-hook-trust` would trust
whatever else is there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent_mailer.runtimes.codex.policy import toml
from agent_mailer.runtimes.port import Asking

SINCE = (0, 171, 0)
"""The oldest version that was seen to ask so, and to refuse where nobody answers."""

_FLAGS = "/<session-flags>/config.toml"
"""What codex calls the command line, where it says which hook it means."""

_LABELS = {
    "PreToolUse": "pre_tool_use",
    "PostToolUse": "post_tool_use",
    "PermissionRequest": "permission_request",
    "SessionStart": "session_start",
}
_SHELL = "^Bash$"
"""What codex calls a shell command where it speaks to hooks."""

# A hook that codex ends for its time lets a tool run, so it never does: one that hangs is ended with its turn, by the
# clocks of that.
_FOR_EVER = 7 * 24 * 3600

# Any other end than a good one denies; so does a hook that is not there.
_OR_DENY = '"$@" || { echo "agent-mailer was not able to answer" >&2; exit 2; }'

_ANY = re.compile(r"[^A-Za-z0-9_]")

# Who reviews was chosen by hand.
_BY_HAND = re.compile(r"--approve-for-me|((--config=|-c)?(approval_policy|approvals_reviewer)\s*=.*)", re.DOTALL)

_STOPS = """echo '{"continue":false,"stopReason":"heard"}'"""
_NOWHERE = "agent_mailer_nowhere"
_NO_PROVIDER = '{name="nowhere",base_url="http://127.0.0.1:9/v1",request_max_retries=0,stream_max_retries=0}'
_HEARD = '"turn.completed"'


def asking_words(asking: Asking, extra: Sequence[str], *, refuses: bool) -> Iterator[str]:
    """`refuses`: codex itself keeps something from the turn, which a person can allow. They stand behind all others:
    of a setting that is given twice the last counts.
    """
    command = shlex.join(["/bin/sh", "-c", _OR_DENY, "sh", *asking.hook, "codex"])
    hooks = [("PreToolUse", _matcher(asking.tools), command)] if asking.tools else []
    if refuses and not any(_BY_HAND.fullmatch(word) for word in extra):
        hooks.append(("PermissionRequest", "*", command))
        yield from ("-c", "approval_policy=on-request", "-c", "approvals_reviewer=auto_review")
        yield from ("-c", "auto_review.timeout_ms=1")
    if asking.around:
        hooks += [(event, _SHELL, shlex.join(asking.around)) for event in ("PreToolUse", "PostToolUse")]
    yield from _hook_words(hooks)


def trial(program: str, quiet: Sequence[str], extra: Sequence[str], workdir: Path) -> tuple[str, ...]:
    """A start in which a hook ends the session before any model is asked, where it is heard: there is no provider."""
    alone = ("exec", "--ephemeral", "--ignore-user-config", "-s", "read-only", "-C", str(workdir))
    nowhere = ("-c", f"model_provider={_NOWHERE}", "-c", f"model_providers.{_NOWHERE}={_NO_PROVIDER}")
    hook = _hook_words([("SessionStart", "*", _STOPS)])
    return (program, *quiet, *alone, *extra, *nowhere, *hook, "--json", "--skip-git-repo-check", "--", "trial")


def heard(output: str) -> bool:
    return _HEARD in output


def _hook_words(hooks: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """`hooks`: event, matcher and shell command of each."""
    states = []
    for event in dict.fromkeys(event for event, _, _ in hooks):
        groups = []
        for place, (matcher, command) in enumerate((m, c) for one, m, c in hooks if one == event):
            handler = f'{{type="command",command={toml(command)},timeout={_FOR_EVER}}}'
            groups.append(f"{{matcher={toml(matcher)},hooks=[{handler}]}}")
            known = f"trusted_hash={toml(_hash(event, matcher, command))},enabled=true"
            states.append(f'"{_FLAGS}:{_LABELS[event]}:{place}:0"={{{known}}}')
        yield from ("-c", f"hooks.{event}=[{','.join(groups)}]")
    if states:
        yield from ("-c", "features.hooks=true", "-c", f"hooks.state={{{','.join(states)}}}")


def _hash(event: str, matcher: str, command: str) -> str:
    """As codex makes it: of the hook with every default said, as JSON in one form."""
    handler = {"type": "command", "command": command, "timeout": _FOR_EVER, "async": False}
    known = {"event_name": _LABELS[event], "matcher": matcher, "hooks": [handler]}
    text = json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _matcher(tools: Sequence[str]) -> str:
    """Of several names an expression; where one is a glob it is asked for all, and the hook decides."""
    return "*" if any(_ANY.search(name) for name in tools) else f"^({'|'.join(tools)})$"
