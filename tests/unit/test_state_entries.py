"""What is kept by key: retries, sessions, pause, usage, requests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.clock import iso
from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.port import Usage
from agent_mailer.state import State
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Guard, HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.pauses import LONGEST_PAUSE, AccountPause
from agent_mailer.state.records import (
    Attempt,
    Batched,
    DeadLetter,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    SessionEntry,
    Settlement,
    TurnRecord,
)
from agent_mailer.state.requests import Answer, Request, RequestBox, Verb
from agent_mailer.state.sessions import FOLD_AT, Sessions
from agent_mailer.state.usage import KEEP_DAYS, UsageLedger
from agent_mailer.watch.guards.holding import carry_out
from agent_mailer.watch.requests import apply

NOW = 1_700_000_000.0
GARBAGE = [
    b"",
    b"{",
    b"\0" * 32,
    b"[]",
    b"[" * 100_000,
    b"\xff",
    b'{"x": {"envelope": 1, "generation": "x"}}',
    b'{"x": true}',
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def folder(tmp_path: Path, clock: FakeClock) -> StateFolder:
    found = StateFolder(tmp_path, Disk(), clock)
    found.prepare()
    return found


def state_of(folder: StateFolder) -> State:
    """The state as the next process finds it."""
    found = StateFolder(folder.workdir, Disk(), folder.clock)
    found.hold()
    return State(found, EventLog(found.log, found.disk, found.clock))


def envelope(name: str) -> Envelope:
    return Envelope(name, "t", "user", 0.0, "1", f"{name}.md")


def entry(name: str = "m", **changes: object) -> RetryEntry:
    return msgspec.structs.replace(RetryEntry(envelope(name), 1, 1, revision=1), **changes)


# Retries.


def test_an_older_settlement_takes_nothing_back(folder: StateFolder) -> None:
    retries = state_of(folder).retries
    retries.put(entry(revision=3, attempts=3))
    retries.put(entry(revision=2, attempts=2))
    retries.put(entry(revision=3, attempts=0))
    again = state_of(folder).retries
    assert again.get("m") == entry(revision=3, attempts=3)
    again.put(entry(revision=0, attempts=0), force=True)
    again.remove("other")
    assert [e.attempts for e in state_of(folder).retries.all()] == [0]
    again.remove("m")
    assert len(state_of(folder).retries) == 0


def test_counts_of_another_client_are_understood_and_kept(folder: StateFolder) -> None:
    path = folder.path / "retries.json"
    path.write_text(json.dumps({"a": 2, "b": 1, "zero": 0, "minus": -4}, indent=2, sort_keys=True))
    retries = state_of(folder).retries
    assert list(retries.all()) == []
    assert retries.adopt(envelope("a")) == RetryEntry(envelope("a"), attempts=2, starts=2)
    for name in ("zero", "minus", "unknown"):
        assert retries.adopt(envelope(name)) is None
    retries.put(entry("a", attempts=3))
    # Ours takes the place of its count; the others wait for their messages.
    assert json.loads(path.read_text())["b"] == 1
    again = state_of(folder).retries
    assert again.adopt(envelope("a")) is None
    assert again.get("a") == entry("a", attempts=3)
    again.remove("b")
    again.remove("a")
    assert json.loads(path.read_text()) == {"zero": 0, "minus": -4}
    assert not list(folder.path.glob("*.corrupt-*"))


def test_an_entry_under_a_wrong_key_is_found_by_its_message(folder: StateFolder) -> None:
    (folder.path / "retries.json").write_bytes(msgspec.json.encode({"wrong": entry("m")}))
    retries = state_of(folder).retries
    assert retries.get("m") == entry("m")
    retries.remove("m")
    assert len(state_of(folder).retries) == 0


HISTORY = (Attempt("20260101T000000-00000000", Outcome.FAILED, "no luck", NOW),)


def turn(
    state: State, number: int, name: str, *, rerun: RetryEntry | None = None, outcome: Outcome = Outcome.FAILED
) -> RetryEntry:
    """A settled turn that left `name` to be done, or dead; returns what it left."""
    turn_id = f"20260101T0000{number:02d}-00000000"
    left = entry(name, attempts=number, revision=(rerun.revision if rerun else 0) + 1)
    settlement = Settlement(outcome, "", NOW, 1.0, finished=False, retry=left)
    if outcome is Outcome.CRASHED:
        settlement = msgspec.structs.replace(
            settlement, finished=True, retry=None, dead=DeadLetter(name, envelope=envelope(name), history=HISTORY)
        )
    record = TurnRecord(turn_id, envelope(name), Phase.SETTLING, "command", NOW, rerun=rerun, settlement=settlement)
    state.turns.create(record)
    state.turns.mark_settled(turn_id)
    return left


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_retries_are_made_anew_from_the_turns(folder: StateFolder, garbage: bytes) -> None:
    state = state_of(folder)
    first = turn(state, 1, "twice")
    second = turn(state, 2, "twice", rerun=first)
    other = turn(state, 3, "once")
    turn(state, 4, "settled")
    state.processed.add("settled")
    path = folder.path / "retries.json"
    path.write_bytes(garbage)
    # Any first touch heals it: also a command that only adds an entry.
    state_of(folder).retries.put(entry("new"))
    found = {e.envelope.id: e for e in state_of(folder).retries.all()}
    assert found == {"twice": second, "once": other, "new": entry("new")}
    [aside] = folder.path.glob("retries.json.corrupt-*")
    assert aside.read_bytes() == garbage
    assert path.exists()


def test_what_a_shared_turn_left_of_each_of_its_messages_is_found(folder: StateFolder) -> None:
    state = state_of(folder)
    own, beside = entry("own", revision=1), entry("beside", revision=1)
    left = Settlement(Outcome.FAILED, "", NOW, 1.0, finished=False, retry=own)
    others = msgspec.structs.replace(left, retry=beside)
    batch = (Batched(envelope("beside"), settlement=others),)
    turn_id = "20260101T000001-00000000"
    made = TurnRecord(turn_id, envelope("own"), Phase.SETTLING, "command", NOW, settlement=left, batch=batch)
    state.turns.create(made)
    state.turns.mark_settled(turn_id)
    (folder.path / "retries.json").write_bytes(b"garbage")
    assert list(state_of(folder).retries.all()) == [own, beside]


def test_of_two_turns_that_know_of_no_earlier_one_the_later_counts(folder: StateFolder) -> None:
    state = state_of(folder)
    turn(state, 1, "m")
    later = turn(state, 2, "m")
    (folder.path / "retries.json").write_bytes(b"garbage")
    assert list(state_of(folder).retries.all()) == [later]


def test_what_is_held_already_stays_as_it_is(folder: StateFolder) -> None:
    """Its question is asked, and may be answered."""
    held = HeldEntry("m", NOW, Guard.PAIR, "too often", "q", envelope("m"))
    state_of(folder).held.add([held])
    again = state_of(folder).held
    again.add([msgspec.structs.replace(held, at=NOW + 1, guard=Guard.WHO, question="another")])
    assert state_of(folder).held.find(["m"]) == {"m": held}


def test_the_newest_turn_counts_although_the_clock_went_back(folder: StateFolder) -> None:
    state = state_of(folder)
    first = turn(state, 9, "m")
    second = turn(state, 1, "m", rerun=first)
    (folder.path / "retries.json").write_bytes(b"garbage")
    assert list(state_of(folder).retries.all()) == [second]


def test_neither_what_is_sent_again_nor_an_end_that_is_still_being_settled_says_what_is_to_be_run(
    folder: StateFolder,
) -> None:
    state = state_of(folder)
    first = turn(state, 1, "m")
    again = Settlement(Outcome.DONE, "sent again", NOW, 0.0, finished=False)
    dead = msgspec.structs.replace(again, finished=True, dead=DeadLetter("dead", envelope=envelope("dead")))
    for number, name, settlement, resends in ((2, "m", again, "20260101T000001-00000000.0"), (3, "dead", dead, "")):
        turn_id = f"20260101T0000{number:02d}-00000000"
        state.turns.create(
            TurnRecord(turn_id, envelope(name), Phase.SETTLING, "x", NOW, settlement=settlement, resends=resends)
        )
    (folder.path / "retries.json").write_bytes(b"garbage")
    assert list(state_of(folder).retries.all()) == [first]


def test_what_a_person_has_let_go_is_found_again_and_not_what_ended_since(folder: StateFolder) -> None:
    state = state_of(folder)
    names = ("let go", "settled", "given up", "dropped", "held")
    state.held.add(HeldEntry(name, NOW, envelope=envelope(name)) for name in names)
    carry_out(state, Order(OrderVerb.RELEASE, names[:3]))
    state.processed.add("settled")
    state.dead_letters.add(DeadLetter("given up", envelope=envelope("given up")), again=False)
    carry_out(state, Order(OrderVerb.DROP, ("dropped",)))
    (folder.path / "retries.json").write_bytes(b"garbage")
    found = [RetryEntry(envelope("let go"), released=True)]
    assert list(state_of(folder).retries.all()) == found
    assert list(state_of(folder).retries.all()) == found
    assert len(list(folder.path.glob("retries.json.corrupt-*"))) == 1, "who has made it anew has written it"


def test_a_dead_message_comes_back_only_if_somebody_asked(folder: StateFolder) -> None:
    state = state_of(folder)
    for number, name in enumerate(("dead", "asked"), 1):
        turn(state, number, name, rerun=entry(name, revision=3), outcome=Outcome.CRASHED)
        state.dead_letters.add(DeadLetter(name, envelope=envelope(name)), again=False)
        state.processed.add(name)
    assert apply(state, Request(Verb.STUCK_RETRY, ("given-up asked",))).ok
    (folder.path / "retries.json").write_bytes(b"garbage")
    found = RetryEntry(envelope("asked"), history=HISTORY, revision=4)
    assert list(state_of(folder).retries.all()) == [found], "with what was tried, and newer than the end it had"


def test_who_only_looks_sees_what_was_made_anew_and_writes_nothing(folder: StateFolder) -> None:
    left = turn(state_of(folder), 1, "m")
    (folder.path / "retries.json").write_bytes(b"garbage")
    before = sorted(p.name for p in folder.path.iterdir())
    looker = StateFolder(folder.workdir, Disk(), folder.clock)
    state = State(looker, EventLog(looker.log, looker.disk, looker.clock))
    assert list(state.retries.all()) == [left]
    assert sorted(p.name for p in folder.path.iterdir()) == before
    assert (folder.path / "retries.json").read_bytes() == b"garbage"


def test_a_disk_that_takes_no_copy_keeps_the_damaged_file(folder: StateFolder) -> None:
    from tests.crash.faults import FaultySystem, Lasting

    left = turn(state_of(folder), 1, "m")
    path = folder.path / "retries.json"
    path.write_bytes(b"garbage")
    state = state_of(folder)
    state.folder.disk.system = FaultySystem(1, 28, Lasting.FROM_THEN_ON)
    with pytest.raises(OSError):
        state.retries.get("m")
    assert path.read_bytes() == b"garbage"
    state.folder.disk.system = Disk().system
    assert state.retries.get("m") == left


# Sessions.


def session(name: str, generation: int, **changes: object) -> SessionEntry:
    made = SessionEntry(name, 1, iso(NOW), iso(NOW), "claude", 10, generation)
    return msgspec.structs.replace(made, **changes)


def test_only_a_newer_generation_is_written(folder: StateFolder) -> None:
    sessions = Sessions(folder)
    assert sessions.put("t", session("a", 2))
    assert not sessions.put("t", session("late", 2))
    assert not sessions.put("t", session("older", 1))
    assert sessions.put("t", session("b", 3))
    assert Sessions(folder).get("t") == session("b", 3)


def test_what_was_invalidated_meanwhile_is_not_bound_again(folder: StateFolder) -> None:
    sessions = Sessions(folder)
    sessions.put("t", session("a", 1))
    assert sessions.invalidate("t")
    assert not sessions.invalidate("t")
    assert not sessions.invalidate("unknown")
    # The turn that ran since generation 1 wants to write generation 2.
    assert not sessions.put("t", session("a", 2))
    found = Sessions(folder).get("t")
    assert found is not None
    assert (found.session_id, found.generation, found.runtime) == ("", 2, "claude")


def test_the_entries_of_another_client_have_four_keys(folder: StateFolder) -> None:
    other = {"first_seen_at": "2023-11-01T00:00:00+00:00", "last_used_at": "2023-11-14T00:00:00.123456+00:00"}
    other = {**other, "session_id": "s", "turn_count": 4}  # type: ignore[dict-item]
    (folder.path / "sessions.json").write_text(json.dumps({"t": other, "u": other}, indent=2, sort_keys=True))
    sessions = Sessions(folder)
    found = sessions.get("t")
    assert found is not None
    assert (found.session_id, found.turn_count, found.runtime, found.generation) == ("s", 4, "", 0)
    assert sessions.put("t", session("s", 1))
    assert sessions.prune(30 * 86400) == 0
    assert sessions.prune(3600) == 1
    assert not list(folder.path.glob("*.corrupt-*"))


@pytest.mark.parametrize(
    "last", ["", "yesterday", "2023-99-99", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"]
)
def test_an_odd_moment_of_use_stops_nothing(folder: StateFolder, last: str) -> None:
    sessions = Sessions(folder)
    sessions.put("t", session("s", 1, last_used_at=last))
    sessions.put("u", session("r", 1, last_used_at=iso(NOW)))
    forgotten = sessions.prune(86400)
    left = Sessions(folder)
    assert (left.get("t") is None) == bool(forgotten)
    assert left.get("u") == session("r", 1, last_used_at=iso(NOW))


@pytest.mark.parametrize("garbage", GARBAGE[1:])
def test_a_damaged_file_loses_no_change_of_the_journal(folder: StateFolder, garbage: bytes) -> None:
    sessions = Sessions(folder)
    sessions.put("old", session("o", 1))
    sessions.fold()
    sessions.put("new", session("n", 1))
    (folder.path / "sessions.json").write_bytes(garbage)
    again = Sessions(folder)
    assert again.get("old") is None
    assert again.get("new") == session("n", 1)
    again.put("next", session("x", 1))
    again.close()
    assert dict(Sessions(folder).all()) == {"new": session("n", 1), "next": session("x", 1)}
    assert len(list(folder.path.glob("sessions.json.corrupt-*"))) == 1


@pytest.mark.parametrize(
    "damage", [b'{"thread": "t', b"\0" * 40, b"[" * 100_000, b"\xff\n", b'{"thread": 5}\n', b"null\n"]
)
def test_a_damaged_line_of_the_journal_harms_no_other(folder: StateFolder, damage: bytes) -> None:
    Sessions(folder).put("one", session("1", 1))
    journal = folder.path / "sessions.journal"
    journal.write_bytes(journal.read_bytes() + damage)
    Sessions(folder).put("two", session("2", 1))
    assert dict(Sessions(folder).all()) == {"one": session("1", 1), "two": session("2", 1)}


@pytest.mark.parametrize("odd", ["--yes", "../x", "a b", "x" * 201])
def test_what_can_be_no_name_of_a_session_names_none_wherever_it_stands(folder: StateFolder, odd: str) -> None:
    """It would be a word of somebody's command line."""
    sessions = Sessions(folder)
    sessions.put("t", session(odd, 1, spent=Usage(input_tokens=7)))
    assert Sessions(folder).bound() == {}
    sessions.fold()
    assert Sessions(folder).bound() == {}
    found = Sessions(folder).get("t")
    assert found is not None
    assert found.spent == Usage(), "what another session has used is none of the next one's"


