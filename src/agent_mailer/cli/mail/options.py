"""What `mail` and `send` have in common: options, the text of a message, and how a message is shown."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import some_address
from agent_mailer.cli.mail import steps
from agent_mailer.cli.terminal.printing import json_text, note, say, screen_text
from agent_mailer.errors import UsageFault
from agent_mailer.names import one_of, printable, split_addresses

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Kind, Message, Priority
    from agent_mailer.people import Person
    from agent_mailer.turn_tools.commands import AgentMail
    from agent_mailer.turn_tools.folder import Staged


As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="ADDRESS",
        help="Whose mail. Default: $AM_ME, else user; at a broker its operator's. Not during a turn.",
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
    list[str] | None,
    typer.Option(
        "--to", metavar="ADDRESS", help="A recipient; several times for several.", autocompletion=some_address
    ),
]
Subject = Annotated[str, typer.Option("--subject", help="The subject.", show_default=False)]
Body = Annotated[str | None, typer.Option("--body", help="The text.", show_default=False)]
BodyFile = Annotated[
    str | None, typer.Option("--body-file", metavar="FILE", help="A file with the text; - is standard input.")
]
KindOption = Annotated[str | None, typer.Option("--kind", help="What it is for: question, status, todo …")]
PriorityOption = Annotated[str | None, typer.Option("--priority", help="urgent, normal or low.")]
Thread = Annotated[str, typer.Option("--thread", help="The thread it belongs to.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "--labels", metavar="LABEL", help="A label; several times, or with commas, for several."),
]
Refs = Annotated[
    list[str] | None,
    typer.Option("--refs", metavar="ID", help="A message it refers to; several times, or with commas, for several."),
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="JSON|@FILE", help="A JSON object for programs.", show_default=False)
]
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
    """Whose mail it is outside of a turn, in the mailbox that the flag, the workdir or its surroundings name.

    In a shell of AMQ's (`$AM_ME` and `$AM_ROOT`) it is that of the shell, unless flags name another mailbox.
    """
    from agent_mailer import people

    place, who = mail_at(whose, workdir, maildir_root)
    return people.person_at(place, who, note)


def mail_at(whose: str | None, workdir: Path | None, maildir_root: str | None) -> tuple[Workplace, str | None]:
    """The mailbox that is meant, and whose mail; None: whose it is where nobody is named."""
    from agent_mailer.cli.options import absolute, workplace

    shell = os.environ.get("AM_ROOT") if os.environ.get("AM_ME") else None
    root = maildir_root or (shell if workdir is None else None)
    flags = {"mailbox": "maildir", "maildir_root": absolute(root)} if root else {}
    place = workplace(workdir, flags)
    return place, whose or _shell_handle(place)


def _shell_handle(place: Workplace) -> str | None:
    """Who a person is in a shell of AMQ's, where that is of this very mailbox."""
    from agent_mailer.mailbox.maildir.layout import is_handle

    me, root = os.environ.get("AM_ME"), os.environ.get("AM_ROOT")
    if not me or not place.in_folder:
        return None
    if not is_handle(me):
        raise UsageFault(
            "bad_handle", f"$AM_ME is {printable(me)!r}, which is no handle", "unset AM_ME, or --as HANDLE"
        )
    return me if not root or Path(os.path.abspath(root)) == place.maildir_root() else None  # noqa: PTH100


def not_in_turn(command: str) -> None:
    """Raises UsageFault during a turn, whose one message is the agent's already."""
    if in_turn() is not None:
        raise UsageFault("in_turn", f"{command} is for people: this turn has its one message", "agent-mailer mail read")


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


def parse_labels(values: list[str] | None) -> tuple[str, ...]:
    """Split at commas and blanks, as AMQ does."""
    return split_addresses(word for value in values or () for word in value.split())


def parse_refs(values: list[str] | None) -> tuple[str, ...]:
    """Raises UsageFault for what can be no message's id."""
    from agent_mailer.mailbox.maildir.format import is_message_id

    refs = split_addresses(values or [])
    if wrong := [ref for ref in refs if not is_message_id(ref)]:
        raise UsageFault("bad_ref", f"{printable(wrong[0])!r} is no message id", "agent-mailer mail inbox --all")
    return refs


def parse_context(text: str | None) -> str:
    """The JSON object as one line; `@FILE` is read. Raises UsageFault for what is none."""
    if text is None:
        return ""
    from agent_mailer.mailbox.maildir import format as maildir

    found = maildir.parse_context(_file(text[1:]) if text.startswith("@") else text)
    if found is None:
        raise UsageFault("bad_context", "--context is no JSON object", """--context '{"branch": "main"}', or @FILE""")
    return json_text(found)


def show(message: Message, *, as_json: bool) -> None:
    if as_json:
        steps.told({"message": whole(message)}, *steps.about([message]))
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
    return found | ({"context": msgspec.json.decode(message.context)} if message.context else {})


def whole(message: Message) -> dict[str, object]:
    return {**head(message), "body": message.body}


MAX_BODY_BYTES = 10 * 1024 * 1024


def read_body(body: str | None, body_file: str | None, *, optional: bool = False) -> str:
    """Raises UsageFault where both or neither are given, the file cannot be read, or the text is empty."""
    if body is not None and body_file is not None:
        raise UsageFault("two_bodies", "give --body or --body-file, not both", "")
    if body is None and body_file is None and not optional:
        raise UsageFault("no_body", "the message has no text", "give --body TEXT, --body-file FILE, or --body-file -")
    if body is not None and body.strip() == "-":
        # Elsewhere that is standard input: what was piped would be lost, and the mail be a stroke.
        fix = "give --body-file - to send what is piped"
        raise UsageFault("no_body", "the message's text is -, which is no text", fix)
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
