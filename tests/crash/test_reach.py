"""Each branch of recovery is run by a test that kills, stops or damages; one neither run nor listed is red."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.reach import SOURCE, VARIABLE, asked, missed, not_reached, reached

PROJECT = Path(__file__).parents[2]
MODULES = (SOURCE / "watch" / "recovery.py",)
TESTS = (
    "tests/integration/test_engine_recovery.py",
    "tests/integration/test_forged_records.py",
    "tests/integration/test_half_written.py",
    "tests/integration/test_bad_state.py",
    "tests/integration/test_stop_in_time.py",
    "tests/integration/test_doctor_repair.py",
    "tests/integration/test_degraded.py",
    "tests/integration/test_batch_low.py",
    "tests/crash/test_model.py",
)
_CUT_OFF = "a watcher killed while it stopped, and its turn with it: the container kill loop alone does that"
OUT_OF_REACH = {
    "watch/recovery.py recover: continue": "recovery again, while a turn of this watcher is open: after trouble alone",
    "watch/recovery.py _excuse: return": _CUT_OFF,
    "watch/recovery.py _excuse: record.stopped = StopReason.SHUTDOWN": _CUT_OFF,
    "watch/recovery.py _excuse: room.state.turns.save(record)": _CUT_OFF,
    "watch/recovery.py _envelopes_of: if of_the_moment(error):": "a disk that fails while a damaged record is salvaged",
    "watch/recovery.py _envelopes_of: raise": "the same",
}
"""By what `missed` says of them: why no test of `TESTS` comes there. Each is a hole until one does."""

PLANTED = """
def recover(turns):
    for turn in turns:
        if turn == "none is called so":
            return "never"
    return "done"
"""


@pytest.mark.soak
def test_every_branch_of_the_recovery_is_reached(tmp_path: Path) -> None:
    target = tmp_path / "reached"
    env = os.environ | asked(target, MODULES, tmp_path / "site")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long and not soak", *TESTS]
    done = subprocess.run(argv, cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert not_reached(target, MODULES, OUT_OF_REACH) == ([], []), "not reached; and listed, but reached or gone"


@pytest.mark.long
def test_a_branch_that_nobody_reaches_is_found_also_where_the_process_is_killed(tmp_path: Path) -> None:
    module, target = tmp_path / "planted.py", tmp_path / "reached"
    module.write_text(PLANTED)
    env = os.environ | asked(target, [module], tmp_path / "site")
    assert env[VARIABLE]
    kills = "import os, sys, signal; sys.path.append(sys.argv[1]); import planted; planted.recover([1]);"
    command = [sys.executable, "-c", f"{kills} os.kill(os.getpid(), signal.SIGKILL)", str(tmp_path)]
    assert subprocess.run(command, env=env).returncode == -9
    assert missed(module, reached(target)[module]) == ['recover: return "never"']
