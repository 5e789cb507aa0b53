"""Starting the agent of one turn behind a gate, held by a small shell that outlives the watcher.

The holder leads its own session and waits on a pipe of which the watcher holds the only other end. Only a released gate
runs the agent: if the watcher dies first, the pipe closes and the holder leaves. From then on nothing depends on the
watcher: stdin is the prompt file, stdout and stderr are files, and the holder writes how the agent ended. It inherits
what the agent leaves behind, and while there is any of that it stays, so that all of it can be found below it.
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

from agent_mailer.beneath import holding, open_file, status, unlink
from agent_mailer.disk import FILE_MODE, of_the_moment, open_own, read_regular
from agent_mailer.outcomes import Exit
from agent_mailer.process.handle import (
    ProcessIdentity,
    carries,
    identify,
    is_alive,
    reap,
    send,
    spawn,
    wait_gone,
    why_unstarted,
)
from agent_mailer.processes import HAS_PROC

SHELL = "/bin/sh"
TURN_ID_VARIABLE = "AGENT_MAILER_TURN_ID"
PROMPT_FILE = "prompt.md"
STDOUT_FILE = "stdout"
STDERR_FILE = "stderr"
STARTED_FILE = "started"
EXIT_FILE = "exit"
HOLDER = "agent-mailer-holder"
"""By this word among its own a holder is known."""

_RECORD = re.compile(rb"[0-9]{1,3}\n")
_LARGEST_SIGNAL = 64
_RELEASE = b"open\n"
_FIRST_FREE_FD = 10
_LOOK_AGAIN = 0.2
_LEAVING = 0.05

SCOPE = "agent-mailer-turn-{}.scope"
"""The unit of a turn with a limit of memory, by its id."""
LEAVE = signal.SIGUSR2
"""Ends a holder that has recorded its agent's end; before that it does nothing."""
_LEFT_NOTHING = 100
"""The exit status of a holder that has recorded it and has no child any more: nobody descends from it."""

# 0 is the gate, 1 and 2 are nowhere (the shell's own words about a killed child are not the agent's), 3 to 5 are the
# agent's stdin, stdout and stderr. 6 is the holder's word to the watcher: first that it is there; closed, that the
# agent has ended. From 7, a pipe to itself, nothing ever comes: there it waits while it has children. 8 is the turn's
# folder, by whose path the agent could lead us elsewhere, and 9 the file `started`. The agent sees none of them.
# `started` is written by the process that becomes the agent: while it is empty nothing ran, as where no process was to
# be had. Before the gate every signal ends the holder; afterwards it must live to write the record,
# and traps signals instead of ignoring them, since an ignored signal stays ignored in the agent. The record is one
# short write in place, and without its line end counts as none. Whatever the agent has put in its place (a FIFO would
# hang, a link would lead elsewhere) is left alone. The
# agent is executed in a subshell because dash would redirect its own stderr, too, for as long as it waits.
_SCRIPT = f"""\
echo 1 >&6
cd "$1" || exit 126
unset OLDPWD
IFS= read -r _agent_mailer_word && [ "$_agent_mailer_word" = open ] || exit 125
trap : HUP INT QUIT TERM USR1 USR2 ALRM
_agent_mailer_record=$2
shift 2
(echo 1 >&9 || exit 125
exec "$@" <&3 >&4 2>&5 3<&- 4>&- 5>&- 6>&- 7<&- 8<&- 9>&-)
_agent_mailer_status=$?
exec 9>&-
umask 077
set -C
[ -e "$_agent_mailer_record" ] || [ -L "$_agent_mailer_record" ] ||
    echo "$_agent_mailer_status" >"$_agent_mailer_record" || exit
trap - USR2
while :; do
    if [ -r /proc/thread-self/children ]; then
        IFS= read -r _agent_mailer_word </proc/thread-self/children
        [ -n "$_agent_mailer_word" ] || exit {_LEFT_NOTHING}
    fi
    exec 6>&-
    IFS= read -r _agent_mailer_word <&7
done
"""
_OF_SYSTEMD = "unset INVOCATION_ID\n"


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
    with ExitStack() as opened, holding(turn_dir):
        with suppress(FileNotFoundError):
            unlink(turn_dir / EXIT_FILE)
        prompt = opened.enter_context(_descriptor(turn_dir / PROMPT_FILE, os.O_RDONLY))
        fresh = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        stdout = opened.enter_context(_descriptor(turn_dir / STDOUT_FILE, fresh))
        stderr = opened.enter_context(_descriptor(turn_dir / STDERR_FILE, fresh))
        started = opened.enter_context(_descriptor(turn_dir / STARTED_FILE, fresh))
        for fd in (stdout, stderr, started):
            os.fchmod(fd, FILE_MODE)
        ours = ExitStack()
        with ours:
            waiting, gate = _pipe(opened, ours)
            word, told = _pipe(ours, opened)
            folder, never = _lifted(open_file(turn_dir, os.O_RDONLY | os.O_DIRECTORY)), _lifted(_never())
            for fd in (folder, never):
                opened.callback(os.close, fd)
            record = f"/proc/self/fd/8/{EXIT_FILE}" if HAS_PROC else str(turn_dir / EXIT_FILE)
            descriptors = {0: waiting, 3: prompt, 4: stdout, 5: stderr, 6: told, 7: never, 8: folder, 9: started}
            script = _OF_SYSTEMD + _SCRIPT if through else _SCRIPT
            words = [SHELL, "-c", script, HOLDER, str(cwd), record, *argv]
            pid = spawn([*through, *words], {**env, TURN_ID_VARIABLE: turn_id}, descriptors, told)
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
    return GatedHolder(identity, gate, word, turn_dir, turn_id)


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """Both ends of a pipe, each closed with its stack."""
    ends = [_lifted(fd) for fd in os.pipe()]
    for fd, stack in zip(ends, (reading, writing), strict=True):
        stack.callback(os.close, fd)
    return ends[0], ends[1]


