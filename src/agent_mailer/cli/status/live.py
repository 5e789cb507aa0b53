"""`status --watch`: the screen, drawn again every second. Ctrl-C ends it, and leaves the terminal as it was."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent_mailer.cli.status.board import EVERY, gist, is_low, lines, moved_text, need_text
from agent_mailer.cli.status.one import screen, stamp
from agent_mailer.cli.terminal.printing import json_text, say
from agent_mailer.cli.terminal.screen import Ink, cells, is_dumb, paint, plain, width, wrapped
from agent_mailer.errors import MailerError
from agent_mailer.installed import command_for
from agent_mailer.views.board import Board
from agent_mailer.views.local import look, look_at_mailbox, look_without_asking, place_at
from agent_mailer.views.pulse import Pulses
from agent_mailer.views.values import status as view

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from agent_mailer.assemble import Workplace

BROKER_EVERY = 15.0

Draw = Callable[[int | None], tuple[object, list[str]]]
"""The screen's lines in so many rows (None = without end), and what must differ for them to be worth printing again
where nothing can be drawn over.
"""


def watch_one(workdir: Path) -> None:
    broker, pulses = _Broker(), Pulses()

    def draw(_rows: int | None) -> tuple[object, list[str]]:
        try:
            found = look(place_at(workdir), broker.look, pulses.listen)
        except MailerError as fault:
            return fault.message, [paint(f"error: {fault.message}", Ink.RED), f"  fix: {fault.fix}"]
        return _gist(found), screen(found, time.time(), width())

    _show(draw)


def watch_all(workdirs: Sequence[Path] | None = None, *, as_json: bool = False) -> None:
    """The board of these; None = of every workdir of this user. With keys where the extra `tui` is there; lines of what
    is new where there is no terminal, or with `as_json` the whole as a line whenever it has changed.
    """
    board = Board(workdirs)
    if as_json:
        _until_left(lambda: _json_lines(board))
    elif not sys.stdout.isatty() or is_dumb():
        _until_left(lambda: _news(board))
    elif find_spec("textual") is not None:
        from agent_mailer.cli.status.keys import show

        show(board)
    else:
        _show(lambda rows: (None, lines(board.look(), rows)), f"with keys: {command_for('tui')}")


def _until_left(tell: Callable[[], NoReturn]) -> None:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    with suppress(KeyboardInterrupt):
        tell()


def _json_lines(board: Board) -> NoReturn:
    before: object = None
    while True:
        found = board.look()
        if (now := gist(found)) != before:
            say(json_text(found))
            sys.stdout.flush()
            before = now
        time.sleep(EVERY)


def _news(board: Board) -> NoReturn:
    """The board, and then a line for each mail and for each thing that comes to need a person."""
    found = board.look()
    say("\n".join([*lines(found), ""]))
    mail, needs = {one.message_id for one in found.mail}, set(found.needs)
    while True:
        sys.stdout.flush()
        time.sleep(EVERY)
        found = board.look()
        for one in found.mail:
            if one.message_id not in mail:
                say(moved_text(one))
        for need in found.needs:
            if need not in needs:
                say(f"NEEDS YOU  {need_text(need)}")
        mail, needs = {one.message_id for one in found.mail}, set(found.needs)


class _Broker:
    """What a broker answered last; it is asked beside the screen, which waits for nobody."""

    def __init__(self) -> None:
        self._known: view.MailboxView | None = None
        self._next = 0.0
        self._asking: threading.Thread | None = None

    def look(self, place: Workplace, ours: set[str]) -> view.MailboxView:
        at_once = look_without_asking(place, ours)
        if at_once.waiting is not None:
            return at_once
        if time.monotonic() >= self._next and (self._asking is None or not self._asking.is_alive()):
            self._next = time.monotonic() + BROKER_EVERY
            self._asking = threading.Thread(target=self._ask, args=(place, ours), daemon=True)
            self._asking.start()
        return self._known or at_once

    def _ask(self, place: Workplace, ours: set[str]) -> None:
        with suppress(OSError):
            self._known = look_at_mailbox(place, ours)


def _show(draw: Draw, more: str = "") -> None:
    _until_left(lambda: _print_changes(draw) if is_dumb() else _redraw(draw, more))


def _leave(number: int, _frame: object) -> None:
    """By an exception, so that the terminal gets back what it showed before."""
    raise SystemExit(128 + number)


def _print_changes(draw: Draw) -> NoReturn:
    """For a terminal that can only be written to: the whole again, when more than a time has changed."""
    before: object = None
    while True:
        gist, lines = draw(None)
        if gist != before:
            say("\n".join([*lines, *_foot("", width()), ""]))
            before = gist
        time.sleep(EVERY)


def _redraw(draw: Draw, more: str) -> NoReturn:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            room = _Page([], more).room(console.size.width, console.size.height)
            live.update(_Page(draw(room)[1], more), refresh=True)
            time.sleep(EVERY)


class _Page:
    """Lines cut to the height of the terminal; the last rows tell how to leave."""

    def __init__(self, lines: Sequence[str], more: str) -> None:
        self._lines, self._more = lines, more

    def room(self, columns: int, rows: int) -> int:
        """Rows for the lines."""
        return max(1, rows - len(self._foot(columns, rows)) - (0 if is_low(rows) else 1))

    def _foot(self, columns: int, rows: int) -> list[str]:
        """What there is to know more of has no room in a low terminal."""
        return _foot("" if is_low(rows) else self._more, columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        foot = self._foot(options.size.width, options.size.height)
        room = self.room(options.size.width, options.size.height)
        shown = list(self._lines[:room])
        if len(self._lines) > room:
            shown[-1] = f"{len(self._lines) - room + 1} more lines: make the window higher"
        gap = [] if is_low(options.size.height) else [""]
        for line in (*shown, *gap, *foot):
            yield Text.from_ansi(plain(line), no_wrap=True, overflow="crop", end="\n")


def _foot(more: str, room: int | None) -> list[str]:
    """How to leave, and what `more` there is to know: on a line of its own where the two do not fit on one."""
    leave = f"{stamp(time.time())}  Ctrl-C ends this"
    both = f"{leave}; {more}" if more else leave
    texts = (both,) if room is None or cells(both) <= room else (leave, more)
    return [paint(line, Ink.FAINT) for text in texts for line in wrapped(text, room)]


def _gist(found: view.StatusView) -> object:
    """What a change is worth telling of: not the seconds that pass."""
    return (
        found.watcher.pid,
        found.problems,
        found.mailbox.waiting,
        tuple((turn.turn_id, turn.phase, turn.tool) for turn in found.running),
        tuple((turn.turn_id, turn.why) for turn in found.settling),
        tuple((entry.message_id, entry.attempts) for entry in found.retries),
        tuple(one.turn_id for one in found.blocked),
        found.pause,
        tuple(result.turn_id for result in found.results),
    )
