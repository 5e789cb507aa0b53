"""What another AMP client had in work, taken over by a watcher that may die, or be refused by the disk, anywhere."""

from __future__ import annotations

import errno
import json
from contextlib import suppress
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.refusing import Died, On, Refusing

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
