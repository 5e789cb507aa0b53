"""What `mail` and `send` have in common: options, the text of a message, and how a message is shown."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.terminal.printing import json_out, note, say, screen_text
from agent_mailer.errors import UsageFault
from agent_mailer.names import one_of, printable

if TYPE_CHECKING:
    from agent_mailer.mailbox.port import Kind, Message, Priority
    from agent_mailer.people import Person
    from agent_mailer.turn_tools.commands import AgentMail
    from agent_mailer.turn_tools.folder import Staged


As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="ADDRESS",
        help="Whose mail. Default: user; at a broker its operator's. Not during a turn.",
        show_default=False,
    ),
]
MessageId = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]",
        help="A message's id, or as much of it as is unique; during a turn not needed.",
        show_default=False,
    ),
]
To = Annotated[
    list[str] | None, typer.Option("--to", metavar="ADDRESS", help="A recipient; several times for several.")
]
Subject = Annotated[str, typer.Option("--subject", help="The subject.", show_default=False)]
Body = Annotated[str | None, typer.Option("--body", help="The text.", show_default=False)]
BodyFile = Annotated[
    str | None, typer.Option("--body-file", metavar="FILE", help="A file with the text; - is standard input.")
]
KindOption = Annotated[str | None, typer.Option("--kind", help="What it is for: question, status, todo …")]
PriorityOption = Annotated[str | None, typer.Option("--priority", help="urgent, normal or low.")]
Thread = Annotated[str, typer.Option("--thread", help="The thread it belongs to.", show_default=False)]
Now = Annotated[bool, typer.Option("--now", help="During a turn: leaves at once, as news of progress.")]


def in_turn() -> AgentMail | None:
    """The turn this command runs in, if any; urgent mail that came into its thread meanwhile is told on the way."""
    if "AGENT_MAILER_TURN_DIR" not in os.environ:
        return None
    from agent_mailer.turn_tools.commands import current_turn

    turn = current_turn(os.environ)
    if turn is not None and (line := turn.urgent()[0]):
        note(line)
    return turn


def person_at(whose: str | None, workdir: Path | None, maildir_root: str | None) -> Person:
    """Whose mail it is outside of a turn, in the mailbox that the flag, the workdir or its surroundings name."""
    from agent_mailer import people
    from agent_mailer.cli.options import absolute, workplace

    flags = {"mailbox": "maildir", "maildir_root": absolute(maildir_root)} if maildir_root else {}
    return people.person_at(workplace(workdir, flags), whose, note)


def tell_staged(staged: Staged, *, now: bool) -> None:
    if staged.already:
        say(f"already staged ({staged.key}): the same message leaves once")
    elif now:
        say(f"staged ({staged.key}): leaves at once")
    else:
        say(f"staged ({staged.key}): leaves when this turn ends well")


def parse_kind(text: str | None) -> Kind | None:
    if text is None:
        return None
    from agent_mailer.mailbox.port import Kind

    return Kind(one_of(text, (kind.value for kind in Kind), "--kind"))


def parse_priority(text: str | None) -> Priority | None:
    if text is None:
        return None
    from agent_mailer.mailbox.port import Priority

    return Priority(one_of(text, (priority.value for priority in Priority), "--priority"))


def show(message: Message, *, as_json: bool) -> None:
    if as_json:
        json_out({"message": whole(message)})
    else:
        say(as_screen(message))


def as_screen(message: Message) -> str:
    from agent_mailer.turn_tools.folder import as_text

    return screen_text(as_text(message)).rstrip("\n")


def head(message: Message) -> dict[str, object]:
    """A message without its body, for scripts."""
    import msgspec

    from agent_mailer.views.turns import message_view

    found: dict[str, object] = msgspec.to_builtins(message_view(message))
    return found


def whole(message: Message) -> dict[str, object]:
    return {**head(message), "body": message.body}


MAX_BODY_BYTES = 10 * 1024 * 1024


def read_body(body: str | None, body_file: str | None, *, optional: bool = False) -> str:
    """Raises UsageFault where both or neither are given, the file cannot be read, or the text is empty."""
    if body is not None and body_file is not None:
        raise UsageFault("two_bodies", "give --body or --body-file, not both", "")
    if body is None and body_file is None and not optional:
        raise UsageFault("no_body", "the message has no text", "give --body TEXT, --body-file FILE, or --body-file -")
    text = _file(body_file) if body_file is not None else body or ""
    if not text.strip() and not optional:
        raise UsageFault("empty_body", "the message's text is empty", "give --body TEXT or --body-file FILE")
    return text


def _file(name: str) -> str:
    shown = "standard input" if name == "-" else printable(name)
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BODY_BYTES + 1)
        else:
            with Path(name).open("rb") as stream:
                data = stream.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise UsageFault("bad_body_file", f"{shown} cannot be read: {error.strerror}", "") from None
    if len(data) > MAX_BODY_BYTES:
        raise UsageFault("too_large", f"{shown} has more than {MAX_BODY_BYTES} bytes", "send the file's name instead")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageFault("not_text", f"{shown} is not UTF-8 text", "send the file's name instead") from None
