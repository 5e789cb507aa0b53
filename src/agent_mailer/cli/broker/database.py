"""Options that the broker's commands share, and the database that they lead to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agent_mailer import __version__
from agent_mailer.errors import BusyFault, ConfigFault, MailerError, UsageFault
from agent_mailer.installed import command_for
from agent_mailer.names import printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.data import Data
    from agent_mailer.broker.database import Store
    from agent_mailer.broker.users.rows import User

T = TypeVar("T")

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The broker's data folder. Default: in your own data folder."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="An SQLAlchemy URL. Default: broker.db in the data folder."),
]
OnlyUser = Annotated[str | None, typer.Option("--user", metavar="NAME", help="Only this user's.", show_default=False)]

_EXTRA = (
    *("fastapi", "sqlalchemy", "alembic", "argon2", "bcrypt", "uvicorn"),
    *("jwt", "limits", "markdown_it", "nh3", "python_multipart"),
)


def require_extra() -> None:
    """Raises ConfigFault where the broker's packages are missing."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigFault(
            "no_extra",
            f"the broker needs packages that are not installed ({', '.join(missing)})",
            command_for("broker"),
        )


def data_of(folder: Path | None, database: str | None) -> Data:
    """What the options and the environment mean. Raises ConfigFault."""
    require_extra()
    from agent_mailer.broker.data import find_data

    return find_data(folder, database, os.environ)


def change(data: Data, work: Callable[[Connection], T], act: Act | None = None, about: str | None = None) -> T:
    """Run `work` in a write transaction of the broker's database, which is made where it is missing; what it was is
    noted in the audit log, `about` what (else the id of the result).

    A broker may serve it meanwhile. Raises MailerError.
    """
    from agent_mailer.broker.audit import at_the_command_line, noting
    from agent_mailer.broker.data import make_database

    if act is not None:
        work = noting(at_the_command_line(), act, work, about)

    os.umask(0o077)
    make_database(data)
    return work_with(data, lambda store: store.write(work))


def look(data: Data, work: Callable[[Connection], T]) -> T:
    """Run `work`, which only reads. Raises MailerError."""
    require_file(data)
    return work_with(data, lambda store: store.read(work))


def require_file(data: Data) -> None:
    """Raises ConfigFault where the database would be a file that there is not."""
    if data.file is not None and not data.file.exists():
        raise ConfigFault(
            "no_database", f"there is no broker's database at {data.file}", "agent-mailer broker serve, or --data DIR"
        )


def work_with(data: Data, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run `work` with the open database, which there is. Raises MailerError."""
    from sqlalchemy.exc import SQLAlchemyError

    from agent_mailer.broker.data import who_serves
    from agent_mailer.broker.database import Store
    from agent_mailer.broker.migrate import bring_to_head, database_fault
    from agent_mailer.broker.protocol import Fault

    serving = who_serves(data)
    if serving is not None and serving.version != __version__:
        # Else a migration could happen under it.
        raise BusyFault(
            "other_version",
            f"the broker at {serving.url} is agent-mailer {serving.version}, and this is {__version__}",
            f"use that program, or stop the broker first: kill {serving.pid}",
        )

    async def run() -> T:
        await bring_to_head(data.database)
        store = Store(data.database)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except Fault as fault:
        raise MailerError("refused", fault.detail) from None
    except SQLAlchemyError as error:
        raise database_fault(data.database, error) from None


def broker_url(data: Data) -> str:
    """Where its broker can be reached, or will be if it is started as usual."""
    from agent_mailer.broker.data import DEFAULT_URL, who_serves

    serving = who_serves(data)
    return DEFAULT_URL if serving is None else serving.url


def users_asked_for(connection: Connection, name: str | None) -> list[User]:
    """The one of `OnlyUser`, or everybody. Raises UsageFault."""
    from agent_mailer.broker.users.rows import all_users

    return all_users(connection) if name is None else [user_named(connection, name)]


def user_named(connection: Connection, name: str) -> User:
    """Raises UsageFault."""
    from agent_mailer.broker.users.rows import all_users, find_user

    user = find_user(connection, name)
    if user is None:
        known = ", ".join(one.username for one in all_users(connection)[:10])
        fix = f"there is: {known}" if known else "agent-mailer broker user add NAME"
        raise UsageFault("no_user", f"there is no user {printable(name)}", fix)
    return user
