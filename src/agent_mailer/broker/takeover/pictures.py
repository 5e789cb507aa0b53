"""The pictures that go with what is taken over: each copied to where its row says, or told as missing."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, select

from agent_mailer.broker.messages.files import picture_type, store_upload
from agent_mailer.broker.tables import files
from agent_mailer.broker.takeover.source import Source, portions
from agent_mailer.errors import MailerError


def put_pictures(connection: Connection, source: Source, there: Path | None, here: Path, put: list[Path]) -> list[str]:
    """Copy them from the folder `there` to the folder `here`; `put` grows by what was written. The paths of those that
    are missing, or are not what their row says. Raises MailerError.
    """
    missing: list[str] = []
    for some in portions(source.rows("files")):
        wanted = select(files.c.id, files.c.stored_path, files.c.size).where(
            files.c.id.in_([one["id"] for one in some])
        )
        known = {row.id: (here / row.stored_path, row.size) for row in connection.execute(wanted)}
        for old in some:
            if old["id"] not in known:
                continue
            path, size = known[old["id"]]
            content = None if there is None else _picture(there, old["stored_path"], old["mime_type"])
            if content is None or len(content) != size:
                missing.append(old["stored_path"])
            else:
                _write(path, content, put)
    return missing


def remove(put: list[Path]) -> None:
    """What was written goes again."""
    for path in put:
        path.unlink(missing_ok=True)
    put.clear()


def _picture(there: Path, stored_path: str, mime_type: str) -> bytes | None:
    """Whoever knows its id will read it: so it is a picture of that folder, whatever the row names. Its path may be
    that of another machine: a day and a name are left of it.
    """
    try:
        found = (there / Path(*Path(stored_path).parts[-2:])).resolve()
        if not found.is_relative_to(there.resolve()):
            return None
        content = found.read_bytes()
    except (OSError, ValueError):
        return None
    return content if picture_type(content) == mime_type else None


def _write(path: Path, content: bytes, put: list[Path]) -> None:
    try:
        put.append(path)
        path.unlink(missing_ok=True)  # of one that was killed
        store_upload(path, content)
    except OSError as error:
        raise MailerError("not_written", f"{path} cannot be written: {error.strerror}", "df -h") from None
