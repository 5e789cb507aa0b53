"""Anthropic's sandbox-runtime (npm): bubblewrap with a proxy that knows one host from another."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.confine import enter_landlock
from agent_mailer.confine.bounds import TEMPORARY
from agent_mailer.confine.landlock import ENTERS, abi_here, enters
from agent_mailer.confine.port import Access, Bounds, Kind, Network, Promise, Unconfined
from agent_mailer.disk import Disk
from agent_mailer.process.environment import without_theirs
from agent_mailer.process.tree import CONFINES
from agent_mailer.runtimes.port import Launch

_INSTALL = "npm install --global @anthropic-ai/sandbox-runtime, and: sudo apt install bubblewrap socat ripgrep"
_HERE = ("127.0.0.1", "localhost")
_PROVIDERS = ("*.anthropic.com", "*.openai.com", "chatgpt.com", "*.chatgpt.com")
SETTINGS = "srt.json"
_PREFIX = "agent-mailer-srt-"
_RUN = 'trap "asked=143" TERM INT; "$@"; ended=$?; rm -rf "$TMPDIR"; exit "${asked:-$ended}"'
"""srt says that all went well where a signal has ended what it runs."""


class SandboxRuntime:
    kind = Kind.SRT

    def __init__(self, domains: Sequence[str], path: str) -> None:
        """`domains` may be reached beside this machine; none = those of the providers."""
        self._domains = tuple(domains) or _PROVIDERS
        found = shutil.which("srt", path=path)
        self._program = None if found is None else Path(found)
        self._inner = [enter_landlock.ABSTRACT_ONLY] if abi_here() >= enter_landlock.SCOPES_ABI else []
        self._inner += [enter_landlock.KERNEL_ONLY] if os.geteuid() == 0 else []

    def promises(self, bounds: Bounds) -> frozenset[Promise]:
        """One socket that is named opens all that can be seen: it tells them apart by their kind alone."""
        kept = {Promise.FIRM, Promise.PROCESSES, Promise.TOP_LEVEL, Promise.ABSTRACT}
        kept |= {Promise.PROXY} if bounds.network is Network.MODEL else set()
        return frozenset(kept if bounds.sockets else {*kept, Promise.SOCKETS})

    def why_not(self, network: Network) -> str:
        if self._program is None:
            return "there is no srt in PATH"
        if network is Network.ON:
            return "srt always stands between: network is model (with domains) or off"
        return ""

    def programs(self) -> Sequence[Path]:
        if self._program is None:
            return ()
        return (self._program, *(ENTERS if self._inner else ()))

    def mend(self, output: str) -> str:
        if self._program is None or "not found" in output:
            return _INSTALL
        return "agent-mailer config edit: [sandbox]" if output else "agent-mailer config set sandbox.network model"

    def around(self, launch: Launch, bounds: Bounds) -> Launch:
        if self._program is None:
            raise Unconfined("no_sandbox", "[sandbox] kind is srt, and there is no srt in PATH", _INSTALL)
        if bounds.sockets and enter_landlock.KERNEL_ONLY in self._inner:
            why = "[sandbox] kind is srt, which does not hold root where an ssh-agent is named"
            raise Unconfined("no_sandbox", why, "be no root, or: agent-mailer config set sandbox.kind bwrap")
        # Its own sockets, which must be seen within, by a short name.
        sockets = tempfile.mkdtemp(prefix=_PREFIX, dir=TEMPORARY[0])
        own = [sockets, *(str(one) for one in self._program.resolve().parents if (one / "package.json").is_file())][:2]
        file = bounds.turn_dir / SETTINGS
        Disk().overwrite(file, msgspec.json.encode(_settings(bounds, self._domains, own)))
        words = ["/bin/sh", "-c", _RUN, "srt", str(self._program), "--settings", str(file), "--"]
        # Without these two it would call this machine's own ports directly, and there is no way to them.
        words += ["/usr/bin/env", "-u", CONFINES, "NO_PROXY=", "no_proxy=", f"TMPDIR={bounds.tmp}"]
        # It looks for node, bwrap and others itself, outside: not where an agent may have put one.
        written = [rule.path for rule in bounds.rules if rule.access is Access.WRITE]
        outside = without_theirs(launch.env, written)
        words += [f"{name}={value}" for name, value in launch.env.items() if outside.get(name) != value]
        if self._inner:
            words += [*enters(), *self._inner, "--"]
        env = {**outside, CONFINES: "1", "TMPDIR": sockets}
        return msgspec.structs.replace(launch, argv=(*words, *launch.argv), env=env)


def _settings(bounds: Bounds, domains: Sequence[str], own: Sequence[str]) -> dict[str, object]:
    """In the words of its own settings file. `own`: what it needs within, where it runs a part of itself."""

    def paths(access: Access) -> list[str]:
        return [str(rule.path) for rule in bounds.rules if rule.access is access and rule.path.exists()]

    # What is hidden can be written, and is gone with the turn.
    fresh = [str(path) for path in bounds.fresh]
    hidden, written = [*paths(Access.HIDE), *fresh], [path for path in paths(Access.WRITE) if path not in fresh]
    # What it shows again beats what it lets be written below: then what lies in the folder is named, one by one.
    read = [path for one in paths(Access.READ) if one != "/" for path in _apart(Path(one), written)]
    allowed = [*_HERE, *domains] if bounds.network is Network.MODEL else []
    return {
        "filesystem": {
            "denyRead": hidden,
            "allowRead": [*read, *written, *own],
            "allowWrite": written,
            "denyWrite": read,
        },
        "network": {"allowedDomains": allowed, "deniedDomains": [], "allowAllUnixSockets": bool(bounds.sockets)},
    }


def _apart(folder: Path, written: Sequence[str]) -> list[str]:
    if not any(Path(path).is_relative_to(folder) for path in written):
        return [str(folder)]
    return [path for child in sorted(folder.iterdir()) for path in _apart(child, written) if path not in written]
