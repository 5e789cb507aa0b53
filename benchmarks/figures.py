"""One function a figure."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.desk import CLI, Desk, until

from agent_mailer.events import EventName
from benchmarks import (
    approvals,
    beneath,
    bridge,
    broker,
    broker_scale,
    broker_search,
    broker_turns,
    commands,
    console,
    durability,
    floor,
    growth,
    guards,
    live,
    mcp,
    own_console,
    relay,
    reservations,
    sandbox,
    screens,
    status,
    teams,
    turns,
)
from benchmarks.measuring import (
    alternating,
    cpu_seconds,
    percentile,
    quiet,
    resident_mib,
    row,
    seconds,
    settled,
    write_calls,
)

MESSAGES = 200
LATENCY_MESSAGES = 60
BIG = 100_000
IDLE_SECONDS = 60.0
BINDS_A_SESSION = """echo '{"type":"session","id":"s-1"}'; echo '{"type":"result","outcome":"done"}'"""


@contextmanager
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        found = Desk(Path(folder))
        # More turns than the guards let through in an hour.
        found.configure(guards={"turns_per_hour": 0})
        yield found


def latency() -> None:
    """From just before a delivery begins to the first instruction of the agent."""
    with desk() as d:
        starts = d.base / "starts"
        d.configure(command=["/bin/sh", "-c", f"date +%s%N >>{starts}"])
        waits: list[float] = []
        with d.watching():
            until(lambda: d.log(EventName.WATCH_STARTED), "the watcher")
            d.send()
            until(lambda: len(d.log(EventName.TURN_SETTLED)) == 1, "the first turn")
            for n in range(LATENCY_MESSAGES):
                began = time.time_ns()
                d.send(thread=f"t{n}")
                until(lambda n=n: len(d.log(EventName.TURN_SETTLED)) == n + 2, "a turn")
                waits.append((int(starts.read_text().split()[-1]) - began) / 1e6)
        middle, high = statistics.median(waits), percentile(waits, 0.95)
        row("delivery to child start, median", f"{middle:.1f} ms", "under 30 ms", met=middle < 30)
        row("delivery to child start, p95", f"{high:.1f} ms", "under 80 ms", met=high < 80)


def throughput() -> None:
    """A queue of messages through a no-op agent, beside a bare loop with as many processes and fsyncs."""
    with desk() as d:
        d.configure(command=["/bin/true"])
        for n in range(MESSAGES):
            d.send(thread=f"t{n % 20}")
        place, took = settled(d, seconds)
        syncs = place / MESSAGES
    bare = _bare_loop(MESSAGES, round(syncs))
    ratio = took / bare
    each, floor = took / MESSAGES * 1e3, bare / MESSAGES * 1e3
    row(
        f"{MESSAGES} messages, no-op agent, serially",
        f"{ratio:.2f} x bare ({each:.1f} / {floor:.1f} ms)",
        "2.5 x",
        met=ratio <= 2.5,
    )
    row("fsyncs a message, no answer", f"{syncs:.2f}", "at most 14", met=syncs <= 14)
    with desk() as d:
        d.configure(command=["/bin/sh", "-c", "echo answer"])
        for n in range(40):
            d.send(thread=f"t{n}")
        total, took = settled(d, seconds)
        row("fsyncs a message with an answer", f"{total / 40:.2f}", "at most 14", met=total / 40 <= 14)


def _bare_loop(count: int, syncs: int) -> float:
    """As many processes (a shell and the agent) and as many synced writes of 2 KiB, with nothing between."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        path = Path(folder)
        data = b"x" * 2048

        def one(number: int) -> None:
            for n in range(syncs):
                fd = os.open(path / f"{number}-{n}", os.O_WRONLY | os.O_CREAT)
                os.write(fd, data)
                os.fsync(fd)
                os.close(fd)
            script = "(exec /bin/true); echo $? >e"
            subprocess.run(["/bin/sh", "-c", script], cwd=path, check=True)

        return seconds(lambda: [one(number) for number in range(count)])


def idle() -> None:
    """A watcher with nothing to do, after it has settled one message."""
    with desk() as d, d.watching() as watcher:
        until(lambda: d.log(EventName.WATCH_STARTED), "the watcher")
        d.send()
        until(lambda: d.log(EventName.TURN_SETTLED), "one turn")
        time.sleep(1)
        cpu, writes = cpu_seconds(watcher.pid), write_calls(watcher.pid)
        time.sleep(IDLE_SECONDS)
        used = (cpu_seconds(watcher.pid) - cpu) * 1e3 * 60 / IDLE_SECONDS
        wrote = write_calls(watcher.pid) - writes
        memory = resident_mib(watcher.pid)
    row("idle watcher: CPU a minute", f"{used:.2f} ms", "at most 5 ms", met=used <= 5)
    row("idle watcher: resident memory", f"{memory:.1f} MiB", "at most 36 MiB", met=memory <= 36)
    row("idle watcher: write calls in a minute", f"{wrote}", "0", met=wrote == 0)


def startup() -> None:
    """Commands beside the import of their framework."""
    python = [sys.executable, "-c", "import typer"]
    with desk() as d:
        # Without a watcher nothing is healthy, and status says so.
        for words, ends in ((["--help"], 0), (["status", "--workdir", str(d.workdir)], 1)):
            argv = [*_installed(), *words]
            mine, floor = alternating(15, lambda a=argv, e=ends: quiet(a, ends=e), lambda: quiet(python))
            ratio = mine / floor
            name = f"agent-mailer {words[0]}"
            row(name, f"{ratio:.2f} x import typer ({mine * 1e3:.0f} ms)", "within 2.5 x", met=ratio <= 2.5)


