"""Each branch of recovery is run by a test that kills, stops or damages; one neither run nor listed is red."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.reach import SOURCE, VARIABLE, asked, missed, not_reached, reached

PROJECT = Path(__file__).parents[2]
REPAIRS: dict[str, tuple[str, ...]] = {
    "watch/recovery.py": (),
    "watch/sending.py": (),
    "watch/unsent.py": (),
    "state/folder.py": (
        "StateFolder.make_folder",
        "StateFolder.clear_interrupted",
        "StateFolder.keep_copy",
        "StateFolder.read",
        "StateFolder.watcher_id",
        "StateFolder.bytes_of",
        "StateFolder.clear_way",
        "StateFolder.set_aside",
        "StateFolder.check_format",
        "StateFolder._",
        "_content",
        "_is_torn",
    ),
    "state/sessions.py": ("Sessions.fold_journal", "Sessions._load", "_change", "_harmless", "_last_used"),
    "state/retries.py": ("Retries._load", "Retries.adopt", "remake_retries"),
    "state/turns.py": (
        "TurnStore.load",
        "TurnStore.remake_index",
        "TurnStore.vanished",
        "TurnStore.index_is_damaged",
        "TurnStore._rows_written",
        "TurnStore.remove",
        "TurnStore.sweep",
        "TurnStore._index",
    ),
    "state/lifts.py": ("Lifts._read",),
    "state/remote.py": ("RemoteBook._read",),
    "state/approvals.py": ("Approvals._read", "Approvals._look"),
    "state/pauses.py": ("AccountPause.read",),
    "state/notes.py": ("Notes._replace", "Notes._seen"),
    "state/stuck.py": ("Stuck._load", "Unsent._load", "split_key"),
    "state/dead_letters.py": ("_parse", "_decoded", "DeadLetters.add", "DeadLetters.remove"),
    "state/presence.py": ("Presence.there", "Presence.offers"),
    "mailbox/maildir/consume.py": (),
    "mailbox/maildir/layout.py": ("make_mailbox", "_make_folders", "missing_folders"),
    "mailbox/maildir/remembered.py": ("Remembered.load", "Remembered.of", "Remembered.is_begun_anew"),
    "process/holder.py": ("Supervised", "adopt", "read_exit", "GatedHolder"),
    "process/tree.py": (),
    "turn_tools/folder.py": ("TurnFolder.seal", "TurnFolder._put_away", "_drafts", "_draft", "_finish_note", "_notes"),
    "approvals/turn.py": ("read", "used_in", "_calls", "_mark", "_asked"),
    "live/sessions.py": ("LiveSessions.forget_old", "LiveSessions._lives", "LiveSessions._read"),
}
"""What puts right what a death, a failure or somebody's hand has left: of a module the functions whose names begin so,
or all.
"""
MODULES = tuple(SOURCE / name for name in REPAIRS)
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
