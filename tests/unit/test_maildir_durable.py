"""What a mailbox in a folder has said to be so is so after a power cut: no mail is lost, none is given out twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.crash.recording import after_power_failures

from agent_mailer.disk import Disk, Sync
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths, make_root, roster
from agent_mailer.mailbox.maildir.leaving import rename_mailbox, take_mailbox_out
from agent_mailer.mailbox.port import Delivered, Envelope, Gone, Message, Outgoing, Progress, Stage, Unreadable
from agent_mailer.mailbox.seen_file import SeenFile

BROKEN = b"---json\nno header\n---\nwork\n"


def mail(identifier: str = "m1", body: str = "work", **more: object) -> bytes:
    header = {"schema": 1, "id": identifier, "from": "bob", "to": ["alice"], "thread": "t", **more}
    return f"---json\n{json.dumps({**header, 'created': '2026-08-22T10:00:00Z'})}\n---\n{body}\n".encode()


class Box:
    """Alice's mailbox in `base/root`, on a disk that may lose its power."""

    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "root"
        make_root(Disk(), self.root, ["alice", "bob"])
        self.paths = Paths(self.root, "alice")

    def on(self, disk: Disk) -> MaildirMailbox:
        return MaildirMailbox(disk, self.root, "alice")

    def put(self, data: bytes = b"", name: str = "m1") -> Path:
        path = self.paths.new / f"{name}.md"
        path.write_bytes(data or mail(name))
        return path

    def listed(self) -> Envelope:
        (envelope,) = asyncio.run(self.on(Disk()).pending(9)).envelopes
        return envelope

    def unreadable(self) -> Unreadable:
        (item,) = asyncio.run(self.on(Disk()).pending(9)).unreadable
        return item

    def after(self, act: Callable[[MaildirMailbox], object], holds: Callable[[], bool]) -> None:
        for _ in after_power_failures(self.base, ("root",), lambda disk: act(self.on(disk)), most=10):
            assert holds()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_what_was_taken_is_ours(box: Box) -> None:
    box.put()
    envelope = box.listed()

    def take(mailbox: MaildirMailbox) -> None:
        assert isinstance(asyncio.run(mailbox.claim(envelope, again=False)), Message)

    box.after(take, lambda: (box.paths.cur / "m1.md").read_bytes() == mail())


def test_what_was_given_up_is_not_listed_again(box: Box) -> None:
    box.put()
    envelope = box.listed()

    def give_up(mailbox: MaildirMailbox) -> None:
        asyncio.run(mailbox.claim(envelope, again=False))
        asyncio.run(mailbox.done(envelope, Progress("turn", Stage.SETTLED, "failed", final=True)))

    box.after(give_up, lambda: not list(box.paths.new.iterdir()) and (box.paths.cur / "m1.md").exists())


def test_of_mail_that_one_of_a_group_takes_it_is_known_who_has(box: Box) -> None:
    box.put(mail(labels=["one-of:team"]))
    envelope = box.listed()

    def take(mailbox: MaildirMailbox) -> None:
        assert isinstance(asyncio.run(mailbox.claim(envelope, again=False)), Message)

    box.after(take, lambda: (box.paths.taken / "m1").read_bytes() == b"alice\n")


def test_what_was_not_what_was_listed_lies_where_it_is_listed(box: Box) -> None:
    path = box.put()
    envelope, other = box.listed(), mail("m1", body="other", thread="other")

    def take(mailbox: MaildirMailbox) -> None:
        assert isinstance(asyncio.run(mailbox.claim(envelope, again=False)), Gone)

    path.write_bytes(other)
    box.after(take, lambda: path.read_bytes() == other)


def test_what_is_no_message_is_kept_whole(box: Box) -> None:
    box.put(BROKEN)
    item = box.unreadable()

    def kept() -> bool:
        letters = [path.read_bytes() for path in box.paths.dlq_new.iterdir()]
        return len(letters) == 1 and letters[0].endswith(BROKEN)

    box.after(lambda mailbox: asyncio.run(mailbox.reject(item)), kept)


def test_what_cannot_be_copied_is_kept_aside(box: Box) -> None:
    (box.paths.new / "m1.md").mkdir()
    (box.paths.new / "m1.md" / "within").write_bytes(b"1")
    item = box.unreadable()

    def kept() -> bool:
        return [path.read_bytes() for path in box.paths.aside.glob("*/within")] == [b"1"]

    box.after(lambda mailbox: asyncio.run(mailbox.reject(item)), kept)


def publish_unsynced(disk: Disk, path: Path) -> None:
    """As far as one comes who dies between the rename and its sync."""
    written = path.parents[1] / "tmp" / "written"
    disk.create(written, mail(), sync=Sync.CONTENT)
    disk.move(written, path, sync=Sync.NONE)


@pytest.mark.parametrize("tried_before", [False, True])
def test_what_was_delivered_is_there(box: Box, tried_before: bool) -> None:
    item, path = Outgoing("m1", "bob", "t", mail().decode()), Paths(box.root, "bob").new / "m1.md"

    def deliver(mailbox: MaildirMailbox) -> None:
        if tried_before:
            publish_unsynced(mailbox._disk, path)
        assert asyncio.run(mailbox.deliver(item)) == Delivered()

    box.after(deliver, lambda: path.read_bytes() == mail())


@pytest.mark.parametrize("tried_before", [False, True])
def test_what_was_put_back_is_there(box: Box, tried_before: bool) -> None:
    path, aside = box.paths.new / "m1.md", box.paths.aside / "1-aaaaaa-m1.md"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(mail())

    def put_back(mailbox: MaildirMailbox) -> None:
        if tried_before:
            publish_unsynced(mailbox._disk, path)
        assert mailbox.put_back("m1.md", "") is None
        assert not aside.exists()

    box.after(put_back, lambda: path.read_bytes() == mail())


def test_a_mailbox_that_was_renamed_has_its_mail_and_is_known_by_that_name_alone(box: Box) -> None:
    box.put()

    def renamed() -> bool:
        there = (Paths(box.root, "carol").new / "m1.md").exists()
        return there and not box.paths.home.exists() and roster(box.root) == ("bob", "carol", "user")

    box.after(lambda mailbox: rename_mailbox(mailbox._disk, box.root, "alice", "carol"), renamed)


def test_a_mailbox_that_was_taken_out_lies_elsewhere_whole(box: Box) -> None:
    box.put()
    (box.root / "kept").mkdir()

    def out() -> bool:
        there = (box.root / "kept" / "alice" / "inbox" / "new" / "m1.md").exists()
        return there and not box.paths.home.exists() and roster(box.root) == ("bob", "user")

    box.after(lambda mailbox: take_mailbox_out(mailbox._disk, box.root, "alice", box.root / "kept" / "alice"), out)


class Seen(msgspec.Struct):
    upto: int = 0


def test_what_of_a_server_was_seen_is_known(box: Box) -> None:
    path = box.root / "new folder" / "seen.json"
    box.after(
        lambda mailbox: SeenFile(path, mailbox._disk, Seen).write(Seen(7)),
        lambda: SeenFile(path, Disk(), Seen).content == Seen(7),
    )
