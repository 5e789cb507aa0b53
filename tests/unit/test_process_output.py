from __future__ import annotations

import itertools
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from tests.refusing import without_descriptors

from agent_mailer.process.output import LineFramer, OutputTail, is_readable, tail_text

LIMIT = 8


def frame(*chunks: bytes) -> tuple[list[bytes], bytes | None, int]:
    framer = LineFramer(LIMIT)
    lines = [line for chunk in chunks for line in framer.feed(chunk)]
    last = framer.finish()
    return lines, last, framer.skipped


@pytest.mark.parametrize(
    ("stream", "lines", "last", "skipped"),
    [
        pytest.param(b"", [], None, 0, id="nothing"),
        pytest.param(b"a\nb\n", [b"a", b"b"], None, 0, id="two"),
        pytest.param(b"a\n\nb", [b"a", b""], b"b", 0, id="an empty one, and one without its end"),
        pytest.param(b"a\r\nb\r\n", [b"a", b"b"], None, 0, id="CR LF"),
        pytest.param(b"a\rb\r\r\n", [b"a\rb\r"], None, 0, id="only the CR of the line end is taken"),
        pytest.param(b"12345678\nx", [b"12345678"], b"x", 0, id="at the limit"),
        pytest.param(b"12345678\r\nx\n", [b"12345678", b"x"], None, 0, id="at the limit, with CR"),
        pytest.param(b"a\n123456789\nb\n", [b"a", b"b"], None, 1, id="over the limit"),
        pytest.param(b"1234567890\r\nb", [], b"b", 1, id="over the limit, with CR"),
        pytest.param(b"x" * 100, [], None, 1, id="the last one over the limit"),
        pytest.param((b"x" * 100 + b"\n") * 3 + b"a\n", [b"a"], None, 3, id="several"),
        pytest.param(b"\xff\x00\n", [b"\xff\x00"], None, 0, id="any bytes"),
    ],
)
def test_lines_are_the_same_however_they_arrive(
    stream: bytes, lines: list[bytes], last: bytes | None, skipped: int
) -> None:
    expected = (lines, last, skipped)
    assert frame(stream) == expected
    assert frame(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    chance = random.Random(4)
    for _ in range(20):
        cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(4))
        ends = [0, *cuts, len(stream)]
        assert frame(*(stream[a:b] for a, b in itertools.pairwise(ends))) == expected


def test_a_finished_framer_starts_anew() -> None:
    framer = LineFramer(LIMIT)
    framer.feed(b"too long for this")
    assert framer.finish() is None
    assert framer.finish() is None
    assert framer.skipped == 1
    assert framer.feed(b"a\n") == [b"a"]


def test_an_endless_line_takes_no_memory() -> None:
    framer = LineFramer(64 * 1024)
    chunk = b"x" * 16 * 1024
    tracemalloc.start()
    try:
        for _ in range(4096):
            framer.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024
    assert framer.feed(b"\nnext\n") == [b"next"]
    assert framer.skipped == 1


def test_the_tail_gives_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "out"
    tail = OutputTail(path)
    assert tail.read() == b""
    path.write_bytes(b"one")
    assert tail.read() == b"one"
    assert tail.read() == b""
    with path.open("ab") as stream:
        stream.write(b"two")
    assert tail.read() == b"two"
    assert (tail.size, tail.offset) == (6, 6)


def test_the_tail_keeps_to_its_budget(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"0123456789")
    tail = OutputTail(path)
    assert [tail.read(4), tail.read(4), tail.read(4), tail.read(4)] == [b"0123", b"4567", b"89", b""]
    assert tail.size == 10


def test_the_tail_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"0123456789")
    assert OutputTail(path, offset=7).read() == b"789"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_cut_short_or_replaced_is_read_again(tmp_path: Path, *, replaced: bool) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"0123456789")
    tail = OutputTail(path)
    tail.read()
    if replaced:
        (tmp_path / "new").write_bytes(b"longer than the old one")
        (tmp_path / "new").replace(path)
        assert tail.read() == b"longer than the old one"
    else:
        path.write_bytes(b"new")
        assert tail.read() == b"new"


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_no_file_is_empty(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "secret").write_bytes(b"secret")
        path.symlink_to("secret")
    else:
        path.mkdir()
    assert OutputTail(path).read() == b""
    assert tail_text(path, 10) == ""


@pytest.mark.parametrize(
    ("content", "limit", "text"),
    [
        (b"hello", 10, "hello"),
        (b"hello", 5, "hello"),
        (b"hello", 2, "lo"),
        ("aé€".encode(), 4, "€"),
        ("a€€".encode(), 4, "€"),
        ("😀😀".encode(), 7, "😀"),
        (b"a\xffb", 10, "a\ufffdb"),
        (b"\x80\x80\x80\x80\x80\x80", 5, "\ufffd\ufffd"),
        (b"", 10, ""),
    ],
)
def test_the_last_of_a_file_as_text(tmp_path: Path, content: bytes, limit: int, text: str) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    assert tail_text(path, limit) == text


def test_what_cannot_be_opened_just_now_is_not_nothing(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.write_text("its last words")
    for look in (lambda: tail_text(path, 10), lambda: is_readable(path), OutputTail(path).read):
        with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
            look()
    assert tail_text(path, 5) == "words"


def test_the_text_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert tail_text(tmp_path / "none", 10) == ""
