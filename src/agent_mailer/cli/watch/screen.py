"""What `watch` shows on a terminal: a line a mail, and below them a live line for each turn that runs."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.amounts import duration
from agent_mailer.cli.terminal.screen import NARROWEST, Ink, cells, fit, is_dumb, pad, paint, plain, width, wrapped
from agent_mailer.clock import from_iso
from agent_mailer.events import EventName, LogRecord
from agent_mailer.names import printable
from agent_mailer.views.happenings import Happening, Running, Story, Tone

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_mailer.assemble import Workplace

CLOCK = len("15:31:44  ")
HEAD = 22
"""What most heads need; a longer one pushes its line to the right."""

LEAST_BESIDE = 24
"""With less room beside a head what mends it begins on the next line."""

EVERY = 1.0
MOST_LIVE = 8
"""Turns that have a live line; the rest is counted."""

_INKS = {Tone.BAD: Ink.RED, Tone.ODD: Ink.YELLOW, Tone.GOOD: Ink.GREEN, Tone.ASIDE: Ink.FAINT}


class Screen:
    """A listener of the event log. Nothing is drawn, and nothing wakes, while no turn runs."""

    def __init__(self, header: Callable[[int | None], list[str]], login: str) -> None:
        """`header` has the first lines, for so many columns."""
        self._header = header
        self._story = Story(login)
        self._day = ""
        self._drawn: list[str] = []
        self._tick: asyncio.TimerHandle | None = None

    def show(self, record: LogRecord) -> None:
        lines = []
        if record.event is EventName.WATCH_STARTED:
            self._day = _day_of(record.ts)
            lines = self._header(width())
        elif (happening := self._story.tell(record, time.monotonic())) is not None:
            day = _day_of(happening.ts)
            if self._day and day != self._day:
                lines.append(paint(day, Ink.BOLD))
            self._day = day
            lines += lines_of(happening, width())
        self._draw(lines)

    def _draw(self, lines: list[str]) -> None:
        """Print `lines` for good, and the live ones again below them, in one write."""
        room = width()
        if room is None or is_dumb():
            if lines:
                _put("".join(f"{line}\n" for line in lines))
            return
        live = self._live(room)
        if lines or live != self._drawn:
            _put("".join([_erased(self._drawn, room), *(f"{line}\n" for line in lines), "\n".join(live)]))
            self._drawn = live
        if live and self._tick is None:
            with suppress(RuntimeError):  # no loop, as at the end: nobody would see it
                self._tick = asyncio.get_running_loop().call_later(EVERY, self._again)

    def _again(self) -> None:
        self._tick = None
        self._draw([])

    def _live(self, room: int) -> list[str]:
        turns, now = list(self._story.running.values()), time.monotonic()
        lines = [paint(fit(live_line(turn, now - turn.since), room - 1), Ink.CYAN) for turn in turns[:MOST_LIVE]]
        more = len(turns) - MOST_LIVE
        return [*lines, paint(f"  and {more} more", Ink.CYAN)] if more > 0 else lines


def live_line(turn: Running, seconds: float) -> str:
    """`8 s` since it began, whose mail, what it does."""
    tools = f"{turn.count} tools" if turn.count > 1 else ""
    head = "  ".join(filter(None, (pad(duration(seconds), 8), turn.sender, tools)))
    return f"{head}  {turn.doing or turn.subject}".rstrip()


def header(place: Workplace, room: int | None) -> list[str]:
    """Who watches where, with what, and how it ends."""
    config = place.config
    workdir = str(place.workdir)
    with suppress(ValueError, RuntimeError):
        workdir = f"~/{place.workdir.relative_to(Path.home())}"
    runtime = config.runtime.value if config.runtime is not None else "no program"
    mode = config.permission_mode.value if config.permission_mode is not None else "no mode"
    sandbox = f"sandbox {config.sandbox.kind.value}" if config.sandbox.kind.value != "off" else "no sandbox"
    name = printable(place.handle, 100)
    left, right = f"{name} watches {printable(workdir, 4096)}", f"{runtime} · {mode} · {sandbox} · Ctrl-C stops"
    if room is None or cells(left) + cells(right) + 3 <= room:
        return [f"{paint(left, Ink.BOLD)}   {paint(right, Ink.FAINT)}"]
    return [
        *(paint(line, Ink.BOLD) for line in wrapped(left, room)),
        *(paint(f"  {line}", Ink.FAINT) for line in wrapped(right, room - 2)),
    ]


def lines_of(happening: Happening, room: int | None) -> list[str]:
    """The lines of at most `room` columns: what it is and what mends it are never cut, what explains it may be."""
    moment = datetime.fromtimestamp(from_iso(happening.ts)).astimezone().strftime("%H:%M:%S  ")
    ink = _INKS.get(happening.tone)
    start = CLOCK + max(HEAD, cells(happening.head) + 2)
    if room is None or not (happening.mend or happening.text):
        rest = "   ".join(filter(None, (happening.mend, happening.text)))
        return [f"{moment}{_inked(pad(happening.head, start - CLOCK), ink)}{rest}".rstrip()]
    beside = room - start
    if not happening.mend and beside >= LEAST_BESIDE:
        head = _inked(pad(happening.head, start - CLOCK), ink)
        return [f"{moment}{head}{_dim(fit(happening.text, beside), happening.tone)}"]
    indent = start if beside >= max(LEAST_BESIDE, min(cells(happening.mend), room // 2)) else 2
    texts = [paint(line, Ink.BOLD) for line in wrapped(happening.mend, room - indent)] if happening.mend else []
    if happening.text:
        # What fits beside what mends it needs no line of its own.
        whole = f"{happening.mend}   {happening.text}"
        if texts and indent + cells(whole) <= room:
            texts = [f"{paint(happening.mend, Ink.BOLD)}   {happening.text}"]
        else:
            texts.append(_dim(fit(happening.text, room - indent), happening.tone))
    if indent == start:
        first, *more = texts
        return [
            f"{moment}{_inked(pad(happening.head, start - CLOCK), ink)}{first}",
            *(" " * indent + one for one in more),
        ]
    heads = list(wrapped(happening.head, room - CLOCK))
    return [
        f"{moment}{_inked(heads[0], ink)}",
        *(" " * CLOCK + _inked(one, ink) for one in heads[1:]),
        *(" " * indent + one for one in texts),
    ]


def _inked(text: str, ink: Ink | None) -> str:
    return paint(text, ink) if ink is not None else text


def _dim(text: str, tone: Tone) -> str:
    return paint(text, Ink.FAINT) if tone is Tone.ASIDE else text


def _erased(drawn: list[str], room: int) -> str:
    """What takes `drawn` off the screen again; a terminal that was made narrower since has broken its lines."""
    if not drawn:
        return ""
    rows = sum(max(1, -(-cells(line) // max(room, NARROWEST))) for line in drawn)
    return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\x1b[J"


def _day_of(ts: str) -> str:
    return datetime.fromtimestamp(from_iso(ts)).astimezone().strftime("%Y-%m-%d")


def _put(text: str) -> None:
    sys.stdout.write(plain(text))
    sys.stdout.flush()
