"""Landlock: the turn held by the kernel without namespaces, by a small program that becomes the agent's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from agent_mailer.confine import enter_landlock
from agent_mailer.confine.port import Access, Bounds, Kind, Network, Promise, Unconfined
from agent_mailer.runtimes.port import Launch

_PROGRAM = Path(enter_landlock.__file__)
# Never a virtual environment's own: the folder with its settings may be one that an agent writes.
ENTERS = (Path(getattr(sys, "_base_executable", sys.executable)).resolve(), _PROGRAM)
"""Python, and the program that it runs."""
_NEWER = "boot a kernel of Linux 6.2 or newer with lsm=landlock, or: agent-mailer config set sandbox.kind bwrap"


def abi_here() -> int:
    return enter_landlock.abi() if sys.platform == "linux" else 0


def enters() -> tuple[str, ...]:
    """The words before the rules."""
    return (str(ENTERS[0]), "-I", "-S", str(ENTERS[1]))


class Landlock:
    kind = Kind.LANDLOCK

    def __init__(self, abi: int | None = None) -> None:
        """`abi` is this kernel's, unless another one is given."""
        self._abi = abi_here() if abi is None else abi

    def promises(self, bounds: Bounds) -> frozenset[Promise]:
        """One socket that is named opens all: the kernel tells them apart by their kind alone."""
        held = set() if bounds.sockets else {Promise.SOCKETS, Promise.ABSTRACT}
        if self._abi >= enter_landlock.SCOPES_ABI:
            held |= {Promise.SIGNALS, Promise.ABSTRACT}
        return frozenset(held)

    def why_not(self, network: Network) -> str:
        if self._abi == 0:
            return "this kernel has no Landlock, or was started without it"
        if self._abi < enter_landlock.OLDEST_ABI:
            return f"this kernel's Landlock has ABI {self._abi}, and {enter_landlock.OLDEST_ABI} is needed"
        if os.uname().machine not in enter_landlock.MACHINES:
            return f"it is made for x86_64 and aarch64, not for {os.uname().machine}"
        if network is Network.MODEL:
            return "Landlock cannot tell one host from another: network is on or off, or kind is srt"
        return ""

    def programs(self) -> Sequence[Path]:
        return ENTERS

    def mend(self, output: str) -> str:  # noqa: ARG002 - there is one reason
        return _NEWER

    def around(self, launch: Launch, bounds: Bounds) -> Launch:
        if why := self.why_not(bounds.network):
            raise Unconfined("no_sandbox", f"[sandbox] kind is landlock: {why}", _NEWER)
        words = list(enters())
        words += ["n:inet"] if bounds.network is Network.ON else []
        words += ["n:unix"] if bounds.sockets else []
        words += [f"{right}:{path}" for right, path in _grants(bounds)]
        words += ["--", *launch.argv]
        return msgspec.structs.replace(launch, argv=tuple(words), env={**launch.env, "TMPDIR": str(bounds.tmp)})


_RIGHTS = {Access.READ: "r", Access.WRITE: "w"}


def _grants(bounds: Bounds) -> Iterator[tuple[str, Path]]:
    """What the kernel is told. It only knows what is allowed with a folder and all below it.

    So where something below is allowed less than the folder, the folder is not named but what lies in it: then no new
    name can be made in it, nor one removed.
    """
    held = {rule.path: rule.access for rule in bounds.rules if rule.firm}
    # Its devices are named by the program itself: terminals of the person are not for an agent.
    held[Path("/dev")] = Access.HIDE
    tree = _Tree(held, bounds.listed)
    # A folder whose names are told one by one costs nothing more: a worktree's `.git` in the workdir.
    soft = {rule.path: rule.access for rule in bounds.rules if not rule.firm and tree.is_split(rule.path.parent)}
    if soft:
        tree = _Tree({**held, **soft}, bounds.listed)
    yield from tree.grants(Path("/"), Access.HIDE)


class _Tree:
    """Which rules lie below which folder, so that each is found without a search."""

    def __init__(self, held: Mapping[Path, Access], listed: Sequence[Path]) -> None:
        self._held = held
        self._listed = listed
        self._least: dict[Path, Access] = {}
        self._steps: dict[Path, set[Path]] = {}
        for path, access in held.items():
            child = path
            for parent in path.parents:
                self._least[parent] = min(access, self._least.get(parent, access))
                self._steps.setdefault(parent, set()).add(child)
                child = parent

    def is_split(self, path: Path) -> bool:
        """Whether something below it is allowed less."""
        access = next(self._held[one] for one in (path, *path.parents) if one in self._held)
        return self._least.get(path, access) < access

    def grants(self, path: Path, above: Access) -> Iterator[tuple[str, Path]]:
        access = self._held.get(path, above)
        whole = self._least.get(path, access) >= access
        if whole and access is not Access.HIDE:
            yield _RIGHTS[access], path
        elif any(path.is_relative_to(folder) for folder in self._listed):
            yield "l", path
        for child in sorted(self._steps.get(path, ())) if whole else _children(path):
            yield from self.grants(child, access)


def _children(path: Path) -> list[Path]:
    """Links are none: where they lead has rights of its own."""
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.is_symlink())
    except OSError:
        return []
