"""What waits in the mailbox of a workdir, for `status`: read in its folder, or asked of its broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent_mailer.cli.status_view import MailboxView, QueuedView

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Envelope

QUEUE_SHOWN = 5
READ = 500
"""So many of the oldest files are read; of the rest the names are counted."""

BROKER_SECONDS = 3.0

Look = Callable[["Workplace", set[str]], MailboxView]
"""From a workplace and the ids that are in work or to be retried there, to what waits besides."""


def look_at_mailbox(place: Workplace, ours: set[str]) -> MailboxView:
    """A broker that does not answer soon is not waited for."""
    from agent_mailer.config import MailboxKind

    return _at_broker(place, ours) if place.config.mailbox_kind is MailboxKind.AMP else _in_folder(place, ours)


def look_without_asking(place: Workplace, ours: set[str]) -> MailboxView:
    """The same, but no broker is asked: forty of them would not answer at once."""
    from agent_mailer.config import MailboxKind

    if place.config.mailbox_kind is not MailboxKind.AMP:
        return _in_folder(place, ours)
    return MailboxView("amp", place.config.address, _url(place), waiting=None)


def _in_folder(place: Workplace, ours: set[str]) -> MailboxView:
    from agent_mailer.errors import MailerError
    from agent_mailer.mailbox.maildir.layout import Paths, check_handle, require_root

    address = place.handle
    root = None
    try:
        root = place.maildir_root()
        require_root(root)
        check_handle(address)
        return _waiting(place, root, Paths(root, address).new, ours)
    except MailerError as fault:
        return MailboxView("maildir", address, str(root) if root else None, problem=fault.message)
    except OSError as error:
        return MailboxView("maildir", address, str(root), problem=f"{error.filename}: {error.strerror}")


def _waiting(place: Workplace, root: Path, folder: Path, ours: set[str]) -> MailboxView:
    from agent_mailer.mailbox.maildir.listing import is_message_name, read_names
    from agent_mailer.mailbox.port import Envelope

    names = sorted(name for name in os.listdir(folder) if is_message_name(name))
    if not names:
        return MailboxView("maildir", place.handle, str(root))
    read = list(read_names(folder, names[:READ]))
    envelopes = [found for found in read if isinstance(found, Envelope)]
    others = [name.removesuffix(".md") for name in names[READ:]]
    known = ours | place.state.processed.among([e.id for e in envelopes] + others)
    waiting = [envelope for envelope in envelopes if envelope.id not in known]
    more = sum(1 for message_id in others if message_id not in known)
    unreadable = len(read) - len(envelopes)
    queue = _oldest(waiting, place.clock.now())
    return MailboxView("maildir", place.handle, str(root), len(waiting) + more, unreadable, queue=queue)


def _oldest(envelopes: list[Envelope], now: float) -> tuple[QueuedView, ...]:
    oldest = sorted(envelopes, key=lambda envelope: envelope.created)[:QUEUE_SHOWN]
    return tuple(
        QueuedView(e.id, e.thread, e.sender, e.priority.value, round(max(0.0, now - e.created), 1)) for e in oldest
    )


def _at_broker(place: Workplace, ours: set[str]) -> MailboxView:
    import asyncio

    from agent_mailer.cli.at_broker import at_broker
    from agent_mailer.cli.broker_inbox import BrokerInbox
    from agent_mailer.errors import MailerError
    from agent_mailer.mailbox.amp.client import Credentials

    config = place.config
    inbox = BrokerInbox(Credentials(config.broker_url, config.agent_id, config.api_key), config.address)

    async def ask() -> tuple[int, list[Envelope]]:
        async with asyncio.timeout(BROKER_SECONDS):
            return await inbox.waiting(QUEUE_SHOWN + len(ours))

    try:
        with at_broker():
            total, oldest = asyncio.run(ask())
    except MailerError as fault:
        return MailboxView("amp", config.address, _url(place), problem=fault.message)
    except TimeoutError:
        return MailboxView("amp", config.address, _url(place), problem=f"no answer within {BROKER_SECONDS:.0f} s")
    new = [envelope for envelope in oldest if envelope.id not in ours]
    queue = _oldest(new, place.clock.now())
    return MailboxView("amp", config.address, _url(place), max(len(new), total - len(ours)), queue=queue)


def _url(place: Workplace) -> str:
    from agent_mailer.names import shown_url

    return shown_url(place.config.broker_url)
