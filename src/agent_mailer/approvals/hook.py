"""What an agent program runs before a tool of its own does: it asks whether the call may be, and gets one word.

`python -m agent_mailer.approvals.hook TURN_FOLDER [codex]`: the program's JSON on standard input, the answer on its
output. Whatever goes wrong here, the call is denied. That an answer is used up is durable before it is said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TextIO

import msgspec

from agent_mailer.approvals.calls import Call, call_of, is_named
from agent_mailer.approvals.edits import note_edits, why_not
from agent_mailer.approvals.turn import SIGN, Told, TurnApprovals, Word, ask, defer_first, let_through, read, use_up
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.turn_tools import anchor_turn

PRE = "PreToolUse"
REQUEST = "PermissionRequest"
START = "SessionStart"

_LARGEST = 64 * 1024 * 1024
ASKED = (
    "A person is asked by mail and has not answered yet. Go on with other work, or end your turn; do not try it again."
)
ONE_AT_A_TIME = "One question at a time: a person is asked about another call. Ask again after the answer."
FROM_THE_MAIN_AGENT = "A person has to allow this, and only the main agent can ask: call it from there."
TOO_MANY = "This turn has asked a person too often. Go on without, or end your turn."
TOO_LARGE = "A person has to allow this, and its input is too large to be asked about."
UNKNOWN = (
    "A person had allowed this once, and it was begun: what came of it is not known. Look whether it was done; "
    "to do it again a person must be asked again in another turn."
)
ALREADY = (
    "A person had allowed this once, and in this turn it has been run: look at what it has done. To do it again a "
    "person must be asked again in another turn."
)
DENIED = "A person has denied this"
INSTEAD = "A person has allowed something else instead, once. Call exactly this, in the same way: "
NOT_ASKED = "This is not allowed, and nobody is asked about it. Go on without it."
EXPIRED = "A person was asked, and nobody has answered in time. Go on without it."


class Step(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    DEFER = "defer"
    SILENCE = "silence"
    """The program's own rules decide."""


class Dialect(StrEnum):
    """Which program listens. Codex leaves no call pending and changes none; it is heard before a tool only where it is
    told no, and again where the call goes beyond its sandbox; where nothing is said then, a model decides.
    """

    CLAUDE = "claude"
    CODEX = "codex"


class Decision(msgspec.Struct, frozen=True):
    """`use`: the answer that has to be used up first; with `again` the same call was heard, and has used it up, before.
    `ask`: what a person has to be asked, by mail, first.
    """

    step: Step
    why: str = ""
    use: str = ""
    changed: str = ""
    ask: bool = False
    again: bool = False


def before_a_tool(approvals: TurnApprovals, call: Call, *, sub_agent: bool) -> Decision:
    """Pure: what is said to any call, before the program's own rules. A call that has to be asked is left pending."""
    pending = approvals.pending(call.call_id)
    if pending is not None and pending.digest == call.digest:
        return _here(approvals, _as_told(pending))
    if not is_named(approvals.rules, call):
        return Decision(Step.SILENCE)
    if (known := _known(approvals, call)) is not None:
        return known
    if approvals.forbidden:
        return Decision(Step.DENY, approvals.forbidden)
    if sub_agent:
        return Decision(Step.DENY, FROM_THE_MAIN_AGENT)
    return Decision(Step.DEFER)


def instead_of_a_refusal(approvals: TurnApprovals, call: Call, *, sub_agent: bool) -> Decision:
    """Pure: what is said to a call that the program's mode would refuse."""
    if (known := _known(approvals, call)) is not None:
        return known
    if approvals.forbidden:
        return Decision(Step.DENY, approvals.forbidden)
    if sub_agent:
        return Decision(Step.DENY, FROM_THE_MAIN_AGENT)
    if not approvals.refused and not is_named(approvals.rules, call):
        return Decision(Step.SILENCE)
    return Decision(Step.DENY, ASKED, ask=True)


def in_codex(event: str, approvals: TurnApprovals, call: Call, *, sub_agent: bool) -> Decision:
    """Pure: the same in the words that codex has, which are fewer. What it cannot do is denied, and said."""
    told = approvals.about(call.digest)
    heard_before = is_named(approvals.rules, call) or (told is not None and call.digest == told.chosen)
    if event == PRE and not heard_before:
        return Decision(Step.SILENCE)
    decision = instead_of_a_refusal(approvals, call, sub_agent=sub_agent)
    if decision.step is Step.SILENCE:
        return Decision(Step.DENY, NOT_ASKED)
    if decision.step is not Step.ALLOW or told is None or not decision.use:
        return decision
    if told.changed and call.digest != told.chosen:
        return Decision(Step.DENY, INSTEAD + Call(told.tool, told.changed).act)
    return Decision(Step.ALLOW, use=decision.use, again=event == REQUEST and heard_before)


def _known(approvals: TurnApprovals, call: Call) -> Decision | None:
    if call.digest in approvals.always:
        return Decision(Step.ALLOW)
    told = approvals.about(call.digest)
    if told is not None and told.call_id and told.word is Word.ALLOW:
        # The yes is for the call that was pending, which came first: of several at once its result may be lost.
        return Decision(Step.DENY, ALREADY)
    return _here(approvals, _as_told(told)) if told is not None else None


