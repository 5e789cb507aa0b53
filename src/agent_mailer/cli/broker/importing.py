"""`broker import`: what the protocol's public broker keeps, taken over with its users, keys and mail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.broker.database import DatabaseUrl, DataFolder, data_of, work_with
from agent_mailer.cli.options import Json, Quiet
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.broker.takeover.taking import Taken

MOST_SHOWN = 20

app = single()


@app.command("import", cls=FastCommand)
def bring_in(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Its agent_mailer.db, or postgresql://…", show_default=False)
    ],
    uploads: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where its pictures lie. Default: uploads beside its file.", show_default=False
        ),
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Go without what can be nothing here, and say what it is.")
    ] = False,
    free_keys: Annotated[
        bool,
        typer.Option("--free-keys", help="A key made for an agent acts for all of its user's, as it did there."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do it, compare it, and keep nothing of it.")] = False,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take over all that the protocol's public broker keeps: users, agents, keys, teams, mail, memories, channels.

    Into an empty database, or beside what a broker serves. All of it or nothing: before it counts every row is read
    back and compared. Passwords and keys stay good; people log in anew. Stop that broker first, else what it takes
    meanwhile stays there. The password of its database is best given as PGPASSWORD.
    """
    data = data_of(folder, database)
    os.umask(0o077)
    from sqlalchemy.exc import SQLAlchemyError

    from agent_mailer.broker.data import make_database
    from agent_mailer.broker.migrate import database_fault
    from agent_mailer.broker.takeover.taking import Wanted, take_over

    make_database(data)

    async def ready(_: object) -> None:
        """The database is of this version, and who serves it, too."""

    work_with(data, ready)
    wanted = Wanted(source, uploads and uploads.absolute(), leave_out, dry_run, not free_keys)
    try:
        with shown("takes over what that broker keeps", quiet=quiet or as_json) as tell:
            taken = take_over(data, wanted, tell)
    except SQLAlchemyError as error:
        raise database_fault(data.database, error) from None
    if as_json:
        json_out(taken)
        return
    _say(taken, dry_run=dry_run)
    if not dry_run:
        _say_next(taken, data.options)


def _say(taken: Taken, *, dry_run: bool) -> None:
    rows = [
        (one.table, str(one.there), str(one.same), str(one.changed or ""), str(one.left or ""))
        for one in taken.tables
        if one.there
    ]
    say(columns(rows, ("WHAT", "THERE", "THE SAME HERE", "IN PART", "LEFT OUT"), whole=("WHAT",)))
    for loss in taken.losses[:MOST_SHOWN]:
        part = f", {loss.column}" if loss.column else " is left out"
        note(f"{loss.table} {printable(loss.key)}{part}: {printable(loss.why)}")
    if len(taken.losses) > MOST_SHOWN:
        note(f"… and {len(taken.losses) - MOST_SHOWN} more: --json")
    for path in taken.missing[:MOST_SHOWN]:
        note(
            f"a picture is not there, or is not what its row says: {printable(path)}; --uploads DIR says where they lie"
        )
    if dry_run:
        say("Nothing of it was kept.")


def _say_next(taken: Taken, options: str) -> None:
    for name in taken.to_reset:
        say(f"The password of {printable(name)} cannot be checked here: agent-mailer broker user password {name}")
    say("Passwords and keys count as before; people log in anew.")
    domain = f" --domain {taken.domain}" if taken.domain else ""
    say(f"Next: agent-mailer broker serve{domain}{f' {options}' if options else ''}")
