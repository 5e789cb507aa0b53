"""A turn's end becomes its settlement record. Pure: the record holds every decision, applying it is elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from agent_mailer.approvals.calls import Call
from agent_mailer.clock import iso
from agent_mailer.mailbox.port import Action, Automatic, Draft, Kind, Message, Outgoing, Refused
from agent_mailer.names import printable, prompt_word
from agent_mailer.outcomes import AutoReply, Judgement, Outcome
from agent_mailer.reservations.port import Touched
from agent_mailer.reservations.touched import told
from agent_mailer.runtimes.port import Observation, Usage
from agent_mailer.state.records import (
    AfterStop,
    Attempt,
    ItemState,
    Pause,
    Provisional,
    RetryEntry,
    SessionChange,
    SessionEntry,
    SettledItem,
    Settlement,
    StopAsked,
    TurnRecord,
)
from agent_mailer.turn_tools.folder import FinishKind, Sealed
from agent_mailer.watch.asking import carried, judge_asking
from agent_mailer.watch.given_up import letter_of, words_of_giving_up
from agent_mailer.watch.probes import decide_pause, is_a_start
from agent_mailer.watch.rules import RetryDecision, Step, WatchPolicy, decide_retry

Compose = Callable[[Draft, Message | None, str], Sequence[Outgoing] | Refused]

HISTORY_KEPT = 20
MAX_WORDS = 256 * 1024
"""Bytes of an agent's final words that are sent."""

REST_GONE = "the rest is not kept (keep_transcripts = 0)"


class TurnEnd(msgspec.Struct, frozen=True):
    """All that a settlement is decided from. `answered`: the thread shows a message of ours since the claim."""

    record: TurnRecord
    origin: Message
    judgement: Judgement
    observation: Observation
    sealed: Sealed
    resumes: bool
    session: SessionEntry | None
    pause: Pause | None
    transcript_bytes: int
    answered: bool
    ended: float
    """Which may be long before `now`."""
    now: float
    jitter: float
    stop: StopAsked | None = None
    address: str = ""
    """The agent's own."""
    shared: bool = False
    """The turn was handed several messages; `mark` tells what is written for this one from what is for the others."""
    mark: str = ""
    earlier: tuple[Draft, ...] = ()
    """What an earlier turn of the message had staged: it counts where this one has staged nothing."""
    left_asked: tuple[Call, ...] = ()
    """What the agent program's hook has left to be asked of a person."""
    used_up: frozenset[str] = frozenset()
    """Answers of a person that the turn has used up."""
    touched: tuple[Touched, ...] = ()
    went_through: float = 0.0
    """When a turn last ended otherwise than in a pause, as far as this watcher knows."""

    def then(self, outcome: Outcome) -> AfterStop | None:
        """What a person wants instead of a retry. A turn that ended well in spite of him has ended well."""
        asked = self.stop is not None and self.stop.then is not AfterStop.RETRY and not outcome.settles
        return self.stop.then if asked and self.stop is not None else None


def decide_settlement(end: TurnEnd, policy: WatchPolicy, compose: Compose) -> Settlement:
    """The one record of SPEC section 5."""
    judgement = _stopped(end, _with_finish_note(end, _once_lost(end)))
    record, rerun = end.record, end.record.rerun
    asked: tuple[Call, ...] = ()
    if judgement.outcome is Outcome.ASKED or end.left_asked:
        deferred = end.observation.result.asked if end.observation.result is not None else None
        left, said = end.left_asked, end.observation.progress
        judgement, asked = judge_asking(judgement, deferred, left, said, rerun, shared=end.shared)
    attempts = rerun.attempts if rerun else 0
    pauses = judgement.outcome.pauses
    ran = record.process is not None and judgement.outcome is not Outcome.ASKED
    if ran and pauses:
        ran = is_a_start(judgement, rerun, worked=end.observation.worked, went_through=end.went_through)
    starts = record.starts if ran else record.starts - 1
    decision = decide_retry(
        judgement.outcome, attempts=attempts, starts=starts, now=end.now, policy=policy, jitter=end.jitter
    )
    then = end.then(judgement.outcome)
    if then is not None:
        decision = RetryDecision(Step.SETTLE, attempts)
    elif end.shared and decision.step is Step.GIVE_UP:
        # Whose fault it was, a turn of its own shows.
        decision = RetryDecision(Step.RETRY, decision.attempts, end.now)
    live = record.live is not None and record.process is not None
    attempt = Attempt(record.turn_id, judgement.outcome, printable(judgement.detail, 600), end.now, live)
    history = (*(rerun.history if rerun else ()), attempt)[-HISTORY_KEPT:]
    drafts = _drafts(end, judgement, decision.step, decision.why, policy)
    if end.touched:
        drafts = told(drafts, end.touched, end.address, record.turn_id, end.now, holders=not end.mark)
    items = tuple(item for draft in drafts for item in _items(draft, end, compose))
    if decision.step is Step.GIVE_UP or then is AfterStop.ASK:
        # No turn of this message writes it anew.
        items += tuple(
            _kept(item, decision.why or judgement.detail)
            for draft in _held_back(end)
            for item in _items(draft, end, compose)
        )
    retry = dead = None
    if decision.step is Step.RETRY:
        retry = _retry_entry(end, judgement, decision, starts, history, items)
    elif decision.step is Step.GIVE_UP:
        dead = letter_of(record, judgement, decision.attempts, history, end.now)
    settlement = Settlement(
        outcome=judgement.outcome,
        detail=printable(judgement.detail, 600),
        decided_at=end.now,
        seconds=round(max(0.0, end.ended - (record.started_at or record.claimed_at)), 3),
        finished=decision.step is not Step.RETRY,
        items=items,
        usage=_usage(end),
        session=_session_change(end, judgement.outcome),
        retry=retry,
        dead=dead,
        pause=decide_pause(judgement, end.pause, end.now, end.jitter) if end.pause or pauses else None,
        question=_asked(end, judgement.outcome, policy),
        notes=end.sealed.notes,
        asked=asked,
        asked_until=end.now + policy.approve.expires if asked else 0.0,
        used=tuple(sorted(end.used_up)),
        model=end.observation.model,
        touched=end.touched,
    )
    if retry is not None and (asked or (rerun is not None and rerun.asked)):
        return msgspec.structs.replace(settlement, retry=carried(retry, rerun, settlement, record.turn_id))
    return settlement


