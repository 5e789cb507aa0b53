"""What a run of all tests says while it goes on: each failure at once, and, where it does not come to an end, by which
tests it was held up.
"""

from __future__ import annotations

import os
import sys
import threading

import pytest

LONGEST_RUN = 70 * 60.0
"""Seconds. The default run takes a fifth of that on two cores."""
SHOWN = 4_000


class Running:
    """Told of every test by pytest, in the process that prints."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._under_way: dict[str, None] = {}
        self._timer = threading.Timer(LONGEST_RUN, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._under_way[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._under_way.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._say(f"\n{report.when} of {report.nodeid} failed:\n{report.longreprtext[-SHOWN:]}\n")

    def pytest_sessionfinish(self) -> None:
        self._timer.cancel()

    def _give_up(self) -> None:
        names = "\n  ".join(self._under_way) or "none"
        self._say(f"\nno end after {LONGEST_RUN / 60:.0f} minutes; these tests are under way:\n  {names}\n")
        os._exit(pytest.ExitCode.INTERRUPTED)

    def _say(self, text: str) -> None:
        with self._capture.global_and_fixture_disabled():
            sys.stdout.flush()
            sys.stderr.write(text)
            sys.stderr.flush()
