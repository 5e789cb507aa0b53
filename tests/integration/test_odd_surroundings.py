"""A watcher where /proc is hidden, another's or missing, and where no process is to be had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import procfs
from tests.containers import PREFIX, Container, containers
from tests.desk import SOON, Desk, until
from tests.sizes import LONG, thinned
from tests.typed import COMMAND

from agent_mailer.errors import ExitCode
from agent_mailer.events import EventName

__all__ = ["containers"]

pytestmark = [LONG, pytest.mark.usefixtures("containers")]

NO_PROC = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
ANOTHERS_PROC = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--"]
HIDDEN_PROC = [
    *["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"],
    *["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"],
]
OF_OURS = "+dac_override,+dac_read_search,+fowner"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def once(desk: Desk, *prefix: str) -> subprocess.CompletedProcess[str]:
    words = [*prefix, COMMAND, "watch", "--once", "--no-interactive"]
    return subprocess.run(words, cwd=desk.workdir, capture_output=True, text=True, check=False, timeout=60)


def test_where_others_are_hidden_a_turn_is_done_and_leaves_nothing(desk: Desk) -> None:
    held = desk.base / "held"
    desk.shell(
        f'cat >/dev/null; flock "{held}" sleep 600 >/dev/null 2>&1 & until [ -e "{held}" ]; do :; done; echo done'
    )
    desk.send()
    done = once(desk, *HIDDEN_PROC)
    assert done.returncode == 0, done.stderr
    [ended] = desk.log(EventName.TURN_ENDED)
    assert ended["outcome"] == "done"
    assert [mail.body for mail in desk.inbox()] == ["done\n"]
    assert subprocess.run(["flock", "--timeout", "10", held, "true"], check=False).returncode == 0, "nobody has it"


@pytest.mark.parametrize(
    "prefix", [pytest.param(NO_PROC, id="none"), pytest.param(ANOTHERS_PROC, id="that of another pid namespace")]
)
def test_where_no_process_can_be_known_nothing_is_started(desk: Desk, prefix: list[str]) -> None:
    """Another container's process with the same number would be taken for the turn's."""
    desk.shell("cat; echo done")
    desk.send()
    done = once(desk, *prefix)
    assert done.returncode == ExitCode.UNAVAILABLE, done.stderr
    assert "mount -t proc proc /proc" in done.stderr
    assert not desk.log(EventName.TURN_CLAIMED)


def test_in_a_pid_namespace_without_its_first_process_nothing_is_started(desk: Desk) -> None:
    """`unshare --pid` without `--fork`: what was started first would be its process 1, and nothing could follow it."""
    desk.send()
    done = once(desk, "unshare", "--pid")
    assert done.returncode == ExitCode.UNAVAILABLE, done.stderr
    assert "unshare --pid --fork --mount-proc" in done.stderr
    assert not desk.log(EventName.TURN_CLAIMED)


NEVER_REAPS = """
import os, pathlib, sys, time
go, *words = sys.argv[1:]
def start():
    if not os.fork():
        os.execv(words[0], words)
start()
while not pathlib.Path(go).exists():
    time.sleep(0.01)
