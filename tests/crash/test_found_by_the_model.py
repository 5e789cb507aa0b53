"""Stories that the model test has found, shrunk, each by its name."""

from __future__ import annotations

from pathlib import Path

from tests.crash.world import World
from tests.sizes import LONG

from agent_mailer.mailbox.port import Automatic


@LONG
def test_a_notice_that_the_watcher_dies_over_is_settled_and_nobody_loses_it(tmp_path: Path) -> None:
    """It was taken before it counted as settled: between the two it was nobody's."""
    reached = True
    calls = 0
    while reached:
        calls += 1
        world = World(tmp_path / f"{calls}", parallel=1)
        notice = world.deliver("red", None, Automatic.NOTICE)
        world.weather.dies_in = calls
        world.tick()
        state = world.desk.place(world.sky).state
        assert notice in state.processed or (world.new / f"{notice}.md").exists(), f"lost at call {calls}"
        reached = world.died
        world.tick()
        assert (world.desk.state / "processed.txt").read_text().splitlines() == [notice]
        assert not list(world.new.iterdir())
    assert calls > 20
