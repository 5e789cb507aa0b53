"""What a described agent does, tried with a model server of our own: ten points, without an account or a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import msgspec

from agent_mailer.checks.agent_bench import Bench, Tried
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.acp.descriptor import Descriptor, MailBy, UsageOf
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.testing.model_server import Call, Cut, Fail, Say, Silence, Step
from agent_mailer.testing.model_wires import TOKENS_IN, TOKENS_OUT

MARK = "The word of this turn is heliotrope."
_SHELLS = "bash|run_shell_command|shell|terminal|execute_command|run_command"


class How(StrEnum):
    GOOD = "good"
    BAD = "bad"
    NOTED = "noted"
    """Neither: what one has to know of it."""


class Point(msgspec.Struct, frozen=True):
    """`number` is that of the ten points; `what` was tried, `found` is what came of it."""

    number: int
    what: str
    found: str
    how: How


FAILURES: tuple[tuple[str, Step], ...] = (
    ("401", Fail(401, "Incorrect API key provided", "invalid_api_key")),
    ("429", Fail(429, "Rate limit reached", "rate_limit_exceeded")),
    ("quota", Fail(429, "You exceeded your current quota", "insufficient_quota")),
    ("500", Fail(500, "Internal server error")),
    ("404", Fail(404, "The model does not exist", "model_not_found")),
    ("context full", Fail(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded")),
    ("cut stream", Cut()),
    ("silence", Silence()),
)


def points(bench: Bench, descriptor: Descriptor, version: str, tell: Callable[[str], None]) -> Iterator[Point]:
    """One after the other; `tell` hears what is tried next. Raises MailerError, OSError."""
    bypass, plan, edits = (
        PermissionMode.BYPASS_PERMISSIONS,
        PermissionMode.PLAN,
        PermissionMode.ACCEPT_EDITS,
    )
    tell("a first turn")
    first = bench.turn(bypass, _says("The answer.", descriptor), prompt=MARK, lingers=True)
    yield _point(1, "starts, and speaks version 1", first.done, f"{version}, {_how(first)}")
    if not first.done:
        return
    yield _offered(first, descriptor)
    for mode in (plan, edits, bypass):
        if descriptor.modes.of(mode) is not None:
            tell(f"a command in mode {mode.value}")
            yield _command(bench, descriptor, mode)
    tell("a reply")
    if descriptor.mail is MailBy.MCP:
        replied = bench.turn(plan, [Call("reply", {"body": "hello"}), Say("Sent.")])
        yield _point(4, "a reply by its tool, in mode plan", replied.replies == ("hello",), _how(replied))
    else:
        command = "agent-mailer mail reply --body hello"
        replied = bench.turn(plan, [Call(_SHELLS, _told(command)), Say("Sent.")])
        yield _point(4, "a reply by the command, in mode plan", replied.replies == ("hello",), _how(replied))
    yield _usage(replied, descriptor)
    tell(f"failures of its provider: it may be silent for {descriptor.silent_for} s in each")
    failures: list[tuple[str, Step | None]] = [*FAILURES, ("refused", None)]
    for (name, _), tried in zip(failures, bench.failing(bypass, [step for _, step in failures]), strict=True):
        yield _failure(name, tried)
    tell("a stop in the middle of a tool")
    pid = bench.folder / "pid"
    stopped = bench.turn(bypass, [Call(_SHELLS, _told(f"echo $$ > {pid}; exec sleep 600"))], stop_at=pid)
    found = "gone" if not stopped.alive else "it lives on"
    yield _point(7, "stopped in a tool", pid.exists() and not stopped.alive, found if pid.exists() else "no tool ran")
    tell("the session again, in a new process")
    yield _resumed(bench, first, descriptor)
    left = f"{first.left} processes" if first.left else "nothing"
    note = f"{left}; what is left is ended with the turn" if first.left else left
    yield Point(9, "alive 2 seconds after its end", note, How.NOTED if first.left else How.GOOD)
    yield Point(10, "names that it asks for", "not looked at: that takes a network of its own", How.NOTED)


def _point(number: int, what: str, good: bool, found: str) -> Point:  # noqa: FBT001 - it reads as it is
    return Point(number, what, found, How.GOOD if good else How.BAD)


def _how(tried: Tried) -> str:
    if tried.judgement is None:
        return f"silent for {tried.seconds:.0f} s"
    detail = printable(tried.judgement.detail, 80)
    return f"{tried.judgement.outcome} after {tried.seconds:.1f} s" + (f": {detail}" if detail else "")


def _offered(first: Tried, descriptor: Descriptor) -> Point:
    """Read from what the model was asked, not from what the agent says."""
    tools = next((asked.tools for asked in first.asked if asked.tools), ())
    mail = [name for name in tools if name.endswith("reply")]
    if descriptor.mail is MailBy.COMMANDS:
        return Point(2, "mail tools that its model sees", "by the commands", How.NOTED)
    return _point(2, "mail tools that its model sees", bool(mail), ", ".join(mail) or f"none of {len(tools)} tools")


def _says(text: str, descriptor: Descriptor) -> Sequence[Step]:
    """Its model's words, and what it does where it is asked whether these were all."""
    if descriptor.usage is not UsageOf.NONE:
        return [Say(text)]
    by_tool = descriptor.mail is MailBy.MCP
    return [Say(text), Call("finish") if by_tool else Call(_SHELLS, _told("agent-mailer mail finish")), Say("Yes.")]