def wants_auto_reply(end: TurnEnd, outcome: Outcome, policy: WatchPolicy) -> bool:
    """Whether the final words become the answer, as far as the turn itself tells."""
    note = end.sealed.finish
    if outcome is not Outcome.DONE or policy.auto_reply is AutoReply.NEVER or not end.judgement.final_text.strip():
        return False
    if end.origin.envelope.automatic is not Automatic.NO or (note is not None and not note.reply_wanted):
        return False
    # News of progress is no answer.
    return policy.auto_reply is AutoReply.ALWAYS or all(draft.at_once for draft in end.sealed.drafts)


def _once_lost(end: TurnEnd) -> Judgement:
    """A session is lost once per message; a second loss, or one of no session at all, is a failure like others."""
    judgement = end.judgement
    rerun = end.record.rerun
    if judgement.outcome is Outcome.SESSION_LOST and (end.record.resume is None or (rerun and rerun.session_lost)):
        return msgspec.structs.replace(judgement, outcome=Outcome.FAILED)
    return judgement


def _with_finish_note(end: TurnEnd, judgement: Judgement) -> Judgement:
    note = end.sealed.finish
    if judgement.outcome is Outcome.DONE and note is not None and note.kind is FinishKind.BLOCKED:
        return msgspec.structs.replace(judgement, outcome=Outcome.BLOCKED, detail=judgement.detail or "asks a human")
    answered = any(not draft.at_once for draft in end.sealed.drafts)
    ended = answered if note is None else note.kind is FinishKind.DONE and (answered or not note.reply_wanted)
    if judgement.outcome is Outcome.BLOCKED and ended and not judgement.final_text.strip():
        # Tools were denied and the agent has no last words, but it has said in its mail what there is to say.
        return msgspec.structs.replace(judgement, outcome=Outcome.DONE)
    return judgement


def _stopped(end: TurnEnd, judgement: Judgement) -> Judgement:
    """How a person's stop ended it says no more about the message or the account."""
    if end.stop is None or judgement.outcome.settles:
        return judgement
    said = "stopped by hand" + {AfterStop.DROP: "; dropped", AfterStop.ASK: "; its sender is asked"}.get(
        end.stop.then, ""
    )
    detail = f"{said}: {end.stop.reason}" if end.stop.reason else said
    return msgspec.structs.replace(judgement, outcome=Outcome.INTERRUPTED, detail=detail, retry_at=None)


