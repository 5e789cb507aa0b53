"""Which programs a service needs, and the PATH in which it finds them.

A user manager's PATH lacks the folders in which a person's shell finds them: those of nvm, npm, uv and pipx.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault

SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_COMMAND = "agent-mailer"
_HASH_BANG = re.compile(rb"#!\s*(\S+)(?:[ \t]+(?:-S[ \t]+)?([A-Za-z0-9][A-Za-z0-9._+-]*))?")


def own_program(path: str) -> Path:
    """The command of this installation, by the name in `path` that outlives an upgrade where there is one.

    Raises ConfigFault where this installation has no command.
    """
    beside = Path(sys.executable).parent / _COMMAND
    found = shutil.which(_COMMAND, path=path)
    if found is not None and beside.exists() and Path(found).resolve() == beside.resolve():
        return Path(found).absolute()
    if os.access(beside, os.X_OK):
        return beside.absolute()
    raise ConfigFault("no_program", f"{beside} is not there", "reinstall agent-mailer")


def interpreter_of(program: Path, path: str) -> Path | None:
    """What runs the script `program`, where the script leaves it to PATH (`#!/usr/bin/env node`)."""
    try:
        match = _HASH_BANG.match(read_regular(program, 256, follow=True))
    except OSError:
        return None
    if match is None or not match[1].endswith(b"/env") or match[2] is None:
        return None
    found = shutil.which(match[2].decode("ascii"), path=path)
    return None if found is None else Path(found).absolute()


def needed_programs(agent: Path, path: str, *, node: bool) -> tuple[Path, ...]:
    """The agent program and what it runs on; `node`: it, or what it starts, may be written for node."""
    found = [agent]
    if (interpreter := interpreter_of(agent, path)) is not None:
        found.append(interpreter)
    if node and (program := shutil.which("node", path=path)) is not None:
        found.append(Path(program).absolute())
    return tuple(dict.fromkeys(found))


def search_path(programs: Sequence[Path], more: Sequence[Path] = ()) -> tuple[str, ...]:
    """The folders of `programs`, then `more`, then the system's. Raises ConfigFault for one that PATH cannot hold."""
    folders = tuple(dict.fromkeys([*(str(p.parent) for p in programs), *map(str, more), *SYSTEM_PATH]))
    for folder in folders:
        if ":" in folder:
            raise ConfigFault("bad_path", f"{folder} cannot be in PATH: it has a colon", "use another folder")
    return folders


def vanished(programs: Sequence[Path]) -> list[Path]:
    """Those that can no longer be started."""
    return [path for path in programs if not os.access(path, os.X_OK)]
