"""Wrong passwords, counted in the database: for all processes that serve it, and over a restart."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from limits import parse
from sqlalchemy import Connection, bindparam, delete, select, text

from agent_mailer.broker.database import Store
from agent_mailer.broker.engines import now_ms
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import wrong_passwords

_c = wrong_passwords.c
_COUNTED = select(_c.bucket, _c.tries, _c.ends_ms).where(_c.bucket.in_(bindparam("buckets", expanding=True)))
# What is over begins anew; so does what would last longer than it can: the clock was set back.
_COUNT = text(
    "INSERT INTO wrong_passwords (bucket, tries, ends_ms) VALUES (:bucket, 1, :ends) ON CONFLICT (bucket) DO UPDATE SET"
    " tries = CASE WHEN wrong_passwords.ends_ms BETWEEN :next AND :ends THEN wrong_passwords.tries + 1 ELSE 1 END,"
    " ends_ms = CASE WHEN wrong_passwords.ends_ms BETWEEN :next AND :ends THEN wrong_passwords.ends_ms ELSE :ends END"
)
_FORGET_OLD = delete(wrong_passwords).where(_c.ends_ms <= bindparam("now"))
_FORGET = delete(wrong_passwords).where(_c.bucket == bindparam("one"))


class Throttle:
    """`rate` as in `10/5 minutes`."""

    def __init__(self, store: Store, rate: str) -> None:
        self._store = store
        wanted = parse(rate)
        self._most = wanted.amount
        self._window_ms = wanted.get_expiry() * 1000

    async def check(self, username: str, host: str, *, known: bool, what: str = "passwords") -> None:
        """Raises Fault 429 with Retry-After (seconds) where too many of `what` were wrong.

        `known`: this user has logged in from that host before. What was tried elsewhere does not lock them out there.
        """
        own, of_host = _buckets(username, host, known=known)
        wanted = [own] if known else [own, of_host]
        left = await self._store.read(lambda c: self._left_ms(c, wanted))
        if left > 0:
            seconds = max(1, math.ceil(left / 1000))
            words = f"Too many wrong {what}; try again in {seconds} seconds"
            raise Fault(429, words, headers={"Retry-After": str(seconds)})

    async def failed(self, username: str, host: str, *, known: bool) -> None:
        # In one order, as everybody locks.
        buckets = sorted(_buckets(username, host, known=known))

        def work(connection: Connection) -> None:
            now = now_ms(connection)
            moments = {"next": now + 1, "ends": now + self._window_ms}
            connection.execute(_COUNT, [{"bucket": bucket, **moments} for bucket in buckets])
            connection.execute(_FORGET_OLD, {"now": now})

        await self._store.write(work)

    async def succeeded(self, username: str, host: str, *, known: bool) -> None:
        # Not the host's: one's own login must not make room for guessing at others.
        own, _ = _buckets(username, host, known=known)
        if await self._store.read(lambda c: c.execute(_COUNTED, {"buckets": [own]}).first()) is not None:
            await self._store.write(lambda c: c.execute(_FORGET, {"one": own}))

    def _left_ms(self, connection: Connection, buckets: Sequence[str]) -> int:
        now = now_ms(connection)
        return max(
            (
                ends - now
                for _, tries, ends in connection.execute(_COUNTED, {"buckets": buckets})
                if tries >= self._most and ends <= now + self._window_ms
            ),
            default=0,
        )


def _buckets(username: str, host: str, *, known: bool) -> tuple[str, str]:
    """What counts for the user, and what for the host."""
    own = _named("user at host", username, host) if known else _named("user", username)
    return own, _named("host", host)


def _named(*parts: str) -> str:
    """Of one length, whatever a stranger gave for a name."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
