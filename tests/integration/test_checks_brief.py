"""Commands that are asked something: bounded in time and output, and nothing of them is left running."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import SOON, until

from agent_mailer.process.commands import (
    Brief,
    run_briefly,
    run_briefly_async,
    run_in_terminal,
    start_command,
)
from agent_mailer.process.handle import waited_for
from agent_mailer.process.holder import TURN_ID_VARIABLE
from agent_mailer.process.leashed import Leashed
from agent_mailer.processes import read_stat


def run(tmp_path: Path, script: str, *, seconds: float = 2 * SOON, most_bytes: int = 1000, stdin: bytes = b"") -> Brief:
    env = {"PATH": os.environ["PATH"], "COLOUR": "green"}
    argv = ("/bin/sh", "-c", script)
    return run_briefly(argv, env=env, cwd=tmp_path, seconds=seconds, most_bytes=most_bytes, stdin=stdin)


def gone(written: Path) -> bool:
    """Nothing runs under the pid in the file; whoever inherits a dead process may still have to bury it."""
    found = read_stat(int(written.read_text()))
    return found is None or not found.alive


def test_it_sees_its_folder_its_environment_and_its_input(tmp_path: Path) -> None:
    done = run(tmp_path, 'pwd; echo "$COLOUR $HOME"; cat; echo last >&2; exit 5', stdin=b"typed\n")
    assert done == Brief(5, f"{tmp_path}\ngreen \ntyped\nlast\n")


def test_nothing_of_ours_is_left_in_how_it_starts(tmp_path: Path) -> None:
    """Python ignores signals, and sets a locale, of its own accord; the one between us would hand both on."""
    script = 'echo "${LC_CTYPE-unset}"; sed -n "s/^SigIgn:.//p" /proc/self/status; ls /proc/self/fd'
    locale, ignored, *opened = run(tmp_path, script).output.split()
    assert locale == "unset"
    assert int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
    assert opened == ["0", "1", "2", "3"], "the last is the folder that is listed"
    argv = ("/bin/sh", "-c", 'echo "$LC_CTYPE"')
    assert run_briefly(argv, env={"LC_CTYPE": "C.UTF-8"}, cwd=tmp_path, seconds=2 * SOON).output == "C.UTF-8\n"


def test_input_that_nobody_reads_does_no_harm(tmp_path: Path) -> None:
    assert run(tmp_path, "exec <&-; echo fine", stdin=b"x" * 4096) == Brief(0, "fine\n")


def test_a_signal_is_told_as_a_shell_tells_it(tmp_path: Path) -> None:
    assert run(tmp_path, "kill -TERM $$").status == 128 + signal.SIGTERM


def test_output_is_cut_and_still_taken(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        done = run(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x; exit 3")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done == Brief(3, "x" * 1000, cut=True)
    assert peak < 2_000_000, "what is more than is wanted is not kept"


def test_time_is_bounded_and_everything_is_ended(tmp_path: Path) -> None:
    script = "trap '' TERM HUP; setsid sleep 1000 & echo $! >child; echo said; wait"
    started = time.monotonic()
    done = run(tmp_path, script, seconds=0.5)
    assert done == Brief(None, "said\n")
    assert time.monotonic() - started < SOON
    assert gone(tmp_path / "child")


def test_a_flood_does_not_outlast_the_time(tmp_path: Path) -> None:
    done = run(tmp_path, "exec yes", seconds=0.5)
    assert (done.status, done.cut) == (None, True)


def test_what_it_leaves_behind_with_its_output_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(tmp_path, "sleep 1000 & echo $! >child; echo said")
    assert done == Brief(0, "said\n")
    assert time.monotonic() - started < SOON
    assert gone(tmp_path / "child")


def test_what_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    done = run(tmp_path, "exec >&- 2>&-; sleep 0.3; exit 4")
    assert done == Brief(4, "")


def test_who_kills_all_of_his_group_does_not_kill_who_ends_the_rest(tmp_path: Path) -> None:
    away = "setsid env -i /bin/sh -c 'echo $$ >child; exec /bin/sleep 600' & while ! [ -s child ]; do sleep 0.01; done"
    assert run(tmp_path, f"{away}; kill -KILL 0").status == 128 + signal.SIGKILL
    assert gone(tmp_path / "child")


def test_a_program_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        run_briefly(["./nowhere"], env={}, cwd=tmp_path, seconds=1.0)


@pytest.mark.parametrize(("heeds", "grace", "end"), [("exit 7", 2 * SOON, 7), ("", 0.3, 128 + signal.SIGKILL)])
def test_one_that_runs_beside_us_is_asked_and_then_ended_with_all_it_has_started(
    tmp_path: Path, heeds: str, grace: float, end: int
) -> None:
    script = (
        f"trap 'echo asked; {heeds}' TERM; setsid sleep 600 & echo $! >child; echo up; while :; do sleep 0.02; done"
    )
    output = tmp_path / "output"
    before = procfs.descriptors()
    running = start_command(("/bin/sh", "-c", script), env={"PATH": os.environ["PATH"]}, cwd=tmp_path, output=output)
    until(lambda: output.read_text(), "its first word")
    assert running.status() is None
    assert read_stat(running.pid) is not None
    assert running.stop(grace) == end
    assert output.read_text() == "up\nasked\n"
    assert gone(tmp_path / "child")
    assert procfs.descriptors() <= before


def test_the_end_of_one_that_runs_beside_us_is_seen(tmp_path: Path) -> None:
    before, waited = procfs.descriptors(), set(waited_for)
    with pytest.raises(OSError, match="No such file"):
        start_command(("./nowhere",), env={}, cwd=tmp_path, output=tmp_path / "output")
    assert procfs.descriptors() <= before
    assert waited_for == waited
    running = start_command(("/bin/sh", "-c", "exit 5"), env={}, cwd=tmp_path, output=tmp_path / "output")
    until(lambda: running.status() is not None, "its end")
    assert running.stop(0.0) == 5


def test_what_has_our_terminal_has_its_ctrl_c_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run_in_terminal(("/bin/sh", "-c", f"kill -INT {os.getpid()}; exit 3")) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_killed_one_of_the_same_mark_has_left_is_ended_first(tmp_path: Path) -> None:
    left = subprocess.Popen(["/bin/sleep", "600"], env={TURN_ID_VARIABLE: "fence-1"}, start_new_session=True)
    try:
        # It is not buried yet.
        looks = ("/bin/grep", "-q", "^State:.Z", f"/proc/{left.pid}/status")
        done = asyncio.run(run_briefly_async(looks, env={}, cwd=tmp_path, seconds=2 * SOON, mark="fence-1"))
        assert done.status == 0
        assert left.poll() == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()


def test_who_is_waited_for_is_no_stranger_that_a_turn_has_left(tmp_path: Path) -> None:
    """A turn's end has all ended that nobody waits for: another one's, too, were it not for this."""
    leashed = Leashed(("/bin/cat",), env={}, cwd=tmp_path)
    assert leashed.process.pid in waited_for
    leashed.bury()
    assert leashed.process.pid not in waited_for
    for stream in (leashed.process.stdin, leashed.process.stdout):
        assert stream is not None
        stream.close()
