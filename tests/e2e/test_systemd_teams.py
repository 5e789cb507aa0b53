"""A team as services of a real `systemd --user`: started, asked, restarted with a running turn, killed, stopped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from tests.desk import until
from tests.sizes import LONG
from tests.user_manager import UserManager, user_manager

pytestmark = LONG

UNITS = [f"agent-mailer@shop_{role}.service" for role in ("coder", "reviewer")]
AGENT = "sh -c 'cat >/dev/null; while [ -e ../../hold ]; do sleep 0.05; done; echo it is done'"


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    with user_manager() as found:
        yield found


def test_a_team_as_services(manager: UserManager) -> None:
    project, team = manager.base / "shop", manager.base / "teams" / "shop"
    project.mkdir()

    def amp(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = manager.mailer("team", *words, cwd=project, AMP_TEAMS_DIR=str(team.parent))
        assert done.returncode == status, done
        return done

    def states() -> list[str]:
        return [manager.show(unit, "ActiveState") for unit in UNITS]

    def pids() -> list[str]:
        return [manager.show(unit, "MainPID") for unit in UNITS]

    def turns() -> int:
        log = team / "agents" / "shop_coder" / ".agent-mailer" / "log.jsonl"
        return log.read_text().count('"turn_started"') if log.exists() else 0

    made = ("--local", "--runtime", "command", "--command", AGENT, "--template", "solo-with-reviewer")
    assert "shop runs (systemd)" in amp("up", "--systemd", *made).stdout
    assert states() == ["active", "active"]
    assert "it is done" in amp("ask", "do it", "--wait", "60").stdout
    assert json.loads(amp("status", "--json").stdout)["healthy"]
    # Killed, systemd starts it again.
    before = pids()
    manager.run(["kill", "-9", before[0]])
    until(lambda: pids()[0] not in ("0", before[0]) and states() == ["active", "active"], "it is back")
    # A restart, where it ran before, leaves a running turn its work.
    (team / "hold").touch()
    amp("send", "coder", "slow work")
    until(lambda: turns() == 2, "its turn")
    before = pids()
    assert "shop runs (systemd)" in amp("restart").stdout
    assert all(new != old for new, old in zip(pids(), before, strict=True))
    (team / "hold").unlink()
    assert "it is done" in amp("ask", "once more", "--wait", "60").stdout
    assert turns() == 3, "nothing ran twice"
    amp("stop")
    assert states() == ["inactive", "inactive"]
    assert "amp start" in amp("status").stdout
    assert "watches" in amp("start", "--systemd").stdout
    amp("stop")
    amp("rm", "shop", "--yes")
    assert not [path for path in manager.units.rglob("*shop_*") if path.exists() or path.is_symlink()]
