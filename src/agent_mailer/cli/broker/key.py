"""`broker key`: with what agents come to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.broker.database import (
    DatabaseUrl,
    DataFolder,
    OnlyUser,
    broker_url,
    change,
    data_of,
    look,
    user_named,
    users_asked_for,
)
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import UsageFault
from agent_mailer.names import pick, printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agent_mailer.broker.users.rows import Key

app = group("key", "API keys. Works on the broker's database, whether it runs or not.")


@app.command("add", cls=FastCommand)
def add(
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="Whose key it is.", show_default=False)],
    agent: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="It acts for this agent only. Default: for all of the user's."),
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for, for people.", show_default=False)] = "",
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make a key, which is shown this once."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.documents import set_up_agent
    from agent_mailer.broker.users.rows import add_key, new_raw_key

    if len(name) > 200 or not name.isprintable():
        raise UsageFault("bad_name", "the name is one line of at most 200 characters", "")
    raw_key = new_raw_key()

    def work(connection: Connection) -> Key:
        owner = user_named(connection, user)
        return add_key(connection, owner.id, name, raw_key, agent and _agent_at(connection, owner.id, agent))

    key = change(data, work, Act.KEY_ADDED)
    step = set_up_agent(broker_url(data))
    if as_json:
        json_out({"key": key, "api_key": raw_key, "broker_url": broker_url(data), "next": step.command})
        return
    say(f"API key, shown this once: {raw_key}\n")
    say(f"Next:\n\n  {step.command}\n      {step.does}")


@app.command("list", cls=FastCommand)
def listed(
    user: OnlyUser = None,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """The keys, by user, newest first. What is stored is a hash: no key can be shown again."""
    data = data_of(folder, database)
    found, addresses = look(data, lambda c: (_keys(c, user), _addresses(c)))
    if as_json:
        json_out([{"user": owner, "key": key} for owner, key in found])
        return
    rows = [
        (
            key.id[:8],
            owner,
            printable(addresses.get(key.agent_id, "?")) if key.agent_id else "all of the user's",
            (key.last_used_at or "never")[:16],
            "" if key.is_active else "revoked",
            printable(key.name, 40),
        )
        for owner, key in found
    ]
    head = ("KEY", "USER", "ACTS FOR", "LAST USED (UTC)", "", "NAME")
    say(columns(rows, head, whole=("KEY", "USER", "")) if rows else "No keys: agent-mailer broker key add --user NAME")


@app.command("revoke", cls=FastCommand)
def revoke(
    key: Annotated[str, typer.Argument(help="Its id in the list, or how that begins.", show_default=False)],
    folder: DataFolder = None,
    database: DatabaseUrl = None,
) -> None:
    """End a key; a broker that runs refuses it within seconds."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act, at_the_command_line, note
    from agent_mailer.broker.users.rows import all_users, keys_of, set_key_active

    def work(connection: Connection) -> str:
        owners = {one.id: user.id for user in all_users(connection) for one in keys_of(connection, user.id)}
        chosen = pick(key, owners, "key", "agent-mailer broker key list")
        set_key_active(connection, owners[chosen], chosen, active=False)
        note(connection, at_the_command_line(), Act.KEY_STOPPED, chosen)
        return chosen

    say(f"revoked: {change(data, work)}")


def _keys(connection: Connection, name: str | None) -> list[tuple[str, Key]]:
    from agent_mailer.broker.users.rows import keys_of

    users = users_asked_for(connection, name)
    return [(user.username, key) for user in users for key in keys_of(connection, user.id)]


def _addresses(connection: Connection) -> dict[str, str]:
    """Agent id -> address."""
    from sqlalchemy import select

    from agent_mailer.broker.tables import agents

    return {row[0]: row[1] for row in connection.execute(select(agents.c.id, agents.c.address))}


def _agent_at(connection: Connection, user_id: str, address: str) -> str:
    from sqlalchemy import select

    from agent_mailer.broker.tables import agents

    own = select(agents.c.id, agents.c.address).where(agents.c.user_id == user_id, agents.c.status == "active")
    found = {row.address: row.id for row in connection.execute(own)}
    if address not in found:
        known = ", ".join(printable(one) for one in sorted(found)[:10]) or "none yet"
        raise UsageFault("no_agent", f"the user has no agent {printable(address)}", f"there is: {known}")
    return str(found[address])
