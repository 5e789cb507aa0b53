"""A desk whose agent is the real codex, asking a scripted model; the watcher runs as a throw-away user."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.desk import CLI, Desk, until
from tests.e2e.clis import codex_binary
from tests.e2e.fake_openai import FakeOpenAI
from tests.e2e.throwaway import as_throwaway

from agent_mailer.events import EventName
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.process.tree import members

KEY = "dummy-key"


class CodexDesk(Desk):
    """`fake` answers for the model, with no retries of codex's own unless a test asks for them."""

    def __init__(self, base: Path, fake: FakeOpenAI, mode: str = "acceptEdits") -> None:
        super().__init__(base)
        self.fake = fake
        self.home = base / "codex-home"
        self.home.mkdir(mode=0o700)
        self.configure(
            runtime="codex",
            codex_command=str(codex_binary()),
            permission_mode=mode,
            config_home=str(self.home),
            extra_args=fake.provider(),
            env={"pass": ["OPENAI_API_KEY"]},
            auto_reply="never",
        )

    def run(self) -> list[str]:
        """One `watch --once`; how its turns ended."""
        before = len(self.log(EventName.TURN_ENDED))
        done = subprocess.run(
            as_throwaway([*CLI, "watch", "--once", "--no-interactive", "--workdir", str(self.workdir)]),
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        ended = self.log(EventName.TURN_ENDED)[before:]
        assert done.returncode in (0, 1), done.stderr
        return [str(row["outcome"]) for row in ended]

    def start_watch(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            as_throwaway([*CLI, "watch", "--no-interactive", "--workdir", str(self.workdir), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self.environ(),
            **popen,
        )

    def cli(self, *words: str) -> str:
        """What a command prints that is given in the workdir."""
        argv = [*CLI, *words, "--workdir", str(self.workdir)]
        done = subprocess.run(argv, env=self.environ(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def environ(self) -> dict[str, str]:
        # Codex makes no helper of its sandbox in a home below the temporary folder.
        scratch = self.base / "tmp"
        scratch.mkdir(exist_ok=True)
        return {**os.environ, "OPENAI_API_KEY": KEY, "TMPDIR": str(scratch)}

    def detail(self) -> str:
        """What the last turn's end was put down to."""
        return str(self.log(EventName.TURN_ENDED)[-1].get("detail") or "")

    def sessions(self) -> dict[str, dict[str, Any]]:
        path = self.state / "sessions.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def session(self) -> str:
        """The session that was bound last."""
        return str(self.log(EventName.SESSION_BOUND)[-1]["session"])

    def retry(self, message_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "retries.json").read_text()).get(message_id, {})
        return found

    def rollouts(self) -> list[Path]:
        return sorted(self.home.glob("sessions/*/*/*/rollout-*.jsonl"))

    def turn(self) -> Path:
        """The folder of the newest turn."""
        return max((self.state / "turns").iterdir(), key=lambda folder: folder.name)

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.turn() / "turn.json").read_text())
        return found

    def events(self) -> list[dict[str, Any]]:
        """What codex printed in the newest turn, as far as it is written."""
        path = self.turn() / "stdout"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def printed(self, kind: str) -> bool:
        return any(event["type"] == kind for event in self.events())

    def alive(self) -> list[int]:
        """The processes of the newest turn."""
        import msgspec

        record = self.record()
        holder = msgspec.convert(record["process"], ProcessIdentity) if record.get("process") else None
        return [process.pid for process in members(self.turn().name, holder)]

    @contextmanager
    def working(self) -> Iterator[subprocess.Popen[bytes]]:
        """A watcher whose agent has just called a tool."""
        with self.watching() as watcher:
            until(lambda: self.log(EventName.TURN_STARTED) and self.printed("item.started"), "a tool call")
            yield watcher
