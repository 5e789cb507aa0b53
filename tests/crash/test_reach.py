"""Each branch that puts something right is run by a test that kills, stops or damages; one neither run nor listed is
red.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.proved import Harness, proved
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
    "state/notes.py": ("Notes._replace", "Notes._seen", "Notes._undo"),
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
_UNIT = """
    approval_answers approval_calls approval_hook guards_decisions live_telling maildir_durable maildir_format
    maildir_layout maildir_listing maildir_passing maildir_remembered needs state_approvals state_durable
    state_entries state_folder state_lists state_reading state_refused state_retention state_stuck state_turns
    state_workdirs turn_folder user_state watch_answered watch_backlog watch_claim watch_deciding
    watch_following watch_judging watch_loop watch_notices watch_pausing watch_putting_away watch_requests
    watch_retry watch_rules watch_schedule watch_screen watch_sending watch_session_choice watch_settlement
    watch_settling watch_start watch_turn watch_unsent watch_watcher
"""
_INTEGRATION = """
    engine_recovery forged_records half_written bad_state stop_in_time doctor_repair degraded batch_low
    maildir_consume maildir_adapter maildir_delivery process_holder process_tree process_spawn thread_index stuck
    doorbell live_first approvals_by_force kept_state takeover answer_waits turn_stopped note_editing remote
    approvals guards_held cli_state account_pause engine_turn amq_tree everyday routes broadcast reaches_later_turns
"""
TESTS = (
    *(f"tests/unit/test_{name}.py" for name in _UNIT.split()),
    *(f"tests/integration/test_{name}.py" for name in _INTEGRATION.split()),
    "tests/crash/test_model.py",
)
OUT_OF_REACH = PROJECT / "tests" / "out_of_reach.toml"
"""By what `missed` says of them: why no test of `TESTS` comes there. Each is a hole until one does."""


PLANTED = """
def recover(turns):
    for turn in turns:
        if turn == "none is called so":
            return "never"
    return "done"
"""


@pytest.mark.soak
def test_every_branch_that_puts_something_right_is_reached(tmp_path: Path) -> None:
    target = tmp_path / "reached"
    env = os.environ | asked(target, MODULES, tmp_path / "site")
    quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "tests.reach")
    argv = [sys.executable, "-m", "pytest", *quiet, "-m", "not long and not soak", *TESTS]
    done = subprocess.run(argv, cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    parts = {SOURCE / name: begins for name, begins in REPAIRS.items()}
    known = tomllib.loads(OUT_OF_REACH.read_text())
    assert not_reached(target, parts, known) == ([], []), "not reached; and listed, but reached or gone"
    proved(Harness.REACH, statements_that_put_something_right=_many(parts), statements_out_of_reach=len(known))


def _many(parts: Mapping[Path, Sequence[str]]) -> int:
    every = ((one, begins) for path, begins in parts.items() for one in missed(path, set()))
    return sum(not begins or one.startswith(tuple(begins)) for one, begins in every)


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
