"""Threads as rows: listed by what happened last, put away and brought back. Every query names the user.

What is put away leaves the inboxes: nobody counts it, lists it, claims it. New mail in a thread brings the thread back;
what was put away of it stays so until a person says otherwise. Locks as in `messages.changing`: messages, then inboxes,
then threads, then what waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    false,
    func,
    select,
    true,
    tuple_,
    update,
)

from agent_mailer.broker.messages.waiting import Place, note_changed
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.search.rows import forget_words
from agent_mailer.broker.tables import (
    IN_INBOX,
    NOT_ERASED,
    NOT_TRASHED,
    agents,
    messages,
    receipts,
    threads,
    trashed_messages,
)


class Shelf(StrEnum):
    """Where a person has a thread."""

    OPEN = "open"
    ARCHIVE = "archive"
    TRASH = "trash"


class Thread(msgspec.Struct, frozen=True):
    """`shelved_at`: since when it is put away."""

    thread_id: str
    shelf: Shelf
    shelved_at: str | None


class Summary(msgspec.Struct, frozen=True):
    """A thread in a list. `preview_subject` is that of its first message; the moments say since when it is where."""

    thread_id: str
    last_activity: str
    message_count: int
    unread_count: int
    preview_subject: str
    archived_at: str | None
    trashed_at: str | None


class Mark(msgspec.Struct, frozen=True):
    """A place in a list, newest first: what comes after it is older, or as old and of a smaller id."""

    moment: str = "9999"
    id: str = ""


Arrivals = list[tuple[str, int]]
"""Inboxes (agent ids) to which something has come back, each with its newest number."""

_m, _t = messages.c, threads.c
_OF_THREAD = (_m.user_id == bindparam("user"), _m.thread_id == bindparam("thread"))
_FIND = select(_t.shelf, _t.shelved_at).where(_t.user_id == bindparam("user"), _t.thread_id == bindparam("thread"))
_FIND_TO_CHANGE = _FIND.with_for_update()
_IS_IN_INBOX = select(_m.id).where(*_OF_THREAD, IN_INBOX).limit(1)
_PUT = (
    update(threads)
    .where(_t.user_id == bindparam("user"), _t.thread_id == bindparam("thread"))
    .values(shelf=bindparam("where_to"), shelved_at=bindparam("moment"))
)
_FORGET = delete(threads).where(
    _t.user_id == bindparam("user"),
    _t.thread_id == bindparam("thread"),
    ~exists().where(_m.user_id == _t.user_id, _m.thread_id == _t.thread_id),
)


def _listed(*, trash: bool) -> Select[Any]:
    """In the trash all of a thread counts, elsewhere what is not there by itself."""
    of_it: tuple[ColumnElement[bool], ...] = (_m.user_id == _t.user_id, _m.thread_id == _t.thread_id)
    if not trash:
        of_it = (*of_it, NOT_TRASHED)
    first = select(_m.subject).where(*of_it).order_by(_m.created_at, _m.ordinal, _m.id).limit(1)
    counts = [select(func.count()).where(*of_it), select(func.count()).where(*of_it, _m.is_read == false())]
    return (
        select(
            _t.thread_id,
            _t.last_activity,
            *(one.select_from(messages).correlate(threads).scalar_subquery() for one in counts),
            first.correlate(threads).scalar_subquery(),
            _t.shelved_at,
        )
        .where(_t.user_id == bindparam("user"), _t.shelf == bindparam("where_from"))
        .where(tuple_(_t.last_activity, _t.thread_id) < tuple_(bindparam("moment"), bindparam("id")))
        .where(exists().where(*of_it).correlate(threads))
        .order_by(_t.last_activity.desc(), _t.thread_id.desc())
        .limit(bindparam("most"))
    )


_LISTED = {shelf: _listed(trash=shelf is Shelf.TRASH) for shelf in Shelf}


def find_thread(connection: Connection, user_id: str, thread_id: str, *, to_change: bool = False) -> Thread:
    """Raises Fault 404."""
    names = {"user": user_id, "thread": thread_id}
    row = connection.execute(_FIND_TO_CHANGE if to_change else _FIND, names).first()
    if row is None:
        raise Fault(404, "Thread not found")
    return Thread(thread_id, Shelf(row[0]), row[1])


def summaries(connection: Connection, user_id: str, shelf: Shelf, after: Mark, most: int) -> list[Summary]:
    """At most `most` threads on that shelf, the one with the newest mail first."""
    names = {"user": user_id, "where_from": shelf, "moment": after.moment, "id": after.id, "most": most}
    found = []
    for thread_id, moment, many, unread, subject, since in connection.execute(_LISTED[shelf], names):
        archived, trashed = (since if shelf is one else None for one in (Shelf.ARCHIVE, Shelf.TRASH))
        found.append(Summary(thread_id, moment, many, unread, subject or "", archived, trashed))
    return found


def put_away(connection: Connection, user_id: str, thread_id: str, shelf: Shelf) -> str:
    """All of it leaves the inboxes; since when. What comes in the same instant opens it. Raises Fault 404, 400 (in the
    trash already).
    """
    if find_thread(connection, user_id, thread_id).shelf is Shelf.TRASH:
        words = "is already in trash" if shelf is Shelf.TRASH else "is in trash; restore it before archiving."
        raise Fault(400, f"Thread {words}")
    names = {"user": user_id, "thread": thread_id}
    places = _take_out(connection, _OF_THREAD, names)
    moment = now_text()
    # Whoever is writing into it has locked it, and his mail is there then, or waits for us, and opens it.
    connection.execute(_FIND_TO_CHANGE, names)
    if connection.execute(_IS_IN_INBOX, names).first() is None:
        connection.execute(_PUT, {**names, "where_to": shelf, "moment": moment})
        if shelf is Shelf.TRASH:
            of_it = select(_m.id).where(*_OF_THREAD)
            connection.execute(delete(trashed_messages).where(trashed_messages.c.message_id.in_(of_it)), names)
    note_changed(connection, {}, places)
    return moment


def bring_back(connection: Connection, user_id: str, thread_id: str, shelf: Shelf) -> Arrivals:
    """All of it from that shelf, but what is in the trash by itself. Raises Fault 404 (unknown, not in the trash)."""
    thread = find_thread(connection, user_id, thread_id)
    if shelf is Shelf.TRASH and thread.shelf is not shelf:
        raise Fault(404, "Thread is not in trash")
    if shelf is Shelf.ARCHIVE and thread.shelf is Shelf.TRASH:
        return []
    names = {"user": user_id, "thread": thread_id}
    arrivals, places = _put_in(connection, _OF_THREAD, names)
    connection.execute(_PUT, {**names, "where_to": Shelf.OPEN, "moment": None})
    note_changed(connection, {}, places)
    return arrivals


def erase_thread(connection: Connection, user_id: str, thread_id: str) -> None:
    """For good. Raises Fault 404, 400 (not in the trash)."""
    if find_thread(connection, user_id, thread_id, to_change=True).shelf is not Shelf.TRASH:
        raise Fault(400, "Thread is not in trash; move to trash before permanent delete.")
    names = {"user": user_id, "thread": thread_id}
    erase(connection, (*_OF_THREAD, ~IN_INBOX), names)
    # Somebody may have written into it just now.
    connection.execute(_PUT, {**names, "where_to": Shelf.OPEN, "moment": None})
    connection.execute(_FORGET, names)


def erase(connection: Connection, those: Sequence[ColumnElement[bool]], names: Mapping[str, object]) -> None:
    """Of these messages, which no inbox has, only their ids, keys and addresses stay."""
    forget_words(connection, those, names)
    connection.execute(delete(receipts).where(receipts.c.message_id.in_(select(_m.id).where(*those))), names)
    connection.execute(
        update(messages)
        .where(*those)
        .values(thread_id="", subject="", body="", attachments=[], labels=[], visited=None, is_read=true()),
        names,
    )


def lock_with_threads(connection: Connection, ids: Sequence[str]) -> None:
    """These messages, their inboxes and their threads, in the order in which everybody locks: who is just marking one
    or writing into its thread is waited for, and waits for us from now on.
    """
    those = _m.id.in_(sorted(ids))
    _lock(connection, (those,), {})
    inboxes = select(agents.c.id).where(agents.c.id.in_(select(_m.to_agent_id).where(those)))
    connection.execute(inboxes.order_by(agents.c.id).with_for_update(key_share=True))
    named = tuple_(_t.user_id, _t.thread_id).in_(select(_m.user_id, _m.thread_id).where(those))
    connection.execute(select(_t.thread_id).where(named).order_by(_t.user_id, _t.thread_id).with_for_update())


def erase_read(connection: Connection, ids: Sequence[str]) -> None:
    """These, which are read, for good, wherever they are."""
    those = (_m.id.in_(bindparam("ids", expanding=True)),)
    names = {"ids": sorted(ids)}
    places = {(row[0], row[1]) for row in connection.execute(select(_m.user_id, _m.thread_id).where(*those), names)}
    note_changed(connection, {}, _take_out(connection, those, names))
    connection.execute(delete(trashed_messages).where(trashed_messages.c.message_id.in_(sorted(ids))))
    erase(connection, those, names)
    for user_id, thread_id in sorted(places):
        forget_empty(connection, user_id, thread_id)


def forget_empty(connection: Connection, user_id: str, thread_id: str) -> None:
    """The thread, if there is nothing left of it."""
    names = {"user": user_id, "thread": thread_id}
    # Whoever is writing into it has locked it, or waits for us: what is left is asked then.
    connection.execute(_FIND_TO_CHANGE, names)
    connection.execute(_FORGET, names)


def take_out_one(connection: Connection, message_id: str) -> None:
    """That message leaves its inbox."""
    note_changed(connection, {}, _take_out(connection, (_m.id == bindparam("message"),), {"message": message_id}))


def put_in_one(connection: Connection, message_id: str) -> Arrivals:
    """That message comes back to its inbox."""
    arrivals, places = _put_in(connection, (_m.id == bindparam("message"),), {"message": message_id})
    note_changed(connection, {}, places)
    return arrivals


def _lock(connection: Connection, those: Sequence[ColumnElement[bool]], names: Mapping[str, object]) -> None:
    """In the order in which everybody locks."""
    connection.execute(select(_m.id).where(*those).order_by(_m.id).with_for_update(key_share=True), names)


def _take_out(connection: Connection, those: Sequence[ColumnElement[bool]], names: Mapping[str, object]) -> set[Place]:
    """Where something unread was among them."""
    those = (*those, IN_INBOX, NOT_ERASED)
    _lock(connection, those, names)
    gone = connection.execute(
        update(messages).where(*those).values(seq=-_m.seq).returning(_m.to_agent_id, _m.thread_id, _m.is_read), names
    ).all()
    _count(connection, Counter(row[0] for row in gone), Counter(row[0] for row in gone if not row[2]), sign=-1)
    return {(row[0], row[1]) for row in gone if not row[2]}


def _put_in(
    connection: Connection, those: Sequence[ColumnElement[bool]], names: Mapping[str, object]
) -> tuple[Arrivals, set[Place]]:
    """What was read gets its place again, what was not a new one, so that who follows the inbox finds it."""
    those = (*those, ~IN_INBOX, NOT_ERASED, NOT_TRASHED)
    _lock(connection, those, names)
    back = connection.execute(
        update(messages).where(*those, _m.is_read).values(seq=-_m.seq).returning(_m.to_agent_id), names
    ).all()
    unread = connection.execute(
        select(_m.id, _m.to_agent_id, _m.thread_id).where(*those, _m.is_read == false()).order_by(_m.seq.desc()), names
    ).all()
    newly = Counter(row[1] for row in unread)
    total = Counter(row[0] for row in back) + newly
    _count(connection, total, newly, sign=1)
    newest: dict[str, int] = {}
    if newly:
        known = select(agents.c.id, agents.c.inbox_seq).where(agents.c.id.in_(sorted(newly)))
        newest = {row[0]: row[1] for row in connection.execute(known)}
        numbered = []
        for message_id, agent_id, _ in unread:
            newly[agent_id] -= 1
            numbered.append({"message": message_id, "newest": newest[agent_id] - newly[agent_id]})
        connection.execute(
            update(messages).where(_m.id == bindparam("message")).values(seq=bindparam("newest")), numbered
        )
    return list(newest.items()), {(row[1], row[2]) for row in unread}


def _count(connection: Connection, total: Counter[str], unread: Counter[str], *, sign: int) -> None:
    """What inboxes have; what comes back unread gets new numbers."""
    statement = (
        update(agents)
        .where(agents.c.id == bindparam("agent"))
        .values(
            inbox_total=agents.c.inbox_total + bindparam("all"),
            inbox_unread=agents.c.inbox_unread + bindparam("unread"),
            inbox_seq=agents.c.inbox_seq + bindparam("moved"),
        )
    )
    counts = [
        {
            "agent": agent_id,
            "all": sign * many,
            "unread": sign * unread[agent_id],
            "moved": unread[agent_id] if sign > 0 else 0,
        }
        for agent_id, many in sorted(total.items())
    ]
    if counts:
        connection.execute(statement, counts)
