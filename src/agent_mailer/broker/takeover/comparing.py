"""Is what stands here what stood there? Every row is read back in the columns of the public broker and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import BindParameter, ColumnElement, Connection, Select, bindparam, func, select, tuple_

from agent_mailer.broker.tables import agents, metadata, threads, trashed_messages
from agent_mailer.broker.takeover.source import KEYS, SHAPE, Old, Source, key_of, portions
from agent_mailer.broker.takeover.translating import SHELVES, Loss
from agent_mailer.progress import Tell, counted, untold

_JSON = frozenset((("users", "filter_tags"), ("agents", "tags"), ("messages", "attachments")))
_FLAGS = frozenset((("users", "is_superadmin"), ("api_keys", "is_active"), ("messages", "is_read")))
_ELSEWHERE = frozenset((("files", "stored_path"),))
"""What is not the same by design."""


class Compared(msgspec.Struct, frozen=True):
    """Of one table: how many rows are `there`, how many stand here and are `same`, how many were `left` out, and how
    many parts of rows were not taken over as they were (`changed`). `differing`: what is not as it should be, in words.
    """

    table: str
    there: int
    same: int
    left: int
    changed: int
    differing: list[str]


def compare(connection: Connection, source: Source, losses: Sequence[Loss], tell: Tell = untold) -> list[Compared]:
    """Table by table, without the settings, and the inboxes at the end."""
    left = {(loss.table, loss.key) for loss in losses if not loss.column}
    changed = {(loss.table, loss.key, loss.column) for loss in losses if loss.column}
    found = []
    for name in SHAPE:
        if name == "system_settings":
            continue
        there = same = 0
        differing: list[str] = []
        for some in portions(counted(source.rows(name), f"compares {name}", tell)):
            there += len(some)
            kept = [row for row in some if (name, key_of(name, row)) not in left]
            here = _here(connection, name, kept)
            for row in kept:
                key = key_of(name, row)
                words = _difference(name, row, here.get(key), changed)
                if words:
                    differing.append(f"{name} {key}: {words}")
                else:
                    same += 1
        lost = sum(1 for one in left if one[0] == name)
        found.append(Compared(name, there, same, lost, sum(1 for one in changed if one[0] == name), differing))
    return [*found, _inboxes(connection, source, {loss.key for loss in losses if loss.table == "messages"})]


def _here(connection: Connection, name: str, rows: Sequence[Old]) -> dict[str, Old]:
    """What stands here for these rows, as that broker would have it."""
    if not rows:
        return {}
    statement, keys = _read_back(name, rows)
    found = connection.execute(statement, {"keys": keys}).mappings()
    return {key_of(name, dict(row)): dict(row) for row in found}


def _read_back(name: str, rows: Sequence[Old]) -> tuple[Select[Any], list[Any]]:
    key = KEYS.get(name, ("id",))
    wanted: list[Any] = [tuple(row[part] for part in key) if len(key) > 1 else row[key[0]] for row in rows]
    asked: BindParameter[Any] = bindparam("keys", expanding=True)
    if name in SHELVES:
        since = func.min(threads.c.shelved_at).label(SHAPE[name][1])
        where = (threads.c.thread_id.in_(asked), threads.c.shelf == SHELVES[name])
        return select(threads.c.thread_id, since).where(*where).group_by(threads.c.thread_id), wanted
    if name == "trashed_messages":
        return select(trashed_messages).where(trashed_messages.c.message_id.in_(asked)), wanted
    table = metadata.tables[name]
    parts: list[ColumnElement[Any]] = [table.c[part] for part in key]
    which = tuple_(*parts).in_(asked) if len(parts) > 1 else parts[0].in_(asked)
    return select(*(table.c[one] for one in SHAPE[name])).where(which), wanted


def _difference(name: str, there: Old, here: Old | None, changed: set[tuple[str, str, str]]) -> str:
    """What differs, in words; empty where nothing does."""
    if here is None:
        return "is not here"
    key = key_of(name, there)
    for column in SHAPE[name]:
        if (name, column) in _ELSEWHERE or (name, key, column) in changed:
            continue
        if _plain(name, column, there[column]) != _plain(name, column, here[column]):
            return f"{column} is another"
    return ""


def _plain(name: str, column: str, value: Any) -> object:  # noqa: ANN401 - of either database
    if (name, column) in _JSON:
        return msgspec.json.decode(value or "[]") if isinstance(value, str) else value
    if (name, column) in _FLAGS:
        return bool(value)
    return value or "" if column == "api_key_suffix" else value


def _inboxes(connection: Connection, source: Source, lost: set[str]) -> Compared:
    """How much each agent has, and has not read: counted there by that broker's rule, here by what is kept beside."""
    there = source.inboxes()
    # Of inboxes of which something was left out nothing can be said.
    left = {row["to_agent"] for row in _lost_rows(source, lost)}
    here = {
        row[0]: (row[1], row[2])
        for row in connection.execute(select(agents.c.address, agents.c.inbox_total, agents.c.inbox_unread))
    }
    compared = {address: counts for address, counts in there.items() if address not in left}
    wrong = [
        f"inbox of {address}: {here.get(address)} instead of {counts}"
        for address, counts in compared.items()
        if here.get(address) != counts
    ]
    return Compared("(inboxes)", len(there), len(compared) - len(wrong), len(there) - len(compared), 0, wrong)


def _lost_rows(source: Source, lost: set[str]) -> Iterator[Old]:
    for some in portions(sorted(lost)):
        yield from source.some("messages", some)
