"""`mcp`: the mail tools of a turn, or of a person, for an agent program that speaks MCP."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli import stays
from agent_mailer.cli.mail.options import As, person_at
from agent_mailer.cli.mail.reserving import reserve_for
from agent_mailer.cli.options import MaildirRoot, Workdir
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.errors import UsageFault

app = single()


@app.command("mcp", cls=FastCommand)
def mcp(
    turn_dir: Annotated[
        str | None,
        typer.Argument(metavar="[TURN_DIR]", help="The turn's folder. Default: that of the turn it runs in."),
    ] = None,
    person: Annotated[
        bool, typer.Option("--person", help="Your own mail, for a session that you sit at: in your name, at once.")
    ] = False,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Serve mail tools over MCP, on standard input and output: those of a turn, or with --person yours."""
    import os

    from agent_mailer.turn_tools.mcp import serve, serve_tools, turn_of

    if not person:
        if whose or workdir or maildir_root:
            raise UsageFault("for_a_person", "--as, --workdir and --maildir-root are for --person", "add --person")
        stays()
        serve(turn_of(turn_dir, os.environ))
        return
    if turn_dir is not None:
        raise UsageFault("two_choices", "a turn's folder is an agent's, --person is a person", "give one of them")
    from agent_mailer.assemble import Workplace
    from agent_mailer.live.taking import Taking, agents_folder, sitter_of
    from agent_mailer.people.tools import Session, SessionTools, require_no_turn

    require_no_turn()
    stays()
    serve_tools(
        SessionTools(
            Session(
                lambda: person_at(whose, workdir, maildir_root),
                lambda paths, seconds: reserve_for(workdir, whose, paths, seconds),
                lambda: Taking(Workplace(agents_folder(workdir)), sitter_of(os.environ, os.getpid())),
            )
        )
    )
