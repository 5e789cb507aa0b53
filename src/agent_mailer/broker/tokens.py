"""Login tokens: signed, with an end, and void once the user's `token_version` has grown."""

from __future__ import annotations

import hashlib
import time

import jwt
import msgspec

_ALGORITHM = "HS256"


class Claims(msgspec.Struct, frozen=True):
    user_id: str
    version: int


def issue(secret: str, user_id: str, version: int, seconds: int, impersonated_by: str | None = None) -> str:
    """A token good for `seconds`."""
    now = int(time.time())
    payload: dict[str, object] = {"user_id": user_id, "iat": now, "exp": now + seconds, "ver": version}
    if impersonated_by is not None:
        payload["impersonated_by"] = impersonated_by
    return jwt.encode(payload, _key(secret), algorithm=_ALGORITHM)


def read(secret: str, token: str) -> Claims | None:
    """What a token says; None where it is not ours, not whole, or past its end."""
    try:
        payload = jwt.decode(token, _key(secret), algorithms=[_ALGORITHM], options={"require": ["exp", "iat"]})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    user_id, version = payload.get("user_id"), payload.get("ver")
    if not isinstance(user_id, str) or not isinstance(version, int):
        return None
    return Claims(user_id, version)


def _key(secret: str) -> bytes:
    # A secret of any length becomes a key as long as the signature asks for.
    return hashlib.sha256(b"agent-mailer login token\0" + secret.encode()).digest()
