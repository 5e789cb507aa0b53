"""`broker agents`: what agents do now, as their watchers report it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_mailer.amounts import counted, dollars
from agent_mailer.cli.broker.database import DatabaseUrl, DataFolder, OnlyUser, data_of, look, users_asked_for
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.names import printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agent_mailer.broker.remote.rows import WatchedAgent
    from agent_mailer.remote.port import Report

app = single()


@app.command("agents", cls=FastCommand)
def agents(
    user: OnlyUser = None,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """What agents do, as their watchers reported last. Whether one still watches, the broker itself knows."""
    data = data_of(folder, database)
    from agent_mailer.broker.remote.rows import watched_agents

    def work(connection: Connection) -> list[WatchedAgent]:
        owners = users_asked_for(connection, user)
        return [agent for owner in owners for agent in watched_agents(connection, owner.id)]

    found = look(data, work)
    if as_json:
        json_out(found)
        return
    reported = [one for one in found if one.report is not None]
    if reported:
        say(columns([_row(one) for one in reported], _HEAD, ids=("AGENT",), whole=("DOES", "REPORTED (UTC)")))
    if len(found) > len(reported):
        note(f"\n{len(found) - len(reported)} agents have never been reported of")


_HEAD = ("AGENT", "DOES", "ON", "WAITS", "NEEDS YOU", "TODAY", "REPORTED (UTC)")


def _row(one: WatchedAgent) -> tuple[str, ...]:
    report = one.report
    assert report is not None
    tools = ", ".join(turn.tool or "a turn" for turn in report.working)
    turns = counted(report.today.turns, "turn") if report.today.turns else ""
    today = ", ".join(filter(None, (dollars(report.today.cost_usd), turns)))
    return (
        printable(one.address),
        report.standing.value.replace("_", " "),
        printable(tools, 60),
        str(report.waiting or ""),
        printable(_needs(report), 80),
        today,
        (one.reported_at or "")[:19],
    )


def _needs(report: Report) -> str:
    """How much waits for a person, by kind."""
    counts = {
        "asked": len(report.questions),
        "stuck": sum(one.many for one in report.stuck_counts),
        "held": sum(one.many for one in report.held_counts),
    }
    return ", ".join(f"{many} {what}" for what, many in counts.items() if many)
