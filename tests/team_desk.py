"""A person who types `amp` in the project `shop`, and the teams that come of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, running_broker
from tests.typed import Typed, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.events import EventName
from agent_mailer.process.handle import ProcessIdentity, send
from agent_mailer.teams.running import watchers

ANSWERS = "sh -c 'cat >/dev/null; echo it is done'"


class TeamDesk:
    """Its team is `shop`, of a coder and a reviewer whose program is a command."""

    def __init__(self, base: Path) -> None:
        self.project = base / "shop"
        self.project.mkdir()
        self.teams = base / "teams"
        self.team = self.teams / "shop"

    def amp(self, *words: str | Path, **more: Any) -> Typed:
        return type_in(more.pop("cwd", self.project), "team", *words, **more)

    def made(self, *words: str | Path, command: str = ANSWERS, verb: str = "init") -> Typed:
        shape = ("--runtime", "command", "--command", command, "--template", "solo-with-reviewer")
        done = self.amp(verb, *shape, *(words or ("--local",)))
        assert done.status == 0, done
        return done

    def up(self, *, command: str = ANSWERS) -> Typed:
        return self.made("--local", "--detach", command=command, verb="up")

    def agent(self, role: str) -> Workplace:
        return Workplace(self.team / "agents" / f"shop_{role}")

    def watching(self) -> Mapping[str, ProcessIdentity]:
        found = (path for path in self.teams.glob("*/agents/*") if (path / ".agent-mailer").is_dir())
        return watchers({path.name: Workplace(path) for path in found})

    def log(self, role: str, name: EventName) -> list[dict[str, Any]]:
        path = self.agent(role).folder.log
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["event"] == name.value]


@pytest.fixture
def team_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeamDesk]:
    with desk_in(tmp_path, monkeypatch) as found:
        yield found


@contextmanager
def desk_in(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeamDesk]:
    """What of it runs at the end is ended."""
    found = TeamDesk(base)
    monkeypatch.setenv("AMP_TEAMS_DIR", str(found.teams))
    monkeypatch.setenv("TMUX_TMPDIR", str(base))
    monkeypatch.delenv("TMUX", raising=False)
    yield found
    for process in found.watching().values():
        send(process, signal.SIGKILL)
    if any((Path(folder) / "tmux").exists() for folder in os.environ["PATH"].split(os.pathsep)):
        subprocess.run(["tmux", "kill-server"], check=False, capture_output=True)


@pytest.fixture
def team_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    """One for a team, with nobody at it."""
    with running_broker(tmp_path_factory.mktemp("broker")) as found:
        yield found
