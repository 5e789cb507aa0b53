"""`mail register`: a name where the agent's mail is."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli.mail import steps
from agent_mailer.cli.mail.options import not_in_turn
from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.printing import say, screen_text
from agent_mailer.errors import UsageFault


def register(
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Another name than that of the workdir's agent.")
    ] = None,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Register a name where the agent's mail is: at its server, or in its folder."""
    not_in_turn("mail register")
    place = workplace(workdir)
    wanted = name or place.handle
    if not wanted:
        raise UsageFault("no_name", "which name?", "agent-mailer mail register --as NAME")
    if place.at_broker:
        raise UsageFault("at_broker", "an agent of a broker is registered with its key", "agent-mailer init")
    from agent_mailer.setup.registering import register_name

    made = register_name(place, wanted)
    if as_json:
        steps.told({"name": made.name, "where": made.where, "new": made.new}, steps.LOOK, steps.SEND)
    else:
        say(screen_text(f"{made.name} {'is registered' if made.new else 'was registered before'}: {made.where}"))
