"""bubblewrap: the turn in namespaces of its own, as words before its command line."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from agent_mailer.confine import enter_landlock
from agent_mailer.confine.bounds import TEMPORARY
from agent_mailer.confine.landlock import ENTERS, abi_here, enters
from agent_mailer.confine.port import Access, Bounds, Kind, Network, Promise, Rule, Unconfined
from agent_mailer.runtimes.port import Launch

_INSTALL = "sudo apt install bubblewrap, or: agent-mailer config set sandbox.kind landlock"
_OTHERWISE = "agent-mailer config set sandbox.kind landlock"
_NO_NAMESPACES = (
    "sudo sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 "
    "user.max_user_namespaces=10000, or: agent-mailer config set sandbox.kind landlock"
)


class Bubblewrap:
    kind = Kind.BWRAP

    def __init__(self, path: str, abi: int | None = None) -> None:
        """`path`: where the program is looked for; never the agent's. `abi`: this kernel's Landlock, unless given."""
        found = shutil.which("bwrap", path=path)
        self._program = None if found is None else Path(found).resolve()
        self._scopes = (abi_here() if abi is None else abi) >= enter_landlock.SCOPES_ABI

    def promises(self, bounds: Bounds) -> frozenset[Promise]:
        """Sockets without a path: those of another network are its own; of one network Landlock tells them apart."""
        apart = self._scopes or bounds.network is Network.OFF
        return frozenset(Promise) - {Promise.SIGNALS, Promise.PROXY, *(() if apart else (Promise.ABSTRACT,))}

    def why_not(self, network: Network) -> str:
        if self._program is None:
            return "there is no bwrap in PATH"
        if network is Network.MODEL:
            return "bubblewrap cannot tell one host from another: network is on or off, or kind is srt"
        return ""

    def programs(self) -> Sequence[Path]:
        return () if self._program is None else (self._program, *(ENTERS if self._scopes else ()))

    def mend(self, output: str) -> str:
        if self._program is None:
            return _INSTALL
        namespaces = ("namespace", "uid map", "Operation not permitted", "No space left")
        return _NO_NAMESPACES if any(word in output for word in namespaces) else _OTHERWISE

    def around(self, launch: Launch, bounds: Bounds) -> Launch:
        if self._program is None:
            raise Unconfined("no_sandbox", "[sandbox] kind is bwrap, and there is no bwrap in PATH", _INSTALL)
        words = [
            str(self._program),
            *("--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
            *("--cap-drop", "ALL"),
            *(("--unshare-net",) if bounds.network is Network.OFF else ()),
            *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        ]
        for name in enter_landlock.OBEYED:
            if os.path.lexists(f"/proc/{name}"):
                words += ["--ro-bind", f"/proc/{name}", f"/proc/{name}"]
        for rule in bounds.rules[1:]:
            words += _mount(rule, bounds)
        if bounds.program.is_symlink() and bounds.access(bounds.program) is Access.HIDE:
            words += ["--symlink", os.path.realpath(bounds.program), str(bounds.program)]
        for folder in _sealed(bounds):
            words += ["--remount-ro", folder]
        words += ["--chdir", str(launch.cwd), "--"]
        if self._scopes and bounds.network is not Network.OFF:
            words += [*enters(), enter_landlock.ABSTRACT_ONLY, "--"]
        words += launch.argv
        return msgspec.structs.replace(launch, argv=tuple(words), env={**launch.env, "TMPDIR": str(TEMPORARY[0])})


def _mount(rule: Rule, bounds: Bounds) -> Iterator[str]:
    """Nothing for what is not there: there is no place for a mount, and nothing to hide."""
    path = str(rule.path)
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if rule.path in bounds.fresh:
        yield from ("--tmpfs", path)
    elif rule.access is not Access.HIDE:
        yield from ("--bind" if rule.access is Access.WRITE else "--ro-bind", path, path)
    elif rule.path in TEMPORARY:
        yield from ("--bind", str(bounds.tmp), path)
    elif stat.S_ISDIR(mode):
        yield from ("--tmpfs", path)
    else:
        yield from ("--ro-bind", "/dev/null", path)


def _sealed(bounds: Bounds) -> Iterator[str]:
    """Hidden folders, once all is mounted that lies in them: nothing is kept there that would be lost."""
    for rule in bounds.rules:
        if rule.access is Access.HIDE and rule.path not in TEMPORARY and rule.path.is_dir():
            yield str(rule.path)
