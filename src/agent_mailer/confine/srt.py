"""Anthropic's sandbox-runtime (npm): bubblewrap with a proxy that knows one host from another."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.confine.port import Access, Bounds, Kind, Network, Promise, Unconfined
from agent_mailer.disk import Disk
from agent_mailer.runtimes.port import Launch

_INSTALL = "npm install --global @anthropic-ai/sandbox-runtime, and: sudo apt install bubblewrap socat ripgrep"
_HERE = ("127.0.0.1", "localhost")
_PROVIDERS = ("*.anthropic.com", "*.openai.com", "chatgpt.com", "*.chatgpt.com")
SETTINGS = "srt.json"


class SandboxRuntime:
    kind = Kind.SRT

    def __init__(self, domains: Sequence[str], path: str) -> None:
        """`domains` may be reached beside this machine; none = those of the providers."""
        self._domains = tuple(domains) or _PROVIDERS
        found = shutil.which("srt", path=path)
        self._program = None if found is None else Path(found)

    def promises(self, bounds: Bounds) -> frozenset[Promise]:  # noqa: ARG002
        return frozenset({Promise.FIRM, Promise.PROCESSES, Promise.TOP_LEVEL})

    def why_not(self, network: Network) -> str:
        if self._program is None:
            return "there is no srt in PATH"
        if network is Network.ON:
            return "srt always stands between: network is model (with domains) or off"
        return ""

    def programs(self) -> Sequence[Path]:
        return () if self._program is None else (self._program.resolve(),)

    def mend(self, output: str) -> str:
        return _INSTALL if self._program is None or "not found" in output else "agent-mailer config edit: [sandbox]"

    def around(self, launch: Launch, bounds: Bounds) -> Launch:
        if self._program is None:
            raise Unconfined("no_sandbox", "[sandbox] kind is srt, and there is no srt in PATH", _INSTALL)
        file = bounds.turn_dir / SETTINGS
        Disk().overwrite(file, msgspec.json.encode(_settings(bounds, self._domains)))
        # Without these two it would call this machine's own ports directly, and there is no way to them.
        words = (str(self._program), "--settings", str(file), "--", "/usr/bin/env", "NO_PROXY=", "no_proxy=")
        # Its own sockets lie in its own TMPDIR, and the turn's would be too long a name for one.
        argv = (*words, f"TMPDIR={bounds.tmp}", *launch.argv)
        return msgspec.structs.replace(launch, argv=argv)


def _settings(bounds: Bounds, domains: Sequence[str]) -> dict[str, object]:
    """In the words of its own settings file."""

    def paths(access: Access) -> list[str]:
        return [str(rule.path) for rule in bounds.rules if rule.access is access and rule.path.exists()]

    hidden, written = paths(Access.HIDE), paths(Access.WRITE)
    # What it shows again beats what it lets be written below: then what lies in the folder is named, one by one.
    read = [path for one in paths(Access.READ) if one != "/" for path in _apart(Path(one), written)]
    allowed = [*_HERE, *domains] if bounds.network is Network.MODEL else []
    return {
        "filesystem": {"denyRead": hidden, "allowRead": [*read, *written], "allowWrite": written, "denyWrite": read},
        "network": {"allowedDomains": allowed, "deniedDomains": []},
    }


def _apart(folder: Path, written: Sequence[str]) -> list[str]:
    if not any(Path(path).is_relative_to(folder) for path in written):
        return [str(folder)]
    return [path for child in sorted(folder.iterdir()) for path in _apart(child, written) if path not in written]
