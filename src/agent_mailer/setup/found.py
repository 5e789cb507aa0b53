"""What a folder and a machine have for an agent already: agent programs and their logins, mailboxes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.config import RuntimeKind
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.names import printable
from agent_mailer.runtimes.port import ASKS, FENCE, PermissionMode, Probe, Runtime, RuntimeMissing

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

_NAMES = {RuntimeKind.CLAUDE: "Claude Code", RuntimeKind.CODEX: "Codex"}

LOOK_SECONDS = 10.0
"""For one question to one program; it is asked before a person's eyes."""


class ProgramSeen(msgspec.Struct, frozen=True):
    """An agent program as it is here: `ready` = found, and logged in as far as it tells; `text` for people."""

    found: bool
    ready: bool
    text: str


def look_for_programs(place: Workplace) -> dict[RuntimeKind, ProgramSeen]:
    """Ask claude and codex, side by side, for version and login. Nothing is written, no model is asked."""
    kinds = (RuntimeKind.CLAUDE, RuntimeKind.CODEX)
    with ThreadPoolExecutor(len(kinds)) as pool:
        return dict(zip(kinds, pool.map(lambda kind: _look(place, kind), kinds), strict=True))


def look_for_root(place: Workplace) -> tuple[Path, tuple[str, ...]] | None:
    """A root of folder mailboxes that is found from here, and whose they are; None where there is none yet."""
    from agent_mailer.mailbox.maildir.layout import mailboxes

    try:
        root = place.maildir_root()
        return (root, tuple(sorted(mailboxes(root)))) if (root / "agents").is_dir() else None
    except (MailerError, OSError):
        return None


def look_for_identity(place: Workplace) -> str:
    """What AGENT.md, or another client's configuration in this folder, says of the agent; empty where neither does."""
    from agent_mailer.config import Source

    config, loaded = place.config, place.loaded
    named = [(config.address, "address"), (config.broker_url, "broker_url"), (config.agent_name, "agent_name")]
    told = [(text, loaded.source(key)) for text, key in named if text]
    of_folder = [(text, source) for text, source in told if source in (Source.AGENT_MD, Source.FILE)]
    if not of_folder:
        return ""
    where = " and ".join(dict.fromkeys(source.value for _, source in of_folder))
    return (
        f"{where} {'name' if ' and ' in where else 'names'} {printable(' at '.join(t for t, _ in of_folder[:2]), 200)}"
    )


def refusal(place: Workplace, values: dict[str, object]) -> ConfigFault | None:
    """What the agent program would say to this configuration, with `values`; None where nothing speaks against it."""
    from agent_mailer.assemble import Workplace

    try:
        Workplace(place.workdir, {**place.flags, **values}).runtime()
    except ConfigFault as fault:
        return fault
    except (MailerError, OSError):
        pass  # a program that is missing can be installed later
    return None


def missing_program(place: Workplace) -> RuntimeMissing | None:
    """Why the agent program could not be started now: it can be installed later."""
    try:
        place.runtime().probes(place.workdir)
    except RuntimeMissing as fault:
        return fault
    except (MailerError, OSError):
        pass
    return None


def default_name(workdir: Path) -> str:
    """The folder's name, where an agent can be called so."""
    from agent_mailer.mailbox.maildir.layout import USER, is_handle

    name = workdir.name.lower()
    return name if is_handle(name) and name != USER else ""


def _look(place: Workplace, kind: RuntimeKind) -> ProgramSeen:
    from agent_mailer.assemble import Workplace

    # Which mode does not matter to these questions; one that nobody is refused makes the adapter.
    flags: dict[str, object] = {"runtime": kind.value, "permission_mode": PermissionMode.PLAN.value}
    commands = {RuntimeKind.CLAUDE: "claude_command", RuntimeKind.CODEX: "codex_command"}
    flags[commands[kind]] = getattr(place.config, commands[kind])
    try:
        runtime = Workplace(place.workdir, flags).runtime()
        probes = runtime.probes(place.workdir)
    except RuntimeMissing as fault:
        text = (
            f"{_NAMES[kind]}: not found in PATH" if fault.code == "runtime_missing" else f"{fault.message}: {fault.fix}"
        )
        return ProgramSeen(found=False, ready=False, text=printable(text, 200))
    except (MailerError, OSError) as fault:
        return ProgramSeen(found=True, ready=False, text=printable(str(fault), 200))
    answers = [_ask(runtime, probe) for probe in probes if probe.name not in (FENCE, ASKS)]
    return ProgramSeen(found=True, ready=all(ok for ok, _ in answers), text="; ".join(text for _, text in answers))


def _ask(runtime: Runtime, probe: Probe) -> tuple[bool, str]:
    from agent_mailer.process.commands import run_briefly

    try:
        done = run_briefly(probe.argv, env=probe.env, cwd=probe.cwd, seconds=LOOK_SECONDS)
    except OSError as error:
        return False, printable(f"{probe.argv[0]}: {error.strerror}", 200)
    if done.status is None:
        return False, f"{os.path.basename(probe.argv[0])} does not tell its {probe.name}"  # noqa: PTH119
    finding = runtime.read_probe(probe, done.status, done.output)
    return finding.ok, finding.text if finding.ok or not finding.fix else f"{finding.text}: {finding.fix}"
