"""The real codex is told no before its patch changes what somebody else has reserved, and changes the rest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.clocks import FakeClock
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_openai import CODE_MODEL, Patch, Say, Shell, fake_openai
from tests.sizes import LONG

from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.reservations.leases import Leases

pytestmark = LONG


def _patch(*lines: str) -> Patch:
    return Patch("\n".join(("*** Begin Patch", *lines, "*** End Patch", "")))


def test_it_patches_only_what_is_nobody_elses(tmp_path: Path) -> None:
    with fake_openai() as fake:
        desk = CodexDesk(tmp_path, fake)
        desk.configure(reserve=["docs/**"], model=CODE_MODEL)
        project = os.path.realpath(desk.workdir)
        other = Leases(desk.root / "meta", Disk(), FakeClock(), project=project, address="planner")
        assert asyncio.run(other.take("", ["src/**"], 600.0)) == []
        taken, free = desk.workdir / "src" / "a.txt", desk.workdir / "docs" / "b.txt"
        both = ("*** Add File: docs/b.txt", "+mine", "*** Add File: src/a.txt", "+mine")
        fake.script(_patch(*both), _patch(*both[:2]), Say("all is done"))
        desk.send()
        assert desk.run() == ["done"], desk.detail()
        assert not taken.exists()
        assert free.read_text() == "mine\n"
        assert any("is reserved by planner (src/**) until" in text for text in fake.texts(1))
        # Given back: the same patch goes through now.
        assert asyncio.run(other.release("")) == 1
        fake.script(_patch(*both[2:]), Say("done"))
        desk.send()
        assert desk.run() == ["done"], desk.detail()
        assert taken.read_text() == "mine\n"
        # No shell command is refused: what it changes of somebody else's is told.
        assert asyncio.run(other.take("", ["src/**"], 600.0)) == []
        fake.script(Shell("echo shell >src/a.txt; exit 3"), Shell("true"), Say("done by shell"))
        desk.send()
        assert desk.run() == ["done"], desk.detail()
        assert taken.read_text() == "shell\n"
        (event,) = desk.log(EventName.RESERVATION_TOUCHED)
        assert event["why"].startswith("While shell commands of this turn ran files changed that others have reserved")
        assert event["file"] == "src/a.txt"
        assert ["- src/a.txt (src/**): changed" in one.body for one in desk.inbox("planner")] == [True]
        assert any("files changed that others have reserved" in text for text in fake.texts(-1))
