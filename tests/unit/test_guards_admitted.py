"""What was admitted and is not claimed takes nothing of the day; over a real state and mailbox; nothing runs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import On, Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Envelope, MailboxUnavailable, NoWay
from agent_mailer.names import new_turn_id
from agent_mailer.state.records import Pause, PauseReason, Phase, TurnRecord
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.watcher import Watcher

NOW = 2_100_000_000.0

scene = scene_at(lambda: FakeClock(NOW))


def one_turn_a_day(scene: Scene, share: str = "") -> None:
    budget = BudgetPolicy(turns_per_day=1, share=share)
    scene.room.policy = msgspec.structs.replace(scene.policy, budget=budget, max_parallel_turns=2)


def wants(scene: Scene, envelope: Envelope) -> tuple[bool, PauseReason | None]:
    """Whether it may go, and what keeps the rest waiting."""
    found = scene.room.gate.admit([Candidate(envelope)], NOW)
    return bool(found.go), found.pause.reason if found.pause is not None else None


GOES, USED_UP = (True, None), (False, PauseReason.BUDGET)


async def no_way(*_: object) -> NoWay:
    return NoWay("nobody is called so")


async def away(*_: object, **__: object) -> None:
    raise MailboxUnavailable("mailbox_unavailable", "503", "")


def nowhere(_: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MaildirMailbox, "way_back", no_way)


def silent(_: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MaildirMailbox, "way_back", away)


def full(scene: Scene, _: pytest.MonkeyPatch) -> None:
    scene.place.disk.system = Refusing("turn.json", On.SYNC, code=errno.ENOSPC)


def gone(_: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MaildirMailbox, "claim", away)


@pytest.mark.parametrize("ends", [nowhere, silent, full, gone])
def test_a_claim_that_comes_to_nothing_takes_nothing_of_the_day_however_it_ends(
    scene: Scene, ends: Callable[[Scene, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a short outage over the day's last turn would pause everything until midnight."""
    one_turn_a_day(scene)
    one, watcher = scene.mail(body="one"), Watcher(scene.room)
    another = msgspec.structs.replace(one, id="another", thread="another")

    async def tried() -> None:
        await watcher._start_what_may()
        [work] = scene.room.work.values()
        assert wants(scene, another) == USED_UP, "it is about to be claimed"
        assert work.task is not None
        await work.task

    with monkeypatch.context() as patch:
        ends(scene, patch)
        scene.run(tried())
    scene.place.disk.system = SystemCalls()
    assert [*scene.state.turns.open_ids()] == []
    assert wants(scene, another) == GOES


def test_what_is_admitted_and_not_begun_takes_nothing_of_the_day(scene: Scene) -> None:
    """The disk does not take what is held beside it, and the look comes to nothing."""
    budget = BudgetPolicy(turns_per_sender=1)
    scene.room.policy = msgspec.structs.replace(scene.policy, budget=budget, max_parallel_turns=2)
    one, _ = (scene.mail(thread=thread) for thread in ("one", "two"))
    watcher = Watcher(scene.room)
    scene.place.disk.system = system = Refusing("held.jsonl", On.MAKE, On.WRITE, code=errno.ENOSPC)
    scene.run(watcher._start_what_may())
    scene.place.disk.system = SystemCalls()
    assert (system.refused, scene.told(EventName.TURN_CLAIMED)) == (1, [])
    assert wants(scene, one) == GOES


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[list[Scene]]:
    scenes = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        scenes.append(Scene(tmp_path / name, FakeClock(NOW)))
        one_turn_a_day(scenes[-1], share="ours")
    yield scenes
    for one in scenes:
        one.close()


def test_those_who_share_the_day_hear_that_nothing_was_taken_after_all(shared: list[Scene]) -> None:
    here, there = shared
    one, theirs = here.mail(), there.mail()
    assert (wants(here, one), wants(there, theirs)) == (GOES, USED_UP)
    here.room.gate.put_back(one)
    assert wants(there, theirs) == GOES
    there.room.gate.put_back(theirs)
    # It was claimed, and nothing of it ran.
    assert (wants(here, one), wants(there, theirs)) == (GOES, USED_UP)
    record = TurnRecord(new_turn_id(NOW), one, Phase.CLAIMED, "command", NOW)
    here.room.gate.claimed(record)
    here.room.gate.nothing_ran(record)
    assert wants(there, theirs) == GOES


def test_what_whoever_was_killed_had_only_reserved_of_a_shared_day_the_next_one_gives_back(shared: list[Scene]) -> None:
    here, there = shared
    assert (wants(here, here.mail()), wants(there, there.mail())) == (GOES, USED_UP)
    again = here.desk.place(FakeClock(NOW)).room(here.lock)
    again.policy = here.room.policy
    again.gate.admit([], NOW)
    assert wants(there, there.mail(body="more")) == GOES


def test_what_cannot_be_told_to_those_who_share_the_day_is_not_taken(shared: list[Scene]) -> None:
    here, _ = shared
    one, two = here.mail(body="one"), here.mail(body="two")
    here.place.disk.system = Refusing("budgets", On.REPLACE, code=errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        wants(here, one)
    here.place.disk.system = SystemCalls()
    assert wants(here, two) == GOES


def test_a_pause_for_a_turn_that_was_none_is_over_with_it(scene: Scene) -> None:
    one_turn_a_day(scene)
    gate, first, second = scene.room.gate, scene.mail(body="one"), scene.mail(body="two")
    found = gate.admit([Candidate(first), Candidate(second)], NOW)
    assert ([one.envelope.id for one in found.go], found.pause is None) == ([first.id], False)
    pause = gate.pause(None, NOW, found.pause)
    assert isinstance(pause, Pause)
    assert gate.pause(pause, NOW) == pause
    gate.put_back(first)
    assert gate.pause(pause, NOW) is None
