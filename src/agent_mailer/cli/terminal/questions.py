"""What is asked of a person on a terminal: questions until the answer is valid, and a text in an editor."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from agent_mailer.beneath import is_there
from agent_mailer.cli.terminal.printing import say
from agent_mailer.cli.terminal.tables import paragraph
from agent_mailer.disk import Disk, read_regular
from agent_mailer.errors import MailerError, UsageFault, quoted
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
    from agent_mailer.mailbox.maildir.layout import USER
    from agent_mailer.setup.workdir import require_handle, require_no_person

    require_handle(text)
    require_no_person(text, USER)
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
        from agent_mailer.config_values import check_value

        check_value(key, text)
        return text

    return check


FALLBACKS = ("sensible-editor", "nano", "vi")
_NEED_A_TERMINAL = frozenset(
    (*FALLBACKS, "vim", "nvim", "vim.basic", "vim.tiny", "emacs", "pico", "joe", "mcedit", "micro", "hx")
)


def open_editor(path: Path, instead: str = "do it in a terminal") -> None:
    """Open `path`, return when the editor has ended. Raises UsageFault if there is none, MailerError if it failed.

    `instead`: what can be done where there is no terminal.
    """
    from agent_mailer.process.commands import run_in_terminal

    # What is edited lies in a workdir's state folder.
    theirs = path.absolute().parents[1:2]
    words = _editor(theirs)
    # `editor` leads to one of them on Debian.
    named = {Path(words[0]).name, Path(shutil.which(words[0]) or words[0]).resolve().name}
    if named & _NEED_A_TERMINAL and not (sys.stdin.isatty() and sys.stdout.isatty()):
        why = f"{words[0]} needs a terminal, and here is none"
        raise UsageFault("no_terminal", why, f"{instead}, or set EDITOR to a program that needs none")
    try:
        status = run_in_terminal([*words, str(path)], theirs)
    except OSError as error:
        raise UsageFault("no_editor", f"{words[0]} cannot be started: {error.strerror}", "export EDITOR=…") from None
    if status:
        raise MailerError("editor_failed", f"{words[0]} ended with status {status}; nothing was taken over", "")


def edited(copy: Path, of: Path, before: bytes, disk: Disk, instead: str = "do it in a terminal") -> bytes | None:
    """What `copy` reads once a person has edited it; None where that is `before` still, and then it is gone.

    Raises as `open_editor` does: what was typed is kept, and named.
    """
    try:
        open_editor(copy, instead)
        after = read_regular(copy)
    except MailerError as fault:
        if is_there(copy) and read_regular(copy) == before:
            disk.remove(copy)
            raise
        raise type(fault)(fault.code, f"{fault.message}; your text is {copy}", compared(of, copy)) from None
    if after != before:
        return after
    disk.remove(copy)
    say("nothing was changed")
    return None


def compared(path: Path, copy: Path) -> str:
    """The command that shows what a copy has in place of it."""
    return f"diff {quoted(path)} {quoted(copy)}"


def _editor(theirs: Sequence[Path]) -> list[str]:
    from agent_mailer.process.environment import find_tool

    for name in ("VISUAL", "EDITOR"):
        if os.environ.get(name, "").strip():
            return split_words(os.environ[name], f"${name}")
    found = next((path for name in FALLBACKS if (path := find_tool(name, theirs))), None)
    if found is None:
        raise UsageFault("no_editor", "there is no editor: $EDITOR is not set", "export EDITOR=…")
    return [found]
