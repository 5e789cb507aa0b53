"""One supervised child. Only this room starts, signals or waits for processes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_mailer.process.clocks import Activity, Limits, next_check, verdict
    from agent_mailer.process.holder import (
        PROMPT_FILE,
        STDERR_FILE,
        STDOUT_FILE,
        TURN_ID_VARIABLE,
        GatedHolder,
        start_behind_gate,
    )
    from agent_mailer.process.identity import ProcessIdentity, boot_id, identify, is_alive, read_stat, runs_for
    from agent_mailer.process.output import LineFramer, OutputTail, tail_text
    from agent_mailer.process.supervise import EXIT_FILE, Supervised, adopt, read_exit
    from agent_mailer.process.tree import EndReport, end_tree, members, sweep

__all__ = [
    "EXIT_FILE",
    "PROMPT_FILE",
    "STDERR_FILE",
    "STDOUT_FILE",
    "TURN_ID_VARIABLE",
    "Activity",
    "EndReport",
    "GatedHolder",
    "Limits",
    "LineFramer",
    "OutputTail",
    "ProcessIdentity",
    "Supervised",
    "adopt",
    "boot_id",
    "end_tree",
    "identify",
    "is_alive",
    "members",
    "next_check",
    "read_exit",
    "read_stat",
    "runs_for",
    "start_behind_gate",
    "sweep",
    "tail_text",
    "verdict",
]

_HOMES = {
    "clocks": ("Activity", "Limits", "next_check", "verdict"),
    "holder": ("PROMPT_FILE", "STDERR_FILE", "STDOUT_FILE", "TURN_ID_VARIABLE", "GatedHolder", "start_behind_gate"),
    "identity": ("ProcessIdentity", "boot_id", "identify", "is_alive", "read_stat", "runs_for"),
    "output": ("LineFramer", "OutputTail", "tail_text"),
    "supervise": ("EXIT_FILE", "Supervised", "adopt", "read_exit"),
    "tree": ("EndReport", "end_tree", "members", "sweep"),
}


def __getattr__(name: str) -> object:
    """Load a name's module when it is first asked for: who reads state needs identities, and not asyncio."""
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
