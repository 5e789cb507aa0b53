"""`limits`: what turns may take of a day, what they took, and a person's word for today."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import UsageFault

if TYPE_CHECKING:
    from agent_mailer.views.values.history import LimitView

app = group("limits", "What turns may take of a day, and what they took.")


@app.command("show", cls=FastCommand)
def show(workdir: Workdir = None, as_json: Json = False) -> None:
    """Show every limit that is set, and what was taken of it today."""
    from agent_mailer.views.kept import limits

    views = limits(configured(workdir))
    if as_json:
        json_out({"limits": views})
    elif not views:
        note("no limit is set: agent-mailer config set limits.dollars_per_day 20")
    else:
        rows = [
            (
                view.name,
                _number(view.limit),
                _taken(view),
                "until " + local_time(view.until) if view.raised else "",
            )
            for view in views
        ]
        say(columns(rows, ("limit", "is", "taken today", "raised"), ids=(), whole=("limit", "is", "taken today")))
        note("\ndollars are as the agent program counts them: where a subscription pays they are no bill")


def _taken(view: LimitView) -> str:
    if not view.counted:
        return "its program does not count that: the limit holds nothing; set turns or minutes"
    if view.taken is None:
        return ""
    return _number(view.taken) + (f", {_number(view.others)} of it by others of its share" if view.others else "")


def _number(value: float) -> str:
    """A million tokens as digits, minutes and dollars to the cent."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


@app.command("raise", cls=FastCommand)
def raise_(
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help="As `limits show` names it, or turns_per_hour.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="What it is to be.")],
    today: Annotated[bool, typer.Option("--today", help="Until the local day ends.")] = False,
    workdir: Workdir = None,
) -> None:
    """Set a limit otherwise for today. For good: agent-mailer config set limits.LIMIT VALUE."""
    from agent_mailer.cli.requests import order_and_tell
    from agent_mailer.watch.guards.raising import limit_of, until_tomorrow

    place = configured(workdir)
    policy, wanted = place.policy(), limit_of(limit, value)
    if not today:
        raise UsageFault("which", "say for how long: --today", wanted.for_good)
    order_and_tell(place, until_tomorrow(policy, wanted, place.clock.now()))
