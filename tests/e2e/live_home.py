"""A home in which a person has installed a plugin, and sits at the real claude or codex on a terminal of tmux."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import procfs
from tests.desk import until
from tests.e2e.clis import claude_binary, codex_binary
from tests.e2e.fake_anthropic import KEY, FakeAnthropic
from tests.e2e.fake_openai import FakeOpenAI
from tests.e2e.throwaway import as_throwaway
from tests.terminal import Terminal, terminal
from tests.typed import COMMAND, Typed, type_in

AGENT = ("--address", "coder", "--runtime", "command", "--command", "cat", "--permission-mode", "plan")
YEAR = time.strftime("%Y-")
"""How the id of the only mail begins, before it is sent."""


class LiveHome:
    """`env` is what the person's programs run in; `project` has an agent `coder`, and the person is `user`."""

    def __init__(self, base: Path, env: Mapping[str, str], folders: Sequence[Path]) -> None:
        scratch, self.project = base / "tmp", base / "project"
        scratch.mkdir()
        self.project.mkdir()
        path = ":".join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.env = {**os.environ, **env, "PATH": path, "TMPDIR": str(scratch), "CLAUDE_CODE_TMPDIR": str(scratch)}
        self.home = Path(os.environ["HOME"])
        self.live = self.home / ".local" / "state" / "agent-mailer" / "live"
        made = type_in(self.project, "init", "--no-interactive", "--sandbox", "off", *AGENT)
        assert made.status == 0, made

    def types(self, *words: str) -> Typed:
        done = subprocess.run(
            as_throwaway(words),
            env=self.env,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Typed(done.returncode, done.stdout, done.stderr)

    def plugin(self, *words: str) -> str:
        done = self.types(COMMAND, "plugin", *words)
        assert done.status == 0, done
        return done.out

    def agent_writes(self, text: str) -> str:
        """A mail of the agent's to the person; its id."""
        sent = type_in(self.project, "send", "user", text, "--as", "coder")
        assert sent.status == 0, sent
        return sent.out.strip()

    def agent_has(self) -> list[str]:
        return self._new("coder")

    @contextmanager
    def watching_live_first(self) -> Iterator[None]:
        """The agent's watcher, which offers its mail to the person's session; `planner` may write to it."""
        for words in (("delivery", "live-first"), ("live_wait", "600")):
            assert type_in(self.project, "config", "set", *words).status == 0
        assert type_in(self.project, "mail", "register", "--as", "planner").status == 0
        watcher = subprocess.Popen(
            [COMMAND, "watch", "--no-interactive"],
            cwd=self.project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            watcher.terminate()
            watcher.wait()

    def planner_writes(self, text: str) -> str:
        """A mail to the agent; its id."""
        sent = type_in(self.project, "send", "coder", text, "--as", "planner")
        assert sent.status == 0, sent
        return sent.out.split()[0]

    def planner_has(self) -> list[str]:
        return self._new("planner")

    def _new(self, handle: str) -> list[str]:
        new = self.project / ".agent-mail" / "agents" / handle / "inbox" / "new"
        return [path.read_text() for path in sorted(new.glob("*.md"))]

    def session(self) -> dict[str, Any]:
        """What is known of the one session that lives."""
        (path,) = self.live.glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def listeners(self) -> list[int]:
        """The processes that wait beside a session of this home."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._listens(pid)]

    def until_somebody_listens(self) -> None:
        until(lambda: len(self.listeners()) == 1, "a listener beside the session")

    def _listens(self, pid: int) -> bool:
        home = f"HOME={self.home}" in procfs.said(pid, "environ").split("\0")
        return home and procfs.INOTIFY in procfs.opened(pid) and "plugin" in procfs.said(pid, "cmdline").split("\0")


def claude_home(base: Path, fake: FakeAnthropic) -> LiveHome:
    """Where the person has answered what claude asks at its first start."""
    quiet = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    found = LiveHome(base, {**fake.env, **quiet}, [claude_binary().parent])
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    answered = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(found.project): trusted},
    }
    (found.home / ".claude.json").write_text(json.dumps(answered))
    return found


@contextmanager
def at_claude(home: LiveHome) -> Iterator[Terminal]:
    argv = [str(claude_binary()), "--allowedTools", "mcp__plugin_mailer_mail"]
    with terminal(as_throwaway(argv), home.project, home.env, height=50) as screen:
        home.until_somebody_listens()
        yield screen


def codex_home(base: Path, fake: FakeOpenAI) -> LiveHome:
    """Where the person trusts the project."""
    own = base / "codex-home"
    own.mkdir(mode=0o700)
    found = LiveHome(base, {"OPENAI_API_KEY": "dummy-key", "CODEX_HOME": str(own)}, [codex_binary().parent])
    provider = f'name = "fake"\nbase_url = "{fake.url}"\nenv_key = "OPENAI_API_KEY"'
    (own / "config.toml").write_text(
        'model_provider = "fake"\nmodel = "gpt-5"\n'
        f"[model_providers.fake]\n{provider}\nrequest_max_retries = 0\nstream_max_retries = 0\n"
        f'[projects."{found.project}"]\ntrust_level = "trusted"\n'
    )
    return found


@contextmanager
def at_codex(home: LiveHome) -> Iterator[Terminal]:
    """The person has said yes to the plugin's hooks. The app server that codex leaves behind is ended with it."""
    own = Path(home.env["CODEX_HOME"])
    try:
        with terminal(as_throwaway([str(codex_binary())]), home.project, home.env, height=50) as screen:
            screen.until("Hooks need review")
            until(lambda: _chosen(screen), "the second answer is chosen")
            screen.press("Enter")
            screen.until("Ask Codex to do anything")
            yield screen
    finally:
        end_servers(own)


def _chosen(screen: Terminal) -> bool:
    """Keys that come while the page is built are lost."""
    if "› 2. Trust all" in screen.screen():
        return True
    screen.press("2")
    time.sleep(0.2)  # until the page is drawn anew
    return "› 2. Trust all" in screen.screen()


def end_servers(own: Path) -> None:
    """Of codex in that home; each by its pid."""
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        words = procfs.said(pid, "cmdline").split("\0")
        if words[0].startswith(str(own)) and "app-server" in words:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def submit(screen: Terminal, text: str) -> None:
    """Type it, and Enter once it is all there: codex takes a fast Enter as part of a paste."""
    screen.type(text, enter=False)
    screen.until(text)
    time.sleep(0.5)  # nothing on the screen tells when a paste is over
    screen.press("Enter")