def test_of_several_sessions_and_several_bad_lines_each_is_seen(folder: StateFolder) -> None:
    sessions = Sessions(folder)
    for number, name in enumerate(("one", "two", "three")):
        sessions.put(name, session("--odd" if name == "two" else f"s-{number}", 1))
    with (folder.path / "sessions.journal").open("ab") as journal:
        journal.write(b"garbage\n{}\n")
    assert [*Sessions(folder).bound()] == ["one", "three"]
    assert Sessions(folder).fold_journal() == 5
    [aside] = folder.path.glob("sessions.journal.corrupt-*")
    assert aside.read_bytes() == b"garbage\n{}\n"
    assert [*Sessions(folder).bound()] == ["one", "three"]
    path = folder.path / "sessions.json"
    path.write_text(path.read_text().replace('"s-0"', '"--odd"').replace('"s-2"', '"-x"'))
    assert Sessions(folder).bound() == {}


def test_a_crash_between_fold_and_clearing_changes_nothing(folder: StateFolder) -> None:
    sessions = Sessions(folder)
    sessions.put("t", session("a", 1))
    journal = (folder.path / "sessions.journal").read_bytes()
    sessions.put("t", session("b", 2))
    sessions.fold()
    (folder.path / "sessions.journal").write_bytes(journal)
    assert Sessions(folder).get("t") == session("b", 2)


