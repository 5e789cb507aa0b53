"""What the harnesses did in a run, counted by themselves: the numbers of docs/how-it-was-proved.md.

A harness calls `proved` where it has looked whether all is well; what a test counted stands only if the test passed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections import defaultdict
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest

PROJECT = Path(__file__).parents[1]
_PROPERTY = "proved"


class Harness(StrEnum):
    """The rows of the page's first table that count."""

    KILL_LOOPS = "kill loops"
    KILL_POINTS = "kill points"
    CALLS_FAIL = "every call fails"
    POWER = "power loss"
    STOPS = "stop in every phase"
    TWO_WATCHERS = "two watchers"
    HOSTILE_NAMES = "hostile names"
    BROKER = "broker under fire"
    MODEL = "a model"
    SCHEDULES = "schedules"
    SOAK = "soak"
    REPLAY = "replay"
    FUZZ = "fuzz"
    REACH = "reach"
    DRILL = "drill"


class Proof(msgspec.Struct):
    """One run. `counts`: by harness how many of what; `seconds`: of wall; `passed`: tests."""

    day: str
    commit: str
    system: str
    passed: int = 0
    failed: int = 0
    seconds: int = 0
    counts: dict[Harness, dict[str, int]] = {}


_counted: list[tuple[str, str, int]] = []


def proved(harness: Harness, **numbers: int) -> None:
    """Add to what this test has done, as `kills=25`; the names are plurals, `_` for a blank."""
    _counted.extend((harness.value, name.replace("_", " "), number) for name, number in numbers.items())


class Collects:
    """Hands over what a test counted with the report of its call."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> object:
        _counted.clear()
        try:
            return (yield)
        finally:
            item.user_properties.append((_PROPERTY, list(_counted)))


class Proved:
    """Adds up in the process that has all reports, and writes to `path`, adding to what a run before has put there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = time.monotonic()
        self._counts: defaultdict[Harness, dict[str, int]] = defaultdict(dict)
        self._passed = self._failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed += report.failed
        if report.when != "call" or not report.passed:
            return
        self._passed += 1
        for name, counted in report.user_properties:
            if name == _PROPERTY and isinstance(counted, list):
                for harness, what, number in counted:
                    of_it = self._counts[Harness(harness)]
                    of_it[what] = of_it.get(what, 0) + number

    def pytest_sessionfinish(self) -> None:
        proof = self._before()
        proof.passed += self._passed
        proof.failed += self._failed
        proof.seconds += round(time.monotonic() - self._begun)
        for harness, numbers in self._counts.items():
            known = proof.counts.setdefault(harness, {})
            for what, number in numbers.items():
                known[what] = known.get(what, 0) + number
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n")

    def _before(self) -> Proof:
        if self._path.exists():
            return msgspec.json.decode(self._path.read_bytes(), type=Proof)
        asked = subprocess.run(
            ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
        )
        kernel = platform.release().partition("-")[0]
        system = f"Linux {kernel}, Python {platform.python_version()}, {os.cpu_count()} processors"
        return Proof(time.strftime("%Y-%m-%d", time.gmtime()), asked.stdout.strip() or "unknown", system)
