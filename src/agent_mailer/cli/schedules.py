"""`schedules`: mail by the clock, and what a person says to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import MailerError, quoted
from agent_mailer.names import pick, printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.schedules.due import Schedule

app = group("schedules", "Mail that is sent by the clock: look, send it now, leave it out once.")

LIST = "agent-mailer schedules list"
_TRUST = "agent-mailer config trust"
_OTHERWISE = "the file says otherwise, which nobody trusts, so it does not count"

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule, or as much as is unique.")]


@app.command("list", cls=FastCommand)
def list_schedules(workdir: Workdir = None, as_json: Json = False) -> None:
    """List them, when each comes next, and what keeps one from leaving."""
    from agent_mailer.config_values import SCHEDULE
    from agent_mailer.views.schedules import schedules

    place = configured(workdir)
    views = schedules(place)
    otherwise = SCHEDULE in place.trust.verdict.changed
    if as_json:
        json_out({"schedules": views})
    elif not views and otherwise:
        note(f"none counts: {_OTHERWISE}: {_TRUST}")
    elif not views:
        note("there is none: a [[schedule]] of the configuration is one (agent-mailer config edit)")
    else:
        rows = [
            (
                one.name,
                one.cron,
                one.zone,
                "now" if one.sending is not None else local_time(one.next_at) if one.next_at is not None else "never",
                printable(one.subject, 60),
                printable(one.why, 300),
            )
            for one in views
        ]
        head = ("schedule", "cron", "zone", "next", "subject", "does not leave")
        say(columns(rows, head, ids=(), whole=("schedule", "next")))
        if otherwise:
            note(f"\n{_OTHERWISE}: {_TRUST}")


@app.command("run", cls=FastCommand)
def run(name: Name, workdir: Workdir = None) -> None:
    """Send it now, besides: its next instant stays as it is."""
    from agent_mailer.cli.requests import order_and_tell
    from agent_mailer.schedules.bodies import Withheld, body_of
    from agent_mailer.state.lifts import Order, OrderVerb

    place = configured(workdir)
    chosen = _chosen(place, name)
    if isinstance(body := body_of(chosen.body, chosen.digest), Withheld):
        mend = "agent-mailer config trust" if body.code != "body_unreadable" else f"ls -l {quoted(chosen.body)}"
        raise MailerError(body.code, f"{chosen.name}: {body.why}", mend)
    order_and_tell(place, Order(OrderVerb.RUN, (chosen.name, chosen.line), round(place.clock.now(), 3)))


@app.command("skip", cls=FastCommand)
def skip(name: Name, workdir: Workdir = None) -> None:
    """Leave out its next instant; those after it stay."""
    from agent_mailer.cli.requests import order_and_tell
    from agent_mailer.state.lifts import Order, OrderVerb
    from agent_mailer.views.schedules import next_of

    place = configured(workdir)
    chosen = _chosen(place, name)
    moment = next_of(chosen, place.state.schedules.all.get(chosen.name), place.clock.now())
    if moment is None:
        raise MailerError("never", f"{chosen.name} comes no more", LIST)
    order_and_tell(place, Order(OrderVerb.SKIP, (chosen.name, chosen.line), moment))


def _chosen(place: Workplace, typed: str) -> Schedule:
    from agent_mailer.config_values import SCHEDULE
    from agent_mailer.views.schedules import counting

    known = {one.name: one for one in counting(place)}
    if SCHEDULE in place.trust.verdict.changed and not any(typed in name for name in known):
        raise MailerError("untrusted", f"no schedule {printable(typed)!r} counts: {_OTHERWISE}", _TRUST)
    return known[pick(typed, known, "schedule", LIST)]