def test_the_journal_is_folded_now_and_then(folder: StateFolder) -> None:
    sessions = Sessions(folder)
    for n in range(FOLD_AT):
        sessions.put(f"../t\n{n}", session(f"s{n}", 1))
    assert not (folder.path / "sessions.journal").exists()
    assert len(json.loads((folder.path / "sessions.json").read_text())) == FOLD_AT
    assert Sessions(folder).get("../t\n7") == session("s7", 1)
    assert [p.name for p in folder.workdir.iterdir()] == [".agent-mailer"]


# Pause.


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b"[" * 100_000, b'{"reason": "bored", "since": 1}', b'{"reason": "limited"}']
)
def test_a_damaged_pause_is_no_pause(folder: StateFolder, garbage: bytes) -> None:
    (folder.path / "pause.json").write_bytes(garbage)
    assert state_of(folder).pause.read() is None
    assert len(list(folder.path.glob("pause.json.corrupt-*"))) == 1


@pytest.mark.parametrize(
    ("until", "read"),
    [(None, None), (NOW - 5, NOW - 5), (NOW + LONGEST_PAUSE, NOW + LONGEST_PAUSE), (NOW + LONGEST_PAUSE + 1, NOW)],
)
def test_a_pause_beyond_any_we_set_ends_now(folder: StateFolder, until: float | None, read: float | None) -> None:
    account = AccountPause(folder.path.parent / "accounts", "a", folder.disk, folder.clamp, folder.damaged)
    for pauses in (state_of(folder).pause, account):
        pauses.write(Pause(PauseReason.LIMITED, NOW, until))
        found = pauses.read()
        assert found is not None
        assert found.until == read


