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
from tests.desk import SOON

from agent_mailer.process.commands import Brief, run_briefly, run_briefly_async
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


def test_a_program_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        run_briefly(["./nowhere"], env={}, cwd=tmp_path, seconds=1.0)


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
