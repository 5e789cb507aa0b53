"""`broker invite`: codes with which others become users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_mailer.cli.broker.database import DatabaseUrl, DataFolder, broker_url, change, data_of, look
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import LightCommand, group
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.tables import columns

if TYPE_CHECKING:
    from sqlalchemy import Connection

app = group("invite", "Invite codes. Works on the broker's database, whether it runs or not.")


@app.command("add", cls=LightCommand)
def add(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """Make a code for one new user."""
    data = data_of(folder, database)
    from agent_mailer.broker.users.rows import NOBODY, Invite, add_invite, all_users

    def work(connection: Connection) -> Invite:
        admins = [user.id for user in all_users(connection) if user.is_superadmin]
        return add_invite(connection, admins[0] if admins else NOBODY)

    invite = change(data, work)
    if as_json:
        json_out(invite)
        return
    say(invite.code)
    say(f"\nOne person registers with it: POST {broker_url(data)}/users/register ({broker_url(data)}/docs), or here:\n")
    options = f" {data.options}" if data.options else ""
    say(f"  agent-mailer broker user add NAME --invite {invite.code}{options}")


@app.command("list", cls=LightCommand)
def listed(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
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
