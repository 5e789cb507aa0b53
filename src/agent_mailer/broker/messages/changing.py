"""Changes of mail that is stored: all that wait for the writer are made together, and everybody locks in one order.

Messages come first, then the copies of what one of a group takes, then who holds their agents, then the inboxes that
count them, then the threads in which something waits; each kind by its ids. So processes that change the same mail at
once wait for each other, and none gives way.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, false, select, update

from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.leases import Epochs, Fence, last_epochs
from agent_mailer.broker.messages.groups import Taken
from agent_mailer.broker.messages.waiting import Place, note_changed
from agent_mailer.broker.messages.wire import MESSAGE_COLUMNS, Message, message_of
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import NOT_ERASED, agents, messages
from agent_mailer.groups import taken_by_one

T = TypeVar("T")

_m = messages.c
_LOCKED = (
    select(_m.id, _m.user_id, _m.to_agent_id, agents.c.status, _m.claimed_by, *MESSAGE_COLUMNS)
    .join(agents, agents.c.id == _m.to_agent_id)
    .where(_m.id.in_(bindparam("ids", expanding=True)), NOT_ERASED)
    .order_by(_m.id)
    .with_for_update(key_share=True, of=messages)
)
_COUNT = (
    update(agents)
    .where(agents.c.id == bindparam("agent"))
    .values(
        inbox_seq=agents.c.inbox_seq + bindparam("moved"),
        inbox_unread=agents.c.inbox_unread + bindparam("unread"),
    )
)
_NEWEST = select(agents.c.id, agents.c.inbox_seq).where(agents.c.id.in_(bindparam("agents", expanding=True)))
_UNREAD = (
    update(messages).where(_m.id == bindparam("message")).values(is_read=false(), claimed_by=None, claimed_at=None)
)
_MOVED = update(messages).where(_m.id == bindparam("message")).values(seq=bindparam("newest"))


class Locked(msgspec.Struct):
    """A message that nobody else changes until the transaction ends, as it is now. `agent_id` is its recipient."""

    agent_id: str
    is_deleted: bool
    claimed_by: str | None
    message: Message

    @property
    def place(self) -> Place:
        return self.agent_id, self.message.thread_id

    @property
    def is_away(self) -> bool:
        """Archived, or in the trash: no inbox counts it."""
        return self.message.cursor < 0


class Change(msgspec.Struct, frozen=True):
    """What `caller` wants of that message: `make` makes it and returns the answer, or raises Fault before.

    `fence`: by which hold of the agent, for `Changes.require_last`.
    """

    caller: AgentCaller
    message_id: str
    make: Callable[[Changes, Locked], object]
    fence: Fence | None = None


class Changes:
    """What comes of the changes of one transaction, beside the messages."""

    def __init__(self, connection: Connection, epochs: Epochs, taken: Taken) -> None:
        self.connection = connection
        self.taken = taken
        self._epochs = epochs
        self._unread: Counter[str] = Counter()
        self._taken: dict[Place, set[int]] = {}
        self._moved: dict[str, Locked] = {}
        self._answers: list[Message] = []

    def require_last(self, locked: Locked, fence: Fence | None) -> None:
        """Raises Fault 409 where the agent has been held anew since."""
        if fence is not None:
            fence.require_last(locked.agent_id, locked.message.to_agent, self._epochs)

    def was_read(self, locked: Locked) -> None:
        """It counts as unread no longer."""
        self._unread[locked.agent_id] -= not locked.is_away

    def was_taken(self, locked: Locked) -> None:
        """It waits no longer."""
        if not locked.is_away:
            self._taken.setdefault(locked.place, set()).add(locked.message.cursor)

    def becomes_unread(self, locked: Locked) -> None:
        """It gets the newest number of its inbox when all else is done: inboxes are locked after all messages. What is
        put away stays so.
        """
        message = locked.message
        self.connection.execute(_UNREAD, {"message": message.id})
        if not locked.is_away:
            self._unread[locked.agent_id] += message.is_read
            self._moved[message.id] = locked
        message.is_read, message.claimed_at, locked.claimed_by = False, None, None

    def answer(self, locked: Locked) -> Message:
        """The message as it is now; what others do in the same transaction does not show."""
        answer = copy.copy(locked.message)
        if answer.id in self._moved:
            self._answers.append(answer)
        return answer

    def finish(self) -> None:
        moved = Counter(locked.agent_id for locked in self._moved.values())
        counted = [
            {"agent": agent_id, "moved": moved[agent_id], "unread": self._unread[agent_id]}
            for agent_id in sorted({*moved, *self._unread})
        ]
        if counted:
            self.connection.execute(_COUNT, counted)
        if moved:
            newest = {row[0]: row[1] for row in self.connection.execute(_NEWEST, {"agents": sorted(moved)})}
            numbers: dict[str, int] = {}
            for name, locked in self._moved.items():
                moved[locked.agent_id] -= 1
                numbers[name] = newest[locked.agent_id] - moved[locked.agent_id]
            self.connection.execute(_MOVED, [{"message": name, "newest": number} for name, number in numbers.items()])
            for answer in self._answers:
                answer.cursor = numbers[answer.id]
        note_changed(self.connection, self._taken, {locked.place for locked in self._moved.values()})


async def changed(
    store: Store,
    caller: AgentCaller,
    message_id: str,
    make: Callable[[Changes, Locked], T],
    fence: Fence | None = None,
) -> T:
    """What `make` returned, once that is durable. Raises as `make` does, and Fault as `change_all`."""
    answer: T = await store.write_each(change_all, Change(caller, message_id, make, fence))
    return answer


def change_all(connection: Connection, wanted: Sequence[Change]) -> list[Any]:
    """Each change whole or, with its Fault, not at all: 404 (unknown, or of another user), 403 (not the caller's)."""
    ids = sorted({change.message_id for change in wanted})
    found = {row[0]: (row[1], _locked(row)) for row in connection.execute(_LOCKED, {"ids": ids})}
    # Who labels nothing so never had copies: nearly all mail needs no look.
    taken = Taken(connection, [name for name, (_, locked) in found.items() if taken_by_one(locked.message.labels)])
    held = [(found[one.message_id][1].agent_id, one.fence) for one in wanted if one.message_id in found]
    changes = Changes(connection, last_epochs(connection, held), taken)
    results: list[Any] = []
    for change in wanted:
        user_id, locked = found.get(change.message_id, ("", None))
        try:
            if locked is None or user_id != change.caller.user_id:
                raise Fault(404, "Message not found")
            if not change.caller.may_act_as(locked.agent_id):
                raise Fault(403, "This API key acts for another agent only")
            results.append(change.make(changes, locked))
        except Fault as fault:
            results.append(fault)
    changes.finish()
    return results


def _locked(row: Sequence[Any]) -> Locked:
    return Locked(row[2], row[3] == "deleted", row[4], message_of(row[5:]))
