"""Identifiers from outside, mapped before they become a path or a word of a prompt."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SAFE_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SAFE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/:+-]{0,127}")
_NOT_SLUG = re.compile(r"[^A-Za-z0-9._-]+")


def path_name(identifier: str) -> str:
    """A file name for `identifier`: itself where it is harmless, else a readable slug plus a hash of the whole."""
    if _SAFE_PATH.fullmatch(identifier):
        return identifier
    slug = _NOT_SLUG.sub("-", unicodedata.normalize("NFKD", identifier)).strip("-._")[:48] or "id"
    return f"{slug}~{_digest(identifier)}"


def prompt_word(identifier: str, label: str) -> str:
    """`identifier` as one word of a prompt; one that could carry a sentence becomes `label` plus a hash."""
    if _SAFE_WORD.fullmatch(identifier):
        return identifier
    return f"{label}-{_digest(identifier)}"


def printable(text: str, limit: int = 200) -> str:
    """`text` for a terminal or a log line: control characters and line ends shown as escapes, cut at `limit`."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def shown_url(url: str) -> str:
    """A broker's URL for people: without what may be a password in it."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
