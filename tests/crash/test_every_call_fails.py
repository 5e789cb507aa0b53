"""Every I/O call of a settled turn fails once, and from then on: n = 1, 2, 3 ... until no fault fires."""

from __future__ import annotations

import asyncio
import errno
import itertools
from pathlib import Path

import msgspec
import pytest
from tests.crash.faults import FaultySystem, Lasting
from tests.desk import Desk, outcomes

from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic
from agent_mailer.watch.watcher import Watcher

MOST_CALLS = 400
"""Far above what one turn makes; that the loop ends before it shows that every call was reached."""


@pytest.mark.parametrize("lasting", list(Lasting))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_turn_with_a_reply_settles_once(tmp_path: Path, lasting: Lasting, code: int) -> None:
    for n in itertools.count(1):
        assert n < MOST_CALLS
        desk = Desk(tmp_path / f"{n}")
        if not _one_run(desk, n, code, lasting):
            assert n > 40, "a turn makes more calls than this"
            return


def _one_run(desk: Desk, n: int, code: int, lasting: Lasting) -> bool:
    ran = desk.base / "ran"
    desk.shell(f"cat >/dev/null; echo $AGENT_MAILER_TURN_ID >>{ran}; echo the answer")
    sent = desk.send()
    system = FaultySystem(n, code, lasting)
    _watch_with(desk, system)
    _recover(desk)
    why = f"call {n} failed with {errno.errorcode[code]} {lasting.value}"
    assert ran.read_text().count("\n") == 1, why
    # A torn line may stand before it: it is terminated, not cut, and names no message.
    assert (desk.state / "processed.txt").read_text().splitlines().count(sent) == 1, why
    answers = [m for m in desk.inbox() if m.envelope.automatic is Automatic.AUTO_REPLY]
    assert [m.body for m in answers] == ["the answer\n"], why
    assert not desk.log(EventName.DEAD_LETTER), why
    assert not list((desk.root / "agents/coder/inbox/new").iterdir()), why
    before = _content(desk)
    _recover(desk)
    assert _content(desk) == before, f"{why}; recovered twice"
    return system.fired


def _watch_with(desk: Desk, system: FaultySystem) -> None:
    """A watcher on the failing disk. Where the fault lasts it is left in the middle, as a kill would."""
    place = desk.place()
    place.disk.system = system
    lock = place.lock()
    lock.acquire()

    async def run() -> None:
        room = place.room(lock)
        room.policy = msgspec.structs.replace(room.policy, trouble_first=0.01, trouble_longest=0.02)
        watcher = Watcher(room, once=True)
        task = asyncio.create_task(watcher.run())
        _, running = await asyncio.wait({task}, timeout=0.6 if system.lasting is Lasting.FROM_THEN_ON else 30)
        if running:
            assert system.lasting is Lasting.FROM_THEN_ON
            watcher.hand_over()
        await task

    try:
        place.folder.prepare()
        asyncio.run(run())
    except (OSError, MailerError):
        assert system.fired
    finally:
        lock.release()


def _recover(desk: Desk) -> None:
    for _ in range(10):
        desk.resume()
        if not outcomes(desk.once()) and not (desk.state / "pause.json").exists():
            break


def _content(desk: Desk) -> dict[str, bytes]:
    """All that must not change any more. The log and the lock may."""
    volatile = ("log.jsonl", ".lock", "watcher.pid")
    return {
        str(path.relative_to(desk.base)): path.read_bytes()
        for path in sorted(desk.base.rglob("*"))
        if path.is_file() and path.name not in volatile
    }
