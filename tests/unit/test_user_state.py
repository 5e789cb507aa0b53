"""What lies in the user's own state folder, damaged or left: it is told, and stops nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import until
from tests.refusing import without_descriptors

from agent_mailer.approvals.calls import Call
from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.live.heard import Program
from agent_mailer.live.sessions import KEPT_SECONDS, LiveSession, LiveSessions
from agent_mailer.lying import SETTLED_NS
from agent_mailer.mailbox.maildir.remembered import INODE_BYTES, Remembered
from agent_mailer.mailbox.port import Envelope
from agent_mailer.process.handle import identify
from agent_mailer.remote.port import Answered, Became
from agent_mailer.schedules.due import Known
from agent_mailer.state import State
from agent_mailer.state.approvals import Answer, Approval, By, Verdict
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb, Raised, Standing
from agent_mailer.state.pauses import AccountPause
from agent_mailer.state.presence import Presence
from agent_mailer.state.records import (
    AfterStop,
    DeadLetter,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    SessionEntry,
    Sitter,
    StopAsked,
    TurnRecord,
)
from agent_mailer.state.stuck import StuckKind
from agent_mailer.state.usage import REMEMBER_TURNS

NOW = 1_700_000_000.0


Told = list[tuple[Path, str]]


def state_in(workdir: Path, *, ours: bool) -> tuple[State, Told]:
    """As the next process finds it, and what it was told of as damaged."""
    told: Told = []
    StateFolder(workdir, Disk(), FakeClock(NOW)).prepare()
    folder = StateFolder(workdir, Disk(), FakeClock(NOW), damaged=lambda path, why: told.append((path, why)))
    if ours:
        folder.hold()
    return State(folder, EventLog(folder.log, folder.disk, folder.clock)), told


FILES: dict[str, tuple[Callable[[State], Path], Callable[[State], bool]]] = {
    "what a person has said for good": (
        lambda state: state.lifts.folder / "standing.json",
        lambda state: state.lifts.standing == Standing(),
    ),
    "the book of requests from afar": (lambda state: state.remote._path, lambda state: state.remote.seen == 0),
}


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_counts_as_none_and_is_set_aside_by_who_holds_the_lock(
    tmp_path: Path, name: str, ours: bool
) -> None:
    state, told = state_in(tmp_path, ours=ours)
    path, counts_as_none = FILES[name]
    path(state).parent.mkdir(parents=True)
    path(state).write_bytes(b"{")
    assert counts_as_none(state)
    assert path(state).exists() is not ours
    assert len(list(path(state).parent.glob(f"{path(state).name}.corrupt-*"))) == ours
    assert [damaged for damaged, _ in told] == [path(state)]


def test_of_several_answers_to_requests_from_afar_each_waits_until_it_was_told(tmp_path: Path) -> None:
    state, _ = state_in(tmp_path, ours=True)
    answers = [Answered(number, Became.DONE) for number in (1, 2, 3)]
    for one in answers:
        state.remote.end(one)
    state.remote.told(answers[1])
    assert state_in(tmp_path, ours=True)[0].remote.untold == (answers[0], answers[2])


def test_what_a_person_has_said_stands_beside_what_he_says_next(tmp_path: Path) -> None:
    workdir = tmp_path / "coder"
    state, _ = state_in(workdir, ours=True)
    clock = state.folder.clock
    assert isinstance(clock, FakeClock)
    state.lifts.allow(("ann", "bob"))
    for_a_minute = Raised(1.0, NOW + 60.0)
    state.lifts.set_aside({"old": Raised(1.0, NOW + 1.0), "a": for_a_minute, "b": for_a_minute})
    clock.moment += 2.0
    state.lifts.allow(("eve", "ann"))
    state.lifts.disallow(("bob",))
    state.lifts.set_aside({"b": Raised(2.0, NOW + 90.0)})
    said = Standing(("ann", "eve"), {"a": for_a_minute, "b": Raised(2.0, NOW + 90.0)})
    assert state.lifts.standing == said
    # By whatever name its workdir is called.
    (tmp_path / "link").symlink_to(workdir)
    assert state_in(tmp_path / "link", ours=False)[0].lifts.standing == said
    assert (state.lifts.raised("a"), state.lifts.raised("b"), state.lifts.raised("c")) == (1.0, 2.0, None)
    clock.moment = NOW + 60.0
    assert (state.lifts.raised("a"), state.lifts.raised("b")) == (None, 2.0)


def test_an_order_lies_among_the_orders_and_is_no_file_that_an_agent_has_made(tmp_path: Path) -> None:
    state, _ = state_in(tmp_path, ours=True)
    order = Order(OrderVerb.ALLOW, ("mallory",))
    name = state.lifts.give(order)
    assert state.lifts.order(name) == order
    (tmp_path / "made.order").write_bytes(msgspec.json.encode(order))
    assert state.lifts.order(os.path.relpath(tmp_path / "made", state.lifts.folder)) is None
    assert state.lifts.order(str(tmp_path / "made")) is None


TURN = "20260101T000001-00000000"
MAIL = Envelope("m", "t", "user", 0.0, "1", "m.md")
QUESTION = Approval("q-1", "", Call("Bash", "{}"), "d", TURN, "m", "t", "user", "", NOW, NOW + 60.0)
ACCOUNT = "account"


@cache
def account_of(state: State) -> AccountPause:
    folder = state.folder
    return AccountPause(folder.workdir / ACCOUNT, "a", folder.disk, folder.clamp, folder.damaged)


def answered(state: State) -> None:
    state.approvals.ask([QUESTION])
    state.approvals.answer(QUESTION, Answer(Verdict.DENY, NOW, By.COMMAND))


def stopped(state: State) -> None:
    state.turns.create(TurnRecord(TURN, MAIL, Phase.CLAIMED, "command", NOW))
    state.turns.ask_stop(TURN, StopAsked(AfterStop.DROP, NOW))


READ: dict[str, tuple[Callable[[State], object], Callable[[State], object]]] = {
    "what a person has said for good": (lambda s: s.lifts.allow(("ann",)), lambda s: s.lifts.standing),
    "what was asked from afar": (lambda s: s.remote.end(Answered(7, Became.DONE)), lambda s: s.remote.seen),
    "a question": (lambda s: s.approvals.ask([QUESTION]), lambda s: s.approvals.get("q-1")),
    "the questions": (lambda s: s.approvals.ask([QUESTION]), lambda s: s.approvals.open()),
    "its answer": (
        answered,
        lambda s: s.approvals.answer_to("q-1"),
    ),
    "a turn's record": (
        lambda s: s.turns.create(TurnRecord(TURN, MAIL, Phase.CLAIMED, "command", NOW)),
        lambda s: s.turns.load(TURN),
    ),
    "that a turn is to be stopped": (
        stopped,
        lambda s: s.turns.stop_asked(TURN),
    ),
    "the pause of an account": (
        lambda s: account_of(s).write(Pause(PauseReason.LIMITED, NOW)),
        lambda s: account_of(s).read(),
    ),
    "what was settled": (lambda s: s.processed.add("m"), lambda s: "m" in s.processed),
    "what is to be run again": (lambda s: s.retries.put(RetryEntry(MAIL)), lambda s: s.retries.get("m")),
    "what is held": (lambda s: s.held.add([HeldEntry("m", envelope=MAIL)]), lambda s: list(s.held.waiting)),
    "what is stuck": (lambda s: s.stuck.add(StuckKind.NO_WAY_BACK, "m", MAIL, "why"), lambda s: s.stuck.waiting),
    "what was given up": (
        lambda s: s.dead_letters.add(DeadLetter("m", turn_id=TURN), again=False),
        lambda s: s.dead_letters.find("m"),
    ),
    "what leaves by the clock": (lambda s: s.schedules.put("a", Known("line", 1.0)), lambda s: s.schedules.all),
    "a session": (lambda s: s.sessions.put("t", SessionEntry("s", generation=1)), lambda s: s.sessions.get("t")),
}


@pytest.mark.parametrize("name", READ)
def test_what_cannot_be_read_just_now_counts_as_nothing_to_nobody(tmp_path: Path, name: str) -> None:
    """A system without descriptors: the file is whole, and is neither set aside nor written over."""
    write, read = READ[name]
    write(state_in(tmp_path, ours=True)[0])
    state, told = state_in(tmp_path, ours=True)
    (tmp_path / ACCOUNT).mkdir(exist_ok=True)
    known = read(state_in(tmp_path, ours=True)[0])
    assert known
    # Its folder is made while that can be.
    account_of(state)
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        read(state)
    assert read(state) == known
    assert told == []


@pytest.mark.parametrize("until", [None, NOW + 600.0])
def test_the_pause_of_an_account_is_what_it_says_and_none_where_it_is_damaged(
    tmp_path: Path, until: float | None
) -> None:
    told: Told = []
    pause = AccountPause(tmp_path, "a", Disk(), lambda at, _: at, lambda path, why: told.append((path, why)))
    begun = Pause(PauseReason.SIGNED_OUT, NOW, until)
    pause.write(begun)
    assert (pause.read(), told) == (begun, [])
    [file] = tmp_path.glob("*.json")
    file.write_bytes(b"{")
    assert pause.read() is None
    assert [path for path, _ in told] == [file]


def test_a_watcher_is_known_again_by_its_folder_and_who_only_looks_gives_it_no_name(tmp_path: Path) -> None:
    looking, _ = state_in(tmp_path, ours=False)
    assert looking.folder.watcher_id() == ""
    watching, _ = state_in(tmp_path, ours=True)
    name = watching.folder.watcher_id()
    assert len(name) == 32
    assert looking.folder.watcher_id() == watching.folder.watcher_id() == name


# Live sessions.


def test_files_of_sessions_that_ended_long_ago_go_and_those_of_who_lives_stay(tmp_path: Path) -> None:
    sessions = LiveSessions(tmp_path, Disk())
    ended = subprocess.Popen(["sleep", "60"])
    gone = LiveSession(Program.CLAUDE, "gone", identify(ended.pid))
    ended.kill()
    ended.wait()
    lives = LiveSession(Program.CLAUDE, "lives", identify(os.getpid()))
    new = LiveSession(Program.CODEX, "new")
    for session in (gone, lives, new):
        sessions.keep(session)
        assert not sessions.is_listened_for(session)
    assert len(list(tmp_path.iterdir())) == 6
    for session in (gone, lives):
        for path in (sessions.path(session), sessions.path(session).with_suffix(".lock")):
            os.utime(path, (0.0, os.stat(path).st_mtime - KEPT_SECONDS - 60.0))
    sessions.forget_old()
    kept = {f"{session.name}.{ending}" for session in (lives, new) for ending in ("json", "lock")}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_seat_that_nobody_holds_any_more_is_taken_away(tmp_path: Path) -> None:
    presence = Presence(tmp_path, Disk())
    me = identify(os.getpid())
    assert me is not None
    held = presence.sit(Sitter("here", me))
    left = presence.sit(Sitter("gone", me))
    left.release()
    assert [one.who for one in presence.there()] == ["here"]
    assert [path.name for path in presence.folder.glob("*.lock")] == [held.path.name]
    presence.leave(held)


def test_a_session_in_the_folder_and_a_watcher_that_came_by_a_link_meet(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    me = identify(os.getpid())
    assert me is not None
    held = Presence(tmp_path / "real", Disk()).sit(Sitter("here", me))
    assert [one.who for one in Presence(tmp_path / "link", Disk()).there()] == ["here"]
    held.release()


# What a mailbox remembers of mail.


def test_what_is_remembered_of_files_that_are_gone_counts_for_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    names = ("a", "b")
    known: dict[str, bytes] = {}
    for name in names:
        (folder / name).write_bytes(b"x")
        known[name] = os.stat(folder / name).st_ino.to_bytes(INODE_BYTES) + b"read"
    remembered = Remembered(Disk(), tmp_path / "remembered")
    assert remembered.add(tmp_path / "nowhere", known.items()) == set()
    until(lambda: os.stat(folder / "b").st_ctime_ns < time.time_ns() - SETTLED_NS, "its files have rested")
    assert remembered.add(folder, known.items()) == {"a", "b"}
    (folder / "a").unlink()
    again = Remembered(Disk(), tmp_path / "remembered")
    again.load()
    assert again.of(folder, names) == {"b": known["b"]}
    assert again.of(folder, names) is None
    third = Remembered(Disk(), tmp_path / "remembered")
    third.load()
    folder.rename(tmp_path / "elsewhere")
    assert third.of(folder, names) is None


def test_an_older_request_from_afar_that_is_refused_late_lets_no_other_come_again(tmp_path: Path) -> None:
    state, _ = state_in(tmp_path, ours=True)
    for number in (9, 7):
        state.remote.end(Answered(number, Became.REFUSED))
        assert state.remote.seen == 9
    state.remote.end(Answered(10, Became.DONE))
    state.remote.told(Answered(7, Became.REFUSED))
    assert [one.number for one in state.remote.untold] == [9, 10], "of the others is still to be told"


def test_the_newest_turns_are_counted_once_however_many_there_were(tmp_path: Path) -> None:
    state, _ = state_in(tmp_path, ours=True)
    for number in range(REMEMBER_TURNS + 2):
        state.usage.add(str(number), 1.0, 1.0, None)
    before = repr(state.usage.days())
    for number in (REMEMBER_TURNS + 1, REMEMBER_TURNS):
        state.usage.add(str(number), 1.0, 1.0, None)
    assert repr(state.usage.days()) == before
