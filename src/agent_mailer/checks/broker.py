"""Is the broker there, does it take our key, is the agent there that the configuration names. Only reading calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks.result import CheckResult, failed, guarded, ok, warning
from agent_mailer.mailbox.amp.client import BrokerClient, at_broker
from agent_mailer.mailbox.amp.transport import Limits
from agent_mailer.names import printable, shown_url

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


MOST_APART = 120.0
"""Seconds by which the broker's clock may differ: what waits for a moment of the other's waits wrongly beyond."""


class BrokerSeen(msgspec.Struct, frozen=True):
    """A broker as its client sees it. `extensions`: what it can do beyond the protocol; `ours`: all that we know.

    `clock_ahead` is how far its clock is ahead of ours, in seconds; None = it does not say.
    """

    url: str
    agent_id: str
    address: str
    status: str = ""
    version: str = ""
    extensions: tuple[str, ...] = ()
    ours: bool = False
    clock_ahead: float | None = None


def check_broker(url: str, address: str, see: Callable[[], BrokerSeen]) -> list[CheckResult]:
    """`see` raises what is wrong where the broker cannot be asked, or refuses; `address` is the configured one."""
    found: list[BrokerSeen] = []

    def look() -> CheckResult:
        found.append(see())
        return ok("broker", url, _described(found[0]))

    first = guarded("broker", url, look)
    return [first, *(result for seen in found for result in _agent_checks(seen, address))]


def _described(seen: BrokerSeen) -> str:
    if seen.ours:
        return f"agent-mailer {printable(seen.version, 40)}; takes the key; can do {', '.join(seen.extensions)}"
    if seen.extensions:
        return f"takes the key; can do {_some(seen.extensions)}, not all that we use: mail is polled for"
    return "takes the key; has no extensions: mail is polled for, and a reply is looked for before it is sent again"


def _agent_checks(seen: BrokerSeen, address: str) -> Sequence[CheckResult]:
    return (_check_address(seen, address), _check_clock(seen))


def _check_address(seen: BrokerSeen, address: str) -> CheckResult:
    where = f"agent {printable(seen.agent_id, 60)}"
    if seen.address != address:
        text = f"has the address {printable(seen.address)} at the broker, not {printable(address) or 'none'}"
        return failed("agent", where, text, f"agent-mailer config set address {printable(seen.address)}")
    presence = f", {printable(seen.status, 20)}" if seen.status else ""
    return ok("agent", where, f"is {printable(seen.address)}{presence}")


def _check_clock(seen: BrokerSeen) -> CheckResult:
    ahead = seen.clock_ahead
    if ahead is None:
        return ok("broker_clock", seen.url, "the broker does not tell its time")
    if abs(ahead) > MOST_APART:
        way = "ahead of" if ahead > 0 else "behind"
        text = f"the broker's clock is {abs(ahead):.0f} s {way} this machine's"
        return warning("broker_clock", seen.url, text, "timedatectl status (here, and at the broker)")
    return ok("broker_clock", seen.url, f"within {MOST_APART:.0f} s of this machine's")


def _some(names: Sequence[str]) -> str:
    return printable(", ".join(names), 200)


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
