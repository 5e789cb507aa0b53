"""`broker user` and `broker invite`: who may use the broker."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.broker.database import DatabaseUrl, DataFolder, broker_url, change, data_of, look, user_named
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import ConfigFault, MailerError, UsageFault, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agent_mailer.broker.data import Data

PASSWORD_VARIABLE = "AGENT_MAILER_PASSWORD"  # noqa: S105 - a name
LARGEST_FILE = 4096

Name = Annotated[str, typer.Argument(help="3 to 30 lower-case letters, digits and hyphens.", show_default=False)]
PasswordFile = Annotated[
    str | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help=f"Read it from there, - is stdin; else ${PASSWORD_VARIABLE}, else asked.",
    ),
]

app = group("user", "The broker's users. Works on its database, whether it runs or not.")


@app.command("add", cls=FastCommand)
def add(
    name: Name,
    invite: Annotated[
        str | None, typer.Option(help="Use up this code. Who may open the database needs none.", show_default=False)
    ] = None,
    password_file: PasswordFile = None,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Add a user and make an API key, which is shown this once."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.documents import WATCH, set_up_agent
    from agent_mailer.broker.protocol import Fault
    from agent_mailer.broker.users.login import hash_password
    from agent_mailer.broker.users.rows import (
        Key,
        User,
        add_key,
        add_user,
        check_password,
        check_username,
        new_raw_key,
    )

    password = read_password(password_file)
    try:
        check_username(name)
        check_password(password)
    except Fault as fault:
        raise UsageFault("refused", fault.detail) from None
    hashed, raw_key = hash_password(password), new_raw_key()

    def work(connection: Connection) -> tuple[User, Key]:
        code = invite or _first_code(connection)
        user = add_user(connection, name, hashed, code, invited=invite is not None)
        return user, add_key(connection, user.id, "broker user add", raw_key)

    user, key = change(data, work, Act.REGISTERED, name)
    step = set_up_agent(broker_url(data))
    if as_json:
        json_out({"user": user, "key": key, "api_key": raw_key, "broker_url": broker_url(data), "next": step.command})
        return
    say(f"{user.username} is a user of this broker{', and its superadmin' if user.is_superadmin else ''}.")
    say(f"API key, shown this once: {raw_key}\n")
    say("Next:\n")
    for one in (step, WATCH):
        say(f"  {one.command}\n      {one.does}")


def _first_code(connection: Connection) -> str | None:
    """The first user uses up the code that was printed for them, the oldest: whoever has read it gets nothing by it."""
    from agent_mailer.broker.users.rows import all_invites, all_users

    if all_users(connection):
        return None
    codes = [invite.code for invite in all_invites(connection) if invite.used_by is None]
    return codes[-1] if codes else None


@app.command("list", cls=FastCommand)
def listed(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """The users, oldest first."""
    data = data_of(folder, database)
    from agent_mailer.broker.users.rows import all_users

    users = look(data, all_users)
    if as_json:
        json_out(users)
        return
    rows = [
        (
            user.username,
            "superadmin" if user.is_superadmin else "" if user.standing == "active" else user.standing,
            user.created_at[:16],
        )
        for user in users
    ]
    say(
        columns(rows, ("USER", "", "SINCE (UTC)"), ids=("USER",))
        if rows
        else "Nobody yet: agent-mailer broker user add NAME"
    )


@app.command("password", cls=FastCommand)
def password(
    name: Name, password_file: PasswordFile = None, folder: DataFolder = None, database: DatabaseUrl = None
) -> None:
    """Give a user a new password. Logins of before end; API keys stay."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.protocol import Fault
    from agent_mailer.broker.users.login import hash_password
    from agent_mailer.broker.users.rows import check_password, set_password

    look(data, lambda c: user_named(c, name))
    given = read_password(password_file)
    try:
        check_password(given)
    except Fault as fault:
        raise UsageFault("refused", fault.detail) from None
    hashed = hash_password(given)
    change(data, lambda c: set_password(c, user_named(c, name).id, hashed), Act.PASSWORD_CHANGED, name)
    say(f"{name} has a new password; logins of before end within seconds.")


