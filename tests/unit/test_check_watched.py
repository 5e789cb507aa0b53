"""What `doctor` says where no watcher runs: nothing that waits for one is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.desk import Desk

from agent_mailer.checks import Level
from agent_mailer.checks.watched import check_watched
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import Phase, RetryEntry, Settlement, TurnRecord

NOW = 1_800_000_000.0
MAIL = Envelope("m1", "t", "user", NOW, "o", "l")


def left(phase: Phase, settlement: Settlement | None = None) -> Callable[[Desk], object]:
    record = TurnRecord(new_turn_id(NOW), MAIL, phase, "command", NOW, settlement=settlement)
    return lambda desk: desk.place().state.turns.create(record)


@pytest.mark.parametrize(
    ("leave", "what"),
    [
        (lambda _: None, ""),
        (lambda desk: desk.send(), "1 message waits"),
        (lambda desk: desk.place().state.retries.put(RetryEntry(MAIL)), "1 message waits"),
        (left(Phase.RUNNING), "a turn is left open"),
        (left(Phase.SETTLING, Settlement(Outcome.DONE, "", NOW, 1.0, finished=True)), "a turn is left open"),
    ],
    ids=["nothing", "mail", "a retry", "a turn that runs", "an answer that has not left"],
)
def test_what_waits_for_a_watcher_is_told(tmp_path: Path, leave: Callable[[Desk], object], what: str) -> None:
    desk = Desk(tmp_path)
    place = desk.place()
    place.folder.hold()
    place.prepare()
    leave(desk)
    found = check_watched(desk.place())
    assert found.result is (Level.FAILED if what else Level.OK), found
    assert what in found.text
    assert not what or "agent-mailer watch" in found.fix
