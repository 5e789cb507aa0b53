"""What a workdir keeps between turns, read from its state: sessions, dead letters, the agent's notes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.clock import from_iso, iso
from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError, UsageFault, quoted
from agent_mailer.names import memory_file, one_of, pick, printable
from agent_mailer.outcomes import Outcome
from agent_mailer.state.approvals import Approval, shown_code
from agent_mailer.state.held import Guard
from agent_mailer.state.notices import Channel
from agent_mailer.state.stuck import StuckEntry, StuckKind, split_key
from agent_mailer.views.values.history import (
    ApprovalView,
    AttemptView,
    DeadLetterView,
    HeldView,
    LimitView,
    NoteChangeView,
    NoteTextView,
    NoteView,
    SessionView,
    StandingView,
    StuckView,
)
from agent_mailer.views.values.status import AskedView, HeldCountView, OfferedView, StuckCountView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state import State
    from agent_mailer.state.records import DeadLetter, RetryEntry

MOST_READ = 4 * 1024 * 1024
NOTES = "agent-mailer memory ls"
STUCK = "agent-mailer stuck list"


def sessions(state: State, newest: int = 0) -> dict[str, SessionView]:
    """Each thread's session, the one used last at the end; of many the `newest` alone (0 = all)."""
    bound = state.sessions.bound()

    def used(thread: str) -> str:
        return bound[thread].last_used_at

    # All of a hundred thousand are not put in order for some lines; of the same moment the later one is newer.
    threads = nlargest(newest, reversed(bound), key=used)[::-1] if newest else sorted(bound, key=used)
    found = [
        SessionView(
            thread=thread,
            session_id=entry.session_id,
            runtime=entry.runtime,
            turns=entry.turn_count,
            bytes=entry.transcript_bytes,
            generation=entry.generation,
            first_seen_at=entry.first_seen_at,
            last_used_at=entry.last_used_at,
        )
        for thread, entry in ((thread, bound[thread]) for thread in threads)
    ]
    return {session.thread: session for session in found}


def dead_letters(state: State, reason: str | None = None, newest: int = 0) -> dict[str, DeadLetterView]:
    """By message, the newest at the end; `reason`: whose last turn ended so. Of many the `newest` alone (0 = all).

    Raises UsageFault for no outcome.
    """
    wanted = one_of(reason, Outcome, "--reason") if reason is not None else None
    if wanted is None and newest:
        letters = state.dead_letters.newest(newest)
    else:
        letters = [one for one in state.dead_letters.all() if wanted is None or one.outcome == wanted][-newest:]
    return {letter.msg_id: _dead_letter(letter) for letter in letters}


def _dead_letter(letter: DeadLetter) -> DeadLetterView:
    envelope = letter.envelope
    return DeadLetterView(
        message_id=letter.msg_id,
        thread=letter.thread_id,
        sender=envelope.sender if envelope else None,
        retries=letter.retries,
        outcome=letter.outcome.value if letter.outcome else None,
        last_error=letter.last_error,
        stuck_at=letter.stuck_at,
        turn_id=letter.turn_id,
        history=tuple(AttemptView(one.turn_id, one.outcome.value, one.detail, one.at) for one in letter.history),
        created=iso(envelope.created) if envelope and envelope.created else None,
    )


def reason_of(reason: str | None) -> StuckKind | None:
    """Raises UsageFault for none."""
    return StuckKind(one_of(reason, StuckKind, "--reason")) if reason is not None else None


def stuck_counts(state: State, given_up: int) -> tuple[StuckCountView, ...]:
    """How much is stuck, by reason, with so many `given_up`; a reason for which nothing is has no line."""
    counts = state.stuck.counts()
    counts[StuckKind.GIVEN_UP] += given_up
    counts[StuckKind.NOT_SENT] += len(state.unsent)
    return tuple(StuckCountView(kind.value, counts[kind]) for kind in StuckKind if counts[kind])


def tried_again(state: State) -> list[RetryEntry]:
    """What runs again by itself when its time has come; what waits for a person does not."""
    stuck, held = state.stuck.waiting, state.held.waiting
    waits = (entry for entry in state.retries.all() if entry.envelope.id not in stuck)
    return [entry for entry in waits if entry.released or entry.envelope.id not in held]


