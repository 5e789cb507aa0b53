"""A workdir where the file system cannot do all that ours can, NFS say: refused in words, or done in another way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.desk import CLI, Desk
from tests.sizes import LONG

from agent_mailer.events import EventName

WITHOUT = Path(__file__).parents[1] / "without_calls.py"

pytestmark = pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="a filter of calls")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.shell_that_tells("echo done")
    desk.send()
    return desk


def watch(desk: Desk, *refused: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WITHOUT), *refused, "--", *CLI, "watch", "--once", "--workdir", str(desk.workdir)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("why", [pytest.param("ENOLCK", marks=LONG), "EOPNOTSUPP"])
def test_where_no_file_can_be_locked_nothing_is_started_and_what_mends_it_is_said(desk: Desk, why: str) -> None:
    done = watch(desk, why, "flock")
    assert done.returncode == 78, done.stderr
    assert "cannot lock files" in done.stderr
    assert "on a local file system" in done.stderr
    assert "Traceback" not in done.stderr
    assert desk.marks() == []
    assert watch(desk).returncode == 0
    assert len(desk.marks()) == 1


@pytest.mark.parametrize(
    "refused",
    [
        ("ENOSYS", "openat2"),
        ("EPERM", "openat2"),
        ("EINVAL", "renameat2"),
        ("ENOSYS", "renameat2", "ENOSYS", "openat2"),
    ],
    ids=" ".join,
)
def test_without_the_newer_calls_a_turn_is_done(desk: Desk, refused: tuple[str, ...]) -> None:
    done = watch(desk, *refused)
    assert done.returncode == 0, done.stderr
    assert len(desk.marks()) == 1
    assert len(desk.inbox()) == 1
    assert not desk.log(EventName.STATE_DAMAGED)
