"""The numbers of a run: only what passed counts, and a second run of the same adds to the first."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest
from tests.proved import Harness, Proof, Proved


def report(when: Literal["setup", "call"], outcome: Literal["passed", "failed"], kills: int) -> pytest.TestReport:
    told = [("proved", [(Harness.KILL_LOOPS.value, "kills", kills)])]
    return pytest.TestReport("a", ("a", 1, "a"), {}, outcome, None, when, user_properties=told)


def test_only_what_passed_counts_and_runs_add_up(tmp_path: Path) -> None:
    path = tmp_path / "build" / "proof.json"
    for kills in (3, 4):
        run = Proved(path)
        run.pytest_runtest_logreport(report("setup", "passed", 100))
        run.pytest_runtest_logreport(report("call", "passed", kills))
        run.pytest_runtest_logreport(report("call", "failed", 100))
        run.pytest_sessionfinish()
    proof = msgspec.json.decode(path.read_bytes(), type=Proof)
    assert proof.counts == {Harness.KILL_LOOPS: {"kills": 7}}
    assert (proof.passed, proof.failed) == (2, 2)
