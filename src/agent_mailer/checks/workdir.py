"""Is the workdir set up: state folder, configuration, documents, templates?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.config import Config, Loaded, RuntimeKind
from agent_mailer.config_faults import EDIT, gone_by_mistake, incomplete, mistyped, told
from agent_mailer.config_tables import Notify
from agent_mailer.confine.port import Kind
from agent_mailer.disk import read_regular
from agent_mailer.errors import mend, quoted
from agent_mailer.identity import IDENTITY_FILES, MOST_BYTES, parse_identity, read_identity, require_agreement
from agent_mailer.names import printable
from agent_mailer.prompts import PromptKind, template_fault
from agent_mailer.state.folder import StateFolder
from agent_mailer.trust.standing import AGENTS
from agent_mailer.trust.workdir import Trust


def check_folder(folder: StateFolder) -> CheckResult:
    """There, private, and of a format that we know."""

    def look() -> CheckResult:
        folder.check()
        return ok("folder", folder.path, "there, private, of a known format")

    return guarded("folder", folder.path, look)


def check_config(
    path: Path, load: Callable[[], Loaded], missing: Callable[[], Sequence[tuple[str, str]]]
) -> CheckResult:
    """Every value is one, nothing that `watch` needs is missing, and no key is misspelt."""

    def look() -> CheckResult:
        loaded, lacking = load(), missing()
        if lacking:
            raise incomplete(path, loaded, lacking)
        if wrong := mistyped(loaded.unknown):
            return warning("config", path, told(path, wrong), EDIT)
        if loaded.unknown:
            return warning("config", path, f"keys that mean nothing here: {', '.join(loaded.unknown)}", EDIT)
        config = loaded.config
        counts = {"runtime": config.runtime, "permission mode": config.permission_mode, "mailbox": config.mailbox_kind}
        # What is there and nobody trusts has no value here; of that tells the check of trust.
        return ok(
            "config", path, f"complete: {', '.join(f'{what} {value}' for what, value in counts.items() if value)}"
        )

    return guarded("config", path, look)


def check_trust(path: Path, trust: Trust, load: Callable[[], Loaded]) -> CheckResult:
    """A person trusts what widens power there; what he does not trust does not count."""

    def look() -> CheckResult:
        trust.require()
        verdict = trust.verdict
        # That a key of them was mistyped is told by the configuration's own check.
        if changed := [name for name in verdict.changed if name not in gone_by_mistake(load(), verdict.gone)]:
            return warning("trust", path, f"not as it was trusted: {', '.join(changed)}", trust.command)
        alone = (
            "; without a proved sandbox the agent may trust for itself"
            if load().config.sandbox.kind is Kind.OFF
            else ""
        )
        return ok("trust", path, f"as trusted{alone}")

    return guarded("trust", path, look)


def check_identity(workdir: Path, configured: Mapping[str, str]) -> CheckResult:
    """AGENT.md and the configuration mean the same agent."""
    path = _identity_file(workdir)

    def look() -> CheckResult:
        require_agreement(workdir, configured)
        named = ", ".join(f"{key} {value}" for key, value in read_identity(workdir).items() if key in configured)
        if not named:
            return ok("identity", path, f"no file names an agent; the configuration says {configured.get('address')}")
        return ok("identity", path, f"agrees: {named}")

    return guarded("identity", path, look)


def check_agent_md(workdir: Path, api_key: str) -> CheckResult:
    """The identity file can be read whole, and does not hold the broker's key, which the agent must never see."""
    path = _identity_file(workdir)

    def look() -> CheckResult:
        try:
            data = read_regular(path, MOST_BYTES, follow=True)
        except FileNotFoundError:
            return ok("agent_md", path, "not there; nothing needs it")
        if api_key and api_key.encode() in data:
            return warning(
                "agent_md",
                path,
                "holds the broker's key (api_key), and the agent reads this file",
                f"$EDITOR {quoted(path)}",
            )
        if len(data) > MOST_BYTES:
            text = f"larger than {MOST_BYTES} bytes: what stands behind them is not looked at"
            return warning("agent_md", path, text, f"$EDITOR {quoted(path)}")
        found = parse_identity(data.decode("utf-8", "replace"))
        return ok("agent_md", path, f"names {', '.join(found)}" if found else "names no agent")

    return guarded("agent_md", path, look)


def _identity_file(workdir: Path) -> Path:
    # os.path: a folder that may not be entered is no error here.
    there = (workdir / name for name in IDENTITY_FILES if os.path.lexists(workdir / name))
    return next(there, workdir / IDENTITY_FILES[0])


def check_notify(notify: Notify, program: Callable[[], Path]) -> list[CheckResult]:
    """What would tell the operator is there. Whether it does `test-notify` finds out."""
    return [
        *([_notify_command(program)] if notify.command else []),
        *([_apprise(notify.apprise)] if notify.apprise else []),
    ]


def _notify_command(program: Callable[[], Path]) -> CheckResult:
    key = "notify.command"
    return guarded("notify", key, lambda: ok("notify", key, f"{program()}, not tried (agent-mailer test-notify)"))


def _apprise(urls: Sequence[str]) -> CheckResult:
    from agent_mailer.installed import command_for
    from agent_mailer.watch.apprising import is_installed

    if not is_installed():
        why = "apprise is not installed: nobody is told by it"
        return failed("notify", "notify.apprise", why, command_for("apprise"))
    return ok("notify", "notify.apprise", f"{len(urls)} of them, not tried (agent-mailer test-notify)")


def check_approve(config: Config) -> list[CheckResult]:
    """That what is to be asked about is asked about, and that somebody hears of it."""
    notify, where, rules = config.notify, "approve.tools", config.approve.tools

    def look() -> CheckResult:
        if config.runtime not in (RuntimeKind.CLAUDE, RuntimeKind.CODEX):
            why = f"counts for claude and codex: runtime {config.runtime} asks by itself (jsonl) or not"
            return failed("approve", where, why, "agent-mailer config set approve.tools ''")
        if not (notify.command or notify.address or notify.apprise):
            why = "nobody is told of a question: it stands in agent-mailer approvals list"
            return warning("approve", where, why, "agent-mailer config set notify.command ...")
        return ok("approve", where, f"a person is asked first: {printable(', '.join(rules), 300)}")

    return [guarded("approve", where, look)] if rules else []


def check_templates(folder: Path) -> list[CheckResult]:
    """Every override can be used; one that cannot would be passed over for the shipped template."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return [ok("templates", folder, "no overrides; the shipped templates are used")]
    except OSError as error:
        return [warning("templates", folder, f"cannot be read: {error.strerror}", mend(error, folder))]
    bad = [fault for name in names if (fault := _template(folder / name)) is not None]
    return bad or [ok("templates", folder, f"valid: {', '.join(names)}" if names else "no overrides")]


def _template(path: Path) -> CheckResult | None:
    known = {f"{kind}.md": kind for kind in PromptKind}
    kind = known.get(path.name)
    if path.name == AGENTS and path.is_dir():
        # Descriptions of agents, which are read when one of them is meant.
        return None
    if kind is None:
        if path.name.startswith(".") or path.name.endswith("~"):
            return None
        text = f"is no template; there are {', '.join(known)}"
        return warning("templates", path, text, f"mv {quoted(path)} to one of these names, or remove it")
    try:
        fault = template_fault(kind, Template(read_regular(path).decode("utf-8")))
    except OSError as error:
        fault = error.strerror or str(error)
    except UnicodeDecodeError:
        fault = "it is not UTF-8 text"
    return failed("templates", path, f"cannot be used: {fault}", f"$EDITOR {quoted(path)}") if fault else None
