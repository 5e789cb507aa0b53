"""Stories that the kill loops have found, shrunk, each by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from tests.desk import Desk

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Listing
from agent_mailer.watch.watcher import Watcher


class LateListing(MaildirMailbox):
    """One answer is as long on its way as a turn takes to end: those of a broker are, now and then."""

    watcher: Watcher
    gate: Path
    looks = 0

    async def pending(self, limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
        listing = await super().pending(limit, beside, woken=woken)
        if self.watcher.in_work and listing.envelopes:
            self.looks = 0
            self.gate.touch()
            while self.watcher.in_work:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        self.looks += 1
        return listing


def test_a_turn_that_ends_while_the_mailbox_is_listed_still_holds_up_its_thread(tmp_path: Path) -> None:
    """Its message was taken for open and its thread for free: the thread's next message ran before the retry."""
    desk = Desk(tmp_path)
    gate = tmp_path / "gate"
    desk.script({"witness": "start"}, {"wait_for": str(gate)}, {"exit": 1})
    desk.configure(retry={"first": 600, "longest": 600})
    first = desk.send(thread="red")
    place = desk.place()
    lock = place.lock()
    lock.acquire()

    async def story() -> None:
        room = place.room(lock)
        mailbox = room.mailbox = LateListing(desk.disk, desk.root, "coder")
        mailbox.gate = gate
        watcher = mailbox.watcher = Watcher(room)
        watching = asyncio.create_task(watcher.run())
        while not desk.marks():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(desk.send, thread="red")
        # Twice: the look that met the end of the turn, and the next one.
        while not (gate.exists() and mailbox.looks >= 2):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        watcher.stop(0.0)
        await watching

    try:
        place.prepare()
        asyncio.run(story())
    finally:
        lock.release()
        desk.end_turns()
    assert [row["message_id"] for row in desk.log(EventName.TURN_CLAIMED)] == [first]
