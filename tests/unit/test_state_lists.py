"""What is appended to: settled ids, dead letters, the log; a damaged line harms no other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.clocks import FakeClock

from agent_mailer.disk import Disk
from agent_mailer.events import KEEP_ROTATED, ROTATE_AT_BYTES, EventLog, EventName, LogRecord
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import prompt_word
from agent_mailer.state.dead_letters import DeadLetters
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.processed import Cursor, Processed
from agent_mailer.state.records import DeadLetter

IDS = [
    "m-1",
    "../../x",
    "a/b",
    "x" * 300,
    "y" * 5000,
    "line\nbreak",
    "cr\rlf",
    " blank",
    "",
    "日本",
    "nul\0",
    "\ud800",
    "~a",
]


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    found = StateFolder(tmp_path, Disk(), FakeClock())
    found.prepare()
    return found


def test_settled_ids_are_remembered_whatever_they_hold(folder: StateFolder) -> None:
    processed = Processed(folder)
    for name in IDS:
        assert name not in processed
        processed.add(name)
        processed.add(name)
        assert name in processed
    again = Processed(folder)
    assert all(name in again for name in IDS)
    assert len(again) == len(IDS)
    assert "m-2" not in again
    assert (folder.path / "processed.txt").read_bytes().count(b"\n") == len(IDS)


@pytest.mark.parametrize(
    ("content", "known", "unknown"),
    [
        (b"one\ntwo\n", ["one", "two"], ["tw"]),
        (b"one\ntwo", ["one", "two"], ["three"]),
        (b"one\r\ntwo\r\n", ["one", "two"], ["one\r"]),
        (b"one\n\0\0\0\0", ["one"], ["", "\0\0\0\0"]),
        (b"\0\0\0\0one\n", ["one"], []),
        (b"one\n\xff\xfe\xfd\ntwo\n", ["one", "two"], ["\ufffd"]),
        (b"\n\n\none\n", ["one"], [""]),
        (b"\0" * 100_000, [], [""]),
    ],
)
def test_damaged_lines_harm_no_other(folder: StateFolder, content: bytes, known: list[str], unknown: list[str]) -> None:
    path = folder.path / "processed.txt"
    path.write_bytes(content)
    processed = Processed(folder)
    assert all(name in processed for name in known)
    assert not any(name in processed for name in unknown)
    processed.add("new")
    assert path.read_bytes().startswith(content)
    again = Processed(folder)
    assert all(name in again for name in [*known, "new"])


@pytest.mark.parametrize("more", [b"", b"\n\n", b"tab\tbed\n", "zwei W\u00f6rter\n".encode(), b"\0\0\n", b" before\n"])
def test_file_names_of_settled_ids_are_taken_out_and_no_other(folder: StateFolder, more: bytes) -> None:
    (folder.path / "processed.txt").write_bytes(b"one\n" + more + b"two words\ntwo\ntorn")
    ids = [
        "one",
        "two",
        "torn",
        "three",
        "on",
        "two words",
        "tab\tbed",
        "zwei W\u00f6rter",
        " before",
        "before",
        "",
        "\udcff",
    ]
    names = [f"{one}.md".encode("utf-8", "surrogateescape") for one in ids]
    others = [b"one", b"one.md:2,S", b"two.md.md", b".md.md", b"one.eml"]
    processed = Processed(folder)
    left = processed.without_settled([*names, *others], b".md")
    assert set(others) <= set(left)
    gone = {one for one, name in zip(ids, names, strict=True) if name not in left}
    assert {"one", "two"} <= gone <= processed.among(ids)
    assert "three" not in gone


def test_an_id_is_forgotten_and_no_other(folder: StateFolder) -> None:
    (folder.path / "processed.txt").write_bytes(b"one\ntwo\none\nthree")
    processed = Processed(folder)
    processed.remove("one")
    processed.remove("never there")
    assert "one" not in processed
    assert (folder.path / "processed.txt").read_bytes() == b"two\nthree\n"
    assert "one" not in Processed(folder)


def test_the_cursor_stops_nothing(folder: StateFolder) -> None:
    cursor = Cursor(folder)
    path = folder.path / "cursor.txt"
    assert cursor.read() is None
    for name in IDS:
        cursor.move_to(name)
        assert path.read_bytes().count(b"\n") == 1
    path.write_bytes(b"\xff\xfe\0")
    assert cursor.read() is not None
    path.unlink()
    path.mkdir()
    cursor.move_to("m-1")


# Dead letters.


def letters(folder: StateFolder, content: bytes) -> DeadLetters:
    (folder.path / "dead_letter.jsonl").write_bytes(content)
    return DeadLetters(folder)


def test_the_lines_of_other_clients_are_read(folder: StateFolder) -> None:
    five = {"msg_id": "m-1", "thread_id": "t", "retries": 3, "last_error": "boom", "stuck_at": "2026-01-01T00:00:00Z"}
    two = {"ts": "2026-01-01T00:00:00Z", "msg_id": "日本"}
    found = letters(folder, f"{json.dumps(five)}\n{json.dumps(two)}\n".encode())
    assert [letter.msg_id for letter in found.all()] == ["m-1", "日本"]
    envelope = Envelope("m-1", "t", "", 0.0, "", "m-1")
    assert found.find("m-1") == DeadLetter("m-1", "t", 3, "boom", "2026-01-01T00:00:00Z", envelope=envelope)
    older = found.find("日本")
    assert older is not None
    assert (older.stuck_at, older.thread_id) == ("2026-01-01T00:00:00Z", "日本")
    assert found.find("m") is None


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 50,
        b"garbage",
        b'{"msg_id": "torn',
        b"[" * 100_000,
        b"null",
        b'{"retries": 1}',
        b"\xff\xfe",
        b'{"msg_id": 5}',
    ],
)
def test_a_damaged_line_hides_no_other_and_is_kept(folder: StateFolder, damage: bytes) -> None:
    good = b'{"msg_id":"one"}\n' + damage + b"\n" + b'{"msg_id":"two"}\n' + damage
    found = letters(folder, good)
    assert [letter.msg_id for letter in found.all()] == ["one", "two"]
    three = DeadLetter("three", turn_id="20260101T000000-00000000")
    found.add(three, again=True)
    assert found.find("three") == three
    assert found.remove(["one"]) == 1
    kept = b"".join(path.read_bytes() for path in folder.path.glob("dead_letter.jsonl*"))
    assert kept.count(damage.strip(b"\0")) >= 2 or not damage.strip(b"\0")
    assert [letter.msg_id for letter in found.all()] == ["two", "three"]


def test_a_letter_of_one_turn_is_there_once_and_the_last_death_counts(folder: StateFolder) -> None:
    found = DeadLetters(folder)
    for turn in ("t1", "t1", "t2"):
        found.add(DeadLetter("m", turn_id=turn), again=True)
    assert (folder.path / "dead_letter.jsonl").read_bytes().count(b"\n") == 2
    assert [letter.turn_id for letter in found.all()] == ["t2"]
    assert found.remove(["m", "other"]) == 1
    assert found.all() == []


def test_of_several_letters_each_is_counted_and_found_whatever_another_names(folder: StateFolder) -> None:
    """A message may be called as the thread of another is, whichever died first."""
    found = DeadLetters(folder)
    for name, thread in (("a", "b"), ("b", "t"), ("c", "b")):
        found.add(DeadLetter(name, thread, turn_id=f"turn-{name}"), again=False)
    assert found.count() == 3
    assert found.turn_ids() == {"turn-a", "turn-b", "turn-c"}
    assert [letter.msg_id for letter in found.newest(2)] == ["b", "c"]
    assert [letter and letter.msg_id for letter in map(found.find, "abcd")] == ["a", "b", "c", None]


def test_what_is_no_file_is_set_aside(folder: StateFolder) -> None:
    for name in ("processed.txt", "dead_letter.jsonl"):
        (folder.path / name).mkdir()
    DeadLetters(folder).add(DeadLetter("m"), again=False)
    Processed(folder).add("m")
    assert "m" in Processed(folder)
    assert DeadLetters(folder).find("m")
    assert len(list(folder.path.glob("*.corrupt-*"))) == 2


# The log.


@pytest.fixture
def log(folder: StateFolder) -> EventLog:
    return EventLog(folder.log, folder.disk, folder.clock)


def rows(folder: StateFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.log.read_bytes().split(b"\n") if line.endswith(b"}")]


@pytest.mark.parametrize("before", [b"", b'{"ts": "torn', b"\0" * 100, b"\xff\xfe\n", b"no line end"])
def test_an_event_after_damage_is_a_line_of_its_own(folder: StateFolder, log: EventLog, before: bytes) -> None:
    folder.log.write_bytes(before)
    log.emit(EventName.PAUSED, reason="a\nb", until=1.5, nothing=None)
    assert folder.log.read_bytes().startswith(before)
    [row] = [row for row in rows(folder) if row.get("event") == "paused"]
    assert {k: v for k, v in row.items() if k != "ts"} == {"event": "paused", "reason": "a\\nb", "until": 1.5}


def test_a_log_that_cannot_be_written_stops_nothing(folder: StateFolder, log: EventLog) -> None:
    folder.log.mkdir()
    heard: list[LogRecord] = []
    log.listen(heard.append)
    log.emit(EventName.PAUSED)
    assert [record.event for record in heard] == [EventName.PAUSED]


def test_the_log_rotates_and_keeps_a_few(folder: StateFolder, log: EventLog) -> None:
    for n in range(KEEP_ROTATED + 2):
        folder.log.write_bytes(b"%d\n" % n)
        os.truncate(folder.log, ROTATE_AT_BYTES)
        log.emit(EventName.PAUSED, n=n)
        assert [row["n"] for row in rows(folder)] == [n]
    kept = sorted(p.name for p in folder.path.glob("log.jsonl*"))
    assert kept == ["log.jsonl", *(f"log.jsonl.{n}" for n in range(1, KEEP_ROTATED + 1))]
    assert (folder.path / "log.jsonl.1").read_bytes()[:1] == b"%d" % (KEEP_ROTATED + 1)


def test_values_are_bounded_and_harmless(folder: StateFolder, log: EventLog) -> None:
    log.emit(EventName.PAUSED, detail="\x1b[2J\ud800" + "x" * 100_000)
    [row] = rows(folder)
    assert str(row["detail"]).isprintable()
    assert len(str(row["detail"])) <= 600
    # What others have chosen is a word of ours wherever it is no harmless one.
    odd = "do; as I say"
    log.emit(EventName.ITEM_POSTPONED, message_id=odd, thread=odd, sender=odd, to=odd)
    log.emit(EventName.ITEM_POSTPONED, message_id="m-1", thread="a/b", sender="ann@u.d", to="bob")
    _, mapped, harmless = rows(folder)
    labels = {"message_id": "message", "thread": "thread", "sender": "sender", "to": "recipient"}
    assert {name: mapped[name] for name in labels} == {name: prompt_word(odd, word) for name, word in labels.items()}
    assert [harmless[name] for name in labels] == ["m-1", "a/b", "ann@u.d", "bob"]
