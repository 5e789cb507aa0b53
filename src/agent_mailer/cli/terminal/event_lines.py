"""One line per event: JSON for machines, a sentence for people."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime

from agent_mailer.clock import from_iso
from agent_mailer.events import LogRecord
from agent_mailer.names import printable

_IDS = ("message_id", "turn_id")
ID_SHOWN = 8


def as_json_line(record: LogRecord) -> None:
    """The record as the log file has it, on stdout."""
    if record.passing:
        return
    sys.stdout.buffer.write(record.line() + b"\n")
    sys.stdout.buffer.flush()


def as_sentence(record: LogRecord) -> str:
    """`08:15:02  turn started  thread=… runtime=…`; values are printable already, ids cut to their ends."""
    moment = datetime.fromtimestamp(from_iso(record.ts)).astimezone().strftime("%H:%M:%S")
    name = record.event.value.replace("_", " ")
    said = ((key, value) for key, value in record.fields.items() if key != "tool" or "text" not in record.fields)
    shown = sorted(said, key=lambda field: field[0] in _IDS)
    fields = "  ".join(f"{key}={_ending(str(value)) if key in _IDS else value}" for key, value in shown)
    return f"{moment}  {name:<18} {fields}".rstrip()


def of_record(record: dict[str, object]) -> str:
    """A line of the log, which another program may have written: made printable here; ids are whole."""
    stamp, event = record.get("ts"), str(record.get("event", "?")).replace("_", " ")
    moment = printable(str(stamp or ""), 24)
    with suppress(ValueError, OverflowError, OSError):
        when = datetime.fromtimestamp(from_iso(str(stamp))).astimezone()
        today = when.date() == datetime.now(when.tzinfo).date()
        moment = when.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
    named = ((name, value) for name, value in record.items() if name not in ("ts", "event"))
    shown = "  ".join(f"{printable(name, 40)}={printable(str(value), 200)}" for name, value in named)
    return f"{moment}  {printable(event, 40):<18} {shown}".rstrip()


def _ending(identifier: str) -> str:
    """The end of an id tells ids apart; the log and `--json` have them whole."""
    return identifier if len(identifier) <= ID_SHOWN else f"…{identifier[-ID_SHOWN:]}"
