"""A short soak: under mail and faults nothing of a watcher grows. `python -m tests.crash.soak` runs it for hours."""

from __future__ import annotations

from pathlib import Path

from tests.crash.soak import soak, table

MINUTES = 0.4


def test_nothing_grows(tmp_path: Path) -> None:
    report = soak(tmp_path, MINUTES)
    print(f"\n{table(report)}")
    assert not report.faults
    assert report.messages > 30
    assert report.samples > 3
    assert report.watchers_killed
    assert report.agents_killed
