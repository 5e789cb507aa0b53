"""What a sandbox costs before every turn: around `true`, and around an agent program that gives one answer."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.desk import Desk
from tests.e2e.claude_desk import ClaudeDesk
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_anthropic import FakeAnthropic
from tests.e2e.fake_openai import Say, fake_openai

from agent_mailer.checks.agent import find_program
from agent_mailer.confine.port import Kind, TurnPlaces, Unconfined
from agent_mailer.runtimes.port import Launch
from benchmarks.measuring import quiet, row, seconds

ROUNDS = 21
PROGRAM_ROUNDS = 7
LIMITS = {Kind.BWRAP: (40.0, 1.3), Kind.LANDLOCK: (30.0, 1.2)}
"""Milliseconds around `true`, and how many times as long one answer may take."""


def around_true() -> None:
    """The very words of a turn, in turns with a start of Python and one fsync, so that other load falls on all."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        desk = Desk(Path(folder))
        desk.configure(command=["/bin/true"])
        ways = dict(_ways(desk))
        bare = ways.pop("bare")
        works: dict[str, Callable[[], object]] = {
            "bare": lambda: quiet(bare.argv),
            "python": lambda: quiet((sys.executable, "-c", "pass")),
            "fsync": lambda: _fsync(desk.base / "synced"),
            **{way: lambda launch=launch: quiet(launch.argv) for way, launch in ways.items()},
        }
        took, spent = _in_turns(works, ROUNDS)
        beside = f"python -c pass {took['python']:.0f} ms (CPU {spent['python']:.0f}), one fsync {took['fsync']:.1f} ms"
        for kind, (limit, _) in LIMITS.items():
            if kind in ways:
                cost, own = took[kind] - took["bare"], spent[kind] - spent["bare"]
                text = f"{cost:.0f} ms (CPU {own:.0f}); {beside}"
                row(f"sandbox: {kind} around true", text, f"at most {limit:.0f} ms", met=cost <= limit)


def around_a_program() -> None:
    """From the start of the agent program to its end, with a scripted model that answers at once."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/lib") as folder, FakeAnthropic() as anthropic:
        desk = ClaudeDesk(Path(folder), anthropic)
        _compare("claude", desk, desk.environ())
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/lib") as folder, fake_openai() as openai:
        openai.script(*(Say("hello") for _ in range(4 * PROGRAM_ROUNDS)))
        codex = CodexDesk(Path(folder), openai)
        _compare("codex", codex, codex.environ())


def _compare(name: str, desk: Desk, environ: dict[str, str]) -> None:
    os.environ.update({name: value for name, value in environ.items() if name != "TMPDIR"})
    _answer(next(_ways(desk))[1])  # a first start makes the program's own files: afterwards they are only read
    ways = dict(_ways(desk))
    took, _ = _in_turns({way: lambda launch=launch: _answer(launch) for way, launch in ways.items()}, PROGRAM_ROUNDS)
    for kind, (_, limit) in LIMITS.items():
        if kind in ways:
            times = took[kind] / took["bare"]
            text = f"{times:.2f} x of {took['bare'] / 1000:.2f} s"
            row(f"sandbox: {kind} around {name}, one answer", text, f"at most {limit} x", met=times <= limit)


def _ways(desk: Desk) -> Iterator[tuple[str, Launch]]:
    """What a turn starts: bare, and within each kind that runs here."""
    turn = TurnPlaces(desk.base / "turn", desk.base / "turn" / "outbox", desk.base / "turn" / "tmp")
    turn.outbox.mkdir(parents=True, exist_ok=True)
    for kind in (Kind.OFF, *LIMITS):
        desk.configure(sandbox={"kind": kind.value})
        place = desk.place()
        runtime = place.runtime()
        confinement = place.confinement(runtime)
        launch = find_program(
            runtime,
            desk.workdir,
            None,
            place.tools,
            turn.folder,
            confined=confinement is not None,
            own_sandbox=confinement is None or confinement.leaves_own_sandbox,
        ).launch
        if confinement is None:
            yield "bare", launch
            continue
        try:
            yield kind, asyncio.run(confinement.around(launch, turn))
        except Unconfined as fault:
            print(f"sandbox: {kind}: {fault.message}")


def _in_turns(works: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """In milliseconds: the median of the time that each took, and the mean of the processor time of its processes."""
    took: dict[str, list[float]] = {name: [] for name in works}
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            before = os.times()
            took[name].append(seconds(work) * 1000)
            after = os.times()
            used = after.children_user + after.children_system - before.children_user - before.children_system
            spent[name].append(used * 1000)
    middle = statistics.median
    return {name: middle(one) for name, one in took.items()}, {
        name: statistics.mean(one) for name, one in spent.items()
    }


def _fsync(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b"x")
        os.fsync(stream.fileno())


def _answer(launch: Launch) -> None:
    """Each time in a session of its own: an id may be used once."""

    argv = list(launch.argv)
    if "--session-id" in argv:
        argv[argv.index("--session-id") + 1] = str(uuid.uuid4())
    done = subprocess.run(
        argv, env=dict(launch.env), cwd=launch.cwd, input=b"hello\n", capture_output=True, check=False
    )
    assert done.returncode == 0, done
