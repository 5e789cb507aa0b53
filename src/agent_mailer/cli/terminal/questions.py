"""Questions on a terminal: each is asked until its answer is valid; Ctrl-C and the end of the input stop it all."""

from __future__ import annotations

from collections.abc import Callable

import typer

from agent_mailer.cli.terminal.printing import say
from agent_mailer.cli.terminal.tables import paragraph
from agent_mailer.errors import MailerError
from agent_mailer.names import split_words


def ask(question: str, default: str | None, check: Callable[[str], object], *, hidden: bool = False) -> object:
    """What `check` makes of the answer; it raises MailerError for one that will not do. Raises typer.Abort."""
    while True:
        text = typer.prompt(question, default=default or None, hide_input=hidden)
        try:
            return check(str(text).strip())
        except MailerError as fault:
            say(paragraph(fault.message))


def a_handle(text: str) -> str:
    from agent_mailer.setup.workdir import require_handle

    require_handle(text)
    return text


def a_local_name(text: str) -> str:
    if not text or not text.isprintable() or any(c.isspace() or c in "/\\" for c in text):
        raise MailerError("bad_name", "a name has no blanks and no slashes", "")
    return text


def a_url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or len(text) < len("http://x"):
        raise MailerError("bad_url", "a URL begins with http:// or https://", "")
    return text


def a_key(text: str) -> str:
    from agent_mailer.cli.options import read_key

    return read_key(text) or ""


def a_command(text: str) -> list[str]:
    words = split_words(text, "command")
    if not words:
        raise MailerError("empty", "a command has at least one word", "")
    return words


def a_value_of(key: str) -> Callable[[str], str]:
    """A check for a text that can be the value of this key of the configuration."""

    def check(text: str) -> str:
        from agent_mailer.config import check_value

        check_value(key, text)
        return text

    return check