def _installed() -> list[str]:
    command = Path(sys.executable).parent / "agent-mailer"
    return [str(command)] if command.exists() else CLI


def big_state() -> None:
    """100,000 processed ids, dead letters and sessions beside none."""
    with desk() as empty, desk() as full:
        _fill(full)
        for d in (empty, full):
            d.configure(command=["/bin/sh", "-c", BINDS_A_SESSION], command_output="jsonl")
        start = alternating(5, lambda: _start_and_stop(full), lambda: _start_and_stop(empty))
        _report("start to ready and stop", start)
        for d in (empty, full):
            for n in range(100):
                d.send(thread=f"t{n % 20}")
        _report("100 messages", (settled(full, seconds)[1], settled(empty, seconds)[1]))
        idle_cpu = [_idle_cpu(d) for d in (full, empty)]
        # Both are a fraction of a millisecond: the clock of the machine decides the ratio, the sum tells more.
        text = f"{idle_cpu[0]:.2f} / {idle_cpu[1]:.2f} ms"
        row(
            "idle CPU a minute, full / empty",
            text,
            "1.5 x, or at most 5 ms",
            met=idle_cpu[0] <= max(5, 1.5 * idle_cpu[1]),
        )


def lists() -> None:
    """What is shown of 100,000 sessions and of as many dead letters, after a watcher has taken the old files over."""
    python = [sys.executable, "-c", "pass"]
    with desk() as d:
        _fill(d)
        d.once()
        for words in (("sessions", "list"), ("dead-letter", "list")):
            shown = [*CLI, *words, "--workdir", str(d.workdir)]
            took, least = alternating(7, lambda shown=shown: quiet(shown), lambda: quiet(python))
            text = f"{took * 1e3:.0f} ms ({took / least:.0f} x python -c pass)"
            row(f"{' '.join(words)} of {BIG:,}", text, "0.3 s", met=took <= 0.3)


def _report(name: str, pair: tuple[float, float]) -> None:
    ratio = pair[0] / pair[1]
    text = f"{ratio:.2f} x ({pair[0] * 1e3:.0f} / {pair[1] * 1e3:.0f} ms)"
    row(f"{BIG:,} ids, dead letters, sessions: {name}", text, "within 1.5 x", met=ratio <= 1.5)


def _start_and_stop(d: Desk) -> None:
    before = len(d.log(EventName.WATCH_STARTED))
    watcher = d.start_watch()
    until(lambda: len(d.log(EventName.WATCH_STARTED)) > before, "the start")
    watcher.terminate()
    watcher.wait()


def _idle_cpu(d: Desk) -> float:
    with d.watching() as watcher:
        before = len(d.log(EventName.WATCH_STARTED))
        until(lambda: len(d.log(EventName.WATCH_STARTED)) >= max(1, before), "the start")
        time.sleep(2)
        cpu = cpu_seconds(watcher.pid)
        time.sleep(20)
        return (cpu_seconds(watcher.pid) - cpu) * 1e3 * 3


def _fill(d: Desk) -> None:
    ids = [f"2026-11-01T00-00-00.000Z_pid{n}_{n:08x}" for n in range(BIG)]
    (d.state / "processed.txt").write_text("".join(f"{i}\n" for i in ids))
    letter = {"thread_id": "t", "retries": 3, "last_error": "no good " * 10, "stuck_at": "2026-11-01T00:00:00.000Z"}
    with (d.state / "dead_letter.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"msg_id": i, **letter}) + "\n" for i in ids)
    moment = "2026-11-20T00:00:00.000Z"
    entry = {"session_id": "s", "turn_count": 3, "first_seen_at": moment, "last_used_at": moment, "generation": 3}
    (d.state / "sessions.json").write_text(
        json.dumps({f"thread-{n}": {**entry, "runtime": "command"} for n in range(BIG)})
    )


FIGURES = {
    "latency": latency,
    "throughput": throughput,
    "floor": floor.floor,
    "commands": commands.commands,
    "inbox": commands.inbox,
    "idle": idle,
    "startup": startup,
    "big-state": big_state,
    "lists": lists,
    "guards": guards.looks,
    "growth": growth.growth,
    "questions": approvals.waiting,
    "tools": mcp.tools,
    "doorbell": live.doorbell,
    "turn-start": turns.start,
    "bridge": bridge.bridge,
    "turn-memory": turns.memory,
    "turn-end": turns.ending,
    "sandbox": sandbox.around_true,
    "sandbox-programs": sandbox.around_a_program,
    "status": status.history,
    "status-all": status.everywhere,
    "alone": screens.alone,
    "live-line": screens.live_line,
    "watchers": status.forty,
    "team": teams.team,
    "durability": durability.durability,
    "links": beneath.links,
    "broker-latency": broker.latency,
    "broker-idle-watcher": broker.idle_watcher,
    "broker-poll": broker.polls,
    "broker-throughput": broker.throughput,
    "broker-turn": broker_turns.turns,
    "broker-loop": broker_turns.beside_a_loop,
    "broker-streams": broker.streams,
    "broker-wakes": broker_scale.wakes,
    "broker-processes": broker_scale.processes,
    "broker-million": broker_scale.million,
    "reserved-files": reservations.looks,
    "broker-search": broker_search.search,
    "relay-idle": relay.idle_watcher,
    "mcp-mail-idle": relay.idle_at_mcp_mail,
    "console": console.console,
    "own-console": own_console.pages,
}
