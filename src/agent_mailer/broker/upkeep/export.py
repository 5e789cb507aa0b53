"""All that a broker keeps of one user, for that user: a zip of lines of JSON and pictures. No key and no password."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, Table, select

from agent_mailer.broker.data import Data
from agent_mailer.broker.tables import agents, files, messages, metadata, users
from agent_mailer.broker.upkeep.archive import new_file
from agent_mailer.progress import Tell, counted, untold

SECRETS = frozenset(("password_hash", "token_version", "key_hash", "api_key_suffix", "token_hash", "request_hash"))
_OF_THE_BROKER = frozenset(("known_hosts", "usage", "searchable", "sent_counts"))
"""What it keeps for its own work."""


class Exported(msgspec.Struct, frozen=True):
    """How many rows of each table; `missing`: uploads that are not there."""

    rows: dict[str, int]
    files: int
    missing: list[str]


def export(connection: Connection, data: Data, user_id: str, path: Path, tell: Tell = untold) -> Exported:
    """Write it as a new file: `NAME.jsonl` a table, `files/` the pictures. Raises as `archive.new_file`."""
    encode = msgspec.json.Encoder().encode
    rows: dict[str, int] = {}
    missing: list[str] = []
    put = 0
    with new_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as made:
        for table in metadata.sorted_tables:
            whose = _whose(table, user_id)
            if whose is None:
                continue
            names = [column.name for column in whose.selected_columns]
            with made.open(f"{table.name}.jsonl", "w", force_zip64=True) as stream:
                rows[table.name] = 0
                for row in counted(connection.execute(whose), f"writes {table.name}", tell):
                    stream.write(encode(dict(zip(names, row, strict=True))) + b"\n")
                    rows[table.name] += 1
        pictures = connection.execute(select(files.c.id, files.c.stored_path).where(files.c.user_id == user_id)).all()
        for file_id, stored_path in counted(pictures, "writes uploads", tell, len(pictures)):
            try:
                made.write(data.uploads / stored_path, f"files/{file_id}{PurePosixPath(stored_path).suffix}")
                put += 1
            except FileNotFoundError:
                missing.append(stored_path)
    return Exported(rows, put, missing)


def _whose(table: Table, user_id: str) -> Select[Any] | None:
    """What in a table is the user's; None where nothing is anybody's."""
    if table.name in _OF_THE_BROKER:
        return None
    shown: Iterable[Any] = [column for column in table.columns if column.name not in SECRETS]
    if table is users:
        return select(*shown).where(users.c.id == user_id)
    if "user_id" in table.columns:
        return select(*shown).where(table.c.user_id == user_id)
    for key in table.foreign_keys:
        if key.column.table in (agents, messages):
            owner = key.column.table
            return select(*shown).where(key.parent.in_(select(owner.c.id).where(owner.c.user_id == user_id)))
    return None
