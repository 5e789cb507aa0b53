"""Real `agent-mailer` processes at the price of a fork: a parent that has loaded the program forks a child a command.

`python -m tests.crash.children` is that parent; `Children` speaks to it. Each child is a process of its own, which runs
the command line from its first function to its exit, and may be given a point at which something befalls it.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
from tests.crash.points import Point, PointedSystem

PROJECT = Path(__file__).parents[2]
PATIENCE = 60.0


class Start(msgspec.Struct, frozen=True, tag=True):
    """Fork a child that waits for `Release`; then it runs `agent-mailer argv`, its stderr in `stderr`."""

    argv: tuple[str, ...]
    stderr: str
    env: dict[str, str]
    point: Point | None = None
    trace: str = ""


class Release(msgspec.Struct, frozen=True, tag=True):
    """Let all that wait go at once."""


class Wait(msgspec.Struct, frozen=True, tag=True):
    """Wait for the first of `pids` that ends."""

    pids: tuple[int, ...]
    patience: float


class Ended(msgspec.Struct, frozen=True):
    """`status` is the exit status, or minus the signal's number; pid 0 = none ended in time."""

    pid: int
    status: int = 0


Command = Start | Release | Wait


class Children:
    """The children of one parent process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._living: set[int] = set()

    def start(
        self, *argv: str, stderr: Path, point: Point | None = None, trace: Path | None = None, now: bool = True
    ) -> int:
        """Start a command; returns its pid. Without `now` it waits for `release`."""
        pid = self._ask(Start(argv, str(stderr), dict(os.environ), point, str(trace or "")))
        self._living.add(pid)
        if now:
            self.release()
        return pid

    def release(self) -> None:
        self._ask(Release())

    def wait(self, *pids: int, patience: float = PATIENCE) -> Ended:
        """The first of `pids` to end. One that does not end in time fails the test."""
        self._say(Wait(pids, patience))
        ended = msgspec.json.decode(self._hear(), type=Ended)
        assert ended.pid, f"none of {pids} ended within {patience:.0f} s"
        self._living.discard(ended.pid)
        return ended

    def run(self, *argv: str, stderr: Path, point: Point | None = None, trace: Path | None = None) -> int:
        """Start a command and wait for it; returns its status."""
        return self.wait(self.start(*argv, stderr=stderr, point=point, trace=trace)).status

    def end(self) -> None:
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)  # not reaped yet: the pid is still the child's
        for pid in list(self._living):
            self.wait(pid)

    def _ask(self, command: Command) -> int:
        self._say(command)
        return int(self._hear())

    def _say(self, command: Command) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> bytes:
        assert self._process.stdout is not None
        line: bytes = self._process.stdout.readline()
        assert line, "the parent of the children has died"
        return line


@contextmanager
def nursery() -> Iterator[Children]:
    """Children in the environment of whoever starts them; those that live at the end are killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.children"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT
    ) as process:
        children = Children(process)
        try:
            yield children
        finally:
            children.end()
            assert process.stdin is not None
            process.stdin.close()


class _Parent:
    def __init__(self) -> None:
        self._gate: tuple[int, int] | None = None

    def serve(self) -> None:
        for line in sys.stdin.buffer:
            command: Command = msgspec.json.decode(line, type=Command)
            match command:
                case Start():
                    self._answer(str(self._start(command)).encode())
                case Release():
                    self._open_gate()
                    self._answer(b"0")
                case Wait():
                    self._answer(msgspec.json.encode(_wait(command)))

    def _answer(self, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()

    def _start(self, command: Start) -> int:
        if self._gate is None:
            self._gate = os.pipe()
        reader, writer = self._gate
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            _live(command, reader)
        return pid

    def _open_gate(self) -> None:
        if self._gate is not None:
            for fd in self._gate:
                os.close(fd)
            self._gate = None


def _live(command: Start, gate: int) -> NoReturn:
    """Be the child."""
    from agent_mailer import disk
    from agent_mailer.cli.app import main

    status = 99
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        words = os.open(command.stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(words, 2)
        os.environ.clear()
        os.environ.update(command.env)
        random.seed()
        sys.argv = ["agent-mailer", *command.argv]
        if command.point is not None:
            system = PointedSystem(command.point, Path(command.trace) if command.trace else None)
            disk.SystemCalls = lambda: system  # type: ignore[assignment,misc]
            _put_under_requests(system)
        os.read(gate, 1)
        os.close(gate)
        main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _put_under_requests(system: PointedSystem) -> None:
    import httpx

    send = httpx.AsyncHTTPTransport.handle_async_request

    async def counted(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        return await system.request(f"{request.method}{request.url.path}", lambda: send(self, request))

    httpx.AsyncHTTPTransport.handle_async_request = counted  # type: ignore[method-assign]

    from agent_mailer.mailbox.amp.wires import Most, Reply, Wires

    ask = Wires.ask

    async def asked(
        self: Wires, method: str, target: str, fields: Mapping[str, str], content: bytes | None, most: Most
    ) -> Reply:
        path = target.partition("?")[0]
        return await system.request(f"{method}{path}", lambda: ask(self, method, target, fields, content, most))

    Wires.ask = asked  # type: ignore[method-assign]


def _wait(command: Wait) -> Ended:
    watched = {os.pidfd_open(pid): pid for pid in command.pids}
    try:
        ready, _, _ = select.select(list(watched), [], [], command.patience)
    finally:
        for fd in watched:
            os.close(fd)
    if not ready:
        return Ended(0)
    pid = watched[ready[0]]
    _, status = os.waitpid(pid, 0)
    return Ended(pid, os.waitstatus_to_exitcode(status))


def _load(names: Sequence[str]) -> None:
    """What a watcher needs, loaded once for all children."""
    for name in names:
        __import__(name)


if __name__ == "__main__":
    _load(
        (
            "agent_mailer.cli.watch.command",
            "agent_mailer.checks",
            "agent_mailer.mailbox.amp.adapter",
            "agent_mailer.mailbox.maildir.adapter",
            "agent_mailer.process.holder",
            "agent_mailer.process.holder",
            "agent_mailer.process.tree",
            "agent_mailer.prompts",
            "agent_mailer.runtimes.command",
            "agent_mailer.runtimes.programs",
            "agent_mailer.state.lock",
            "agent_mailer.watch.requests",
            "agent_mailer.watch.watcher",
            "asyncinotify",
            "filelock",
        )
    )
    _Parent().serve()