def _drafts(end: TurnEnd, judgement: Judgement, step: Step, why: str, policy: WatchPolicy) -> list[Draft]:
    now, outcome = end.now, judgement.outcome
    # What a turn staged leaves only when it ended well; what was asked to leave at once has left already.
    # A turn that asks goes on in its session, where it has sent them.
    sent = outcome.settles or outcome is Outcome.ASKED
    drafts = [draft for draft in end.sealed.drafts if sent or draft.at_once]
    if wants_auto_reply(end, outcome, policy) and not end.answered:
        body = _bounded(judgement.final_text.strip(), end, policy)
        drafts.append(Draft(f"auto-reply{end.mark}", Action.REPLY, now, body=body, automatic=Automatic.AUTO_REPLY))
    asked = end.sealed.finish is not None and bool(end.sealed.finish.question.strip())
    # News of progress asks nobody.
    if outcome is Outcome.BLOCKED and (asked or all(draft.at_once for draft in drafts)):
        drafts.append(Draft(f"question{end.mark}", Action.REPLY, now, body=_question(end, policy), kind=Kind.QUESTION))
    then = end.then(outcome)
    if then is AfterStop.ASK:
        body = _asked(end, outcome, policy)
        drafts.append(Draft(f"question{end.mark}", Action.REPLY, now, body=body, kind=Kind.QUESTION))
    if then is AfterStop.DROP and end.origin.envelope.automatic is not Automatic.NOTICE:
        why = f"\n\nReason: {end.stop.reason}" if end.stop is not None and end.stop.reason else ""
        body = f"This message was dropped by hand; it will not be worked on.{why}"
        drafts.append(
            Draft(f"notice{end.mark}", Action.REPLY, now, body=body, kind=Kind.STATUS, automatic=Automatic.NOTICE)
        )
    if step is Step.GIVE_UP and end.origin.envelope.automatic is not Automatic.NOTICE:
        body = words_of_giving_up(end.origin.envelope.id, judgement, why, len(_held_back(end)))
        drafts.append(
            Draft(f"notice{end.mark}", Action.REPLY, now, body=body, kind=Kind.STATUS, automatic=Automatic.NOTICE)
        )
    return drafts


def _held_back(end: TurnEnd) -> list[Draft]:
    """What the agent wrote and no turn of the message writes anew."""
    drafts = [draft for draft in end.sealed.drafts if not draft.at_once] or list(end.earlier)
    asked = end.sealed.finish.question.strip() if end.sealed.finish is not None else ""
    if asked and end.stop is None:
        drafts.append(Draft(f"question{end.mark}", Action.REPLY, end.now, body=asked, kind=Kind.QUESTION))
    return drafts


def _kept(entry: SettledItem, why: str) -> SettledItem:
    why = entry.why or f"its turn did not end well: {printable(why, 300)}"
    return msgspec.structs.replace(entry, state=ItemState.KEPT, why=why, own=False)


def _asked(end: TurnEnd, outcome: Outcome, policy: WatchPolicy) -> str:
    """What the thread waits for now, if anything."""
    if end.then(outcome) is AfterStop.ASK:
        why = f"\n\nReason: {end.stop.reason}" if end.stop is not None and end.stop.reason else ""
        return f"The work on this message was stopped by hand before its end.{why}\n\nHow is it to go on?"
    return _question(end, policy) if outcome is Outcome.BLOCKED else ""


def _question(end: TurnEnd, policy: WatchPolicy) -> str:
    note = end.sealed.finish
    asked = note.question if note is not None else ""
    words = asked.strip() or end.judgement.final_text.strip() or end.judgement.detail or "The agent needs a decision."
    return _bounded(words, end, policy)


def _bounded(words: str, end: TurnEnd, policy: WatchPolicy) -> str:
    encoded = words.encode("utf-8", "replace")
    if len(encoded) <= MAX_WORDS:
        return words
    cut = encoded[:MAX_WORDS].decode("utf-8", "ignore")
    whole = f"the whole is in the output of turn {end.record.turn_id}" if policy.keep_transcripts else REST_GONE
    return f"{cut}\n\n[cut here, after {MAX_WORDS} of {len(encoded)} bytes; {whole}]"


def mark_of(message_id: str) -> str:
    """What the key of an item for a further message of a batch ends with; nothing for the turn's own."""
    digest = hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"-{digest}" if message_id else ""


def _items(draft: Draft, end: TurnEnd, compose: Compose) -> list[SettledItem]:
    composed, to_itself = compose_for(draft, end.origin, end.record.turn_id, compose, end.address)
    if to_itself and draft not in (*end.sealed.drafts, *end.earlier):
        return []
    own = draft.automatic is Automatic.NOTICE
    if isinstance(composed, Refused):
        # Kept in the record, so that nothing the agent wrote is destroyed without a word.
        recipient = ", ".join(draft.to) or end.origin.envelope.sender
        item = Outgoing(draft.key, recipient, draft.thread or end.origin.envelope.thread, draft.body)
        why = end.record.no_way if draft.action is Action.REPLY and not draft.to else ""
        return [SettledItem(item, ItemState.REFUSED, why or composed.why, draft, own)]
    return [SettledItem(item, own=own) for item in composed]


