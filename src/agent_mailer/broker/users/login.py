"""Passwords and login tokens."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import bcrypt
import jwt
import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

T = TypeVar("T")

AT_ONCE = 2
"""Each takes 19 MiB and a core for some 30 ms: a flood of logins must not take the machine."""

_ALGORITHM = "HS256"
_BCRYPT = ("$2a$", "$2b$", "$2y$")
_LONGEST_BCRYPT = 72
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """As it is stored."""
    return _HASHER.hash(password)


class Passwords:
    """One per process."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._nobodys: str | None = None

    async def hashed(self, password: str) -> str:
        async with self._slots:
            return await asyncio.to_thread(hash_password, password)

    async def in_slot(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, which may `verify`, once there is a slot for it."""
        async with self._slots:
            return await work()

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the one of `stored`; without one the answer is no and takes as long. In a slot."""
        if stored is None and self._nobodys is None:
            self._nobodys = await asyncio.to_thread(hash_password, secrets.token_hex(16))
        fits = await asyncio.to_thread(_fits, stored or self._nobodys or "", password)
        return fits and stored is not None


def is_old(stored: str) -> bool:
    """Whether it was hashed by the protocol's public broker, with bcrypt; who logs in gets a hash of our own."""
    return stored.startswith(_BCRYPT)


def _fits(stored: str, password: str) -> bool:
    if is_old(stored):
        try:
            # As that broker does: of a longer one the rest never counted.
            return bcrypt.checkpw(password.encode()[:_LONGEST_BCRYPT], stored.encode())
        except ValueError:
            return False
    try:
        return _HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError):
        return False


class Claims(msgspec.Struct, frozen=True):
    """`token_id` is empty in tokens of an earlier version; `expires` in seconds since 1970. `impersonated_by`: the user
    whose login-as gave it, at the version `their_version`, or 0.
    """

    user_id: str
    version: int
    token_id: str
    expires: int
    impersonated_by: str = ""
    their_version: int = 0


class Use(StrEnum):
    """Where a token counts. Every port of a host gets its cookies: a token from there opens nothing as a header."""

    HEADER = "header"
    COOKIE = "cookie"
    PAGES = "pages"
    """The console's own cookie."""


def issue_token(
    secret: str,
    user_id: str,
    version: int,
    seconds: int,
    *,
    use: Use = Use.HEADER,
    impersonated_by: tuple[str, int] | None = None,
) -> str:
    """A token good for `seconds`. `impersonated_by`: the user who asks for it in another's name, and their version."""
    now = int(time.time())
    payload: dict[str, object] = {
        "user_id": user_id,
        "iat": now,
        "exp": now + seconds,
        "ver": version,
        "jti": secrets.token_hex(16),
        "use": use.value,
    }
    if impersonated_by is not None:
        payload["impersonated_by"], payload["their_version"] = impersonated_by
    return jwt.encode(payload, _key(secret), algorithm=_ALGORITHM)


def read_token(secret: str, token: str, use: Use = Use.HEADER) -> Claims | None:
    """What a token says; None where it is not ours, not whole, for another use, or past its end."""
    try:
        payload = jwt.decode(
            token,
            _key(secret),
            algorithms=[_ALGORITHM],
            # Not refused for being of the future: the clock may have been set back since.
            options={"require": ["exp", "iat"], "verify_iat": False},
        )
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    user_id, version, token_id = payload.get("user_id"), payload.get("ver"), payload.get("jti", "")
    if not isinstance(user_id, str) or not isinstance(version, int) or not isinstance(token_id, str):
        return None
    if payload.get("use", Use.HEADER) != use:
        return None
    by, theirs = str(payload.get("impersonated_by") or ""), payload.get("their_version", 0)
    return Claims(user_id, version, token_id, int(payload["exp"]), by, theirs if isinstance(theirs, int) else 0)


def _key(secret: str) -> bytes:
    # A secret of any length becomes a key as long as the signature asks for.
    return hashlib.sha256(b"agent-mailer login token\0" + secret.encode()).digest()
