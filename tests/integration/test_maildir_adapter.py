"""The mailbox as a whole: its one watcher, its listing, its threads."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.inotify import all_are_closed, instances
from tests.sizes import LONG

from agent_mailer.disk import Disk, SystemCalls, read_regular
from agent_mailer.errors import BusyFault, ConfigFault, ExitCode
from agent_mailer.mailbox.maildir import listing
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths, check_mailbox, make_root
from agent_mailer.mailbox.port import Contact, Mailbox, MailboxUnavailable, Message

HEADER = {"schema": 1, "from": "bob", "to": ["alice"], "thread": "t", "created": "2026-08-22T10:00:00Z"}


def message(identifier: str, body: str = "work\n", /, **changes: object) -> bytes:
    return f"---json\n{json.dumps({'id': identifier, **HEADER, **changes})}\n---\n{body}".encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_root(Disk(), tmp_path / "root", ["alice", "bob"])
    return tmp_path / "root"


def mailbox(root: Path, handle: str = "alice") -> MaildirMailbox:
    return MaildirMailbox(Disk(), root, handle)


def test_it_is_a_mailbox(root: Path) -> None:
    port: Mailbox = mailbox(root)
    assert port.address == "alice"
    assert port.capabilities.recognises_delivery


def test_a_second_watcher_is_told_who_holds_the_mailbox(root: Path) -> None:
    async def scenario() -> None:
        first, second = mailbox(root), mailbox(root)
        await first.open()
        with pytest.raises(BusyFault, match=f"process {os.getpid()}") as caught:
            await second.open()
        assert caught.value.exit_code is ExitCode.BUSY
        other = mailbox(root, "bob")
        await other.open()
        await other.close()
        await first.close()
        await second.open()
        await second.close()

    asyncio.run(scenario())


HOLDER = """
import asyncio, sys
from pathlib import Path
from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox

