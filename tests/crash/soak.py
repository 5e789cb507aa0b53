"""The soak: two real watchers under mail and faults for as long as you like, and whether anything grows.

`python -m tests.crash.soak --minutes 60` prints a table and one report as JSON, and ends with 1 if something grew, was
lost or came twice. The *steady* watcher lives all the time, while its agents fail and are killed: its memory,
descriptors and threads are measured. The *troubled* one is killed, restarted and made to hand over. Of both, what lies
in the workdir is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from tests.desk import Desk

from agent_mailer.events import KEEP_ROTATED, ROTATE_AT_BYTES
from agent_mailer.mailbox.maildir.format import parse_message
from agent_mailer.mailbox.port import Message
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.process.tree import members

THREADS = 6
WARM_UP = 0.25
"""Of the time: caches fill, modules load."""

SETTLE_WITHIN = 120.0
SEEN_WITHIN = 1.0
"""A turn is shorter than the time between two, so one is waited for."""

GROWTH_KIB = 2048.0
"""What the memory may differ by between two quiet moments, beside what is explained."""

KIB_A_MESSAGE = 0.75
"""What a settled message may cost for ever: its id among the settled, its place in the mailbox's index."""

KEPT = {"turn.json", "settled", "stdout", "stderr", "exit", "started"}
"""What retention keeps of a settled turn."""

KEPT_OUTSIDE = 20
"""Files of the workdir that are not of a turn; the log's rotated ones among them."""

LOG_BYTES_A_TURN = 4096
PLANS = {"answer": 30, "fail": 4, "crash": 4, "slow": 4, "limited": 1}
"""How a message's first run ends, and how often."""

_AGENT = r"""
cat >/dev/null
base=$1 message=$AGENT_MAILER_MESSAGE_ID
say() { printf '{"type":%s}\n' "$1"; }
say "\"session\",\"id\":\"${AGENT_MAILER_SESSION_ID:-s-$AGENT_MAILER_TURN_ID}\""
say '"progress","text":"at it"'
plan=answer
[ "$AGENT_MAILER_ATTEMPT" != 1 ] || { [ ! -e "$base/plan-$message" ] || read -r plan <"$base/plan-$message"; }
case $plan in
fail) say '"result","outcome":"failed"'; exit 1 ;;
crash) kill -KILL $$ ;;
slow) sleep 0.7 ;;
limited)
  rm "$base/plan-$message"
  say "\"result\",\"outcome\":\"limited\",\"retry_at\":$(($(date +%s) + 1))"
  exit 0 ;;
esac
say "\"result\",\"text\":\"$message\""
"""


class Sample(msgspec.Struct, frozen=True):
    """The steady watcher at a quiet moment. `memory` is its own in KiB: what it shares with other
    processes grows and shrinks with them."""

    at: float
    settled: int
    memory: float
    descriptors: int
    threads: int
    log_bytes: int
    other_files: int


class Report(msgspec.Struct):
    """What a soak found; `faults` is empty where nothing grew, was lost or came twice."""

    minutes: float
    messages: int = 0
    turns: int = 0
    watchers_killed: int = 0
    watchers_stopped: int = 0
    handed_over: int = 0
    agents_killed: int = 0
    first: Sample | None = None
    last: Sample | None = None
    samples: int = 0
    memory_growth_kib: float = 0.0
    memory_explained_kib: float = 0.0
    log_bytes_a_turn: float = 0.0
    faults: list[str] = []


class Side:
    """One desk, its watcher, and the mail it got."""

    def __init__(self, base: Path) -> None:
        self.desk = Desk(base)
        (base / "agent.sh").write_text(_AGENT)
        self.desk.configure(
            command=["/bin/sh", str(base / "agent.sh"), str(base)],
            command_output="jsonl",
            max_retries=50,
            max_starts=60,
            max_parallel_turns=2,
            keep_transcripts=1,
            stop_grace=0,
            guards={"turns_per_hour": 0},
        )
        self.sent: list[str] = []
        self.watcher = self.desk.start_watch()

    def send(self, chance: random.Random) -> None:
        sent = self.desk.send(thread=f"t{chance.randrange(THREADS)}")
        self.sent.append(sent)
        [plan] = chance.choices(list(PLANS), list(PLANS.values()))
        if plan != "answer":
            (self.desk.base / f"plan-{sent}").write_text(plan + "\n")

    def settled(self) -> int:
        path = self.desk.state / "processed.txt"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def quiet(self) -> bool:
        """Every message is settled, and every turn to its end."""
        if self.settled() < len(self.sent):
            return False
        index = self.desk.state / "inflight.json"
        return b'"turn_id"' not in index.read_bytes() if index.exists() else True

    def turns(self) -> list[Path]:
        folder = self.desk.state / "turns"
        return sorted(folder.iterdir()) if folder.exists() else []

    def kill_an_agent(self, chance: random.Random) -> bool:
        """Kill a process of a turn that runs: the agent, what it started, or its holder."""
        alive: list[ProcessIdentity] = []
        end = time.monotonic() + SEEN_WITHIN
        while not alive and time.monotonic() < end:
            # Names are in order to the second only.
            open_ = [turn for turn in self.turns()[-20:] if not (turn / "settled").exists()]
            alive = [process for turn in open_ for process in members(turn.name, None)]
        if not alive:
            return False
        with suppress(ProcessLookupError):
            os.kill(chance.choice(alive).pid, signal.SIGKILL)
        return True

    def restart(self, number: signal.Signals) -> None:
        self.watcher.send_signal(number)
        self.watcher.wait(60)
        self.watcher = self.desk.start_watch()

    def end(self) -> None:
        self.watcher.kill()
        self.watcher.wait()
        self.desk.end_turns()


