"""How the agent programs get here, and what happens where they cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e import clis
from tests.sizes import LONG
from tools import agent_clis

from agent_mailer.errors import ExitCode

pytestmark = LONG


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The script in another project, where nothing is installed."""
    script = tmp_path / "tools" / "agent_clis.py"
    script.parent.mkdir()
    shutil.copy(agent_clis.__file__, script)
    return script


def test_without_npm_it_says_so_and_leaves_nothing(elsewhere: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, elsewhere], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "npm is not in PATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".tools" / "clis").exists()


def test_an_npm_that_fails_is_quoted(elsewhere: Path, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 7\n")
    npm.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([sys.executable, elsewhere], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "npm error network" in done.stderr
    assert not (tmp_path / ".tools" / "clis").exists()


def test_what_is_there_is_not_installed_again() -> None:
    clis.claude_binary()
    done = subprocess.run(
        [sys.executable, agent_clis.__file__],
        env={**os.environ, "PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_versions_that_are_missing_skip_a_test_and_fail_it_where_ci_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: str) -> str:
        del folder
        return "npm is not in PATH"

    monkeypatch.setattr(clis, "_why_missing", missing)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="npm"):
        clis.claude_binary()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="claude-code"):
        clis.claude_binary()
