"""What a turn has reserved: had before its mail is claimed, kept while it runs, given back whatever its end.

Of a turn the agent's tools and its hook see two files in its folder: what others hold, and what became of its wishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent_mailer.clock import Clock, iso
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, MailboxUnavailable
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.reservations.patterns import checked
from agent_mailer.reservations.port import OnConflict, Reservation, Reservations, ReservePolicy, Touched
from agent_mailer.reservations.turn import Answer, Wish, put_answer, put_held, wishes_in
from agent_mailer.watch.touched import Lookout, touched_by

if TYPE_CHECKING:
    from agent_mailer.events import EventLog
    from agent_mailer.state import State
    from agent_mailer.watch.rules import WatchPolicy

AGAIN_SECONDS: Final = 5.0
"""After a conflict it is tried again so much later, or as soon as something of ours is given back."""

SPARE_SECONDS: Final = 120.0
"""By so much a reservation outlasts the longest turn."""

RENEW_SECONDS: Final = 600.0

Story = Callable[[str], Awaitable[Outcome | None]]
"""A turn from its claim to its end; the text is why it may not run, empty where it may."""


class Surroundings(Protocol):
    """What of a watcher's room it needs."""

    log: EventLog
    state: State
    policy: WatchPolicy
    clock: Clock
    wake: Callable[[], None]


