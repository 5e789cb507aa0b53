"""Is an Agent Relay server there, of a version that we know by its README, and does it take our id and token?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.checks.server import LOOK_SECONDS
from agent_mailer.errors import MailerError, UnavailableFault
from agent_mailer.names import printable, shown_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_mailer.assemble import Workplace

UNSEEN: Final = "our side is written from its README; not seen with the real server"


class RelaySeen(msgspec.Struct, frozen=True):
    """`standing` is how the server shows our id to others; empty = it knows none."""

    version: str
    is_known_version: bool
    standing: str


def relay_checks(place: Workplace) -> list[CheckResult]:
    """Reading calls only: nobody is registered by a look."""
    return check_relay(shown_url(place.config.broker_url), place.config.address, lambda: see_relay(place))


def check_relay(url: str, name: str, see: Callable[[], RelaySeen]) -> list[CheckResult]:
    """`see` raises what is wrong where it cannot be asked, or refuses."""
    found: list[RelaySeen] = []

    def look() -> CheckResult:
        seen = see()
        found.append(seen)
        version = printable(seen.version, 40) or "of no version that it tells"
        if not seen.is_known_version:
            text = f"an Agent Relay server {version}: we know 0.4; {UNSEEN}"
            return warning("server", url, text, "try it: agent-mailer send NAME Hello --wait 60")
        return ok("server", url, f"an Agent Relay server {version}; {UNSEEN}")

    first = guarded("server", url, look)
    return [first, *(_check_name(seen, name) for seen in found)]


def _check_name(seen: RelaySeen, name: str) -> CheckResult:
    from agent_mailer.mailbox.relay.session import require_name

    where = f"name {printable(name, 60)}"
    try:
        require_name(name)
    except MailerError as fault:
        return failed("name", where, fault.message, fault.fix)
    if not seen.standing:
        return ok("name", where, "is not known there yet: the watcher registers it")
    return ok("name", where, f"is known there, and {printable(seen.standing, 40)}")


def see_relay(place: Workplace) -> RelaySeen:
    """Raises ConfigFault, RefusedFault, UnavailableFault, MailerError."""
    from agent_mailer.at_server import relay
    from agent_mailer.mailbox.relay.reader import KNOWN_VERSIONS
    from agent_mailer.people.server import in_words

    mailbox = relay(place, place.config.address or "nobody")

    async def look() -> RelaySeen:
        async with asyncio.timeout(LOOK_SECONDS):
            version, card = await mailbox.version(), await mailbox.registered()
        standing = "" if card is None else card.status or "registered"
        return RelaySeen(version, version.startswith(KNOWN_VERSIONS), standing)

    with in_words():
        try:
            return asyncio.run(look())
        except TimeoutError:
            url = shown_url(place.config.broker_url)
            raise UnavailableFault("mailbox_slow", f"{url} does not answer within {LOOK_SECONDS:.0f} s") from None
