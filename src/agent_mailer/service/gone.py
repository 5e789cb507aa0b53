"""A watcher that is gone: its unit has failed and systemd does not start it again, so somebody has to be told.

What may have ended it is its configuration, which an agent may have written: then the one that a person trusts says
who is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.errors import BusyFault, ConfigFault, MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Delivered, Refused
from agent_mailer.names import printable
from agent_mailer.state.notices import Notice, NoticeKind
from agent_mailer.watch.telling import Teller


async def tell_gone(workdir: Path, environ: Mapping[str, str]) -> list[str]:
    """A line for each step. What cannot be told now the next watcher tells.

    Raises MailerError where nobody can be asked who is to be told.
    """
    place = _place_of(workdir)
    policy = place.policy()
    lock = place.lock()
    try:
        lock.acquire()
    except BusyFault:
        return ["a watcher runs again: nobody is told"]
    try:
        place.folder.hold()
        why = _why(environ)
        place.log.emit(EventName.WATCH_GONE, why=why)
        now, channels = place.clock.now(), policy.notify.channels
        notice = Notice(f"{NoticeKind.GONE}-{now:.3f}", NoticeKind.GONE, now, "failed", why=why, left=channels)
        book = place.state.notices
        # Where the disk is what ended it, it is told all the same.
        book.add(notice, even_if_refused=True)
        lines = []
        teller = Teller(policy, place.mailbox())
        for channel in channels:
            delivery = await teller.tell(notice, channel)
            lines.append(f"{channel.value}: {'told' if isinstance(delivery, Delivered) else delivery.why}")
            if isinstance(delivery, Delivered | Refused):
                notice = notice.without(channel)
                book.put(notice)
        return lines or ["[notify] names nobody: nobody is told"]
    finally:
        lock.release()


def _place_of(workdir: Path) -> Workplace:
    """As it is configured; where that says nothing sensible, as a person trusts it. Raises MailerError."""
    place = Workplace(workdir)
    try:
        place.trust.load()
        return place
    except ConfigFault:
        with suppress(MailerError, msgspec.ValidationError):
            if (trusted := place.trust.remembered()) is not None:
                return Workplace(workdir, loaded=trusted)
        raise


def _why(environ: Mapping[str, str]) -> str:
    """What systemd tells (since 251) of the unit that has failed."""
    result, status = environ.get("MONITOR_SERVICE_RESULT", ""), environ.get("MONITOR_EXIT_STATUS", "")
    words = [f"systemd says {result}"] if result else []
    return printable(", ".join([*words, *([f"it ended with {status}"] if status else [])]), 200)
