"""Lines of bounded size from a descriptor, and back to one."""

from __future__ import annotations

import os
from collections.abc import Iterator

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Above the largest message, however it is escaped; what is longer is passed over, not kept."""

_CHUNK = 64 * 1024


def lines(fd: int, limit: int = MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """Each line without its end, as soon as it is complete; None for one of more than `limit` bytes. Raises OSError."""
    held = bytearray()
    passing = False
    while chunk := os.read(fd, _CHUNK):
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            held += chunk[begin:end]
            yield None if passing or len(held) > limit else bytes(held)
            held.clear()
            passing = False
            begin = end + 1
        held += chunk[begin:]
        if passing or len(held) > limit:
            held.clear()
            passing = True
    if passing:
        yield None
    elif held:
        yield bytes(held)


def write_line(fd: int, line: bytes) -> None:
    """Raises OSError; BrokenPipeError where nobody reads any more."""
    view = memoryview(line + b"\n")
    while view:
        view = view[os.write(fd, view) :]
