"""What failed is tried again by itself: an agent is back, a quota begins anew."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker.database import Store
from agent_mailer.broker.hooks.history import due, forget
from agent_mailer.broker.hooks.taking import Limits, in_ms, retry
from agent_mailer.broker.protocol import CLOCK
from agent_mailer.broker.streams import Streams
from agent_mailer.outside.items import KEPT_DAYS, LOOK_EVERY

log = logging.getLogger("agent_mailer.broker")
AT_ONCE = 100
FORGET_EVERY = 120
"""Looks between two times that what is over is forgotten."""


async def sweep_on(store: Store, streams: Streams, lock: asyncio.Lock, limits: Limits) -> None:
    """For ever."""
    looks = 0
    while True:
        try:
            await sweep(store, streams, lock, limits)
            if looks % FORGET_EVERY == 0:
                before = (CLOCK.now() - timedelta(days=KEPT_DAYS)).isoformat(timespec="microseconds")
                await store.write(partial(forget, before=before))
        except SQLAlchemyError as error:
            log.warning("what came by hooks could not be looked at: %s", str(error).splitlines()[0])
        looks += 1
        await asyncio.sleep(LOOK_EVERY)


async def sweep(store: Store, streams: Streams, lock: asyncio.Lock, limits: Limits) -> int:
    """How many were tried again. Whoever else does so at once finds each done."""
    now = in_ms(0)
    found = await store.read(lambda c: due(c, now, AT_ONCE))
    for row_id in found:
        async with lock:
            result = await store.write(partial(retry, row_id=row_id, limits=limits, due_ms=now))
        if result is not None:
            streams.arrived(result.arrivals)
    return len(found)
