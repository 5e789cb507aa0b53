"""Is the mailbox there, ours, and nobody else's to consume: a folder's, or a broker's by reading calls only."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.checks.machine import flock_holder
from agent_mailer.clock import iso
from agent_mailer.config import MailboxKind
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, quoted
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.format import is_message_name
from agent_mailer.mailbox.maildir.routes import session_of, siblings
from agent_mailer.names import printable, shown_url
from agent_mailer.process.handle import identify, is_alive
from agent_mailer.state.lock import holder_of

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

LOOKED_AT = 1000
"""Messages that wait; where one is dated wrong, so are those beside it."""


def mailbox_checks(place: Workplace) -> list[CheckResult]:
    """All that can be said of the agent's mailbox, as far as the configuration names it."""
    config = place.config
    if place.at_broker:
        if not (config.broker_url and config.api_key and config.agent_id):
            return []  # the configuration's check names them
        return check_broker(shown_url(config.broker_url), config.address, lambda: see_broker(place))
    if place.config.mailbox_kind is MailboxKind.RELAY:
        from agent_mailer.checks.relay import relay_checks

        return relay_checks(place)
    if not place.in_folder:
        from agent_mailer.checks.server import server_checks

        return server_checks(place) if config.broker_url else []
    holder = holder_of(place.folder.path / ".lock")
    pid = holder.process.pid if holder else None
    return check_mailbox(place.handle, lambda: _see_folder(place), pid, place.clock.now())


def own_folder(place: Workplace) -> tuple[Path, layout.Paths]:
    """The root and the folders of the agent's mailbox in it. Raises ConfigFault where there is none."""
    root, handle = place.maildir_root(), place.handle
    layout.check_handle(handle)
    layout.require_root(root)
    if not layout.known(root, handle):
        fix = f"agent-mailer init --maildir-root {quoted(root)} --address {handle}"
        raise ConfigFault("no_mailbox", f"{root} has no mailbox for {handle!r}", fix)
    return root, layout.Paths(root, handle)


def _see_folder(place: Workplace) -> FolderMailbox:
    """Raises ConfigFault where there is no such mailbox."""
    (root, paths), handle = own_folder(place), place.handle
    return FolderMailbox(
        root, handle, paths.home, tuple(layout.check_mailbox(root, handle)), paths.lock, paths.pid_file
    )


class FolderMailbox(msgspec.Struct, frozen=True):
    """A folder mailbox as its adapter sees it. `problems` is what is wrong with its folders, one sentence each.

    `lock` is the file its watcher holds, `holder` the one with that watcher's pid.
    """

    root: Path
    handle: str
    home: Path
    problems: tuple[str, ...]
    lock: Path
    holder: Path


def check_folder_mailbox(seen: FolderMailbox) -> CheckResult:
    """Every folder is there, private, and belongs to this user."""

    def look() -> CheckResult:
        fix = f"agent-mailer init --maildir-root {quoted(seen.root)} --address {seen.handle}"
        if seen.problems:
            more = f" (and {len(seen.problems) - 1} more)" if len(seen.problems) > 1 else ""
            return failed("mailbox", seen.home, f"{seen.problems[0]}{more}", fix)
        owner = seen.home.stat().st_uid
        if owner != os.geteuid():
            text = f"belongs to user {owner}, not to {os.geteuid()}"
            return failed("mailbox", seen.home, text, f"sudo chown -R {os.geteuid()} {quoted(seen.home)}")
        return ok("mailbox", seen.home, f"the mailbox of {seen.handle}: every folder is there and private")

    return guarded("mailbox", seen.home, look)


