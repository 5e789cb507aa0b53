"""The soak: under mail and faults nothing of a watcher grows. `python -m tests.crash.soak` runs it as long as told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.crash.soak import LEAST_MESSAGES, LEAST_SAMPLES, soak, table
from tests.proved import Harness, proved
from tests.sizes import sizes


@pytest.mark.parametrize("minutes", sizes(quick=0.04, long=0.5, soak=60.0))
def test_nothing_grows(tmp_path: Path, minutes: float) -> None:
    report = soak(tmp_path, minutes)
    print(f"\n{table(report)}")
    assert not report.faults
    assert report.messages > LEAST_MESSAGES
    assert report.samples >= LEAST_SAMPLES
    assert report.watchers_killed
    assert report.agents_killed
    kills = report.watchers_killed + report.agents_killed
    proved(Harness.SOAK, messages=report.messages, turns=report.turns, kills=kills)
