"""Who did what: logins, keys and changes, written down in the transaction of the change itself."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, insert, select

from agent_mailer.broker.protocol import now_text
from agent_mailer.broker.tables import audit_log, users
from agent_mailer.broker.users.rows import User
from agent_mailer.broker.users.standing import Standing

T = TypeVar("T")


class Act(StrEnum):
    REGISTERED = "registered"
    LOGGED_IN = "logged_in"
    LOGIN_REFUSED = "login_refused"
    """The user there is; the password was wrong, or the user is disabled."""
    LOGGED_OUT = "logged_out"
    LOGGED_IN_AS = "logged_in_as"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a name
    USER_DISABLED = "user_disabled"
    USER_ENABLED = "user_enabled"
    USER_DELETED = "user_deleted"
    INVITED = "invited"
    SETTINGS_CHANGED = "settings_changed"
    KEY_ADDED = "key_added"
    KEY_REPLACED = "key_replaced"
    KEY_STOPPED = "key_stopped"
    KEY_STARTED = "key_started"
    KEY_DELETED = "key_deleted"
    AGENT_ADDED = "agent_added"
    AGENT_CHANGED = "agent_changed"
    AGENT_MOVED = "agent_moved"
    AGENT_DELETED = "agent_deleted"
    TEAM_ADDED = "team_added"
    TEAM_CHANGED = "team_changed"
    TEAM_DELETED = "team_deleted"
    REMOTE_ASKED = "remote_asked"
    """A person has asked something of an agent's watcher."""
    REMOTE_ANSWERED = "remote_answered"
    """A watcher has told what came of it."""
    HOOK_ADDED = "hook_added"
    HOOK_CHANGED = "hook_changed"
    HOOK_DELETED = "hook_deleted"
    RESTORED = "restored"
    """A database was filled from a backup."""
    IMPORTED = "imported"
    """What the public broker's database had was taken over."""


STANDINGS = {
    Standing.ACTIVE: Act.USER_ENABLED,
    Standing.DISABLED: Act.USER_DISABLED,
    Standing.DELETED: Act.USER_DELETED,
}


class Who(msgspec.Struct, frozen=True):
    """`user_id`: whose login or key it was; empty: somebody at the command line, or a stranger. `via`: the key's id,
    or how else they came. `host`: from where. `request_id`: as in the log.
    """

    user_id: str = ""
    via: str = ""
    host: str = ""
    request_id: str = ""


def at_the_command_line() -> Who:
    """By whoever may open the database."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Who(via=f"command line of {name}")


class Entry(msgspec.Struct, frozen=True):
    """`by`: the user's name, empty where it was none. `about`: what was changed, its id or name, never a secret."""

    id: int
    at: str
    by: str
    act: str
    about: str
    via: str
    host: str
    request_id: str


_NOTE = insert(audit_log)
_LATEST = (
    select(
        audit_log.c.id,
        audit_log.c.at,
        users.c.username,
        audit_log.c.act,
        audit_log.c.about,
        audit_log.c.via,
        audit_log.c.host,
        audit_log.c.request_id,
    )
    .select_from(audit_log.outerjoin(users, users.c.id == audit_log.c.user_id))
    .order_by(audit_log.c.id.desc())
    .limit(bindparam("most"))
)
LONGEST = 300


def note(connection: Connection, who: Who, act: Act, about: str) -> None:
    row = {"at": now_text(), "act": act.value, "about": about[:LONGEST], **msgspec.structs.asdict(who)}
    connection.execute(_NOTE, [{**row, "user_id": who.user_id or None}])


def noting(who: Who, act: Act, work: Callable[[Connection], T], about: str | None = None) -> Callable[[Connection], T]:
    """`work`, and what is written down of it; `about`: the id of its result where not given."""

    def noted(connection: Connection) -> T:
        result = work(connection)
        note(connection, who, act, str(getattr(result, "id", "")) if about is None else about)
        return result

    return noted


def latest(connection: Connection, most: int, user: User | None = None) -> list[Entry]:
    """Newest first; `user`: only what this one did, or what was done to them."""
    wanted = _LATEST
    if user is not None:
        wanted = wanted.where((audit_log.c.user_id == user.id) | audit_log.c.about.in_((user.id, user.username)))
    rows = connection.execute(wanted, {"most": most})
    return [Entry(row[0], row[1], row[2] or "", *row[3:]) for row in rows]
