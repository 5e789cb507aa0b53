"""What a folder turn costs over its floor: the same holder, gate and agent, as many fsyncs, and nothing else.

The holder and its gate are a copy of the product's as they were when this figure was made, and stay as they are: what
the product makes cheaper is not to lower its own floor. What makes the holder a reaper is the product's, and above it.
"""

from __future__ import annotations

import os
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.desk import Desk

from benchmarks.measuring import row, settled

TURNS = 40
ROUNDS = 5
THREADS = 10
AGENT = "/bin/true"
WRITTEN = b"x" * 2048

_SCRIPT = """\
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
        [ -n "$_agent_mailer_word" ] || exit 100
    fi
    exec 6>&-
    IFS= read -r _agent_mailer_word <&7
done
"""
_FIRST_FREE_FD = 20


class Cost(NamedTuple):
    """Of one turn, in milliseconds: CPU of this process and of all that it started."""

    wall: float
    cpu: float

    def over(self, floor: Cost) -> Cost:
        return Cost(self.wall / floor.wall, self.cpu / floor.cpu)


def floor() -> None:
    """Rounds in turn, so that what else the machine does falls on both."""
    ratios: list[Cost] = []
    turns: list[Cost] = []
    floors: list[Cost] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
            cost, syncs = _turns(Path(folder))
        with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
            least = _bare(Path(folder), syncs)
        turns.append(cost)
        floors.append(least)
        ratios.append(cost.over(least))
    for name, wanted, of in (
        ("wall", 2.0, lambda cost: cost.wall),
        ("CPU", 3.0, lambda cost: cost.cpu),
    ):
        ratio, mine, least_of = (statistics.median(map(of, costs)) for costs in (ratios, turns, floors))
        text = f"{ratio:.2f} x ({mine:.1f} / {least_of:.1f} ms, {syncs} fsyncs)"
        row(f"a folder turn over its floor: {name}", text, f"{wanted:g} x", met=ratio <= wanted)


def _turns(folder: Path) -> tuple[Cost, int]:
    """The product's turns over waiting messages, in this process; and the fsyncs of one."""
    desk = Desk(folder)
    desk.configure(command=[AGENT], guards={"turns_per_hour": 0})
    for number in range(TURNS):
        desk.send(thread=f"t{number % THREADS}")
    syncs, cost = settled(desk, _cost_of)
    return cost, round(syncs / TURNS)


def _bare(folder: Path, syncs: int) -> Cost:
    turns = [folder / f"{number}" for number in range(TURNS)]
    for turn in turns:
        turn.mkdir()
        (turn / "prompt.md").write_bytes(WRITTEN)
    return _cost_of(lambda: [_turn(turn, syncs) for turn in turns])


def _cost_of(work: Callable[[], object]) -> Cost:
    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    began, used = time.perf_counter(), cpu()
    work()
    return Cost((time.perf_counter() - began) / TURNS * 1e3, (cpu() - used) / TURNS * 1e3)


def _turn(folder: Path, syncs: int) -> None:
    """Half of what a turn makes durable comes before its gate is opened, half after its agent has ended."""
    for number in range(syncs // 2):
        _durable(folder / f"before-{number}")
    _held(folder)
    for number in range(syncs - syncs // 2):
        _durable(folder / f"after-{number}")


def _durable(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, WRITTEN)
    os.fsync(fd)
    os.close(fd)


def _held(folder: Path) -> None:
    """A holder that is let through its gate, until it is gone."""
    made = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    waiting, gate = os.pipe()
    word, told = os.pipe()
    never, _never = os.pipe()
    ours = [gate, word, _never]
    theirs = [waiting, told, never, os.open(folder, os.O_RDONLY | os.O_CLOEXEC)]
    theirs.append(os.open(folder / "prompt.md", os.O_RDONLY | os.O_CLOEXEC))
    theirs += [os.open(folder / name, made, 0o600) for name in ("stdout", "stderr", "started")]
    waiting, told, never, place, prompt, stdout, stderr, started = range(_FIRST_FREE_FD, _FIRST_FREE_FD + 8)
    lifted = [
        os.dup2(fd, target, inheritable=False) for fd, target in zip(theirs, range(waiting, started + 1), strict=True)
    ]
    descriptors = {0: waiting, 3: prompt, 4: stdout, 5: stderr, 6: told, 7: never, 8: place, 9: started}
    actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]]
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in descriptors.items()]
    words = ["/bin/sh", "-c", _SCRIPT, "agent-mailer-holder", str(folder), "/proc/self/fd/8/exit", AGENT]
    pid = os.posix_spawn(
        words[0],
        words,
        dict(os.environ),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )
    for fd in (*theirs, *lifted):
        os.close(fd)
    assert os.read(word, 16) == b"1\n"
    os.write(gate, b"open\n")
    assert os.read(word, 16) == b""
    os.waitpid(pid, 0)
    for fd in ours:
        os.close(fd)
    assert (folder / "exit").read_bytes() == b"0\n"