start()
time.sleep(600)
"""


def test_below_a_process_1_that_never_reaps_a_turn_is_adopted_and_known_to_have_ended(desk: Desk) -> None:
    go, second = desk.base / "go", desk.base / "second"
    left = {"spawn": {"pid_file": str(desk.base / "left"), "seconds": 600, "scrub": True, "session": True}}
    desk.script(left, {"witness": "start"}, {"wait_for": str(go)}, {"print": "done"})
    desk.send()
    words = [sys.executable, "-c", NEVER_REAPS, str(second), COMMAND, "watch", "--no-interactive"]
    container = Container(words, desk.workdir)
    try:
        until(desk.marks, "the agent's start")
        first = container.first()
        [watcher] = procfs.children(first)
        os.kill(watcher, signal.SIGKILL)
        until(lambda: procfs.state(watcher) == "Z", "nobody reaps it")
        second.touch()
        until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
        go.touch()
        until(lambda: desk.log(EventName.TURN_SETTLED), "the settlement")
        assert [mail.body for mail in desk.inbox()] == ["done\n"]
        # The first watcher, and what of the turn was left to process 1: the holder is one of them.
        states = [procfs.state(pid) for pid in procfs.children(first)]
        assert (len(states) > 1, sum(state != "Z" for state in states)) == (True, 1), states
    finally:
        container.kill()
    assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["done"]
    assert not desk.log(EventName.SURVIVORS)


def with_inotify(instances: int = 100, watches: int = 1000) -> list[str]:
    """As the user of a machine whose limits these are."""
    script = "echo $1 >/proc/sys/user/max_inotify_instances && echo $2 >/proc/sys/user/max_inotify_watches && shift 2"
    return [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        f'{script} && exec "$@"',
        "sh",
        *map(str, (instances, watches)),
    ]


@pytest.mark.parametrize(("limits", "told"), thinned([((0, 1000), True), ((100, 2), True), ((1, 1000), False)]))
def test_too_few_file_events_are_told_and_hold_up_no_mail(desk: Desk, limits: tuple[int, int], told: bool) -> None:
    watcher = subprocess.Popen(
        [*with_inotify(*limits), COMMAND, "watch", "--no-interactive"], cwd=desk.workdir, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        desk.send()
        until(desk.inbox, "the answer")
        short = [row for row in desk.log(EventName.MACHINE_SHORT) if "mail is looked for every 2 seconds" in row["why"]]
        assert bool(short) is told
        watcher.terminate()
        assert watcher.wait(SOON) == 0
    finally:
        watcher.kill()
        watcher.wait()
        desk.end_turns()
    found = subprocess.run(
        [*with_inotify(*limits), COMMAND, "doctor", "--json"], cwd=desk.workdir, capture_output=True, check=False
    )
    [row] = [row for row in json.loads(found.stdout)["checks"] if row["name"] == "file_events"]
    # Less than what is usual is named in any case.
    assert row["result"] == "warning"
    assert f"max_user_instances {limits[0]}, max_user_watches {limits[1]}" in row["text"]


def test_in_a_container_doctor_says_that_all_end_with_its_first_process(desk: Desk) -> None:
    done = subprocess.run(
        [*PREFIX, COMMAND, "doctor", "--json"], cwd=desk.workdir, capture_output=True, check=False, timeout=60
    )
    [row] = [row for row in json.loads(done.stdout)["checks"] if row["name"] == "turn_end"]
    assert "subreaper" in row["text"]
    assert "pid namespace (with its process 1 all end)" in row["text"]


@pytest.mark.parametrize("limit", [pytest.param(1, marks=LONG), 2], ids=["for the holder", "for the agent"])
def test_where_no_process_is_to_be_had_the_message_is_innocent(desk: Desk, limit: int) -> None:
    if shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        pytest.skip("no setpriv, no prlimit")
    desk.shell("cat; echo done")
    sent = desk.send()
    somebody = ["setpriv", "--reuid=4711", "--clear-groups", f"--inh-caps={OF_OURS}", f"--ambient-caps={OF_OURS}"]
    done = once(desk, *somebody, "prlimit", f"--nproc={limit}")
    assert done.returncode == 1, done.stderr
    [ended] = desk.log(EventName.TURN_ENDED)
    assert ended["outcome"] == "unavailable", ended
    entry = json.loads((desk.state / "retries.json").read_text())[sent]
    assert entry.get("attempts", 0) == 0
    assert entry.get("starts", 0) == 0


def test_who_has_no_home_is_told_what_to_say(desk: Desk) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv")
    somebody = ["setpriv", "--reuid=4711", "--clear-groups", f"--inh-caps={OF_OURS}", f"--ambient-caps={OF_OURS}"]
    done = once(desk, *somebody, "env", "--unset=HOME")
    assert done.returncode == ExitCode.CONFIG, done.stderr
    assert "the system knows no user 4711" in done.stderr
    assert "fix: export HOME=" in done.stderr
