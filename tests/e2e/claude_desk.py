"""A desk whose agent is the real claude, asking a scripted model; the watcher runs as a throw-away user."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.desk import CLI, Desk, until
from tests.e2e.clis import claude_binary
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.e2e.throwaway import as_throwaway

from agent_mailer.events import EventName
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.process.tree import members

PASSED = ["CLAUDE_CODE_TMPDIR", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"]
READ = Tool("mcp__agent_mailer__read_message", say="I read my mail.")


def reply(body: str) -> Tool:
    return Tool("mcp__agent_mailer__reply", {"body": body})


def bash(command: str) -> Tool:
    return Tool("Bash", {"command": command, "description": "a step"})


class ClaudeDesk(Desk):
    """`fake` answers for the model; the key is that of an API user, or with `subscription` a token."""

    def __init__(self, base: Path, fake: FakeAnthropic, *, subscription: bool = False) -> None:
        super().__init__(base)
        self.fake = fake
        self.keys = fake.subscription if subscription else fake.env
        self.configure(
            runtime="claude",
            claude_command=str(claude_binary()),
            permission_mode="acceptEdits",
            env={"pass": PASSED},
        )

    def impatient(self, **variables: str) -> None:
        """No second try: a failure shows at once."""
        self.configure(env={"pass": PASSED, "set": {"CLAUDE_CODE_MAX_RETRIES": "0", **variables}})

    def environ(self) -> dict[str, str]:
        scratch = self.base / "tmp"
        scratch.mkdir(exist_ok=True)
        return {**os.environ, **self.keys, "TMPDIR": str(scratch), "CLAUDE_CODE_TMPDIR": str(scratch)}

    def run(self) -> list[str]:
        """One `watch --once`; how its turns ended."""
        before = len(self.log(EventName.TURN_ENDED))
        done = self._watch("--once")
        assert done.returncode in (0, 1), done.stderr
        return [str(row["outcome"]) for row in self.log(EventName.TURN_ENDED)[before:]]

    def _watch(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            as_throwaway([*CLI, "watch", "--no-interactive", "--workdir", str(self.workdir), *words]),
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start_watch(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            as_throwaway([*CLI, "watch", "--no-interactive", "--workdir", str(self.workdir), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self.environ(),
            **popen,
        )

    @contextmanager
    def working(self, mark: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A watcher whose agent runs a tool that has made the file `mark`."""
        with self.watching() as watcher:
            until(mark.exists, "the agent's tool")
            yield watcher

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command given in the workdir, as the same user with the same keys."""
        return subprocess.run(
            as_throwaway([*CLI, *words]),
            env=self.environ(),
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def end(self) -> Mapping[str, Any]:
        """The newest `turn_ended` event."""
        return self.log(EventName.TURN_ENDED)[-1]

    def state_file(self, name: str) -> dict[str, Any]:
        path = self.state / name
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def session(self) -> str:
        """The session that was bound last."""
        return str(self.log(EventName.SESSION_BOUND)[-1]["session"])

    def transcripts(self) -> list[Path]:
        return sorted(Path(os.environ["HOME"]).glob(".claude/projects/*/*.jsonl"))

    def record(self) -> dict[str, Any]:
        """`turn.json` of the newest turn."""
        newest = max((self.state / "turns").iterdir(), key=lambda folder: folder.name)
        found: dict[str, Any] = json.loads((newest / "turn.json").read_text())
        return found

    def alive(self) -> list[int]:
        """The processes of the newest turn that still run."""
        record = self.record()
        holder = msgspec.convert(record["process"], ProcessIdentity) if record.get("process") else None
        return [process.pid for process in members(record["turn_id"], holder)]

    def slow_script(self, body: str) -> Tool:
        """A tool call that runs `body`, which is allowed; claude refuses a bare `sleep`."""
        self.configure(extra_args=["--allowedTools", "Bash(bash ./slow.sh)"])
        (self.workdir / "slow.sh").write_text(body)
        return bash("bash ./slow.sh")


DONE = Text("done")
