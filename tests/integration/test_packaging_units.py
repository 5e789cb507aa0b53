"""systemd accepts the shipped unit, and what is written for an agent, without a word."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.sizes import LONG
from tools.service_example import example

from agent_mailer.service.unit import DROP_IN, Instance, drop_in, gone_of, gone_unit

PACKAGING = Path(__file__).parents[2] / "packaging"
PROGRAM = "%h/.local/bin/agent-mailer"

UNIT = PACKAGING / "agent-mailer@.service"


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


def with_a_program(unit: Path) -> Path:
    """The shipped unit at `unit`, its program one that is there."""
    unit.write_text(UNIT.read_text().replace(f"ExecStart={PROGRAM} ", "ExecStart=/bin/true "))
    return unit


def test_the_example_is_made_from_the_unit() -> None:
    assert (PACKAGING / "agent-mailer.service.example").read_text() == example()


@LONG
def test_systemd_has_no_complaint_of_the_example(analyze: str, tmp_path: Path) -> None:
    copied = tmp_path / "agent-mailer@coder.service"
    copied.write_text(example().replace(f"ExecStart={PROGRAM} ", "ExecStart=/bin/true "))
    done = verify(analyze, copied)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["agent-mailer@.service", "agent-mailer@coder.service"])
@LONG
def test_systemd_has_no_complaint(analyze: str, tmp_path: Path, name: str) -> None:
    done = verify(analyze, with_a_program(tmp_path / name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@LONG
def test_systemd_has_no_complaint_of_what_is_an_agents_own(analyze: str, tmp_path: Path) -> None:
    folder = tmp_path / '100% "odd" $HOME'
    folder.mkdir()
    program = tmp_path / "100% and $HOME"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    instance = Instance("coder", folder, program, (str(folder), "/bin"), (program,), allow_sudo=True)
    unit = tmp_path / instance.unit
    shutil.copy(UNIT, unit)
    drop_ins = tmp_path / f"{instance.unit}.d"
    drop_ins.mkdir()
    (drop_ins / DROP_IN).write_text(drop_in(instance))
    (tmp_path / gone_of("coder")).write_text(gone_unit(instance))
    done = verify(analyze, unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = verify(analyze, tmp_path / gone_of("coder"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@LONG
def test_the_program_is_the_only_thing_the_machine_must_add(analyze: str, tmp_path: Path, home: Path) -> None:
    unit = tmp_path / "agent-mailer@coder.service"
    shutil.copy(UNIT, unit)
    done = verify(analyze, unit)
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        f"{unit.name}: Command {home}/.local/bin/agent-mailer is not executable: No such file or directory"
    ]


@LONG
def test_systemd_sees_what_is_held_back(analyze: str, tmp_path: Path) -> None:
    """What stays exposed is what claude and codex need: the network, namespaces, the user's files."""
    unit = with_a_program(tmp_path / "agent-mailer@coder.service")
    words = [analyze, "security", "--user", "--offline=true", "--no-pager", "--json=short", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    rows = {row["json_field"]: row for row in json.loads(done.stdout)}
    held = {name for name, row in rows.items() if row["set"]}
    assert held >= {
        "NoNewPrivileges",
        "RestrictRealtime",
        "RestrictAddressFamilies_AF_PACKET",
        "SystemCallFilter_module",
        "SystemCallFilter_raw_io",
        "SystemCallFilter_reboot",
        "SystemCallFilter_swap",
        "UMask",
    }


def test_a_restart_hands_over_and_only_hopeless_ends_stay() -> None:
    lines = UNIT.read_text().splitlines()
    for line in (
        f"ExecStart={PROGRAM} watch --no-interactive",
        "Type=notify",
        "WatchdogSec=60",
        "Restart=on-failure",
        "RestartPreventExitStatus=77 78",
        "KillMode=process",
        "RestartKillSignal=SIGUSR1",
        "OOMPolicy=continue",
    ):
        assert line in lines


def test_launchd_can_read_its_file() -> None:
    found = plistlib.loads((PACKAGING / "dev.agent-mailer.agent.plist").read_bytes())
    assert found["ProgramArguments"][1:] == ["watch", "--no-interactive"]
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["Umask"] == 0o077


def test_in_the_image_the_watcher_is_process_one_and_nobody_special() -> None:
    """A shell before it would get the engine's signal, and reap nothing."""
    lines = (PACKAGING / "Dockerfile").read_text("utf-8").splitlines()
    said = {word: rest for word, _, rest in (line.partition(" ") for line in lines)}
    assert json.loads(said["ENTRYPOINT"]) == ["agent-mailer"]
    assert json.loads(said["CMD"]) == ["watch", "--no-interactive"]
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert said["USER"] not in ("root", "0")