def offered_in(place: Workplace, busy: Collection[str], now: float) -> tuple[OfferedView, ...]:
    """What its watcher holds for live sessions that are there; of what is `busy` already, nothing."""
    from agent_mailer.config import Delivery

    if place.config.delivery is not Delivery.LIVE_FIRST:
        return ()
    from agent_mailer.process.handle import is_alive
    from agent_mailer.state.presence import Presence

    found: list[OfferedView] = []
    for offer in Presence(place.workdir, place.disk).offers():
        there = tuple(sitter.who for sitter in offer.sitters if is_alive(sitter.process))
        if there and now < offer.until and offer.message not in busy:
            found.append(OfferedView(offer.message, there, offer.since, offer.until))
    return tuple(found)


def untold(place: Workplace) -> tuple[str, ...]:
    """The operator's ways by which the last was not told, and why; of what is no way of his any more nothing."""
    notify = place.config.notify
    ways = {Channel.COMMAND: notify.command, Channel.MAIL: notify.address, Channel.APPRISE: notify.apprise}
    return tuple(f"{one.by.value}: {one.why}" for one in place.state.notices.told.untold if ways.get(one.by))


def held_counts(state: State) -> tuple[HeldCountView, ...]:
    """How much is held, by guard; a guard that holds nothing has no line."""
    counts = state.held.counts()
    return tuple(HeldCountView(guard.value, counts[guard]) for guard in Guard if counts[guard])


def held(state: State, guard: str | None = None, sender: str | None = None) -> list[HeldView]:
    """Oldest first. Raises UsageFault for no guard."""
    wanted = Guard(one_of(guard, Guard, "--guard")) if guard is not None else None
    return [
        HeldView(entry.message_id, entry.guard.value, entry.why, entry.at, one.thread, one.sender, one.created)
        for entry in state.held.all()
        if (one := entry.envelope) is not None and wanted in (None, entry.guard) and sender in (None, one.sender)
    ]


def approvals(state: State, *, every: bool = False) -> list[ApprovalView]:
    """What waits for a person, or every question that is kept; oldest first."""
    return [approval(state, one) for one in (state.approvals.all() if every else state.approvals.open())]


def approval(state: State, one: Approval) -> ApprovalView:
    answer = state.approvals.answer_to(one.id) if one.id in state.approvals.answered() else None
    waits = answer is None and not one.over and one.expires_at > state.folder.clock.now()
    return ApprovalView(
        question=one.id,
        state=state.approvals.state_of(one).value,
        tool=one.call.tool,
        act=one.call.act,
        said=one.call.why,
        message_id=one.message_id,
        thread=one.thread,
        turn_id=one.turn_id,
        folder=one.folder,
        asked_at=one.asked_at,
        expires_at=one.expires_at,
        sender=one.sender,
        code=shown_code(one.code) if waits else "",
        verdict=answer.verdict.value if answer else None,
        reason=answer.reason if answer else "",
        by=answer.by.value if answer else None,
        answered_at=answer.at if answer else None,
        changed=answer.changed if answer else "",
        beside=one.call.beside,
    )


def asked_of(state: State) -> tuple[AskedView, ...]:
    """What the mail under way waits for, oldest first."""
    if not any(entry.asked for entry in state.retries.all()):
        return ()
    return tuple(
        AskedView(one.id, one.call.tool, one.thread, one.message_id, one.asked_at, one.expires_at)
        for one in state.approvals.open()
    )


def without_asked(entries: Iterable[RetryEntry], asked: Iterable[AskedView]) -> list[RetryEntry]:
    """Those that do not wait for a yes."""
    open_ones = {one.question for one in asked}
    return [entry for entry in entries if open_ones.isdisjoint(entry.asked)]


def standing(state: State) -> list[StandingView]:
    """What is allowed for good, oldest first."""
    return [
        StandingView(one.id, one.call.tool, one.call.act, one.since, one.call.beside)
        for one in state.approvals.standing()
    ]