@pytest.mark.parametrize(("began", "stands"), [(NOW - 60.0, True), (NOW + 1.0, False)], ids=["before", "after"])
def test_only_a_turn_that_began_after_the_pause_ends_it(folder: StateFolder, began: float, stands: bool) -> None:
    """What another thread has met meanwhile, an older success does not refute."""
    pause = state_of(folder).pause
    pause.write(Pause(PauseReason.LIMITED, NOW, NOW + 600.0))
    ended = NOW + 30.0
    pause.settled(Settlement(Outcome.DONE, "", ended, 5.0, finished=True), began)
    assert (pause.read() is not None) is stands


@pytest.mark.parametrize(
    ("reason", "outcome", "stands"),
    [
        (PauseReason.BY_HAND, Outcome.DONE, False),
        (PauseReason.BY_HAND, Outcome.LIMITED, False),
        (PauseReason.LIMITED, Outcome.INTERRUPTED, False),
        (PauseReason.LIMITED, Outcome.LIMITED, True),
    ],
)
def test_a_pause_that_was_ended_meanwhile_comes_by_no_settlement_that_only_left_it(
    folder: StateFolder, reason: PauseReason, outcome: Outcome, stands: bool
) -> None:
    """Found by a schedule: paused, a turn ends and is decided on, resumed, its settlement applied."""
    pause = state_of(folder).pause
    left = Pause(reason, NOW - 1.0, NOW + 600.0)
    pause.settled(Settlement(outcome, "", NOW, 5.0, finished=True, pause=left), NOW - 5.0)
    assert (pause.read() is not None) is stands


