"""The state folder: who may enter it, which format it has, and what is done with a damaged file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import On, Refusing, unreadable

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.events import EventLog
from agent_mailer.state import State
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.lock import WorkdirLock, holder_of

NOW = 1_700_000_000.0

GARBAGE = {
    "empty": b"",
    "torn": b'{"a": [1, 2',
    "NULs after it": b'{"a": [1]}\n' + b"\0" * 64,
    "only NULs": b"\0" * 64,
    "random": bytes(range(256)),
    "not UTF-8": b'{"a\xff": [1]}',
    "another type": b'["a"]',
    "null": b"null",
    "wrong values": b'{"a": {"b": 1}}',
    "deep": b'{"a": ' + b"[" * 100_000,
    "two": b'{"a": [1]} {"a": [1]}',
}


class Told(list[tuple[str, str]]):
    def __call__(self, path: Path, why: str) -> None:
        self.append((path.name, why))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def folder(tmp_path: Path, told: Told) -> StateFolder:
    """A folder whose lock we hold."""
    found = StateFolder(tmp_path, Disk(), FakeClock(NOW), told)
    found.prepare()
    return found


@pytest.mark.parametrize("garbage", list(GARBAGE))
def test_a_damaged_file_is_set_aside_whole_and_told_of(folder: StateFolder, told: Told, garbage: str) -> None:
    path = folder.path / "x.json"
    path.write_bytes(GARBAGE[garbage])
    assert folder.read(path, dict[str, list[int]], {"empty": []}) == {"empty": []}
    assert not path.exists()
    [aside] = folder.path.glob("x.json.corrupt-*")
    assert aside.name == "x.json.corrupt-2023-11-14T221320000Z"
    assert aside.read_bytes() == GARBAGE[garbage]
    assert [name for name, _ in told] == ["x.json"]
    # Once: afterwards it is simply absent.
    assert folder.read(path, dict[str, list[int]], {}) == {}
    assert len(told) == 1


@pytest.mark.parametrize("garbage", list(GARBAGE))
def test_who_does_not_hold_the_lock_changes_nothing(tmp_path: Path, told: Told, garbage: str) -> None:
    state = tmp_path / ".agent-mailer"
    state.mkdir()
    (state / "x.json").write_bytes(GARBAGE[garbage])
    reader = StateFolder(tmp_path, Disk(), FakeClock(NOW), told)
    assert reader.read(state / "x.json", dict[str, list[int]], {}) == {}
    assert [p.name for p in state.iterdir()] == ["x.json"]
    assert len(told) == 1


def a_number(line: bytes) -> int:
    return msgspec.json.decode(line, type=int)


def test_who_does_not_hold_the_lock_neither_mends_lines_nor_names_the_watcher(tmp_path: Path, told: Told) -> None:
    """The watcher appends to that very file meanwhile."""
    state = tmp_path / ".agent-mailer"
    state.mkdir()
    (state / "x.jsonl").write_bytes(b"1\ngarbage\n2\n")
    reader = StateFolder(tmp_path, Disk(), FakeClock(NOW), told)
    assert reader.read_lines(state / "x.jsonl", a_number) == [1, 2]
    assert reader.watcher_id() == ""
    assert [(one.name, one.read_bytes()) for one in state.iterdir()] == [("x.jsonl", b"1\ngarbage\n2\n")]
    assert [name for name, _ in told] == ["x.jsonl"]


@pytest.mark.parametrize("call", [On.MAKE, On.SYNC])
def test_a_damaged_line_is_kept_durably_before_the_file_is_written_without_it(folder: StateFolder, call: On) -> None:
    path = folder.path / "x.jsonl"
    path.write_bytes(b"1\ngarbage\n2\n")
    folder.disk.system = Refusing("x.jsonl.corrupt-*", call, code=errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        folder.read_lines(path, a_number)
    assert path.read_bytes() == b"1\ngarbage\n2\n"
    folder.disk.system = SystemCalls()
    assert folder.read_lines(path, a_number) == [1, 2]
    assert path.read_bytes() == b"1\n2\n"


def test_a_file_that_cannot_be_read_just_now_is_not_damaged(folder: StateFolder, told: Told) -> None:
    path = folder.path / "x.json"
    path.write_bytes(b'{"a": [1]}')
    with unreadable("x.json"):
        for look in (
            lambda: folder.read(path, dict[str, list[int]], {}),
            lambda: folder.bytes_of(path),
            lambda: folder.read_lines(path, a_number),
        ):
            with pytest.raises(OSError, match="Input/output"):
                look()
    assert folder.read(path, dict[str, list[int]], {}) == {"a": [1]}
    assert told == []


def test_what_a_power_failure_left_of_a_last_line_is_no_damage(folder: StateFolder, told: Told) -> None:
    path = folder.path / "x.jsonl"
    path.write_bytes(b'1\n\0\0\0\n2\n{"a": [1')
    assert folder.read_lines(path, a_number) == [1, 2]
    assert (told, [*folder.path.glob("*.corrupt-*")]) == ([], [])


def test_watching_has_begun_where_turns_have_run_or_trust_is_remembered(folder: StateFolder) -> None:
    assert not folder.has_begun()
    (folder.turns / "turn").mkdir()
    assert folder.has_begun()
    (folder.turns / "turn").rmdir()
    folder.knows_trust.touch()
    assert folder.has_begun()


def test_what_can_be_made_anew_is_found_damaged_until_it_is_written(folder: StateFolder, told: Told) -> None:
    """A crash between setting aside and writing must not turn damage into absence."""
    path = folder.path / "x.json"
    path.write_bytes(b"garbage")
    for _ in range(2):
        assert folder.read(path, dict[str, list[int]], {}, lambda: {"made": [1]}) == {"made": [1]}
    assert path.read_bytes() == b"garbage"
    assert [p.read_bytes() for p in folder.path.glob("x.json.corrupt-*")] == [b"garbage"] * 2
    assert len(told) == 2
    path.unlink()
    assert folder.read(path, dict[str, list[int]], {}, lambda: {"made": [1]}) == {}


def test_several_damages_in_one_moment_are_all_kept(folder: StateFolder) -> None:
    path = folder.path / "x.json"
    for n in range(3):
        path.write_bytes(b"damage %d" % n)
        folder.read(path, dict[str, int], {})
    assert {p.read_bytes() for p in folder.path.glob("x.json.corrupt-*")} == {b"damage 0", b"damage 1", b"damage 2"}


def test_damaged_lines_of_one_moment_are_all_kept(folder: StateFolder) -> None:
    path = folder.path / "x.jsonl"
    damage = {b"damage %d\n" % n for n in range(3)}
    for line in damage:
        path.write_bytes(b"1\n" + line + b"2\n")
        assert folder.read_lines(path, a_number) == [1, 2]
    assert {p.read_bytes() for p in folder.path.glob("x.jsonl.corrupt-*")} == damage


def test_what_cannot_be_set_aside_stays_where_it_is_and_both_are_told(folder: StateFolder, told: Told) -> None:
    path = folder.path / "x.json"
    path.write_bytes(GARBAGE["empty"])
    folder.disk.system = Refusing("x.json", On.GO, code=errno.EROFS)
    assert folder.read(path, dict[str, int], {"none": 0}) == {"none": 0}
    assert path.read_bytes() == GARBAGE["empty"]
    [(name, why)] = told
    assert (name, why.partition("; ")[2]) == ("x.json", f"could not be set aside: {path}: Read-only file system")


def test_what_is_no_file_is_set_aside_and_never_waited_for(folder: StateFolder, told: Told) -> None:
    for name in ("fifo", "folder", "loop"):
        path = folder.path / name
        if name == "fifo":
            os.mkfifo(path)
        elif name == "folder":
            (path / "with").mkdir(parents=True)
        else:
            path.symlink_to(path)
        assert folder.read(path, dict[str, int], {}) == {}
        assert folder.bytes_of(path) is None
        assert not os.path.lexists(path)
    assert [name for name, _ in told] == ["fifo", "folder", "loop"]
    assert len(list(folder.path.glob("*.corrupt-*"))) == 3


@pytest.mark.parametrize(
    ("moment", "clamped"),
    [(NOW - 10, NOW - 10), (NOW, NOW), (NOW + 600, NOW + 600), (NOW + 600.1, NOW), (1e300, NOW), (-1e300, -1e300)],
)
def test_a_moment_further_ahead_than_any_delay_counts_as_now(
    folder: StateFolder, moment: float, clamped: float
) -> None:
    assert folder.clamp(moment, 600.0) == clamped


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o707, 0o770])
def test_a_folder_others_may_enter_is_refused(folder: StateFolder, mode: int) -> None:
    folder.path.chmod(mode)
    with pytest.raises(ConfigFault) as caught:
        folder.check()
    assert caught.value.exit_code == 78
    assert f"{mode:04o}" in caught.value.message
    assert caught.value.fix == f"chmod 700 {folder.path}"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_a_config_others_may_read_is_refused(folder: StateFolder, mode: int) -> None:
    folder.config.touch()
    folder.config.chmod(mode)
    with pytest.raises(ConfigFault) as caught:
        folder.check()
    assert caught.value.fix == f"chmod 600 {folder.config}"
    for private in (0o600, 0o400, 0o700):
        folder.config.chmod(private)
        folder.check()


def test_no_folder_and_a_file_in_its_place(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, Disk(), FakeClock())
    with pytest.raises(ConfigFault, match="does not exist") as caught:
        folder.check()
    assert caught.value.fix.startswith("agent-mailer init")
    folder.path.touch(mode=0o600)
    with pytest.raises(ConfigFault, match="is not a folder"):
        folder.check()


@pytest.mark.parametrize("text", [b"2\n", b"10", b" 2 ", b"99999999999999999999"])
def test_a_newer_format_is_refused_and_untouched(folder: StateFolder, text: bytes) -> None:
    marker = folder.path / "format"
    marker.write_bytes(text)
    (folder.path / ".tmp.theirs").touch()
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")}
    for look in (folder.check, folder.prepare):
        with pytest.raises(ConfigFault, match="newer agent-mailer") as caught:
            look()
        assert caught.value.exit_code == 78
    assert marker.read_bytes() == text
    assert {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")} == before


@pytest.mark.parametrize("text", [b"", b"one", b"\0\0", b"\xff\xfe", b"-1", b"1.0", b"0", b"1\n2\n", "²".encode()])
def test_a_garbled_format_is_set_aside_and_written_anew(folder: StateFolder, told: Told, text: bytes) -> None:
    marker = folder.path / "format"
    marker.write_bytes(text)
    folder.prepare()
    assert marker.read_bytes() == b"1\n"
    [aside] = folder.path.glob("format.corrupt-*")
    assert aside.read_bytes() == text
    assert [name for name, _ in told] == ["format"]


def test_prepare_makes_what_is_missing_and_clears_leftovers(folder: StateFolder, told: Told) -> None:
    (folder.path / ".tmp.usage.json.abc").write_text("half")
    (folder.path / ".tmp.odd").mkdir()
    (folder.path / "mine").touch()
    (folder.memory / ".tmp.global.md.abc").write_text("half")
    (folder.memory / "global.md").write_text("mine")
    folder.requests.rmdir()
    folder.turns.rmdir()
    folder.turns.write_text("a file")
    State(folder, EventLog(folder.log, folder.disk, folder.clock)).prepare()
    names = {p.name for p in folder.path.iterdir() if ".corrupt-" not in p.name}
    assert names == {"format", "turns", "memory", "requests", "mine"}
    assert [p.name for p in folder.memory.iterdir()] == ["global.md"]
    assert folder.turns.is_dir()
    assert [p.read_text() for p in folder.path.glob("turns.corrupt-*")] == ["a file"]
    assert [name for name, _ in told] == ["turns"]


# The lock.


@pytest.mark.parametrize(
    "content",
    [b"", b"pid=12424\n99\n", b"garbage" * 1000, b"\0" * 10, b"[" * 100_000, b'{"process": {"pid": 1}}'],
)
def test_what_an_older_holder_wrote_is_cut_off(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".lock"
    path.write_bytes(content)
    assert holder_of(path) is None
    lock = WorkdirLock(path)
    lock.acquire()
    try:
        holder = holder_of(path)
        assert holder is not None
        assert holder.process.pid == os.getpid()
        assert path.read_bytes().count(b"\n") == 1
        assert lock.still_ours()
        with pytest.raises(BusyFault, match=f"pid {os.getpid()}"):
            WorkdirLock(path).acquire()
    finally:
        lock.release()
    WorkdirLock(path).acquire()


def test_the_lock_of_a_dead_or_another_process_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = WorkdirLock(path)
    lock.acquire()
    written = path.read_bytes()
    lock.release()
    # Our pid, started at another time: given out again.
    path.write_bytes(written.replace(b'"started":', b'"started":1'))
    assert holder_of(path) is None
    os.mkfifo(tmp_path / "fifo")
    assert holder_of(tmp_path / "fifo") is None


def test_whose_folder_went_away_or_is_another_is_told_which(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    lock = WorkdirLock(folder / ".lock")
    lock.acquire()
    try:
        lock.guard()
        (folder / ".lock").rename(tmp_path / "taken")
        (folder / ".lock").touch()
        with pytest.raises(BusyFault, match="no longer the file we hold"):
            lock.guard()
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(ConfigFault, match="has vanished"):
            lock.guard()
        folder.mkdir()
        (folder / ".lock").touch()
        with pytest.raises(ConfigFault, match="another folder than the one we watch"):
            lock.guard()
    finally:
        lock.release()


def test_a_lock_file_that_was_replaced_guards_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = WorkdirLock(path)
    lock.acquire()
    path.rename(tmp_path / "elsewhere")
    assert not lock.still_ours()
    path.touch()
    assert not lock.still_ours()
    lock.release()
