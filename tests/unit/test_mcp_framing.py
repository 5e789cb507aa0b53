"""Lines from a descriptor: whole, in order, and never larger than we want to hold."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from agent_mailer.turn_tools.mcp import lines, write_line


def read_back(pieces: Sequence[bytes], limit: int = 10) -> list[bytes | None]:
    """What `lines` makes of these writes."""
    source, sink = os.pipe()

    def feed() -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(sink, view) :]
        os.close(sink)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        return list(lines(source, limit))
    finally:
        feeder.join()
        os.close(source)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([], []),
        ([b"one\ntwo\n"], [b"one", b"two"]),
        ([b"o", b"n", b"e\nt", b"wo\n"], [b"one", b"two"]),
        ([b"one\r\n\n"], [b"one\r", b""]),
        ([b"one\nunfinished"], [b"one", b"unfinished"]),
        ([b"0123456789\n", b"x\n"], [b"0123456789", b"x"]),
        ([b"0123456789a\n", b"x\n"], [None, b"x"]),
        ([b"0123456789a", b"bcdefghijkl", b"m\nx\n"], [None, b"x"]),
        ([b"x\n0123456789abc"], [b"x", None]),
        ([b"\xff\x00\n"], [b"\xff\x00"]),
    ],
)
def test_lines_come_whole_or_not_at_all(pieces: list[bytes], found: list[bytes | None]) -> None:
    assert read_back(pieces) == found


def test_a_line_of_many_reads_is_one_line() -> None:
    big = os.urandom(1_000_000).replace(b"\n", b".")
    assert read_back([big + b"\n" + big + b"x\nend\n"], limit=len(big)) == [big, None, b"end"]


def test_a_line_is_written_whole_through_a_full_pipe() -> None:
    source, sink = os.pipe()
    big = b"x" * 1_000_000

    def write() -> None:
        write_line(sink, big)
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(source, "rb") as stream:
        assert stream.read() == big + b"\n"
    writer.join()


def test_nobody_reading_is_told_as_such() -> None:
    source, sink = os.pipe()
    os.close(source)
    with pytest.raises(BrokenPipeError):
        write_line(sink, b"x")
    os.close(sink)
