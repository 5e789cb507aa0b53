"""`status --all`: every workdir of this user, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from agent_mailer.amounts import counted, dollars, duration
from agent_mailer.cli.terminal.printing import local_time
from agent_mailer.cli.terminal.screen import Ink, paint, width, wrapped
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.names import printable
from agent_mailer.views.values.status import AllView, FaultView, OfferedView, Problem, StatusView

HEAD = ("AGENT", "STATE", "NOW", "WAITING", "DEAD", "TODAY", "WORKDIR")

EXPLAINED = 10
"""What is wrong is told of so many below the table."""

_SHORT = {
    Problem.CONFIG: "misconfigured",
    Problem.NO_WATCHER: "no watcher",
    Problem.WATCHER_HALTED: "halted",
    Problem.WATCHER_SILENT: "silent",
    Problem.TROUBLE: "trouble",
    Problem.MAILBOX: "no mailbox",
    Problem.UNTRUSTED: "not as trusted",
    Problem.PROGRAM: "no program",
    Problem.SIGNED_OUT: "signed out",
    Problem.OUTAGE: "outage",
    Problem.PAUSED: "paused",
    Problem.ANSWER_WAITS: "answer waits",
    Problem.UNTOLD: "tells nobody",
    Problem.DEAD_LETTERS: "dead letters",
    Problem.STUCK: "stuck",
    Problem.STATE_DAMAGED: "damaged",
    Problem.UNREADABLE: "unreadable",
}


def table(every: AllView) -> list[str]:
    """The lines of a table, and below it what is wrong where."""
    if not every.workdirs:
        return ["no workdirs yet: agent-mailer init"]
    room = width()
    lines = agents(every.workdirs)
    sick = [view for view in every.workdirs if not view.healthy]
    for view in sick[:EXPLAINED]:
        lines += ["", paint(printable(view.workdir, 4096), Ink.BOLD)]
        for problem in view.problems:
            text = f"{printable(problem.text, 300)}" + (f" ({printable(problem.fix, 4096)})" if problem.fix else "")
            lines += [f"  {line}" for line in wrapped(text, room and room - 2)]
    if len(sick) > EXPLAINED:
        lines += ["", f"and {len(sick) - EXPLAINED} more (agent-mailer status -C WORKDIR)"]
    lines += chain(*(["", *wrapped(one, room)] for one in resting(every.workdirs)))
    return [*lines, "", _sum(every, len(sick))]


def resting(views: Sequence[StatusView | FaultView]) -> list[str]:
    """What starts the teams again that a person has stopped: a line each."""
    again = dict.fromkeys(view.stopped for view in views if isinstance(view, StatusView) and view.stopped)
    return [f"stopped; to start it: {printable(one, 4096)}" for one in again]


def agents(views: Sequence[StatusView | FaultView], last: int | None = None) -> list[str]:
    """A line each under a head, of the columns of HEAD up to `last`."""
    rows = [cells_of(view)[:last] for view in views]
    return columns(rows, HEAD[:last], ids=("AGENT",), endings=("WORKDIR",)).split("\n")


def _sum(every: AllView, sick: int) -> str:
    count = len(every.workdirs)
    asking = sum(len(view.blocked) for view in every.workdirs if isinstance(view, StatusView))
    questions = "" if not asking else f"; {asking} {'question waits' if asking == 1 else 'questions wait'} for a person"
    if sick:
        return paint(f"{sick} of {count} not healthy{questions}", Ink.RED)
    rest = sum(isinstance(view, StatusView) and bool(view.stopped) for view in every.workdirs)
    told = [f"{count - rest} healthy"] if count > rest else []
    return paint(f"{', '.join([*told, *([f'{rest} stopped'] if rest else [])])}{questions}", Ink.GREEN)


def cells_of(view: StatusView | FaultView) -> tuple[str, ...]:
    """Of the columns of HEAD."""
    workdir = printable(view.workdir, 4096)
    if isinstance(view, FaultView):
        return (workdir.rpartition("/")[2], paint("unreadable", Ink.RED), "", "", "", "", workdir)
    return (
        printable(view.agent, 60),
        state_of(view),
        _now(view),
        _waiting(view),
        str(view.dead_letters) if view.dead_letters else "",
        dollars(view.today.cost_usd) or (counted(view.today.turns, "turn") if view.today.turns else ""),
        workdir,
    )


def state_of(view: StatusView) -> str:
    if view.problems:
        told = [*(["stopped"] if view.stopped else []), *(_SHORT[problem.code] for problem in view.problems)]
        if view.pause is not None and not {Problem.PAUSED, Problem.SIGNED_OUT, Problem.OUTAGE} & _codes(view):
            told.append("paused" if view.pause.until is None else f"waiting: {view.pause.reason.replace('_', ' ')}")
        return paint(", ".join(told), Ink.RED)
    if view.blocked:
        return paint("asks", Ink.YELLOW)
    if view.stopped:
        return paint("stopped", Ink.FAINT)
    if view.pause is not None:
        return paint(f"waiting: {view.pause.reason.replace('_', ' ')}", Ink.YELLOW)
    if view.running or view.settling:
        return "works" if view.running else "settles"
    return "offered" if view.offered else "waits for files" if view.in_the_way else "idle"


def _codes(view: StatusView) -> set[Problem]:
    return {problem.code for problem in view.problems}


def _now(view: StatusView) -> str:
    if not view.running:
        return taker_of(view)
    turn = view.running[0]
    more = f" +{len(view.running) - 1}" if len(view.running) > 1 else ""
    return f"{duration(turn.seconds)} {printable(turn.tool or turn.phase, 30)}{more}"


def taker_of(view: StatusView) -> str:
    """To which live sessions the mail is offered that waits longest, and until when."""
    if not view.offered:
        return ""
    first = min(view.offered, key=lambda offer: offer.until)
    more = f" +{len(view.offered) - 1}" if len(view.offered) > 1 else ""
    return f"to {printable(' '.join(first.to), 30)} {_clock(first)}{more}"


def _clock(offer: OfferedView) -> str:
    return f"since {local_time(offer.since)[11:]} until {local_time(offer.until)[11:]}"


def _waiting(view: StatusView) -> str:
    mailbox = view.mailbox
    if mailbox.waiting is None or mailbox.problem is not None:
        return "?"
    if not mailbox.waiting:
        return f"{len(view.retries)} to retry" if view.retries else ""
    oldest = f", {duration(mailbox.queue[0].seconds)}" if mailbox.queue else ""
    return f"{mailbox.waiting}{oldest}"
