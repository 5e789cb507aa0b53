"""What another AMP client had in work, taken over by a watcher that may die, or be refused by the disk, anywhere."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.refusing import Died, On, Refusing

from agent_mailer.errors import BusyFault
from agent_mailer.events import EventName
from agent_mailer.state.takeover import UNKNOWN_SENT

INFLIGHT = {"msg_id": "m1", "thread_id": "t", "started_at": "2026-08-22T10:00:00Z", "retry_count": 2}


@pytest.mark.parametrize("code", [None, errno.ENOSPC])
@pytest.mark.parametrize("name", ["inflight.json", "retries.json"])
@pytest.mark.parametrize("call", [On.MAKE, On.WRITE, On.SYNC, On.REPLACE])
def test_the_message_that_was_in_work_is_known_once_whatever_ends_the_taking(
    tmp_path: Path, name: str, call: On, code: int | None
) -> None:
    desk = Desk(tmp_path)
    (desk.state / "inflight.json").write_text(json.dumps(INFLIGHT))
    place = desk.place()
    place.disk.system = refusing = Refusing(name, call, code=code, times=1)
    with suppress(Died, OSError):
        place.state.take_over()
    assert refusing.refused == 1
    state = desk.place().state
    state.take_over()
    assert {entry.envelope.id: entry.attempts for entry in state.retries.all()} == {"m1": 2}
    assert [entry.sent for entry in state.retries.all()] == [(UNKNOWN_SENT,)], "its agent may have answered"
    assert "m1" not in (desk.state / "inflight.json").read_text()
    assert len(desk.log(EventName.TAKEN_OVER)) == 1


@contextmanager
def agent(place: Path, prompt: str) -> Iterator[int]:
    """It works there until it is told to end."""
    argv = [sys.executable, "-c", "import sys; sys.stdin.read()", prompt]
    with subprocess.Popen(argv, cwd=place, stdin=subprocess.PIPE) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_while_its_agent_works_on_a_message_nobody_takes_it_over(tmp_path: Path) -> None:
    """Nor does another agent hinder it: one of another folder, or with other mail."""
    desk = Desk(tmp_path)
    (desk.state / "inflight.json").write_text(json.dumps(INFLIGHT))
    with agent(tmp_path, "answer m1"), agent(desk.workdir, "answer m2"):
        with agent(desk.workdir, "answer m1") as pid, pytest.raises(BusyFault, match=f"process {pid}, an agent"):
            desk.place().state.take_over()
        assert list(desk.place().state.retries.all()) == []
        assert json.loads((desk.state / "inflight.json").read_text()) == INFLIGHT
        desk.place().state.take_over()
    assert [entry.envelope.id for entry in desk.place().state.retries.all()] == ["m1"]
