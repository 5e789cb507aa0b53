"""Before a file is edited: is it somebody else's now? What other agents have reserved lies in the turn's folder."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent_mailer.clock import iso
from agent_mailer.disk import Disk
from agent_mailer.names import printable
from agent_mailer.reservations.calls import Line, note
from agent_mailer.reservations.turn import held_in, names_of, who_holds

PATCH: Final = "apply_patch"

EDITS: Final = ("Edit", "Write", "NotebookEdit", PATCH)
"""The tools that change files which they name: claude's, and codex's one."""

_NAMING: Final = ("file_path", "notebook_path")
# Older versions have one more, for several edits of a file.
_SAME: Final = {*EDITS, "MultiEdit"}


_IN_A_PATCH: Final = re.compile(r"^\s*\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+?)\s*$", re.MULTILINE)

ELSEWHERE: Final = "Do other work first, or say in your answer what you would change there."


def why_not(directory: Path, fields: Mapping[str, object]) -> str:
    """Why the call must not be, empty where it may; `fields` are the hook's, as claude and codex write them.

    Raises OSError, ValueError where that cannot be told.
    """
    if fields.get("tool_name") not in _SAME:
        return ""
    cwd = fields.get("cwd")
    for name in _named(fields.get("tool_name"), fields.get("tool_input")):
        held = who_holds(directory, Path(cwd if isinstance(cwd, str) else "/", name))
        if held is not None:
            who, until = printable(held.owner.address, 80), iso(held.until)
            return f"{printable(name, 200)} is reserved by {who} ({held.pattern}) until {until}. {ELSEWHERE}"
    return ""


def note_edits(disk: Disk, directory: Path, fields: Mapping[str, object]) -> None:
    """That the turn is about to edit these files itself: where it has them reserved, others are not told otherwise.
    Raises ValueError, and OSError where nobody can tell what is reserved.
    """
    held = held_in(directory) if fields.get("tool_name") in _SAME else None
    if held is None or not held.own:
        return
    cwd = fields.get("cwd")
    for name in _named(fields.get("tool_name"), fields.get("tool_input")):
        for path in names_of(held.project, Path(cwd if isinstance(cwd, str) else "/", name)):
            with suppress(OSError):
                note(disk, directory, Line(time.time(), edit=path))


def _named(tool: object, given: object) -> Sequence[str]:
    """The files that a call would change. Raises ValueError for a patch that names none."""
    if not isinstance(given, dict):
        given = {"command": given} if tool == PATCH else {}
    if tool != PATCH:
        return [name for name in map(given.get, _NAMING) if isinstance(name, str) and name]
    texts = [text for text in given.values() if isinstance(text, str)]
    found = [name for text in texts for name in _IN_A_PATCH.findall(text)]
    if not found:
        raise ValueError("the patch names no file")
    return list(dict.fromkeys(found))
