"""Files below a root: no link on the way or at the end leads out, whatever is done, on kernels old and new."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from agent_mailer import beneath
from agent_mailer.disk import Disk, Displaced, Sync, SystemCalls, read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.locks import FileLock


@pytest.fixture(params=["openat2", "step by step"])
def root(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A root that is a link itself, with the folder `a/b` in it; `outside` lies beside it."""
    if request.param == "openat2" and not beneath.has_openat2():
        pytest.skip("this kernel has no openat2")
    monkeypatch.setattr(beneath, "has_openat2", lambda: request.param == "openat2")
    monkeypatch.setattr(beneath, "_roots", beneath.Roots())
    monkeypatch.setattr(beneath, "BY_STEPS", 0)
    real, found, outside = tmp_path / "real", tmp_path / "root", tmp_path / "outside"
    (real / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "victim").write_text("theirs")
    (outside / "b").mkdir()
    found.symlink_to(real)
    beneath.anchor(found)
    yield found
    assert (outside / "victim").read_text() == "theirs"
    assert sorted(path.name for path in outside.rglob("*")) == ["b", "victim"]
    assert (outside / "victim").stat().st_nlink <= 2


WRITES: dict[str, Callable[[Path], object]] = {
    "create": lambda path: Disk().create(path, b"x", sync=Sync.FULL),
    "replace": lambda path: Disk().replace(path, b"x", sync=Sync.FULL),
    "overwrite": lambda path: Disk().overwrite(path, b"x"),
    "append": lambda path: Disk().append_line(path, b"x", sync=Sync.FULL),
    "make_directory": lambda path: Disk().make_directory(path / "new", sync=Sync.FULL),
    "chmod": lambda path: beneath.chmod(path, 0o600),
    "lock": lambda path: FileLock(path).acquire(),
    "listing": lambda path: beneath.names_in(path.parent),
    "reading": lambda path: read_regular(path),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("where", ["a", "a/b"])
def test_a_folder_on_the_way_that_is_a_link_is_an_error(root: Path, tmp_path: Path, what: str, where: str) -> None:
    place = root / where
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "outside")
    with pytest.raises((OSError, ConfigFault)):
        WRITES[what](root / "a" / "b" / "victim")


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo", "folder"])
def test_what_lies_in_a_files_place_is_never_written_to(root: Path, tmp_path: Path, what: str, kind: str) -> None:
    """It makes way, or is an error; a file is then where one was to be."""
    place, victim = root / "a" / "b" / "file", tmp_path / "outside" / "victim"
    if kind == "hard link":
        os.link(victim, place)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(victim if kind == "link" else tmp_path / "outside" / "nothing")
    mode = victim.stat().st_mode
    try:
        WRITES[what](place)
    except (OSError, ConfigFault):
        assert what not in ("replace", "overwrite", "append")
    else:
        if what in ("replace", "overwrite", "append"):
            assert place.read_bytes().endswith(b"x\n" if what == "append" else b"x")
            assert place.lstat().st_nlink == 1
    if kind != "hard link":
        assert victim.stat().st_mode == mode


