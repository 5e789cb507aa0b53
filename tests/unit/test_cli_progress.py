"""How far long work is: what is told, what is drawn of it, and who sees nothing."""

from __future__ import annotations

import sys

import pytest
from tests.unit.test_cli_screen import sit_before

from agent_mailer.cli.terminal.progress import line_of, shown
from agent_mailer.progress import EVERY, Step, counted, untold


def test_counted_passes_all_on_and_tells_now_and_then() -> None:
    told: list[Step] = []
    assert list(counted(range(2 * EVERY + 1), "copies", told.append, 2 * EVERY + 1, done=1)) == list(
        range(2 * EVERY + 1)
    )
    assert [step.done for step in told] == [1, EVERY, 2 * EVERY]
    assert {step.total for step in told} == {2 * EVERY + 1}


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Step("reads the mailbox"), "reads the mailbox, 8 s"),
        (Step("copies messages", 12345), "copies messages: 12,345, 8 s"),
        (Step("copies messages", 12345, 30000), "copies messages: 12,345 of 30,000 (41 %), 8 s"),
        (Step("copies messages", 7, 5), "copies messages: 7 of 5 (100 %), 8 s"),  # some came meanwhile
    ],
)
def test_the_line(step: Step, line: str) -> None:
    assert line_of(step, 8.2) == line


def test_who_asks_for_none_or_has_no_terminal_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown("reads") as tell:
        assert tell is untold
    sit_before(monkeypatch)
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    with shown("reads", quiet=True) as tell:
        assert tell is untold
    with shown("reads") as tell:
        assert tell is not untold
    monkeypatch.setenv("TERM", "dumb")
    with shown("reads") as tell:
        assert tell is untold
