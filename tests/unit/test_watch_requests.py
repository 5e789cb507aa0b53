"""What commands ask of a workdir: how much of it at once, what is said of it, and what it leaves known."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.refusing import Died, On, Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import new_turn_id
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import DeadLetter, Pause, PauseReason, Phase, Sitter, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch import requests
from agent_mailer.watch.given_up import take_up_again
from agent_mailer.watch.requests import LINES, apply, told_of

NOW = 1_800_000_000.0


scene = scene_at(lambda: FakeClock(NOW))


@pytest.mark.parametrize("paused", [PauseReason.SIGNED_OUT, PauseReason.BY_HAND, None])
def test_whoever_resumes_has_logged_in(scene: Scene, paused: PauseReason | None) -> None:
    """`status` would go on saying that there is no login until a turn has gone well, and mail may be long in coming."""
    state = scene.state
    state.login.learn(SignedOut(NOW, "not logged in"))
    if paused is not None:
        state.pause.write(Pause(paused, NOW))
    said = apply(state, Request(Verb.RESUME))
    assert (said.ok, said.lines) == (True, ("resumed" if paused else "nothing was paused",))
    assert (scene.desk.place().state.login.read(), state.pause.read()) == (None, None)
    # What was asked of the program before comes too late.
    state.login.learn(SignedOut(NOW, "not logged in"))
    assert state.login.read() is None


def test_what_a_killed_watcher_had_begun_to_give_a_session_is_that_sessions_alone(scene: Scene) -> None:
    envelope = scene.mail()
    sitters = [Sitter("claude-1", ProcessIdentity(11, 1, "boot")), Sitter("claude-2", ProcessIdentity(12, 1, "boot"))]
    record = TurnRecord(new_turn_id(NOW), envelope, Phase.RUNNING, "live", NOW, live=sitters[0])
    scene.state.turns.create(record)
    asked = [apply(scene.state, Request(Verb.TAKE, (envelope.id,), by=one)) for one in sitters]
    assert [one.ok for one in asked] == [True, False]
    assert asked[0].lines == (record.turn_id,)


@pytest.fixture
def stuck(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Three of each of two kinds, where two are taken up at once."""
    assert requests.MOST_AT_ONCE == 1000
    monkeypatch.setattr(requests, "MOST_AT_ONCE", 2)
    for number in range(3):
        gone, lost = (Envelope(f"{name}{number}", "t", "user", NOW, "o", "l") for name in ("gone", "lost"))
        scene.state.dead_letters.add(DeadLetter(gone.id, gone.thread, envelope=gone), again=False)
        scene.state.stuck.add(StuckKind.NOT_FETCHED, lost.id, lost, "why")
    return scene


def left(scene: Scene) -> tuple[int, int]:
    """Given up, and not to be fetched."""
    return len(scene.state.dead_letters.all()), len(scene.state.stuck.all())


def test_of_very_much_that_is_stuck_so_much_is_taken_up_at_once_whatever_its_kind(stuck: Scene) -> None:
    """Beyond it the loop would stand still; what is left is said."""
    first = apply(stuck.state, Request(Verb.STUCK_RETRY))
    assert left(stuck) == (1, 3)
    assert first.lines[-1] == "4 more are left for the next time: say it again"
    assert apply(stuck.state, Request(Verb.STUCK_RETRY)).lines[-1].startswith("2 more are left")
    assert left(stuck) == (0, 2)
    assert "are left" not in apply(stuck.state, Request(Verb.STUCK_RETRY)).lines[-1]
    assert left(stuck) == (0, 0)
    assert apply(stuck.state, Request(Verb.STUCK_RETRY)).lines == ("nothing is stuck",)


def test_who_asks_for_what_was_given_up_gets_it_once_whatever_ends_the_asking(tmp_path: Path) -> None:
    """Killed at any call of the disk, and asked again."""
    for number in count():
        desk = Desk(tmp_path / str(number))
        place = desk.place()
        place.folder.hold()
        one = Envelope("gone", "t", "user", NOW, "o", "l")
        place.state.dead_letters.add(DeadLetter(one.id, one.thread, envelope=one), again=False)
        place.state.processed.add(one.id)
        place.disk.system = refusing = Refusing("*", *On, code=None, after=number)
        with suppress(Died):
            take_up_again(place.state, [one.id])
        state = desk.place().state
        state.folder.hold()
        take_up_again(state, [one.id])
        assert one.id not in state.processed, number
        assert [entry.envelope.id for entry in state.retries.all()] == [one.id], number
        assert state.dead_letters.find(one.id) is None, number
        if not refusing.refused:
            break
    assert number > 5


@pytest.mark.parametrize("key", ["my notes.md", " ", "a b c", "not-fetched x"])
def test_what_is_stuck_is_taken_by_its_whole_name(stuck: Scene, key: str) -> None:
    scene = stuck
    scene.state.stuck.add(StuckKind.NOT_FETCHED, key, scene.mail(), "why")
    before = left(scene)[1]
    said = apply(scene.state, Request(Verb.STUCK_DROP, (f"{StuckKind.NOT_FETCHED.value} {key}",)))
    assert left(scene)[1] == before - 1, said
    assert all(one.key != key for one in scene.state.stuck.all())


def test_what_was_given_up_is_forgotten_at_once_however_much_it_is(stuck: Scene) -> None:
    """That is one write; the rest is one each."""
    assert apply(stuck.state, Request(Verb.STUCK_DROP)).lines[-1] == "3 more are left for the next time: say it again"
    assert left(stuck) == (0, 3)
    apply(stuck.state, Request(Verb.STUCK_DROP))
    assert left(stuck) == (0, 1)


@pytest.mark.parametrize("more", [0, 7])
def test_of_many_lines_those_that_failed_are_told_first_and_how_many_there_were(more: int) -> None:
    results = [(number != LINES, f"{number}: said") for number in range(LINES + 1)]
    told = told_of(results, more)
    assert told.lines[:2] == (f"{LINES}: said", "0: said")
    assert told.lines[LINES] == f"… in all {LINES + 1}, of which {LINES} went well"
    assert told.lines[LINES + 1 :] == (("7 more are left for the next time: say it again",) if more else ())
    assert told_of(results[:LINES], 0).lines == tuple(f"{number}: said" for number in range(LINES))


def test_what_is_typed_as_a_reason_is_one_line_of_bounded_length(scene: Scene) -> None:
    typed = "I look\nat it \x1b[31m" + "x" * 9000
    apply(scene.state, Request(Verb.PAUSE, reason=typed))
    turn = TurnRecord(new_turn_id(NOW), scene.mail(), Phase.RUNNING, "command", NOW)
    scene.state.turns.create(turn)
    apply(scene.state, Request(Verb.TURNS_STOP, (turn.turn_id,), reason=typed))
    pause, stop = scene.state.pause.read(), scene.state.turns.stop_asked(turn.turn_id)
    assert pause is not None
    assert stop is not None
    for reason, longest in ((pause.detail, 200), (stop.reason, 300)):
        assert reason.startswith("I look at it")
        assert (reason.isprintable(), len(reason)) == (True, longest)
