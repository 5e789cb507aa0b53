"""systemd accepts the shipped units without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
PROGRAM = "%h/.local/bin/agent-mailer"

# The file as shipped, and the name under which a user installs it.
UNITS = [
    ("agent-mailer.service.example", "agent-mailer@coder.service"),
    ("agent-mailer@.service", "agent-mailer@.service"),
]


@pytest.fixture(scope="module")
def analyze() -> str:
    """The path of systemd-analyze. Without it the tests are skipped, except in CI, where they fail."""
    found = shutil.which("systemd-analyze")
    if found is None and not os.environ.get("CI"):
        pytest.skip("systemd-analyze is not installed (Debian: the package systemd)")
    assert found, "CI needs systemd-analyze (Debian: the package systemd)"
    return found


def verify(analyze: str, unit: Path) -> subprocess.CompletedProcess[str]:
    """Needs no running systemd, only a runtime folder: XDG_RUNTIME_DIR, which every test has."""
    return subprocess.run(
        [analyze, "verify", "--user", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(("shipped", "installed"), UNITS)
def test_systemd_has_no_complaint(analyze: str, tmp_path: Path, shipped: str, installed: str) -> None:
    text = (PACKAGING / shipped).read_text()
    unit = tmp_path / installed
    unit.write_text(text.replace(f"ExecStart={PROGRAM} ", "ExecStart=/bin/true "))
    done = verify(analyze, unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_program_is_the_only_thing_the_machine_must_add(analyze: str, tmp_path: Path, home: Path) -> None:
    unit = tmp_path / "agent-mailer@coder.service"
    shutil.copy(PACKAGING / "agent-mailer@.service", unit)
    done = verify(analyze, unit)
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        f"{unit.name}: Command {home}/.local/bin/agent-mailer is not executable: No such file or directory"
    ]


def test_both_run_the_same_service() -> None:
    """They differ in their first comment and in the workdir, nowhere else."""
    example, template = (settings(PACKAGING / shipped) for shipped, _ in UNITS)
    assert [line for line in example if line not in template] == ["WorkingDirectory=%h/workspaces/coder"]
    assert [line for line in template if line not in example] == ["WorkingDirectory=%h/agents/%i"]


def test_a_restart_hands_over_and_only_hopeless_ends_stay() -> None:
    lines = settings(PACKAGING / "agent-mailer@.service")
    for line in (
        f"ExecStart={PROGRAM} watch --no-interactive",
        "Restart=on-failure",
        "RestartPreventExitStatus=77 78",
        "KillMode=process",
        "RestartKillSignal=SIGUSR1",
        "OOMPolicy=continue",
    ):
        assert line in lines


def settings(unit: Path) -> list[str]:
    return [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]
