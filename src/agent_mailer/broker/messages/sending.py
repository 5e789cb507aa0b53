"""Sending: all that wait for the writer are stored together, in a handful of statements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update

from agent_mailer.broker.fixed import rows_of, write_each
from agent_mailer.broker.leases import last_epochs
from agent_mailer.broker.messages.groups import copies_of, note_copies
from agent_mailer.broker.messages.noting import note_stored
from agent_mailer.broker.messages.rows import takes_part
from agent_mailer.broker.messages.submission import Submission, new_id
from agent_mailer.broker.messages.waiting import note_arrivals
from agent_mailer.broker.messages.wire import MESSAGE_COLUMNS, Message, forwarded, message_of
from agent_mailer.broker.protocol import Fault, now_after, now_text
from agent_mailer.broker.tables import NOT_ERASED, NOT_TRASHED, agents, former_addresses, messages
from agent_mailer.broker.users.quotas import Spent, count_alone, require_left, spend, spent_by


class Sent(msgspec.Struct, frozen=True):
    """The messages, one for each recipient; `arrivals` are the inboxes (agent id, number) that have something new."""

    messages: list[Message]
    replayed: bool = False
    arrivals: tuple[tuple[str, int], ...] = ()


class _Parent(msgspec.Struct, frozen=True):
    id: str
    user_id: str
    thread_id: str
    from_agent_id: str
    to_agent_id: str
    created_at: str


_Row = dict[str, object]
_Place = tuple[str, str]
"""A thread: the id of its user, and its own."""
_m = messages.c
# An id follows from the sender and his key: to look for eight costs an eighth of eight keys of eight senders.
_IS_EARLIER = select(_m.id).where(_m.id.in_(bindparam("ids", expanding=True))).limit(1)
_EARLIER = (
    select(_m.from_agent_id, _m.idempotency_key, _m.request_hash, *MESSAGE_COLUMNS)
    .where(_m.id.in_(bindparam("ids", expanding=True)))
    .order_by(_m.ordinal)
)
# Not FOR UPDATE: that would wait for whoever only stores a message of this agent, and he for us.
_RECIPIENTS = (
    select(agents.c.address, agents.c.id, agents.c.user_id, agents.c.inbox_seq)
    .where(agents.c.address.in_(bindparam("addresses", expanding=True)))
    .order_by(agents.c.id)
    .with_for_update(key_share=True)
)
_FORMER_RECIPIENTS = (
    select(former_addresses.c.address, agents.c.id, agents.c.user_id, agents.c.inbox_seq)
    .join(agents, agents.c.id == former_addresses.c.agent_id)
    .where(former_addresses.c.address.in_(bindparam("addresses", expanding=True)))
    .order_by(agents.c.id)
    .with_for_update(key_share=True, of=agents)
)
_COUNT_ON = (
    update(agents)
    .where(agents.c.id == bindparam("agent"))
    .values(
        inbox_seq=bindparam("newest"),
        inbox_total=agents.c.inbox_total + bindparam("many"),
        inbox_unread=agents.c.inbox_unread + bindparam("many"),
    )
)
_PARENTS = select(_m.id, _m.user_id, _m.thread_id, _m.from_agent_id, _m.to_agent_id, _m.created_at).where(
    _m.id.in_(bindparam("ids", expanding=True)), NOT_ERASED
)
_QUOTED = (_m.from_agent, _m.to_agent, _m.created_at, _m.action, _m.subject, _m.body)
_QUOTED_MESSAGE = select(*_QUOTED).where(_m.id == bindparam("message"), _m.user_id == bindparam("user"))
_IN_THREAD = (_m.user_id == bindparam("user"), _m.thread_id == bindparam("thread"))
_QUOTED_THREAD = select(*_QUOTED).where(*_IN_THREAD, NOT_TRASHED).order_by(_m.created_at, _m.ordinal, _m.seq)
_THREAD_SIZE = select(func.sum(func.length(_m.body) + 40)).where(*_IN_THREAD, NOT_TRASHED)
_THREAD_EXISTS = select(_m.id).where(*_IN_THREAD).limit(1)
_STORE = insert(messages)


def send_all(connection: Connection, submissions: Sequence[Submission]) -> list[Sent | Fault]:
    """Store what is asked for: each submission whole or, with its Fault, not at all.

    Inboxes count on under the lock of this transaction, so that the order of their numbers is the order of commits.
    """
    return _Batch(connection, submissions).run()


class _Batch:
    def __init__(self, connection: Connection, submissions: Sequence[Submission]) -> None:
        self.connection = connection
        self.submissions = submissions
        self.rows: list[_Row] = []
        self.arrived: list[tuple[str, str, str, int]] = []
        self.counted: Counter[str] = Counter()
        self.copies: list[_Row] = []
        """Of `rows` those that one of a group takes."""
        self.newly: dict[str, Spent] = {}
        """What users whose sending is counted send now."""
        self.begun: dict[_Place, set[str]] = {}
        """Who takes part in the threads of `rows`."""

    def run(self) -> list[Sent | Fault]:
        counted = {one.user_id for one in self.submissions if one.quota.messages_per_day or one.quota.bytes_per_day}
        if counted:
            count_alone(self.connection, counted)
        self.earlier = self._read_earlier()
        self.epochs = last_epochs(self.connection, ((one.agent_id, one.fence) for one in self.submissions))
        addresses = {address for submission in self.submissions for address in submission.new.to}
        found = self._find_recipients(addresses)
        self.recipients: dict[str, tuple[str, str]] = {row[0]: (row[1], row[2]) for row in found}
        self.newest: dict[str, int] = {row[1]: row[3] for row in found}
        wanted = {submission.new.parent_id for submission in self.submissions if submission.new.parent_id}
        parents = self.connection.execute(_PARENTS, {"ids": sorted(wanted)}).all() if wanted else []
        self.parents = {row[0]: _Parent(*row) for row in parents}
        self.spent = spent_by(self.connection, counted) if counted else {}
        results: list[Sent | Fault] = []
        for submission in self.submissions:
            try:
                results.append(self._send(submission))
            except Fault as fault:
                results.append(fault)
        if self.rows:
            # In the order of the locks, which others take too.
            counted_on = sorted(self.counted.items())
            counts = [{"agent": one, "newest": self.newest[one], "many": many} for one, many in counted_on]
            write_each(self.connection, _COUNT_ON, counts)
            write_each(self.connection, _STORE, self.rows)
            note_copies(self.connection, self.copies)
            note_stored(self.connection, self.rows)
            note_arrivals(self.connection, self.arrived)
            spend(self.connection, self.newly)
        return results

    def _find_recipients(self, addresses: set[str]) -> list[Sequence[Any]]:
        """Address, agent id, user id and newest number of each that there is."""
        found: list[Sequence[Any]] = []
        for statement in (_RECIPIENTS, _FORMER_RECIPIENTS):
            missing = sorted(addresses - {row[0] for row in found})
            if missing:
                found += rows_of(self.connection, statement, {"addresses": missing})
        return found

    def _read_earlier(self) -> dict[tuple[str, str], tuple[str, list[Message]]]:
        keyed = [one for one in self.submissions if one.key is not None]
        ids = sorted({one.named("0") for one in keyed})
        if not keyed or not rows_of(self.connection, _IS_EARLIER, {"ids": ids}):
            return {}
        ids = sorted({one.named(str(ordinal)) for one in keyed for ordinal in range(len(one.new.to))})
        earlier: dict[tuple[str, str], tuple[str, list[Message]]] = {}
        for row in self.connection.execute(_EARLIER, {"ids": ids}):
            earlier.setdefault((row[0], row[1]), (row[2], []))[1].append(message_of(row[3:]))
        return earlier

    def _send(self, submission: Submission) -> Sent:
        digest = submission.request_hash() if submission.key is not None else None
        if submission.key is not None and digest is not None:
            stored = self.earlier.get((submission.agent_id, submission.key))
            if stored is not None:
                if stored[0] != digest:
                    raise Fault(409, "This Idempotency-Key was used for another request")
                return Sent(stored[1], replayed=True)
        if submission.fence is not None:
            submission.fence.require_last(submission.agent_id, submission.new.from_agent, self.epochs)
        to = [self._recipient(submission, address) for address in submission.new.to]
        parent = self._parent(submission)
        body = self._body(submission, parent)
        thread_id = self._thread(submission, parent)
        self._count(submission, Spent(len(to), len(to) * len(body.encode())))
        made = self._messages(submission, thread_id, parent, body, to)
        if submission.key is not None and digest is not None and made:
            self.earlier[submission.agent_id, submission.key] = (digest, made)
        for ordinal, (message, agent_id) in enumerate(zip(made, to, strict=True)):
            self.rows.append(_row(submission, message, agent_id, ordinal, digest))
            self.arrived.append((agent_id, message.thread_id, message.priority, message.cursor))
            place = (submission.user_id, message.thread_id)
            self.begun.setdefault(place, set()).update((submission.agent_id, agent_id))
        self.copies += copies_of(submission, made)
        self.counted.update(to)
        return Sent(made, arrivals=tuple((agent_id, self.newest[agent_id]) for agent_id in to))

    def _count(self, submission: Submission, wanted: Spent) -> None:
        if submission.quota.messages_per_day or submission.quota.bytes_per_day:
            user_id = submission.user_id
            newly = self.newly.get(user_id, Spent())
            require_left(submission.quota, self.spent.get(user_id, Spent()) + newly, wanted)
            self.newly[user_id] = newly + wanted

    def _recipient(self, submission: Submission, address: str) -> str:
        agent_id, user_id = self.recipients.get(address, ("", ""))
        # One of another user is not told from none: who has which agents is nobody else's business.
        if user_id != submission.user_id:
            raise Fault(404, f"Recipient address '{address[:200]}' not found")
        return agent_id

    def _parent(self, submission: Submission) -> _Parent | None:
        new = submission.new
        if not new.parent_id:
            if new.action != "send":
                raise Fault(400, "parent_id is required for reply/forward")
            return None
        parent = self.parents.get(new.parent_id)
        if parent is None or parent.user_id != submission.user_id or not self._may_read(submission, parent):
            raise Fault(404, "Parent message not found")
        return parent

    def _may_read(self, submission: Submission, parent: _Parent) -> bool:
        if not submission.bound or submission.agent_id in (parent.from_agent_id, parent.to_agent_id):
            return True
        return takes_part(self.connection, submission.user_id, parent.thread_id, submission.agent_id)

    def _body(self, submission: Submission, parent: _Parent | None) -> str:
        new = submission.new
        if new.thread_id is not None and new.action != "send":
            raise Fault(400, "thread_id is only allowed when action is send")
        if new.forward_scope is None:
            return new.body
        if new.action != "forward" or parent is None:
            raise Fault(400, "forward_scope is only allowed when action is forward")
        quoted: Sequence[Sequence[Any]]
        of_thread = {"user": submission.user_id, "thread": parent.thread_id}
        if new.forward_scope == "message":
            names = {"message": parent.id, "user": submission.user_id}
            quoted = self.connection.execute(_QUOTED_MESSAGE, names).all()
        else:
            # Before the bodies come into memory.
            check_size(int(self.connection.execute(_THREAD_SIZE, of_thread).scalar() or 0), submission.longest)
            quoted = self.connection.execute(_QUOTED_THREAD, of_thread).all()
        body = forwarded(new.body, quoted)
        check_size(len(body.encode()), submission.longest)
        return body

    def _thread(self, submission: Submission, parent: _Parent | None) -> str:
        """A thread of its own, its parent's, or the named one: a new one, or one that the sender may read."""
        if parent is not None and submission.new.action != "send":
            return parent.thread_id
        named = submission.new.thread_id
        if named is not None:
            if submission.bound and self._holds_others(submission, named):
                raise Fault(403, f"This API key's agent takes no part in the thread '{named}'")
            return named
        return new_id()

    def _holds_others(self, submission: Submission, thread_id: str) -> bool:
        """Whether there is such a thread of this user, and the sender takes no part in it."""
        place = (submission.user_id, thread_id)
        if submission.agent_id in self.begun.get(place, ()):
            return False
        names = {"user": submission.user_id, "thread": thread_id}
        is_there = place in self.begun or self.connection.execute(_THREAD_EXISTS, names).first() is not None
        return is_there and not takes_part(self.connection, *place, submission.agent_id)

    def _messages(
        self, submission: Submission, thread_id: str, parent: _Parent | None, body: str, to: Sequence[str]
    ) -> list[Message]:
        new = submission.new
        made: list[Message] = []
        now = now_text() if parent is None else now_after(parent.created_at)
        for ordinal, (agent_id, address) in enumerate(zip(to, new.to, strict=True)):
            self.newest[agent_id] += 1
            made.append(
                Message(
                    id=new_id() if submission.key is None else submission.named(str(ordinal)),
                    thread_id=thread_id,
                    from_agent=new.from_agent,
                    to_agent=address,
                    action=new.action,
                    subject=new.subject,
                    is_read=False,
                    parent_id=None if parent is None else parent.id,
                    created_at=now,
                    cursor=self.newest[agent_id],
                    hops=new.hops,
                    automatic=new.automatic,
                    priority=new.priority,
                    kind=new.kind,
                    labels=list(new.labels),
                    visited=list(new.visited),
                    claimed_at=None,
                    body=body,
                    attachments=list(new.attachments),
                )
            )
        return made


def check_size(size: int, longest: int) -> None:
    """Raises Fault 413."""
    if size > longest:
        raise Fault(413, f"Message body too large: {size} bytes. Maximum: {longest} bytes")


def _row(submission: Submission, message: Message, to_agent_id: str, ordinal: int, digest: str | None) -> _Row:
    fields = msgspec.structs.asdict(message)
    del fields["body_html"]
    seq = fields.pop("cursor")
    return {
        **fields,
        "seq": seq,
        "user_id": submission.user_id,
        "from_agent_id": submission.agent_id,
        "to_agent_id": to_agent_id,
        "claimed_by": None,
        "idempotency_key": submission.key,
        "request_hash": digest,
        "ordinal": ordinal,
    }
