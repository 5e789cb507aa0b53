"""`cost`: what turns have taken."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.amounts import dollars, duration
from agent_mailer.cli.completion import any_of
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import UsageFault
from agent_mailer.names import one_of, printable
from agent_mailer.views.values.history import SpentView

app = single()

DAYS = 14
MOST_DAYS = 400


@app.command("cost", cls=FastCommand)
def cost(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="A row for each day, agent, thread, sender, program or model.",
            autocompletion=any_of("day", "agent", "thread", "sender", "program", "model"),
        ),
    ] = "day",
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, max=MOST_DAYS, help="The last N days, today among them.")
    ] = DAYS,
    every: Annotated[bool, typer.Option("--all", help="Of every agent of yours.")] = False,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show what turns took: time, tokens, dollars as far as the agent program counts them. Days are UTC."""
    from agent_mailer.runtimes.port import Counted
    from agent_mailer.views.spending import By, counts_of, spending

    if every and workdir is not None:
        raise UsageFault("two_choices", "--all means every workdir, --workdir one", "leave one of them out")
    wanted = By(one_of(by, By, "--by"))
    if every:
        from agent_mailer.views.local import places

        found = places()
    else:
        found = [configured(workdir)]
    from agent_mailer.clock import SystemClock

    view = spending(found, wanted, days, SystemClock().now())
    if as_json:
        json_out(
            {
                "by": view.by,
                "since": view.since,
                "rows": [{"name": name, "spent": spent} for name, spent in view.rows],
                "total": view.total,
            }
        )
        return
    if not view.rows:
        note(f"no turn since {view.since}")
        return
    rows = [_row(printable(name, 80), spent) for name, spent in view.rows]
    if len(rows) > 1:
        rows.append(_row("together", view.total))
    head = (f"{view.by} (UTC)" if wanted is By.DAY else view.by, "turns", "time", "tokens in", "out", "cost")
    say(columns(rows, head, whole=head[1:]))
    if not every and (missing := [what.value for what in Counted if what not in counts_of(found[0])]):
        text = f"\nits program does not count {' or '.join(missing)}"
        note(f"{text}: turns and minutes are what limits can hold (limits.turns_per_day, limits.minutes_per_day)")
    if wanted not in (By.DAY, By.AGENT):
        note("\nof the turns that are kept; --by day has every one")


def _row(name: str, spent: SpentView) -> tuple[str, ...]:
    tokens = (str(count) if count else "" for count in (spent.input_tokens, spent.output_tokens))
    return (name, str(spent.turns), duration(spent.seconds), *tokens, dollars(spent.cost_usd))
