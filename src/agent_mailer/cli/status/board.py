"""The board in lines, for a terminal of any width; and what is new on it, for where nothing can be drawn over."""

from __future__ import annotations

import time
from itertools import chain

from agent_mailer.cli.status.many import agents
from agent_mailer.cli.terminal.printing import counted, dollars
from agent_mailer.cli.terminal.screen import Ink, paint, width, wrapped
from agent_mailer.clock import from_iso
from agent_mailer.names import printable
from agent_mailer.views.values.needs import BoardView, MovedView, NeedKind, NeedView
from agent_mailer.views.values.status import StatusView

EVERY = 1.0
"""Seconds between two looks."""

WIDE = 140
"""From so many columns on there is room for where each agent's folder is."""

NEEDS_SHOWN = 8
MAIL_SHOWN = 12


def head(board: BoardView) -> str:
    """The whole on one line."""
    working = sum(1 for view in board.workdirs if isinstance(view, StatusView) and view.running)
    parts = [counted(len(board.workdirs), "agent"), f"{working} at work"]
    if board.turns:
        parts.append(f"{counted(board.turns, 'turn')} today")
    parts += [dollars(board.cost_usd)] if board.cost_usd else []
    calm = paint(", ".join(parts), Ink.BOLD)
    if not board.needs:
        return f"{calm}, nothing needs you"
    asks = "1 needs you" if len(board.needs) == 1 else f"{len(board.needs)} need you"
    return f"{calm}, {paint(asks, Ink.RED)}"


def lines(board: BoardView) -> list[str]:
    """All of it; of the mail the newest."""
    room = width()
    if not board.workdirs:
        return ["no workdirs yet: agent-mailer init"]
    shown = [*wrapped(head(board), room), "", *agents(board.workdirs, folders=room is None or room >= WIDE)]
    if board.needs:
        shown += ["", paint("NEEDS YOU", Ink.BOLD)]
        for need in board.needs[:NEEDS_SHOWN]:
            text = need_text(need)
            shown += wrapped(text, room)
        if len(board.needs) > NEEDS_SHOWN:
            shown.append(f"and {len(board.needs) - NEEDS_SHOWN} more (agent-mailer status --all)")
    if moved := board.mail[-MAIL_SHOWN:]:
        shown += ["", paint("MAIL", Ink.BOLD), *chain(*(wrapped(moved_text(one), room) for one in moved))]
    return shown


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
