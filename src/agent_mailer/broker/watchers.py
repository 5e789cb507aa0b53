"""How a watcher says who it is, and how another is told who holds the agent."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request

from agent_mailer.broker.answers import header
from agent_mailer.broker.leases import Lease
from agent_mailer.broker.protocol import Fault

LONGEST_NAME = 200
_WATCHER = re.compile(r"[\x20-\x7e]{1,128}")
IS_EPOCH = re.compile(r"[0-9]{1,18}", re.ASCII)
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def watched(address: str, lease: Lease) -> Fault:
    """The refusal of a second watcher."""
    detail = f"{address} is watched by {lease.name} since {lease.since}"
    extra = {"reason": "watched", "watcher": {"name": lease.name, "since": lease.since}}
    return Fault(409, detail, extra=extra)


def watcher_of(request: Request) -> str | None:
    """The watcher's id. Raises Fault 422."""
    watcher = request.headers.get("x-agent-mailer-watcher")
    if watcher is not None and not _WATCHER.fullmatch(watcher):
        raise Fault(422, "X-Agent-Mailer-Watcher is 1 to 128 printable ASCII characters")
    return watcher


def epoch_of(request: Request) -> int | None:
    """The epoch that the watcher says it holds the agent by. Raises Fault 422."""
    given = request.headers.get("x-agent-mailer-epoch")
    if given is None:
        return None
    if not IS_EPOCH.fullmatch(given):
        raise Fault(422, "X-Agent-Mailer-Epoch is the number that the stream's hello told")
    return int(given)


EPOCH_HEADER = header(
    "X-Agent-Mailer-Epoch",
    "By which hold of the agent, as the stream's hello told it; 409 (`stale`) where it has been held anew since",
    "^[0-9]{1,18}$",
)


def watcher_header(description: str, *, required: bool) -> dict[str, Any]:
    return header("X-Agent-Mailer-Watcher", description, r"^[\x20-\x7e]{1,128}$", required=required)


def watcher_name(request: Request) -> str:
    """How people are told of the watcher. Raises Fault 422."""
    raw = request.headers.get("x-agent-mailer-watcher-name", "").encode("latin-1", "replace")
    name = _UNSHOWN.sub(" ", raw.decode("utf-8", "replace")).strip()
    if len(name) > LONGEST_NAME:
        raise Fault(422, f"X-Agent-Mailer-Watcher-Name has more than {LONGEST_NAME} characters")
    return name or "another watcher"
