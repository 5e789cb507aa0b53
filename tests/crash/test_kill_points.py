"""kill -9 of the real watcher at every named point of a turn: just before and just after each call on the disk,
and each request to a broker.

What dies is the watcher alone: the agent goes on, and its runs, counted by a witness outside, stay as many as without.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.amq_tree import inbox
from tests.broker_process import BrokerProcess, join
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.children import Children, nursery
from tests.crash.points import Moment, Point, points
from tests.crash.scenarios import (
    SEND_AGAIN,
    Expected,
    held_stays_held,
    much_is_stuck,
    new_desk,
    nothing_has_vanished,
    strangers,
    verify,
)
from tests.crash.turns import ANSWER, ASKING, BATCH, DEAD, LIMITED, ROUTED, STAGED, Case, Rig, end_turns
from tests.desk import Desk
from tests.proved import Harness, proved
from tests.sizes import LONG, sizes
from tests.typed import type_in

from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.requests import Request, Verb

DURABLE = ("fsync", "replace", "rename")
"""The calls that make something durable, or publish it."""

STRIDES = sizes(quick=293, long=61, soak=1)
STRIDES_DURABLE = sizes(quick=23, long=3, soak=1)
STRIDES_REQUESTS = sizes(quick=23, long=1)
STRIDES_TWICE = sizes(quick=397, long=127, soak=1)
Desks = Callable[[Path], Desk]
TRIES = 5
KILLED = -9


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with nursery() as found:
        yield found


@pytest.fixture(scope="module")
def at_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desks]:
    """Makes desks with their mail at one broker."""
    process = BrokerProcess(tmp_path_factory.mktemp("broker") / "data")
    made: list[BrokerMailDesk] = []
    try:
        process.start()
        account = join(process.url, "ann", process.invite)

        def make(path: Path) -> Desk:
            made.append(BrokerMailDesk(path, process, account, str(len(made))))
            return made[-1]

        yield make
    finally:
        for desk in made:
            desk.close()
        process.end()


@pytest.mark.parametrize("stride", STRIDES_DURABLE)
def test_every_durable_write_of_a_turn_with_an_answer(tmp_path: Path, children: Children, stride: int) -> None:
    durable = [p for p in points(Rig(children, tmp_path / "trace", ANSWER).trace()) if p.of.split()[0] in DURABLE]
    assert len(durable) > 70
    _kill_at(children, tmp_path, ANSWER, _every(stride, durable))


@pytest.mark.parametrize("stride", STRIDES_REQUESTS)
def test_every_request_of_a_turn_at_a_broker(tmp_path: Path, children: Children, at_broker: Desks, stride: int) -> None:
    names = Rig(children, tmp_path / "trace", ANSWER, at_broker(tmp_path / "trace")).trace()
    requests = [p for p in points(names) if p.of.startswith("request ")]
    assert len(requests) > 10
    _kill_at(children, tmp_path, ANSWER, _every(stride, requests), desks=at_broker)


@pytest.mark.parametrize("stride", STRIDES_TWICE)
@pytest.mark.parametrize(
    "case", [pytest.param(ANSWER, marks=LONG), STAGED, pytest.param(BATCH, marks=LONG)], ids=lambda case: case.name
)
def test_every_call_of_a_turn_at_a_broker(
    tmp_path: Path, children: Children, at_broker: Desks, case: Case, stride: int
) -> None:
    names = Rig(children, tmp_path / "trace", case, at_broker(tmp_path / "trace")).trace()
    _kill_at(children, tmp_path, case, _every(stride, points(names)), desks=at_broker)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(ANSWER, marks=LONG),
        LIMITED,
        DEAD,
        STAGED,
        pytest.param(ASKING, marks=LONG),
        *(pytest.param(case, marks=LONG) for case in (ROUTED, BATCH)),
    ],
    ids=lambda case: case.name,
)
def test_every_call_of_a_turn(tmp_path: Path, children: Children, case: Case, stride: int) -> None:
    names = Rig(children, tmp_path / "trace", case).trace()
    _kill_at(children, tmp_path, case, _every(stride, points(names)))


@pytest.mark.parametrize("stride", STRIDES[1:])
def test_every_call_of_the_turn_after_the_yes(tmp_path: Path, children: Children, stride: int) -> None:
    def answered() -> Rig:
        rig = Rig(children, tmp_path / "desk", ASKING)
        # The message is not done with: somebody has to say yes.
        assert rig.watch() == 1
        assert rig.answer()
        return rig

    names = answered().trace()
    assert any(name.startswith("replace ID/QUESTION.json") for name in names), "the yes is granted to the turn"
    shutil.rmtree(tmp_path / "desk")
    _die_in_turn(ASKING.name, _every(stride, points(names)), answered)


@pytest.mark.parametrize("stride", STRIDES_TWICE)
@pytest.mark.parametrize(
    ("case", "first"),
    [
        (LIMITED, "rename cur/ID.md"),
        pytest.param(LIMITED, "replace TURN/turn.json", marks=LONG),
        (LIMITED, "write .agent-mailer/.tmp.pause.json"),
        pytest.param(STAGED, "rename cur/ID.md", marks=LONG),
        (STAGED, "replace TURN/turn.json"),
        (STAGED, "write .agent-mailer/processed.txt"),
        pytest.param(ROUTED, "replace TURN/turn.json", marks=LONG),
        pytest.param(BATCH, "rename cur/ID.md", marks=LONG),
        pytest.param(BATCH, "replace TURN/turn.json", marks=LONG),
        pytest.param(BATCH, "write .agent-mailer/processed.txt", marks=LONG),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_call_of_the_recovery(tmp_path: Path, children: Children, case: Case, first: str, stride: int) -> None:
    """The first watcher dies claimed, running, settling or nearly done; the second in the middle of its recovery."""
    names = Rig(children, tmp_path / "trace", case).trace()
    # After its very last call a watcher has nothing to leave behind.
    deaths = [point for point in points(names[:-1]) if point.of == first and point.moment is Moment.AFTER]
    assert deaths
    for earlier in deaths:
        rig = _dead_at(earlier, partial(Rig, children, tmp_path / f"trace-{earlier.at}", case))
        _kill_at(children, tmp_path, case, _every(stride, points(rig.trace())), earlier)


@pytest.mark.parametrize("stride", sizes(quick=31, long=5, soak=1))
def test_every_durable_write_over_what_is_stuck(tmp_path: Path, children: Children, stride: int) -> None:
    """What cannot be worked on, and an answer that is sent again: written down, told and moved once."""

    def make(name: str) -> tuple[Desk, list[Expected]]:
        desk = new_desk(tmp_path / name)
        expected = much_is_stuck(desk)
        desk.place().state.requests.submit(SEND_AGAIN)
        return desk, expected

    names = _calls_of(children, make)
    durable = [point for point in points(names) if point.of.split()[0] in (*DURABLE, "unlink")]
    assert len(durable) > 60

    def judge(desk: Desk, expected: list[Expected], point: Point) -> None:
        assert _watch(children, desk) == 0
        verify(desk, expected, {"asked"}, Counter(), str(point))
        nothing_has_vanished(desk, {"asked"})

    deaths = _every(stride, durable)
    _die_at_each(children, deaths, make, judge)


@pytest.mark.parametrize("stride", sizes(quick=53, long=3, soak=1))
def test_every_durable_write_over_a_schedule(tmp_path: Path, children: Children, stride: int) -> None:
    """It leaves once, is worked on once and answered once."""

    def make(name: str) -> tuple[Desk, list[Expected]]:
        desk = new_desk(tmp_path / name)
        (desk.base / "nightly.md").write_text("look at the night")
        table = {"name": "nightly", "cron": "0 0 29 2 *", "subject": "the night", "body": str(desk.base / "nightly.md")}
        desk.configure(schedule=[table])
        assert type_in(desk.workdir, "schedules", "run", "nightly").status == 0
        return desk, []

    names = _calls_of(children, make)
    durable = [point for point in points(names) if point.of.split()[0] in DURABLE]
    assert any("schedules.json" in point.of for point in durable)
    early = [point for point in durable if "schedules.json" in point.of or "mail/" in point.of or "new/" in point.of]
    deaths = list({str(point): point for point in (*early, *_every(stride, durable))}.values())

    def judge(desk: Desk, _: list[Expected], __: Point) -> None:
        # Who meets a turn that was given back ends with 1, and the next one runs it again.
        assert 0 in (_watch(children, desk) for _ in range(TRIES))
        assert not inbox(desk.root, "coder")
        known = desk.place().state.schedules.all["nightly"]
        records = map(desk.place().state.turns.load, desk.place().state.turns.ids())
        sent = [record.envelope.id for record in records if record is not None]
        answers = [one for one in inbox(desk.root, "user") if one.subject == "Re: the night"]
        assert len(answers) == 1
        assert (known.due, known.sent) == (0.0, tuple(dict.fromkeys(sent)))

    _die_at_each(children, deaths, make, judge)


@pytest.mark.parametrize("stride", sizes(quick=29, long=3, soak=1))
def test_every_durable_write_over_held_mail(tmp_path: Path, children: Children, stride: int) -> None:
    """Held, told and taken once; released by an order that the watcher carries out, and then answered once."""

    def make(name: str) -> tuple[Desk, list[Expected]]:
        desk = new_desk(tmp_path / name)
        expected = strangers(desk)
        lifts = desk.place().state.lifts
        [released] = [one.envelope.id for one in inbox(desk.root, "coder") if one.subject == "released"]
        # Both at once: it is held and let go by the same watcher, whichever comes first.
        order = lifts.give(Order(OrderVerb.RELEASE, (released,)))
        desk.place().state.folder.prepare()
        desk.place().state.requests.submit(Request(Verb.ORDER, (order,)))
        return desk, expected

    names = _calls_of(children, make)
    durable = [point for point in points(names) if point.of.split()[0] in (*DURABLE, "unlink")]
    assert any("held.jsonl" in name for name in names)

    def judge(desk: Desk, expected: list[Expected], point: Point) -> None:
        # Who meets a turn that was given back ends with 1, and the next one runs it again.
        assert 0 in (_watch(children, desk) for _ in range(TRIES))
        verify(desk, expected, set(), Counter(), str(point))
        held_stays_held(desk, set())

    deaths = _every(stride, durable)
    _die_at_each(children, deaths, make, judge)


Make = Callable[[str], tuple[Desk, list[Expected]]]
"""By its name a new desk, with what is expected of its mail."""


def _watch(children: Children, desk: Desk, point: Point | None = None, trace: Path | None = None) -> int:
    argv = ("watch", "--no-interactive", "--workdir", str(desk.workdir), "--once")
    return children.run(*argv, stderr=desk.base / "stderr", point=point, trace=trace)


def _calls_of(children: Children, make: Make) -> list[str]:
    desk, _ = make("trace")
    assert _watch(children, desk, Point(), desk.base / "calls") == 0
    return (desk.base / "calls").read_text().splitlines()


def _die_at_each(
    children: Children, deaths: Sequence[Point], make: Make, judge: Callable[[Desk, list[Expected], Point], None]
) -> None:
    """At one of them each time; `judge` has others follow, and looks at what they leave."""
    reached = 0
    for number, point in enumerate(deaths):
        desk, expected = make(f"desk-{number}")
        reached += _watch(children, desk, point) == KILLED
        try:
            judge(desk, expected, point)
        except BaseException as error:
            error.add_note(str(point))
            raise
        shutil.rmtree(desk.base)
    assert 2 * reached >= len(deaths)
    proved(Harness.KILL_POINTS, kills=reached)


def _dead_at(earlier: Point | None, make: Callable[[], Rig]) -> Rig:
    """A rig whose first watcher died there; now and then a life is too short for that, and another one is tried."""
    for _ in range(TRIES):
        rig = make()
        if earlier is None or rig.watch(earlier) == KILLED:
            return rig
        end_turns(rig.desk)
        shutil.rmtree(rig.desk.base)
    raise AssertionError(f"no watcher has come as far as {earlier}")


def _every(stride: int, all_of_them: list[Point]) -> list[Point]:
    return all_of_them[min(stride, len(all_of_them)) // 2 :: stride]


def _kill_at(
    children: Children,
    base: Path,
    case: Case,
    deaths: list[Point],
    earlier: Point | None = None,
    desks: Desks = Desk,
) -> None:
    def make() -> Rig:
        return _dead_at(earlier, lambda: Rig(children, base / "desk", case, desks(base / "desk")))

    name = case.name + (f", after {earlier}" if earlier else "")
    # A recovery may be short: whether a pause is over by then is a matter of the second.
    _die_in_turn(name, deaths, make, fewest=0.5 if earlier is None else 0.0)


def _die_in_turn(name: str, deaths: list[Point], make: Callable[[], Rig], fewest: float = 0.5) -> None:
    """A rig for each; more than `fewest` of the points are met, and where that is not 0 each call by its name."""
    met: list[Point] = []

    def die_at(point: Point) -> bool:
        why = f"{name}: {point}"
        rig = make()
        try:
            # The agent has a speed of its own: now and then a life is shorter than the one that was traced.
            reached = rig.watch(point) == KILLED
            rig.recover()
            rig.check(why)
        except BaseException as error:
            error.add_note(why)
            end_turns(rig.desk)
            raise
        shutil.rmtree(rig.desk.base)
        if reached:
            met.append(point)
        return reached

    for point in deaths:
        die_at(point)
    assert len(met) >= max(1, fewest * len(deaths)), "the points are there"
    print(f"\n{name}: killed at {len(met)} of {len(deaths)} points")
    if fewest:
        names = {point.of for point in met}
        missed = [point for point in deaths if point.of not in names]
        never = {point.of for point in missed if not any(die_at(point) for _ in range(TRIES))}
        assert not never - {point.of for point in met}, f"{name}: nobody was ever killed at {sorted(never)}"


@pytest.mark.long
def test_a_point_that_no_life_comes_to_is_told(tmp_path: Path, children: Children) -> None:
    """What the harness says of a point is to be believed: one that is never met is no proof."""
    names = Rig(children, tmp_path / "trace", ANSWER).trace()
    [done, *_] = [point for point in points(names) if point.of == "rename cur/ID.md"]
    with pytest.raises(AssertionError, match=r"replace TURN/never\.json"):
        _kill_at(children, tmp_path, ANSWER, [done, Point("replace TURN/never.json")])
