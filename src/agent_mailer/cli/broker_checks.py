"""What `verify` and `status` ask of a broker. Only reading calls: none makes the agent look online."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from agent_mailer.checks.broker import BrokerSeen
from agent_mailer.cli.at_broker import at_broker
from agent_mailer.mailbox.amp.client import BrokerClient
from agent_mailer.mailbox.amp.transport import Limits
from agent_mailer.names import shown_url

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

LIMITS = Limits(connect=5.0, read=10.0, whole=15.0)
DATE_SECONDS = 5.0


def see_broker(place: Workplace) -> BrokerSeen:
    """Raises ConfigFault, RefusedFault, UnavailableFault."""
    config = place.config

    async def look() -> BrokerSeen:
        async with BrokerClient(config.broker_url, config.api_key, limits=LIMITS) as client:
            agent = await client.agent(config.agent_id)
            info = await client.discover()
        return BrokerSeen(
            url=shown_url(config.broker_url),
            agent_id=agent.id,
            address=agent.address,
            status=agent.status or "",
            version=info.version,
            extensions=info.extensions,
            ours=info.ours,
            clock_ahead=await _clock_ahead(config.broker_url, place.clock.now),
        )

    with at_broker():
        return asyncio.run(look())


async def _clock_ahead(url: str, now: Callable[[], float]) -> float | None:
    """By the `Date` of an answer, which has whole seconds."""
    import httpx

    with suppress(httpx.HTTPError, OSError, ValueError, KeyError, TypeError, OverflowError):
        async with httpx.AsyncClient(timeout=DATE_SECONDS) as client:
            before = now()
            answer = await client.get(url.rstrip("/") + "/health")
            moment = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            return moment - (before + now()) / 2
    return None
