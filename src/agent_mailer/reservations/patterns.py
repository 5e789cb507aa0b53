"""Patterns of paths as somebody types them: what may be one, and how it is kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from agent_mailer.errors import UsageFault
from agent_mailer.names import printable
from agent_mailer.reservations.port import MOST_PATTERNS

LONGEST_PATTERN: Final = 200
MOST_NAMES: Final = 32


def checked(patterns: Iterable[str], project: str) -> tuple[str, ...]:
    """As they are kept: relative to the project, each once. Raises UsageFault for what reserves nothing there."""
    found = dict.fromkeys(_checked(pattern, project) for pattern in patterns)
    if not found:
        raise UsageFault("no_path", "which path? none was given", "agent-mailer mail reserve 'src/**'")
    if len(found) > MOST_PATTERNS:
        raise UsageFault(
            "too_many_paths", f"{len(found)} paths at once; at most {MOST_PATTERNS}", "reserve the folder: 'src/**'"
        )
    return tuple(found)


def _checked(pattern: str, project: str) -> str:
    text = pattern.strip()
    shown = printable(pattern, 80)
    if not text or not text.isprintable():
        raise UsageFault("bad_path", f"{shown!r} is no path", "agent-mailer mail reserve 'src/**'")
    if text.startswith("/"):
        if text != project and not text.startswith(project.rstrip("/") + "/"):
            raise _outside(shown, project)
        text = text[len(project.rstrip("/")) :].lstrip("/")
    names = [name for name in PurePosixPath(text).parts if name not in ("", ".")]
    if ".." in names:
        raise _outside(shown, project)
    found = "/".join(names) or "**"
    if len(found) > LONGEST_PATTERN or len(names) > MOST_NAMES:
        raise UsageFault("bad_path", f"{shown!r} is too long: {LONGEST_PATTERN} characters at most", "reserve a folder")
    return found


def _outside(shown: str, project: str) -> UsageFault:
    return UsageFault("outside", f"{shown!r} does not lie in the project {printable(project)}", "reserve a path in it")
