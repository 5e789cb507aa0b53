"""Starting the agent of one turn behind a gate, held by a small shell that outlives the watcher.

The holder leads its own session and waits on a pipe of which the watcher holds the only other end. Only a released gate
runs the agent: if the watcher dies first, the pipe closes and the holder leaves. From then on nothing depends on the
watcher: stdin is the prompt file, stdout and stderr are files, and the holder writes how the agent ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from agent_mailer.beneath import open_file, status, unlink
from agent_mailer.disk import FILE_MODE, of_the_moment, read_regular
from agent_mailer.outcomes import Exit
from agent_mailer.process.handle import HAS_PROC, ProcessIdentity, carries, identify, is_alive, reap, send, wait_gone

SHELL = "/bin/sh"
TURN_ID_VARIABLE = "AGENT_MAILER_TURN_ID"
PROMPT_FILE = "prompt.md"
STDOUT_FILE = "stdout"
STDERR_FILE = "stderr"
STARTED_FILE = "started"
EXIT_FILE = "exit"

_RECORD = re.compile(rb"[0-9]{1,3}\n")
_LARGEST_SIGNAL = 64
_RELEASE = b"open\n"
_FIRST_FREE_FD = 10

# 0 is the gate, 1 and 2 are nowhere (the shell's own words about a killed child are not the agent's), 3 to 5 are the
# agent's stdin, stdout and stderr, 7 is the file `started` and 8 the turn's folder: by their paths the agent could lead
# us elsewhere. `started` is written when the gate has opened: while it is empty nothing ran. Before that every signal
# ends the holder; afterwards it must live to write the record, and traps signals instead of ignoring them, since an
# ignored signal stays ignored in the agent. The record is one short write in place: it is read only when the holder is
# gone, and without its line end it counts as none. Whatever the agent has put in its place (a FIFO would hang, a link
# would lead elsewhere) is left alone. The agent is executed in a subshell because dash would redirect its own stderr,
# too, for as long as it waits.
_SCRIPT = """\
cd "$1" || exit 126
unset OLDPWD
IFS= read -r _agent_mailer_gate && [ "$_agent_mailer_gate" = open ] || exit 125
echo 1 >&7 || exit 125
exec 7>&-
trap : HUP INT QUIT TERM USR1 USR2 ALRM
_agent_mailer_record=$2
shift 2
(exec "$@" <&3 >&4 2>&5 3<&- 4>&- 5>&- 8<&-)
_agent_mailer_status=$?
umask 077
set -C
[ -e "$_agent_mailer_record" ] || [ -L "$_agent_mailer_record" ] ||
    echo "$_agent_mailer_status" >"$_agent_mailer_record"
"""
_FOLDER_FD = 8
# First of all, where another program has to become the holder: that it has, on 6, which the agent never sees.
_ARRIVAL = "echo 1 >&6\nexec 6>&-\nunset INVOCATION_ID\n"


def start_behind_gate(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, turn_dir: Path, turn_id: str, through: Sequence[str] = ()
) -> GatedHolder:
    """Start the holder of one turn; it runs `argv` (an absolute program and its words) when it is released.

    `turn_dir` must hold the prompt; stdout and stderr are made anew in it and an old exit record is removed. `env` is
    the agent's whole environment, but for the turn's id, which is added; a name that is no shell name is lost on the
    way. Nothing else of this process reaches the agent: no descriptor, no ignored or blocked signal, no terminal.
    `through`: words of a program that becomes the holder in place; whether it has, `arrived` tells.
    Raises OSError if it cannot be started.
    """
    turn_dir = turn_dir.absolute()
    cwd = cwd.absolute()
    if not argv or not argv[0].startswith("/"):
        raise OSError(errno.EINVAL, "the program must be an absolute path", argv[0] if argv else "")
    if not cwd.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "no folder to run in", str(cwd))
    with suppress(FileNotFoundError):
        unlink(turn_dir / EXIT_FILE)
    with ExitStack() as opened:
        prompt = opened.enter_context(_descriptor(turn_dir / PROMPT_FILE, os.O_RDONLY))
        fresh = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        stdout = opened.enter_context(_descriptor(turn_dir / STDOUT_FILE, fresh))
        stderr = opened.enter_context(_descriptor(turn_dir / STDERR_FILE, fresh))
        started = opened.enter_context(_descriptor(turn_dir / STARTED_FILE, fresh))
        folder = _lifted(open_file(turn_dir, os.O_RDONLY | os.O_DIRECTORY))
        opened.callback(os.close, folder)
        for fd in (stdout, stderr, started):
            os.fchmod(fd, FILE_MODE)
        ours = ExitStack()
        with ours:
            waiting, gate = _pipe(opened, ours)
            descriptors = {0: waiting, 3: prompt, 4: stdout, 5: stderr, 7: started, _FOLDER_FD: folder}
            record = f"/proc/self/fd/{_FOLDER_FD}/{EXIT_FILE}" if HAS_PROC else str(turn_dir / EXIT_FILE)
            script, arrival = _SCRIPT, None
            if through:
                arrival, descriptors[6] = _pipe(ours, opened)
                script = _ARRIVAL + _SCRIPT
            words = [SHELL, "-c", script, "agent-mailer-holder", str(cwd), record, *argv]
            pid = _spawn([*through, *words], {**env, TURN_ID_VARIABLE: turn_id}, descriptors)
            ours = ours.pop_all()
    try:
        identity = identify(pid)
    except OSError:
        # The holder leaves with its gate.
        ours.close()
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise
    if identity is None:
        # Reaped behind our back (SIGCHLD is ignored): it died at once, and the gate was never opened.
        ours.close()
        raise ChildProcessError(errno.ECHILD, "the holder ended before it could be known")
    return GatedHolder(identity, gate, turn_dir, turn_id, arrival)


def _spawn(argv: list[str], env: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Start `argv` in its own session with default signals and no descriptor but `descriptors` (target: source)."""
    actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in descriptors
    ]
    actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in descriptors.items()]
    try:
        return os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except (ValueError, NotImplementedError) as error:
        raise OSError(errno.EINVAL, f"cannot be started: {error}", argv[0]) from error


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """Both ends of a pipe, each closed with its stack."""
    ends = [_lifted(fd) for fd in os.pipe()]
    for fd, stack in zip(ends, (reading, writing), strict=True):
        stack.callback(os.close, fd)
    return ends[0], ends[1]


