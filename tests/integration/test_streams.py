"""Standard streams that are closed, held, full or gone: nothing waits for their reader, and nothing dies of them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import CLI, SOON, Desk, until
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

from agent_mailer.cli.terminal.streams import MOST_BYTES, Unhurried
from agent_mailer.events import EventName


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small one; both ends are closed at the end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(fd: int) -> bytes:
    """What is there, until nothing comes any more."""
    os.set_blocking(fd, False)
    found = b""
    quiet = time.monotonic() + 0.3
    while time.monotonic() < quiet:
        try:
            found += os.read(fd, 65536)
            quiet = time.monotonic() + 0.3
        except BlockingIOError:
            time.sleep(0.005)
    return found


def fill(writer: int) -> None:
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(writer, True)


def test_a_write_never_waits_and_what_is_dropped_is_counted_in_whole_lines(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Unhurried(writer)
    for number in range(5000):
        stream.write(b"%06d %s\n" % (number, b"x" * 90))
    assert stream.take_lost() == 0
    lines = read_all(reader).splitlines()
    assert all(len(line) == 97 for line in lines)
    assert [int(line[:6]) for line in lines] == list(range(len(lines)))
    assert len(lines) * 98 > MOST_BYTES - 98
    until(lambda: stream.take_lost() == 5000 - len(lines), "the count")
    stream.write(b"again\n")
    assert read_all(reader) == b"again\n"
    assert stream.take_lost(at_the_end=True) == 0


def test_a_descriptor_that_others_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    stream = Unhurried(writer)
    data = b"".join(b"%05d\n" % number for number in range(5000))
    stream.write(data)
    assert read_all(reader) == data
    assert stream.take_lost() == 0


def unread(fd: int) -> int:
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]


def test_what_a_reader_has_half_of_is_waited_for_and_counts_as_not_read(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Unhurried(writer)
    words = b"w" * 8000
    stream.write(words)
    until(lambda: unread(reader) == 4096, "the first half is there, and no room for the other")
    found, looked = bytearray(), threading.Lock()

    def read_slowly() -> None:
        while len(found) < len(words):
            select.select((reader,), (), ())
            with looked:
                found.extend(os.read(reader, 1))

    # More than there is room for beside what waits.
    stream.write(b"x" * (MOST_BYTES - len(words)) + b"\n")
    assert stream.take_lost() == 0, "it is told to whoever reads again, and nobody does"
    slow = threading.Thread(target=read_slowly, daemon=True)
    slow.start()
    stream.drain(SOON)
    with looked:
        assert len(found) + unread(reader) == len(words)
    slow.join()
    assert found == words
    assert stream.take_lost() == 1


def test_whoever_is_gone_is_written_to_no_more(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    stream = Unhurried(writer)
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        for _ in range(100):
            stream.write(b"x" * 10_000)
            stream.drain(SOON)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert stream.take_lost() == 0


@pytest.mark.parametrize("stream", ["stdout", pytest.param("stderr", marks=LONG)])
def test_mail_is_worked_on_and_a_stop_heeded_while_nobody_reads(desk: Desk, pipe: tuple[int, int], stream: str) -> None:
    fill(pipe[1])
    command = [*CLI, "watch", "--no-interactive", "--workdir", str(desk.workdir)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: pipe[1]}
    watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, **streams)  # type: ignore[call-overload]
    try:
        desk.send()
        until(desk.inbox, "the answer")
        # Nor is it stopped by a terminal that stops who writes to it from the background.
        assert signal.SIGTTOU in procfs.signals(watcher.pid, "SigIgn")
        heeded = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}
        assert procfs.signals(watcher.pid, "SigCgt") >= heeded
        watcher.terminate()
        assert watcher.wait(SOON) == 0
    finally:
        watcher.kill()
        watcher.wait()
        desk.end_turns()


@LONG
def test_what_nobody_read_is_told_in_the_log_and_to_whoever_reads_again(desk: Desk, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    desk.configure(guards={"turns_per_hour": 0})
    command = [*CLI, "watch", "--no-interactive", "--workdir", str(desk.workdir)]
    watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer)
    try:
        for number in range(80):
            desk.send(thread=f"thread {number} {'x' * 100}")
        until(lambda: len(desk.inbox()) == 80, "the answers", patience=240)
        shown = bytearray()

        def told() -> bool:
            """He reads again, and something happens."""
            desk.send(thread="more")
            shown.extend(read_all(reader))
            return bool(desk.log(EventName.OUTPUT_DROPPED))

        until(told, "the count")
        shown.extend(read_all(reader))
        assert desk.log(EventName.OUTPUT_DROPPED)[0]["lines"] > 10
        assert EventName.OUTPUT_DROPPED in [json.loads(line)["event"] for line in shown.splitlines()]
    finally:
        watcher.kill()
        watcher.wait()
        desk.end_turns()


@LONG
def test_a_terminal_that_is_held_holds_nothing_up(desk: Desk) -> None:
    keyboard, terminal = pty.openpty()
    watcher = subprocess.Popen(
        [*CLI, "watch", "--workdir", str(desk.workdir)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    try:
        os.write(keyboard, b"\x13")  # Ctrl-S
        for number in range(60):
            desk.send(thread=f"t{number}")
        until(lambda: len(desk.inbox()) == 60, "the answers", patience=240)
        watcher.terminate()
        assert watcher.wait(SOON) == 0
    finally:
        watcher.kill()
        watcher.wait()
        os.close(keyboard)
        desk.end_turns()


def closed(words: list[str], cwd: Path, how: str) -> int:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" "$@" {how}', *words], cwd=cwd, timeout=120, check=False
    ).returncode


ALL_CLOSED = "<&- >&- 2>&-"


@LONG
def test_a_watcher_without_streams_works_and_writes_its_words_into_no_file(desk: Desk) -> None:
    desk.shell("wc -c; echo of the answer")
    desk.send()
    assert closed([COMMAND, "watch", "--once"], desk.workdir, ALL_CLOSED) == 0
    [answer] = desk.inbox()
    # Its prompt came by its own standard input.
    assert int(answer.body.split()[0]) > 100
    assert desk.log(EventName.STATE_DAMAGED) == []
    assert b"watch_started" not in (desk.state / "processed.txt").read_bytes()


WORDS = [
    *("--version", "--help", "status", "verify", "doctor", "doctor --repair", "logs", "turns list", "sessions list"),
    *("mail inbox", "mail who", "config show", "stuck list", "dead-letter list", "memory show", "pause", "resume"),
    *("send --to coder --subject s --body b", "no-such-command", "mail read nothing", "watch --dry-run", "mcp"),
]


def test_a_command_ends_the_same_without_streams(desk: Desk) -> None:
    assert closed([COMMAND, "status"], desk.workdir, ALL_CLOSED) == type_in(desk.workdir, "status").status == 1


@pytest.mark.parametrize("words", ["--version", *(pytest.param(one, marks=LONG) for one in ("--help", "logs --json"))])
def test_a_full_disk_takes_no_output_and_that_is_told_in_our_words(desk: Desk, words: str) -> None:
    assert type_in(desk.workdir, "watch", "--once").status == 0
    for how, told in ((">/dev/full", True), (">/dev/full 2>/dev/full", False)):
        argv = ["/bin/sh", "-c", f'exec "$0" "$@" {how}', COMMAND, *words.split()]
        done = subprocess.run(argv, cwd=desk.workdir, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: what this prints cannot be written: No space") is told
        assert "Exception" not in done.stderr


@LONG
@pytest.mark.parametrize("words", WORDS)
def test_every_command_ends_the_same_without_streams(desk: Desk, words: str) -> None:
    desk.send()
    as_ever = type_in(desk.workdir, *words.split())
    for how in (ALL_CLOSED, ">&-", "2>&-", "<&-", ">/dev/full", "1<&0 </dev/null"):
        found = closed([COMMAND, *words.split()], desk.workdir, how)
        if how in (ALL_CLOSED, ">&-", "2>&-", "<&-"):
            assert found == as_ever.status, how
        assert found >= 0, how
    text = b"".join(path.read_bytes() for path in desk.state.rglob("*") if path.is_file())
    assert b"Traceback" not in text
    assert b"error: " not in text


@pytest.mark.parametrize("ignored", [True, pytest.param(False, marks=LONG)])
def test_a_hang_up_stops_it_unless_who_started_it_said_otherwise(desk: Desk, ignored: bool) -> None:
    """By `nohup`, or as a shell does with INT for what it puts into the background."""
    pre = ["nohup", "sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if ignored else []
    command = [*pre, sys.executable, *CLI[1:], "watch", "--no-interactive", "--workdir", str(desk.workdir)]
    watcher = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        desk.send("first")
        until(lambda: len(desk.inbox()) == 1, "the first answer")
        watcher.send_signal(signal.SIGHUP)
        if ignored:
            watcher.send_signal(signal.SIGINT)
            desk.send("second", thread="another")
            until(lambda: len(desk.inbox()) == 2, "the second answer")
            assert not desk.log(EventName.WATCH_STOPPING)
            watcher.terminate()
        assert watcher.wait(SOON) == 0
    finally:
        watcher.kill()
        watcher.wait()
        desk.end_turns()


@LONG
def test_a_terminal_that_goes_takes_no_watcher_of_another_session(desk: Desk) -> None:
    """`setsid agent-mailer watch &` in a window that is then closed."""
    keyboard, terminal = pty.openpty()
    watcher = subprocess.Popen(
        ["setsid", *CLI, "watch", "--no-interactive", "--workdir", str(desk.workdir)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    try:
        desk.send("first")
        until(lambda: len(desk.inbox()) == 1, "the first answer")
        os.close(keyboard)
        desk.send("second", thread="another")
        until(lambda: len(desk.inbox()) == 2, "the second answer")
        watcher.terminate()
        assert watcher.wait(SOON) == 0
    finally:
        watcher.kill()
        watcher.wait()
        desk.end_turns()
