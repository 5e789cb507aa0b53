"""A stop takes no longer than its grace, whatever else is out of order."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.integration.test_degraded import Watch
from tests.sizes import LONG

from agent_mailer.errors import ExitCode
from agent_mailer.events import EventName
from agent_mailer.watch.room import SETTLE_PATIENCE
from agent_mailer.watch.watcher import Watcher

IN_TIME = 15.0
"""Ending a tree takes up to 8 s, and the machine may be slow. What was seen to hang took 22 s and more."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.configure(stop_grace=1)
    return found


@pytest.fixture(params=["silent", pytest.param("gone", marks=LONG)])
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of one that takes connections and never answers, or of nobody."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def seconds_to_stop(watcher: subprocess.Popen[bytes]) -> float:
    began = time.monotonic()
    watcher.terminate()
    assert watcher.wait(60) == ExitCode.OK
    return time.monotonic() - began


def test_with_a_broker_that_is_gone_or_does_not_answer(desk: Desk, broker: str) -> None:
    desk.settings.pop("maildir_root")
    desk.configure(mailbox="amp", broker_url=broker, api_key="amk_x", agent_id="a", address="a@x.example")
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the start")
        assert seconds_to_stop(watcher) < SETTLE_PATIENCE


@LONG
@pytest.mark.parametrize("running", [True, False])
def test_at_a_limit_of_file_size(desk: Desk, running: bool) -> None:
    """Every write is refused from then on: nothing can be settled, the next watcher does it."""
    desk.shell_that_tells("sleep 600" if running else "echo done")
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks if running else desk.inbox, "the turn")
        resource.prlimit(watcher.pid, resource.RLIMIT_FSIZE, (0, 0))
        if not running:
            desk.send(thread="another")
        assert seconds_to_stop(watcher) < IN_TIME
    desk.shell("cat >/dev/null; echo done")
    desk.configure(max_retries=0)
    until(lambda: (desk.once(), len(desk.inbox()))[1] == (1 if running else 2), "the next watcher's answers")
    assert desk.place().state.dead_letters.count() == 0


def test_with_a_disk_that_refuses_what_is_to_be_settled(desk: Desk) -> None:
    """The turn has ended by itself, and waits for the disk when the stop comes."""
    desk.shell_that_tells("while [ ! -e go ]; do sleep 0.05; done; echo done")
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the turn")
        resource.prlimit(watcher.pid, resource.RLIMIT_FSIZE, (0, 0))
        (desk.workdir / "go").touch()
        until(lambda: not_alive(desk), "the end of the turn")
        assert seconds_to_stop(watcher) < IN_TIME
    assert desk.inbox() == []
    desk.once()
    assert len(desk.inbox()) == 1


def test_with_news_that_a_mailbox_does_not_take(desk: Desk) -> None:
    """The turn has its grace, and is ended: who stops it waits for no mailbox, and neither do its clocks."""
    draft = '{"key":"k1","action":"reply","created":1,"body":"half way","at_once":true}'
    desk.shell_that_tells(f"printf '%s' '{draft}' >\"$AGENT_MAILER_TURN_DIR/outbox/k1.json\"; exec sleep 600")
    desk.send()
    watch = Watch(desk)

    async def story(watcher: Watcher) -> None:
        del watcher
        asked = asyncio.Event()

        async def never(item: object) -> None:
            del item
            asked.set()
            await asyncio.Event().wait()

        assert watch.room is not None
        watch.room.mailbox.deliver = never  # type: ignore[assignment, method-assign]
        await asyncio.wait_for(asked.wait(), 60)

    try:
        watch.run(story)
        assert [one["outcome"] for one in watch.seen(EventName.TURN_ENDED)] == ["interrupted"]
    finally:
        desk.end_turns()


def not_alive(desk: Desk) -> bool:
    [turn] = (desk.state / "turns").iterdir()
    return (turn / "exit").exists()
