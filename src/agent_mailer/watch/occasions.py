"""What is worth a word to a person, and when: from what happened to a notice. Pure."""

from __future__ import annotations

import msgspec

from agent_mailer.outcomes import Outcome
from agent_mailer.state.approvals import id_of
from agent_mailer.state.notices import Notice, NoticeKind, Trouble, TroubleWith
from agent_mailer.state.records import Pause, PauseReason, Settlement, TurnRecord
from agent_mailer.state.stuck import StuckKind, unsent_of
from agent_mailer.watch.guards.alarm import WISHED

SHORT_PAUSE = 60.0
"""A limit or an outage that is over at the first probe is not worth a word."""

MANY = "many"
"""The reason of a notice that stands for many questions."""


def of_settlement(record: TurnRecord, settlement: Settlement) -> Notice | None:
    """What a settled turn has to tell a person, if anything."""
    if settlement.dead is not None:
        kind, attempts = NoticeKind.DEAD_LETTER, settlement.dead.retries + 1
    elif settlement.outcome is Outcome.BLOCKED:
        kind, attempts = NoticeKind.BLOCKED, 0
    else:
        return None
    notice = _of(record, kind, settlement.decided_at, settlement.outcome.value)
    return msgspec.structs.replace(notice, attempts=attempts)


def of_questions(record: TurnRecord, settlement: Settlement) -> list[Notice]:
    """What it asks a person. The notice names a question; what it is, whoever tells of it looks up."""
    notice = _of(record, NoticeKind.APPROVAL, settlement.decided_at, "asked")
    return [
        msgspec.structs.replace(
            notice, id=f"{NoticeKind.APPROVAL}-{question}", until=settlement.asked_until, question=question
        )
        for question in (id_of(record.turn_id, call) for call in settlement.asked)
    ]


def of_unsent(record: TurnRecord, settlement: Settlement) -> Notice | None:
    """That something of it did not leave, where that is so. What is stuck is named by itself, not by its turn."""
    unsent = unsent_of(record)
    if not unsent:
        return None
    notice = _of(record, NoticeKind.STUCK, settlement.decided_at, StuckKind.NOT_SENT.value)
    return msgspec.structs.replace(notice, turn_id="", stuck=unsent[0])


def of_touched(record: TurnRecord, settlement: Settlement) -> Notice | None:
    """That files which others have reserved changed while it ran, where that is so. The record says which."""
    if not settlement.touched:
        return None
    return _of(record, NoticeKind.RESERVED, settlement.decided_at, "changed")


def of_documents(record: TurnRecord, now: float) -> Notice:
    """That files which tell agents what to do changed while this turn ran."""
    return _of(record, NoticeKind.INSTRUCTIONS, now, "changed")


def _of(record: TurnRecord, kind: NoticeKind, at: float, reason: str) -> Notice:
    envelope = record.envelope
    return Notice(
        id=f"{kind}-{record.turn_id}",
        kind=kind,
        at=at,
        reason=reason,
        turn_id=record.turn_id,
        message_id=envelope.id,
        thread=envelope.thread,
        sender=envelope.sender,
    )


def worth_telling(pause: Pause) -> bool:
    """Whether a person is told of it now. One by hand has a hand that knows; one met elsewhere is told there."""
    if pause.reason in WISHED or pause.elsewhere:
        return False
    if pause.reason is PauseReason.SIGNED_OUT or pause.until is None:
        return True
    return pause.probes > 0 or pause.until - pause.since > SHORT_PAUSE


def lasts_from(trouble: Trouble, after: float) -> float:
    """The moment from which it counts as lasting. A key that is refused mends itself as rarely as a lost login."""
    return trouble.since + (0.0 if trouble.what is TroubleWith.CREDENTIALS else after)