def _here(approvals: TurnApprovals, decision: Decision) -> Decision:
    """A yes of before is kept, and not used up, where nothing may be asked: it would do more than this turn's mode."""
    if decision.step is Step.ALLOW and approvals.forbidden:
        return Decision(Step.DENY, approvals.forbidden)
    return decision


def _as_told(told: Told) -> Decision:
    match told.word:
        case Word.ALLOW:
            return Decision(Step.ALLOW, use=told.id, changed=told.changed)
        case Word.DENY:
            return Decision(Step.DENY, f"{DENIED}: {told.reason}" if told.reason else f"{DENIED}.")
        case Word.EXPIRED:
            return Decision(Step.DENY, EXPIRED)
        case Word.UNKNOWN:
            return Decision(Step.DENY, UNKNOWN)


def carry_out(disk: Disk, directory: Path, call: Call, decision: Decision) -> Decision:
    """Leave what has to be durable, and find out whether it was there before. Raises OSError: nothing may be done."""
    if decision.use and not (let_through if decision.again else use_up)(disk, directory, decision.use):
        return Decision(Step.DENY, UNKNOWN)
    if decision.ask and not ask(disk, directory, call):
        return Decision(Step.DENY, TOO_MANY)
    if decision.step is Step.DEFER and not defer_first(disk, directory):
        return Decision(Step.DENY, ONE_AT_A_TIME)
    return decision


def answer(
    disk: Disk, directory: Path, event: str, fields: Mapping[str, object], dialect: Dialect = Dialect.CLAUDE
) -> Decision:
    """Raises OSError and ValueError: denied."""
    approvals = read(directory)
    if event == PRE and approvals.edits:
        if why := why_not(directory, fields):
            return Decision(Step.DENY, why)
        note_edits(disk, directory, fields)
    call = (_codex_call if dialect is Dialect.CODEX else _claude_call)(fields)
    sub_agent = bool(fields.get("agent_id"))
    if call is None:
        named = event == REQUEST or bool(approvals.rules)
        return Decision(Step.DENY, TOO_LARGE) if named else Decision(Step.SILENCE)
    if event not in (PRE, REQUEST):
        return Decision(Step.DENY, f"nothing is known of {event}")
    if dialect is Dialect.CODEX:
        decision = in_codex(event, approvals, call, sub_agent=sub_agent)
    elif event == PRE:
        decision = before_a_tool(approvals, call, sub_agent=sub_agent)
    else:
        decision = instead_of_a_refusal(approvals, call, sub_agent=sub_agent)
    if dialect is Dialect.CLAUDE and decision.step is Step.ALLOW and not decision.changed:
        # Said word for word: another hook may have it rewritten, and then something else would run than was allowed.
        decision = msgspec.structs.replace(decision, changed=call.input)
    return carry_out(disk, directory, call, decision)


def _claude_call(fields: Mapping[str, object]) -> Call | None:
    return call_of(_text(fields, "tool_name"), fields.get("tool_input"), call_id=_text(fields, "tool_use_id"))


def _codex_call(fields: Mapping[str, object]) -> Call | None:
    """Nothing is pending in codex; and one patch has a line end before the tool, and none where it is asked about."""
    given = fields.get("tool_input")
    if isinstance(given, dict) and isinstance(given.get("command"), str):
        given = {**given, "command": given["command"].rstrip("\n")}
    return call_of(
        _text(fields, "tool_name"), given, why=_text(given, "description") if isinstance(given, dict) else ""
    )


def as_json(event: str, decision: Decision, dialect: Dialect = Dialect.CLAUDE) -> str:
    """The program's own form; nothing where nothing is said. Codex takes no yes before a tool: a no is all it hears."""
    if decision.step is Step.SILENCE or (dialect is Dialect.CODEX and event == PRE and decision.step is Step.ALLOW):
        return ""
    said: dict[str, object] = {"hookEventName": event}
    if event == PRE:
        said["permissionDecision"] = decision.step.value
        said["permissionDecisionReason"] = decision.why or decision.step.value
        if decision.changed:
            said["updatedInput"] = json.loads(decision.changed)
    else:
        behaviour: dict[str, object] = {"behavior": decision.step.value}
        if decision.step is Step.DENY:
            behaviour["message"] = decision.why
        if decision.changed:
            behaviour["updatedInput"] = json.loads(decision.changed)
        said["decision"] = behaviour
    return json.dumps({"hookSpecificOutput": said})


def run(directory: Path, stdin: TextIO, stdout: TextIO, dialect: Dialect = Dialect.CLAUDE) -> None:
    """Say one word. What cannot be decided is denied."""
    event = PRE
    try:
        fields = json.loads(stdin.read(_LARGEST))
        event = str(fields["hook_event_name"])
        if event == START:
            read(directory)
            stdout.write(json.dumps({"suppressOutput": True, "systemMessage": SIGN}))
            return
        decision = answer(Disk(), directory, event, fields, dialect)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MailerError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        decision = Decision(Step.DENY, f"agent-mailer cannot tell whether this may be: {why}")
    stdout.write(as_json(event, decision, dialect))
    stdout.flush()


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def main() -> int:
    """Status 2 is a program's own sign that a hook denies."""
    directory = Path(sys.argv[1])
    anchor_turn(directory)
    try:
        run(directory, sys.stdin, sys.stdout, Dialect((*sys.argv[2:], Dialect.CLAUDE)[0]))
    except BaseException:
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