def _told(command: str) -> dict[str, object]:
    return {"command": command, "description": "a try"}


def _command(bench: Bench, descriptor: Descriptor, mode: PermissionMode) -> Point:
    """A shell command: everything may run it, plan must not."""
    file = bench.work / f"ran-{mode.value}"
    tried = bench.turn(mode, [Call(_SHELLS, _told(f"touch {file}")), *_says("Did it.", descriptor)])
    ran = file.exists()
    found = f"{'it ran' if ran else 'it did not run'}, {_how(tried)}"
    if mode is PermissionMode.ACCEPT_EDITS:
        return Point(3, f"a shell command in mode {mode.value}", found, How.NOTED)
    wanted = mode is PermissionMode.BYPASS_PERMISSIONS
    return _point(3, f"a shell command in mode {mode.value}", ran is wanted, found)


def _usage(replied: Tried, descriptor: Descriptor) -> Point:
    """Of a turn with two requests: both of them, one, or nothing."""
    requests = sum(1 for asked in replied.asked if asked.tools)
    usage = replied.seen.usage
    whole = usage is not None and usage.input_tokens + usage.output_tokens == requests * (TOKENS_IN + TOKENS_OUT)
    if usage is None:
        found, good = "none", descriptor.usage is UsageOf.NONE
    elif whole:
        found, good = f"of all {requests} requests", descriptor.usage is not UsageOf.NONE
    else:
        found = f"{usage.input_tokens} + {usage.output_tokens} tokens for {requests} requests"
        good = descriptor.usage is UsageOf.LAST
        if descriptor.usage is UsageOf.REQUESTS:
            return Point(5, f"usage, described as {descriptor.usage.value}", found, How.NOTED)
    return _point(5, f"usage, described as {descriptor.usage.value}", good, found)


def _failure(name: str, tried: Tried) -> Point:
    """Never done. Silence is ended by the descriptor's own patience, an outage; who talks on is ended by the turn's."""
    if tried.judgement is None:
        return Point(6, f"provider: {name}", f"no end after {tried.seconds:.0f} s, and not silent", How.NOTED)
    return _point(6, f"provider: {name}", not tried.judgement.outcome.settles, _how(tried))


def _resumed(bench: Bench, first: Tried, descriptor: Descriptor) -> Point:
    what = "its session in a new process"
    if descriptor.resume == "never":
        return Point(8, what, "not taken up, as it is described", How.NOTED)
    again = bench.turn(PermissionMode.PLAN, [Say("Again.")], session=first.seen.session_id)
    held = any(MARK in asked.text for asked in again.asked)
    if again.judgement is not None and again.judgement.outcome is Outcome.SESSION_LOST:
        return Point(8, what, _how(again), How.BAD)
    return _point(8, what, held, "its model hears the first turn" if held else f"nothing of it, {_how(again)}")
