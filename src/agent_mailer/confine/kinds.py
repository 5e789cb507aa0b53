"""Which kind of sandbox a configuration means, and what of a user's machine every kind hides."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent_mailer.confine.bwrap import Bubblewrap
from agent_mailer.confine.landlock import Landlock
from agent_mailer.confine.port import Kind, Sandbox
from agent_mailer.confine.prefix import OwnPrefix
from agent_mailer.confine.srt import SandboxRuntime

BY_ITSELF = (Kind.BWRAP, Kind.LANDLOCK)
"""What `init` tries, the best first."""


def sandbox_of(
    kind: Kind, *, command: Sequence[str], domains: Sequence[str], workdir: Path, path: str
) -> Sandbox | None:
    """None for `off`. Programs are looked for in `path`, the watcher's own; what counts from a folder is no place."""
    path = os.pathsep.join(place for place in path.split(os.pathsep) if place.startswith("/"))
    match kind:
        case Kind.OFF:
            return None
        case Kind.BWRAP:
            return Bubblewrap(path)
        case Kind.LANDLOCK:
            return Landlock()
        case Kind.SRT:
            return SandboxRuntime(domains, path)
        case Kind.COMMAND:
            return OwnPrefix(command, workdir, path)


def others_hidden(others: Sequence[Path], opened: Sequence[Path], state: str, mailbox: str) -> Iterator[Path]:
    """The workdirs of other agents; of one in which this agent works, or that the user opens to it, their state."""
    for other in others:
        if any(folder.is_relative_to(other) for folder in opened):
            yield from (other / state, other / mailbox)
        else:
            yield other
