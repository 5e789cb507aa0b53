"""`agent-mailer` alone: my agents, what needs me, the next step."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import get_terminal_size

from agent_mailer.amounts import duration
from agent_mailer.cli.status.many import state_of, taker_of
from agent_mailer.cli.terminal.printing import say
from agent_mailer.cli.terminal.screen import GAP, Ink, Part, Row, cells, fit, laid_out, pad, paint, width
from agent_mailer.names import printable, running_on
from agent_mailer.views.configured import doubtful
from agent_mailer.views.values.status import AllView, FaultView, Problem, StatusView

LEAST_LISTED, BESIDES = 8, 28
"""At least so many agents are listed, and no more than leave so many rows of the terminal for what needs somebody."""

NEEDS = 8
"""So much of what needs somebody is shown."""

WIDEST = 60
"""Columns of a command beside which, in a file, all remarks stand one under the other."""

WIDEST_STATE = 30
"""Columns of what an agent does up to which all folders stand one under the other; more moves its own alone."""

_WHOLE = {Problem.CONFIG, Problem.UNREADABLE}
"""What was meant stands at the end."""

_MERE = {Problem.NO_WATCHER}
"""Perhaps it is meant so: it is told after all that is wrong."""


def show() -> None:
    """Every agent of this user, and what to type next."""
    from agent_mailer.views.local import everywhere

    room = width()
    rows = max(LEAST_LISTED, get_terminal_size().lines - BESIDES) if room is not None else None
    say("\n".join(screen(everywhere(), _here(), room, rows)))


def screen(every: AllView, here: Path | None, room: int | None, most: int | None = None) -> list[str]:
    """The lines in `room` columns, of `most` agents; None = all. `here` is the current folder."""
    if not every.workdirs:
        return [
            "No agents yet.",
            "",
            *_next(
                [("agent-mailer demo", "see two at work"), ("agent-mailer init", "make this folder an agent's")], room
            ),
        ]
    shown = list(every.workdirs[:most])
    at = next((one for one in every.workdirs if _is_in(here, one.workdir)), None)
    if at is not None and at not in shown:
        shown[-1] = at
    says = [_says(one) for one in shown]
    column = max((cells(text) for text in says if cells(text) <= WIDEST_STATE), default=0)
    rows = [
        Row(_name(one), (Part(f"{pad(text, column)}{GAP}{_short(one.workdir)}", _ink(one), cut=True),))
        for one, text in zip(shown, says, strict=True)
    ]
    lines = [paint("Agents", Ink.BOLD), *(f"  {line}" for line in laid_out(rows, room and room - 2))]
    if len(every.workdirs) > len(shown):
        lines.append(f"  and {len(every.workdirs) - len(shown)} more: agent-mailer status --all")
    needs = list(_needs(every))
    if needs:
        lines += ["", paint("Needs you", Ink.BOLD)]
        lines += [f"  {line}" for line in laid_out(needs[:NEEDS], room and room - 2)]
        if len(needs) > NEEDS:
            lines.append(f"  and {len(needs) - NEEDS} more: agent-mailer status --all")
    return [*lines, "", *_next(_steps(every, at), room)]


def _name(one: StatusView | FaultView) -> str:
    workdir = printable(one.workdir, 4096)
    return printable(one.agent, 40) if isinstance(one, StatusView) else workdir.rpartition("/")[2]


def _says(one: StatusView | FaultView) -> str:
    if isinstance(one, FaultView):
        return "unreadable"
    waiting = one.mailbox.waiting or 0
    queue = f", {waiting} waiting" if waiting else ""
    doing = ""
    if one.running:
        turn = one.running[0]
        doing = f", {duration(turn.seconds)} {running_on(turn.tool or turn.doing, 60)}".rstrip()
    elif one.offered:
        doing = f" {taker_of(one)}"
    return f"{state_of(one)}{doing}{queue}"


def _ink(one: StatusView | FaultView) -> Ink | None:
    if isinstance(one, FaultView) or any(problem.code not in _MERE for problem in one.problems):
        return Ink.RED
    if one.problems or one.blocked or one.asked or one.pause is not None:
        return Ink.YELLOW
    return Ink.GREEN if one.running else None


def _needs(every: AllView) -> Iterator[Row]:
    """What is wrong, then what is asked, then who is not watched."""
    last: list[Row] = []
    questions: list[Row] = []
    for one in every.workdirs:
        there = _there(one.workdir)
        for problem in one.problems:
            fix = Part(printable(problem.fix.replace(f" -C {shlex.quote(one.workdir)}", there), 4096), Ink.BOLD)
            # Which folder it is stands in the fix.
            text = problem.text.replace(f"{one.workdir}/.agent-mailer/", "")
            whole = problem.code in _WHOLE
            row = Row(_name(one), (fix, Part(running_on(text, 400 if whole else 200), cut=not whole)))
            if problem.code in _MERE:
                last.append(row)
            else:
                yield row
        if isinstance(one, StatusView):
            questions += _beside_problems(one, there)
            for asked in one.blocked[:2]:
                reply = f"agent-mailer inbox{there}"
                questions.append(
                    Row(_name(one), (Part(reply, Ink.BOLD), Part(f"asks: {running_on(asked.question, 200)}", cut=True)))
                )
            if one.held:
                many = ", ".join(f"{count.count} {printable(count.guard, 40)}" for count in one.held)
                questions.append(
                    Row(_name(one), (Part(f"agent-mailer held list{there}", Ink.BOLD), Part(f"held: {many}")))
                )
            if one.asked:
                tools = ", ".join(dict.fromkeys(printable(ask.tool, 40) for ask in one.asked[:3]))
                questions.append(
                    Row(
                        _name(one),
                        (
                            Part(f"agent-mailer approvals list{there}", Ink.BOLD),
                            Part(f"asks for your yes: {tools}", cut=True),
                        ),
                    )
                )
    yield from questions
    yield from last


def _beside_problems(one: StatusView, there: str) -> Iterator[Row]:
    """What is no problem, and yet waits for a person: a pause of his own, a key that he meant otherwise."""
    told = {problem.code for problem in one.problems}
    if one.pause is not None and one.pause.until is None and not told & {Problem.PAUSED, Problem.SIGNED_OUT}:
        text = f"is paused: {printable(one.pause.reason.replace('_', ' '), 40)}"
        yield Row(_name(one), (Part(f"agent-mailer resume{there}", Ink.BOLD), Part(text)))
    if Problem.CONFIG not in told and (meant := doubtful(one.unknown)):
        text = f"nothing here knows {printable(', '.join(one.unknown), 100)}{meant}"
        yield Row(_name(one), (Part(f"agent-mailer config edit{there}", Ink.BOLD), Part(text, cut=True)))


def _steps(every: AllView, at: StatusView | FaultView | None) -> list[tuple[str, str]]:
    first = at if isinstance(at, StatusView) else next((o for o in every.workdirs if isinstance(o, StatusView)), None)
    steps = []
    if first is not None:
        there = "" if at is first else _there(first.workdir)
        if first.stopped:
            steps.append((first.stopped, "start its team"))
        elif not first.watcher.running:
            steps.append((f"agent-mailer watch{there}", f"let {printable(first.agent, 40)} work"))
        address = shlex.quote(first.mailbox.address)
        steps.append((f'agent-mailer send {address} "TEXT"{there}', "write to it"))
        steps.append((f"agent-mailer inbox{there}", "read what it answers"))
    return [*steps, ("agent-mailer help", "all commands")]


def _next(steps: list[tuple[str, str]], room: int | None) -> list[str]:
    if room is None:
        # A longer command moves no remark but its own.
        column = max(cells(command) for command, _ in steps if cells(command) <= WIDEST)
        return [paint("Next", Ink.BOLD), *(f"  {pad(command, column)}{GAP}{what}" for command, what in steps)]
    rows = [Row(command, (Part(what, Ink.FAINT, cut=True),)) for command, what in steps]
    if any(len(command) > room // 2 for command, _ in steps):
        return [paint("Next", Ink.BOLD), *(f"  {fit(command, room - 2)}" for command, _ in steps)]
    return [paint("Next", Ink.BOLD), *(f"  {line}" for line in laid_out(rows, room - 2))]


def _there(workdir: str) -> str:
    return f" -C {typed(workdir)}" if not _is_in(_here(), workdir) else ""


def typed(workdir: str) -> str:
    """The folder as a word of a command line, from the home on where it lies there."""
    short = _short(workdir)
    return f"~/{shlex.quote(short[2:])}" if short.startswith("~/") else shlex.quote(workdir)


def _short(workdir: str) -> str:
    with suppress(ValueError, RuntimeError):
        return f"~/{Path(workdir).relative_to(Path.home())}"
    return printable(workdir, 4096)


def _is_in(here: Path | None, workdir: str) -> bool:
    return here is not None and here.is_relative_to(workdir)


def _here() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None