def test_a_pause_by_hand_that_came_while_a_turn_was_settled_stands(folder: StateFolder) -> None:
    pause = state_of(folder).pause
    pause.write(by_hand := Pause(PauseReason.BY_HAND, NOW))
    limit = Pause(PauseReason.LIMITED, NOW, NOW + 600.0)
    pause.settled(Settlement(Outcome.LIMITED, "", NOW, 5.0, finished=False, pause=limit), NOW - 5.0)
    assert pause.read() == by_hand
    pause.settled(Settlement(Outcome.DONE, "", NOW + 60.0, 5.0, finished=True), NOW + 55.0)
    assert pause.read() == by_hand


def test_a_pause_by_hand_stands_whatever_the_account_meets(folder: StateFolder) -> None:
    account = AccountPause(folder.path.parent / "accounts", "a", folder.disk, folder.clamp, folder.damaged)
    pause = State(folder, EventLog(folder.log, folder.disk, folder.clock), account).pause
    pause.write(by_hand := Pause(PauseReason.BY_HAND, NOW))
    account.write(Pause(PauseReason.LIMITED, NOW + 1.0, NOW + 600.0))
    assert pause.current() == pause.read() == by_hand
    account.clear()
    assert pause.current() == pause.read() == by_hand


def test_the_end_of_an_own_outage_ends_no_limit_of_the_account_and_who_probed_it_once_lets_others(
    folder: StateFolder,
) -> None:
    def of_the_account() -> AccountPause:
        return AccountPause(folder.path.parent / "accounts", "a", folder.disk, folder.clamp, folder.damaged)

    account = of_the_account()
    pause = State(folder, EventLog(folder.log, folder.disk, folder.clock), account).pause
    pause.write(outage := Pause(PauseReason.UNAVAILABLE, NOW))
    account.write(limit := Pause(PauseReason.LIMITED, NOW))
    pause.lift(outage)
    assert account.read() == limit
    # However often it looks while its probe runs, it lets the probe go once.
    assert pause.may_probe(limit)
    assert pause.may_probe(limit)
    assert not of_the_account().may_probe()
    pause.end_probe()
    assert of_the_account().may_probe()


