"""`take`: work on a message of the agent's in the session that you sit at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Workdir
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import note, say, screen_text
from agent_mailer.errors import UsageFault

if TYPE_CHECKING:
    from agent_mailer.live.taking import Taking

app = single()


@app.command("take", cls=FastCommand)
def take(
    message: Annotated[str, typer.Argument(metavar="ID", help="The message's id, or as much of it as is unique.")],
    reply: Annotated[str | None, typer.Option("--reply", help="The answer to one you have taken.")] = None,
    done: Annotated[bool, typer.Option("--done", help="It is done, and wants no answer.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Give it back: the agent's own turn does it.")] = False,
    workdir: Workdir = None,
) -> None:
    """Have a message of the agent's to yourself, show it, and answer it in the agent's name."""
    from agent_mailer.turn_tools.folder import as_text

    if (reply is not None) + done + release > 1:
        raise UsageFault("two_choices", "--reply, --done and --release are three ends", "give one of them")
    taking = _taking(workdir)
    if reply is not None:
        if not reply.strip():
            raise UsageFault("empty_body", "the answer's text is empty", "--done, where none is wanted")
        say(taking.answer(message, reply))
    elif done:
        say(taking.answer(message, ""))
    elif release:
        say(taking.release(message))
    else:
        taken = taking.take(message)
        say(screen_text(as_text(taken)))
        note(f"yours until you end it: agent-mailer take {taken.envelope.id} --reply TEXT, --done or --release")


def _taking(workdir: Workdir) -> Taking:
    from agent_mailer.assemble import Workplace
    from agent_mailer.live.taking import Taking, agents_folder, sitter_of
    from agent_mailer.trust.workdir import refuse_in_a_turn

    refuse_in_a_turn("take", os.environ)
    place = Workplace(agents_folder(workdir))
    place.folder.check()
    return Taking(place, sitter_of(os.environ))
