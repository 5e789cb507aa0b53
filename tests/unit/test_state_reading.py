"""What is read of a long history without reading all of it: it must say what a reading of all says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent_mailer.clock import SystemClock, iso
from agent_mailer.disk import Disk
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.processed import FEW, Processed
from agent_mailer.state.turns import MOST_OPEN, TurnStore
from agent_mailer.state.usage import UsageLedger


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    found = StateFolder(tmp_path, Disk(), SystemClock())
    found.path.mkdir(mode=0o700)
    return found


@pytest.mark.parametrize("content", [b"a\nab\nc\n", b"a\r\nab\r\nc", b"a\nab\n\0\0c\n", b"\n\na\nab\nc\n\n"])
@pytest.mark.parametrize("more", [0, FEW], ids=["few", "many"])
def test_settled_ids_are_found_one_by_one_as_in_the_set(folder: StateFolder, content: bytes, more: int) -> None:
    (folder.path / "processed.txt").write_bytes(content)
    asked = ["a", "b", "ab", "c", "", "a\nab", *(f"x{n}" for n in range(more))]
    one_by_one = Processed(folder).among(asked)
    loaded = Processed(folder)
    assert len(loaded) == 3
    assert one_by_one == loaded.among(asked) == {i for i in asked if i in loaded} == {"a", "ab", "c"}


def test_without_a_file_nothing_is_settled(folder: StateFolder) -> None:
    assert Processed(folder).among(["a"]) == set()
    assert Processed(folder).among([]) == set()


def test_the_newest_settled_turns_are_found_among_open_ones_and_strangers(folder: StateFolder) -> None:
    store = TurnStore(folder)
    assert store.newest_settled(3) == []
    settled = [f"20261101T0000{n:02d}-{n:08x}" for n in range(10)]
    unfinished = [f"20261102T0000{n:02d}-{n:08x}" for n in range(MOST_OPEN // 2)]
    for turn_id in (*settled, *unfinished, "zzz", ".gone.20261103T000000-00000000"):
        store.path(turn_id).mkdir(parents=True)
    for turn_id in (*settled, "zzz"):
        (store.path(turn_id) / "settled").touch()
    assert store.newest_settled(3) == settled[:-4:-1]
    assert store.newest_settled(100) == settled[::-1]


def test_the_sum_of_the_day_is_the_same_read_again(folder: StateFolder) -> None:
    ledger, now = UsageLedger(folder), folder.clock.now()
    assert ledger.today().turns == 0
    for n in range(3):
        ledger.add(f"t{n}", now, 2.0, Usage(10, 1, 0.5))
    ledger.add("old", now - 3 * 86400, 9.0, Usage(1, 1, 1.0))
    alone = UsageLedger(folder).today()
    assert (alone.turns, alone.seconds, alone.usage) == (3, 6.0, Usage(30, 3, 1.5))
    assert alone == ledger.today()
    assert iso(now)[:10] in (folder.path / "usage.json").read_text()
    os.truncate(folder.path / "usage.json", 5)
    assert UsageLedger(folder).today().turns == 0


def test_the_ledger_is_as_large_as_its_days_and_drops_what_older_versions_kept_of_threads(folder: StateFolder) -> None:
    now = folder.clock.now()
    spend = {"turns": 1, "seconds": 2.0}
    threads = {f"thread-{n}": spend for n in range(10_000)}
    old = {"days": {iso(now)[:10]: {"total": spend, "threads": threads}}, "applied": []}
    (folder.path / "usage.json").write_text(json.dumps(old))
    UsageLedger(folder).add("t1", now, 3.0, None)
    assert (folder.path / "usage.json").stat().st_size < 300
    assert UsageLedger(folder).today().seconds == 5.0
