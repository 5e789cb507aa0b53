"""What a broker keeps, in numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Connection, case, func, select, text

from agent_mailer.broker.agents.rows import OPERATOR
from agent_mailer.broker.tables import CLAIMED, IN_INBOX, NOT_ERASED, WAITING, agents, api_keys, files, messages, users


class OfUser(msgspec.Struct, frozen=True):
    """`agents`: without the operator's own mailbox. `keys`: those that count. `file_bytes`: of uploads."""

    username: str
    standing: str
    agents: int
    keys: int
    messages: int
    unread: int
    body_characters: int
    file_bytes: int
    last_message_at: str | None


class Stats(msgspec.Struct, frozen=True):
    """`waiting`: messages that a watcher could claim now; `oldest_waiting_at`: since when the oldest does.

    `database_bytes`: what it takes on the disk of its server, or of this machine.
    """

    users: list[OfUser]
    messages: int
    unread: int
    waiting: int
    claimed: int
    oldest_waiting_at: str | None
    files: int
    file_bytes: int
    database_bytes: int


_m = messages.c
_AGENTS = (
    select(agents.c.user_id, func.count())
    .where(agents.c.status == "active", agents.c.role != OPERATOR)
    .group_by(agents.c.user_id)
)
_KEYS = select(api_keys.c.user_id, func.count()).where(api_keys.c.is_active).group_by(api_keys.c.user_id)
_FILES = select(files.c.user_id, func.sum(files.c.size), func.count()).group_by(files.c.user_id)
_MAIL = (
    select(
        _m.user_id,
        func.count(),
        func.sum(case((_m.is_read, 0), else_=1)),
        func.sum(func.length(_m.body)),
        func.max(_m.created_at),
    )
    .where(NOT_ERASED)
    .group_by(_m.user_id)
)


def stats(connection: Connection, file: Path | None) -> Stats:
    """`file`: where the database is one."""
    of_agents = {row[0]: row[1] for row in connection.execute(_AGENTS)}
    of_keys = {row[0]: row[1] for row in connection.execute(_KEYS)}
    of_files = {row[0]: (int(row[1]), row[2]) for row in connection.execute(_FILES)}
    of_mail = {row[0]: row for row in connection.execute(_MAIL)}
    known = connection.execute(select(users.c.id, users.c.username, users.c.standing).order_by(users.c.username))
    found: list[OfUser] = []
    for user in known:
        mail = of_mail.get(user.id, (user.id, 0, 0, 0, None))
        found.append(
            OfUser(
                username=user.username,
                standing=user.standing,
                agents=of_agents.get(user.id, 0),
                keys=of_keys.get(user.id, 0),
                messages=mail[1],
                unread=int(mail[2]),
                body_characters=int(mail[3]),
                file_bytes=of_files.get(user.id, (0, 0))[0],
                last_message_at=mail[4],
            )
        )
    waits = connection.execute(select(func.count(), func.min(_m.created_at)).where(WAITING, IN_INBOX)).one()
    return Stats(
        found,
        sum(one.messages for one in found),
        sum(one.unread for one in found),
        waits[0],
        int(connection.execute(select(func.count()).select_from(messages).where(CLAIMED, IN_INBOX)).scalar_one()),
        waits[1],
        sum(many for _, many in of_files.values()),
        sum(one.file_bytes for one in found),
        _size(connection, file),
    )


def _size(connection: Connection, file: Path | None) -> int:
    if file is None:
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    beside = (file, file.with_name(f"{file.name}-wal"))
    return sum(path.stat().st_size for path in beside if path.exists())
