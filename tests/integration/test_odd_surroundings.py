"""A watcher where /proc is hidden, another's or missing, and where no process is to be had."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.containers import containers
from tests.desk import Desk
from tests.sizes import LONG
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


@pytest.mark.parametrize("limit", [1, 2], ids=["for the holder", "for the agent"])
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
