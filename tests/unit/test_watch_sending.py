"""What leaves a turn: how long an item is tried, and what waits for a mailbox that does not answer."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from tests.integration.test_engine_turn import Ahead
from tests.refusing import On, Refusing
from tests.watch_room import Scene

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Action, Draft, Mailbox, Message, Outgoing, Refused
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import ItemState, Phase, SettledItem, Settlement, TurnRecord
from agent_mailer.watch.following import AtOnce
from agent_mailer.watch.room import Stage, Work
from agent_mailer.watch.sending import send_items
from agent_mailer.watch.stuck import StuckMail

NOW = 2_100_000_000.0
DAY = 100_000.0


class Tries(SystemCalls):
    """A disk that refuses the folder: `each` hears of every try, and says whether it is let through."""

    def __init__(self, folder: Path, each: Callable[[int], bool]) -> None:
        self._folder, self._each = folder, each
        self.tries = 0

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_CREAT and path.is_relative_to(self._folder):
            self.tries += 1
            if not self._each(self.tries):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return super().open(path, flags, mode)


@pytest.mark.parametrize("begins", [1, 2])
@pytest.mark.parametrize(("gone", "ends"), [(True, ItemState.DELIVERED), (False, ItemState.REFUSED)])
def test_of_the_day_that_an_item_has_only_what_its_mailbox_answered_counts(
    tmp_path: Path, gone: bool, ends: ItemState, begins: int
) -> None:
    """One that was out of order for days has refused nothing, though it does not take the item at once.

    `begins`: the try at which the day does.
    """
    clock = Ahead(NOW)
    scene = Scene(tmp_path, clock)
    away = scene.box.with_name("away")

    def each(number: int) -> bool:
        clock.ahead += DAY if number == begins else 0.0
        if gone and number in (begins, begins + 1):
            source, target = (scene.box, away) if number == begins else (away, scene.box)
            source.rename(target)
        return number > begins + 1

    scene.state.folder.disk.system = Tries(scene.desk.root / "agents/user", each)
    scene.room.policy = msgspec.structs.replace(scene.policy, trouble_first=0.0)
    envelope = scene.mail()
    draft = Draft("k", Action.SEND, NOW, to=("user",), body="x")

    async def send() -> ItemState:
        await scene.room.mailbox.claim(envelope)
        composed = scene.room.mailbox.compose(draft, None, "t")
        assert isinstance(composed, list | tuple)
        items = tuple(SettledItem(item) for item in composed if isinstance(item, Outgoing))
        settlement = Settlement(Outcome.DONE, "", NOW, 1.0, finished=True, items=items)
        record = TurnRecord(new_turn_id(NOW), envelope, Phase.SETTLING, "command", NOW, settlement=settlement)
        scene.state.turns.create(record)
        await send_items(scene.room, record)
        assert record.settlement is not None
        [entry] = record.settlement.items
        assert entry.why.startswith("not taken for a day: ") == (entry.state is ItemState.REFUSED), entry
        return entry.state

    assert scene.run(asyncio.wait_for(send(), 20)) is ends
    scene.close()


def test_what_is_refused_says_why_in_the_record_and_in_the_log(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    item = Outgoing("out-1", "nobody", "th", "---json\n{}\n---\nx\n")
    settlement = Settlement(Outcome.DONE, "", NOW, 1.0, finished=True, items=(SettledItem(item),))
    record = TurnRecord(new_turn_id(NOW), scene.mail(), Phase.SETTLING, "command", NOW, settlement=settlement)
    scene.state.turns.create(record)
    scene.run(send_items(scene.room, record))
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert kept.settlement is not None
    entry, *_ = kept.settlement.items
    assert entry.state is ItemState.REFUSED
    assert "'nobody'" in entry.why
    assert [one["why"] for one in scene.told(EventName.ITEM_REFUSED)] == [entry.why]
    scene.close()


def test_who_looks_sees_why_an_end_waits_and_whose_answer_it_is(tmp_path: Path) -> None:
    scene, turn_id = Scene(tmp_path), new_turn_id(NOW)
    scene.room.policy = msgspec.structs.replace(scene.policy, trouble_first=0.0)
    envelope = scene.mail()
    scene.state.turns.create(TurnRecord(turn_id, envelope, Phase.RUNNING, "command", NOW))
    work = scene.room.work[turn_id] = Work(envelope, Stage.SETTLING, {envelope.id})
    scene.run(scene.room.wait(turn_id, 0, "nobody answers", "planner"))
    seen = scene.state.turns.progress(turn_id)
    assert seen is not None
    assert (seen.waits, seen.waits_for) == ("nobody answers", "planner")
    assert work.stage is Stage.SETTLING
    scene.close()


def recognising_nothing(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder mailbox that says of itself that it would deliver a second time."""
    able = msgspec.structs.replace(mailbox.capabilities, recognises_delivery=False)
    monkeypatch.setattr(MaildirMailbox, "capabilities", able)


