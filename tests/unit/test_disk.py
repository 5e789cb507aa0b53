"""Durable procedures over real files, and what they leave behind when a call fails."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from tests import procfs
from tests.crash.faults import FaultySystem, Lasting
from tests.powers import no_powers
from tests.refusing import On, Refusing

from agent_mailer.disk import Disk, Sync, SystemCalls, of_the_moment, open_own, read_regular


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def failing(at: int, code: int = errno.ENOSPC) -> Disk:
    return Disk(FaultySystem(at, code, Lasting.FROM_THEN_ON))


def test_folders_and_files_are_private_whatever_the_umask(tmp_path: Path, disk: Disk) -> None:
    for umask in (0o000, 0o077, 0o377):
        before = os.umask(umask)
        try:
            base = tmp_path / f"{umask}"
            disk.make_directory(base / "a" / "b")
            disk.create(base / "a/new", b"x", sync=Sync.FULL)
            disk.replace(base / "a/whole", b"x", sync=Sync.NONE)
            disk.append_line(base / "a/lines", b"x", sync=Sync.CONTENT)
            disk.overwrite(base / "a/over", b"x")
        finally:
            os.umask(before)
        assert [mode(base), mode(base / "a"), mode(base / "a/b")] == [0o700] * 3
        assert {mode(p) for p in (base / "a").iterdir() if p.is_file()} == {0o600 & ~umask}


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    disk.make_directory(folder)
    assert mode(folder) == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        disk.make_directory(tmp_path / "file")
    with pytest.raises(OSError):
        disk.make_directory(tmp_path / "file" / "below")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_what_is_refused_says_of_which_file_it_is(tmp_path: Path, call: str) -> None:
    class Full(SystemCalls):
        pass

    def refuse(*words: object) -> int:
        # As the system does: a path where one was given.
        named = [str(word) for word in words if isinstance(word, Path)][:1]
        raise OSError(errno.ENOSPC, "No space left on device", *named)

    there = tmp_path / "there"
    there.write_bytes(b"a line that has no end")
    system = Full()
    setattr(system, call, refuse)
    disk = Disk(system)
    if call != "replace":
        for write in (disk.create, disk.append_line):
            with pytest.raises(OSError) as raised:
                write(tmp_path / "new", b"x", sync=Sync.FULL)
            assert raised.value.filename in (str(tmp_path / "new"), str(tmp_path))
            # What is created is there as a whole or not at all; a file that grows may be there and empty.
            assert write == disk.append_line or not (tmp_path / "new").exists()
        with pytest.raises(OSError) as raised:
            disk.end_last_line(there)
        assert raised.value.filename == str(there)
    with pytest.raises(OSError) as raised:
        disk.replace(there, b"x", sync=Sync.FULL)
    assert raised.value.filename == str(there)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_create_never_replaces(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "f"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        disk.create(path, b"theirs", sync=Sync.FULL)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("sync", list(Sync))
def test_a_replacement_is_whole_or_not_there_at_every_call(tmp_path: Path, sync: Sync) -> None:
    new = b"n" * 100_000
    for at in range(1, 20):
        path = tmp_path / f"{at}"
        path.write_bytes(b"old")
        system = FaultySystem(at, errno.ENOSPC, Lasting.ONCE)
        try:
            Disk(system).replace(path, new, sync=sync)
        except OSError:
            assert path.read_bytes() in (b"old", new)
        else:
            assert path.read_bytes() == new
        if not system.fired:
            break
    else:
        pytest.fail("no run without a fault")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp.")] == []


def test_replace_writes_over_a_link_and_not_through_it(tmp_path: Path, disk: Disk) -> None:
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    link = tmp_path / "link"
    link.symlink_to(outside)
    disk.replace(link, b"ours", sync=Sync.NONE)
    assert (outside.read_text(), link.is_symlink(), link.read_text()) == ("theirs", False, "ours")


def test_overwrite_refuses_a_link(tmp_path: Path, disk: Disk) -> None:
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(OSError):
        disk.overwrite(tmp_path / "link", b"ours")
    assert outside.read_text() == "theirs"
    disk.overwrite(tmp_path / "plain", b"much longer")
    disk.overwrite(tmp_path / "plain", b"short")
    assert (tmp_path / "plain").read_bytes() == b"short"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, b"new\n"),
        (b"", b"new\n"),
        (b"one\n", b"one\nnew\n"),
        (b"one\ntor", b"one\ntor\nnew\n"),
        (b"one\n\0\0\0", b"one\n\0\0\0\nnew\n"),
        (b"\n", b"\nnew\n"),
    ],
)
def test_a_line_is_appended_and_a_torn_one_terminated(
    tmp_path: Path, disk: Disk, before: bytes | None, after: bytes
) -> None:
    path = tmp_path / "lines"
    if before is not None:
        path.write_bytes(before)
    disk.append_line(path, b"new", sync=Sync.FULL)
    assert path.read_bytes() == after


@pytest.mark.parametrize("lasting", list(Lasting))
def test_a_line_that_failed_is_taken_back(tmp_path: Path, lasting: Lasting) -> None:
    """Whatever call fails: tried again, the line is there once, and what stood before is there still."""
    for at in range(1, 20):
        path = tmp_path / f"{at}"
        path.write_bytes(b"one\n")
        system = FaultySystem(at, errno.ENOSPC, lasting)
        try:
            Disk(system).append_line(path, b"a longer line", sync=Sync.FULL)
        except OSError:
            Disk().append_line(path, b"a longer line", sync=Sync.FULL)
        if not system.fired:
            return
        rows = path.read_bytes().split(b"\n")
        assert rows[0] == b"one", at
        # A disk that cannot even take back may leave it, or half of it; half a line equals nothing.
        assert rows.count(b"a longer line") in ((1,) if lasting is Lasting.ONCE else (1, 2)), at
    pytest.fail("no run without a fault")


def test_a_move_never_replaces(tmp_path: Path, disk: Disk) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    with pytest.raises(FileExistsError):
        disk.move(one, other, sync=Sync.FULL)
    assert (one.read_text(), other.read_text()) == ("1", "2")
    with pytest.raises(FileNotFoundError):
        disk.move(tmp_path / "gone", tmp_path / "new", sync=Sync.NONE)
    disk.move(one, tmp_path / "new", sync=Sync.FULL)
    assert not one.exists()


def test_a_tree_is_removed_and_nothing_behind_a_link(tmp_path: Path, disk: Disk) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep/precious").write_text("keep")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").touch()
    (tree / "sub/link").symlink_to(outside)
    (tree / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tree / "fifo")
    disk.remove_tree(tree)
    assert not tree.exists()
    # The tree itself may have become a link.
    tree.symlink_to(outside)
    disk.remove_tree(tree)
    assert not tree.is_symlink()
    assert (outside / "deep/precious").read_text() == "keep"
    disk.remove_tree(tree)
    (tmp_path / "file").touch()
    disk.remove_tree(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_tree_is_removed_with_folders_that_are_only_to_be_read(tmp_path: Path, disk: Disk) -> None:
    """As a language's cache of modules has them."""
    tree = tmp_path / "tree"
    for name, mode in (("read", 0o500), ("shut", 0o000)):
        (tree / name / "deep").mkdir(parents=True)
        (tree / name / "deep" / "file").touch()
        (tree / name / "deep").chmod(0o500)
        (tree / name).chmod(mode)
    with no_powers():
        disk.remove_tree(tree)
    assert not tree.exists()


