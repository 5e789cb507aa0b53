"""Two watchers started at the same moment, in one workdir and on one mailbox: one runs, the other says who does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.broker_process import broker
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.children import Children, nursery
from tests.desk import CLI, Desk, until
from tests.proved import Harness, proved
from tests.sizes import sizes

from agent_mailer.events import EventName

TIMES = sizes(quick=2, long=15, soak=1000)
BUSY = 75
_WITNESS = "cat >/dev/null; echo $AGENT_MAILER_MESSAGE_ID >>{}/witness"


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with nursery() as found:
        yield found


@pytest.mark.parametrize("times", TIMES)
def test_in_one_workdir(tmp_path: Path, children: Children, times: int) -> None:
    desk = _desk(tmp_path)
    for round_ in range(times):
        _race(children, desk, [desk.workdir, desk.workdir], round_, r"another watcher \(pid (\d+), agent-mailer .*\)")


@pytest.mark.parametrize("times", TIMES)
def test_on_one_handle_from_two_workdirs(tmp_path: Path, children: Children, times: int) -> None:
    desk = _desk(tmp_path)
    other = _second_workdir(desk)
    for round_ in range(times):
        _race(children, desk, [desk.workdir, other], round_, r"another watcher \(process (\d+)\) consumes")


@pytest.mark.parametrize("times", TIMES)
def test_on_one_agent_of_a_broker_from_two_workdirs(tmp_path: Path, children: Children, times: int) -> None:
    with broker(tmp_path / "data") as process:
        desk = BrokerMailDesk(tmp_path, process)
        desk.shell(_WITNESS.format(tmp_path))
        other = _second_workdir(desk)
        try:
            for round_ in range(times):
                _race(children, desk, [desk.workdir, other], round_, r"watched already, by [^\n]*, process (\d+),")
        finally:
            desk.close()


def test_two_programs_started_by_hand(tmp_path: Path) -> None:
    """The same without the parent that forks: two programs, from their first instruction on."""
    desk = _desk(tmp_path)
    argv = [*CLI, "watch", "--no-interactive", "--workdir", str(desk.workdir)]
    for _ in range(2):
        both = [
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        try:
            until(partial(_one_is_gone, both), "one of them gives up")
            [loser] = [one for one in both if one.poll() is not None]
            [winner] = [one for one in both if one is not loser]
            assert loser.stderr is not None
            words = loser.stderr.read().decode()
            assert loser.returncode == BUSY, words
            assert f"another watcher (pid {winner.pid}," in words
            until(lambda: desk.log(EventName.WATCH_STARTED), "the winner obeys signals")
            winner.send_signal(signal.SIGTERM)
            assert winner.wait(60) == 0
        finally:
            for one in both:
                one.kill()
                one.wait()
                assert one.stderr is not None
                one.stderr.close()
        (desk.state / "log.jsonl").unlink()


def _one_is_gone(both: list[subprocess.Popen[bytes]]) -> bool:
    return any(one.poll() is not None for one in both)


def _desk(base: Path) -> Desk:
    desk = Desk(base)
    desk.shell(_WITNESS.format(base))
    return desk


def _second_workdir(desk: Desk) -> Path:
    other = desk.base / "other"
    state = other / ".agent-mailer"
    state.mkdir(parents=True, mode=0o700)
    (state / "config.toml").write_bytes((desk.state / "config.toml").read_bytes())
    (state / "config.toml").chmod(0o600)
    return other


def _race(children: Children, desk: Desk, workdirs: list[Path], round_: int, names_the_holder: str) -> None:
    """Mail waits, both start at once: one settles it with one run, the other leaves with 75 and names the first."""
    sent = desk.send(thread=f"t{round_}")
    why = f"round {round_}"
    errors = [desk.base / f"stderr-{n}" for n in range(2)]
    for error in errors:
        error.write_bytes(b"")
    pids = [
        children.start("watch", "--no-interactive", "--workdir", str(workdir), stderr=error, now=False)
        for workdir, error in zip(workdirs, errors, strict=True)
    ]
    children.release()
    ended = children.wait(*pids)
    loser = pids.index(ended.pid)
    words = errors[loser].read_text()
    assert ended.status == BUSY, f"{why}: {ended.status}: {words}"
    winner = pids[1 - loser]
    named = re.search(names_the_holder, words)
    assert named is not None, f"{why}: names nobody: {words}"
    assert int(named[1]) == winner, f"{why}: names another: {words}"
    assert "fix: " in words, why
    settled = workdirs[1 - loser] / ".agent-mailer" / "processed.txt"
    until(lambda: settled.exists() and sent in settled.read_text().splitlines(), f"{why}: the winner works")
    until(lambda: _settled(workdirs[1 - loser], sent), f"{why}: it has settled")
    # Every other one dies without a word, and leaves its name in the files of both locks.
    end = signal.SIGTERM if round_ % 2 else signal.SIGKILL
    os.kill(winner, end)
    assert children.wait(winner).status == (0 if end is signal.SIGTERM else -end), errors[1 - loser].read_text()
    assert (desk.base / "witness").read_text().splitlines().count(sent) == 1, f"{why}: one run"
    proved(Harness.TWO_WATCHERS, races=1)


def _settled(workdir: Path, sent: str) -> bool:
    log = (workdir / ".agent-mailer" / "log.jsonl").read_text().splitlines()
    return any(f'"{EventName.MESSAGE_DONE}"' in line and sent in line for line in log)
