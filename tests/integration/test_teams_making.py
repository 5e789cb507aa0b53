"""What a new team gets: its permission mode, and scripts that start and stop it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent_mailer.config import RuntimeKind
from agent_mailer.disk import Disk
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.making import make
from agent_mailer.teams.plan import Member, Team

TAME = """\
argv = ["tame"]
title = "tame"

[modes.acceptEdits]
allow_kinds = ["edit"]
"""


@pytest.mark.parametrize(("agent", "mode"), [("tame", "acceptEdits"), ("opencode", "bypassPermissions")])
def test_a_new_team_gets_what_the_program_of_each_of_its_agents_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, mode: str
) -> None:
    described = tmp_path / "config" / "agent-mailer" / "agents"
    described.mkdir(parents=True)
    (described / "tame.toml").write_text(TAME)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    coder = Member("shop_coder", "coder", values={"command": ("cat", "-")})
    other = Member("shop_reviewer", "reviewer", runtime=RuntimeKind.ACP, values={"agent": agent})
    team = Team("shop", RuntimeKind.COMMAND, PermissionMode.ACCEPT_EDITS, (coder, other))
    asked: list[str] = []

    def everything(why: str) -> PermissionMode:
        asked.append(why)
        return PermissionMode.BYPASS_PERMISSIONS

    [told] = [
        line for line in make(team, tmp_path / "shop", None, Disk(), mode=None, unfenced=everything) if "mode" in line
    ]
    assert told.startswith(f"permission mode {mode}: "), told
    assert (asked == []) is (agent == "tame"), "nobody is asked for what could not be"
    assert (f"{agent} has no permission_mode" in told) is (agent == "tame"), told
    assert (
        f'permission_mode = "{mode}"'
        in (tmp_path / "shop" / "agents" / other.name / ".agent-mailer" / "config.toml").read_text()
    )


@pytest.mark.parametrize("name", ["my shop", "it's $HOME; *"])
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_its_scripts_mean_the_folder_in_which_they_lie_however_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str
) -> None:
    program = tmp_path / "the bin" / "agent-mailer"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\npwd\necho "$*"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    coder = Member("shop_coder", "coder", values={"command": ("cat", "-")})
    team = Team("shop", RuntimeKind.COMMAND, PermissionMode.ACCEPT_EDITS, (coder,))
    folder = tmp_path / name
    assert list(make(team, folder, None, Disk(), mode=PermissionMode.PLAN, unfenced=lambda _: PermissionMode.PLAN))
    for way in (folder / f"{verb}-team.sh", Path(name) / f"{verb}-team.sh"):
        done = subprocess.run([way, "--now"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == [str(folder), f"team {verb} --dir . --now"], done
