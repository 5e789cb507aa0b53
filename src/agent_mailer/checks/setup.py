"""Is the workdir set up: its state folder, its configuration, and who AGENT.md says the agent is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent_mailer.checks.result import CheckResult, failed, guarded, ok, warning
from agent_mailer.config import Loaded
from agent_mailer.disk import read_regular
from agent_mailer.identity import IDENTITY_FILES, MOST_BYTES, parse_identity, read_identity, require_agreement
from agent_mailer.state.folder import StateFolder


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
            flags = " ".join(f"{flag} ..." for _, flag in lacking)
            named = ", ".join(key for key, _ in lacking)
            return failed("config", path, f"missing: {named}", f"agent-mailer init {flags}")
        if loaded.unknown:
            named = ", ".join(loaded.unknown)
            return warning("config", path, f"keys that mean nothing here: {named}", "agent-mailer config edit")
        config = loaded.config
        runtime, mode = config.runtime, config.permission_mode
        return ok("config", path, f"complete: runtime {runtime}, permission mode {mode}, mailbox {config.mailbox_kind}")

    return guarded("config", path, look)


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
                "agent_md", path, "holds the broker's key (api_key), and the agent reads this file", f"$EDITOR {path}"
            )
        if len(data) > MOST_BYTES:
            text = f"larger than {MOST_BYTES} bytes: what stands behind them is not looked at"
            return warning("agent_md", path, text, f"$EDITOR {path}")
        found = parse_identity(data.decode("utf-8", "replace"))
        return ok("agent_md", path, f"names {', '.join(found)}" if found else "names no agent")

    return guarded("agent_md", path, look)


def _identity_file(workdir: Path) -> Path:
    # os.path: a folder that may not be entered is no error here.
    there = (workdir / name for name in IDENTITY_FILES if os.path.lexists(workdir / name))
    return next(there, workdir / IDENTITY_FILES[0])
