"""What a sandbox costs before every turn: around `true`, and around an agent program's first request."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.desk import Desk
from tests.e2e.claude_desk import ClaudeDesk
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_anthropic import FakeAnthropic
from tests.e2e.fake_openai import fake_openai

from agent_mailer.checks.agent import find_program
from agent_mailer.confine.bounds import bounds_of
from agent_mailer.confine.kinds import sandbox_of
from agent_mailer.confine.port import Kind, TurnPlaces
from agent_mailer.confining import Around, places_of
from agent_mailer.runtimes.port import Launch
from benchmarks.measuring import median_of, quiet, row, seconds

ROUNDS = 21
PROGRAM_ROUNDS = 7
LIMITS = {Kind.BWRAP: (40.0, 1.3), Kind.LANDLOCK: (30.0, 1.2)}
"""Milliseconds around `true`, and how many times as long a first request may take."""


def around_true() -> None:
    """The same words as before a turn, and beside them what any start of a Python and one fsync cost here."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        desk = Desk(Path(folder))
        place, env = desk.place(), dict(os.environ)
        turn = TurnPlaces(desk.base / "turn", desk.base / "turn" / "outbox", desk.base / "turn" / "tmp")
        for made in (turn.outbox, turn.tmp):
            made.mkdir(parents=True)
        around = Around(desk.workdir, desk.state, None, lambda: desk.root, desk.disk)
        places = places_of(place.config, around)
        places.cache.mkdir(parents=True, exist_ok=True)
        launch = Launch((shutil.which("true") or "/bin/true",), env, desk.workdir)
        bounds = bounds_of(places, turn, Path(launch.argv[0]), None, env)
        bare = median_of(ROUNDS, lambda: quiet(launch.argv))
        python = median_of(ROUNDS, lambda: quiet((sys.executable, "-c", "pass")))
        synced = median_of(ROUNDS, lambda: _fsync(desk.base / "synced"))
        beside = f"beside: python -c pass {python * 1000:.0f} ms, one fsync {synced * 1000:.1f} ms"
        for kind, (limit, _) in LIMITS.items():
            sandbox = sandbox_of(kind, command=(), domains=(), workdir=desk.workdir, path=os.environ["PATH"])
            assert sandbox is not None
            if why := sandbox.why_not(places.network):
                print(f"sandbox: {kind}: {why}")
                continue
            within = sandbox.around(launch, bounds)
            cost = (median_of(ROUNDS, lambda within=within: quiet(within.argv)) - bare) * 1000
            made = median_of(ROUNDS, lambda sandbox=sandbox: sandbox.around(launch, bounds)) * 1000
            text = f"{cost:.0f} ms, and {made:.0f} ms to make its words; {beside}"
            row(f"sandbox: {kind} around true", text, f"at most {limit:.0f} ms", met=cost <= limit)


def _fsync(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b"x")
        os.fsync(stream.fileno())


def around_a_program() -> None:
    """From the start of the agent program to its end after one answer of a scripted model, in turns: bare, confined."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/lib") as folder, FakeAnthropic() as anthropic:
        desk = ClaudeDesk(Path(folder), anthropic)
        _compare("claude", desk, desk.environ())
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/lib") as folder, fake_openai() as openai:
        codex = CodexDesk(Path(folder), openai)
        _compare("codex", codex, codex.environ())


def _compare(name: str, desk: Desk, environ: dict[str, str]) -> None:
    os.environ.update(environ)
    place = desk.place()
    runtime = place.runtime()
    turn = TurnPlaces(desk.base / "turn", desk.base / "turn" / "outbox", desk.base / "turn" / "tmp")
    for made in (turn.outbox, turn.tmp):
        made.mkdir(parents=True)
    places = places_of(place.config, Around(desk.workdir, desk.state, None, lambda: desk.root, desk.disk))
    places.cache.mkdir(parents=True, exist_ok=True)
    starts: dict[str, list[float]] = {"bare": []}
    ways: dict[str, Launch] = {}
    for kind in LIMITS:
        sandbox = sandbox_of(kind, command=(), domains=(), workdir=desk.workdir, path=os.environ["PATH"])
        launch = find_program(runtime, desk.workdir, None, place.tools, turn.folder).launch
        ways.setdefault("bare", launch)
        if sandbox is not None and not sandbox.why_not(places.network):
            bounds = bounds_of(places, turn, Path(launch.argv[0]), runtime.traits.home, launch.env)
            ways[kind] = sandbox.around(launch, bounds)
    for _ in range(PROGRAM_ROUNDS):
        for way, launch in ways.items():
            starts.setdefault(way, []).append(seconds(lambda launch=launch: _one_answer(launch)))
    bare = statistics.median(starts["bare"])
    for kind, (_, limit) in LIMITS.items():
        if kind in starts:
            times = statistics.median(starts[kind]) / bare
            text = f"{times:.2f} x of {bare:.2f} s"
            row(f"sandbox: {kind} around {name}, one answer", text, f"at most {limit} x", met=times <= limit)


def _one_answer(launch: Launch) -> None:
    done = subprocess.run(
        launch.argv,
        env=dict(launch.env),
        cwd=launch.cwd,
        input=b"say hello\n",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done
