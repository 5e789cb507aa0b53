"""What lies in a plugin: the files that the package carries, with this installation's program and version in them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from agent_mailer.errors import ConfigFault

NAME, MARKET = "mailer", "agent-mailer"
PLUGIN = f"{NAME}@{MARKET}"
"""How the programs name it: the plugin, and where it comes from."""

_FOLDER = Path("packaging", "plugins")


class Target(StrEnum):
    """What can be installed: the plugin of a program, or the skill alone, for any program that reads skills."""

    CLAUDE = "claude"
    CODEX = "codex"
    SKILL = "skill"


def files_of(target: Target, program: Path, version: str) -> Mapping[str, bytes]:
    """Its files by their paths, as they are to lie on the disk. Raises ConfigFault where the package has none."""
    top = _shipped() / target.value
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_file():
            found[path.relative_to(top).as_posix()] = _filled(path.read_text("utf-8"), program, version).encode()
    return found


def _filled(text: str, program: Path, version: str) -> str:
    """The program is `@PATH@` in JSON, `@PROGRAM@` in a script of the shell."""
    name = os.fspath(program)
    filled = text.replace("@VERSION@", version).replace("@PROGRAM@", shlex.quote(name))
    return filled.replace("@PATH@", json.dumps(name)[1:-1])


def _shipped() -> Path:
    """Beside the package in a wheel, at the top of the tree in an editable install."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / _FOLDER, here.parents[3] / _FOLDER):
        if folder.is_dir():
            return folder
    raise ConfigFault("no_plugins", f"{_FOLDER} is missing from this installation", "reinstall agent-mailer")