def test_a_large_tree_is_removed_in_portions(tmp_path: Path, disk: Disk) -> None:
    tree, files = tmp_path / "tree", 1_700
    for number in range(files):
        folder = tree / f"d{number % 3}" / "in"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).touch()
    left = [files]
    while not disk.remove_some(tree):
        left.append(sum(path.is_file() for path in tree.rglob("*")))
        assert 0 < left[-2] - left[-1] < files // 2, left
    assert not tree.exists()
    assert len(left) > 3
    assert disk.remove_some(tree)


@pytest.mark.parametrize(("sync", "syncs"), [(Sync.NONE, 0), (Sync.CONTENT, 1), (Sync.FULL, 2)])
def test_the_syncs_are_those_that_were_asked_for(tmp_path: Path, sync: Sync, syncs: int) -> None:
    for write in ("create", "replace", "append_line"):
        disk = Disk()
        getattr(disk, write)(tmp_path / f"{write}", b"x", sync=sync)
        assert disk.syncs == syncs, write
    # The name of each folder that was made, in the one above it.
    disk = Disk()
    disk.make_directory(tmp_path / "a" / "b", sync=sync)
    disk.make_directory(tmp_path / "a" / "b", sync=sync)
    assert disk.syncs == (2 if sync is Sync.FULL else 0)
    # Nothing new in the folder: its name is durable already.
    disk = Disk()
    disk.append_line(tmp_path / "append_line", b"y", sync=sync)
    assert disk.syncs == min(syncs, 1)


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("fifo", "folder", "link"):
        with pytest.raises(OSError):
            read_regular(tmp_path / name)
    with pytest.raises(OSError):
        read_regular(Path("/dev/null"), follow=True)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent")
    assert read_regular(tmp_path / "link", follow=True) == b"0123456789"
    assert read_regular(tmp_path / "file", 4) == b"01234"


