"""Codex's program: which file is started, and which version it is as far as its place tells."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import read_regular
from agent_mailer.runtimes.port import RuntimeMissing
from agent_mailer.runtimes.programs import find_program, with_interpreter

_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_PACKAGE_LIMIT = 1024 * 1024

_PACKAGE = Path("@openai") / "codex"
_WRAPPER = _PACKAGE / "bin" / "codex.js"
_MACHINES = {"x86_64": ("x64", "x86_64"), "amd64": ("x64", "x86_64"), "arm64": ("arm64", "aarch64")}
_MACHINES["aarch64"] = _MACHINES["arm64"]
_SYSTEMS = {"linux": ("linux", "unknown-linux-musl"), "darwin": ("darwin", "apple-darwin")}


def find_codex(name: str, workdir: Path, env: Mapping[str, str]) -> Path:
    """The program to start for `codex_command`. Raises RuntimeMissing."""
    program = find_program(name, workdir, env, "codex_command")
    wrapper = program.resolve()
    if wrapper.parts[-4:] != _WRAPPER.parts:
        return with_interpreter(program, workdir, env)
    native = _native(wrapper)
    if native is None:
        raise RuntimeMissing(
            "codex_incomplete",
            f"{program} is codex's wrapper, and the program it starts is not installed beside it",
            "npm install -g @openai/codex --include=optional",
        )
    return native


def _native(wrapper: Path) -> Path | None:
    system = _SYSTEMS.get(sys.platform)
    machine = _MACHINES.get(platform.machine().lower())
    if system is None or machine is None:
        return None
    vendor = Path("vendor") / f"{machine[1]}-{system[1]}" / "bin" / "codex"
    package = Path("node_modules") / f"{_PACKAGE}-{system[0]}-{machine[0]}"
    # Where Node would look for the package of this platform: in every node_modules on the way up.
    places = [folder / package / vendor for folder in wrapper.parents]
    places.append(wrapper.parents[1] / vendor)
    return next((place for place in places if place.is_file()), None)


def version_of(program: Path) -> tuple[int, int, int] | None:
    """As far as the place of the program tells it: npm's package."""
    for folder in program.resolve().parents[:4]:
        with suppress(OSError, ValueError, AttributeError):
            package = json.loads(read_regular(folder / "package.json", _PACKAGE_LIMIT, follow=True))
            found = _NUMBERS.match(str(package.get("version", "")))
            if found and str(package.get("name", "")).startswith("@openai/codex"):
                return int(found[1]), int(found[2]), int(found[3])
    return None
