"""What an idle watcher costs whose mail is at an Agent Relay server, beyond what it asks the server."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from tests.desk import Desk, until
from tests.fake_relay import FakeServer, running

from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.relay.adapter import RelayMailbox
from agent_mailer.mailbox.relay.session import Account
from benchmarks.measuring import cpu_seconds, row

IDLE_SECONDS = 180.0
POLLS = 30
REST_SECONDS = 1.0


def idle_watcher() -> None:
    """After it has settled one message."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder,
        running(Path(folder) / "base") as (url, fake),
    ):
        desk = Desk(Path(folder))
        desk.settings.pop("maildir_root")
        desk.configure(mailbox="relay", broker_url=url)
        with desk.watching() as watcher:
            until(lambda: fake.listeners, "the stream")
            with fake.held():
                fake.write("user", "coder", body="work")
            until(lambda: desk.log(EventName.TURN_SETTLED), "one turn")
            time.sleep(5)
            calls, before = len(fake.calls), cpu_seconds(watcher.pid)
            time.sleep(IDLE_SECONDS)
            minutes = IDLE_SECONDS / 60
            used = (cpu_seconds(watcher.pid) - before) * 1e3 / minutes
            asked = (len(fake.calls) - calls) / minutes
        each = asyncio.run(_poll(url, fake, Path(folder))) * 1e3
    beyond = used - asked * each
    text = f"{beyond:.2f} ms ({used:.1f} in all, {asked:.1f} calls of {each:.1f})"
    row("relay: idle watcher, CPU a minute beyond its calls", text, "at most 5 ms", met=beyond <= 5)


async def _poll(url: str, fake: FakeServer, folder: Path) -> float:
    """Seconds of this thread that one call takes after a rest, as a watcher's: the server has threads of its own."""
    box = RelayMailbox(Account(url, "coder"), folder / "seen.json", Disk())
    await box.pending(10)
    calls, used = len(fake.calls), 0.0
    for _ in range(POLLS):
        await asyncio.sleep(REST_SECONDS)
        before = time.thread_time()
        await box.pending(10)
        used += time.thread_time() - before
    return used / (len(fake.calls) - calls)
