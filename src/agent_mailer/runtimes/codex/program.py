"""The native program behind the npm wrapper.

The wrapper is a Node program that hands on some signals and not others: killed, it leaves codex and its tools running.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from agent_mailer.runtimes.port import RuntimeMissing
from agent_mailer.runtimes.programs import find_program

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
        return program
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
