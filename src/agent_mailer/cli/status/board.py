"""The board in lines, for a terminal of any width; and what is new on it, for where nothing can be drawn over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agent_mailer.amounts import counted, dollars
from agent_mailer.cli.status.many import HEAD, agents, resting
from agent_mailer.cli.terminal.screen import Ink, cells, fit, paint, width, wrapped
from agent_mailer.clock import from_iso
from agent_mailer.names import printable
from agent_mailer.views.values.needs import BoardView, MovedView, NeedKind, NeedView
from agent_mailer.views.values.status import StatusView

EVERY = 1.0
"""Seconds between two looks."""

WIDE = 140
"""From so many columns on there is room for where each agent's folder is."""

NARROW = 60
"""In fewer there is room for who does what, and no more."""

NEEDS_SHOWN = 8
"""Where there is no end of rows."""

MAIL_SHOWN = 12
LOW = 16
"""In fewer rows each of them is needed."""


def head(board: BoardView, room: int | None = None) -> str:
    """The whole on one line; where that has not `room` enough, what needs a person first."""
    working = sum(1 for view in board.workdirs if isinstance(view, StatusView) and view.running)
    parts = [counted(len(board.workdirs), "agent"), f"{working} at work"]
    if board.turns:
        parts.append(f"{counted(board.turns, 'turn')} today")
    parts += [dollars(board.cost_usd)] if board.cost_usd else []
    calm = paint(", ".join(parts), Ink.BOLD)
    if not board.needs:
        asks = "nothing needs you"
    else:
        asks = paint("1 needs you" if len(board.needs) == 1 else f"{len(board.needs)} need you", Ink.RED)
    text = f"{calm}, {asks}"
    return text if room is None or cells(text) <= room else fit(f"{asks}, {calm}", room)


def lines(board: BoardView, rows: int | None = None) -> list[str]:
    """All of it, of the mail the newest; in so many `rows` something of each part, and how much more there is."""
    room = width()
    if not board.workdirs:
        return ["no workdirs yet: agent-mailer init"]
    low = is_low(rows)
    gap = [] if low else [""]
    top = [head(board, room)] if low else list(wrapped(head(board), room))
    top += [line for one in resting(board.workdirs) for line in wrapped(one, room) if not (low and board.needs)]
    table = agents(board.workdirs, last_column(room))[1 if low else 0 :]
    needs = needing(board, room, low=low)
    mail = [line for one in board.mail[-MAIL_SHOWN:] for line in _broken(moved_text(one), room, low=low)]
    title = [] if low else [paint("MAIL", Ink.BOLD)]
    wanted = [len(table), sum(map(len, needs)), len(mail) and len(title) + len(mail)]
    if rows is None:
        most = [wanted[0], len(whole(needs, None)), wanted[2]]
    else:
        most = shares(rows - len(top) - len(gap) * sum(map(bool, wanted)), wanted)
    parts = [
        cut(table, most[0]),
        whole(needs, most[1]),
        [*title, *mail[len(title) - most[2] :]] if most[2] > len(title) else [],
    ]
    return [*top, *(line for part in parts if part for line in (*gap, *part))]


def last_column(room: int | None) -> int | None:
    """Up to which of the columns of HEAD there is room for."""
    return None if room is None or room >= WIDE else -1 if room >= NARROW else HEAD.index("WAITING")


def _broken(text: str, room: int | None, *, low: bool) -> list[str]:
    """Over several lines, or cut to one where it is `low`."""
    return [fit(text, room)] if low and room is not None else list(wrapped(text, room))


def is_low(rows: int | None) -> bool:
    """Whether there is no room for heads and empty lines."""
    return rows is not None and rows < LOW


def shares(rows: int, wanted: Sequence[int]) -> list[int]:
    """So many `rows` among parts of a screen: who wants little has it, the others share alike."""
    given, left = [0] * len(wanted), max(0, rows)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for number, index in enumerate(order):
        given[index] = min(wanted[index], left // (len(order) - number))
        left -= given[index]
    return given


def needing(
    board: BoardView, room: int | None, *, low: bool, text_of: Callable[[NeedView], str] | None = None
) -> list[list[str]]:
    """What needs a person: first a head, which has no lines where it is `low`, then each with those that it takes."""
    if not board.needs:
        return []
    told = [_broken((text_of or need_text)(need), room, low=low) for need in board.needs]
    return [[] if low else [paint("NEEDS YOU", Ink.BOLD)], *told]


def whole(needs: Sequence[Sequence[str]], most: int | None) -> list[str]:
    """Of what needs a person, under its head, so much as fits into `most` lines, and how much more there is.

    Each is whole, but the first where it is longer than its room.
    """
    if not needs or most == 0:
        return []
    if most is None:
        most = sum(map(len, needs[: NEEDS_SHOWN + 1])) + (len(needs) - 1 > NEEDS_SHOWN)
    (*shown,), *each = needs
    told = 0
    while told < len(each) and len(shown) + len(each[told]) + (told + 1 < len(each)) <= most:
        shown += each[told]
        told += 1
    if not told and most - len(shown) > 1:
        shown += each[0][: most - len(shown) - (len(each) > 1)]
        told = 1
    if not (left := len(each) - told):
        return shown
    return [*shown[: most - 1], f"and {left} more (agent-mailer status --all)"]


def cut(table: Sequence[str], most: int) -> list[str]:
    """Its first lines, and how many more there are."""
    if len(table) <= most:
        return list(table)
    return [*table[: most - 1], f"and {len(table) - most + 1} more"] if most > 0 else []


def need_text(need: NeedView) -> str:
    mend = f" ({printable(need.command, 4096)})" if need.command else ""
    name = need.address.partition("@")[0] or need.address
    return f"{printable(name, 60)}: {printable(need_words(need), 300)}{mend}"


def need_words(need: NeedView) -> str:
    """What it says behind the agent's name."""
    match need.kind:
        case NeedKind.APPROVAL:
            return f"asks whether it may: {need.tool}"
        case NeedKind.QUESTION:
            return f"asks {need.asked}: {need.why}"
        case NeedKind.PAUSED:
            return f"is paused: {need.why.replace('_', ' ')}"
    return need.why


def moved_text(one: MovedView) -> str:
    thread = f"  {printable(one.thread, 60)}" if one.thread else ""
    return f"{_clock(one.at)}  {printable(one.sender, 60)} → {printable(one.to, 60)}{thread}"


def _clock(at: str) -> str:
    """The time of the day here; what is none as it is."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(from_iso(at)))
    except ValueError:
        return printable(at, 24)


def gist(board: BoardView) -> object:
    """What a change is worth telling of: not the seconds that pass."""
    states = tuple(
        (view.workdir, view.watcher.pid, tuple((turn.turn_id, turn.tool) for turn in view.running), view.pause)
        if isinstance(view, StatusView)
        else (view.workdir,)
        for view in board.workdirs
    )
    return states, board.needs, board.mail[-1:] and board.mail[-1].message_id, board.turns
