"""What a turn may ask a person, what it is told of his answers, and what becomes of both at its end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.approvals.calls import Call, rule_of, shown
from agent_mailer.approvals.edits import EDITS
from agent_mailer.approvals.turn import Told, TurnApprovals, Word
from agent_mailer.events import EventName
from agent_mailer.names import printable
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.reservations.hook import argv_for
from agent_mailer.runtimes.port import Asking
from agent_mailer.state import State
from agent_mailer.state.approvals import Answer, Approval, By, Verdict, id_of
from agent_mailer.state.records import RetryEntry, Settlement, TurnRecord
from agent_mailer.watch.rules import ApprovePolicy

MOST_CARRIED = 20
"""Answers that a message's next turns are told of."""

_WORDS = {
    Word.ALLOW: "allowed, once: call it again exactly as before, and it runs",
    Word.DENY: "denied: do not try it again",
    Word.EXPIRED: "nobody has answered in time: go on without it",
    Word.UNKNOWN: "it was allowed and begun, and nobody knows what came of it: look before you ask again",
}
_CHANGED = (
    "allowed with a change: call it again exactly as before, and what the person chose runs instead, "
    "or you are told to call that"
)


# At a turn's start.


def approvals_of(state: State, policy: ApprovePolicy, record: TurnRecord) -> TurnApprovals:
    """What the turn is told. What it may use up is durably its own from here on (I10). Raises OSError."""
    asked = record.rerun.asked if record.rerun is not None else ()
    told = [state.approvals.grant(one, record.turn_id) for one in asked]
    return TurnApprovals(
        rules=policy.rules,
        refused=policy.refused,
        # The program heeds a hook's yes beyond its plan mode, too.
        always=tuple(one.digest for one in state.approvals.standing()) if policy.asks and not policy.forbidden else (),
        told=tuple(one for one in told if one is not None),
        edits=policy.edits,
        forbidden=policy.forbidden or (ONLY_ALONE if record.batch else ""),
    )


ONLY_ALONE = "A person has to allow this. He can be asked when a message is handed over alone: go on without it here."


def asking_of(approvals: TurnApprovals, directory: Path, isolated: str) -> Asking:
    """How the program asks. `isolated`: how our Python is started."""
    argv = (sys.executable, isolated, "-m", "agent_mailer.approvals.hook", str(directory))
    edits = EDITS if approvals.edits else ()
    named = (*(rule_of(one).tool for one in approvals.rules), *(one.tool for one in approvals.told))
    asks = approvals.refused or bool(named) or bool(approvals.always)
    around = argv_for(directory) if approvals.edits else ()
    return Asking(argv, tuple(dict.fromkeys((*edits, *named))), refusals=asks, around=around)


def goes_on_by_itself(approvals: TurnApprovals, rerun: RetryEntry | None, resume: str | None) -> bool:
    """Whether the call that was asked about is pending in the session, so that no prompt may come before it: that
    would destroy it.
    """
    if rerun is None or rerun.by_prompt or resume is None or len(approvals.told) != 1:
        return False
    same = rerun.provisional is not None and rerun.provisional.session_id == resume
    return same and bool(approvals.told[0].call_id)


def as_words(told: Sequence[Told]) -> str:
    """For the prompt; nothing where nothing was answered. The acts themselves stand in the turn's folder."""
    if not told:
        return ""
    lines = "\n".join(f"- {shown(Call(one.tool, one.input), 500)}\n  {_word(one)}" for one in told)
    return f"\nWhat a person was asked for you is answered:\n{lines}\n"


def _word(one: Told) -> str:
    if one.word is Word.ALLOW and one.changed:
        return _CHANGED
    return f"{_WORDS[one.word]} ({one.reason})" if one.reason else _WORDS[one.word]


# At its end. Pure.


def judge_asking(
    judgement: Judgement,
    deferred: Call | None,
    left: Sequence[Call],
    said: str,
    rerun: RetryEntry | None,
    *,
    shared: bool,
) -> tuple[Judgement, tuple[Call, ...]]:
    """A turn that left questions waits for a person, whatever its last words are: they are no answer. One that failed
    has asked nothing: it is run again, and asks again. Of several messages each is asked about by itself.
    """
    if judgement.outcome not in (Outcome.ASKED, Outcome.DONE, Outcome.BLOCKED):
        return judgement, ()
    found: dict[str, Call] = {}
    for call in ((deferred,) if deferred is not None and judgement.outcome is Outcome.ASKED else ()) + tuple(left):
        found.setdefault(call.digest, call if call.why else msgspec.structs.replace(call, why=said))
    if shared:
        return Judgement(Outcome.INTERRUPTED, "a person has to be asked, of one message at a time"), ()
    if found:
        tools = ", ".join(dict.fromkeys(printable(call.tool, 60) for call in found.values()))
        asks = msgspec.structs.replace(judgement, outcome=Outcome.ASKED, detail=f"asks a person: {tools}")
        return asks, tuple(found.values())
    if judgement.outcome is Outcome.ASKED and (rerun is None or not rerun.asked or rerun.by_prompt):
        return msgspec.structs.replace(judgement, outcome=Outcome.FAILED, detail="it asks, and not for what"), ()
    return judgement, ()


def carried(entry: RetryEntry, rerun: RetryEntry | None, settlement: Settlement, turn_id: str) -> RetryEntry:
    """What of questions and answers a message's next turn has to know."""
    before = rerun.asked if rerun is not None else ()
    new = tuple(id_of(turn_id, call) for call in settlement.asked)
    if new:
        before = tuple(one for one in before if one not in settlement.used)
    by_prompt = not new and (settlement.outcome is Outcome.ASKED or (rerun is not None and rerun.by_prompt))
    asked = tuple(dict.fromkeys((*before, *new)))[-MOST_CARRIED:]
    return msgspec.structs.replace(entry, asked=asked, by_prompt=by_prompt) if asked else entry


def apply(state: State, record: TurnRecord, settlement: Settlement) -> None:
    """Idempotent. Raises OSError."""
    book, envelope = state.approvals, record.envelope
    if record.rerun is not None and record.rerun.asked:
        book.ended(record.rerun.asked, record.turn_id, settlement.used, over=settlement.finished)
    if not settlement.asked:
        return
    book.ask(
        Approval(
            id=id_of(record.turn_id, call),
            code="",
            call=call,
            digest=call.digest,
            turn_id=record.turn_id,
            message_id=envelope.id,
            thread=envelope.thread,
            sender=envelope.sender,
            folder=str(state.folder.workdir),
            asked_at=settlement.decided_at,
            expires_at=settlement.asked_until,
        )
        for call in settlement.asked
    )
    standing = {one.digest for one in book.standing()}
    for call in settlement.asked:
        question = id_of(record.turn_id, call)
        if call.digest in standing and (known := book.get(question)) is not None:
            # A program that asks by itself asks about what a person has allowed for good, too.
            book.answer(known, Answer(Verdict.ALLOW, settlement.decided_at, By.STANDING))
            continue
        state.log.emit(
            EventName.APPROVAL_ASKED,
            turn_id=record.turn_id,
            message_id=envelope.id,
            thread=envelope.thread,
            question=question,
            tool=call.tool,
        )
