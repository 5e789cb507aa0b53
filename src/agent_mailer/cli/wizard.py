"""What `init` asks on a terminal, and `watch` in a folder that is not set up. Nothing is written while it asks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agent_mailer.cli.choosing import one_of, split_words
from agent_mailer.cli.printing import say
from agent_mailer.errors import MailerError

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

DEFAULT_BROKER = "http://127.0.0.1:9800"


def on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(place: Workplace) -> dict[str, object]:
    """The missing values, asked one by one until each is valid; what the broker decides is not among them."""
    answers: dict[str, object] = {}
    say(f"Setting up {place.workdir} for an agent. Ctrl-C leaves everything as it is.")
    if _nothing_says_where(place):
        say("\nWhere its mail is:")
        say("  folder   files on this machine; nothing else is needed")
        say("  broker   an Agent Mailer broker, for agents on several machines")
        if _ask("Mailbox", "folder", lambda text: one_of(text, ("folder", "broker"), "Mailbox")) == "broker":
            answers["mailbox"] = "amp"
    at_broker = answers.get("mailbox") == "amp" or place.config.mailbox_kind.value == "amp"
    missing = dict(place.missing())
    if at_broker:
        _ask_for_broker(place, answers)
    elif "address" in missing:
        answers["address"] = _ask("Its address, a short name (a-z, 0-9, - and _)", _default_handle(place), _handle)
    if "runtime" in missing:
        say("\nWhat does the work:")
        say("  claude    Claude Code, logged in (claude auth login)")
        say("  codex     Codex, logged in (codex login)")
        say("  infiniti  Infiniti (infiniti-agent)")
        say("  command   any program: it gets the prompt on standard input")
        names = {"claude": place.config.claude_command, "codex": place.config.codex_command}
        found = next((kind for kind, program in names.items() if shutil.which(program)), "command")
        answers["runtime"] = _ask("Runtime", found, lambda text: _valid("runtime", text))
    runs_command = answers.get("runtime", place.config.runtime) == "command"
    if "command" in missing or (runs_command and not place.config.command):
        answers["command"] = _ask("\nThe command line", None, _command)
    if "permission_mode" in missing:
        say("\nWhat the agent may do while nobody watches (there is no default; choose):")
        say("  plan               read and think only")
        say("  acceptEdits        change files in its folder; what else it may run is up to its own settings")
        say("  bypassPermissions  everything you may do; for a container or a throw-away machine")
        answers["permission_mode"] = _ask("Permission mode", None, lambda text: _valid("permission_mode", text))
    return answers


def default_name(workdir: Path) -> str:
    """The folder's name, where an agent can be called so."""
    from agent_mailer.mailbox.maildir.layout import is_handle

    name = workdir.name.lower()
    return name if is_handle(name) else ""


def _nothing_says_where(place: Workplace) -> bool:
    config = place.config
    said = config.mailbox or config.broker_url or config.maildir_root or config.address or config.api_key
    return not said and "AM_ROOT" not in os.environ


def _ask_for_broker(place: Workplace, answers: dict[str, object]) -> None:
    from agent_mailer.joining.logins import find_login

    config = place.config
    if not config.broker_url:
        try:
            default = find_login(Path.home()).broker_url
        except MailerError:
            default = DEFAULT_BROKER
        answers["broker_url"] = _ask("\nThe broker's URL", default, _url)
    if not config.api_key and not _offers_login(str(answers.get("broker_url", config.broker_url))):
        say("\nAn API key of yours at that broker, amk_...; it is not shown while you type")
        answers["api_key"] = _ask("API key", None, _key, hidden=True)
    if not config.agent_id and not config.address:
        answers["address"] = _ask("\nIts name there, what stands before the @", default_name(place.workdir), _local)


def _offers_login(url: str) -> bool:
    from agent_mailer.joining.logins import find_login

    try:
        login = find_login(Path.home(), url)
    except MailerError:
        return False
    say(f"\nYou are logged in there as {login.username}: a key of the agent's own will be made.")
    return True


def _ask(question: str, default: str | None, check: Callable[[str], object], *, hidden: bool = False) -> object:
    while True:
        text = typer.prompt(question, default=default or None, hide_input=hidden)
        try:
            return check(str(text).strip())
        except MailerError as fault:
            say(f"  {fault.message}")


def _handle(text: str) -> str:
    from agent_mailer.cli.setup import require_handle

    require_handle(text)
    return text


def _local(text: str) -> str:
    if not text or not text.isprintable() or any(c.isspace() or c in "/\\" for c in text):
        raise MailerError("bad_name", "a name has no blanks and no slashes", "")
    return text


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or len(text) < len("http://x"):
        raise MailerError("bad_url", "a URL begins with http:// or https://", "")
    return text


def _key(text: str) -> str:
    from agent_mailer.cli.options import read_key

    return read_key(text) or ""


def _command(text: str) -> list[str]:
    words = split_words(text, "command")
    if not words:
        raise MailerError("empty", "a command has at least one word")
    return words


def _valid(key: str, text: str) -> str:
    from agent_mailer.config import check_value

    check_value(key, text)
    return text


def _default_handle(place: Workplace) -> str | None:
    return default_name(place.workdir) or None
