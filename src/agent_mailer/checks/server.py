"""Is an mcp_agent_mail server there, does it know our name, and can it do what we ask of it?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.errors import MailerError
from agent_mailer.names import printable, shown_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_mailer.assemble import Workplace

NEEDED = (
    *("ensure_project", "register_agent", "fetch_inbox", "fetch_topic", "send_message"),
    *("mark_message_read", "acknowledge_message"),
)
LOOK_SECONDS = 10.0


class ServerSeen(msgspec.Struct, frozen=True):
    """`lacks` are tools that it hides or does not have; `registered` whether our name was registered before."""

    tools: int
    lacks: tuple[str, ...]
    registered: bool


def server_checks(place: Workplace) -> list[CheckResult]:
    """Reading calls only: nobody is registered by a look."""
    return check_server(shown_url(place.config.broker_url), place.config.address, lambda: see_server(place))


def check_server(url: str, name: str, see: Callable[[], ServerSeen]) -> list[CheckResult]:
    """`see` raises what is wrong where it cannot be asked, or refuses."""
    found: list[ServerSeen] = []

    def look() -> CheckResult:
        seen = see()
        if seen.lacks:
            text = f"is no mcp_agent_mail server that we can use: it has no {', '.join(seen.lacks)}"
            return failed("server", url, text, "agent-mailer config set broker_url URL, or show these tools there")
        found.append(seen)
        return ok("server", url, f"an mcp_agent_mail server with {seen.tools} tools; takes our calls")

    first = guarded("server", url, look)
    return [first, *(_check_name(seen, name) for seen in found)]


def _check_name(seen: ServerSeen, name: str) -> CheckResult:
    from agent_mailer.mailbox.mcp_agent_mail.identity import require_name

    where = f"name {printable(name, 60)}"
    try:
        require_name(name)
    except MailerError as fault:
        return failed("name", where, fault.message, fault.fix)
    if not seen.registered:
        return warning("name", where, "is not registered from this machine yet", "agent-mailer mail register")
    return ok("name", where, "is registered, and its token is kept here")


def see_server(place: Workplace) -> ServerSeen:
    """Raises ConfigFault, RefusedFault, UnavailableFault, MailerError."""
    from agent_mailer.at_server import mcp_agent_mail
    from agent_mailer.errors import UnavailableFault
    from agent_mailer.people.server import in_words

    mailbox = mcp_agent_mail(place, place.config.address or "nobody-1")

    async def look() -> ServerSeen:
        async with asyncio.timeout(LOOK_SECONDS):
            tools = await mailbox.tools()
        known = mailbox.registered is not None
        return ServerSeen(len(tools), tuple(name for name in NEEDED if name not in tools), known)

    with in_words():
        try:
            return asyncio.run(look())
        except TimeoutError:
            url = shown_url(place.config.broker_url)
            raise UnavailableFault("mailbox_slow", f"{url} does not answer within {LOOK_SECONDS:.0f} s") from None
