"""The real claude is told no before it edits what somebody else has reserved, and edits the rest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.clocks import FakeClock
from tests.e2e.claude_desk import ClaudeDesk
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.sizes import LONG

from agent_mailer.disk import Disk
from agent_mailer.reservations.leases import Leases

pytestmark = LONG


def test_it_edits_only_what_is_nobody_elses(tmp_path: Path) -> None:
    with FakeAnthropic() as fake:
        desk = ClaudeDesk(tmp_path, fake)
        desk.configure(reserve=["docs/**"], permission_mode="acceptEdits")
        project = os.path.realpath(desk.workdir)
        other = Leases(desk.root / "meta", Disk(), FakeClock(), project=project, address="planner")
        assert asyncio.run(other.take("", ["src/**"], 600.0)) == []
        taken, free = desk.workdir / "src" / "a.txt", desk.workdir / "docs" / "b.txt"
        fake.says(
            Tool("Write", {"file_path": str(taken), "content": "mine\n"}),
            Tool("Write", {"file_path": str(free), "content": "mine\n"}),
            Text("all is done"),
        )
        desk.send()
        assert desk.run() == ["done"]
        assert not taken.exists()
        assert free.read_text() == "mine\n"
        results = [one for request in fake.requests for one in request.tool_results]
        assert any("is reserved by planner (src/**) until" in one for one in results)
        # Given back: the same edit goes through now.
        assert asyncio.run(other.release("")) == 1
        fake.says(Tool("Write", {"file_path": str(taken), "content": "mine\n"}), Text("done"))
        desk.send()
        assert desk.run() == ["done"]
        assert taken.read_text() == "mine\n"
