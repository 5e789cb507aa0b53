"""A sandbox of the user's own: words that stand before the agent's command line."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.confine.port import Bounds, Kind, Network, Promise, Unconfined
from agent_mailer.runtimes.port import Launch

_FIX = "agent-mailer config edit: [sandbox] command"


class OwnPrefix:
    """`words`: the program and its arguments. What the turn is held to it knows from the environment and by itself.

    It finds TMPDIR, AGENT_MAILER_WORKDIR and AGENT_MAILER_TURN_DIR set, and is asked for the files and the network
    alone, since nothing is known of it.
    """

    kind = Kind.COMMAND

    def __init__(self, words: Sequence[str], workdir: Path, path: str) -> None:
        self._words = tuple(words)
        name = words[0] if words else ""
        found = shutil.which(str(workdir / name) if "/" in name else name, path=path) if name else None
        self._program = None if found is None else Path(found).absolute()

    def promises(self, bounds: Bounds) -> frozenset[Promise]:  # noqa: ARG002 - nothing is known of it
        return frozenset()

    def why_not(self, network: Network) -> str:  # noqa: ARG002 - what it can hold shows when it is tried
        if not self._words:
            return "[sandbox] command is empty"
        return "" if self._program is not None else f"{self._words[0]} cannot be found or executed"

    def programs(self) -> Sequence[Path]:
        return () if self._program is None else (self._program,)

    def mend(self, output: str) -> str:  # noqa: ARG002 - nobody knows what its words mean
        return _FIX

    def around(self, launch: Launch, bounds: Bounds) -> Launch:
        if self._program is None:
            raise Unconfined("no_sandbox", f"[sandbox] command: {self.why_not(bounds.network)}", _FIX)
        argv = (str(self._program), *self._words[1:], *launch.argv)
        return msgspec.structs.replace(launch, argv=argv, env={**launch.env, "TMPDIR": str(bounds.tmp)})
