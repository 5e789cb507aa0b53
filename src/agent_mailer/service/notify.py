"""What a watcher tells systemd: that it is ready, that its loop turns, and in one line what it does."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import datetime

from agent_mailer.amounts import counted
from agent_mailer.clock import from_iso
from agent_mailer.events import EventName, LogRecord
from agent_mailer.state.records import Pause

SEND_SECONDS = 0.5
"""Seconds for a manager that does not take our word; the watcher has other work."""

STOP_MARGIN = 30.0
"""Beyond the grace for running turns: ending their trees and settling them."""

LONGEST_STATUS = 300
_MOST_THREADS = 3

_BEGIN = (EventName.TURN_STARTED, EventName.TURN_ADOPTED)
_END = (EventName.TURN_ENDED, EventName.TURN_DROPPED)
_TROUBLE = (EventName.MAILBOX_TROUBLE, EventName.MAILBOX_REFUSED, EventName.STATE_TROUBLE)


class Notifier:
    """The socket that systemd gave us. Nothing here raises: nobody to tell is no reason to fail.

    `watchdog`: seconds without a beat after which systemd ends us; None where it does not watch.
    """

    def __init__(self, address: str, watchdog: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def beat(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self, status: str, grace: float) -> None:
        """`grace`: seconds that running turns are given; systemd shall wait longer than that."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round((grace + STOP_MARGIN) * 1e6)}", f"STATUS={status}")

    async def keep_beating(self) -> None:
        """For ever. Run by the very loop that is to be watched."""
        if self.watchdog is None:
            return
        while True:
            self.beat()
            await asyncio.sleep(self.watchdog / 2)

    def _send(self, *lines: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(SEND_SECONDS)
            connection.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def take_notifier(environ: MutableMapping[str, str]) -> Notifier | None:
    """What systemd put into `environ`, taken out of it: what we start is not to speak for us. None without systemd."""
    address = environ.pop("NOTIFY_SOCKET", "")
    micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if address[:1] not in ("/", "@"):
        return None
    ours = pid in ("", str(os.getpid())) and micros.isdecimal() and int(micros) > 0
    return Notifier(address, int(micros) / 1e6 if ours else None)


class StatusLine:
    """Keeps the line that `systemctl status` shows, by the events of the log."""

    def __init__(self, pause: Pause | None = None) -> None:
        self._threads: dict[str, str] = {}
        self._pause = "" if pause is None else _paused(pause.reason.value, pause.until)
        self._trouble = ""
        self._leaving = ""

    @property
    def text(self) -> str:
        doing = self._leaving or _running(list(self._threads.values())) or "waiting for mail"
        return "; ".join(part for part in (doing, self._pause, self._trouble) if part)[:LONGEST_STATUS]

    def take(self, record: LogRecord) -> bool:
        """Whether the line is another one now."""
        before = self.text
        fields = record.fields
        turn_id = str(fields.get("turn_id", ""))
        match record.event:
            case event if event in _BEGIN:
                self._threads[turn_id] = str(fields.get("thread", ""))
            case event if event in _END:
                self._threads.pop(turn_id, None)
            case EventName.PAUSED:
                wait = fields.get("in_seconds")
                until = from_iso(record.ts) + wait if isinstance(wait, int | float) else None
                self._pause = _paused(str(fields.get("reason", "")), until)
            case EventName.RESUMED:
                self._pause = ""
            case event if event in _TROUBLE and not turn_id:
                self._trouble = f"in trouble: {fields.get('why', '')}"
            case EventName.MAILBOX_BACK:
                self._trouble = ""
            case EventName.WATCH_STOPPING:
                self._leaving = f"stopping; {_running(list(self._threads.values()))}" if self._threads else "stopping"
            case EventName.WATCH_HANDED_OVER:
                self._leaving = (
                    f"handed over; {_running(list(self._threads.values()))}" if self._threads else "handed over"
                )
            case _:
                return False
        return self.text != before


class Reporter:
    """Tells systemd what the log's events mean for the service."""

    def __init__(self, notifier: Notifier, pause: Pause | None) -> None:
        self._notifier = notifier
        self._line = StatusLine(pause)

    def begin(self) -> None:
        """Lock and state are ours: whoever waited for us goes on."""
        self._notifier.ready(self._line.text)

    def note(self, record: LogRecord) -> None:
        """A listener of the event log."""
        changed = self._line.take(record)
        if record.event is EventName.WATCH_STOPPING:
            grace = record.fields.get("grace")
            self._notifier.stopping(self._line.text, grace if isinstance(grace, int | float) else 0.0)
        elif record.event is EventName.WATCH_HANDED_OVER:
            self._notifier.stopping(self._line.text, 0.0)
        elif changed:
            self._notifier.status(self._line.text)


def _running(threads: list[str]) -> str:
    if not threads:
        return ""
    named = ", ".join(threads[:_MOST_THREADS])
    more = f" and {len(threads) - _MOST_THREADS} more" if len(threads) > _MOST_THREADS else ""
    return f"{_count(len(threads))}: {named}{more}"


def _count(turns: int) -> str:
    return f"{counted(turns, 'turn')} running"


def _paused(reason: str, until: float | None) -> str:
    named = f"paused ({reason.replace('_', ' ')})"
    if until is None:
        return named
    with suppress(OverflowError, ValueError, OSError):
        return f"{named} until {datetime.fromtimestamp(until).astimezone():%Y-%m-%d %H:%M}"
    return named
