"""A backup becomes a database again, of either kind: as a whole, or nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path

import msgspec
from sqlalchemy import JSON, Connection, MetaData, func, inspect, select
from sqlalchemy.exc import IntegrityError

from agent_mailer.broker.audit import Act, at_the_command_line, note
from agent_mailer.broker.data import Data, held, make_folders
from agent_mailer.broker.database import Executor
from agent_mailer.broker.engines import Alone, do_alone, is_file, unchecked
from agent_mailer.broker.messages.files import store_upload
from agent_mailer.broker.migrate import HEAD, check_place, named, require_nobody, upgrade
from agent_mailer.broker.tables import users
from agent_mailer.broker.upkeep import archive
from agent_mailer.broker.upkeep.archive import Head, Row, Upload
from agent_mailer.broker.upkeep.derived import WORDS, note_missing_words, reflected
from agent_mailer.broker.watch_tables import processes
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.progress import Step, Tell, counted, untold

AT_ONCE = 500
"""Rows that are written in one statement."""


class Restored(msgspec.Struct, frozen=True):
    """`made_at`: when the backup was made; `program`: by which version; `schema`: at which migration it was."""

    rows: int
    files: int
    made_at: str
    program: str
    schema: str


def restore(data: Data, path: Path, tell: Tell = untold) -> Restored:
    """Fill the database at `data` from the backup at `path`, and bring it to this version; put the uploads back.

    Raises ConfigFault (no whole backup, a newer program's, there is something in the database), BusyFault (it is
    served), MailerError, and as the database does. Then all is as it was before.
    """
    with archive.reading(path) as backup, held(data, "no address: a backup is put back there"):
        if backup.head.schema > HEAD:
            raise archive.newer(path, backup.head.program)
        make_folders(data)
        check_place(data.database)
        with _all_or_none() as put:
            rows = asyncio.run(_in_one_transaction(data, backup, put, tell))
            head = backup.head
            return Restored(rows, len(put), head.made_at, head.program, head.schema)


async def _in_one_transaction(data: Data, backup: archive.Reader, put: list[Path], tell: Tell) -> int:
    database = Executor(data.database, writes=True, stores=False)
    try:
        return await database.run(lambda connection: _fill(connection, data, backup, put, tell))
    except IntegrityError as error:
        words = (str(error.orig).splitlines() or ["?"])[0]
        raise ConfigFault("no_backup", f"the backup contradicts itself: {words}; nothing was changed") from None
    finally:
        await database.close()


def _fill(connection: Connection, data: Data, backup: archive.Reader, put: list[Path], tell: Tell) -> int:
    name = named(data.database)
    do_alone(connection, Alone.MIGRATING)
    _clear(connection, name, served_by_many=not is_file(data.database))
    upgrade(connection, name, backup.head.schema)
    tables = _tables(connection, backup.head)
    rows = 0
    with unchecked(connection):
        parts = backup.parts()
        for table_name, those in groupby(parts, key=lambda part: part.table if isinstance(part, Row) else ""):
            if not table_name:
                for part in counted(those, "puts back uploads", tell):
                    if isinstance(part, Upload):
                        put.append(_put(data.uploads / part.path, part.data))
                continue
            columns = backup.head.tables[table_name]
            those = counted(those, f"puts back {table_name}", tell)
            while some := [
                dict(zip(columns, part.values, strict=True)) for part in islice(those, AT_ONCE) if isinstance(part, Row)
            ]:
                connection.execute(tables.tables[table_name].insert(), some)
                rows += len(some)
    if backup.head.schema != HEAD:
        upgrade(connection, name)
    tell(Step("notes the words of messages"))
    note_missing_words(connection)
    note(connection, at_the_command_line(), Act.RESTORED, f"as of {backup.head.made_at}")
    return rows


def _clear(connection: Connection, name: str, *, served_by_many: bool) -> None:
    """Raises ConfigFault where somebody's mail is there, BusyFault where it is served."""
    found = set(inspect(connection).get_table_names())
    if not found:
        return
    if "alembic_version" not in found:
        raise ConfigFault(
            "not_our_database", f"{name} holds tables of another program", "give another: --data DIR, --database URL"
        )
    if served_by_many and processes.name in found:
        require_nobody(connection, name, "is to be filled from a backup")
    if users.name in found and (many := connection.execute(select(func.count()).select_from(users)).scalar()):
        raise ConfigFault(
            "not_empty",
            f"{name} holds what {many} user{'s have' if many > 1 else ' has'} there; it was left as it is",
            "put the backup into another place: --data DIR, or --database URL",
        )
    for name in WORDS:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
    reflected(connection).drop_all(connection)


def _tables(connection: Connection, head: Head) -> MetaData:
    """As they are at that version. Raises ConfigFault where the backup has others."""
    there = reflected(connection)
    for name, columns in head.tables.items():
        if name not in there.tables or not set(columns) <= set(there.tables[name].columns.keys()):
            raise ConfigFault("no_backup", f"the backup has a table {name} as there was none in {head.schema}")
    for table in there.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True
    return there


@contextmanager
def _all_or_none() -> Iterator[list[Path]]:
    """The files that are put there go again where the block fails."""
    put: list[Path] = []
    try:
        yield put
    except BaseException:
        archive.remove(put)
        raise


def _put(path: Path, data: bytes) -> Path:
    """What a restore that was killed has left of it is written anew. Raises MailerError."""
    try:
        if path.is_file() and data.startswith(path.read_bytes()):
            path.unlink()
        store_upload(path, data)
    except OSError as error:
        raise MailerError(
            "not_written", f"{path} cannot be written: {error.strerror}", "give another folder: AGENT_MAILER_UPLOAD_DIR"
        ) from None
    return path
