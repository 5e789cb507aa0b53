"""What the shell offers after TAB, out of a workdir's state: turns, threads, dead letters. Never an error, never slow.

The workdir is the current one, or what `-C` on the line being completed says. What an option or argument offers stands
beside it, or in `offers.py` where the same name is in many commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

MOST = 50
"""The newest; nobody looks through more, and a turn's record has to be read for each thread."""


def any_of(*values: str) -> Callable[[str], list[str]]:
    """For an option that takes one of these."""

    def offer(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return offer


OUTCOMES = ("failed", "timed_out", "crashed", "session_lost", "limited", "signed_out", "unavailable", "interrupted")


REASONS = ("given-up", "not-sent", "unreadable", "too-large", "used-id", "not-fetched", "no-way-back")


GUARDS = ("who", "hops", "pair", "ring", "thread", "fan-out", "day", "budget")


def some_key(incomplete: str) -> list[str]:
    from agent_mailer.config import keys, leaves

    return [name for name in dict.fromkeys([*keys(), *(leaf.name for leaf in leaves())]) if name.startswith(incomplete)]


def some_address(ctx: typer.Context, incomplete: str) -> list[str]:
    """To whom one can write from here; of the words of `send` the first one alone."""
    if ctx.params.get("words"):
        return []

    def addresses(place: Workplace) -> Iterable[str]:
        from agent_mailer.people import person_at

        return (contact.address for contact in person_at(place, None, lambda _: None).contacts())

    return _offer(ctx, incomplete, addresses)


def some_turn(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda place: reversed(place.state.turns.ids()))


def some_thread(ctx: typer.Context, incomplete: str) -> list[str]:
    """Threads of the newest turns, and those that have a session."""

    def threads(place: Workplace) -> Iterable[str]:
        records = (place.state.turns.load(turn_id) for turn_id in reversed(place.state.turns.ids()[-MOST:]))
        yield from (record.envelope.thread for record in records if record is not None)
        yield from (thread for thread, entry in place.state.sessions.all() if entry.session_id)

    return _offer(ctx, incomplete, threads)


def some_session(ctx: typer.Context, incomplete: str) -> list[str]:
    def threads(place: Workplace) -> Iterable[str]:
        return (thread for thread, entry in place.state.sessions.all() if entry.session_id)

    return _offer(ctx, incomplete, threads)


def some_dead_letter(ctx: typer.Context, incomplete: str) -> list[str]:
    def letters(place: Workplace) -> Iterable[str]:
        return (letter.msg_id for letter in reversed(place.state.dead_letters.all()))

    return _offer(ctx, incomplete, letters)


def some_stuck(ctx: typer.Context, incomplete: str) -> list[str]:
    def keys(place: Workplace) -> Iterable[str]:
        from agent_mailer.views.kept import stuck_targets

        return reversed(stuck_targets(place.state))

    return _offer(ctx, incomplete, keys)


def some_held(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda place: reversed(list(place.state.held.waiting)))


def some_held_sender(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(
        ctx, incomplete, lambda place: (one.envelope.sender for one in place.state.held.all() if one.envelope)
    )


def some_mail(ctx: typer.Context, incomplete: str) -> list[str]:
    """What lies in a person's folder, the newest first; at a broker nobody is asked."""

    def ids(place: Workplace) -> Iterable[str]:
        return _newest(place, ctx.params.get("whose"))

    return _offer(ctx, incomplete, ids)


def some_mail_of_the_agent(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda place: _newest(place, place.handle))


def some_sent(ctx: typer.Context, incomplete: str) -> list[str]:
    def ids(place: Workplace) -> Iterable[str]:
        from agent_mailer.people import person_at

        if not place.in_folder:
            return ()
        person = person_at(place, ctx.params.get("whose"), lambda _: None)
        return (message.envelope.id for message in reversed(person.sent(MOST)))

    return _offer(ctx, incomplete, ids)


def some_change(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the agent's notes."""

    def ids(place: Workplace) -> Iterable[str]:
        from agent_mailer.views.kept import note_changes

        return (change.id for change in reversed(note_changes(place)))

    return _offer(ctx, incomplete, ids)


def some_approval(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda place: (one.id for one in reversed(place.state.approvals.all())))


def some_schedule(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda place: (one.name for one in place.config.schedule))


def some_limit(ctx: typer.Context, incomplete: str) -> list[str]:
    def names(place: Workplace) -> Iterable[str]:
        from agent_mailer.views.kept import limits

        return (one.name for one in limits(place))

    return _offer(ctx, incomplete, names)


def some_value(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the key before it, where that has but a few."""
    from agent_mailer.config import leaves

    key = str(ctx.params.get("key"))
    found = (value for leaf in leaves() if leaf.name == key for value in _few(leaf.hint))
    return [value for value in found if value.startswith(incomplete)] if not ctx.params.get("value") else []


def some_service(ctx: typer.Context, incomplete: str) -> list[str]:
    del ctx
    found: list[str] = []
    with suppress(Exception):
        import os

        from agent_mailer.disk import Disk
        from agent_mailer.service.folder import Units, units_folder

        found = [one.name for one in Units(units_folder(os.environ), Disk()).all() if one.name.startswith(incomplete)]
    return found


def some_team(ctx: typer.Context, incomplete: str) -> list[str]:
    del ctx
    found: list[str] = []
    with suppress(Exception):
        import os

        from agent_mailer.teams.place import all_teams

        names = (path.name for path in all_teams(os.environ, Path.home()))
        found = [name for name in names if name.startswith(incomplete)]
    return found


def some_role(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the team that is meant."""
    found: list[str] = []
    with suppress(Exception):
        from agent_mailer.cli.team.options import found as team_meant

        directory = ctx.params.get("directory")
        meant = team_meant("", ctx.params.get("team") or "", Path(directory) if directory else None)
        found = [name for name in meant.places if name.startswith(incomplete)]
    return found


def _few(hint: object) -> Iterable[str]:
    """The values of a type that has but a few."""
    from enum import Enum
    from typing import get_args

    if isinstance(hint, type) and issubclass(hint, Enum):
        return [str(one.value) for one in hint]
    if hint is bool:
        return ("true", "false")
    return [value for inner in get_args(hint) for value in _few(inner)]


def _newest(place: Workplace, whose: str | None) -> Iterable[str]:
    from agent_mailer.people import person_at
    from agent_mailer.people.port import Search

    if not place.in_folder:
        return ()
    found = person_at(place, whose, lambda _: None).inbox(Search(limit=MOST), read_too=True)
    return (message.envelope.id for message, _ in reversed(found))


def some_question(ctx: typer.Context, incomplete: str) -> list[str]:
    def codes(place: Workplace) -> Iterable[str]:
        from agent_mailer.state.approvals import shown_code

        return (shown_code(one.code) for one in place.state.approvals.open())

    return _offer(ctx, incomplete, codes)


def _offer(ctx: typer.Context, incomplete: str, known: Callable[[Workplace], Iterable[str]]) -> list[str]:
    from agent_mailer.cli.options import workplace

    found: dict[str, None] = {}
    # Whatever is wrong here, a person at the prompt wants no complaint in the middle of a line.
    with suppress(Exception):
        workdir = ctx.params.get("workdir")
        place = workplace(Path(workdir) if workdir else None, damaged=lambda *_: None)
        for name in known(place):
            if name.startswith(incomplete) and name.isprintable() and not any(c.isspace() for c in name):
                found[name] = None
                if len(found) == MOST:
                    break
    return list(found)