def limits(place: Workplace) -> list[LimitView]:
    """Every limit that is set, as it counts now; the hour's where a person has raised it."""
    from agent_mailer.views.spending import uncounted
    from agent_mailer.watch.guards.budgets import Ledger, Shared, Spent, limit_today, midnight, of_the_day, shared_of
    from agent_mailer.watch.guards.gate import HOUR, counts_hourly, ran
    from agent_mailer.watch.guards.raising import HOURLY

    now, watch, lifts = place.clock.now(), place.policy(), place.state.lifts
    vain = uncounted(place)
    policy, until = watch.budget, midnight(now, 1)
    ledger, recent = Ledger(policy), 0
    for record in of_the_day(place.state.turns, now):
        if not record.resends:
            ledger.note(record)
            recent += ran(record) and record.claimed_at > now - HOUR and counts_hourly(record)
    spent = ledger.today(now)
    shared: Shared | None = shared_of(policy, place.workdir, place.disk)
    others = shared.others(now) if shared is not None else Spent()
    found = []
    for key in policy.names():
        raised = lifts.raised(key)
        if limit := limit_today(policy, key, raised):
            unit, _, whose = key.partition("_per_")
            more = round(getattr(others, unit), 6) if whose == "day" else 0.0
            taken = round(getattr(spent, unit) + more, 6) if whose == "day" else None
            found.append(LimitView(key, limit, taken, raised is not None, until, more, key not in vain))
    raised = lifts.raised(HOURLY)
    if raised is not None and watch.guards.turns_per_hour:
        found.append(LimitView(HOURLY, raised, recent, raised=True, until=until))
    return found


def stuck_targets(state: State) -> dict[str, str]:
    """By key what a request names it by; nothing else of it is read."""
    found = {letter.msg_id: f"{StuckKind.GIVEN_UP} {letter.msg_id}" for letter in state.dead_letters.all()}
    found |= {key: f"{StuckKind.NOT_SENT} {key}" for key in state.unsent.all()}
    return found | {entry.key: f"{entry.kind} {entry.key}" for entry in state.stuck.all()}


def dead_letter(state: State, message_id: str) -> DeadLetterView | None:
    letter = state.dead_letters.find(message_id)
    return _dead_letter(letter) if letter is not None else None


def one_stuck(state: State, typed: str) -> StuckView:
    """The one whose key is, begins or ends so; of the others no more is read. Raises MailerError, UsageFault."""
    targets = stuck_targets(state)
    kind, _, key = targets[pick(typed, targets, "stuck thing", STUCK)].partition(" ")
    letter = state.dead_letters.find(key) if kind == StuckKind.GIVEN_UP else None
    if letter is not None:
        return _given_up(letter)
    if kind == StuckKind.NOT_SENT:
        view = _not_sent(state, key)
    else:
        entry = state.stuck.get(StuckKind(kind), key)
        view = _waits(entry) if entry is not None else None
    if view is None:
        raise MailerError("unknown", f"{printable(key)} is stuck no longer", STUCK)
    return view


def kept_of(state: State, turn_id: str) -> list[str]:
    """What of the turn did not leave and waits for a person, by the keys of the list."""
    return [key for key in state.unsent.all() if (found := split_key(key)) is not None and found[0] == turn_id]


def stuck(state: State, reason: str | None = None, limit: int = 0) -> list[StuckView]:
    """The newest `limit` (0 = all), the newest at the end. Raises UsageFault for no reason."""
    wanted = reason_of(reason)
    found: list[StuckView] = []
    if wanted in (None, StuckKind.GIVEN_UP):
        found += map(_given_up, state.dead_letters.all()[-limit:])
    if wanted in (None, StuckKind.NOT_SENT):
        found += filter(None, (_not_sent(state, key) for key in state.unsent.all()[-limit:]))
    entries = [entry for entry in state.stuck.all() if wanted in (None, entry.kind)]
    found += map(_waits, entries[-limit:])
    return sorted(found, key=lambda view: view.at)[-limit:]


