"""An agent's workdir and a folder mailbox for tests: real files, the real engine, a scripted agent."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit

from agent_mailer.assemble import Workplace
from agent_mailer.beneath import anchor
from agent_mailer.clock import Clock
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.events import EventName, Listener, LogRecord
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import make_root
from agent_mailer.mailbox.port import Action, Automatic, Delivered, Draft, Message, Priority
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply
from agent_mailer.watch.watcher import End, Watcher

AGENT = [sys.executable, "-m", "agent_mailer.testing.scripted_agent"]
CLI = [sys.executable, "-m", "agent_mailer.cli.app"]
PATIENCE = 60.0
SOON = 30.0
"""What is over at once is over by then, on a loaded machine too; what would be waited for takes minutes."""


def until(what: Callable[[], object], why: str, patience: float = PATIENCE) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, f"waited {patience:.0f} s in vain: {why}"
        time.sleep(0.005)


def said_in(path: Path, why: str) -> str:
    """What another process writes there, once there is some: a shell makes the file first."""
    until(lambda: path.exists() and path.read_text(), why)
    return path.read_text()


class _Made(NamedTuple):
    path: str
    mode: int
    content: bytes | None


_made: list[_Made] = []
"""What a new root of mail is. It is made in earnest once: to make thirty folders durable takes long."""


def _make_mail(disk: Disk, root: Path) -> None:
    if not _made:
        make_root(disk, root, ["coder", "planner", "user"])
        for path in (root, *sorted(root.rglob("*"))):
            content = path.read_bytes() if path.is_file() else None
            _made.append(_Made(str(path.relative_to(root)), path.stat().st_mode & 0o7777, content))
        return
    anchor(root)
    for name, mode, content in _made:
        path = root / name
        if content is None:
            path.mkdir(parents=name == ".")
        else:
            path.write_bytes(content)
        path.chmod(mode)


class Desk:
    """`coder` works in `workdir`; `user` writes to it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "mail"
        self.workdir = base / "coder"
        self.state = self.workdir / ".agent-mailer"
        self.witness = base / "witness.jsonl"
        self.disk = Disk()
        self._serial = itertools.count()
        self.failed = False
        """Whether the last `once` ends the command with 1."""
        _make_mail(self.disk, self.root)
        self.state.mkdir(parents=True)
        self.state.chmod(0o700)
        self.settings: dict[str, Any] = {
            "address": "coder",
            "runtime": "command",
            "permission_mode": "plan",
            "maildir_root": str(self.root),
            "command": ["/bin/sh", "-c", "cat >/dev/null; echo done"],
            "retry": {"first": 1, "longest": 1},
        }
        self.configure()

    def configure(self, **settings: Any) -> None:
        self.settings.update(settings)
        trust = self.place().trust
        with trust.changing():
            path = self.state / "config.toml"
            path.write_text(tomlkit.dumps(self.settings))
            path.chmod(0o600)
            if trust.keeper.folder.is_dir():
                # As `config edit` does, once a watcher has remembered what is trusted.
                trust.give(trust.verdict.there, "test")

    def tell(self, script: str = 'cat >>"$0"', **settings: Any) -> None:
        """The operator's command is a shell script; `$0` is the file that `notices` reads."""
        command = ["/bin/sh", "-c", script, str(self.base / "told")]
        self.configure(notify={"command": command, **settings})

    def notices(self) -> list[dict[str, Any]]:
        """What the operator's command was told."""
        told = self.base / "told"
        return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []

    def codes(self) -> list[str]:
        """What the operator may answer with, one for each question he was told of."""
        return [one["code"] for one in self.notices() if one["kind"] == "approval"]

    def script(self, *steps: dict[str, Any], attempts: dict[str, list[dict[str, Any]]] | None = None) -> None:
        """The agent runs these steps; `attempts` says otherwise for an attempt by number."""
        path = self.base / "script.json"
        script = {"steps": list(steps), "attempts": attempts or {}, "witness": str(self.witness)}
        path.write_text(json.dumps(script))
        self.configure(command=[*AGENT, str(path)])

    def shell(self, script: str) -> None:
        """The agent is a shell script."""
        self.configure(command=["/bin/sh", "-c", script])

    def shell_that_tells(self, script: str) -> None:
        """The same, and each run tells the witness."""
        mark = r'{"mark":"ran","message":"%s","attempt":"%s"}\n'
        tells = f"""printf '{mark}' "$AGENT_MAILER_MESSAGE_ID" "$AGENT_MAILER_ATTEMPT" >>"$0"; """
        self.configure(command=["/bin/sh", "-c", f"cat >/dev/null; {tells}{script}", str(self.witness)])

    def send(
        self,
        body: str = "please",
        *,
        sender: str = "user",
        thread: str = "",
        subject: str = "task",
        priority: Priority | None = None,
        automatic: Automatic = Automatic.NO,
        to: str = "coder",
    ) -> str:
        """Deliver a message; returns its id."""
        mailbox = MaildirMailbox(self.disk, self.root, sender)
        draft = Draft(
            f"k{next(self._serial)}",
            Action.SEND,
            time.time(),
            to=(to,),
            subject=subject,
            body=body,
            thread=thread,
            priority=priority,
            automatic=automatic,
        )
        items = mailbox.compose(draft, None, f"test-{os.getpid()}")
        assert not hasattr(items, "why"), items
        assert asyncio.run(mailbox.deliver(items[0])) == Delivered()
        return items[0].id

    def answered(self) -> list[str]:
        """The bodies of what waits for the user, oldest first."""
        return [message.body.strip() for message in self.inbox()]

    def inbox(self, handle: str = "user") -> list[Message]:
        """What waits for `handle`, oldest first."""

        async def read() -> list[Message]:
            mailbox = MaildirMailbox(self.disk, self.root, handle)
            found = [await mailbox.read(envelope) for envelope in (await mailbox.pending(1000)).envelopes]
            return [message for message in found if isinstance(message, Message)]

        return asyncio.run(read())

    def place(self, clock: Clock | None = None) -> Workplace:
        return Workplace(self.workdir, clock=clock)

    def resume(self) -> None:
        """What `agent-mailer resume` does."""
        apply(self.place().state, Request(Verb.RESUME))

    def once(
        self, clock: Clock | None = None, system: SystemCalls | None = None, heard: Listener | None = None
    ) -> list[LogRecord]:
        """One `watch --once` in this process, over the disk `system`; returns its events. `heard` is called at each."""
        place = self.place(clock)
        place.disk.system = system or place.disk.system
        place.folder.check()
        events: list[LogRecord] = []
        for listener in filter(None, (events.append, heard)):
            place.log.listen(listener)
        lock = place.lock()
        lock.acquire()
        try:
            place.prepare()

            async def run() -> None:
                watcher = Watcher(place.room(lock), once=True)
                assert await watcher.run() is End.DRAINED
                self.failed = watcher.failed

            asyncio.run(run())
        finally:
            lock.release()
        return events

    @contextmanager
    def watching(self, **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A real `agent-mailer watch` process, ended at the end of the block if it still runs."""
        process = self.start_watch(**popen)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            self.end_turns()

    def start_watch(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*CLI, "watch", "--no-interactive", "--workdir", str(self.workdir), *arguments],
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.DEVNULL, **popen},
        )

    def end_turns(self) -> None:
        """End what is left of this workdir's turns."""
        from agent_mailer.process.tree import sweep

        turns = self.state / "turns"
        for turn in turns.iterdir() if turns.exists() else ():
            asyncio.run(sweep(turn.name, grace=0.0))

    def marks(self) -> list[dict[str, Any]]:
        """What the agents wrote to the witness, in order."""
        if not self.witness.exists():
            return []
        return [json.loads(line) for line in self.witness.read_text().splitlines() if line]

    def log(self, event: EventName) -> list[dict[str, Any]]:
        path = self.state / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        # A full disk may have torn a line; the next one starts anew.
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [row for row in rows if row["event"] == event]


def outcomes(events: Sequence[LogRecord]) -> list[str]:
    """How the turns ended, in order."""
    return [str(e.fields["outcome"]) for e in events if e.event is EventName.TURN_ENDED]
