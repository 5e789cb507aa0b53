"""What was read in messages counts in the next life only for the very files that it was read in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir import remembered
from agent_mailer.mailbox.maildir.remembered import INODE_BYTES, Remembered

NAME = "m1.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one message, which has stood still for long enough."""
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / NAME).write_text("mail")
    return folder


def known(path: Path) -> bytes:
    return path.lstat().st_ino.to_bytes(INODE_BYTES) + b"what was read"


def written(folder: Path) -> Path:
    copy = folder.parent / "known.jsonl"
    assert Remembered(Disk(), copy).add(folder, [(NAME, known(folder / NAME))]) == {NAME}
    return copy


def met(folder: Path, copy: Path) -> dict[str, bytes]:
    again = Remembered(Disk(), copy)
    again.load()
    return again.of(folder, {NAME}) or {}


def test_what_was_read_is_known_in_the_next_life(folder: Path) -> None:
    assert met(folder, written(folder)) == {NAME: known(folder / NAME)}


def _of_the_file(place: int) -> Callable[[list[Any]], None]:
    def change(line: list[Any]) -> None:
        line[2][0][place] += 1

    return change


def _of_the_folder(place: int) -> Callable[[list[Any]], None]:
    def change(line: list[Any]) -> None:
        line[place] += 1

    return change


OTHERS = {
    "in a folder of another device": _of_the_folder(0),
    "in another folder": _of_the_folder(1),
    "of another file": _of_the_file(0),
    "before its last change": _of_the_file(1),
    "of another size": _of_the_file(2),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_was_read_elsewhere_counts_for_nothing(folder: Path, what: str) -> None:
    copy = written(folder)
    line = msgspec.json.decode(copy.read_bytes().partition(b" ")[2])
    OTHERS[what](line)
    data = msgspec.json.encode(line)
    copy.write_bytes(b"%08x %b\n" % (crc32(data), data))
    assert met(folder, copy) == {}


def test_a_line_whose_bytes_have_turned_counts_for_nothing(folder: Path) -> None:
    copy = written(folder)
    found = msgspec.json.encode(known(folder / NAME))
    data = copy.read_bytes()
    assert found in data
    copy.write_bytes(data.replace(found, msgspec.json.encode(b"\0" * len(known(folder / NAME)))))
    assert met(folder, copy) == {}


@pytest.mark.parametrize("what", ["but now", "another file by now", "no file"])
def test_what_may_be_another_by_now_is_not_written_down(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    said = known(folder / NAME)
    if what == "but now":
        monkeypatch.setattr(remembered, "SETTLED_NS", 3600 * 10**9)
    elif what == "another file by now":
        (folder / "other").write_text("mail")
        (folder / "other").replace(folder / NAME)
    else:
        (folder / NAME).unlink()
        os.mkfifo(folder / NAME)
        said = known(folder / NAME)
    copy = folder.parent / "known.jsonl"
    assert Remembered(Disk(), copy).add(folder, [(NAME, said)]) == set()
    assert not copy.exists()
