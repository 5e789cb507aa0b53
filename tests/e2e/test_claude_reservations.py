"""The real claude is told no before it edits what somebody else has reserved, and edits the rest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.clocks import FakeClock
from tests.desk import until
from tests.e2e.claude_desk import ClaudeDesk, bash
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.sizes import LONG

from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.reservations.calls import calls_in
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


def test_what_its_shell_changed_of_anothers_is_told_to_all_and_what_that_one_edited_itself_is_not(
    tmp_path: Path,
) -> None:
    with FakeAnthropic() as fake:
        project = tmp_path / "project"
        (project / "src").mkdir(parents=True)
        coder, planner = ClaudeDesk(tmp_path, fake), ClaudeDesk.__new__(ClaudeDesk)
        planner.__dict__.update(coder.__dict__)
        planner.workdir, planner.settings = tmp_path / "planner", dict(coder.settings)
        planner.state = planner.workdir / ".agent-mailer"
        planner.state.mkdir(parents=True, mode=0o700)
        shared = {"project_dir": str(project), "permission_mode": "bypassPermissions"}
        coder.configure(reservations=True, **shared)
        planner.configure(address="planner", reserve=["src/**"], **shared)
        started, go = project / "started", project / "go"
        fake.says(
            Tool("Write", {"file_path": str(project / "src" / "b.txt"), "content": "planner's\n"}),
            bash(f"touch {started}; while [ ! -e {go} ]; do sleep 0.05; done"),
        )
        planner.send(to="planner")
        with planner.working(started):
            fake.says(bash(f"echo mine >{project}/src/a.txt; exit 3"), Text("all is done"))
            coder.send()
            assert coder.run() == ["done"]
            (turn,) = (planner.state / "turns").iterdir()
            doings = calls_in(turn)
            go.touch()
            until(lambda: planner.log(EventName.TURN_SETTLED), "planner done")
        assert doings is not None
        assert [path for path, _ in doings.edits] == ["src/b.txt"]
        assert [end for _, end in doings.spans] == [float("inf")]
        kept = calls_in(turn)
        assert kept is not None, "it is known when the turn is settled, too"
        assert kept.spans[0][1] < float("inf")
        (event,) = coder.log(EventName.RESERVATION_TOUCHED)
        assert event["file"] == "src/a.txt"
        assert event["why"].startswith("While shell commands of this turn ran files changed that others have reserved")
        assert "(planner has src/**; a call of planner's own ran as well)" in event["why"]
        assert planner.log(EventName.RESERVATION_TOUCHED) == []
        (answer,) = [body for body in coder.answered() if "all is done" in body]
        assert answer == f"all is done\n\n[{event['why']}]"
        # Its own watcher has taken the notice in, which starts no turn.
        mail = [path.read_text() for path in (coder.root / "agents" / "planner" / "inbox").glob("*/*.md")]
        assert sum("- src/a.txt (src/**): made; a call of planner's own ran as well" in one for one in mail) == 1
        assert len(planner.log(EventName.TURN_STARTED)) == 1
        assert any("files changed that others have reserved" in str(request.body) for request in fake.requests)
