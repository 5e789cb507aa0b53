"""What a run of the quick set took, by part, beside what it may take: told, never enforced."""

from __future__ import annotations

import os
import time
from collections import defaultdict

import pytest

BUDGET = 700.0
"""Worker-seconds for the quick set with the checks, on two processors that have nothing else to do."""


class Spent:
    """Adds up in the process that prints. `checks`: seconds that the checks before took."""

    def __init__(self, checks: float) -> None:
        self._checks = checks
        self._begun = time.monotonic()
        self._seconds = defaultdict(float, checks=checks)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.removeprefix("tests/").partition("/")[0]] += report.duration

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        total = sum(self._seconds.values())
        wall = self._checks + time.monotonic() - self._begun
        load = " ".join(f"{load:.1f}" for load in os.getloadavg())
        terminalreporter.section("worker-seconds")
        for part, seconds in self._seconds.items():
            terminalreporter.write_line(f"{part:<12} {seconds:5.0f}")
        terminalreporter.write_line(f"{'total':<12} {total:5.0f} of {BUDGET:.0f}")
        terminalreporter.write_line(f"wall time {wall:.0f} s; load {load} on {os.cpu_count()} processors")
        if total > BUDGET:
            terminalreporter.write_line(
                "warning: over the budget. Unless other work ran beside it: make tests cheaper, or mark some `long`",
                yellow=True,
            )
