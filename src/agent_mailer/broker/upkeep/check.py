"""Is what a broker keeps whole? Looked at as it is at one moment, while it is served, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.exc import DatabaseError

from agent_mailer.broker.data import Data
from agent_mailer.broker.engines import snapshot
from agent_mailer.broker.migrate import require_head
from agent_mailer.broker.tables import files
from agent_mailer.broker.upkeep.derived import unfound, unlisted, wrong_counts, wrong_threads
from agent_mailer.progress import Step, Tell, untold

MOST = 20
"""Findings of one kind that are told."""


class Finding(msgspec.Struct, frozen=True):
    """What is wrong, and what mends it."""

    code: str
    message: str
    fix: str


class Checked(msgspec.Struct, frozen=True):
    """`looked_at`: what was compared, in words."""

    looked_at: list[str]
    findings: list[Finding]


_REPAIR = "agent-mailer broker check --repair"
_RESTORE = "put a backup back into another place: agent-mailer broker restore FILE --data DIR"


def check(data: Data, tell: Tell = untold) -> Checked:
    """Raises ConfigFault (no database of ours, of another version), and as the database does."""
    with snapshot(data.database) as connection:
        require_head(connection, data.database)
        looked_at: list[str] = []
        findings: list[Finding] = []
        if connection.dialect.name == "sqlite":
            looked_at += ["the file, page by page", "what rows name"]
            tell(Step("reads the file, page by page"))
            findings += _of_file(connection)
            if findings:
                # Of a file with torn pages nothing else can be said.
                return Checked(looked_at, findings)
        looked_at += [
            "the totals of the inboxes",
            "what waits in them",
            "the lists of threads",
            "the words",
            "the uploads",
        ]
        tell(Step("counts the inboxes"))
        if many := wrong_counts(connection):
            findings.append(Finding("wrong_totals", f"the totals of {many} inboxes are not what is in them", _REPAIR))
        tell(Step("goes over the threads"))
        if many := wrong_threads(connection):
            findings.append(Finding("wrong_waiting", f"of {many} threads it is not known what waits in them", _REPAIR))
        if many := unlisted(connection):
            findings.append(Finding("unlisted_threads", f"{many} threads are in no list", _REPAIR))
        tell(Step("looks for the words of messages"))
        if unfound(connection):
            findings.append(Finding("unfound", "there is mail that no search finds", _REPAIR))
        tell(Step("looks at the uploads"))
        findings += _of_uploads(connection, data.uploads)
    return Checked(looked_at, findings)


def _of_file(connection: Connection) -> list[Finding]:
    try:
        told = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({MOST})")]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(MOST)
    except DatabaseError as error:
        return [Finding("damaged", f"the file cannot be read through: {error.orig}", _RESTORE)]
    found = [Finding("damaged", words, _RESTORE) for words in told if words != "ok"]
    return found + [
        Finding("dangling", f"row {row[1]} of {row[0]} names one of {row[2]} that there is not", _RESTORE)
        for row in broken
    ]


def _of_uploads(connection: Connection, uploads: Path) -> list[Finding]:
    found: list[Finding] = []
    for stored_path, size in connection.execute(select(files.c.stored_path, files.c.size)):
        path = uploads / stored_path
        try:
            there = path.stat().st_size
        except OSError as error:
            found.append(Finding("upload_lost", f"{path}: {error.strerror}", "put it back from a backup"))
        else:
            if there != size:
                words = f"{path} has {there} bytes instead of {size}"
                found.append(Finding("upload_damaged", words, "put it back from a backup"))
        if len(found) == MOST:
            break
    return found