OF_THE_MOMENT = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE),
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ETIMEDOUT),
)
OF_THE_FILE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM)


def test_what_cannot_be_read_for_want_of_something_is_not_taken_for_damaged() -> None:
    """Else a watcher that has no descriptor to spare would put whole records away, and do again what they decided."""
    assert [code for code in OF_THE_MOMENT if not of_the_moment(OSError(code, "refused"))] == []
    assert [code for code in OF_THE_FILE if of_the_moment(OSError(code, "refused"))] == []


def test_what_is_written_in_place_is_a_file_of_ours_alone(tmp_path: Path) -> None:
    """A second name of somebody's file, a link, a FIFO: none is emptied, none is waited for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    mine, linked, second, fifo = (tmp_path / name for name in ("mine", "linked", "second", "fifo"))
    mine.write_text("what an earlier one said")
    fd = open_own(mine, flags)
    assert os.get_blocking(fd)
    os.write(fd, b"new")
    os.close(fd)
    assert mine.read_text() == "new"
    second.hardlink_to(mine)
    with pytest.raises(OSError) as refused:
        open_own(second, flags)
    assert (refused.value.errno, refused.value.filename) == (errno.EMLINK, str(second))
    second.unlink()
    linked.symlink_to(mine)
    os.mkfifo(fifo)
    for path in (linked, fifo):
        with pytest.raises(OSError):
            open_own(path, flags)
    with pytest.raises(OSError) as refused:
        open_own(fifo, os.O_RDWR)
    assert refused.value.errno == errno.EMLINK
    assert mine.read_text() == "new"
    os.close(open_own(mine, os.O_WRONLY))
    assert mine.read_text() == "new", "who does not ask for it keeps what is there"
    fresh = open_own(tmp_path / "fresh", flags)
    os.close(fresh)
    assert mode(tmp_path / "fresh") == 0o600


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    for at in range(1, 12):
        disk = failing(at)
        for write in (disk.create, disk.replace, disk.append_line):
            with suppress(OSError):
                write(tmp_path / f"{at}-{write.__name__}", b"x", sync=Sync.FULL)
    assert [path for path in procfs.opened(os.getpid()) if path.startswith(str(tmp_path))] == []


def test_short_writes_are_finished(tmp_path: Path) -> None:
    class Slow(SystemCalls):
        def write(self, fd: int, data: memoryview) -> int:
            return super().write(fd, data[:7])

    data = os.urandom(1000)
    Disk(Slow()).replace(tmp_path / "f", data, sync=Sync.NONE)
    assert (tmp_path / "f").read_bytes() == data


def test_a_tree_that_an_agent_made_deep_and_shut_is_removed_all_the_same(tmp_path: Path) -> None:
    disk, top = Disk(), tmp_path / "tree"
    top.mkdir()
    made = os.open(top, os.O_RDONLY)
    for name in ("x" * 200, *("y" for _ in range(1500)), *("z" * 250 for _ in range(40))):
        os.mkdir(name, dir_fd=made)
        deeper = os.open(name, os.O_RDONLY, dir_fd=made)
        os.close(made)
        made = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=made))
    os.fchmod(made, 0o000)
    os.close(made)
    (top / "shut" / "inner").mkdir(parents=True)
    (top / "shut").chmod(0o500)
    disk.remove_tree(top)
    assert not top.exists()


def test_what_is_moved_is_durable_where_it_has_come_to(tmp_path: Path) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from" / "file").touch()
    disk = Disk(Refusing("from", On.SYNC))
    disk.move(tmp_path / "from" / "file", tmp_path / "to" / "file", sync=Sync.FULL)
    disk.system = Refusing("to", On.SYNC)
    with pytest.raises(OSError, match="No space"):
        disk.move(tmp_path / "to" / "file", tmp_path / "to" / "other", sync=Sync.FULL)
