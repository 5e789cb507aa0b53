"""Passwords: argon2id, outside the event loop, and never many at once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

T = TypeVar("T")

AT_ONCE = 2
"""Each takes 19 MiB and a core for some 30 ms: a flood of logins must not take the machine."""

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """As it is stored."""
    return _HASHER.hash(password)


class Passwords:
    """One per process."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._nobodys: str | None = None

    async def hashed(self, password: str) -> str:
        async with self._turn:
            return await asyncio.to_thread(hash_password, password)

    async def fits(self, stored: str | None, password: str) -> bool:
        """Whether the password is the one of `stored`; without one the answer is no and takes as long."""
        return await self.in_turn(lambda: self.verify(stored, password))

    async def in_turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, which may `verify`, when it is its turn."""
        async with self._turn:
            return await work()

    async def verify(self, stored: str | None, password: str) -> bool:
        """`fits`, for who has its turn already."""
        if stored is None and self._nobodys is None:
            self._nobodys = await asyncio.to_thread(hash_password, secrets.token_hex(16))
        fits = await asyncio.to_thread(_fits, stored or self._nobodys or "", password)
        return fits and stored is not None


def _fits(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError):
        return False