def what_leaves(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """To whom, each time that it is delivered."""
    left: list[str] = []
    deliver = mailbox.deliver

    async def delivered(item: Outgoing) -> object:
        left.append(item.recipient)
        return await deliver(item)

    monkeypatch.setattr(mailbox, "deliver", delivered)
    return left


def test_news_that_may_have_left_are_looked_for_before_they_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a second delivery is not recognised: a turn that is adopted has sent some of them already."""
    scene = Scene(tmp_path)
    mailbox = scene.room.mailbox
    recognising_nothing(mailbox, monkeypatch)
    left = what_leaves(mailbox, monkeypatch)
    record = TurnRecord(new_turn_id(NOW), scene.mail(), Phase.RUNNING, "command", NOW)
    scene.state.turns.create(record)
    folder = scene.state.turns.folder(record.turn_id)
    (folder.path / "outbox").mkdir()
    news = Draft("k1", Action.SEND, NOW, to=("user", "planner"), body="half way", at_once=True)
    (folder.path / "outbox/k1.json").write_bytes(msgspec.json.encode(news))
    for _ in range(2):
        scene.run(AtOnce(scene.room, record, Message(record.envelope), folder).send_what_waits())
    assert left == ["user", "planner"]
    scene.close()


def test_who_was_told_of_what_is_stuck_before_a_crash_is_not_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a second delivery is not recognised: that he was told could not be written down."""
    scene = Scene(tmp_path)
    mailbox = scene.room.mailbox
    recognising_nothing(mailbox, monkeypatch)
    left = what_leaves(mailbox, monkeypatch)
    scene.room.stuck.not_fetched(scene.mail(), "it is not there")
    for system in (Refusing("stuck.jsonl", On.WRITE), SystemCalls()):
        scene.state.folder.disk.system = system
        with suppress(OSError):
            scene.run(StuckMail(mailbox, scene.state).tell_unheard())
    assert scene.state.stuck.unheard == []
    assert left == ["user"]
    scene.close()


@pytest.mark.parametrize("there", [True, False])
def test_what_an_earlier_watcher_may_have_sent_is_looked_for_before_the_first_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Where a second delivery is not recognised: it was killed before it could say so in its record."""
    scene = Scene(tmp_path)
    mailbox = scene.room.mailbox
    composed = mailbox.compose(Draft("k", Action.SEND, NOW, to=("user",), body="x"), None, "t")
    assert not isinstance(composed, Refused)
    if there:
        scene.run(mailbox.deliver(composed[0]))
    recognising_nothing(mailbox, monkeypatch)
    left = what_leaves(mailbox, monkeypatch)
    items = (SettledItem(composed[0]),)
    settlement = Settlement(Outcome.DONE, "", NOW, 1.0, finished=True, items=items)
    record = TurnRecord(new_turn_id(NOW), scene.mail(), Phase.SETTLING, "command", NOW, settlement=settlement)
    scene.state.turns.create(record)
    scene.run(asyncio.wait_for(send_items(scene.room, record), 20))
    assert record.settlement is not None
    assert record.settlement.items[0].state is ItemState.DELIVERED
    assert left == ([] if there else ["user"])
    scene.close()


def test_what_may_have_arrived_by_any_try_is_looked_for_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a second delivery is not recognised: the first try is still on its way at the second."""
    scene = Scene(tmp_path)
    mailbox = scene.room.mailbox
    recognising_nothing(mailbox, monkeypatch)
    scene.room.policy = msgspec.structs.replace(scene.policy, trouble_first=0.0)
    inbox = scene.desk.root / "agents/user/inbox/new"
    (away := tmp_path / "away").mkdir()
    moves = [(inbox, away), (away, inbox)]
    found: list[int] = []
    deliver = mailbox.deliver

    async def delivered(item: Outgoing) -> object:
        # The first is not confirmed, the second not written.
        times, after = min(len(moves), 1), 0 if found else 1
        scene.state.folder.disk.system = Refusing("user/inbox", On.SYNC, code=errno.EIO, times=times, after=after)
        found.append(len([*inbox.iterdir()]))
        try:
            return await deliver(item)
        finally:
            if moves:
                source, target = moves.pop(0)
                (source / f"{item.id}.md").rename(target / f"{item.id}.md")

    monkeypatch.setattr(mailbox, "deliver", delivered)
    composed = mailbox.compose(Draft("k", Action.SEND, NOW, to=("user",), body="x"), None, "t")
    assert not isinstance(composed, Refused)
    [item] = composed
    settlement = Settlement(Outcome.DONE, "", NOW, 1.0, finished=True, items=(SettledItem(item),))
    record = TurnRecord(new_turn_id(NOW), scene.mail(), Phase.SETTLING, "command", NOW, settlement=settlement)
    scene.state.turns.create(record)
    scene.run(asyncio.wait_for(send_items(scene.room, record), 20))
    assert record.settlement is not None
    assert record.settlement.items[0].state is ItemState.DELIVERED
    # The next watcher has no other way to know it.
    assert scene.state.turns.load(record.turn_id) == record
    assert found == [0, 0], "what the inbox held at each try"
    assert len([*inbox.iterdir()]) == 1
    scene.close()