def compose_for(
    draft: Draft, origin: Message, turn_id: str, compose: Compose, address: str
) -> tuple[Sequence[Outgoing] | Refused, bool]:
    """The draft's items; and whether it would go as a reply to the agent's own `address`. Such a one is a notice: kept
    in the thread, where a turn for it would answer itself again.
    """
    composed = compose(draft, origin, turn_id)
    if draft.action is not Action.REPLY or draft.to or isinstance(composed, Refused):
        return composed, False
    if not address or {item.recipient for item in composed} != {address}:
        return composed, False
    return compose(msgspec.structs.replace(draft, automatic=Automatic.NOTICE), origin, turn_id), True


def _retry_entry(
    end: TurnEnd,
    judgement: Judgement,
    decision: RetryDecision,
    starts: int,
    history: tuple[Attempt, ...],
    items: tuple[SettledItem, ...],
) -> RetryEntry:
    record, before = end.record, end.record.rerun or RetryEntry(end.record.envelope)
    not_before = max(decision.not_before, before.not_before) if before.fetches else decision.not_before
    # What a live session was to have is not offered a second time, though nothing stood in for it.
    never_ran = record.process is None and record.live is None
    dropped = 0 if judgement.outcome is Outcome.ASKED else sum(not draft.at_once for draft in end.sealed.drafts)
    session_id = end.observation.session_id or record.resume
    provisional = None
    if never_ran:
        # Its last turn is still the one before; this one may not have come as far as to the choice of a session.
        provisional, dropped = before.provisional, before.dropped
    elif judgement.outcome.keeps_session and end.resumes and session_id:
        own = Provisional(session_id, record.runtime, judgement.outcome, _session_sum(end, session_id))
        provisional = own if end.observation.worked or judgement.outcome is Outcome.ASKED else before.provisional
    left = [entry.item.recipient for entry in items if entry.state is not ItemState.REFUSED and not entry.own]
    sent = tuple(f"a message to {prompt_word(recipient, 'recipient')}" for recipient in left)
    return RetryEntry(
        envelope=record.envelope,
        attempts=decision.attempts,
        starts=starts,
        not_before=not_before,
        history=before.history if never_ran else history,
        provisional=provisional,
        session_lost=judgement.outcome is Outcome.SESSION_LOST or before.session_lost,
        sent=(*before.sent, *sent),
        revision=before.revision + 1,
        dropped=dropped,
        fetches=before.fetches,
        fetching_since=before.fetching_since,
        put_back=before.put_back,
        released=before.released,
    )


def _session_change(end: TurnEnd, outcome: Outcome) -> SessionChange | None:
    record, known, now = end.record, end.session, iso(end.now)
    thread, generation = record.envelope.thread, record.generation
    if outcome is Outcome.SESSION_LOST:
        if known is None or known.session_id != record.resume:
            return None
        entry = SessionEntry(last_used_at=now, runtime=record.runtime, generation=generation + 1)
        return SessionChange(thread, generation, entry)
    session_id = end.observation.session_id or record.resume
    if not end.resumes or not session_id:
        return None
    if not outcome.settles and end.then(outcome) is not AfterStop.ASK:
        return _spent_in_vain(end, session_id)
    same = known is not None and known.session_id == session_id
    entry = SessionEntry(
        session_id=session_id,
        turn_count=(known.turn_count if known is not None and same else 0) + 1,
        first_seen_at=known.first_seen_at if known is not None and same else now,
        last_used_at=now,
        runtime=record.runtime,
        transcript_bytes=(known.transcript_bytes if known is not None and same else 0) + end.transcript_bytes,
        generation=generation + 1,
        spent=_session_sum(end, session_id),
    )
    return SessionChange(thread, generation, entry)


def _spent_in_vain(end: TurnEnd, session_id: str) -> SessionChange | None:
    """An unfinished turn binds nothing, but what it spent in the thread's session is spent: it must not count again."""
    known, seen = end.session, end.observation.usage
    if known is None or known.session_id != session_id or seen is None or not seen.of_session:
        return None
    generation = end.record.generation
    entry = msgspec.structs.replace(known, spent=seen, generation=generation + 1)
    return SessionChange(end.record.envelope.thread, generation, entry)


def _usage(end: TurnEnd) -> Usage | None:
    """This turn's own share; a runtime that counts per session reports what earlier turns of it spent as well."""
    seen = end.observation.usage
    if seen is None or not seen.of_session:
        return seen
    return seen.since(_spent_before(end, end.observation.session_id or end.record.resume))


def _session_sum(end: TurnEnd, session_id: str) -> Usage:
    seen = end.observation.usage
    if seen is None:
        return _spent_before(end, session_id)
    return seen if seen.of_session else Usage()


def _spent_before(end: TurnEnd, session_id: str | None) -> Usage:
    provisional = end.record.rerun.provisional if end.record.rerun else None
    if provisional is not None and provisional.session_id == session_id:
        return provisional.spent
    if end.session is not None and end.session.session_id == session_id:
        return end.session.spent
    return Usage()