def check_consumer(seen: FolderMailbox, our_watcher: int | None) -> CheckResult:
    """Nobody but this workdir's watcher, whose pid is `our_watcher`, consumes the mailbox."""

    def look() -> CheckResult:
        pid = flock_holder(seen.lock) or _living(seen.holder)
        if pid is None:
            return ok("consumer", seen.lock, "nobody watches this mailbox")
        if pid == our_watcher:
            return ok("consumer", seen.lock, f"watched by this workdir's watcher, process {pid}")
        text = f"another watcher, process {pid}, consumes the mail of {seen.handle}"
        return failed("consumer", seen.lock, text, "agent-mailer config set address HANDLE, or stop that watcher")

    return guarded("consumer", seen.lock, look)


AHEAD = 60.0
"""Seconds by which a file may be newer than the clock says: file servers and senders have clocks of their own."""


def check_file_times(seen: FolderMailbox, now: float) -> CheckResult:
    """No folder of the mailbox, and nothing that waits there, is newer than now."""

    def look() -> CheckResult:
        inbox = seen.home / "inbox"
        moment, newest = max(_dated(inbox))
        if moment > now + AHEAD:
            text = f"{newest} is of {iso(moment)}, and the clock says {iso(now)}: one of the clocks is wrong"
            return warning("mail_clock", inbox, text, "timedatectl status (here, and where the files or senders are)")
        return ok("mail_clock", inbox, "nothing there is newer than now")

    return guarded("mail_clock", seen.home, look)


def _dated(inbox: Path) -> Iterator[tuple[float, str]]:
    """The folders, whose times are those of the last arrival, and what waits, as far as a person would look."""
    waiting = itertools.islice((inbox / "new").iterdir(), LOOKED_AT)
    for path in (inbox, *(inbox / name for name in ("tmp", "new", "cur")), *waiting):
        with suppress(FileNotFoundError):  # a watcher may take it now
            yield path.lstat().st_mtime, str(path)


def check_mailbox(
    looked_at: object, see: Callable[[], FolderMailbox], our_watcher: int | None, now: float
) -> list[CheckResult]:
    """All three; `see` raises what is wrong where there is no such mailbox."""
    found: list[FolderMailbox] = []

    def look() -> CheckResult:
        found.append(see())
        return check_folder_mailbox(found[0])

    first = guarded("mailbox", looked_at, look)
    more = [(check_consumer(seen, our_watcher), check_file_times(seen, now)) for seen in found]
    elsewhere = [check_elsewhere(seen.handle, root) for seen in found for root in siblings(seen.root)]
    return [first, *itertools.chain(*more), *filter(None, elsewhere)]


def check_elsewhere(handle: str, root: Path) -> CheckResult | None:
    """Mail for the agent that lies in another session of the same base, and that nobody takes; None for none."""
    paths = layout.Paths(root, handle)
    try:
        waiting = sum(1 for name in os.listdir(paths.new) if is_message_name(name))
    except OSError:
        return None
    if not waiting or flock_holder(paths.lock) is not None:
        return None
    session = session_of(root)
    where = f"the session {session}" if session else f"the base root {root}"
    text = f"{waiting} for {handle} in {where}, which nobody watches: it does not come to this agent"
    fix = f"amq list --root {quoted(root)} --me {handle}; to join: agent-mailer init --maildir-root {quoted(root)}"
    return warning("elsewhere", paths.new, text, fix)


def _living(holder: Path) -> int | None:
    """Who wrote the holder file, where the system does not tell who holds a lock."""
    if Path("/proc/locks").exists():
        return None
    with suppress(OSError, ValueError):
        identity = identify(int(read_regular(holder, 20)))
        if identity is not None and is_alive(identity):
            return identity.pid
    return None


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


DATE_SECONDS = 5.0


def see_broker(place: Workplace) -> BrokerSeen:
    """Raises ConfigFault, RefusedFault, UnavailableFault."""
    import asyncio

    from agent_mailer.mailbox.amp.client import BrokerClient, at_broker
    from agent_mailer.mailbox.amp.transport import Limits

    config = place.config
    limits = Limits(connect=5.0, read=10.0, whole=15.0)

    async def look() -> BrokerSeen:
        async with BrokerClient(config.broker_url, config.api_key, limits=limits) as client:
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
