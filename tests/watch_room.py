"""A watcher's room over a real folder mailbox and a real state, in which no turn ever runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.desk import Desk

from agent_mailer.approvals.calls import Call
from agent_mailer.clock import Clock
from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.port import Envelope, Message
from agent_mailer.state.approvals import Approval
from agent_mailer.turn_tools.folder import Facts, TurnFolder
from agent_mailer.watch.backlog import Action, Doer, Look, look
from agent_mailer.watch.room import Room

T = TypeVar("T")


class Scene:
    """`coder`'s folder, its state, and a watcher's room that never starts anything."""

    def __init__(self, base: Path, clock: Clock | None = None, *, told: bool = False) -> None:
        """`told`: the operator hears of what needs him, by a command."""
        self.desk = Desk(base)
        if told:
            self.desk.tell()
        self.place = self.desk.place(clock)
        self.lock = self.place.lock()
        self.lock.acquire()
        self.place.prepare()
        self.events: list[LogRecord] = []
        self.place.log.listen(self.events.append)
        self.room: Room = self.place.room(self.lock)
        self.state = self.room.state
        self.policy = self.room.policy
        self.doer = Doer(self.room)
        self.box = self.desk.root / "agents/coder/inbox"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def opened() -> T:
            await self.room.mailbox.open()
            try:
                return await work
            finally:
                await self.room.mailbox.close()

        return asyncio.run(opened())

    def look(self, *open_ids: str) -> Look:
        return self.run(look(self.room.mailbox, self.state, self.policy, open_ids))

    def do(self, *actions: Action) -> set[str]:
        return self.run(self.doer.do(actions))

    def listed(self) -> list[Envelope]:
        return [one.envelope for one in self.look().candidates]

    def mail(self, **said: Any) -> Envelope:
        sent = self.desk.send(**said)
        [envelope] = [one for one in self.run(self.room.mailbox.pending(100)).envelopes if one.id == sent]
        return envelope

    def told(self, name: EventName) -> list[dict[str, Any]]:
        return [dict(one.fields) for one in self.events if one.event == name]

    def handed(self, turn_id: str, first: Message, *batch: Message) -> TurnFolder:
        """The turn's folder, with that mail for its tools."""
        folder = self.state.turns.folder(turn_id)
        facts = Facts(turn_id, "coder", 1024 * 1024, "/memory/global.md", "/memory/t.md")
        folder.prepare(first, (), (), facts, None, batch)
        return folder

    def close(self) -> None:
        self.lock.release()

    def names(self, part: str) -> int:
        return len([*(self.box / part).iterdir()])

    def asked(self, message_id: str = "m") -> Approval:
        now = self.place.clock.now()
        call = Call("Bash", '{"command":"git push"}')
        one = Approval("q-1", "", call, call.digest, "t-1", message_id, "th", "user", "", now, now + 3600)
        self.state.approvals.ask([one])
        [known] = self.state.approvals.all()
        return known


def scene_at(clock: Callable[[], Clock], *, told: bool = False) -> Any:
    """The fixture `scene` of a file of tests."""

    @pytest.fixture(name="scene")
    def made(tmp_path: Path) -> Iterator[Scene]:
        scene = Scene(tmp_path, clock(), told=told)
        yield scene
        scene.close()

    return made