class Reserving:
    """One watcher's. `rhythm`: seconds between two looks at what others hold, while a turn runs."""

    def __init__(
        self, reservations: Reservations, policy: ReservePolicy, project: Path, address: str, *, rhythm: float
    ) -> None:
        self._reservations = reservations
        self._policy = policy
        self._project = project
        self._address = address
        self._rhythm = rhythm
        self._later: dict[str, float] = {}
        """By message id: not before this moment of the loop's clock."""
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._tidied = False
        self._owed: set[asyncio.Task[None]] = set()
        """What could not be given back when it should have been."""
        self._lookout = Lookout(project)
        self._live: set[str] = set()
        self._here: set[str] = set()
        """Turns of this watcher's, also before there is a record of them."""

    def may_try(self, message_id: str) -> bool:
        return self._later.get(message_id, 0.0) <= asyncio.get_running_loop().time()

    async def around(self, room: Surroundings, envelope: Envelope, turn_id: str, story: Story) -> Outcome | None:
        """The turn's story with its paths reserved; where they cannot be had the message stays where it is, without an
        attempt, or fails. Raises MailboxUnavailable, and what the story does.
        """
        self._here.add(turn_id)
        try:
            return await self._around(room, envelope, turn_id, story)
        finally:
            self._here.discard(turn_id)

    async def _around(self, room: Surroundings, envelope: Envelope, turn_id: str, story: Story) -> Outcome | None:
        await self._tidy(room)
        if way := await self._take_all(room, turn_id):
            self._tell_conflict(room, envelope.id, way)
            if self._policy.on_conflict is OnConflict.FAIL:
                return await story(as_words(way))
            loop = asyncio.get_running_loop()
            self._later[envelope.id] = loop.time() + AGAIN_SECONDS
            loop.call_later(AGAIN_SECONDS, room.wake)
            return None
        self._later.pop(envelope.id, None)
        try:
            outcome = await story("")
        except asyncio.CancelledError:
            # The turn goes on without us, and so does what it has reserved.
            self._leave(turn_id)
            raise
        except BaseException:
            await self.give_back(room, turn_id)
            raise
        await self.give_back(room, turn_id)
        return outcome

    async def _take_all(self, room: Surroundings, turn_id: str) -> Sequence[Reservation]:
        if not self._policy.patterns:
            return ()
        try:
            return await self._reservations.take(turn_id, self._policy.patterns, _seconds(room))
        except MailboxUnavailable:
            # It may have been carried out all the same, and then stand in the way of our own next try.
            if not await self._release(room, turn_id):
                self._tidied = False
            raise

    async def begin(self, room: Surroundings, turn_id: str, *, live: bool = False) -> None:
        """Before its program starts: the turn is told what others hold; what cannot be told is not refused. `live`: a
        person's session has it, and no hook of ours.
        """
        if live:
            self._live.add(turn_id)
        with suppress(MailboxUnavailable, OSError):
            await self.show(room, turn_id)
        self.tend(room, turn_id)

    def tend(self, room: Surroundings, turn_id: str, *, adopted: bool = False, live: bool = False) -> None:
        """From the turn's start on: renew, tell it what others hold, and see to what it asks for."""
        if live:
            self._live.add(turn_id)
        if turn_id not in self._tending:
            self._tending[turn_id] = asyncio.create_task(self._tend(room, turn_id, adopted=adopted))

    async def show(self, room: Surroundings, turn_id: str) -> None:
        """What others hold, for the turn's hooks; where it has none it is looked at what lies there. Raises OSError,
        MailboxUnavailable.
        """
        held = await self._reservations.held()
        others = [one for one in held if not self._is_own(one, turn_id)]
        own = len(others) < len(held)
        put_held(room.state.folder.disk, room.state.turns.path(turn_id), self._project, others, own=own)
        if turn_id in self._live or not room.policy.approve.edits:
            await self._lookout.look(room.state, turn_id, others, room.clock.now())

    async def end(self, room: Surroundings, turn_id: str) -> Sequence[Touched]:
        """Once the turn has ended: what changed of others' while it ran. What it had itself is given back."""
        self._leave(turn_id)
        touched = await touched_by(room.state, turn_id, self._project, room.clock.now())
        await self.give_back(room, turn_id)
        return touched

    async def give_back(self, room: Surroundings, turn_id: str) -> None:
        """All that the turn had. What cannot be told now is told as soon as it can be, while this watcher runs."""
        self._leave(turn_id)
        if not await self._release(room, turn_id):
            task = asyncio.create_task(self._release_at_last(room, turn_id))
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)

    async def _release_at_last(self, room: Surroundings, turn_id: str) -> None:
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            if await self._release(room, turn_id):
                return

    async def _release(self, room: Surroundings, turn_id: str) -> bool:
        try:
            count = await self._reservations.release(turn_id)
        except MailboxUnavailable:
            return False
        if count:
            room.log.emit(EventName.RESERVATION_RELEASED, turn_id=turn_id)
            self._later = dict.fromkeys(self._later, 0.0)
            room.wake()
        return True

    def _leave(self, turn_id: str) -> None:
        self._live.discard(turn_id)
        self._lookout.forget(turn_id)
        task = self._tending.pop(turn_id, None)
        if task is not None:
            task.cancel()

    def _is_own(self, one: Reservation, turn_id: str) -> bool:
        return one.owner.turn == turn_id and one.owner.address.casefold() == self._address.casefold()

    async def _tidy(self, room: Surroundings) -> None:
        """Once: what turns hold that no longer are, since their watcher was killed before it could give it back."""
        if self._tidied:
            return
        ours = {one.owner.turn for one in await self._reservations.held() if self._is_ours(one)}
        for turn_id in ours - self._here - set(room.state.turns.open_ids()):
            await self._reservations.release(turn_id)
        self._tidied = True

    def _is_ours(self, one: Reservation) -> bool:
        return bool(one.owner.turn) and one.owner.address.casefold() == self._address.casefold()

    async def _tend(self, room: Surroundings, turn_id: str, *, adopted: bool) -> None:
        loop = asyncio.get_running_loop()
        renewed = float("-inf") if adopted else loop.time()
        lost, answered = False, set[str]()
        while True:
            with suppress(MailboxUnavailable, OSError):
                if loop.time() - renewed >= min(RENEW_SECONDS, _seconds(room) / 3):
                    lost = await self._renew(room, turn_id, told=lost)
                    renewed = loop.time()
                for wish in wishes_in(room.state.turns.path(turn_id)):
                    if wish.id not in answered:
                        await self._grant(room, turn_id, wish)
                        answered.add(wish.id)
                await self.show(room, turn_id)
            await asyncio.sleep(self._rhythm)

    async def _renew(self, room: Surroundings, turn_id: str, *, told: bool) -> bool:
        """Whether what the turn had is lost to somebody else. Raises MailboxUnavailable."""
        if await self._reservations.renew(turn_id, _seconds(room)) or not self._policy.patterns:
            return False
        way = await self._reservations.take(turn_id, self._policy.patterns, _seconds(room))
        if way and not told:
            room.log.emit(EventName.RESERVATION_LOST, turn_id=turn_id, why=as_words(way))
        return bool(way)

    async def _grant(self, room: Surroundings, turn_id: str, wish: Wish) -> None:
        """Raises MailboxUnavailable, OSError."""
        try:
            patterns = checked(wish.paths, str(self._project))
            way = await self._reservations.take(turn_id, patterns, _seconds(room))
            answer = Answer(wish.id, patterns, as_words(way) if way else "")
        except MailboxUnavailable:
            raise
        except MailerError as fault:
            answer = Answer(wish.id, (), fault.message)
        put_answer(room.state.folder.disk, room.state.turns.path(turn_id), answer)

    def _tell_conflict(self, room: Surroundings, message_id: str, way: Sequence[Reservation]) -> None:
        if message_id not in self._later:
            room.log.emit(EventName.RESERVATION_CONFLICT, message_id=message_id, why=as_words(way))


def as_words(way: Collection[Reservation]) -> str:
    """Who holds what, and until when."""
    named = [
        f"{printable(one.pattern, 80)} is held by {printable(one.owner.address, 60)} until {iso(one.until)}"
        for one in list(way)[:3]
    ]
    more = f"; and {len(way) - 3} more" if len(way) > 3 else ""
    return "; ".join(named) + more


def _seconds(room: Surroundings) -> float:
    return room.policy.turn_timeout + room.policy.stop_grace + SPARE_SECONDS
