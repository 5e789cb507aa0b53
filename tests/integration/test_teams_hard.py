"""`amp` where something is in the way: an end that is under way, two at once, files that are broken or gone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import until
from tests.team_desk import TeamDesk, team_desk

from agent_mailer.events import EventName
from agent_mailer.process.handle import send

SLOW = "sh -c 'cat >/dev/null; while [ ! -e {go} ]; do sleep 0.05; done; echo it is done'"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeamDesk]:
    with team_desk(tmp_path, monkeypatch) as found:
        yield found


def test_started_while_its_watchers_end_it_runs_and_its_turn_goes_on(desk: TeamDesk) -> None:
    go = desk.project / "go"
    desk.up(command=SLOW.format(go=go))
    desk.amp("send", "coder", "work")
    until(lambda: desk.log("coder", EventName.TURN_STARTED), "its turn")
    before = desk.watching()
    for process in before.values():
        # As when the terminal is gone: whoever has a turn gives it time, and ends then.
        send(process, signal.SIGHUP)
    again = desk.amp("start", "--detach")
    assert again.status == 0, again
    after = desk.watching()
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before), again
    go.touch()
    until(lambda: desk.log("coder", EventName.TURN_SETTLED), "its end")
    assert [len(desk.log("coder", one)) for one in (EventName.TURN_STARTED, EventName.TURN_ADOPTED)] == [1, 1]
    assert [row["outcome"] for row in desk.log("coder", EventName.TURN_ENDED)] == ["done"]
    assert desk.watching() == after