def test_what_a_file_of_two_names_held_stays_when_a_line_is_appended(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = root / "a" / "lines"
    place.write_text("one\n")
    os.link(place, root / "a" / "other")
    disk = Disk()
    disk.append_line(place, b"two", sync=Sync.FULL)
    assert (place.read_text(), (root / "a" / "other").read_text()) == ("one\ntwo\n", "one\n")
    assert disk.syncs == 3, "that the name is the copy's is durable before its new line is"
    monkeypatch.setattr("agent_mailer.disk._MOST_COPIED", 4)
    os.link(place, root / "a" / "large")
    with pytest.raises(OSError) as refused:
        disk.append_line(place, b"three", sync=Sync.FULL)
    assert (refused.value.errno, place.read_text()) == (errno.EMLINK, "one\ntwo\n"), "none of it is cut off"


def test_an_ordinary_life(root: Path) -> None:
    disk, place = Disk(), root / "a" / "b" / "file"
    disk.create(place, b"1", sync=Sync.FULL)
    disk.replace(place, b"2", sync=Sync.FULL)
    disk.append_line(place, b"3", sync=Sync.FULL)
    disk.move(place, root / "a" / "moved", sync=Sync.FULL)
    assert read_regular(root / "a" / "moved") == b"2\n3\n"
    with pytest.raises(FileExistsError):
        disk.create(root / "a" / "moved", b"", sync=Sync.NONE)
    with pytest.raises(FileNotFoundError):
        read_regular(place)
    assert sorted(beneath.names_in(root / "a")) == ["b", "moved"]
    disk.remove_tree(root / "a")
    assert beneath.names_in(root) == []
    assert not beneath.is_there(root / "a")


def test_of_roots_beside_each_other_each_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath, "_roots", beneath.Roots())
    for name in ("workdir", "mail", "project"):
        (tmp_path / name).mkdir()
        beneath.anchor(tmp_path / name)
    for name in ("workdir", "mail", "project"):
        (tmp_path / name / "link").symlink_to(tmp_path)
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            beneath.open_file(tmp_path / name / "link" / "file", os.O_RDONLY)


def test_of_roots_in_each_other_the_outer_counts_whichever_was_named_first(root: Path, tmp_path: Path) -> None:
    beneath.anchor(tmp_path / "wide" / "in")
    beneath.anchor(tmp_path / "wide")
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "in").symlink_to(tmp_path / "outside")
    assert beneath.is_folder(root / "a"), "another root was asked for last"
    with pytest.raises(OSError) as fault:
        read_regular(tmp_path / "wide" / "in" / "victim")
    assert fault.value.errno == errno.ELOOP


def test_a_root_that_was_replaced_is_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "real").rename(tmp_path / "old")
    (tmp_path / "real" / "a").mkdir(parents=True)
    Disk().create(root / "a" / "file", b"x", sync=Sync.FULL)
    assert (tmp_path / "real" / "a" / "file").read_bytes() == b"x"


def test_a_path_that_goes_up_again_is_taken_for_where_it_leads(root: Path, tmp_path: Path) -> None:
    assert beneath.is_anchored(f"{root}/a/../a/b")
    assert not beneath.is_anchored(f"{root}/../outside")
    assert beneath.is_anchored(f"{root}/a/b/..")
    assert not beneath.is_anchored(f"{root}/.."), "the folder above it is none of the root's"


