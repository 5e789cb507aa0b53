"""A turn in a scope of the user's systemd, which holds the memory of all its processes to a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.process.environment import find_tool
from agent_mailer.process.holder import SCOPE, GatedHolder
from agent_mailer.processes import CONTROL_GROUPS

SCOPE_SECONDS = 5.0
"""Seconds that the user manager is given for a scope."""

_SHOW_LIMIT = """\
group=$(sed -n s/^0:://p /proc/self/cgroup)
cat "/sys/fs/cgroup$group/memory.max" "/sys/fs/cgroup/unified$group/memory.max" 2>/dev/null
"""
_NOT_HELD = "the user's systemd cannot limit memory here (the memory controller is not delegated to it)"
_THEIRS = ("AGENT_MAILER_WORKDIR", "AGENT_MAILER_PROJECT_DIR")


class Start(msgspec.Struct, frozen=True):
    """A holder at its gate; `unlimited` says why its memory is not limited although that was asked for, else empty."""

    gated: GatedHolder
    unlimited: str = ""


async def start_limited(start: Callable[..., GatedHolder], memory: int, env: Mapping[str, str], turn_id: str) -> Start:
    """What `start` starts `through` the words it is given, in a scope of `memory` bytes; without, where that cannot be.

    Raises OSError as `start` does.
    """
    try:
        through = _scope_words(memory, env, SCOPE.format(turn_id))
    except LookupError as error:
        return Start(start(), str(error))
    gated = start(through=through)
    try:
        arrived = await gated.arrived(SCOPE_SECONDS)
    except BaseException:
        gated.abandon()
        raise
    if not arrived:
        gated.abandon()
        return Start(start(), "the user's systemd gave no scope for the turn")
    return Start(gated, "" if _is_held(gated.identity.pid) else _NOT_HELD)


def why_unlimited(memory: int, env: Mapping[str, str]) -> str:
    """Why a turn with that environment would run without its limit; empty where it is held. Starts one to see."""
    from agent_mailer.process.commands import run_briefly

    try:
        words = _scope_words(memory, env, "")
        done = run_briefly((*words, "/bin/sh", "-c", _SHOW_LIMIT), env=env, cwd=Path("/"), seconds=SCOPE_SECONDS)
    except (LookupError, OSError) as error:
        return str(error)
    if done.status is None:
        return "the user's systemd did not answer"
    if str(memory) in done.output.split():
        return ""
    last = next((line.strip() for line in reversed(done.output.splitlines()) if line.strip()), "")
    return last if last and not last.isdecimal() and last != "max" else _NOT_HELD


def _scope_words(memory: int, env: Mapping[str, str], unit: str) -> tuple[str, ...]:
    """Raises LookupError where there is no systemd of the user."""
    program = find_tool("systemd-run", [Path(env[name]) for name in _THEIRS if env.get(name)])
    if program is None:
        raise LookupError("this system has no systemd-run")
    if not env.get("XDG_RUNTIME_DIR"):
        raise LookupError("no systemd of the user can be reached (XDG_RUNTIME_DIR is not set)")
    named = (f"--unit={unit}",) if unit else ()
    return (program, "--user", "--scope", "--quiet", "--collect", *named, *properties_of(memory, _own_service()), "--")


def properties_of(memory: int, service: str) -> tuple[str, ...]:
    """Of a turn's scope. Where all of the user's units end, as at a logout, ours, `service`, ends first: it interrupts
    its turns, and systemd does not end them behind its back, which would look like a crash of theirs.
    """
    order = (f"--property=Before={service}",) if service else ()
    return (f"--property=MemoryMax={memory}", "--property=MemorySwapMax=0", *order)


def _own_service() -> str:
    """The unit in which this process runs; empty where it is none."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("utf-8", "replace").splitlines():
            _, _, rest = line.partition(":")
            controllers, _, group = rest.partition(":")
            unit = group.rpartition("/")[2]
            if controllers in ("", "name=systemd") and unit.endswith(".service"):
                return unit
    return ""


def _is_held(pid: int) -> bool:
    """Whether the process is in a control group with a limit. Without the memory controller systemd sets none."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/cgroup").read_text("ascii", "replace").splitlines()
        group = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
        return any(_has_limit(tree / group.strip("/") / "memory.max") for tree in CONTROL_GROUPS)
    return False


def _has_limit(path: Path) -> bool:
    with suppress(OSError):
        return path.read_text("ascii").strip() != "max"
    return False
