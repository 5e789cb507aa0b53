"""One line per event: JSON for machines, a short sentence for a terminal."""

from __future__ import annotations

import sys
from datetime import datetime

from agent_mailer.clock import from_iso
from agent_mailer.events import EventName, Listener, LogRecord

_GOOD = {EventName.MESSAGE_DONE, EventName.ITEM_DELIVERED, EventName.RESUMED, EventName.MAILBOX_BACK}
_BAD = {
    EventName.DEAD_LETTER,
    EventName.ITEM_REFUSED,
    EventName.STATE_DAMAGED,
    EventName.STATE_TROUBLE,
    EventName.MAILBOX_TROUBLE,
    EventName.MESSAGE_UNREADABLE,
    EventName.PAUSED,
    EventName.SURVIVORS,
    EventName.WATCH_FAULT,
}


_IDS = ("message_id", "turn_id")
ID_SHOWN = 8


def as_json_line(record: LogRecord) -> None:
    """The record as the log file has it, on stdout."""
    try:
        sys.stdout.buffer.write(record.line() + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        # Whoever read us is gone; the watcher works on, its log file has everything.
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process


def as_sentence(record: LogRecord) -> str:
    """`08:15:02  turn started  thread=… runtime=…`; values are printable already, ids cut to their ends."""
    moment = datetime.fromtimestamp(from_iso(record.ts)).astimezone().strftime("%H:%M:%S")
    name = record.event.value.replace("_", " ")
    shown = sorted(record.fields.items(), key=lambda field: field[0] in _IDS)
    fields = "  ".join(f"{key}={_ending(str(value)) if key in _IDS else value}" for key, value in shown)
    return f"{moment}  {name:<18} {fields}".rstrip()


def _ending(identifier: str) -> str:
    """The end of an id tells ids apart; the log and `--json` have them whole."""
    return identifier if len(identifier) <= ID_SHOWN else f"…{identifier[-ID_SHOWN:]}"


def terminal_printer() -> Listener:
    """Prints sentences with colour where the terminal has it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)

    def show(record: LogRecord) -> None:
        style = "green" if record.event in _GOOD else "red" if record.event in _BAD else ""
        console.print(Text(as_sentence(record), style=style), no_wrap=True, overflow="ellipsis", crop=True)

    return show
