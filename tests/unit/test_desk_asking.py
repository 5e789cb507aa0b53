"""Having a workdir's state changed: by who watches it, by who asks where nobody does, or by nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.desk import PATIENCE, Desk, until
from tests.refusing import On, Refusing

from agent_mailer.assemble import Workplace
from agent_mailer.desk.asking import ask, order, watched
from agent_mailer.disk import SystemCalls
from agent_mailer.errors import UnavailableFault, UsageFault
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.lock import LockHolder, WorkdirLock, holder_of
from agent_mailer.state.records import DeadLetter, RetryEntry, Settlement
from agent_mailer.state.requests import ANSWER_SUFFIX, MAILBOX_WAITS, Answer, Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.teams.running import require_no_stranger
from agent_mailer.watch.probes import decide_pause
from agent_mailer.watch.requests import apply, apply_waiting

PAUSE = Request(Verb.PAUSE, reason="lunch")
ALLOW = Order(OrderVerb.ALLOW, ("ann",))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("agent_mailer.desk.asking.LOCK_EVERY", 0.01)
    return Desk(tmp_path)


@contextmanager
def holding(desk: Desk, heeds: Callable[[Workplace], object]) -> Iterator[None]:
    """Some process holds the workdir, and does that once it is asked."""
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    place.prepare()

    def watch() -> None:
        until(place.state.requests.waiting, "it is asked")
        heeds(place)
        lock.release()

    holder = threading.Thread(target=watch)
    holder.start()
    try:
        yield
    finally:
        holder.join()


def paused(desk: Desk) -> str:
    known = desk.place().state.pause.read()
    return "" if known is None else known.detail


def test_who_watches_does_it(desk: Desk) -> None:
    with holding(desk, lambda place: apply_waiting(place.state)):
        assert watched(desk.place())
        assert ask(desk.place(), PAUSE).ok
    assert (paused(desk), watched(desk.place())) == ("lunch", False)
    assert not desk.place().state.requests.waiting()


@pytest.mark.parametrize(
    "looks", [watched, lambda place: ask(place, PAUSE), lambda place: require_no_stranger({"agent": place}, "amp-team")]
)
def test_who_holds_the_workdir_for_a_moment_is_taken_for_nobody_who_watches_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, looks: Callable[[Workplace], object]
) -> None:
    """A watcher that comes meanwhile would be refused by that name, instead of waiting for the moment's end."""
    names, lets_go = list[LockHolder | None](), WorkdirLock.release

    def seen(lock: WorkdirLock) -> None:
        assert lock.still_ours()
        names.append(holder_of(desk.state / ".lock"))
        lets_go(lock)

    desk.place().folder.hold()
    monkeypatch.setattr(WorkdirLock, "release", seen)
    looks(desk.place())
    assert names == [None]


def leaves_it(place: Workplace) -> None:
    del place


def dies_over_it(place: Workplace) -> None:
    [(name, _)] = place.state.requests.waiting()
    assert place.state.requests.take(name)


@pytest.mark.parametrize("holder", [leaves_it, dies_over_it])
def test_who_leaves_or_dies_before_it_is_done_leaves_it_to_who_asks_and_nothing_to_the_next(
    desk: Desk, holder: Callable[[Workplace], None]
) -> None:
    with holding(desk, holder):
        assert ask(desk.place(), PAUSE).ok
    assert paused(desk) == "lunch"
    assert ask(desk.place(), Request(Verb.RESUME)).ok
    apply_waiting(desk.place().state)
    assert paused(desk) == "", "what was asked for since stands"
    assert not desk.place().state.requests.waiting()


@pytest.mark.parametrize("meanwhile", [True, False])
def test_who_does_it_himself_takes_nothing_back_of_what_a_watcher_did_since_he_has_looked(
    desk: Desk, meanwhile: bool
) -> None:
    """Else a message that waits to be tried again is lost, or what was removed runs again."""
    given_up, failed, done = (Envelope(name, "t", "user", 1.0, "", "") for name in ("given-up", "failed", "done"))
    before = desk.place()
    before.folder.hold()
    before.state.dead_letters.add(DeadLetter(given_up.id, given_up.thread, envelope=given_up), again=False)
    before.state.retries.put(RetryEntry(done))
    place = desk.place()
    assert [entry.envelope for entry in place.state.retries.all()] == [done]

    def works(watcher: Workplace) -> None:
        watcher.state.retries.put(RetryEntry(failed))
        watcher.state.retries.remove(done.id)

    if not meanwhile:
        works(before)
    with holding(desk, works) if meanwhile else nullcontext():
        assert ask(place, Request(Verb.STUCK_RETRY, (f"{StuckKind.GIVEN_UP.value} {given_up.id}",))).ok
    assert {entry.envelope.id for entry in desk.place().state.retries.all()} == {given_up.id, failed.id}