# Usage.


def test_a_turn_is_added_once(folder: StateFolder) -> None:
    for _ in range(2):
        UsageLedger(folder).add("turn-1", NOW, 1.5, Usage(1, 2, 0.5))
    UsageLedger(folder).add("turn-2", NOW, 1.0, Usage())
    today = UsageLedger(folder).today()
    assert (today.turns, today.seconds, today.usage) == (2, 2.5, Usage(1, 2, 0.5))


@pytest.mark.parametrize("garbage", [b"{", b"[]", b'{"days": {"x": 1}}', b"[" * 100_000])
def test_damaged_usage_starts_anew(folder: StateFolder, garbage: bytes) -> None:
    (folder.path / "usage.json").write_bytes(garbage)
    UsageLedger(folder).add("turn-1", NOW, 1.0, Usage())
    assert UsageLedger(folder).today().turns == 1
    assert len(list(folder.path.glob("usage.json.corrupt-*"))) == 1


@pytest.mark.parametrize("moment", [1e300, -1e300, 253_402_300_800.0])
def test_a_moment_that_is_no_day_counts_today(folder: StateFolder, moment: float) -> None:
    ledger = UsageLedger(folder)
    ledger.add("turn-1", moment, 1.0, Usage())
    assert ledger.today().turns == 1


