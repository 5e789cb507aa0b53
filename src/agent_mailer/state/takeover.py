"""What another AMP client left in `.agent-mailer/`, made ours at the first start.

Most of its files are read as they are. Its `inflight.json` is not: the message in work there may be marked read at the
broker already, so that nothing but this record says that it is still to be done; and its agent may run on without it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.beneath import status
from agent_mailer.clock import from_iso
from agent_mailer.disk import Sync, read_regular
from agent_mailer.errors import BusyFault
from agent_mailer.events import EventLog, EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.processes import command, listed_pids
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.processed import Processed
from agent_mailer.state.records import Attempt, RetryEntry
from agent_mailer.state.retries import Retries

UNKNOWN_SENT = "what the thread shows from you (nobody kept a record of that turn)"
"""Completes "already sent, do not send again": its agent sent mail by itself."""

IN_WORK = "it was in work when another AMP client ended"
MOST_TRIES = 1000


class Inflight(msgspec.Struct, frozen=True):
    """The other client's `inflight.json`. It is ours where there is no `msg_id`."""

    msg_id: str = ""
    thread_id: str = ""
    started_at: str | float | None = None
    retry_count: int = 0


def take_over(folder: StateFolder, processed: Processed, retries: Retries, log: EventLog) -> None:
    """Make the other client's open message a retry of ours. Only the holder of the lock calls this; idempotent.

    Raises BusyFault while the agent of that client still works on it.
    """
    _make_private(folder)
    path = folder.path / "inflight.json"
    open_there = read_inflight(path)
    if open_there is None:
        return
    message_id = open_there.msg_id
    if message_id not in processed and retries.get(message_id) is None:
        _require_ended(folder.workdir, message_id)
        entry = _entry(open_there, retries, folder.clock.now())
        retries.put(entry)
        log.emit(
            EventName.TAKEN_OVER,
            message_id=message_id,
            thread=entry.envelope.thread,
            attempts=entry.attempts,
            why=IN_WORK,
        )
    folder.disk.replace(path, b'{"turns": []}\n', sync=Sync.FULL)


def read_inflight(path: Path) -> Inflight | None:
    """The other client's record; None where there is none, or the file is ours or damaged."""
    with suppress(OSError, *GARBLED):
        found = msgspec.json.decode(read_regular(path), type=Inflight)
        return found if found.msg_id else None
    return None


def _entry(found: Inflight, retries: Retries, now: float) -> RetryEntry:
    started = min(_moment(found.started_at, now), now)
    # Without an order of its own it comes before everything else in its thread.
    envelope = Envelope(found.msg_id, found.thread_id or found.msg_id, "", started, order="", locator=found.msg_id)
    counted = retries.adopt(envelope)
    tries = min(MOST_TRIES, max(0, found.retry_count, counted.attempts if counted else 0))
    history = (Attempt("", Outcome.INTERRUPTED, IN_WORK, started),)
    return RetryEntry(envelope, attempts=tries, starts=tries + 1, history=history, sent=(UNKNOWN_SENT,))


def _moment(said: str | float | None, now: float) -> float:
    try:
        return from_iso(said) if isinstance(said, str) else float(said if said is not None else now)
    except (ValueError, OverflowError):
        return now


def _require_ended(workdir: Path, message_id: str) -> None:
    """Its watcher is gone, we hold the lock; its agent may live on, with the message's id in its prompt."""
    pid = _agent_of(workdir, message_id)
    if pid is not None:
        raise BusyFault(
            "agent_runs",
            f"process {pid}, an agent that another AMP client started here, still works on {printable(message_id)}",
            f"wait for its end, or end it: kill {pid}",
        )


def _agent_of(workdir: Path, message_id: str) -> int | None:
    """The process in this folder that was given a prompt for this message; None also where the system does not tell."""
    needle = message_id.encode("utf-8", "surrogatepass")
    here = os.path.realpath(workdir)
    with suppress(OSError):
        for pid in listed_pids():
            with suppress(OSError):
                if pid != os.getpid() and str(Path(f"/proc/{pid}/cwd").readlink()) == here and needle in command(pid):
                    return pid
    return None


def _make_private(folder: StateFolder) -> None:
    """The other client leaves `processed.txt` readable for everybody. What has a second name is no file of its own."""
    path = folder.path / "processed.txt"
    with suppress(OSError):
        found = status(path)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_mode & 0o077:
            folder.disk.system.chmod(path, 0o600)
