"""What `init` asks on a terminal, and `watch` in a folder that is not set up. Nothing is written while it asks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.cli.terminal.printing import say, say_prose
from agent_mailer.cli.terminal.questions import a_command, a_handle, a_key, a_local_name, a_url, a_value_of, ask
from agent_mailer.cli.terminal.tables import choices
from agent_mailer.config import RuntimeKind
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import one_of
from agent_mailer.runtimes.port import PermissionMode

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.setup.logins import Login


DEFAULT_BROKER = "http://127.0.0.1:9800"


def on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_what_is_missing(place: Workplace) -> dict[str, object]:
    """The missing values, asked one by one until each is valid; what the broker decides is not among them."""
    from agent_mailer.setup.found import default_name, look_for_identity

    say_prose(f"Setting up {place.workdir} for an agent. Ctrl-C leaves everything as it is.")
    if known := look_for_identity(place):
        say_prose(f"{known}: that is not asked again.")
    answers: dict[str, object] = {}
    if _nothing_says_where(place):
        _ask_where(place, answers)
    at_broker = answers.get("mailbox") == "amp" or place.at_broker
    missing = dict(place.missing())
    if at_broker:
        _ask_for_broker(place, answers)
    elif "address" in missing:
        question = "\nIts address, a short name (a-z, 0-9, - and _)"
        answers["address"] = ask(question, default_name(place.workdir) or None, a_handle)
    if "runtime" in missing:
        _ask_for_runtime(place, answers)
    runs_command = answers.get("runtime", place.config.runtime) == "command"
    if "command" in missing or (runs_command and not place.config.command):
        answers["command"] = ask("\nThe command line", None, a_command)
    if "permission_mode" in missing:
        _ask_for_mode(place, answers)
    return answers


def _nothing_says_where(place: Workplace) -> bool:
    config = place.config
    said = config.mailbox or config.broker_url or config.maildir_root or config.address or config.api_key
    return not said and "AM_ROOT" not in os.environ


def _ask_where(place: Workplace, answers: dict[str, object]) -> None:
    from agent_mailer.setup.found import look_for_root

    root, login = look_for_root(place), _login()
    folder = "files on this machine; nothing else is needed"
    if root is not None:
        folder = f"the mailboxes in {root[0]}, which are there: {', '.join(root[1]) or 'none yet'}"
    broker = "an Agent Mailer broker, for agents on several machines"
    if login is not None:
        broker += f"; you are logged in at {login.broker_url} as {login.username}"
    say_prose("\nWhere its mail is:")
    say(choices((("folder", folder), ("broker", broker))))
    likely = "broker" if login is not None and root is None else "folder"
    if ask("Mailbox", likely, lambda text: one_of(text, ("folder", "broker"), "Mailbox")) == "broker":
        answers["mailbox"] = "amp"


def _ask_for_broker(place: Workplace, answers: dict[str, object]) -> None:
    from agent_mailer.setup.found import default_name

    config = place.config
    if not config.broker_url:
        login = _login()
        answers["broker_url"] = ask("\nThe broker's URL", login.broker_url if login else DEFAULT_BROKER, a_url)
    url = str(answers.get("broker_url", config.broker_url))
    if not config.api_key:
        login = _login(url)
        if login is not None:
            say_prose(f"\nYou are logged in there as {login.username}: a key of the agent's own will be made.")
        else:
            say_prose("\nAn API key of yours at that broker, amk_...; it is not shown while you type")
            answers["api_key"] = ask("API key", None, a_key, hidden=True)
    if not config.agent_id and not config.address:
        question = "\nIts name there, what stands before the @"
        answers["address"] = ask(question, default_name(place.workdir), a_local_name)


def _ask_for_runtime(place: Workplace, answers: dict[str, object]) -> None:
    from agent_mailer.setup.found import look_for_programs

    say_prose("\nWhat does the work (looking for claude and codex):")
    seen = look_for_programs(place)
    rows = [
        ("claude", seen[RuntimeKind.CLAUDE].text),
        ("codex", seen[RuntimeKind.CODEX].text),
        ("infiniti", "Infiniti (infiniti-agent)"),
        ("acp", "another agent that is described: opencode, gemini, kimi and more"),
        ("command", "any program: it gets the prompt on standard input"),
    ]
    say(choices(rows))
    ready = [kind.value for kind, program in seen.items() if program.ready]
    found = [kind.value for kind, program in seen.items() if program.found]
    answers["runtime"] = ask("Runtime", next(iter([*ready, *found]), "command"), a_value_of("runtime"))
    if answers["runtime"] == RuntimeKind.ACP and not place.config.agent:
        names = place.shelf().names()
        answers["agent"] = ask("Which", "opencode", lambda text: one_of(text, names, "agent"))


def _ask_for_mode(place: Workplace, answers: dict[str, object]) -> None:
    from agent_mailer.setup.found import refusal

    chosen = str(answers.get("runtime") or place.config.runtime or "")
    runtime = RuntimeKind(chosen) if chosen else None
    say_prose("\nWhat the agent may do while nobody watches (there is no default; choose):")
    say(choices(meanings(runtime, as_root=os.geteuid() == 0)))
    check = a_value_of("permission_mode")

    def possible(text: str) -> str:
        fault = refusal(place, {**answers, "permission_mode": check(text)})
        if fault is not None:
            raise UsageFault(fault.code, f"{fault.message}: {fault.fix}", "")
        return text

    answers["permission_mode"] = ask("Permission mode", None, possible)


def _login(url: str = "") -> Login | None:
    """The person's login at that broker, or at the usual one."""
    from agent_mailer.setup.logins import find_login

    try:
        return find_login(Path.home(), url)
    except (MailerError, RuntimeError):
        return None


_EVERYTHING = "everything you may do, unasked; for a container or a machine that can be thrown away"

_MEANINGS: dict[RuntimeKind, dict[PermissionMode, str]] = {
    RuntimeKind.CLAUDE: {
        PermissionMode.PLAN: "reads and thinks; changes nothing",
        PermissionMode.ACCEPT_EDITS: "changes files in its folder; what else it may run is up to Claude Code's own "
        "settings, and whatever would ask is denied",
        PermissionMode.BYPASS_PERMISSIONS: _EVERYTHING,
    },
    RuntimeKind.CODEX: {
        PermissionMode.PLAN: "a sandbox that only reads; no network",
        PermissionMode.ACCEPT_EDITS: "a sandbox that writes in its folder and in /tmp, commits and runs commands "
        "there; no network",
        PermissionMode.BYPASS_PERMISSIONS: f"no sandbox: {_EVERYTHING}",
    },
}


def meanings(runtime: RuntimeKind | None, *, as_root: bool) -> list[tuple[str, str]]:
    """Mode and meaning, the tamest first. `as_root`: the agent would run as root."""
    found = _MEANINGS.get(runtime) if runtime is not None else None
    if found is None:
        # Nothing is passed on to a program that we do not know.
        stated = "said, not enforced: the program's own command line decides"
        found = {
            PermissionMode.PLAN: f"reads and thinks ({stated})",
            PermissionMode.ACCEPT_EDITS: f"changes files in its folder ({stated})",
            PermissionMode.BYPASS_PERMISSIONS: _EVERYTHING,
        }
    rows = [(mode.value, found[mode]) for mode in found]
    if as_root:
        mode, text = rows[-1]
        refused = "; refused by Claude Code to root, which you are" if runtime is RuntimeKind.CLAUDE else ""
        rows[-1] = (mode, text + (refused or "; you are root: that is the whole machine"))
    return rows
