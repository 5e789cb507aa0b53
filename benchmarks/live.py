"""How soon a session at which a person sits hears of mail: from the file in the mailbox to the model's request."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.desk import until
from tests.e2e.clis import claude_binary
from tests.e2e.fake_anthropic import FakeAnthropic
from tests.e2e.live_home import LiveHome, at_claude, claude_home

from benchmarks.measuring import median_of, quiet, resident_mib, row

RINGS = 10
OWN_STARTS = 3
STARTS = 15


def doorbell() -> None:
    """The real claude on a terminal of tmux, its model a server on the loopback."""
    with _home() as base, FakeAnthropic() as fake:
        home = claude_home(base, fake)
        home.plugin("install", "claude")
        with at_claude(home):
            (listener,) = home.listeners()
            memory = resident_mib(listener)
            rings = [_ring(home, fake) for _ in range(RINGS)]
        own = statistics.median(_own_start(home, fake) for _ in range(OWN_STARTS))
    bare = median_of(STARTS, lambda: quiet([sys.executable, "-c", "pass"]))
    middle = statistics.median(rings)
    text = f"{middle * 1e3:.0f} ms ({middle / bare:.1f} x a bare Python; claude -p to its request {own * 1e3:.0f} ms)"
    row("doorbell: mail to model request, claude, median", text, "under 1000 ms", met=middle < 1)
    row("doorbell: resident memory of who listens", f"{memory:.1f} MiB", "under 60 MiB", met=memory < 60)


def _ring(home: LiveHome, fake: FakeAnthropic) -> float:
    home.until_somebody_listens()
    before = len(fake.requests)
    name = home.agent_writes("How far is it?")
    until(lambda: len(fake.requests) > before, "the model's request")
    came = (home.project / ".agent-mail" / "agents" / "user" / "inbox" / "new" / f"{name}.md").stat().st_ctime
    return fake.requests[before].at - came


def _own_start(home: LiveHome, fake: FakeAnthropic) -> float:
    """What claude takes by itself from its start to its first request."""
    before, began = len(fake.requests), time.time()
    home.types(str(claude_binary()), "-p", "hello")
    return fake.requests[before].at - began


@contextmanager
def _home() -> Iterator[Path]:
    """Nothing of it is the home of whoever measures."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as name:
        base = Path(name)
        (base / "home").mkdir()
        for key in [key for key in os.environ if key.startswith(("XDG_", "CLAUDE", "ANTHROPIC", "AGENT_MAILER_"))]:
            del os.environ[key]
        os.environ["HOME"] = str(base / "home")
        try:
            yield base
        finally:
            os.environ.clear()
            os.environ.update(before)