@app.command("disable", cls=FastCommand)
def disable(name: Name, folder: DataFolder = None, database: DatabaseUrl = None) -> None:
    """Let a user in no more, and none of their agents, until `enable`. Mail stays."""
    _give(name, "disabled", data_of(folder, database))
    say(
        f"{name} is disabled: logins, keys and streams end within seconds. Undo: agent-mailer broker user enable {name}"
    )


@app.command("enable", cls=FastCommand)
def enable(name: Name, folder: DataFolder = None, database: DatabaseUrl = None) -> None:
    """Let a user in again. Keys count again, logins have to be made anew."""
    _give(name, "active", data_of(folder, database))
    say(f"{name} may use this broker again.")


@app.command("delete", cls=FastCommand)
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
) -> None:
    """End a user and all their agents for good. Mail stays, and the name is given to nobody else."""
    data = data_of(folder, database)
    look(data, lambda c: user_named(c, name))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageFault("not_asked", "there is no terminal to ask at, and it cannot be undone", "give --yes")
        typer.confirm(f"Delete {name} and all agents of {name}, for good?", abort=True, err=True)
    _give(name, "deleted", data)
    say(f"{name} is deleted; what was written stays.")


def _give(name: str, standing: str, data: Data) -> None:
    from agent_mailer.broker.audit import STANDINGS
    from agent_mailer.broker.users.standing import Standing, set_standing

    which = Standing(standing)
    change(data, lambda c: set_standing(c, user_named(c, name).id, which), STANDINGS[which])


def read_password(file: str | None) -> str:
    """From a file, the environment, or the terminal, without echo. Raises MailerError."""
    if file is None:
        given = os.environ.get(PASSWORD_VARIABLE)
        if given:
            return given
        if not sys.stdin.isatty():
            raise UsageFault(
                "no_password",
                "there is no terminal to ask for the password",
                f"give --password-file FILE, or set {PASSWORD_VARIABLE}",
            )
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(LARGEST_FILE)
        else:
            with Path(file).open("rb") as stream:
                raw = stream.read(LARGEST_FILE)
        text = raw.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigFault("no_password", f"{file} cannot be read: {error.strerror}", f"ls -l {quoted(file)}") from None
    except UnicodeDecodeError:
        raise ConfigFault("no_password", f"{file} is no UTF-8 text", "write the password as its one line") from None
    if not text or "\n" in text or "\0" in text:
        raise MailerError("no_password", f"{file} does not hold one line", "write the password as its one line")
    return text


invite_app = group("invite", "Invite codes. Works on the broker's database, whether it runs or not.")


@invite_app.command("add", cls=FastCommand)
def invite_added(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """Make a code for one new user."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.users.rows import NOBODY, Invite, add_invite, all_users

    def work(connection: Connection) -> Invite:
        admins = [user.id for user in all_users(connection) if user.is_superadmin]
        return add_invite(connection, admins[0] if admins else NOBODY)

    invite = change(data, work, Act.INVITED, "")
    if as_json:
        json_out(invite)
        return
    say(invite.code)
    say(f"\nOne person registers with it: POST {broker_url(data)}/users/register ({broker_url(data)}/docs), or here:\n")
    options = f" {data.options}" if data.options else ""
    say(f"  agent-mailer broker user add NAME --invite {invite.code}{options}")


@invite_app.command("list", cls=FastCommand)
def invites_listed(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """The codes, newest first, and who used them."""
    data = data_of(folder, database)
    from agent_mailer.broker.users.rows import Invite, all_invites, all_users

    def work(connection: Connection) -> tuple[list[Invite], dict[str, str]]:
        return all_invites(connection), {one.id: one.username for one in all_users(connection)}

    invites, names = look(data, work)
    if as_json:
        json_out(invites)
        return
    rows = [
        (one.code, one.created_at[:16], names.get(one.used_by, "?") if one.used_by else "not used") for one in invites
    ]
    say(
        columns(rows, ("CODE", "MADE (UTC)", "USED BY"), whole=("CODE",))
        if rows
        else "No codes: agent-mailer broker invite add"
    )
