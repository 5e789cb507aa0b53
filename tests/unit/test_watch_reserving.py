"""What a turn had reserved is given back, however long what keeps the reservations is away."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.refusing import Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.outcomes import Outcome
from agent_mailer.reservations.leases import Leases
from agent_mailer.reservations.port import ReservePolicy
from agent_mailer.watch import reserving
from agent_mailer.watch.reserving import Reserving

scene = scene_at(FakeClock)

PROJECT = "/srv/shop"


@pytest.mark.parametrize("fails", [None, MailboxUnavailable("away", "nobody answers"), OSError("the disk is full")])
@pytest.mark.parametrize("tries", [1, 2, 5])
def test_what_a_turn_had_is_given_back_by_itself_however_often_that_is_refused_at_first(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int, fails: Exception | None
) -> None:
    """Nobody else would: others wait for files of a turn that is over until they have run out."""
    monkeypatch.setattr(reserving, "AGAIN_SECONDS", 0.0)
    folder, disk, refusing = tmp_path / "kept", Disk(), Refusing("reservations.json", times=tries)
    mine, others = (Leases(folder, disk, FakeClock(), project=PROJECT, address=name) for name in ("coder", "planner"))
    keeping = Reserving(mine, ReservePolicy(("src/**",)), Path(PROJECT), "coder", rhythm=60.0)
    envelope, woken = scene.mail(), list[int]()
    scene.room.wake = lambda: woken.append(refusing.refused)

    async def story(why: str) -> Outcome:
        assert [one.pattern for one in await others.take("theirs", ["src/a.py"], 60.0)] == ["src/**"]
        disk.system = refusing
        if fails is not None:
            raise fails
        return Outcome.DONE

    async def worked() -> None:
        with nullcontext() if fails is None else pytest.raises(type(fails)):
            assert await keeping.around(scene.room, envelope, "turn", story) is Outcome.DONE
        assert await mine.held(), "what was refused is had still"
        async with asyncio.timeout(20):
            while not woken:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0)
        disk.system = SystemCalls()
        assert await others.take("theirs", ["src/a.py"], 60.0) == []

    asyncio.run(worked())
    assert woken == [tries], "whoever waits for these files hears of it once"
    assert [one["turn_id"] for one in scene.told(EventName.RESERVATION_RELEASED)] == ["turn"]
