"""Before a file is edited: is it somebody else's now? What other agents have reserved lies in the turn's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_mailer.clock import iso
from agent_mailer.names import printable
from agent_mailer.reservations.turn import who_holds

EDITS: Final = ("Edit", "Write", "NotebookEdit")
"""Claude's tools that change a file which they name."""

_NAMING: Final = ("file_path", "notebook_path")
# Older versions have one more, for several edits of a file.
_SAME: Final = {*EDITS, "MultiEdit"}


ELSEWHERE: Final = "Do other work first, or say in your answer what you would change there."


def why_not(directory: Path, fields: Mapping[str, object]) -> str:
    """Why the call must not be, empty where it may; `fields` are the hook's, as claude writes them.

    Raises OSError, ValueError where that cannot be told.
    """
    if fields.get("tool_name") not in _SAME:
        return ""
    given, cwd = fields.get("tool_input"), fields.get("cwd")
    named = [given.get(key) for key in _NAMING] if isinstance(given, dict) else []
    for name in named:
        if not isinstance(name, str) or not name:
            continue
        held = who_holds(directory, Path(cwd if isinstance(cwd, str) else "/", name))
        if held is not None:
            who, until = printable(held.owner.address, 80), iso(held.until)
            return f"{printable(name, 200)} is reserved by {who} ({held.pattern}) until {until}. {ELSEWHERE}"
    return ""
