"""The demo's stage: a scratch folder with agents and watchers, and a real broker beside them where it is wanted."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.demo.story import HOW_TO, HOW_TO_BROKER, NAMES, TASK_BODY, TASK_SUBJECT, scripts
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.locks import FileLock
from agent_mailer.process.commands import (
    CommandApart,
    Finished,
    RunningCommand,
    run_command,
    start_apart,
    start_command,
)
from agent_mailer.state.folder import STATE_DIRECTORY

STOP_SECONDS = 5.0
_INHERITED = ("AGENT_MAILER_", "AM_")


_LOCK, _PLAYING = "lock", "playing"


class DemoFailed(MailerError):
    """Something that always works did not."""


class Stage(ABC):
    """Agents in `folder`, two if not told otherwise. `close` ends every program and every process of their turns."""

    how_to = HOW_TO
    """What to type for the same with a real agent."""
    addresses = ("user", "coder")
    """Of whoever gives the task, and of the coder."""
    names: Sequence[str] = NAMES
    """The agents; the first one's workdir is where a person writes from, at a broker."""
    settings: Sequence[str] = ()
    """More options of `init`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watchers: dict[str, RunningCommand] = {}
        self._beside: list[RunningCommand] = []
        self._letter: RunningCommand | None = None
        self._read: dict[str, int] = {}
        self._env = _environment()
        self._program = _program()
        self._lock = FileLock(folder / _LOCK)

    def live_apart(self) -> None:
        """Nothing is to stay: what is known of agents beside their folders lies in this one, too, so that nobody's list
        names them; and `clear_away` finds it when we are killed. Raises OSError.
        """
        self._env = {**self._env, "XDG_STATE_HOME": str(self.folder / "state")}
        if self._lock.acquire():
            # Only now: until then it might be taken for one that nobody plays in.
            (self.folder / _PLAYING).touch()

    @abstractmethod
    def prepare(self) -> Iterator[tuple[str, str]]:
        """Write the agents and set them up; yields who has done what. Raises DemoFailed, OSError."""

    @property
    @abstractmethod
    def mail_is(self) -> str:
        """Where one finds the mail afterwards."""

    @property
    @abstractmethod
    def else_ran(self) -> str:
        """What ran beside the watchers."""

    @property
    @abstractmethod
    def to_mailbox(self) -> Sequence[str]:
        """The options of `send` and `mail` that lead to the mailbox."""

    def agents(self) -> Mapping[str, str]:
        """The shell scripts that are the agents' programs, by their names."""
        return scripts(*self.addresses)

    def set_up(self, *mailbox: str, **env: str) -> None:
        """Write the agents, and `agent-mailer init` them; `mailbox` are its options, `env` what these do not say."""
        for name, script in self.agents().items():
            workdir = self.folder / name
            workdir.mkdir()
            agent = workdir / "agent.sh"
            agent.write_text(script, "utf-8")
            agent.chmod(0o755)
            self.run(
                *("init", "--no-interactive", "--no-gitignore", "--workdir", str(workdir), "--address", name),
                *("--runtime", "command", "--command", "sh agent.sh", "--permission-mode", "acceptEdits"),
                *("--stop-grace", "1", "--sandbox", "off", *self.settings, *mailbox),
                **env,
            )

    def start_watchers(self) -> None:
        for name in self.names:
            self.watchers[name] = self.start(name, "watch", "--no-interactive", "--workdir", str(self.folder / name))

    def send_task(self, seconds: int) -> None:
        """Send the task as the person would, and have the answer waited for."""
        argv = [
            *(*self._program, "send", *self.to_mailbox, "--to", "planner"),
            *("--subject", TASK_SUBJECT, "--body", TASK_BODY, "--wait", str(seconds), "--json"),
        ]
        self._letter = start_command(argv, env=self._env, cwd=self.folder, output=self.output("send"))

    def answered(self) -> Finished | None:
        """How the waiting for the answer ended; None while it goes on."""
        if self._letter is None or (status := self._letter.status()) is None:
            return None
        return Finished(status, self.output("send").read_text("utf-8", "replace"))

    def new_events(self) -> Iterator[tuple[str, dict[str, object]]]:
        """What both watchers printed since the last call, in the order in which it happened."""
        found: list[tuple[str, str, dict[str, object]]] = []
        for name in self.watchers:
            data = self.output(name).read_bytes()
            start = self._read.get(name, 0)
            end = data.rfind(b"\n") + 1
            for line in data[start:end].splitlines():
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    event = msgspec.json.decode(line)
                    if isinstance(event, dict):
                        found.append((str(event.get("ts", "")), name, event))
            self._read[name] = max(start, end)
        found.sort(key=lambda item: item[0])
        for _, name, event in found:
            yield name, event

    def ended_watcher(self) -> str | None:
        """A watcher that is gone although nobody stopped it."""
        return next((name for name, running in self.watchers.items() if running.status() is not None), None)

    def start_beside(self, name: str, *words: str) -> RunningCommand:
        """Start a command that runs until `close`; its output is in `output(name)`."""
        running = self.start(name, *words)
        self._beside.append(running)
        return running

    def start(self, name: str, *words: str) -> RunningCommand:
        """Start a command that its caller ends; its output is in `output(name)`."""
        return start_command([*self._program, *words], env=self._env, cwd=self.folder, output=self.output(name))

    def start_apart(self, name: str, *words: str) -> CommandApart:
        """As `start`, but what it has started goes on when it ends; its complaints are in `output(name)`."""
        return start_apart([*self._program, *words], env=self._env, cwd=self.folder, errors=self.output(name))

    def run(self, *words: str, **env: str) -> str:
        """Run a command to its end; returns its output. Raises DemoFailed."""
        done = self.attempt(*words, **env)
        if done.status:
            raise DemoFailed("demo_failed", f"agent-mailer {words[0]} ended with {done.status}: {done.output.strip()}")
        return done.output

    def attempt(self, *words: str, **env: str) -> Finished:
        """Run a command to its end, whatever that is."""
        return run_command([*self._program, *words], env={**self._env, **env}, cwd=self.folder)

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """End everything that was started; may be called at any moment, and again."""
        programs = [*self.watchers.values(), *([self._letter] if self._letter is not None else []), *self._beside]
        for program in programs:
            program.ask_to_stop()
        end = time.monotonic() + STOP_SECONDS
        forced = False
        for program in programs:
            forced = program.stop(max(0.0, end - time.monotonic())) >= 128 or forced
        if forced:
            self._sweep()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """A watcher that had to be killed leaves its turns' processes: they carry the turn's id."""
        import asyncio

        from agent_mailer.process.tree import sweep

        for name in self.names:
            for turn in (self.folder / name / STATE_DIRECTORY / "turns").glob("*-*"):
                asyncio.run(sweep(turn.name, grace=0.5))