def _never() -> int:
    """A pipe that is both ends of itself: whoever reads it waits. Nowhere, where nothing tells of children."""
    if not HAS_PROC:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    ends = os.pipe()
    try:
        return os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        for fd in ends:
            os.close(fd)


@contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    fd = _lifted(open_own(path, flags, FILE_MODE))
    try:
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

    def __init__(self, identity: ProcessIdentity, gate: int, word: int, turn_dir: Path, turn_id: str) -> None:
        self.identity = identity
        self._gate: int | None = gate
        self._word: int | None = word
        self._arrived = False
        self._turn_dir = turn_dir
        self._turn_id = turn_id

    async def arrived(self, seconds: float) -> bool:
        """Whether the program it was started `through` has become the holder, within `seconds` seconds."""
        if self._word is None or not await _readable(self._word, seconds):
            return False
        with suppress(OSError):
            self._hear()
        return self._arrived

    def release(self) -> Supervised:
        """Open the gate: the agent runs. Raises OSError if the holder has died, and then nothing ran."""
        if self._gate is None:
            raise OSError(errno.EBADF, "the gate is closed already")
        try:
            self._hear()
            os.write(self._gate, _RELEASE)
        except OSError:
            self.abandon()
            raise
        word, self._word = self._word, None
        self._close()
        return Supervised(self.identity, self._turn_dir, self._turn_id, word)

    def _hear(self) -> None:
        """The holder's first word; it is a moment away at most. Raises OSError where it has none."""
        if self._arrived or self._word is None:
            return
        word = os.read(self._word, 16)
        if (error := why_unstarted(word)) is not None:
            raise error
        if not word:
            raise BrokenPipeError(errno.EPIPE, "the holder has ended")
        self._arrived = True

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
        for fd in (self._gate, self._word):
            if fd is not None:
                os.close(fd)
        self._gate = self._word = None


async def _readable(fd: int, seconds: float | None = None) -> bool:
    """Whether something, an end too, is to be read within `seconds` seconds. Several may wait for the same."""
    import asyncio

    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    fd = os.dup(fd)

    def heard() -> None:
        loop.remove_reader(fd)
        there.set()

    loop.add_reader(fd, heard)
    try:
        async with asyncio.timeout(seconds):
            await there.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class Supervised:
    """The agent of a turn, which runs or has ended. `word`: the holder's, which closes when its agent has ended.

    Not `proved`: a record names a holder, but nothing that runs is it.
    """

    def __init__(
        self,
        identity: ProcessIdentity,
        turn_dir: Path,
        turn_id: str,
        word: int | None = None,
        *,
        proved: bool = True,
    ) -> None:
        self.identity = identity
        self._proved = proved
        self.turn_dir = turn_dir
        self.turn_id = turn_id
        self._word = word
        self.left_nothing = False
        """Once it has ended: the holder has left by itself, as nothing was left below it. Only its parent can tell."""

    def __del__(self) -> None:
        self._close()

    @property
    def running(self) -> bool:
        return self._proved and is_alive(self.identity) and not self._recorded

    @property
    def holder(self) -> ProcessIdentity | None:
        """Whose session may be ended; None where that cannot be told."""
        return self.identity if self._proved else None

    async def wait_ended(self) -> None:
        """Return when the agent has ended. What it left may run still, and the holder with it: see `end_tree`.

        Raises OSError where the system cannot tell now.
        """
        if not self._proved:
            return
        if self._word is not None:
            await _readable(self._word)
            self._close()
            # The holder leaves at once where nothing is left below it.
            await wait_gone([self.identity], _LEAVING)
        while not self._recorded and not await wait_gone([self.identity], _LOOK_AGAIN):
            pass
        self.left_nothing = self.left_nothing or reap(self.identity) == _LEFT_NOTHING

    @property
    def _recorded(self) -> bool:
        """The holder has written how its agent ended, or found something of the agent's there."""
        try:
            found = status(self.turn_dir / EXIT_FILE)
        except OSError as error:
            if of_the_moment(error):
                raise
            return False
        return found.st_size > 0 or not stat.S_ISREG(found.st_mode)

    def _close(self) -> None:
        if self._word is not None:
            os.close(self._word)
            self._word = None

    @property
    def released(self) -> bool:
        """Whether the gate was opened; if not, nothing ran. Only the boot in which the turn was started can tell."""
        with suppress(OSError):
            return status(self.turn_dir / STARTED_FILE).st_size > 0
        return False

    def exit(self) -> Exit:
        """How the agent ended, once it has; an empty `Exit` if there is no record that can be read."""
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
