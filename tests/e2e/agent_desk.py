"""A desk whose agent is a real one of the Agent Client Protocol, asking a scripted model, as a throw-away user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

from tests.desk import CLI, Desk
from tests.e2e.clis import described_binary
from tests.e2e.throwaway import as_throwaway

from agent_mailer.events import EventName
from agent_mailer.processes import command_line
from agent_mailer.runtimes.acp.adapter import BRIDGE
from agent_mailer.runtimes.acp.shelf import Shelf, shipped_folder
from agent_mailer.testing.model_server import ModelServer

_XDG = {"CONFIG": ".config", "DATA": ".local/share", "STATE": ".local/state", "CACHE": ".cache"}


class AgentDesk(Desk):
    """Its agent `name` is described as it is shipped, and pointed at `models` by its description's own [check].

    `silent`: seconds without a word that are an outage, where a test does not wait for minutes. `sandbox`: its kind.
    """

    def __init__(
        self,
        base: Path,
        name: str,
        models: ModelServer,
        *,
        mode: str = "plan",
        silent: int = 0,
        sandbox: str = "off",
    ) -> None:
        base.mkdir(exist_ok=True)
        super().__init__(base)
        self.models = models
        self.program = described_binary(name.removesuffix("-headless"))
        self.home = base / "home"
        check = Shelf({}, base / "none").find(name).descriptor.check
        for file, text in check.files.items():
            path = self.home / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._with_url(text))
        if silent:
            shipped = (shipped_folder() / f"{name}.toml").read_text()
            own = self.state / "templates" / "agents" / f"{name}.toml"
            own.parent.mkdir(parents=True)
            own.write_text(re.sub(r"(?m)^silent_for = \d+", f"silent_for = {silent}", shipped))
        variables = {key: self._with_url(value) for key, value in check.env.items()}
        self.configure(
            runtime="acp",
            agent=name,
            permission_mode=mode,
            extra_args=list(check.args),
            env={"set": variables},
            max_retries=0,
            sandbox={"kind": sandbox},
        )

    def _with_url(self, text: str) -> str:
        return Template(text).safe_substitute(URL=self.models.url)

    def environ(self) -> dict[str, str]:
        """Nothing of ours: a home of its own, and the programs."""
        self.home.mkdir(exist_ok=True)
        path = os.pathsep.join([str(self.program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        places = {f"XDG_{kind}_HOME": str(self.home / folder) for kind, folder in _XDG.items()}
        return {"HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8", **places}

    def begin(self) -> subprocess.Popen[bytes]:
        return self.start_watch("--once", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self) -> list[str]:
        """One `watch --once`; how its turns ended."""
        before = len(self.log(EventName.TURN_ENDED))
        with self.begin() as watcher:
            try:
                said, _ = watcher.communicate(timeout=120)
            finally:
                watcher.kill()
        ended = [str(row["outcome"]) for row in self.log(EventName.TURN_ENDED)[before:]]
        assert ended, said.decode()
        return ended

    def start_watch(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            as_throwaway([*CLI, "watch", "--no-interactive", "--workdir", str(self.workdir), *arguments]),
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.DEVNULL, "env": self.environ(), **popen},
        )

    def bridge(self) -> int:
        """The process that talks with the agent; 0 where there is none."""
        turns = f"{self.state}/turns"
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                words = command_line(int(entry.name))
                if BRIDGE in words and turns in words[-2]:
                    return int(entry.name)
        return 0

    def sessions(self) -> list[str]:
        return [str(row["session"]) for row in self.log(EventName.SESSION_BOUND)]
