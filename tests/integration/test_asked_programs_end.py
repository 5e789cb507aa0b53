"""What a watcher starts that is no turn (a sandbox that is tried, a program that is asked, a command of yours)
ends with it, however the watcher ends and wherever that went.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.desk import Desk, outcomes, said_in, until
from tests.integration.test_codex_fence import HOLDS, CodexDesk
from tests.sizes import thinned

from agent_mailer.events import EventName
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive

HANGS = "( env -i setsid sh -c 'echo $$ >{base}/new; mv {base}/new {base}/left; exec sleep 1000' & ); exec sleep 1000"
"""It leaves a process of a session of its own, whose parent is gone and which has nothing of our environment."""
ENDS = {"killed": (signal.SIGKILL,), "stopped": (signal.SIGTERM,), "now": (signal.SIGTERM, signal.SIGTERM)}


class Left:
    """The process that was left, once it is there."""

    def __init__(self, base: Path) -> None:
        self._file = base / "left"

    def found(self) -> ProcessIdentity:
        found = identify(int(said_in(self._file, "what the watcher asks starts its own")))
        assert found is not None
        return found


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    left = Left(tmp_path)
    yield left
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def ends_with_the_watcher(desk: Desk, left: Left, end: str) -> None:
    with desk.watching() as watcher:
        started = left.found()
        for number in ENDS[end]:
            watcher.send_signal(number)
        watcher.wait()
        until(lambda: not is_alive(started), "it ends with the watcher")


@pytest.mark.parametrize("end", thinned(ENDS))
def test_a_sandbox_that_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: Left, end: str) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    desk = CodexDesk(tmp_path)
    desk.program(HANGS.format(base=tmp_path))
    desk.send()
    ends_with_the_watcher(desk, left, end)
    if end != "killed":
        assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["interrupted"], "it did not wait for it"
    desk.program(HOLDS)
    assert outcomes(desk.once()) == (["interrupted", "done"] if end == "killed" else ["done"])
    assert len(desk.log(EventName.TURN_STARTED)) == 1


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
def test_a_command_that_tells_a_person(tmp_path: Path, left: Left, end: str) -> None:
    desk = Desk(tmp_path)
    desk.tell(HANGS.format(base=tmp_path))
    desk.script({"exit": 1})
    desk.send()
    ends_with_the_watcher(desk, left, end)
