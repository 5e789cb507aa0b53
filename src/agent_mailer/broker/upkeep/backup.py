"""A backup of a database as it is at one moment, while it is served."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import func, select, text

from agent_mailer.broker.data import Data
from agent_mailer.broker.engines import snapshot
from agent_mailer.broker.protocol import now_text
from agent_mailer.broker.tables import files
from agent_mailer.broker.upkeep import archive
from agent_mailer.broker.upkeep.derived import reflected
from agent_mailer.broker.watch_tables import leases, processes
from agent_mailer.errors import ConfigFault
from agent_mailer.progress import Tell, counted, untold

NOT_KEPT = frozenset((processes.name, leases.name, "alembic_version"))
"""Who serves and watches just now; and what stands in the head."""


class BackedUp(msgspec.Struct, frozen=True):
    """`missing`: uploads that the database names and that are not there; `size`: of the backup, bytes."""

    rows: int
    files: int
    missing: list[str]
    size: int


def back_up(data: Data, path: Path, tell: Tell = untold) -> BackedUp:
    """Copy all that the broker keeps, uploads too, to a new file. Of a database of any version, as it is.

    Raises ConfigFault (no database of ours), UsageFault (there is something of that name), MailerError, and as the
    database does.
    """
    missing: list[str] = []
    with snapshot(data.database) as connection:
        found = reflected(connection)
        if "alembic_version" not in found.tables:
            raise ConfigFault(
                "not_our_database", "there is no broker's database there", "give another one: --data, --database"
            )
        schema = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())
        tables = [table for table in found.sorted_tables if table.name not in NOT_KEPT]
        columns = {str(table.name): [str(column.name) for column in table.columns] for table in tables}
        with archive.writing(path, archive.Head(schema=schema, made_at=now_text(), tables=columns)) as writer:
            for table in tables:
                total = int(connection.execute(select(func.count()).select_from(table)).scalar_one())
                for row in counted(connection.execute(select(table)), f"copies {table.name}", tell, total):
                    writer.row(str(table.name), tuple(row))
            stored = connection.execute(select(found.tables[files.name].c.stored_path)).scalars().all()
            for stored_path in counted(stored, "copies uploads", tell, len(stored)):
                try:
                    writer.upload(stored_path, (data.uploads / stored_path).read_bytes())
                except FileNotFoundError:
                    missing.append(stored_path)
            tail = writer.end()
    return BackedUp(tail.rows, tail.files, missing, path.stat().st_size)
