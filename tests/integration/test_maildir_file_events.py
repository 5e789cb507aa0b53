"""Wakes by file events: none is lost, and where there are none a timer stands in."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.inotify import all_are_closed, instances
from tests.refusing import without_descriptors

from agent_mailer import file_events
from agent_mailer.file_events import FileEvents

SOON = 20.0


async def drained(events: FileEvents) -> None:
    """Take the wakes that are there, until `wait` really waits."""
    while True:
        waiting = asyncio.create_task(events.wait())
        for _ in range(5):
            await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return


async def woken(events: FileEvents) -> None:
    await asyncio.wait_for(events.wait(), SOON)


def test_a_file_that_came_before_the_wait_ends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        events = FileEvents([tmp_path], rescan_seconds=600)
        try:
            await drained(events)
            (tmp_path / "tmp").touch()
            await woken(events)
        finally:
            events.close()

    asyncio.run(scenario())


def test_a_file_moved_in_is_seen_in_every_folder(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        events = FileEvents([one, two], rescan_seconds=600)
        try:
            assert events.sees
            for folder in (one, two):
                (tmp_path / "x").touch()
                await drained(events)
                (tmp_path / "x").rename(folder / "x")
                await woken(events)
        finally:
            events.close()

    asyncio.run(scenario())


def test_a_burst_is_one_wake(tmp_path: Path) -> None:
    async def scenario() -> None:
        events = FileEvents([tmp_path], rescan_seconds=600)
        try:
            await drained(events)
            for number in range(1000):
                (tmp_path / str(number)).touch()
            await woken(events)
            waiting = asyncio.create_task(events.wait())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        finally:
            events.close()

    asyncio.run(scenario())


def test_what_has_changed_is_told_by_name_or_else_the_folder_is_to_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_events, "MOST_TOUCHED", 3)

    async def scenario() -> None:
        events = FileEvents([tmp_path], names=True)
        try:
            assert events.touched(tmp_path) is None, "nobody has listed it yet"
            for many in (1, 3, 4, 2, 9):
                names = {f"{many}-{number}" for number in range(many)}
                for name in names:
                    (tmp_path / name).touch()
                assert events.touched(tmp_path) == (names if many <= 3 else None), many
        finally:
            events.close()

    asyncio.run(scenario())


def test_an_overflowing_queue_is_a_wake(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip("the queue is too long to overflow in a test")

    async def scenario() -> None:
        events = FileEvents([tmp_path], rescan_seconds=600)
        try:
            await drained(events)
            path, other = tmp_path / "a", tmp_path / "b"
            path.touch()
            for _ in range(limit // 2 + 100):
                path.rename(other)
                other.rename(path)
            await woken(events)
            await drained(events)
            (tmp_path / "after").touch()
            await woken(events)
        finally:
            events.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_folder_that_is_replaced_is_followed(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        folder = tmp_path / "new"
        folder.mkdir()
        events = FileEvents([folder], rescan_seconds=600, blind_seconds=0.01)
        try:
            await drained(events)
            if how == "deleted":
                folder.rmdir()
            else:
                folder.rename(tmp_path / "away")
            await woken(events)
            assert not events.sees
            folder.mkdir()
            async with asyncio.timeout(SOON):
                while not events.sees:
                    await events.wait()
            await drained(events)
            (folder / "x").touch()
            await woken(events)
        finally:
            events.close()

    asyncio.run(scenario())


def test_the_timer_ends_every_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        events = FileEvents([tmp_path], rescan_seconds=0.05)
        try:
            await drained(events)
            await woken(events)
            await woken(events)
        finally:
            events.close()

    asyncio.run(scenario())


def test_all_who_listen_share_one_instance_and_hear_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        (one / "old").touch()
        all_are_closed()
        arrivals, removals, elsewhere = (
            FileEvents([one], rescan_seconds=600),
            FileEvents([one, two], removals=True, rescan_seconds=600),
            FileEvents([two], rescan_seconds=600),
        )
        listeners = (arrivals, removals, elsewhere)
        try:
            assert len(instances(os.getpid())) == 1
            for events in listeners:
                await drained(events)
            (one / "old").unlink()
            await woken(removals)
            assert [await wakes(events) for events in listeners] == [False, False, False]
            (one / "new").touch()
            await woken(arrivals)
            await woken(removals)
            assert not await wakes(elsewhere)
            removals.close()
            (one / "newer").touch()
            (two / "newer").touch()
            await woken(arrivals)
            await woken(elsewhere)
        finally:
            for events in listeners:
                events.close()
        all_are_closed()

    asyncio.run(scenario())


async def wakes(events: FileEvents) -> bool:
    waiting = asyncio.create_task(events.wait())
    await asyncio.sleep(0.01)
    done = waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return done


def test_a_whole_watcher_needs_one_instance(tmp_path: Path) -> None:
    """A user has 128 of them in all."""
    desk = Desk(tmp_path)
    with desk.watching() as watcher:
        desk.send()
        until(desk.inbox, "the answer")
        assert len(instances(watcher.pid)) == 1


def test_an_instance_that_is_to_be_had_later_is_taken_then(tmp_path: Path) -> None:
    async def scenario() -> None:
        with without_descriptors():
            events = FileEvents([tmp_path], rescan_seconds=600, blind_seconds=0.01)
        try:
            assert not events.sees
            await woken(events)
            assert events.sees
        finally:
            events.close()

    asyncio.run(scenario())


def test_without_inotify_a_timer_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncinotify", None)

    async def scenario() -> None:
        events = FileEvents([tmp_path], rescan_seconds=600, blind_seconds=0.02)
        try:
            assert not events.sees
            await woken(events)
            await woken(events)
        finally:
            events.close()

    asyncio.run(scenario())


def test_waiting_costs_no_time_of_the_processor(tmp_path: Path) -> None:
    async def scenario() -> None:
        events = FileEvents([tmp_path], rescan_seconds=1.0)
        try:
            await drained(events)
            before = time.thread_time()
            await woken(events)
            assert time.thread_time() - before < 0.1
        finally:
            events.close()

    asyncio.run(scenario())


def test_closing_twice_leaves_nothing_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        all_are_closed()
        events = FileEvents([tmp_path])
        assert len(instances(os.getpid())) == 1
        events.close()
        events.close()
        all_are_closed()

    asyncio.run(scenario())