def test_of_many_days_the_oldest_are_forgotten(folder: StateFolder) -> None:
    days = {iso(NOW - number * 86400)[:10]: {"total": {"turns": 1}} for number in range(1, KEEP_DAYS + 1)}
    (folder.path / "usage.json").write_text(json.dumps({"days": days}))
    ledger = UsageLedger(folder)
    ledger.add("turn-1", NOW, 1.0, Usage())
    assert list(ledger.days()) == [*sorted(days)[1:], iso(NOW)[:10]]


def test_days_are_kept_apart_however_the_clock_jumps(folder: StateFolder, clock: FakeClock) -> None:
    ledger = UsageLedger(folder)
    for n, moment in enumerate((NOW, NOW + 400 * 86400, NOW - 86400, NOW)):
        ledger.add(f"turn-{n}", moment, 1.0, Usage())
    assert UsageLedger(folder).today().turns == 2
    clock.moment += 400 * 86400
    assert UsageLedger(folder).today().turns == 1


# Requests.


def test_requests_are_answered_in_order(folder: StateFolder, clock: FakeClock) -> None:
    box = RequestBox(folder)
    names = []
    for _ in range(3):
        clock.moment += 0.001
        names.append(box.submit(Request(Verb.PAUSE)))
    assert [name for name, _ in box.waiting()] == names
    box.answer(names[0], Answer(ok=True, lines=("x",)))
    assert [name for name, _ in box.waiting()] == names[1:]
    assert box.take_answer(names[0]) == Answer(ok=True, lines=("x",))
    assert box.take_answer(names[0]) is None
    assert box.withdraw(names[1])
    assert not box.withdraw(names[1])


def test_a_request_reaches_a_watcher_that_has_only_begun(folder: StateFolder) -> None:
    folder.requests.rmdir()
    name = RequestBox(folder).submit(Request(Verb.PAUSE))
    assert [found for found, _ in RequestBox(folder).waiting()] == [name]


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b"[" * 100_000, b'{"verb": "explode"}', b'{"verb": "pause", "targets": 5}', b"\xff"]
)
def test_what_is_no_request_is_seen_as_none(folder: StateFolder, garbage: bytes) -> None:
    (folder.requests / "1.json").write_bytes(garbage)
    box = RequestBox(folder)
    good = box.submit(Request(Verb.RESUME))
    assert dict(box.waiting()) == {"1": None, good: Request(Verb.RESUME)}
    (folder.requests / "1.answer").write_bytes(garbage)
    assert box.take_answer("1") is None


def test_a_request_that_is_no_file_is_set_aside(folder: StateFolder) -> None:
    os.mkfifo(folder.requests / "1.json")
    (folder.requests / "2.json").mkdir()
    (folder.requests / "3.json").symlink_to("nowhere")
    box = RequestBox(folder)
    assert box.waiting() == []
    assert {p.name.split(".corrupt")[0] for p in folder.requests.iterdir()} == {"1.json", "2.json", "3.json"}
    assert len(list(folder.requests.glob("*.corrupt-*"))) == 3


def test_answers_nobody_fetched_go(folder: StateFolder, clock: FakeClock) -> None:
    box = RequestBox(folder)
    box.answer("1", Answer(ok=True, lines=()))
    (folder.requests / ".tmp.x.json.1").touch()
    clock.moment = (folder.requests / "1.answer").stat().st_mtime
    box.tidy()
    assert len(list(folder.requests.iterdir())) == 2
    clock.moment += 301
    waiting = box.submit(Request(Verb.PAUSE))
    box.tidy()
    assert [p.name for p in folder.requests.iterdir()] == [f"{waiting}.json"]


def test_a_history_of_other_turns_is_read(folder: StateFolder) -> None:
    kept = entry(history=(Attempt("turn-0", Outcome.LIMITED, "quota", NOW),))
    state_of(folder).retries.put(kept)
    assert state_of(folder).retries.get("m") == kept
