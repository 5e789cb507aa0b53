"""`help`: about a command, or about what a word means here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.terminal.commands import FastCommand, LazyGroup, single
from agent_mailer.cli.terminal.printing import say
from agent_mailer.cli.terminal.screen import Ink, paint, width, wrapped
from agent_mailer.cli.terminal.tables import choices
from agent_mailer.errors import UsageFault
from agent_mailer.names import did_you_mean, printable

if TYPE_CHECKING:
    from typer._click import Context

app = single()

TOPICS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "agents": (
        "what an agent is here",
        (
            "An agent is a folder (its workdir) with an address and a program that does the work: Claude "
            "Code, Codex, or any that reads a prompt.",
            "Its settings are in .agent-mailer/config.toml. Commands are about the agent of the current "
            "folder; -C FOLDER names another one.",
        ),
        ("agent-mailer init", "agent-mailer", "agent-mailer status --all"),
    ),
    "modes": (
        "what an agent may do while nobody watches",
        (
            "plan: read, think, and answer through the mail tools.",
            "acceptEdits: also change files in the workdir; Claude's settings or Codex's sandbox decide on the rest.",
            "bypassPermissions: everything that your user may do.",
            "It is never guessed. What a mode refuses you can allow one by one: agent-mailer help approvals.",
        ),
        ("agent-mailer config set permission_mode acceptEdits",),
    ),
    "threads": (
        "how mail, threads and sessions hang together",
        (
            "Mail with the same thread is worked on in order, in one session of the agent program, with a "
            "memory file of its own.",
            "Your mail to an agent is one thread unless you give --thread NAME; an answer stays in its thread.",
        ),
        (
            'agent-mailer send coder "Another thing" --thread docs',
            "agent-mailer turns thread docs",
            "agent-mailer sessions list",
        ),
    ),
    "outcomes": (
        "how a turn can end, and what follows",
        (
            "done: the message is settled and the answer has left. blocked: it asks you, in the thread. "
            "asked: it waits for your yes.",
            "failed, timed_out, crashed: tried again with growing waits, at last given up (a dead letter), "
            "and the sender is told.",
            "limited, signed_out, unavailable: the agent pauses; this costs no attempt. interrupted: it "
            "goes on at the next start.",
        ),
        ("agent-mailer turns list", "agent-mailer dead-letter list", "agent-mailer resume"),
    ),
    "exit": (
        "what the exit statuses mean",
        (
            "0 done; 1 failed, or somebody has to look; 2 the command line cannot be understood; 69 the "
            "program or the mailbox cannot be reached;",
            "75 another watcher holds the folder; 77 credentials were refused; 78 configuration, "
            "permissions or identity are wrong.",
            "send --wait: 0 answered, 1 given up, 3 a question, 4 no answer in time.",
        ),
        ("agent-mailer status; echo $?",),
    ),
}
"""A topic -> its line, its paragraphs, and commands to try. What is longer is in docs/."""


def _some_word(ctx: typer.Context, incomplete: str) -> list[str]:
    """What can stand there: commands of the group that stands before it; topics, too, where nothing does."""
    from typer.core import TyperGroup

    at, words = ctx.parent, ctx.params.get("words") or ()
    for word in words:
        inner = at.command.get_command(at, word) if at is not None and isinstance(at.command, TyperGroup) else None
        at = typer.Context(inner, info_name=word, parent=at) if inner is not None else None
    known = at.command.list_commands(at) if at is not None and isinstance(at.command, TyperGroup) else []
    return [word for word in (known if words else [*known, *TOPICS]) if word.startswith(incomplete)]


@app.command("help", cls=FastCommand)
def show(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND|TOPIC]",
            help="A command, as `config set`, or a topic.",
            show_default=False,
            autocompletion=_some_word,
        ),
    ] = None,
) -> None:
    """Explain a command, or a word: agents, modes, threads, outcomes, exit."""
    parent = ctx.parent
    assert parent is not None
    if not words:
        say(parent.get_help())
        say("\nTopics (agent-mailer help TOPIC):")
        say(choices((name, line) for name, (line, _, _) in TOPICS.items()))
        return
    if len(words) == 1 and words[0] in TOPICS:
        _tell(*TOPICS[words[0]])
        return
    say(_help_of(parent, words))


def _help_of(ctx: Context, words: list[str]) -> str:
    """The help of the command that the words name, one below the other. Raises UsageFault."""
    from difflib import get_close_matches

    from typer.core import TyperGroup

    for word in words:
        group = ctx.command
        name = group.aliases.get(word, word) if isinstance(group, LazyGroup) else word
        found = group.get_command(ctx, name) if isinstance(group, TyperGroup) else None
        if found is None:
            known = group.list_commands(ctx) if isinstance(group, TyperGroup) else []
            if isinstance(group, LazyGroup):
                known = [*known, *TOPICS]
            meant = did_you_mean(get_close_matches(word, known, 2, 0.7))
            raise UsageFault("usage", f"there is no command or topic {printable(word)!r}{meant}", "agent-mailer help")
        ctx = typer.Context(found, info_name=name, parent=ctx)
    return ctx.get_help()


def _tell(line: str, paragraphs: tuple[str, ...], commands: tuple[str, ...]) -> None:
    room = width()
    say(paint(line[0].upper() + line[1:], Ink.BOLD))
    for text in paragraphs:
        say("\n".join(["", *wrapped(text, room)]))
    say()
    for command in commands:
        say(f"  {command}")
