"""`console`: pages in a browser over the agents of this machine, without a broker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli import stays
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import say
from agent_mailer.cli.terminal.streams import unhurried
from agent_mailer.errors import ConfigFault

if TYPE_CHECKING:
    from agent_mailer.console.own.app import Served

app = single()


@app.command("console", cls=FastCommand)
def console(
    workdirs: Annotated[
        list[Path] | None,
        typer.Option("--workdir", "-C", help="Only the agent in this folder; may be repeated.", show_default=False),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen on this machine; 0 takes a free one.")
    ] = 0,
) -> None:
    """See and steer your agents in a browser: what needs you, what they do, their mail. Until Ctrl-C.

    The pages are served to this machine alone. The link that is printed opens them once, in one browser.
    """
    from agent_mailer.desk.asking import require_person

    require_person()
    served = _served([Path(one).absolute() for one in workdirs] if workdirs else None, port)
    stays()
    unhurried()
    served.run(lambda: _greet(*served.links))


def _served(workdirs: list[Path] | None, port: int) -> Served:
    from agent_mailer.installed import command_for

    try:
        from agent_mailer.console.own.app import Served
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("agent_mailer"):
            raise
        why = f"the pages need the broker's packages, and {missing.name} is not installed"
        raise ConfigFault("no_pages", why, command_for("broker")) from None
    from agent_mailer.desk.here import AgentsHere
    from agent_mailer.desk.mail import MailHere

    agents = AgentsHere(workdirs)
    return Served(agents, MailHere(agents.looking), port)


def _greet(link: str, other: str) -> None:
    say(f"Your agents, in a browser on this machine:\n\n  {link}\n")
    say(f"It opens once, within an hour. Where the browser does not find that name:\n\n  {other}\n")
    say("Ctrl-C stops it.")
    sys.stdout.flush()
