"""Which permission mode a new team gets."""

from __future__ import annotations

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
