"""What the shell offers after TAB, out of a workdir's state: turns, threads, dead letters. Never an error, never slow.

The workdir is the current one, or what `-C` on the line being completed says.
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
    """To whom one can write from here."""

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
