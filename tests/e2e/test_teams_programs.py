"""A team of the real Claude Code and Codex in tmux: planner, coder, reviewer, runner, against models that play them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests import procfs
from tests.broker_process import PASSWORD, BrokerProcess, broker, join
from tests.e2e.claude_desk import PASSED
from tests.e2e.clis import claude_binary, codex_binary
from tests.e2e.codex_desk import KEY
from tests.e2e.team_models import REPORT, SENT_BACK, Cast, TeamAnthropic, TeamOpenAI
from tests.e2e.throwaway import as_throwaway
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import Typed, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.process.handle import send
from agent_mailer.process.tree import members, sweep
from agent_mailer.teams.running import watchers

pytestmark = LONG

AMP = str(Path(sys.executable).parent / "amp")
LIMITED_SECONDS = 4.0
REPORT_SECONDS = 300


class Stage:
    """The team `shop` on the project `shop`, and a person who types."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = base / "shop"
        self.teams = base / "teams"
        self.tmp = base / "tmp"
        for folder in (self.project, self.tmp):
            folder.mkdir()
        self.codex_home = base / "codex-home"
        self.codex_home.mkdir(mode=0o700)
        self.cast = Cast(self.project)
        self.claude, self.codex = TeamAnthropic(self.cast), TeamOpenAI(self.cast)
        for name, value in {
            **self.claude.subscription,
            "OPENAI_API_KEY": KEY,
            "AMP_TEAMS_DIR": str(self.teams),
            "TMUX_TMPDIR": str(self.tmp),
            "TMPDIR": str(self.tmp),
            "CLAUDE_CODE_TMPDIR": str(self.tmp),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TMUX", raising=False)

    def make(self, *where: str) -> None:
        """Claude plans and reviews, Codex codes and runs."""
        made = self.amp("init", *where)
        assert made.status == 0, made
        file = self.teams / "shop" / "team.yaml"
        shape = yaml.safe_load(file.read_text())
        claude = {
            "claude_command": str(claude_binary()),
            "env": {"pass": PASSED, "set": {"CLAUDE_CODE_MAX_RETRIES": "0"}},
        }
        codex = {
            "runtime": "codex",
            "codex_command": str(codex_binary()),
            "config_home": str(self.codex_home),
            "extra_args": self.codex.provider(),
            "env": {"pass": ["OPENAI_API_KEY"]},
        }
        for agent in shape["agents"]:
            agent |= codex if agent["role"] in ("coder", "runner") else claude
            agent["retry"] = {"first": 1, "longest": 1}
        file.write_text(yaml.safe_dump(shape, allow_unicode=True))
        assert self.amp("init").status == 0

    def amp(self, *words: str, **more: Any) -> Typed:
        return type_in(self.project, "team", *words, **more)

    def up(self) -> None:
        """`amp start` at a terminal: in tmux, as a user who is nobody here."""
        with terminal(["env", "-u", "TMUX", *as_throwaway([AMP, "start", "--no-attach"])], self.project) as screen:
            assert screen.until_ended() == 0, screen.everything()
            assert "(tmux)" in screen.everything(), screen.everything()

    def tmux(self, *words: str) -> str:
        """Of the user whose terminal it was."""
        return subprocess.run(as_throwaway(["tmux", *words]), capture_output=True, text=True, check=False).stdout

    def stop(self) -> str:
        """`amp stop` at that terminal; nobody watches any more, and its session is closed."""
        with terminal(["env", "-u", "TMUX", *as_throwaway([AMP, "stop"])], self.project) as screen:
            assert screen.until_ended() == 0, screen.everything()
            said = screen.everything()
        assert self.watching() == {}
        return said

    @contextmanager
    def asking(self) -> Iterator[Callable[[], str]]:
        """`amp ask`, which waits; what it says at its end."""
        words = [AMP, "ask", "Greet the customer.", "--wait", "600"]
        process = subprocess.Popen(
            words,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def report() -> str:
            try:
                said, _ = process.communicate(timeout=REPORT_SECONDS)
            except subprocess.TimeoutExpired:
                pytest.fail(self.told())
            assert process.returncode == 0, said + self.told()
            return said

        try:
            yield report
        finally:
            process.kill()
            process.communicate()

    def place(self, role: str) -> Workplace:
        return Workplace(self.teams / "shop" / "agents" / f"shop_{role}")

    def watching(self) -> dict[str, Any]:
        return watchers({path.name: Workplace(path) for path in self.teams.glob("*/agents/*")})

    def log(self, role: str, event: str) -> list[dict[str, Any]]:
        path = self.place(role).folder.log
        lines = path.read_text().splitlines() if path.exists() else []
        return [row for row in map(json.loads, lines) if row["event"] == event]

    def turn(self, role: str) -> str:
        return str(self.log(role, "turn_started")[-1]["turn_id"])

    def told(self) -> str:
        """What there is to say where it stands still."""
        lines = [f"asked: {dict(self.cast.asked)}"]
        for role in ("planner", "coder", "reviewer", "runner"):
            path = self.place(role).folder.log
            lines += [f"{role}: {line[:600]}" for line in path.read_text().splitlines()[-8:]]
        return "\n".join(lines)

    def kill(self, role: str, whom: str, server: BrokerProcess) -> None:
        """kill -9, and nobody is asked before."""
        if whom in ("watcher", "all"):
            for name, process in self.watching().items():
                if whom == "all" or name == f"shop_{role}":
                    send(process, signal.SIGKILL)
        if whom in ("tmux", "all"):
            os.kill(int(self.tmux("list-sessions", "-F", "#{pid}")), signal.SIGKILL)
        if whom in ("broker", "all"):
            server.kill()
        if whom in ("agent", "all"):
            turn = self.turn(role)
            for process in members(turn, None):
                if procfs.said(process.pid, "comm").startswith(("claude", "codex", "node")):
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)

    def heal(self, whom: str, server: BrokerProcess) -> None:
        """What a person does who finds it so."""
        if whom in ("broker", "all"):
            server.start()
        if whom != "agent" and whom != "broker":
            # Some still end, each in its own time.
            self.up()

    def end(self) -> None:
        self.cast.release_all()
        self.tmux("kill-server")
        for process in self.watching().values():
            send(process, signal.SIGKILL)
        for turn in self.teams.glob("*/agents/*/.agent-mailer/turns/*"):
            asyncio.run(sweep(turn.name, grace=0.0))
        self.codex.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(tmp_path, monkeypatch)
    with found.claude:
        try:
            yield found
        finally:
            found.end()


def test_in_a_folder_with_a_limit_in_the_middle(stage: Stage) -> None:
    stage.make("--local")
    stage.cast.limit("reviewer", "CHANGED 2", LIMITED_SECONDS)
    stage.up()
    with stage.asking() as report:
        said = report()
    assert REPORT in said, said
    assert (stage.project / "greet.sh").read_text() == f"echo greeting {SENT_BACK}\n"
    # Each worked once at each mail, but who was told that the account has nothing left: that cost its mail nothing.
    once = {("coder", f"ROUND {number}") for number in range(SENT_BACK + 1)}
    once |= {("reviewer", f"CHANGED {number}") for number in range(SENT_BACK + 1)}
    once |= {("planner", "task"), ("runner", "RUN"), ("planner", "RAN")}
    assert {what: stage.cast.asked[what] for what in once} == {
        what: 2 if what == ("reviewer", "CHANGED 2") else 1 for what in once
    }, stage.told()
    assert [row["outcome"] for row in stage.log("reviewer", "turn_ended")].count("limited") == 1, stage.told()
    story = type_in(
        stage.place("planner").workdir,
        *("mail", "thread", stage.log("planner", "turn_claimed")[0]["thread"], "--as", "user", "--json"),
    ).json
    assert [one["body"].strip() for one in story["messages"] if one["to"] == ["user"]] == [REPORT]
    assert "closed the tmux session amp-shop" in stage.stop()


KILLED = (
    ("planner", "task", "agent"),
    ("coder", "ROUND 0", "watcher"),
    ("reviewer", "CHANGED 0", "agent"),
    ("coder", "ROUND 1", "agent"),
    ("reviewer", "CHANGED 1", "watcher"),
    ("coder", "ROUND 2", "broker"),
    ("reviewer", "CHANGED 2", "tmux"),
    ("coder", "ROUND 3", "all"),
    ("runner", "RUN", "agent"),
    ("runner", "RUN", "watcher"),
    ("planner", "RAN", "watcher"),
)
"""Who is killed while that role is at work at that: each once, and all of them at once."""


def test_at_a_broker_every_process_killed_in_turn_and_all_at_once(stage: Stage, tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as server:
        ann = join(server.url, "ann", server.invite)
        assert stage.amp("login", server.url, "ann", env={"AMP_PASSWORD": PASSWORD}).status == 0
        stage.make()
        gates = {(role, word): stage.cast.hold(role, word) for role, word, _ in KILLED}
        stage.up()
        with stage.asking() as report:
            for number, (role, word, whom) in enumerate(KILLED):
                gate = gates[role, word]
                assert gate.reached.wait(REPORT_SECONDS), f"{role} never came to {word}\n{stage.told()}"
                stage.kill(role, whom, server)
                if (role, word) not in [one[:2] for one in KILLED[number + 1 :]]:
                    gate.go.set()
                stage.heal(whom, server)
            said = report()
        assert REPORT in said, said
        assert (stage.project / "greet.sh").read_text() == f"echo greeting {SENT_BACK}\n"
        thread = stage.log("planner", "turn_claimed")[0]["thread"]
        asked = httpx.get(f"{server.url}/messages/thread/{thread}", headers=ann.as_agent, trust_env=False)
        bodies = [one["body"].partition("\n")[0] for one in asked.json()]
        changed = [body for body in bodies if body.startswith("CHANGED")]
        sent_back = [body for body in bodies if body.startswith("ROUND") and "0:" not in body]
        assert (len(changed), len(sent_back), bodies.count(REPORT)) == (SENT_BACK + 1, SENT_BACK, 1), bodies
        assert len(bodies) == len(set(bodies)) == 2 * SENT_BACK + 6, bodies
        assert "closed the tmux session amp-shop" in stage.stop()
