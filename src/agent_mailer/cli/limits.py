"""`limits`: what turns may take of a day, what they took, and a person's word for today."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.views.values.history import LimitView

LARGEST = 1e12
LIMITS, GUARDS = "limits", "guards"

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
    from agent_mailer.state.lifts import Order, OrderVerb
    from agent_mailer.views.kept import HOURLY
    from agent_mailer.watch.guards.budgets import BudgetPolicy, midnight

    place = configured(workdir)
    policy, known = place.policy(), (HOURLY, *BudgetPolicy().names())
    table, _, name = limit.rpartition(".")
    full = f"{GUARDS if name == HOURLY else LIMITS}.{name}"
    if name not in known or table not in ("", full.partition(".")[0]):
        raise UsageFault("unknown_limit", f"there is no limit {printable(limit)!r}", f"one of: {', '.join(known)}")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number <= LARGEST:
        raise UsageFault(
            "bad_value", f"{printable(value)!r} is no limit", f"give a number above 0, up to {LARGEST:.0f}"
        )
    for_good = f"agent-mailer config set {full} {number:.15g}"
    if not today:
        raise UsageFault("which", "say for how long: --today", for_good)
    if not (policy.guards.turns_per_hour if name == HOURLY else getattr(policy.budget, name)):
        raise UsageFault("not_set", f"{full} is not set: nothing keeps turns from going beyond it", for_good)
    until = midnight(place.clock.now(), 1)
    order_and_tell(place, Order(OrderVerb.RAISE, (f"{name}={number!r}",), until))
