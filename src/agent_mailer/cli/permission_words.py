"""What each permission mode means for each agent program, in words for the person who has to choose."""

from __future__ import annotations

from agent_mailer.config import RuntimeKind
from agent_mailer.runtimes.port import PermissionMode

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
        PermissionMode.ACCEPT_EDITS: "a sandbox that writes in its folder and in /tmp, runs commands there, has no "
        "network and cannot commit (.git is read-only)",
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
