"""The board where there is no terminal: a line for each thing that comes to need a person, as often as it comes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.desk import Desk

from agent_mailer.cli.status.live import watch_all


def test_what_comes_to_need_a_person_again_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path)
    told: list[int] = []

    def scene(_seconds: float) -> None:
        """Between two looks the agent's watcher begins, or ends."""
        told.append(capsys.readouterr().out.count("NEEDS YOU  coder: no watcher runs"))
        if len(told) == 6:
            raise KeyboardInterrupt
        lock.acquire() if len(told) % 2 else lock.release()

    lock = desk.place().lock()
    monkeypatch.setattr(time, "sleep", scene)
    watch_all([desk.workdir])
    assert told == [0, 0, 1, 0, 1, 0]
