"""Commands as processes of their own at the price of a fork: a parent that has loaded the program forks each of them.

Most of what a short command takes is the start of the interpreter and its imports. The child has the words, folder,
environment and streams that it is given, and runs from the program's first function to its exit.
`python -m tests.forked SOCKET` is that parent; it ends when its standard input does.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from tests.powers import are_shut

PROJECT = Path(__file__).parents[1]
FITS_A_PIPE = 60_000
READ_AT_THE_START = ("LANG", "LC_", "PYTHON")
"""What an interpreter reads before it runs anything: who changes these needs a new one."""


class Request(NamedTuple):
    argv: list[str]
    cwd: str
    env: dict[str, str]


class Ended(NamedTuple):
    status: int
    """The exit status, or minus the signal's number."""
    out: bytes
    err: bytes


def fits(env: Mapping[str, str]) -> bool:
    """Whether a fork is as good as a new interpreter in the environment `env`: the parent keeps its powers."""
    if are_shut():
        return False
    names = [name for name in {*env, *os.environ} if name.startswith(READ_AT_THE_START)]
    return all(env.get(name) == os.environ.get(name) for name in names)


def run(argv: Sequence[str], cwd: Path, env: Mapping[str, str], data: bytes, patience: float) -> Ended:
    """Run the program with these words, its own name first, to its end. Raises subprocess.TimeoutExpired."""
    request = Request(list(argv), str(cwd), dict(env))
    with (
        _stdin(data) as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        socket.socket(socket.AF_UNIX) as line,
    ):
        line.connect(_parent())
        socket.send_fds(line, [b"!"], [given, out.fileno(), err.fileno()])
        line.sendall(json.dumps(request).encode() + b"\n")
        with line.makefile("rb") as answers:
            line.settimeout(patience)
            pid = int(answers.readline())
            try:
                status = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(argv), patience) from None
        return Ended(status, _all_of(out), _all_of(err))


@contextmanager
def _stdin(data: bytes) -> Iterator[int]:
    """A descriptor from which `data` can be read: a pipe, unless that would have to be filled meanwhile."""
    if len(data) > FITS_A_PIPE:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            yield file.fileno()
        return
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)


def _all_of(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()


@cache
def _parent() -> str:
    """The socket of the one parent of this process, started when it is first asked for."""
    folder = tempfile.mkdtemp(prefix="am-forks-")
    path = f"{folder}/socket"
    process = subprocess.Popen([sys.executable, "-m", "tests.forked", path], stdin=subprocess.PIPE, cwd=PROJECT)

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        Path(path).unlink(missing_ok=True)
        Path(folder).rmdir()

    atexit.register(end)
    while not Path(path).exists():
        assert process.poll() is None, "the parent of the commands did not start"
        time.sleep(0.01)
    return path


def _serve(path: str) -> None:
    _load("agent_mailer")
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(16)
        os.rename(f"{path}.new", path)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _keep(line)
            line.close()


def _load(name: str) -> None:
    """All modules of the package, but those that only alembic can run."""
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__, f"{name}."):
        if not module.ispkg:
            importlib.import_module(module.name)
        elif not module.name.endswith(".migrations"):
            _load(module.name)


def _keep(line: socket.socket) -> NoReturn:
    """Start one command, and tell how it ended."""
    _, fds, _, _ = socket.recv_fds(line, 1, 3)
    with line, line.makefile("rb") as said:
        request = Request(*json.loads(said.readline()))
        pid = os.fork()
        if pid == 0:
            _live(request, fds)
        line.sendall(b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _live(request: Request, fds: Sequence[int]) -> NoReturn:
    """Be the command."""
    from agent_mailer.cli.app import main

    status = 99
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, 64)
        os.chdir(request.cwd)
        os.environ.clear()
        os.environ.update(request.env)
        time.tzset()
        random.seed()
        sys.argv = request.argv
        sys.modules["__main__"].__package__ = None  # the program's name in its help is that of a file
        main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
