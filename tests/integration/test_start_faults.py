"""A watcher that cannot write its state folder at the start says so, with what mends it, and starts nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.refusing import On, Refusing
from tests.typed import COMMAND, type_in

from agent_mailer.errors import MailerError
from agent_mailer.watch.trouble import at_the_start


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


UNSHARE = shutil.which("unshare")


def can_mount() -> bool:
    if UNSHARE is None or os.geteuid() != 0:
        return False
    probe = [UNSHARE, "-m", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("existing", [True, False])
def test_a_read_only_folder_at_the_start(desk: Desk, *, existing: bool) -> None:
    if not can_mount():
        pytest.skip("nothing can be mounted here")
    desk.send()
    if existing:
        desk.once()
    held = str(desk.workdir)
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", script, held, COMMAND, "watch", "--no-interactive", "-C", held]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    error, fix = done.stderr.splitlines()
    assert (error.startswith("error: the watcher cannot start: "), "Read-only" in error) == (True, True), done
    assert fix.startswith(f"  fix: findmnt -T {held}")
    assert desk.marks() == []


REFUSALS = [
    (errno.EROFS, 1, "findmnt -T "),
    (errno.ENOSPC, 1, "df -h "),
    (errno.EDQUOT, 1, "df -h "),
    (errno.EIO, 1, "dmesg"),
    (errno.EACCES, 78, "ls -ld "),
    (errno.EPERM, 78, "ls -ld "),
    (errno.ENOTDIR, 78, "mv "),
]


@pytest.mark.parametrize(("code", "status", "fix"), REFUSALS)
def test_whatever_is_refused_is_named_with_what_mends_it(desk: Desk, code: int, status: int, fix: str) -> None:
    """Under every write of the state, one after the other, until a start gets through."""

    def start(number: int) -> None:
        """With a disk that refuses the `number`th write and all after it."""
        base = desk.base / f"start-{number}"
        base.mkdir()
        place = Desk(base).place()
        place.disk.system = Refusing("*", On.MAKE, On.MKDIR, code=code, after=number)
        with at_the_start(place.folder.path):
            place.folder.disk.make_directory(place.folder.path)
            place.prepare()

    refused: list[MailerError] = []
    for number in range(50):
        try:
            start(number)
        except MailerError as fault:
            refused.append(fault)
        else:
            break
    assert len(refused) >= 3
    assert {(fault.exit_code, "start-" in fault.message, fix in fault.fix) for fault in refused} == {
        (status, True, True)
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_somebody_else_is_to_be_owned(tmp_path: Path) -> None:
    theirs = tmp_path / "state"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(MailerError, match="cannot start") as raised, at_the_start(theirs):
        raise PermissionError(errno.EACCES, "Permission denied", str(theirs / "turns"))
    assert raised.value.fix.startswith("sudo chown -R $(id -un) ")


@pytest.mark.parametrize("place", [".agent-mailer", ".agent-mailer/.lock"])
def test_something_else_in_its_place(desk: Desk, place: str) -> None:
    flags = ["--address", "coder", "--runtime", "command", "--command", "cat", "--permission-mode", "plan"]
    path = desk.workdir / place
    if path.name == ".agent-mailer":
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.mkdir()
    done = type_in(desk.workdir, "watch", "--once", *flags, "--maildir-root", desk.root)
    assert done.status == 78, done
    assert "mv " in done.err.splitlines()[-1]
