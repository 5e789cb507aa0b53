"""Four agents as a team: until they are ready and gone, what memory they hold, and what the board takes beside them."""

from __future__ import annotations

import os
import pty
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.broker_desk import PASSWORD, BrokerDesk, running_broker
from tests.team_desk import TeamDesk, desk_in
from tests.typed import COMMAND

from agent_mailer.process.handle import ProcessIdentity
from benchmarks.measuring import alternating, cpu_seconds, quiet, row
from benchmarks.status import cpu_of

READY, STOPPED = 1.5, 0.5
IN_A_FOLDER, AT_A_BROKER, OF_THE_BOARD = 90.0, 140.0, 60.0
BOARD_SHARE, LOOKED_AT = 0.03, 20.0
ROUNDS = 3
MIB = 1024.0


def team() -> None:
    """On a folder, then at a broker; each beside what four starts of Python take at once, and their memory."""
    with _desk() as desk:
        desk.made("--local", "--template", "four-roles")
        _measured(desk, "in a folder", IN_A_FOLDER)
        _board(desk)
    with _desk() as desk, _broker(desk) as broker:
        broker.person("ann")
        assert desk.amp("login", broker.url, "ann", env={"AMP_PASSWORD": PASSWORD}).status == 0
        desk.made("--template", "four-roles")
        _measured(desk, "at a broker", AT_A_BROKER)


@contextmanager
def _broker(desk: TeamDesk) -> Iterator[BrokerDesk]:
    folder = desk.project.parent / "broker"
    folder.mkdir()
    with running_broker(folder) as found:
        yield found


@contextmanager
def _desk() -> Iterator[TeamDesk]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, pytest.MonkeyPatch.context() as patch:
        base = Path(folder)
        for name in ("HOME", "XDG_STATE_HOME"):
            (base / name).mkdir(mode=0o700)
            patch.setenv(name, str(base / name))
        patch.setenv("AGENT_MAILER_SANDBOX", "off")
        with desk_in(base, patch) as desk:
            yield desk


def _measured(desk: TeamDesk, where: str, most: float) -> None:
    ready, stopped, cpu, ended, held = [], [], [], [], 0.0
    bare, _ = alternating(ROUNDS, lambda: quiet([sys.executable, "-c", "pass"]), lambda: None)
    for _ in range(ROUNDS):
        own = cpu_of(lambda: ready.append(_took(desk, "start", "--detach", "--no-attach")))
        cpu.append(own + sum(cpu_seconds(process.pid) for process in desk.watching().values()))
        held = sum(_pss(process.pid) for process in _settled(desk).values())
        ended.append(cpu_of(lambda: stopped.append(_took(desk, "stop"))))
        assert not desk.watching()
    start, end = statistics.median(ready), statistics.median(stopped)
    row(
        f"a team of four {where}: ready",
        f"{start:.2f} s, {start / bare:.0f} times python -c pass; {statistics.median(cpu):.2f} s of CPU in all",
        f"{READY} s",
        met=start < READY,
    )
    row(
        f"a team of four {where}: stopped",
        f"{end:.2f} s, {end / bare:.0f} times; {statistics.median(ended):.2f} s of CPU of the command",
        f"{STOPPED} s",
        met=end < STOPPED,
    )
    row(f"a team of four {where}: memory (PSS)", f"{held:.1f} MiB", f"under {most:.0f} MiB", met=held < most)


def _took(desk: TeamDesk, *words: str) -> float:
    began = time.monotonic()
    quiet([COMMAND, "team", *words], desk.project)
    return time.monotonic() - began


def _settled(desk: TeamDesk) -> Mapping[str, ProcessIdentity]:
    """What a start has to do once is done when nobody's processor time moves any more."""
    found = desk.watching()
    before = -1.0
    while (now := sum(cpu_seconds(process.pid) for process in found.values())) != before:
        before = now
        time.sleep(0.5)
    return found


def _board(desk: TeamDesk) -> None:
    """While nothing happens, on a terminal of 120 columns."""
    quiet([COMMAND, "team", "start", "--detach", "--no-attach"], desk.project)
    pid, ours = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="40")
        os.execv(COMMAND, [COMMAND, "team", "status", "--watch", "--dir", str(desk.team)])
    reader = threading.Thread(target=_read_all, args=(ours,), daemon=True)
    reader.start()
    time.sleep(5.0)
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(LOOKED_AT)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    held = _pss(pid)
    os.write(ours, b"q")
    os.waitpid(pid, 0)
    row(
        "the board: share of a core",
        f"{share * 100:.1f} %",
        f"under {BOARD_SHARE * 100:.0f} %",
        met=share < BOARD_SHARE,
    )
    row("the board: memory (PSS)", f"{held:.1f} MiB", f"under {OF_THE_BOARD:.0f} MiB", met=held < OF_THE_BOARD)
    quiet([COMMAND, "team", "stop"], desk.project)


def _read_all(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / MIB
