"""What a broker says of its work: lines on stderr, as text or JSON, with the id of the request, without secrets."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from agent_mailer.names import printable

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The id of the request that is answered here."""
access = logging.getLogger("agent_mailer.broker.access")
_GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SECRETS = re.compile(
    r"(?P<key>amk_)[0-9a-f]{8,}|(?P<bearer>[Bb]earer )\S+|(?P<token>eyJ)[\w-]+\.[\w.-]+|(?P<link>/approve/)[^\s\"'/?]+"
    r"|(?P<url>://[^\s:/@]*:)[^\s@/]+(?=@)"
)
_PROCESS = secrets.token_hex(4)
_NUMBERS = itertools.count(1)


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


class _Line(msgspec.Struct, omit_defaults=True):
    ts: str
    level: str
    logger: str
    message: str
    request_id: str = ""
    method: str = ""
    path: str = ""
    status: int = 0
    ms: float = 0.0
    client: str = ""


def request_id(given: bytes) -> str:
    """The one that came with the request, where it is harmless; else a new one."""
    if given and _GIVEN.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}-{next(_NUMBERS):x}"


def without_secrets(text: str) -> str:
    """Keys, tokens, passwords in URLs and what opens a link: of each only what kind it was."""
    return _SECRETS.sub(lambda found: f"{found[found.lastgroup or 0]}…", text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = f"{_moment(record)} {record.levelname} {_words(record)}"
        asked = _asked(record)
        return f"{said} [{asked}]" if asked else said


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _Line(_moment(record), record.levelname.lower(), record.name, _words(record), _asked(record))
        for name in ("method", "path", "status", "ms", "client"):
            if hasattr(record, name):
                setattr(line, name, getattr(record, name))
        return msgspec.json.encode(line).decode()


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _words(record: logging.LogRecord) -> str:
    told = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        told = f"{told}: {record.exc_info[0].__name__}: {record.exc_info[1]}"
    return printable(without_secrets(told))


def _asked(record: logging.LogRecord) -> str:
    return str(getattr(record, "request_id", "")) or REQUEST.get()


def log_to_stderr(form: Form, *, every_request: bool) -> None:
    """Warnings and what failed; `every_request`: a line for each, too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form is Form.JSON else _Text())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    access.setLevel(logging.INFO if every_request else logging.WARNING)


def log_request(asked: str, method: str, path: str, status: int, seconds: float, client: str) -> None:
    """`path`: as it may be shown."""
    path = without_secrets(path)
    ms = round(seconds * 1000, 2)
    said = {"request_id": asked, "method": method, "path": path, "status": status, "ms": ms, "client": client}
    access.info("%s %s %s %.2f ms %s", method, path, status, ms, client, extra=said)
