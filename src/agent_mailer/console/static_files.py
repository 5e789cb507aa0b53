"""The files that pages load: read once, each under an address that changes with what is in it."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources

import msgspec
from fastapi import APIRouter, Request, Response

router = APIRouter(prefix="/console/static", include_in_schema=False)

_TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FOR_EVER = "public, max-age=31536000, immutable"


class StaticFile(msgspec.Struct, frozen=True):
    data: bytes
    packed: bytes
    kind: str
    digest: str


def _read() -> dict[str, StaticFile]:
    folder = resources.files("agent_mailer.console") / "static"
    found = {}
    for name, kind in _TYPES.items():
        data = (folder / name).read_bytes()
        found[name] = StaticFile(data, gzip.compress(data, 9, mtime=0), kind, hashlib.sha256(data).hexdigest()[:16])
    return found


FILES = _read()


def address_of(name: str) -> str:
    """Where a page finds the file. Raises KeyError."""
    return f"/console/static/{FILES[name].digest}/{name}"


@router.get("/{digest}/{name}")
async def static_file(request: Request, digest: str, name: str) -> Response:
    """Another digest than today's is of a page of before: it gets what there is, and keeps nothing."""
    found = FILES.get(name)
    if found is None:
        return Response("There is no such file.", 404, media_type="text/plain")
    headers = {
        "Cache-Control": _FOR_EVER if digest == found.digest else "no-store",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=found.kind)
    return Response(found.data, headers=headers, media_type=found.kind)
