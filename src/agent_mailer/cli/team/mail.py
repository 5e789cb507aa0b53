"""`amp send`, `amp ask`: a person's mail to a team's agents, named by their roles."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli.mail.send import send as send_mail
from agent_mailer.cli.options import Json
from agent_mailer.cli.team import own_broker
from agent_mailer.cli.team.options import Dir, Found, Team_, found
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.errors import ExitCode, MailerError, UsageFault
from agent_mailer.teams.making import require_set_up
from agent_mailer.teams.plan import Member
from agent_mailer.teams.stopped import at

send_app, ask_app = single(), single()

LONGEST_SUBJECT = 78
ASK_SECONDS = 24 * 3600

Words = Annotated[list[str], typer.Argument(metavar="TEXT…", help="What it says.", show_default=False)]
Subject = Annotated[str, typer.Option("--subject", help="Default: the first line of the text.", show_default=False)]
Thread = Annotated[str, typer.Option("--thread", help="The thread it belongs to.", show_default=False)]


@send_app.command("send", cls=FastCommand)
def send(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="planner, coder …, or the agent's name.")],
    text: Words,
    team: Team_ = "",
    directory: Dir = None,
    subject: Subject = "",
    thread: Thread = "",
    wait: Annotated[
        int | None, typer.Option("--wait", metavar="SECONDS", help="Wait for the answer and print it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send mail to one of the team's agents, from you."""
    one = found("", team, directory)
    _send(one, one.team.member(role), text, subject=subject, thread=thread, wait=wait, as_json=as_json)


@ask_app.command("ask", cls=FastCommand)
def ask(
    text: Words,
    team: Team_ = "",
    directory: Dir = None,
    subject: Subject = "",
    thread: Thread = "",
    wait: Annotated[int, typer.Option("--wait", metavar="SECONDS", help="How long to wait.")] = ASK_SECONDS,
    as_json: Json = False,
) -> None:
    """Give the planner (else the first agent) a task, wait for its report, print it. Ctrl-C ends only the wait."""
    one = found("", team, directory)
    _send(one, one.team.lead, text, subject=subject, thread=thread, wait=wait, as_json=as_json)


def _send(
    one: Found, member: Member, text: list[str], *, subject: str, thread: str, wait: int | None, as_json: bool
) -> None:
    body = " ".join(text)
    if not body.strip():
        raise UsageFault("no_text", "there is no text", "amp ask 'what is to be done'")
    require_set_up(one.directory, [member], one.places)
    place = one.places[member.name]
    try:
        send_mail(
            to=[place.handle],
            subject=subject or body.strip().splitlines()[0][:LONGEST_SUBJECT],
            body=body,
            thread=thread,
            wait=wait,
            workdir=place.workdir,
            as_json=as_json,
        )
    except MailerError as fault:
        if fault.exit_code is ExitCode.UNAVAILABLE and one.team.embedded and own_broker.standing(one.directory) is None:
            fault.fix = f"amp start {at(one.directory)}"
        raise
