"""The guards of tests/conftest.py, seen from outside: by runs of pytest of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import procfs
from tests.sizes import LONG, thinned

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAVES_A_PROCESS = """
import os, subprocess
def test_leaves_one(tmp_path):
    marks = {"AGENT_MAILER_TURN_ID": "t1", "AGENT_MAILER_TURN_DIR": str(tmp_path)}
    child = subprocess.Popen(["sleep", "600"], env=os.environ | marks, start_new_session=True)
    child.returncode = 0  # keeps Popen silent about it
    while not open(f"/proc/{child.pid}/environ", "rb").read():
        pass  # in the middle of its exec it has none for a moment
    open(os.environ["REPORT"], "w").write(str(child.pid))
"""

OTHERS_PROCESS = """
import os, subprocess
def test_leaves_none():
    pass
"""

SEES_THE_ENVIRONMENT = """
import os
from pathlib import Path
def test_environment(home):
    keys = ("ANTHROPIC", "OPENAI", "CLAUDE", "CODEX", "AM_", "AGENT_MAILER_")
    assert [name for name in os.environ if name.startswith(keys)] in ([], ["AGENT_MAILER_SANDBOX"])
    assert Path.home() == home and not (home / ".bashrc").exists()
    assert Path(os.environ["XDG_CONFIG_HOME"]).is_relative_to(home)
"""

OF_EACH_SIZE = """
import pytest
def test_quick(): pass
@pytest.mark.long
def test_long(): pass
@pytest.mark.soak
def test_soak(): pass
"""

ONLY_LONG = """
import pytest
@pytest.mark.long
@pytest.mark.parametrize("n", [1, 2])
def test_of_many(n): pass
@pytest.mark.soak
def test_soak(): pass
"""


def run_pytest(folder: Path, test: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(test)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"--basetemp={folder / 'base'}",
        "-p",
        "no:cacheprovider",
        *("-p", "xdist"),
        *arguments,
    ]
    # The plugins that are installed take most of a start.
    environment |= {"PYTHONPATH": str(CONFTEST.parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=LONG)])
def test_a_process_left_behind_fails_the_run_and_is_ended(tmp_path: Path, workers: str) -> None:
    report = tmp_path / "pid"
    done = run_pytest(tmp_path / "run", LEAVES_A_PROCESS, "-n", workers, REPORT=str(report))
    pid = report.read_text()
    assert "1 passed" in done.stdout
    assert done.returncode == 1
    assert f"process {pid}: sleep 600" in done.stdout
    assert not procfs.runs(int(pid))


@LONG
def test_a_turn_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    marks = {"AGENT_MAILER_TURN_ID": "t1", "AGENT_MAILER_TURN_DIR": str(tmp_path / "elsewhere")}
    with subprocess.Popen(["sleep", "600"], env=os.environ | marks) as other:
        done = run_pytest(tmp_path / "run", OTHERS_PROCESS)
        assert done.returncode == 0
        assert other.poll() is None
        other.kill()


def test_keys_and_homes_do_not_reach_a_test(tmp_path: Path) -> None:
    secrets = {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k", "CLAUDECODE": "1", "CODEX_HOME": "/x", "AM_ROOT": "/x"}
    done = run_pytest(
        tmp_path / "run", SEES_THE_ENVIRONMENT, **secrets, AGENT_MAILER_RUNTIME="codex", XDG_CONFIG_HOME="/x"
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("test", "arguments", "ran"),
    thinned(
        [
            (OF_EACH_SIZE, [], ["quick"]),
            (OF_EACH_SIZE, ["test_it.py"], ["quick"]),
            (OF_EACH_SIZE, ["-m", "long"], ["long"]),
            (OF_EACH_SIZE, ["test_it.py::test_soak", "test_it.py::test_long"], ["long", "soak"]),
            (OF_EACH_SIZE, ["-m", "soak"], ["soak"]),
            (OF_EACH_SIZE, ["-k", "long"], ["long"]),
            (ONLY_LONG, [], ["of_many[1]", "of_many[2]"]),
            (ONLY_LONG, ["test_it.py::test_of_many[2]"], ["of_many[2]"]),
            (OF_EACH_SIZE, ["test_it.py::test_soak"], ["soak"]),
        ],
        every=9,
    ),
)
def test_longer_tests_run_where_they_are_asked_for(
    tmp_path: Path, test: str, arguments: list[str], ran: list[str]
) -> None:
    done = run_pytest(tmp_path / "run", test, "-vv", *arguments)
    assert sorted(re.findall(r"::test_(\S+) PASSED", done.stdout)) == ran, done.stdout
    assert done.returncode == 0


@LONG
@pytest.mark.parametrize(("checks", "warned"), [("1", False), ("701", True)])
def test_a_quick_set_that_takes_too_long_is_told_and_passes(tmp_path: Path, checks: str, warned: bool) -> None:
    done = run_pytest(tmp_path / "run", OTHERS_PROCESS, "--checks-took", checks)
    assert re.search(r"^total +\d+ of 700\nwall time \d+ s; load ", done.stdout, re.MULTILINE), done.stdout
    assert ("warning: over the budget" in done.stdout) == warned
    assert done.returncode == 0