def _inheritable() -> Iterator[int]:
    """Descriptors beyond 2 that somebody left open for children; ours all close by themselves."""
    for name in os.listdir("/dev/fd"):
        with suppress(OSError, ValueError):
            if (fd := int(name)) > 2 and os.get_inheritable(fd):
                yield fd


@contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    """Of a file that nobody has given another name. Raises OSError, EMLINK for what is none."""
    fd = _lifted(open_file(path, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE))
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(errno.EMLINK, "not a file of ours alone", str(path))
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
        os.set_blocking(fd, True)
        yield fd
    finally:
        os.close(fd)


def _lifted(fd: int) -> int:
    """The same file beyond every number the child will use, so that no assignment there overwrites another's source."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
    finally:
        os.close(fd)


class GatedHolder:
    """A holder that waits at its gate. As a context manager it is abandoned at the end, unless it was released."""

    def __init__(
        self, identity: ProcessIdentity, gate: int, turn_dir: Path, turn_id: str, arrival: int | None = None
    ) -> None:
        self.identity = identity
        self._gate: int | None = gate
        self._arrival = arrival
        self._turn_dir = turn_dir
        self._turn_id = turn_id

    async def arrived(self, seconds: float) -> bool:
        """Whether the program it was started `through` has become the holder, within `seconds` seconds."""
        if self._arrival is None:
            return True
        import asyncio

        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_reader(self._arrival, told.set)
        try:
            async with asyncio.timeout(seconds):
                await told.wait()
            return bool(os.read(self._arrival, 2))
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._arrival)

    def release(self) -> Supervised:
        """Open the gate: the agent runs. Raises OSError if the holder has died, and then nothing ran."""
        if self._gate is None:
            raise OSError(errno.EBADF, "the gate is closed already")
        try:
            os.write(self._gate, _RELEASE)
        except OSError:
            self.abandon()
            raise
        self._close()
        return Supervised(self.identity, self._turn_dir, self._turn_id)

    def abandon(self) -> None:
        """Close the gate without opening it: the holder ends and nothing runs."""
        if self._gate is None:
            return
        self._close()
        send(self.identity, signal.SIGKILL)
        reap(self.identity, block=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _close(self) -> None:
        for fd in (self._gate, self._arrival):
            if fd is not None:
                os.close(fd)
        self._gate = self._arrival = None


class Supervised:
    """The holder of a turn that runs, or has ended.

    Not `proved`: a record names it, but nothing that runs is it.
    """

    def __init__(self, identity: ProcessIdentity, turn_dir: Path, turn_id: str, *, proved: bool = True) -> None:
        self.identity = identity
        self._proved = proved
        self.turn_dir = turn_dir
        self.turn_id = turn_id

    @property
    def running(self) -> bool:
        return self._proved and is_alive(self.identity)

    @property
    def holder(self) -> ProcessIdentity | None:
        """Whose session may be ended; None where that cannot be told."""
        return self.identity if self._proved else None

    async def wait_ended(self) -> None:
        """Return when the holder is gone, reaping it where it is our child. The agent's own children may run still."""
        if not self._proved:
            return
        while not await wait_gone([self.identity]):
            pass
        reap(self.identity)

    @property
    def released(self) -> bool:
        """Whether the gate was opened; if not, nothing ran. Only the boot in which the turn was started can tell."""
        with suppress(OSError):
            return status(self.turn_dir / STARTED_FILE).st_size > 0
        return False

    def exit(self) -> Exit:
        """How the agent ended, once the holder is gone; an empty `Exit` if there is no record that can be read."""
        return read_exit(self.turn_dir)


def adopt(identity: ProcessIdentity, turn_dir: Path, turn_id: str) -> Supervised:
    """Take over the holder that another watcher started; it may have ended already.

    `identity` was read from a file that an agent may have written: only what carries the turn's id is its holder.
    Raises OSError where the system cannot tell now.
    """
    ours = carries(identity, f"{TURN_ID_VARIABLE}={turn_id}".encode())
    return Supervised(identity, turn_dir, turn_id, proved=ours)


def read_exit(turn_dir: Path) -> Exit:
    """The holder's record. Raises OSError where it cannot be read just now.

    The shell writes 128 + n for signal n; beyond the largest signal it is a plain status.
    """
    try:
        record = read_regular(turn_dir / EXIT_FILE, 16)
    except OSError as error:
        if of_the_moment(error):
            raise
        return Exit()
    if not _RECORD.fullmatch(record):
        return Exit()
    status = int(record)
    if status > 255:
        return Exit()
    if 128 < status <= 128 + _LARGEST_SIGNAL:
        return Exit(signal=status - 128)
    return Exit(status=status)