@pytest.mark.parametrize("asks", [lambda place: ask(place, PAUSE), lambda place: order(place, ALLOW)])
def test_a_watcher_that_does_not_answer_changes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, asks: Callable[[Workplace], object]
) -> None:
    monkeypatch.setattr("agent_mailer.desk.asking.ANSWER_SECONDS", 0.05)
    lock = desk.place().lock()
    lock.acquire()
    desk.place().prepare()
    try:
        with pytest.raises(UnavailableFault, match="nothing was changed"):
            asks(desk.place())
    finally:
        lock.release()
    state = desk.place().state
    assert not state.requests.waiting()
    apply_waiting(state)
    assert (paused(desk), state.lifts.standing.allowed) == ("", ())
    assert not [*state.lifts.folder.glob("*.order")], "what was ordered is not left for later"


@pytest.mark.parametrize("asks", [lambda place: ask(place, PAUSE), lambda place: order(place, ALLOW)])
def test_a_watcher_that_waits_for_its_mailbox_finds_nothing_left_to_do_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, asks: Callable[[Workplace], object]
) -> None:
    waited = threading.Event()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 60 * waited.is_set(), sleep=time.sleep)
    monkeypatch.setattr("agent_mailer.desk.asking.time", clock)
    monkeypatch.setattr("agent_mailer.desk.asking.PING_AFTER", 0.0)

    def waits(place: Workplace) -> None:
        def pinged() -> list[str]:
            return [name for name, asked in place.state.requests.waiting() if asked == Request(Verb.PING)]

        until(pinged, "it is asked why")
        [name] = pinged()
        place.state.requests.answer(name, Answer(ok=False, lines=("since noon", "", MAILBOX_WAITS)))
        until(lambda: not (place.folder.requests / f"{name}{ANSWER_SUFFIX}").exists(), "that is heard")
        waited.set()
        until(lambda: not place.state.requests.waiting(), "it is taken back")

    with holding(desk, waits), pytest.raises(UnavailableFault, match="its mailbox: since noon; nothing was changed"):
        asks(desk.place())
    state = desk.place().state
    assert not state.requests.waiting()
    assert not [*state.lifts.folder.glob("*.order")]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize("asks", [lambda place: ask(place, PAUSE), lambda place: order(place, ALLOW)])
