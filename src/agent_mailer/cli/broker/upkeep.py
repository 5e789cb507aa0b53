"""`broker backup`, `restore`, `check`, `stats`, `export`: what is kept, copied, put back, looked over and taken out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agent_mailer.amounts import counted
from agent_mailer.cli.broker.database import (
    DatabaseUrl,
    DataFolder,
    change,
    data_of,
    require_file,
    user_named,
    work_with,
)
from agent_mailer.cli.options import MOST_KEPT_DAYS, Json, Quiet
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import ExitCode, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agent_mailer.broker.data import Data

T = TypeVar("T")

NewFile = Annotated[Path, typer.Argument(metavar="FILE", help="A new file, 0600.", show_default=False)]

backup_app, restore_app, check_app, stats_app, export_app, audit_app, prune_app = (single() for _ in range(7))


@backup_app.command("backup", cls=FastCommand)
def backup(
    file: NewFile,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Copy all that the broker keeps, uploads too, as it is at one moment, while it serves or not.

    The file fits both databases: what SQLite held goes on in PostgreSQL, and the other way round. What signs logins is
    not in it.
    """
    data = data_of(folder, database)
    require_file(data)
    from agent_mailer.broker.upkeep.backup import back_up

    with shown("copies what the broker keeps", quiet=quiet or as_json) as tell:
        made = _of_database(data, lambda: back_up(data, _absolute(file), tell))
    if as_json:
        json_out(made)
        return
    say(f"{printable(str(file))}: {counted(made.rows, 'row')}, {counted(made.files, 'upload')}, {size(made.size)}")
    _tell_missing(made.missing)
    options = f" {data.options}" if data.options else ""
    say(f"Put it back, into an empty place: agent-mailer broker restore FILE{options or ' --data DIR'}")


@restore_app.command("restore", cls=FastCommand)
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of `broker backup`.", show_default=False)],
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fill an empty database from a backup, of this version or an earlier one, wholly or not at all.

    Refused where a broker serves it, and where there are users in it.
    """
    data = data_of(folder, database)
    from agent_mailer.broker.upkeep.restore import restore as put_back

    os.umask(0o077)
    with shown("reads the backup", quiet=quiet or as_json) as tell:
        made = _of_database(data, lambda: put_back(data, _absolute(file), tell))
    if as_json:
        json_out(made)
        return
    say(f"put back: {counted(made.rows, 'row')}, {counted(made.files, 'upload')}, as of {made.made_at[:19]} UTC")
    say("API keys count as before. Logins do where the secret is that of before (AGENT_MAILER_SECRET_KEY).")
    say(f"Next: agent-mailer broker serve{f' {data.options}' if data.options else ''}")


@check_app.command("check", cls=FastCommand)
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Make anew what follows from the messages: totals, and what waits.")
    ] = False,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Look whether all that is kept is whole, while the broker serves or not. Exit 1: something is wrong."""
    data = data_of(folder, database)
    require_file(data)
    from agent_mailer.broker.upkeep.check import check as look_over
    from agent_mailer.broker.upkeep.derived import derive

    with shown("counts anew" if repair else "looks over what the broker keeps", quiet=quiet or as_json) as tell:
        if repair:
            change(data, derive)
        found = _of_database(data, lambda: look_over(data, tell))
    if as_json:
        json_out(found)
    elif found.findings:
        for one in found.findings:
            say(f"{printable(one.message)}\n  fix: {one.fix}")
    else:
        say(f"whole: {', '.join(found.looked_at)}")
    if found.findings:
        raise typer.Exit(ExitCode.FAILED)