def _waits(entry: StuckEntry) -> StuckView:
    name = entry.message_id or entry.locator.removesuffix(".md")
    why = f"{entry.why}; its mailbox is asked for it again" if entry.wanted else entry.why
    return StuckView(entry.key, entry.kind.value, why, entry.at, name, entry.thread, entry.sender)


def _given_up(letter: DeadLetter) -> StuckView:
    at = 0.0
    with suppress(ValueError):
        at = from_iso(letter.stuck_at)
    sender = letter.envelope.sender if letter.envelope else ""
    return StuckView(
        letter.msg_id,
        StuckKind.GIVEN_UP.value,
        letter.last_error,
        at,
        letter.msg_id,
        letter.thread_id,
        sender,
        turn_id=letter.turn_id,
    )


def _not_sent(state: State, key: str) -> StuckView | None:
    turn_id, number = split_key(key) or ("", 0)
    record = state.turns.load(turn_id) if turn_id else None
    if record is None or record.settlement is None or number >= len(record.settlement.items):
        return None
    entry, envelope = record.settlement.items[number], record.envelope
    return StuckView(
        key,
        StuckKind.NOT_SENT.value,
        entry.why,
        record.settlement.decided_at,
        envelope.id,
        envelope.thread,
        envelope.sender,
        entry.item.recipient,
        entry.item.payload,
        turn_id,
    )


def notes(folder: Path) -> list[NoteView]:
    """By name."""
    files = [file for file in folder.iterdir() if file.suffix == ".md"] if folder.is_dir() else []
    found = [(file.stem, file.lstat()) for file in files if not file.name.startswith(".")]
    return [NoteView(name, stat.st_size, stat.st_mtime) for name, stat in sorted(found)]


def note_changes(place: Workplace, thread: str | None = None) -> list[NoteChangeView]:
    """Those that are known, newest first; with `thread` of its note alone. Raises UsageFault for an empty thread."""
    note = note_path(place, thread).name if thread is not None else ""
    return [
        NoteChangeView(one.id, one.note, one.at, one.how, one.turn_id, one.thread, one.sender, one.before, one.after)
        for one in sorted(place.state.notes.history.all(note), key=lambda one: one.at, reverse=True)
    ]


def note_change(place: Workplace, typed: str) -> NoteChangeView:
    """The change called so, by a beginning or end that only it has. Raises UsageFault."""
    known = {one.id: one for one in note_changes(place)}
    return known[pick(typed, known, "change of a note", "agent-mailer memory log")]


def note_text(place: Workplace, thread: str | None) -> NoteTextView:
    """A thread's note, or the global one. A link is never followed: the agent may write in this folder.

    Raises MailerError where there is none or it cannot be read, UsageFault for an empty thread.
    """
    path = note_path(place, thread)
    try:
        text = read_regular(path, MOST_READ).decode("utf-8", "replace")
    except FileNotFoundError:
        raise MailerError("no_note", f"there is no note {path}", NOTES) from None
    except OSError as error:
        raise MailerError("bad_note", f"{path} cannot be read: {error.strerror}", f"ls -l {quoted(path)}") from None
    return NoteTextView(thread, str(path), text)


def note_path(place: Workplace, thread: str | None) -> Path:
    """The file of a thread's note, always right below memory/. Raises UsageFault for an empty thread."""
    memory = place.folder.memory
    return memory / "global.md" if thread is None else memory_file(memory, meant_thread(place, thread))


def meant_thread(place: Workplace, typed: str) -> str:
    """The thread called so; else the one known thread whose name begins so; else a new one. Raises UsageFault."""
    if not typed.strip():
        raise UsageFault("no_thread", "the thread is empty", NOTES)
    if os.path.lexists(memory_file(place.folder.memory, typed)):
        return typed
    turns = filter(None, map(place.state.turns.load, place.state.turns.ids()))
    known = [*(thread for thread, _ in place.state.sessions.all()), *(turn.envelope.thread for turn in turns)]
    # A note whose name was made from the thread's has a tilde; others are called as their thread.
    known += [note.name for note in notes(place.folder.memory) if "~" not in note.name and note.name != "global"]
    meant = [name for name in known if name.startswith(typed)]
    return pick(typed, meant, "thread", NOTES) if meant else typed
