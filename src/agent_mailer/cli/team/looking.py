"""`amp status`, `list`, `logs`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent_mailer.cli.options import Json
from agent_mailer.cli.team.options import Dir, Name, Team_, found
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, json_text, note, say
from agent_mailer.errors import ExitCode, UsageFault

status_app, list_app, logs_app = single(), single(), single()


@status_app.command("status", cls=FastCommand)
def status(
    name: Name = "",
    team: Team_ = "",
    directory: Dir = None,
    live: Annotated[
        bool, typer.Option("--watch", help="The board: show it live until Ctrl-C.", show_default=False)
    ] = False,
    as_json: Json = False,
) -> None:
    """Each agent of the team on a line, and below what is wrong. Exit status 1: somebody has to look at it."""
    one = found(name, team, directory)
    workdirs = [place.workdir for place in one.places.values()]
    if live:
        from agent_mailer.cli.status.live import watch_all

        watch_all(workdirs, as_json=as_json)
        return
    from agent_mailer.cli.status.many import table
    from agent_mailer.views.local import everywhere

    view = everywhere(workdirs=workdirs)
    if as_json:
        json_out(view)
    else:
        say("\n".join(table(view)))
        if one.team.embedded:
            from agent_mailer.cli.team.own_broker import line_of

            say(line_of(one.directory))
    raise typer.Exit(ExitCode.OK if view.healthy else ExitCode.FAILED)


@list_app.command("list", cls=FastCommand)
def list_teams(as_json: Json = False) -> None:
    """Every team below $AMP_TEAMS_DIR (~/amp-teams), and the last one wherever it is."""
    from agent_mailer.cli.terminal.tables import columns
    from agent_mailer.names import printable
    from agent_mailer.teams.place import all_teams
    from agent_mailer.teams.running import seen

    rows = [seen(directory) for directory in all_teams(os.environ, Path.home())]
    if as_json:
        json_out(rows)
    elif not rows:
        say("no teams yet: amp claude-code, or amp codex, in a project's folder")
    else:
        shown = [
            (
                printable(row.team, 40),
                f"{row.watched} of {row.agents}" if row.watched is not msgspec.UNSET else "?",
                printable(row.mail or "", 100),
                printable(row.directory, 4096),
            )
            for row in rows
        ]
        say(columns(shown, ("TEAM", "WATCHED", "MAIL", "FOLDER")))
        for row in rows:
            if row.fault:
                note(f"\nwarning: {printable(row.team, 40)}: {printable(row.fault, 4096)}")
                note(f"  fix: {printable(row.fix or '', 4096)}")


@logs_app.command("logs", cls=FastCommand)
def logs(
    name: Name = "",
    team: Team_ = "",
    directory: Dir = None,
    tail: Annotated[
        int, typer.Option("--tail", metavar="N", min=0, help="How many of the last lines of each agent.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """The last events of all its agents, oldest first. Of one agent: agent-mailer logs -C DIR."""
    from agent_mailer.cli.terminal.event_lines import of_record
    from agent_mailer.names import printable
    from agent_mailer.views.log import LogReader, choose

    if tail < 0:
        raise UsageFault("bad_value", "--tail is a number of lines", "")
    one = found(name, team, directory)
    roles = {member.name: member.role for member in one.team.members}
    lines: list[tuple[str, str, dict[str, object], bytes]] = []
    for agent, place in one.places.items():
        with LogReader(place.folder.log) as reader:
            wanted = choose(place.state, reader, pattern=None, thread=None, turn=None, to_come=False)
            lines += [
                (str(line.record.get("ts", "")), roles[agent], line.record, line.raw)
                for line in reader.tail(tail, wanted)
                if line.record
            ]
    room = max(map(len, roles.values()))
    for _, role, record, raw in sorted(lines, key=lambda line: line[0]):
        if as_json:
            say(json_text({"agent": role, "event": msgspec.Raw(raw)}))
        else:
            say(f"{printable(role, 40):<{room}}  {of_record(record)}")