def test_what_a_watcher_has_done_when_the_time_is_up_is_told_as_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, asks: Callable[[Workplace], Answer], takes: bool, half: bool
) -> None:
    """Else a person asks for it once more. `half`: the answer is there, and so is what was asked for still. A wish for
    a message is answered without being taken.
    """
    done, looks = threading.Event(), count()

    def monotonic() -> float:
        # A minute passes from look to look, and the watcher is no quicker than the first of them.
        number = next(looks)
        assert not number or done.wait(PATIENCE)
        return 60.0 * number

    def does(place: Workplace) -> None:
        if half:
            place.disk.system = Refusing("requests/*.[jt]*", On.UNLINK)
        with suppress(OSError):
            if takes:
                apply_waiting(place.state)
            else:
                [(name, request)] = place.state.requests.waiting()
                assert request is not None
                place.state.requests.answer(name, apply(place.state, request))
        done.set()

    monkeypatch.setattr("agent_mailer.desk.asking.time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    with holding(desk, does):
        answer = asks(desk.place())
    assert answer.ok
    state = desk.place().state
    assert (paused(desk), state.lifts.standing.allowed) in (("lunch", ()), ("", ("ann",)))
    assert not state.requests.waiting(), "else it would be done once more"


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_watcher_has_begun_with_when_the_time_is_up_is_not_told_as_left(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """It is waited for, and who gives that up, too, hears that it will be done."""
    begun, goes_on, looks = threading.Event(), threading.Event(), count()

    class Slow(SystemCalls):
        def replace(self, source: Path, target: Path) -> None:
            if target.name == "pause.json":
                begun.set()
                assert goes_on.wait(PATIENCE)
            super().replace(source, target)

    def monotonic() -> float:
        # The time is up while the watcher is at it; whether it ends soon or not is heard by the fourth look.
        number = next(looks)
        assert not number or begun.wait(PATIENCE)
        if ends and number > 3:
            goes_on.set()
        return (60.0 if number else 0.0) if ends else 60.0 * number

    def does(place: Workplace) -> None:
        place.disk.system = Slow()
        apply_waiting(place.state)

    monkeypatch.setattr("agent_mailer.desk.asking.time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    with holding(desk, does):
        try:
            if ends:
                assert ask(desk.place(), PAUSE).ok
            else:
                with pytest.raises(UnavailableFault, match="still at what was asked: it will be done"):
                    ask(desk.place(), PAUSE)
        finally:
            goes_on.set()
    assert paused(desk) == "lunch"
    assert not desk.place().state.requests.waiting()


def test_what_a_person_has_ordered_is_done_by_the_next_watcher_where_one_dies_over_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, over, looks = threading.Event(), threading.Event(), count()

    def monotonic() -> float:
        number = next(looks)
        assert not number or taken.wait(PATIENCE)
        return 60.0 * number

    def dies(place: Workplace) -> None:
        [(name, _)] = place.state.requests.waiting()
        assert place.state.requests.take(name)
        taken.set()
        assert over.wait(PATIENCE)

    monkeypatch.setattr("agent_mailer.desk.asking.time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    with holding(desk, dies):
        try:
            with pytest.raises(UnavailableFault, match="it will be done"):
                order(desk.place(), ALLOW)
        finally:
            over.set()
    state = desk.place().state
    apply_waiting(state)
    assert state.lifts.standing.allowed == ("ann",)
    assert not [*state.lifts.folder.glob("*.order")]


def test_what_a_crash_left_under_both_its_names_is_done_once(desk: Desk) -> None:
    """A file system that cannot rename without replacing links first."""
    place = desk.place()
    place.prepare()
    name = place.state.requests.submit(PAUSE)
    (place.folder.requests / f"{name}.taken").hardlink_to(place.folder.requests / f"{name}.json")
    apply_waiting(place.state)
    assert len(desk.log(EventName.REQUEST_APPLIED)) == 1
    assert not place.state.requests.waiting()


def test_what_a_watcher_dies_over_when_the_time_is_up_is_done_by_who_asks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, looks = threading.Event(), count()

    def monotonic() -> float:
        # The time is up as soon as it was taken; from then on none passes.
        return 60.0 if next(looks) and taken.wait(PATIENCE) else 0.0

    def dies(place: Workplace) -> None:
        [(name, _)] = place.state.requests.waiting()
        assert place.state.requests.take(name)
        taken.set()

    monkeypatch.setattr("agent_mailer.desk.asking.time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    with holding(desk, dies):
        assert ask(desk.place(), PAUSE).ok
    assert (paused(desk), desk.place().state.requests.waiting()) == ("lunch", [])


def test_what_was_taken_back_is_not_done_by_who_has_read_it_already(desk: Desk) -> None:
    place = desk.place()
    place.prepare()
    names = [place.state.requests.submit(PAUSE) for _ in range(2)]

    class Withdrawing(SystemCalls):
        def replace(self, source: Path, target: Path) -> None:
            if target.name == "pause.json":
                assert desk.place().state.requests.withdraw(names[1])
            super().replace(source, target)

    place.disk.system = Withdrawing()
    apply_waiting(place.state)
    assert desk.place().state.requests.take_answer(names[0])
    assert desk.place().state.requests.take_answer(names[1]) is None


def test_what_a_watcher_died_over_is_done_once_by_the_next(desk: Desk) -> None:
    place = desk.place()
    place.prepare()
    name = place.state.requests.submit(PAUSE)
    assert place.state.requests.take(name)
    assert not place.state.requests.withdraw(name), "who asked cannot take it back"
    apply_waiting(desk.place().state)
    assert (paused(desk), desk.place().state.requests.waiting()) == ("lunch", [])


def test_what_only_a_person_orders_is_refused_in_a_turn(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_MAILER_TURN_DIR", str(desk.base))
    with pytest.raises(UsageFault, match="for a person to decide"):
        order(desk.place(), ALLOW)
    monkeypatch.delenv("AGENT_MAILER_TURN_DIR")
    assert not desk.place().state.lifts.folder.exists()
    assert order(desk.place(), ALLOW).ok
    assert desk.place().state.lifts.standing.allowed == ("ann",)
    # A request alone gives no power: what it names no person has ordered.
    answer = ask(desk.place(), Request(Verb.ORDER, ("1800000000.000000-00",)))
    assert (answer.ok, answer.lines) == (False, ("no person has ordered that",))


def test_where_nobody_watches_a_pause_is_lifted_for_all_of_its_account(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signed-out program of another agent was paused for both; whoever is logged in again says so once."""
    (program := tmp_path / "claude").write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    pauses = []
    for one in (desk, Desk(tmp_path / "another")):
        one.configure(runtime="claude")
        place = one.place()
        place.prepare()
        place.share_pause(place.runtime())
        pauses.append(place.state.pause)
    now = time.time()
    met = decide_pause(Judgement(Outcome.SIGNED_OUT), None, now, 0.5)
    pauses[1].settled(Settlement(Outcome.SIGNED_OUT, "", now, 1.0, finished=False, pause=met), now - 1)
    assert [pause.current() is None for pause in pauses] == [False, False]
    assert ask(desk.place(), Request(Verb.RESUME)).ok
    assert [pause.current() for pause in pauses] == [None, None]
