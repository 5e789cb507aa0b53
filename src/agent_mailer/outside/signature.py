"""Who may call: HMAC-SHA256 over the bytes of a body, as they came.

GitHub signs the body alone (`X-Hub-Signature-256: sha256=…`). Everybody else signs a moment with it
(`X-Agent-Mailer-Signature: t=SECONDS,v1=…`, over `SECONDS.BODY`), so that what was overheard soon counts no more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from enum import Enum, auto

GITHUB_HEADER = "X-Hub-Signature-256"
HEADER = "X-Agent-Mailer-Signature"
WINDOW = 300
"""Seconds that the sender's clock may be away from ours."""
LARGEST = 262_144
"""Bytes of a body."""
_OURS = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")
_GITHUBS = re.compile(r"sha256=([0-9a-f]{64})")


class Verdict(Enum):
    GOOD = auto()
    WRONG = auto()
    """Missing, too."""
    STALE = auto()
    """Right, and of another time."""


def sign(secret: str, body: bytes, at: int) -> str:
    """The value of `HEADER`; `at`: seconds since 1970."""
    return f"t={at},v1={_digest(secret, b'%d.' % at + body)}"


def check(secret: str, given: str, body: bytes, now: float) -> Verdict:
    """Whether `given`, the value of `HEADER`, is right and of now (seconds since 1970)."""
    found = _OURS.fullmatch(given)
    at, digest = (found[1], found[2]) if found else ("0", "0" * 64)
    right = hmac.compare_digest(_digest(secret, at.encode() + b"." + body), digest)
    if found is None or not right:
        return Verdict.WRONG
    return Verdict.GOOD if abs(now - int(at)) <= WINDOW else Verdict.STALE


def check_github(secret: str, given: str, body: bytes) -> Verdict:
    """The same of `GITHUB_HEADER`."""
    found = _GITHUBS.fullmatch(given)
    right = hmac.compare_digest(_digest(secret, body), found[1] if found else "0" * 64)
    return Verdict.GOOD if found is not None and right else Verdict.WRONG


def _digest(secret: str, data: bytes) -> str:
    return hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
