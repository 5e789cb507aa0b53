"""Pictures that go with messages."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, File, Request, Response, UploadFile
from fastapi.responses import FileResponse
from sqlalchemy import Connection, bindparam, insert, select

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsEither, settings_of, store_of
from agent_mailer.broker.data import Quota
from agent_mailer.broker.documents import base_url
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import files
from agent_mailer.broker.users.quotas import count_alone, require_room

router = APIRouter(prefix="/files", tags=["files"])

EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}
LONGEST_NAME = 255
_FIND = select(files.c.filename, files.c.mime_type, files.c.stored_path).where(files.c.id == bindparam("wanted"))


class Uploaded(msgspec.Struct, frozen=True):
    """A stored picture; `size` in bytes."""

    id: str
    filename: str
    mime_type: str
    size: int
    url: str


def picture_type(data: bytes) -> str | None:
    """The MIME type that the first bytes tell; None if it is none of the pictures that are taken."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


@router.post(
    "/upload",
    summary="Store a picture",
    responses={200: described(Uploaded), **refusals(400, 401, 413, 422, 503)},
    response_class=Response,
)
async def upload(request: Request, caller: AsEither, file: Annotated[UploadFile, File()]) -> Response:
    """PNG, JPEG, GIF or WebP, with a key or a login."""
    settings = settings_of(request)
    data = await file.read(settings.max_file_bytes + 1)
    if len(data) > settings.max_file_bytes:
        raise Fault(400, f"File too large: {file.size} bytes. Maximum: {settings.max_file_bytes} bytes")
    mime_type = picture_type(data)
    if mime_type is None:
        raise Fault(400, "Unsupported file type. Allowed: PNG, JPG, GIF, WebP")
    file_id = str(uuid.uuid4())
    stored_path = f"{now_text()[:10]}/{file_id}{EXTENSIONS[mime_type]}"
    name = _shown(file.filename)
    row = {
        "id": file_id,
        "filename": name,
        "mime_type": mime_type,
        "size": len(data),
        "stored_path": stored_path,
        "user_id": caller.user_id,
        "created_at": now_text(),
    }
    path = settings.uploads / stored_path
    try:
        await asyncio.to_thread(store_upload, path, data)
    except OSError as error:
        raise Fault(503, f"The file could not be stored: {error.strerror}", headers={"Retry-After": "1"}) from None
    try:
        await store_of(request).write_each(_note_all, (settings.quota, row))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return answer(Uploaded(file_id, name, mime_type, len(data), f"{base_url(request)}/files/{file_id}"))


def _note_all(connection: Connection, wanted: Sequence[tuple[Quota, dict[str, Any]]]) -> list[Fault | None]:
    counted = {row["user_id"] for quota, row in wanted if quota.file_bytes}
    if counted:
        count_alone(connection, counted)
    results: list[Fault | None] = []
    for quota, row in wanted:
        try:
            require_room(connection, quota, row["user_id"], row["size"])
            connection.execute(insert(files), [row])
            results.append(None)
        except Fault as fault:
            results.append(fault)
    return results


def store_upload(path: Path, data: bytes) -> None:
    """Durable, with its name; the folder above its own is there. Raises OSError: FileExistsError where there is
    something of that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # Its own folder may be new, too, or have been made just now by somebody who has not synced it yet.
        for folder in (path.parent, path.parent.parent):
            _sync(folder)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(filename: str | None) -> str:
    """The name for people: on one line, and without a path."""
    name = (filename or "").replace("\\", "/").rpartition("/")[2]
    kept = "".join(sign for sign in name.encode("utf-8", "replace").decode() if sign.isprintable())
    return kept[:LONGEST_NAME] or "untitled"


@router.get(
    "/{file_id}",
    summary="A picture",
    responses={200: {"description": "The picture", "content": {"image/*": {}}}, **refusals(404, 503)},
    response_class=Response,
)
async def get_file(request: Request, file_id: str) -> Response:
    """Without a login: whoever knows the id has the link."""
    found = await store_of(request).read(lambda c: c.execute(_FIND, {"wanted": file_id}).first())
    if found is None:
        raise Fault(404, "File not found")
    filename, mime_type, stored_path = found
    path = settings_of(request).uploads / stored_path
    if not await asyncio.to_thread(path.is_file):
        raise Fault(404, "File not found on disk")
    return FileResponse(
        path,
        media_type=mime_type,
        headers={
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(filename, safe='')}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
        },
    )
