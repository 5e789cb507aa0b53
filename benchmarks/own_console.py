"""What the pages of `agent-mailer console` cost: forty agents in one mailbox that is full, beside one that is not."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import tomlkit
from tests.desk import Desk
from tests.own_console import own_console

from benchmarks.measuring import percentile, row
from benchmarks.status import folder

AGENTS = 40
SMALL, BIG = 1_000, 100_000
"""Messages, all of which their agents have had."""
IN_A_THREAD = 5
LOOKS = 25


def pages() -> None:
    with ExitStack() as stack:
        few, many = (stack.enter_context(_console(count)) for count in (SMALL, BIG))
        for name, path in (
            ("Needs you", "/console/needs"),
            ("Agents", "/console/agents"),
            ("the threads", "/console/threads"),
            ("a search", "/console/search?q=build"),
        ):
            waits: list[list[float]] = [[], []]
            for _ in range(LOOKS):
                for client, measured in zip((few, many), waits, strict=True):
                    began = time.perf_counter()
                    answer = client.get(path)
                    measured.append(time.perf_counter() - began)
                    assert answer.status_code == 200, answer.text
            small, big = map(statistics.median, waits)
            late = percentile(waits[1], 0.95)
            text = (
                f"{big / small:.2f} x that at {SMALL:,} ({big * 1e3:.1f} / {small * 1e3:.1f} ms; p95 {late * 1e3:.0f})"
            )
            row(f"own console: {name} at {BIG:,} messages, {AGENTS} agents", text, "under 100 ms", met=big < 0.1)


@contextmanager
def _console(count: int) -> Iterator[httpx.Client]:
    with folder() as base:
        desk = Desk(base / "first")
        desk.configure(command=["/bin/true"], guards={"turns_per_hour": 0})
        desk.send(thread="first", body="How is the build?")
        desk.once()
        workdirs = [_agent(desk, f"agent{number}", number, count) for number in range(AGENTS)]
        with own_console(*workdirs) as console:
            assert console.enter().is_success or console.http.cookies
            yield console.http


def _agent(desk: Desk, handle: str, number: int, count: int) -> Path:
    """A workdir in the desk's mailbox with its part of that many messages, each of which was worked on."""
    workdir = desk.base / handle
    state = workdir / ".agent-mailer"
    state.mkdir(parents=True, mode=0o700)
    config = state / "config.toml"
    config.write_text(tomlkit.dumps({**desk.settings, "address": handle}))
    config.chmod(0o600)
    box = desk.root / "agents" / handle
    for part in ("inbox/new", "inbox/cur", "inbox/tmp", "outbox/sent"):
        (box / part).mkdir(parents=True, mode=0o700)
    known = next((desk.root / "agents/coder/inbox/cur").glob("*.md"))
    data = known.read_bytes().replace(b'"coder"', f'"{handle}"'.encode())
    thread = re.search(rb'"thread": *"[^"]*"', data)
    assert thread is not None
    ids = []
    for n in range(number, count, AGENTS):
        moment = f"2026-{1 + n // 10000:02d}-{1 + n // 400 % 25:02d}T{n // 60 % 24:02d}-{n % 60:02d}-00.{n % 1000:03d}Z"
        ids.append(f"{moment}_pid1_{n:08x}")
        named = data.replace(known.stem.encode(), ids[-1].encode())
        named = named.replace(thread[0], b'"thread": "lain-%d"' % (n // IN_A_THREAD))
        (box / "inbox/cur" / f"{ids[-1]}.md").write_bytes(named)
    (state / "processed.txt").write_text("".join(f"{one}\n" for one in ids))
    return workdir