class FolderStage(Stage):
    """Their mail is in a folder beside them."""

    @property
    def root(self) -> Path:
        return self.folder / "mail"

    def prepare(self) -> Iterator[tuple[str, str]]:
        self.set_up("--maildir-root", str(self.root))
        yield from ()

    @property
    def mail_is(self) -> str:
        return f"the mail is plain files in {self.root}"

    @property
    def else_ran(self) -> str:
        return "no server, no network"

    @property
    def to_mailbox(self) -> Sequence[str]:
        return "--maildir-root", str(self.root)


def clear_away(folders: Iterable[Path]) -> None:
    """Remove those that a stage lived apart in which was killed outright, with all that it had started."""
    for folder in folders:
        with suppress(OSError, ConfigFault):
            if folder.lstat().st_uid != os.getuid() or not (folder / _PLAYING).is_file():
                continue
            lock = FileLock(folder / _LOCK)
            if lock.acquire():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


def _environment() -> Mapping[str, str]:
    """Ours, without what would lead the demo's programs elsewhere; the agents must find this very installation."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_INHERITED)}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    return env


def _program() -> list[str]:
    """The installed command beside this Python, else the one on the PATH."""
    beside = Path(sys.executable).parent / "agent-mailer"
    found = str(beside) if beside.is_file() else shutil.which("agent-mailer")
    if found is None:
        raise DemoFailed("not_installed", "the command agent-mailer is not installed beside this Python", "./run demo")
    return [found]


BROKER_SECONDS = 20.0
LOOK_EVERY = 0.02
USER, DOMAIN = "demo", "amp.localhost"
_URL = re.compile(r"a broker at (http://\S+)")
_INVITE = re.compile(r"--invite (\w+)")
_READY = "Ctrl-C"
"""The last line that a broker prints at its start."""


class BrokerStage(Stage):
    """Their mail goes by way of a broker."""

    how_to = HOW_TO_BROKER
    addresses = (f"human-operator@{USER}.{DOMAIN}", f"coder@{USER}.{DOMAIN}")
    url = ""
    """Where the broker serves; known once it does."""

    def prepare(self) -> Iterator[tuple[str, str]]:
        data = self.folder / "broker"
        broker = self.serve(port=0)
        said = self._first_lines()
        found, invite = _URL.search(said), _INVITE.search(said)
        if found is None or invite is None:
            raise DemoFailed("demo_failed", f"the broker says something unknown: {said.strip()}")
        url = self.url = found[1]
        yield "broker", f"serves at {url} (process {broker.pid})"
        added = self.run(
            *("broker", "user", "add", USER, "--invite", invite[1], "--data", str(data), "--json"),
            AGENT_MAILER_PASSWORD=secrets.token_hex(8),
        )
        key = msgspec.json.decode(added, type=_Added).api_key
        yield "you", "are its first user, by the invite code that it printed, and have an API key"
        self.set_up("--broker-url", url, AGENT_MAILER_API_KEY=key)
        yield "planner", "is registered there, and so is coder"

    @property
    def mail_is(self) -> str:
        return f"the broker's database is {self.folder / 'broker' / 'broker.db'}"

    @property
    def else_ran(self) -> str:
        return "one broker that told them of their mail"

    @property
    def to_mailbox(self) -> Sequence[str]:
        return "--workdir", str(self.folder / self.names[0])

    def serve(self, port: int) -> RunningCommand:
        """Start the broker over the data that it has, or will have."""
        words = ("broker", "serve", "--port", str(port), "--domain", DOMAIN, "--data", str(self.folder / "broker"))
        return self.start_beside("broker", *words)

    def _first_lines(self) -> str:
        end = time.monotonic() + BROKER_SECONDS
        while _READY not in (said := self.output("broker").read_text("utf-8", "replace")):
            if self._beside[0].status() is not None or time.monotonic() > end:
                raise DemoFailed("demo_failed", f"the broker did not start: {said.strip()}")
            time.sleep(LOOK_EVERY)
        return said


class _Added(msgspec.Struct):
    """What `broker user add --json` prints."""

    api_key: str
