"""What an idle watcher costs whose mail is at a server of somebody else, beyond what it asks the server."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.desk import Desk, until
from tests.fake_mcp_mail import running as mcp_mail_running
from tests.fake_relay import running

from agent_mailer.at_server import mcp_agent_mail
from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Mailbox
from agent_mailer.mailbox.relay.adapter import RelayMailbox
from agent_mailer.mailbox.relay.session import Account
from agent_mailer.setup.registering import register_name
from benchmarks.measuring import cpu_seconds, row

IDLE_SECONDS = 180.0
POLLS = 30
REST_SECONDS = 1.0


def idle_at_mcp_mail() -> None:
    """Of mcp_agent_mail, without its signal files: it is polled."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder,
        mcp_mail_running(Path(folder) / "base") as (url, fake),
    ):
        desk = Desk(Path(folder))
        desk.settings.pop("maildir_root")
        desk.configure(
            address="coder-1", mailbox="mcp_agent_mail", broker_url=url, mcp_agent_mail={"project": str(folder)}
        )
        register_name(desk.place(), "coder-1")
        with desk.watching() as watcher:
            until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
            time.sleep(20)
            used, asked = _idle(watcher.pid, fake.calls)
        box = mcp_agent_mail(desk.place(), "coder-1")
        each = asyncio.run(_each(box, fake.calls)) * 1e3
    _tell("mcp_agent_mail", used, asked, each)


def idle_watcher() -> None:
    """At Agent Relay, after it has settled one message."""
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
            used, asked = _idle(watcher.pid, fake.calls)
        box = RelayMailbox(Account(url, "coder"), Path(folder) / "seen.json", Disk())
        each = asyncio.run(_each(box, fake.calls)) * 1e3
    _tell("relay", used, asked, each)


def _idle(pid: int, calls: Sequence[str]) -> tuple[float, float]:
    """Milliseconds of CPU, and calls, a minute."""
    before, used = len(calls), cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    minutes = IDLE_SECONDS / 60
    return (cpu_seconds(pid) - used) * 1e3 / minutes, (len(calls) - before) / minutes


def _tell(name: str, used: float, asked: float, each: float) -> None:
    beyond = used - asked * each
    text = f"{beyond:.2f} ms ({used:.1f} in all, {asked:.1f} calls of {each:.1f})"
    row(f"{name}: idle watcher, CPU a minute beyond its calls", text, "at most 5 ms", met=beyond <= 5)


async def _each(box: Mailbox, made: Sequence[str]) -> float:
    """Seconds of this thread that one call takes after a rest, as a watcher's: the server has threads of its own."""
    await box.pending(10)
    calls, used = len(made), 0.0
    for _ in range(POLLS):
        await asyncio.sleep(REST_SECONDS)
        before = time.thread_time()
        await box.pending(10)
        used += time.thread_time() - before
    return used / (len(made) - calls)