@stats_app.command("stats", cls=FastCommand)
def stats(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """How much of what is kept, of whom, and what waits."""
    data = data_of(folder, database)
    from agent_mailer.broker.upkeep.stats import stats as count

    found = _snapshot(data, lambda c: count(c, data.file))
    if as_json:
        json_out(found)
        return
    since = f", the oldest since {found.oldest_waiting_at[:16]} UTC" if found.oldest_waiting_at else ""
    say(
        fields(
            (
                ("messages", f"{found.messages}, {found.unread} unread"),
                ("waiting", f"{found.waiting}{since}"),
                ("claimed", str(found.claimed)),
                ("uploads", f"{found.files}, {size(found.file_bytes)}"),
                ("database", size(found.database_bytes)),
            )
        )
    )
    rows = [
        (
            one.username,
            "" if one.standing == "active" else one.standing,
            str(one.agents),
            str(one.keys),
            str(one.messages),
            str(one.unread),
            (one.last_message_at or "never")[:16],
        )
        for one in found.users
    ]
    if rows:
        say()
        say(columns(rows, ("USER", "", "AGENTS", "KEYS", "MESSAGES", "UNREAD", "LAST (UTC)"), ids=("USER",)))


@export_app.command("export", cls=FastCommand)
def export(
    name: Annotated[str, typer.Argument(metavar="USER", help="Whose.", show_default=False)],
    file: NewFile,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write all that the broker keeps of one user as a zip of JSON lines and pictures, for that user.

    Hashes of keys and passwords are not in it.
    """
    data = data_of(folder, database)
    from agent_mailer.broker.upkeep.export import export as take_out

    path = _absolute(file)
    with shown("writes what the broker keeps", quiet=quiet or as_json) as tell:
        made = _snapshot(data, lambda c: take_out(c, data, user_named(c, name).id, path, tell))
    if as_json:
        json_out(made)
        return
    say(f"{printable(str(file))}: {counted(made.rows['messages'], 'message')}, {counted(made.files, 'upload')}")
    _tell_missing(made.missing)


@audit_app.command("audit", cls=FastCommand)
def audit(
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="By or about this user.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many of the newest.")] = 50,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Who logged in, made or ended keys, users, agents and teams, newest first."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import latest

    found = _snapshot(data, lambda c: latest(c, limit, user_named(c, user) if user else None))
    if as_json:
        json_out(found)
        return
    rows = [(one.at[:19], one.by or one.via or "a stranger", one.act, printable(one.about), one.host) for one in found]
    head = ("WHEN (UTC)", "WHO", "DID", "ABOUT", "FROM")
    say(columns(rows, head, ids=("ABOUT",)) if rows else "Nothing yet.")


@prune_app.command("prune", cls=FastCommand)
def prune(
    keep_days: Annotated[
        int, typer.Option(min=0, max=MOST_KEPT_DAYS, help="Read mail and uploads that are older go.")
    ] = 0,
    keep_bytes: Annotated[int, typer.Option(min=0, help="The oldest read mail goes until all bodies fit.")] = 0,
    keep_audit_days: Annotated[
        int, typer.Option(min=0, max=MOST_KEPT_DAYS, help="Older entries of `broker audit` go.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Delete old mail for good, now; `broker serve` does the same each hour, by the same options.

    What is unread stays, and so does all of a thread in which something is.
    """
    data = data_of(folder, database)
    if not keep_days and not keep_bytes and not keep_audit_days:
        raise UsageFault("nothing_asked", "it is not said what may go", "--keep-days 90, or --keep-bytes 1000000000")
    from agent_mailer.broker.data import Keep
    from agent_mailer.broker.upkeep.retention import prune as take

    keep = Keep(days=keep_days, bytes=keep_bytes, audit_days=keep_audit_days)
    with shown("looks for old mail", quiet=quiet or as_json) as tell:
        gone = work_with(data, lambda store: take(store, data.uploads, keep, look_only=dry_run, tell=tell))
    if as_json:
        json_out(gone)
        return
    words = "would go" if dry_run else "gone"
    audit = f", {counted(gone.audit, 'audit line')}" if keep_audit_days else ""
    say(f"{words}: {counted(gone.messages, 'message')} ({size(gone.bytes)}), {counted(gone.uploads, 'upload')}{audit}")


def _snapshot(data: Data, work: Callable[[Connection], T]) -> T:
    """Of the database as it is at one moment, which must be of this version. Raises MailerError."""
    require_file(data)
    from agent_mailer.broker.engines import snapshot
    from agent_mailer.broker.migrate import require_head

    def run() -> T:
        with snapshot(data.database) as connection:
            require_head(connection, data.database)
            return work(connection)

    return _of_database(data, run)


def _of_database(data: Data, work: Callable[[], T]) -> T:
    from sqlalchemy.exc import SQLAlchemyError

    from agent_mailer.broker.migrate import database_fault

    try:
        return work()
    except SQLAlchemyError as error:
        raise database_fault(data.database, error) from None


def _absolute(file: Path) -> Path:
    return Path(os.path.abspath(file.expanduser()))  # noqa: PTH100 - not through links


def _tell_missing(missing: list[str]) -> None:
    for path in missing[:10]:
        note(f"not there any more, and left out: {printable(path)}")
    if len(missing) > 10:
        note(f"… and {len(missing) - 10} more")


def size(many: int) -> str:
    """Bytes, for people."""
    if many < 1024:
        return f"{many} B"
    power = min((many.bit_length() - 1) // 10, 3)
    return f"{many / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
