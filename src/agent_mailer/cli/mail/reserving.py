"""`mail reserve`, `release`, `reservations`: files of the project that one agent, or a person, has to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agent_mailer.cli.mail import steps
from agent_mailer.cli.mail.options import in_turn, not_in_turn
from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.printing import local_time, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import MailerError, RefusedFault, UnavailableFault, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from agent_mailer.reservations.port import Reservation, Reservations

T = TypeVar("T")

LONGEST = 7 * 86400

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Paths that count from the project's folder, as 'src/**'.")
]
Whose = Annotated[
    str | None, typer.Option("--as", metavar="ADDRESS", help="For whom. Default: the person here.", show_default=False)
]

_LIST: steps.Step = (["reservations"], "who holds what")


def reserve(
    paths: Paths,
    seconds: Annotated[
        int, typer.Option("--seconds", metavar="N", min=1, max=LONGEST, help="For so long; not during a turn.")
    ] = 3600,
    whose: Whose = None,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Have files of the project to yourself: during a turn until it ends, else for a while."""
    turn = in_turn()
    if turn is not None:
        if whose is not None:
            raise UsageFault("in_turn", "during a turn the agent reserves for itself", "leave out --as")
        found = turn.reserve(paths)
    else:
        found = reserve_for(workdir, whose, paths, float(seconds))
    if as_json:
        steps.told({"reserved": list(found)}, (["release", *found], "give it back"), _LIST)
    else:
        say("\n".join(f"reserved {printable(one)}" for one in found))


def reserve_for(workdir: Path | None, whose: str | None, paths: Sequence[str], seconds: float) -> tuple[str, ...]:
    """The patterns that a person has now. Raises MailerError where somebody else has one of them; UsageFault."""
    from agent_mailer.reservations.patterns import checked
    from agent_mailer.watch.reserving import as_words

    kept, project = _kept(workdir, whose)
    found = checked(paths, project)
    if way := _run(kept.take("", found, seconds)):
        raise MailerError("reserved", as_words(way), "agent-mailer mail reservations")
    return found


def release(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="As they were reserved; default: all.", show_default=False),
    ] = None,
    whose: Whose = None,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Give back what you have reserved; a turn's own goes with its end."""
    not_in_turn("mail release")
    kept, project = _kept(workdir, whose)
    from agent_mailer.reservations.patterns import checked

    count = _run(kept.release("", checked(paths, project) if paths else ()))
    if as_json:
        steps.told({"released": count}, _LIST)
    elif count:
        say(f"released {count}")
    else:
        note("nothing of that was reserved")


def reservations(workdir: Workdir = None, as_json: Json = False) -> None:
    """List which files of the project are reserved, by whom, and until when."""
    not_in_turn("mail reservations")
    from agent_mailer.clock import iso

    kept, project = _kept(workdir, None)
    found = sorted(_run(kept.held()), key=lambda one: (one.pattern, one.until))
    if as_json:
        rows = [
            {"path": one.pattern, "by": one.owner.address, "turn": one.owner.turn, "until": iso(one.until)}
            for one in found
        ]
        steps.told({"project": project, "reservations": rows}, (["reserve", "PATH"], "have a path to yourself"))
    elif found:
        say(_table(found))
    else:
        note(f"nothing is reserved in {printable(project)}")


def _table(found: list[Reservation]) -> str:
    rows = [
        (printable(one.pattern, 80), printable(one.owner.address, 40), local_time(one.until), one.owner.turn)
        for one in found
    ]
    return columns(rows, ("path", "by", "until", "turn"), whole=("until",))


def _kept(workdir: Path | None, whose: str | None) -> tuple[Reservations, str]:
    from agent_mailer.at_server import person_of, real_project_of, reservations_of

    place = workplace(workdir)
    return reservations_of(place, whose or person_of(place)), real_project_of(place)


def _run(work: Coroutine[object, object, T]) -> T:
    import asyncio

    from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable

    try:
        return asyncio.run(work)
    except MailboxRefused as fault:
        raise RefusedFault(fault.code, fault.message, fault.fix) from None
    except MailboxUnavailable as fault:
        raise UnavailableFault(fault.code, fault.message, fault.fix) from None