class Meanwhile(SystemCalls):
    """Does something between the sync of a file and the end of the procedure."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        act, self._act = self._act, None
        if act is not None:
            act()


@pytest.mark.parametrize("there", ["another folder", "nothing"])
@pytest.mark.parametrize("what", ["create", "append", "move"])
def test_what_no_longer_has_its_name_after_the_sync_is_not_known_to_be_written(
    root: Path, what: str, there: str
) -> None:
    place, source = root / "a" / "b" / "file", root / "a" / "source"
    source.write_text("moved")

    def swap() -> None:
        (root / "a" / "b").rename(root / "a" / "away")
        if there == "another folder":
            (root / "a" / "b").mkdir()

    if what == "append":
        place.touch()
    disk = Disk(Meanwhile(swap))
    calls: dict[str, Callable[[], object]] = {
        "create": lambda: disk.create(place, b"x", sync=Sync.CONTENT),
        "append": lambda: disk.append_line(place, b"x", sync=Sync.CONTENT),
        "move": lambda: disk.move(source, place, sync=Sync.FULL),
    }
    with pytest.raises(Displaced) as raised:
        calls[what]()
    assert raised.value.errno == errno.ESTALE


def test_a_lock_is_on_the_file_that_its_path_names(root: Path) -> None:
    path = root / "a" / "lock"
    lock, other = FileLock(path), FileLock(path)
    assert lock.acquire()
    assert not other.acquire()
    assert lock.stands
    path.unlink()
    assert not lock.stands
    assert other.acquire()
    other.write(b"me")
    assert path.read_bytes() == b"me"
    other.release()
    lock.release()


def test_who_waited_for_a_lock_whose_file_was_replaced_has_nothing_by_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened, and before it is locked somebody removes it and locks the one that he makes."""
    path = root / "a" / "lock"
    lock, other = FileLock(path), FileLock(path)
    flock, calls = fcntl.flock, list[int]()

    def replaced(fd: int, how: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            path.unlink()
            assert other.acquire()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", replaced)
    assert path.parent.is_dir()
    assert not lock.acquire()
    assert other.stands
    other.release()
    assert lock.acquire()
    lock.release()


def test_what_is_held_in_each_other_is_reached_from_the_inner_one_and_then_from_the_outer_again(root: Path) -> None:
    with beneath.holding(root / "a"):
        Disk().overwrite(root / "a" / "one", b"1")
        with beneath.holding(root / "a" / "b"):
            Disk().overwrite(root / "a" / "b" / "two", b"2")
            Disk().overwrite(root / "a" / "three", b"3")
        Disk().remove(root / "a" / "one")
    assert sorted(path.name for path in (root / "a").rglob("*")) == ["b", "three", "two"]


@pytest.mark.parametrize("beside", ["bc", "b.c", "b-x"])
def test_what_lies_beside_a_folder_that_is_held_is_not_what_lies_in_it(root: Path, beside: str) -> None:
    for name in ("c", "x"):
        (root / "a" / "b" / name).write_bytes(b"in it")
    (root / "a" / beside).write_bytes(b"beside it")
    with beneath.holding(root / "a" / "b"):
        assert read_regular(root / "a" / beside) == b"beside it"
        Disk().overwrite(root / "a" / f"{beside}-new", b"new")
    assert sorted(path.name for path in (root / "a").iterdir()) == ["b", beside, f"{beside}-new"]


def test_within_a_folder_that_is_held_it_is_seen_that_it_was_replaced(root: Path, tmp_path: Path) -> None:
    """What is reached from its descriptor is written into the folder that was moved away: that counts as nothing."""

    class Replacing(SystemCalls):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            if not (tmp_path / "moved").exists():
                (root / "a" / "b").rename(tmp_path / "moved")
                (root / "a" / "b").mkdir()

    with beneath.holding(root / "a" / "b"), pytest.raises(Displaced):
        Disk(Replacing()).replace(root / "a" / "b" / "file", b"x", sync=Sync.FULL)
    assert not (root / "a" / "b" / "file").exists()


def test_a_link_in_a_folder_that_is_held_open_is_an_error_too(root: Path, tmp_path: Path) -> None:
    folder = root / "a" / "b"
    (folder / "link").symlink_to(tmp_path / "outside" / "victim")
    with beneath.holding(folder), pytest.raises(OSError) as fault:
        os.close(beneath.open_file(folder / "link", os.O_RDONLY))
    assert fault.value.errno == errno.ELOOP


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    "act",
    [
        lambda path: os.close(beneath.open_file(path, os.O_RDONLY)),
        beneath.status,
        beneath.unlink,
        beneath.rmdir,
        beneath.names_in,
        lambda path: beneath.rename(path, path.with_name("other")),
        lambda path: beneath.rename_noreplace(path, path.with_name("other")),
        lambda path: beneath.mkdir(path.parent, 0o700),
    ],
    ids=["open", "status", "unlink", "rmdir", "list", "rename", "noreplace", "mkdir"],
)
def test_an_error_names_the_whole_path(root: Path, act: Callable[[Path], object], held: bool) -> None:
    folder = root / "a" / "b"
    with beneath.holding(folder) if held else nullcontext(), pytest.raises(OSError) as caught:
        act(folder / "gone")
    assert str(caught.value.filename) in (str(folder / "gone"), str(folder))
    if isinstance(caught.value.filename2, str):
        assert caught.value.filename2 == str(folder / "other")
