"""One line per event: JSON for machines, a short sentence for a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from agent_mailer.cli.terminal.screen import plain
from agent_mailer.clock import from_iso
from agent_mailer.events import EventName, Listener, LogRecord
from agent_mailer.names import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_GOOD = {EventName.MESSAGE_DONE, EventName.ITEM_DELIVERED, EventName.RESUMED, EventName.MAILBOX_BACK}
_BAD = {
    EventName.DEAD_LETTER,
    EventName.ITEM_REFUSED,
    EventName.STATE_DAMAGED,
    EventName.STATE_TROUBLE,
    EventName.MAILBOX_TROUBLE,
    EventName.MAILBOX_REFUSED,
    EventName.MESSAGE_UNREADABLE,
    EventName.PAUSED,
    EventName.SURVIVORS,
    EventName.GIT_TROUBLE,
    EventName.MACHINE_SHORT,
    EventName.NOTICE_GIVEN_UP,
    EventName.CONFIG_REFUSED,
    EventName.UNTRUSTED,
    EventName.SCHEDULE_REFUSED,
    EventName.WATCH_FAULT,
    EventName.WATCH_GONE,
}


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
    shown = sorted(record.fields.items(), key=lambda field: field[0] in _IDS)
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


def terminal_printer() -> Listener:
    """Prints sentences with colour where the terminal has it, and below them a live line for each running turn."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    running = RunningTurns(console)

    def show(record: LogRecord) -> None:
        running.note(record)
        if record.event is EventName.TURN_PROGRESS and running.live:
            return
        style = "green" if record.event in _GOOD else "red" if record.event in _BAD else ""
        console.print(Text(plain(as_sentence(record)), style=style), no_wrap=True, overflow="ellipsis", crop=True)

    return show


class RunningTurns:
    """The turns that run now, a line each, redrawn every second while there are any; nothing is drawn otherwise."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._turns: dict[str, tuple[str, float, str]] = {}
        self._live: Live | None = None

    @property
    def live(self) -> bool:
        return self._live is not None

    def note(self, record: LogRecord) -> None:
        turn_id = str(record.fields.get("turn_id", ""))
        match record.event:
            case EventName.TURN_STARTED | EventName.TURN_ADOPTED:
                self._turns[turn_id] = (str(record.fields.get("thread", "")), time.monotonic(), "")
            case EventName.TURN_PROGRESS if turn_id in self._turns:
                thread, since, _ = self._turns[turn_id]
                self._turns[turn_id] = (thread, since, str(record.fields.get("text", "")))
            case EventName.TURN_ENDED:
                self._turns.pop(turn_id, None)
            case EventName.WATCH_STOPPED | EventName.WATCH_HANDED_OVER | EventName.WATCH_FAULT:
                self._turns.clear()
            case _:
                return
        self._redraw()

    def __rich__(self) -> Text:
        from rich.text import Text

        rows = [
            f"  {time.monotonic() - since:5.0f} s  {thread}  {doing}" for thread, since, doing in self._turns.values()
        ]
        return Text("\n".join(rows), style="cyan", no_wrap=True, overflow="ellipsis")

    def _redraw(self) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        if not self._turns:
            if self._live is not None:
                self._live.stop()
                self._live = None
        elif self._live is None:
            from rich.live import Live

            self._live = Live(self, console=self._console, refresh_per_second=1, transient=True)
            self._live.start()
        else:
            self._live.refresh()