LEAST_MESSAGES, LEAST_SAMPLES = 30, 4


def soak(base: Path, minutes: float, seed: int = 20261121, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Run it. `tell` gets a line now and then."""
    chance = random.Random(seed)
    report = Report(minutes)
    steady, troubled = Side(base / "steady"), Side(base / "troubled")
    samples: list[Sample] = []
    began = time.monotonic()
    over = began + minutes * 60
    rest = max(0.8, min(60.0, minutes * 60 / 24))
    try:
        # A busy machine gets through less in that time: it goes on until there is enough to judge by.
        while time.monotonic() < over or _too_little(steady, troubled, report, samples):
            _rain(steady, troubled, chance, report, time.monotonic() + rest)
            if not report.watchers_killed:
                # In a short soak chance may spare it.
                troubled.restart(signal.SIGKILL)
                report.watchers_killed += 1
            _calm(steady)
            samples.append(_sample(steady, time.monotonic() - began))
            tell(f"{samples[-1].at:6.0f} s  {samples[-1].settled} settled  {samples[-1].memory:.0f} KiB")
        for side in (steady, troubled):
            _calm(side)
    finally:
        for side in (steady, troubled):
            side.end()
    _judge(report, samples)
    for name, side in (("steady", steady), ("troubled", troubled)):
        _check_mail(report, name, side)
        _check_files(report, name, side)
    return report


def _too_little(steady: Side, troubled: Side, report: Report, samples: list[Sample]) -> bool:
    few = len(steady.sent) + len(troubled.sent) <= LEAST_MESSAGES or len(samples) < LEAST_SAMPLES
    return few or not report.agents_killed


def _rain(steady: Side, troubled: Side, chance: random.Random, report: Report, until_: float) -> None:
    while time.monotonic() < until_:
        for side in (steady, troubled):
            if side.settled() + 12 > len(side.sent):
                side.send(chance)
        if chance.random() < 0.15:
            report.agents_killed += steady.kill_an_agent(chance)
        lot = chance.random()
        if lot < 0.03:
            troubled.restart(signal.SIGKILL)
            report.watchers_killed += 1
        elif lot < 0.05:
            troubled.restart(signal.SIGUSR1)
            report.handed_over += 1
        elif lot < 0.06:
            troubled.restart(signal.SIGTERM)
            report.watchers_stopped += 1
        elif lot < 0.09:
            report.agents_killed += troubled.kill_an_agent(chance)
        time.sleep(chance.uniform(0.02, 0.2))


def _calm(side: Side) -> None:
    """Let it come to rest. A pause that a limit brought ends when its moment has come, or by a hand."""
    end = time.monotonic() + SETTLE_WITHIN
    while not side.quiet():
        assert time.monotonic() < end, f"{side.settled()} of {len(side.sent)} settled within {SETTLE_WITHIN:.0f} s"
        assert side.watcher.poll() is None, "the watcher has left"
        if (side.desk.state / "pause.json").exists():
            subprocess.run(
                [sys.executable, "-m", "agent_mailer.cli.app", "resume", "--workdir", str(side.desk.workdir)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        time.sleep(0.1)


def _sample(side: Side, at: float) -> Sample:
    pid, state = side.watcher.pid, side.desk.state
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    memory = next(float(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))
    logs = list(state.glob("log.jsonl*"))
    return Sample(
        at=at,
        settled=side.settled(),
        memory=memory,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        log_bytes=sum(path.stat().st_size for path in logs),
        other_files=sum(1 for path in _files(state) if "turns" not in path.relative_to(state).parts),
    )


def _judge(report: Report, samples: list[Sample]) -> None:
    """Medians of the beginning, once warm, and of the end."""
    warm = samples[int(len(samples) * WARM_UP) :]
    if len(warm) < 2:
        report.faults.append("too short to tell whether anything grows")
        return
    third = max(1, len(warm) // 3)
    early, late = warm[:third], warm[-third:]
    report.first, report.last, report.samples = warm[0], warm[-1], len(samples)
    report.memory_growth_kib = _middle(late, "memory") - _middle(early, "memory")
    more = _middle(late, "settled") - _middle(early, "settled")
    report.memory_explained_kib = more * KIB_A_MESSAGE
    if report.memory_growth_kib > GROWTH_KIB + report.memory_explained_kib:
        report.faults.append(f"memory grew by {report.memory_growth_kib:.0f} KiB over {more:.0f} messages")
    for name in ("descriptors", "threads", "other_files"):
        grew = _middle(late, name) - _middle(early, name)
        if grew > (KEEP_ROTATED if name == "other_files" else 0):
            report.faults.append(f"{name} grew by {grew:g}")
    if warm[-1].log_bytes > (KEEP_ROTATED + 1) * ROTATE_AT_BYTES * 1.1:
        report.faults.append(f"the log has {warm[-1].log_bytes} bytes")


def _middle(samples: list[Sample], name: str) -> float:
    return statistics.median(float(getattr(sample, name)) for sample in samples)


def _check_mail(report: Report, name: str, side: Side) -> None:
    """Each message settled once and answered once."""
    report.messages += len(side.sent)
    lines = Counter((side.desk.state / "processed.txt").read_text().splitlines())
    answers = Counter(_answers(side.desk))
    for what, found in (("settled", lines), ("answered", answers)):
        if found != Counter(side.sent):
            lost = sum((Counter(side.sent) - found).values())
            twice = sum((found - Counter(side.sent)).values())
            report.faults.append(f"{name}: {lost} not {what}, {twice} too many")


def _answers(desk: Desk) -> Iterator[str]:
    """What reached the sender, however much that is."""
    for path in (desk.root / "agents/user/inbox/new").iterdir():
        message = parse_message(path.read_bytes(), path.name)
        assert isinstance(message, Message)
        yield message.body.strip()


def _check_files(report: Report, name: str, side: Side) -> None:
    """Of each turn what retention keeps, beside them a fixed number of files, and no more log than events."""
    state = side.desk.state
    turns = side.turns()
    report.turns += len(turns)
    odd = {path.name for turn in turns for path in _files(turn) if not _never_written(path)} - KEPT
    if odd:
        report.faults.append(f"{name}: files that a settled turn has no use for: {sorted(odd)}")
    if any(members(turn.name, None) for turn in turns):
        report.faults.append(f"{name}: a process was left behind")
    others = [path for path in _files(state) if "turns" not in path.relative_to(state).parts]
    if len(others) > KEPT_OUTSIDE:
        report.faults.append(f"{name}: {len(others)} files beside those of the turns")
    if any(path.name.startswith(".tmp.") for path in others) and name == "steady":
        report.faults.append(f"{name}: an interrupted write was left")
    logs = sum(path.stat().st_size for path in state.glob("log.jsonl*"))
    report.log_bytes_a_turn = max(report.log_bytes_a_turn, round(logs / max(1, len(turns)), 1))
    if report.log_bytes_a_turn > LOG_BYTES_A_TURN:
        report.faults.append(f"{name}: {report.log_bytes_a_turn:.0f} bytes of log a turn")


def _never_written(path: Path) -> bool:
    """The record of a turn whose watcher was killed between the making of the file and its first byte."""
    return path.name.startswith("turn.json.corrupt-") and path.stat().st_size == 0


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def table(report: Report) -> str:
    """The report for people."""
    first, last = report.first, report.last
    rows = [
        ("minutes", f"{report.minutes:g}", ""),
        ("messages, turns", f"{report.messages}", f"{report.turns}"),
        (
            "watchers killed, stopped, handed over",
            f"{report.watchers_killed}",
            f"{report.watchers_stopped}, {report.handed_over}",
        ),
        ("agents killed", f"{report.agents_killed}", ""),
    ]
    if first is not None and last is not None:
        rows += [("", "warm", "end")]
        rows += [
            (name, f"{getattr(first, name):.0f}", f"{getattr(last, name):.0f}")
            for name in ("settled", "memory", "descriptors", "threads", "log_bytes", "other_files")
        ]
    rows += [("log bytes a turn", f"{report.log_bytes_a_turn:.0f}", "")]
    rows += [("FAULT", fault, "") for fault in report.faults] or [("nothing grew, was lost or came twice", "", "")]
    return "\n".join(f"{a:<40} {b:>12} {c:>12}".rstrip() for a, b, c in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=20261121)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        report = soak(Path(folder), wanted.minutes, wanted.seed, lambda line: print(line, flush=True))
    print(table(report))
    print(msgspec.json.encode(report).decode())
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