async def main() -> None:
    mailbox = MaildirMailbox(Disk(), Path(sys.argv[1]), "alice")
    await mailbox.open()
    print("open", flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""


def test_a_watcher_that_was_killed_holds_nothing(root: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    async def scenario() -> None:
        with pytest.raises(BusyFault, match=f"process {holder.pid}"):
            await mailbox(root).open()
        holder.kill()
        holder.communicate()
        box = mailbox(root)
        await box.open()
        await box.close()

    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        asyncio.run(scenario())
    finally:
        holder.kill()
        holder.communicate()


def test_what_open_makes_is_private_and_amq_is_content(root: Path) -> None:
    shutil.rmtree(root / "agents" / "alice")
    before = os.umask(0)
    try:

        async def scenario() -> None:
            box = mailbox(root)
            await box.open()
            await box.close()

        asyncio.run(scenario())
    finally:
        os.umask(before)
    assert check_mailbox(root, "alice") == []
    own = Paths(root, "alice").own
    assert {stat.S_IMODE(path.lstat().st_mode) for path in own.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


@pytest.mark.parametrize("handle", ["../bob", "Alice", ""])
def test_a_bad_handle_is_refused_at_once(root: Path, handle: str) -> None:
    with pytest.raises(ConfigFault):
        mailbox(root, handle)


def test_neither_a_missing_root_nor_an_unknown_handle_is_made(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        for box in (mailbox(tmp_path / "nowhere"), mailbox(root, "stranger")):
            with pytest.raises(ConfigFault) as caught:
                await box.open()
            assert "agent-mailer init" in caught.value.fix

    asyncio.run(scenario())
    assert not (tmp_path / "nowhere").exists()
    assert not (root / "agents" / "stranger").exists()


@pytest.mark.parametrize("what", ["root", "home", "new"])
def test_a_mailbox_that_vanishes_is_unavailable_and_not_made_anew(root: Path, what: str) -> None:
    path = {"root": root, "home": Paths(root, "alice").home, "new": Paths(root, "alice").new}[what]

    async def scenario() -> None:
        box = mailbox(root)
        await box.open()
        try:
            (Paths(root, "alice").new / "m1.md").write_bytes(message("m1"))
            (envelope,) = (await box.pending(10)).envelopes
            path.rename(path.with_name("away"))
            with pytest.raises(MailboxUnavailable):
                await box.pending(10)
            with pytest.raises(MailboxUnavailable):
                await box.claim(envelope)
            assert not path.exists()
            path.with_name("away").rename(path)
            assert isinstance(await box.claim(envelope), Message)
        finally:
            await box.close()

    asyncio.run(scenario())


def test_a_mailbox_that_is_replaced_is_followed_with_its_lock(root: Path) -> None:
    home = Paths(root, "alice").home

    async def scenario() -> None:
        box = mailbox(root)
        await box.open()
        try:
            shutil.copytree(home, home.with_name("copy"))
            home.rename(home.with_name("away"))
            home.with_name("copy").rename(home)
            (Paths(root, "alice").new / "m1.md").write_bytes(message("m1"))
            (envelope,) = (await box.pending(10)).envelopes
            with pytest.raises(BusyFault):
                await mailbox(root).open()
            assert isinstance(await box.claim(envelope), Message)
        finally:
            await box.close()

    asyncio.run(scenario())


def test_a_lock_whose_file_was_removed_is_taken_anew(root: Path) -> None:
    async def scenario() -> None:
        first = mailbox(root)
        await first.open()
        try:
            Paths(root, "alice").lock.unlink()
            await first.pending(10)
            with pytest.raises(BusyFault):
                await mailbox(root).open()
        finally:
            await first.close()

    asyncio.run(scenario())


def test_a_lock_whose_file_is_another_is_taken_anew(root: Path) -> None:
    async def scenario() -> None:
        first, lock = mailbox(root), Paths(root, "alice").lock
        await first.open()
        try:
            (lock.parent / "another").touch(0o600)
            (lock.parent / "another").rename(lock)
            await first.pending(10)
            with pytest.raises(BusyFault):
                await mailbox(root).open()
        finally:
            await first.close()

    asyncio.run(scenario())


def test_what_is_closed_hears_of_no_files_any_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of its own mail nor of all that is looked at for a thread."""
    monkeypatch.setattr(listing, "WATCHED", 1)
    (Paths(root, "alice").cur / "m1.md").write_bytes(message("m1"))

    async def scenario() -> None:
        all_are_closed()
        box = mailbox(root)
        await box.open()
        assert [one.envelope.id for one in await box.thread("t")] == ["m1"]
        assert instances(os.getpid())
        await box.close()
        all_are_closed()

    asyncio.run(scenario())


@LONG
def test_a_replaced_mailbox_that_another_watcher_holds_is_left_alone(root: Path) -> None:
    home = Paths(root, "alice").home

    async def scenario() -> None:
        first, second = mailbox(root), mailbox(root)
        await first.open()
        home.rename(home.with_name("away"))
        await second.open()
        try:
            (Paths(root, "alice").new / "m1.md").write_bytes(message("m1"))
            for _ in range(2):
                with pytest.raises(MailboxUnavailable, match="another watcher"):
                    await first.pending(10)
            (envelope,) = (await second.pending(10)).envelopes
            with pytest.raises(MailboxUnavailable):
                await first.claim(envelope)
            assert isinstance(await second.claim(envelope), Message)
        finally:
            await first.close()
            await second.close()

    asyncio.run(scenario())


def test_an_idle_watcher_writes_nothing(root: Path) -> None:
    class Counting(SystemCalls):
        calls = 0

        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            self.calls += 1
            return super().open(path, flags, mode)

    calls = Counting()

    async def scenario() -> None:
        box = MaildirMailbox(Disk(calls), root, "alice", rescan_seconds=0.01)
        await box.open()
        try:
            opened = calls.calls
            for _ in range(20):
                await box.wait()
                await box.pending(10)
            assert calls.calls == opened
        finally:
            await box.close()

    asyncio.run(scenario())


def test_listing_again_reads_what_is_another_and_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has the size and the time of its last writing from before, too, as whoever restores it can make it."""
    new = Paths(root, "alice").new
    for number in range(1000):
        (new / f"m{number:04}.md").write_bytes(message(f"m{number:04}"))
    (new / "torn.md").write_bytes(b"torn")
    box = mailbox(root)
    first = asyncio.run(box.pending(5000))
    assert len(first.envelopes) == 1000
    read: list[str] = []

    def spied(path: Path | str, *more: int) -> bytes:
        read.append(os.path.basename(path))
        return read_regular(path, *more)

    monkeypatch.setattr(listing, "read_regular", spied)
    assert asyncio.run(box.pending(5000)) == first
    assert read == []
    (new / "m0500.md").write_bytes(message("changed"))
    (new / "m0001.md").unlink()
    before = (new / "m0002.md").stat()
    (new / "m0002.md").write_bytes(message("m2222"))
    os.utime(new / "m0002.md", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (new / "m0002.md").stat().st_size == before.st_size
    second = {envelope.id for envelope in asyncio.run(box.pending(5000)).envelopes}
    gone = {"m0500", "m0001", "m0002"}
    assert second == {envelope.id for envelope in first.envelopes} - gone | {"changed", "m2222"}
    assert sorted(read) == ["m0002.md", "m0500.md"]


def test_a_listing_is_in_order_of_creation_not_of_names(root: Path) -> None:
    new = Paths(root, "alice").new
    (new / "a.md").write_bytes(message("late", created="2026-08-22T12:00:01+02:00"))
    (new / "b.md").write_bytes(message("early", created="2026-08-22T10:00:00Z"))
    listed = asyncio.run(mailbox(root).pending(10)).envelopes
    assert [envelope.id for envelope in listed] == ["early", "late"]


def test_a_header_longer_than_the_first_read_is_listed(root: Path) -> None:
    (Paths(root, "alice").new / "m.md").write_bytes(message("m", context={"x": "y" * 200_000}))
    assert [one.id for one in asyncio.run(mailbox(root).pending(10)).envelopes] == ["m"]


def test_a_thread_is_gathered_from_every_mailbox(root: Path) -> None:
    alice, bob = Paths(root, "alice"), Paths(root, "bob")
    (alice.cur / "m1.md").write_bytes(message("m1", created="2026-08-22T10:00:00Z"))
    (bob.sent / "m1.md").write_bytes(message("m1", created="2026-08-22T10:00:00Z"))
    (bob.new / "m2.md").write_bytes(message("m2", created="2026-08-22T10:00:02Z", **{"from": "alice", "to": ["bob"]}))
    (alice.sent / "other-name.md").write_bytes(message("m3", created="2026-08-22T10:00:01Z"))
    (alice.new / "x.md").write_bytes(message("x", thread="T"))
    (alice.cur / "torn.md").write_bytes(b"torn")
    os.mkfifo(alice.cur / "fifo.md")
    box = mailbox(root)
    for _ in range(2):
        assert [one.envelope.id for one in asyncio.run(box.thread("t"))] == ["m1", "m3", "m2"]
    assert [one.envelope.id for one in asyncio.run(box.thread("T"))] == ["x"]
    assert asyncio.run(box.thread("../../agents")) == []


def test_a_long_thread_shows_its_newest_part(root: Path) -> None:
    cur = Paths(root, "alice").cur
    for number in range(250):
        stamp = f"2026-08-22T10:{number // 60:02}:{number % 60:02}Z"
        (cur / f"m{number:03}.md").write_bytes(message(f"m{number:03}", created=stamp))
    shown = [one.envelope.id for one in asyncio.run(mailbox(root).thread("t"))]
    assert shown == [f"m{number:03}" for number in range(50, 250)]


def test_contacts_are_the_roster_the_mailboxes_and_the_person(root: Path) -> None:
    make_root(Disk(), root, ["carol"])
    shutil.rmtree(root / "agents" / "carol")
    (root / "agents" / "visitor").mkdir()
    (root / "agents" / "not a handle").mkdir()
    contacts = asyncio.run(mailbox(root).contacts())
    assert contacts == [
        Contact("bob"),
        Contact("carol"),
        Contact("user", "the person here"),
        Contact("visitor"),
    ]


def test_the_idle_watcher_pulls_in_nothing_heavy(root: Path) -> None:
    adapters = ("http", "mcp_agent_mail", "relay", "amp")
    others = tuple(f"agent_mailer.mailbox.{name}" for name in adapters)
    heavy = ("httpx", "rich", "typer", "tenacity", "tomlkit", "pytest", *others)
    code = (
        "import asyncio, sys; from pathlib import Path; from agent_mailer.disk import Disk;"
        "from agent_mailer.mailbox.maildir.adapter import MaildirMailbox as M;"
        "b = M(Disk(), Path(sys.argv[1]), 'alice'); asyncio.run(b.open());"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
