"""The power fails: of every moment of a story the states that the disk may be in, each of them recovered twice.

What is promised: nothing accepted is lost; what settlement recorded durably is not done again, and what leaves, leaves
once; a run whose settlement the crash undid is made up for once at most; recovering twice equals recovering once.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.crash.power import EXTREMES, Chance, Fate, Operation, PowerModel, SyncFile, SyncFolder, Tree
from tests.crash.recording import RecordingSystem, lay_out
from tests.crash.scenarios import (
    Expected,
    Scenario,
    content,
    new_desk,
    played,
    recover,
    runs,
    settlements,
    told,
    verify,
)
from tests.desk import Desk
from tests.proved import Harness, proved
from tests.sizes import sizes

from agent_mailer import events
from agent_mailer.disk import Disk

TOPS = ("mail", "coder", "agents", "person")
"""What a crash may change; the last are the mailboxes of a peer, where a story has one, and the user's state folder."""

SEED = int(os.environ.get("POWER_LOSS_SEED", "20261121"))
FEWEST_STATES = 200
"""That every story has."""


class Recorded:
    """A stage whose every operation is written down."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.tops = tuple(top for top in TOPS if (desk.base / top).exists())
        self.system = RecordingSystem(desk.base, self.tops, _synced_by_its_writer)
        self.system.witness = lambda: told(desk).stat().st_size if told(desk).exists() else 0
        self.start = len(self.system.operations)
        self.disk = Disk(self.system)
        self.marks: set[str] = set()
        self.history: list[tuple[int, set[str]]] = [(0, set())]

    def watch(self, ahead: float = 0.0) -> None:
        self.desk.once(FakeClock(time.time() + ahead), self.system)
        self.system.look_around()

    def mark(self, name: str) -> None:
        self.marks.add(name)
        self.history.append((len(self.system.operations), set(self.marks)))

    def marks_at(self, moment: int) -> set[str]:
        return next(marks for number, marks in reversed(self.history) if number <= moment)


@pytest.mark.parametrize("most", sizes(quick=5, long=40, soak=2000))
@pytest.mark.parametrize("scenario", played())
def test_the_power_fails_at_any_moment(
    tmp_path: Path,
    scenario: Scenario,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "ROTATE_AT_BYTES", 5000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "desk" / "person"))
    desk = new_desk(tmp_path / "desk")
    (desk.base / "person").mkdir(mode=0o700, exist_ok=True)
    expected = scenario.prepare(desk)
    stage = Recorded(desk)
    scenario.act(stage)
    whole = told(desk).read_bytes()
    tried = 0
    for moment, tree in _states(stage.system.operations, stage.start, most, random.Random(f"{SEED}{scenario.name}")):
        lay_out(tree, desk.base, stage.tops)
        told(desk).write_bytes(
            whole[: stage.system.witnessed[moment] if moment < len(stage.system.witnessed) else None]
        )
        why = f"{scenario.name}, state {tried}, after {moment} of {len(stage.system.operations)} operations"
        try:
            _assert_recovers(desk, scenario, expected, stage.marks_at(moment), why)
        except BaseException as fault:
            fault.add_note(why + "\n" + _told_of(stage.system.operations, moment))
            raise
        tried += 1
    print(f"\n{scenario.name}: {tried} states of {len(stage.system.operations)} operations")
    assert tried >= min(most, FEWEST_STATES), "a story has more states than this"
    proved(Harness.POWER, states_of_the_disk=tried)


def _assert_recovers(desk: Desk, scenario: Scenario, expected: list[Expected], marks: set[str], why: str) -> None:
    known = settlements(desk)
    undone = Counter(message for message, turn, _ in runs(desk) if turn not in known)
    scenario.at_once(desk, marks)
    recover(desk)
    verify(desk, expected, marks, undone, why)
    scenario.holds(desk, marks)
    before = content(desk)
    recover(desk)
    assert content(desk) == before, f"{why}: recovered twice"


def _states(operations: list[Operation], start: int, most: int, chance: random.Random) -> Iterator[tuple[int, Tree]]:
    """At most `most` states: around every sync first, then anywhere; with each, how many operations came before.

    What is there at the start has been there for long.
    """
    moments = range(start, len(operations) + 1)
    syncs = [n for n in moments if n < len(operations) and isinstance(operations[n], SyncFile | SyncFolder)]
    around = [moment for n in syncs for moment in (n, n + 1)]
    rounds: list[list[tuple[int, Fate]]] = []
    if most >= len(moments) * len(EXTREMES):
        rounds.append([(moment, fate) for moment in moments for fate in EXTREMES])
    else:
        # Each moment around a sync with one fate or another, as many as there is time for.
        picked = chance.sample(around, min(len(around), most))
        rounds.append([(moment, chance.choice([*EXTREMES, Chance(chance)])) for moment in picked])
    rounds += [[(chance.choice(moments), Chance(chance)) for _ in range(most)] for _ in range(4)]
    seen: set[int] = set()
    for plan in rounds:
        model = PowerModel(operations[:start])
        model.sync_all()
        done = start
        for moment, fate in sorted(plan, key=lambda item: item[0]):
            for operation in operations[done:moment]:
                model.apply(operation)
            done = moment
            tree = model.crash(fate)
            name = hash((tree.folders, frozenset((path, data) for path, (_, data) in tree.files.items())))
            if name in seen:
                continue
            seen.add(name)
            yield moment, tree
            if len(seen) >= most:
                return


def _synced_by_its_writer(path: Path) -> bool:
    """What the turn's tools stage is durable before they answer; nothing else that is written beside us is synced.

    Of the user's state folder this is about the questions, which the watcher writes.
    """
    if path.parts[0] == "person":
        return True
    return "outbox" in path.parts and "turns" in path.parts and not path.name.startswith(".tmp.")


def _told_of(operations: list[Operation], moment: int) -> str:
    def short(operation: Operation) -> str:
        return str(operation)[:160]

    return "\n".join(["the last operations:", *map(short, operations[max(0, moment - 25) : moment])])
