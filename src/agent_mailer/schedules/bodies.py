"""The text that a schedule sends: read, and known again by its digest, which is what a person trusts of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.disk import read_regular

LARGEST: Final = 256 * 1024
"""Bytes. What is longer belongs into a file that the text names."""


class Withheld(msgspec.Struct, frozen=True):
    """Why a text is not sent. `why` is of ours; `code` is one word."""

    code: str
    why: str


def digest_of(path: Path) -> str:
    """Raises OSError where it cannot be read, ValueError where it is too large."""
    return _digest(_read(path))


def body_of(path: Path, trusted: str) -> str | Withheld:
    """The text, where it is still the one that a person trusts. Never raises."""
    try:
        data = _read(path)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Withheld("body_unreadable", f"{path} is not UTF-8 text")
    except ValueError as error:
        return Withheld("body_unreadable", str(error))
    except OSError as error:
        return Withheld("body_unreadable", f"{path} cannot be read: {error.strerror or error}")
    if not trusted:
        return Withheld("body_untrusted", f"nobody trusts what {path} says")
    if _digest(data) != trusted:
        return Withheld("body_changed", f"{path} has changed since it was trusted")
    return text


def _read(path: Path) -> bytes:
    data = read_regular(path, LARGEST, follow=True)
    if len(data) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST} bytes")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
