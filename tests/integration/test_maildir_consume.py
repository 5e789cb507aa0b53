"""Claiming and putting away, with everything that may lie in an inbox."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.powers import no_powers
from tests.refusing import Died, On, Refusing, unreadable

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.consume import LARGEST_COPY
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES
from agent_mailer.mailbox.maildir.layout import Paths, make_root
from agent_mailer.mailbox.port import (
    Envelope,
    Gone,
    Listing,
    MailboxUnavailable,
    Message,
    Progress,
    Refused,
    Stage,
    Unreadable,
    content_digest,
)

HEADER = {"schema": 1, "from": "bob", "to": ["alice"], "thread": "t", "created": "2026-08-22T10:00:00Z"}


def message(identifier: str, body: str = "work\n", **changes: object) -> bytes:
    return f"---json\n{json.dumps({'id': identifier, **HEADER, **changes})}\n---\n{body}".encode()


class Box:
    def __init__(self, root: Path) -> None:
        make_root(Disk(), root, ["alice", "bob"])
        self.root = root
        self.paths = Paths(root, "alice")
        self.disk = Disk()
        self.mailbox = MaildirMailbox(self.disk, root, "alice")

    def put(self, name: str, data: bytes | None = None, place: str = "new") -> Path:
        path = self.paths.home / "inbox" / place / f"{name}.md"
        path.write_bytes(message(name) if data is None else data)
        return path

    def pending(self) -> Listing:
        return asyncio.run(self.mailbox.pending(100))

    def one(self) -> Envelope:
        (envelope,) = self.pending().envelopes
        return envelope

    def claim(self, envelope: Envelope, *, again: bool = False) -> Message | Gone:
        return asyncio.run(self.mailbox.claim(envelope, again=again))

    def reject_all(self) -> None:
        for item in self.pending().unreadable:
            asyncio.run(self.mailbox.reject(item))

    def names(self, place: str) -> list[str]:
        return sorted(path.name for path in (self.paths.home / place).iterdir())

    def receipt(self, name: str) -> dict[str, object]:
        found = json.loads((self.paths.receipts / name).read_text())
        assert isinstance(found, dict)
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "root")


def gone(result: Message | Gone) -> str:
    assert isinstance(result, Gone), result
    return result.why


def test_a_claim_costs_one_sync_and_leaves_a_receipt(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    claimed = box.claim(envelope)
    assert isinstance(claimed, Message)
    assert claimed.envelope == envelope
    assert box.disk.syncs == 1
    assert (box.names("inbox/new"), box.names("inbox/cur")) == ([], ["m1.md"])
    receipt = box.receipt("m1__alice__drained.json")
    emitted = receipt.pop("emitted_at")
    assert isinstance(emitted, str)
    assert emitted.endswith("Z")
    assert receipt == {
        "schema": 1, "msg_id": "m1", "thread": "t", "sender": "bob", "consumer": "alice", "stage": "drained"
    }  # fmt: skip


def in_the_place_of(folder: Path, becomes: str) -> None:
    """`folder` is away, called `kept`, and something may stand there."""
    folder.rename(folder.with_name("kept"))
    match becomes:
        case "a link to nothing":
            folder.symlink_to("nowhere")
        case "a link to another's":
            folder.symlink_to(folder.with_name("tmp"))
        case "a file":
            folder.touch()


@pytest.mark.parametrize("becomes", ["nothing", "a link to nothing", "a link to another's", "a file"])
@pytest.mark.parametrize("when", ["as it is taken", "before it is taken again"])
def test_a_folder_that_is_away_says_nothing_of_what_is_in_it(box: Box, when: str, becomes: str) -> None:
    """A disk that is not mounted just now, an agent that moves folders: the message is there again with its folder."""
    box.put("m1")
    envelope = box.one()

    class Moved(SystemCalls):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            in_the_place_of(box.paths.cur, becomes)

    if when == "as it is taken":
        box.disk.system = Moved()
    else:
        assert isinstance(box.claim(envelope), Message)
        in_the_place_of(box.paths.cur, becomes)
    with pytest.raises(MailboxUnavailable):
        box.claim(envelope, again=when != "as it is taken")
    with pytest.raises(MailboxUnavailable):
        asyncio.run(box.mailbox.read(envelope))
    box.disk.system = SystemCalls()
    if os.path.lexists(box.paths.cur):
        box.paths.cur.unlink()
    box.paths.cur.with_name("kept").rename(box.paths.cur)
    assert isinstance(box.claim(envelope, again=True), Message)


def test_the_receipt_is_no_condition(box: Box) -> None:
    box.put("m1")
    box.paths.receipts.rmdir()
    assert isinstance(box.claim(box.one()), Message)


def test_what_is_taken_to_be_held_leaves_no_receipt(box: Box) -> None:
    """Its sender would take it for read."""
    box.put("m1")
    assert isinstance(asyncio.run(box.mailbox.claim(box.one(), silent=True)), Message)
    assert box.names("receipts") == []


@pytest.mark.parametrize(
    "identifier",
    ["a b", "line\nend", "i" * 300, "..dots".lstrip("."), "ü✉", "nul\0", "-", "~" * 120, "\U0001f600" * 60],
)
def test_an_odd_id_is_claimed_and_never_becomes_a_path(box: Box, identifier: str) -> None:
    box.put("plain-name", message(identifier))
    claimed = box.claim(box.one())
    assert isinstance(claimed, Message)
    assert claimed.envelope.id == identifier
    assert claimed.envelope.locator == "plain-name.md"
    outside = [path for path in box.root.parent.iterdir() if path != box.root]
    assert outside == []
    assert all(name.startswith(identifier) or "~" in name for name in box.names("receipts"))


@pytest.mark.parametrize("locator", ["../../../escape.md", "..", "", "a/b.md", "ABSOLUTE", ".hidden.md", "bytes:zz"])
def test_an_odd_locator_reaches_nothing(box: Box, locator: str, tmp_path: Path) -> None:
    # A file of our own: where the guard is broken on purpose, what is named is moved away.
    (tmp_path / "elsewhere").write_text("x")
    locator = str(tmp_path / "elsewhere") if locator == "ABSOLUTE" else locator
    box.put("m1")
    envelope = box.one()
    forged = Envelope(
        id="m1", thread="t", sender="bob", created=envelope.created, order=envelope.order, locator=locator
    )
    before = sorted(box.root.rglob("*"))
    gone(box.claim(forged))
    gone(asyncio.run(box.mailbox.read(forged)))
    asyncio.run(box.mailbox.set_aside(forged))
    asyncio.run(box.mailbox.reject(Unreadable(locator, "x")))
    assert sorted(box.root.rglob("*")) == before
    assert (tmp_path / "elsewhere").read_text() == "x"


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    target = path.parents[4] / "target"
    target.write_bytes(message("linked"))
    path.symlink_to(target)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_text("kept")


def make_enormous(path: Path) -> None:
    path.write_bytes(message("b-bad"))
    os.truncate(path, LARGEST_COPY + 1)


@pytest.mark.parametrize("make", [make_fifo, make_link, make_folder, make_enormous])
def test_what_cannot_be_copied_goes_aside_whole(box: Box, make: Callable[[Path], None]) -> None:
    box.put("a-good")
    make(box.paths.new / "b-bad.md")
    box.put("c-good")
    before = (box.paths.new / "b-bad.md").lstat()
    listing = box.pending()
    assert [envelope.id for envelope in listing.envelopes] == ["a-good", "c-good"]
    assert [item.locator for item in listing.unreadable] == ["b-bad.md"]
    box.reject_all()
    assert box.names("inbox/new") == ["a-good.md", "c-good.md"]
    (kept,) = box.paths.aside.iterdir()
    assert kept.lstat().st_ino == before.st_ino
    assert kept.lstat().st_size == before.st_size
    assert box.receipt("b-bad__alice__dlq.json")["stage"] == "dlq"


@pytest.mark.parametrize(("make", "why"), [(make_fifo, "not a regular file"), (make_link, "it is a link")])
def test_what_lies_aside_and_cannot_be_read_is_named_with_its_place(
    box: Box, make: Callable[[Path], None], why: str
) -> None:
    make(box.paths.new / "b-bad.md")
    (item,) = box.pending().unreadable
    box.reject_all()
    (kept,) = box.paths.aside.iterdir()
    assert box.mailbox.put_back(item.locator, item.digest) == Refused(f"{kept} cannot be read: {why}")
    assert box.mailbox.put_back(item.locator, "") == Refused(f"{kept} cannot be read: {why}"), "an earlier version's"
    make(box.paths.new / "b-bad.md")
    (second,) = box.pending().unreadable
    box.reject_all()
    [other] = {*box.paths.aside.iterdir()} - {kept}
    assert box.mailbox.put_back(item.locator, item.digest) == Refused(f"{kept} cannot be read: {why}")
    assert box.mailbox.put_back(item.locator, second.digest) == Refused(f"{other} cannot be read: {why}")
    kept.unlink()
    assert box.mailbox.put_back(item.locator, item.digest) == Refused("it is neither in dlq nor in aside any more")


@pytest.mark.parametrize("make", [make_fifo, make_link, make_folder])
def test_what_cannot_be_read_is_told_from_others_of_its_name_wherever_it_lies(
    box: Box, make: Callable[[Path], None]
) -> None:
    path = box.paths.new / "bad.md"
    make(path)
    (first,) = box.pending().unreadable
    assert first.digest
    (again,) = asyncio.run(MaildirMailbox(Disk(), box.root, "alice").pending(100)).unreadable
    box.reject_all()
    make(path)
    (second,) = box.pending().unreadable
    assert (first.locator, again.digest) == (second.locator, first.digest)
    assert first.digest != second.digest


def bytes_read() -> int:
    """By this thread, from whatever files."""
    return int(Path("/proc/thread-self/io").read_text().split()[1])


def test_what_was_put_away_is_not_read_through_for_each_that_is_looked_for(box: Box) -> None:
    for number in range(4):
        box.put(f"bad{number}", b"torn" + b"x" * (2 << 20))
    digests = {item.locator: item.digest for item in box.pending().unreadable}
    box.reject_all()
    before = bytes_read()
    for locator in ("nobody1.md", "nobody2.md", "nobody3.md"):
        assert isinstance(box.mailbox.put_back(locator, "0" * 64), Refused)
    assert bytes_read() - before < 1 << 20
    assert box.mailbox.put_back("bad2.md", digests["bad2.md"]) == Refused(
        "it is no message: missing ---json at the start"
    )


def test_what_is_too_large_is_a_dead_letter_with_its_bytes_and_a_receipt(box: Box) -> None:
    data = message("big", "x" * (11 << 20))
    box.put("other-name", data)
    (item,) = box.pending().unreadable
    assert (item.too_large, item.id, item.sender, item.thread) == (True, "big", "bob", "t")
    box.reject_all()
    assert box.names("inbox/new") == []
    (name,) = box.names("dlq/new")
    assert (box.paths.dlq_new / name).read_bytes().endswith(data)
    receipt = box.receipt("big__alice__dlq.json")
    assert (receipt["sender"], receipt["detail"]) == ("bob", "parse_error: message exceeds maximum size")


def test_what_was_put_away_is_listed_again_once_it_can_be_read(box: Box) -> None:
    data = message("m1")
    box.put("m1", b"torn")
    (item,) = box.pending().unreadable
    box.reject_all()
    (name,) = box.names("dlq/new")
    letter = box.paths.dlq_new / name
    # What cannot be read just now is looked at again.
    letter.rename(box.paths.dlq_tmp / "away")
    letter.mkdir()
    assert isinstance(box.mailbox.put_back(item.locator, item.digest), Refused)
    letter.rmdir()
    (box.paths.dlq_tmp / "away").rename(letter)
    assert box.mailbox.put_back(item.locator, item.digest) == Refused("it is no message: missing ---json at the start")
    letter.write_bytes(letter.read_bytes().replace(b"torn", data))
    digest = hashlib.sha256(data).hexdigest()
    assert isinstance(box.mailbox.put_back("m1.md", "0" * 64), Refused), "another one of its name"
    assert box.mailbox.put_back("m1.md", digest) is None
    assert box.one().id == "m1"
    assert box.names("dlq/new") == []
    assert box.mailbox.put_back("m1.md", digest) is None, "it is there once"
    assert isinstance(box.claim(box.one()), Message)
    assert box.mailbox.put_back("m1.md", digest) is None
    assert (box.names("inbox/new"), box.names("inbox/cur")) == ([], ["m1.md"])
    box.put("m1", message("m1", "another\n"))
    assert box.mailbox.put_back("m1.md", digest) is None, "it was listed, and taken"


@pytest.mark.parametrize("place", ["dlq/new", "dlq/cur", "aside"])
def test_of_several_of_one_name_the_one_that_is_meant_is_listed_again(box: Box, place: str) -> None:
    bodies = [f"number {number}\n" for number in range(4)]
    if place == "aside":
        box.put("m1", message("m1", "there before\n"), "cur")
    for body in bodies:
        box.put("m1", message("m1", body))
        asyncio.run(box.mailbox.set_aside(box.one(), "" if place == "aside" else "another one"))
    if place == "dlq/cur":
        for name in box.names("dlq/new"):
            (box.paths.dlq_new / name).rename(box.paths.dlq_cur / name)
    if place == "aside":
        (box.paths.cur / "m1.md").unlink()
    for body in bodies[::-1]:
        data = message("m1", body)
        assert box.mailbox.put_back("m1.md", hashlib.sha256(data).hexdigest()) is None
        assert (box.paths.new / "m1.md").read_bytes() == data
        (box.paths.new / "m1.md").unlink()
    assert box.mailbox.put_back("m1.md", "") == Refused("it is neither in dlq nor in aside any more")


def test_a_dead_letter_of_the_largest_message_that_can_be_one_is_listed_again_whole(box: Box) -> None:
    """Its own file is larger than that."""
    data = message("m1").ljust(MAX_MESSAGE_BYTES, b"x")
    box.put("m1", data)
    asyncio.run(box.mailbox.set_aside(box.one(), "another one"))
    (name,) = box.names("dlq/new")
    assert (box.paths.dlq_new / name).stat().st_size > MAX_MESSAGE_BYTES
    assert box.mailbox.put_back("m1.md", hashlib.sha256(data).hexdigest()) is None
    assert (box.paths.new / "m1.md").read_bytes() == data
    assert box.names("dlq/new") == []


@pytest.mark.parametrize(
    ("place", "call"),
    [("inbox/tmp", On.MAKE), ("inbox/tmp", On.SYNC), ("inbox/new", On.COME), ("inbox/new", On.SYNC)],
)
def test_what_was_put_away_stays_until_it_is_durable_where_it_is_listed(box: Box, place: str, call: On) -> None:
    """Also where an earlier try came as far as to give it its name."""
    box.put("m1", b"torn")
    box.reject_all()
    (name,) = box.names("dlq/new")
    # Where AMQ moves what somebody has looked at.
    letter = (box.paths.dlq_new / name).rename(box.paths.dlq_cur / name)
    letter.write_bytes(letter.read_bytes().replace(b"torn", message("m1")))
    digest = hashlib.sha256(message("m1")).hexdigest()
    box.disk.system = Refusing(place, call, code=errno.EIO)
    for _ in range(2):
        with pytest.raises(MailboxUnavailable):
            box.mailbox.put_back("m1.md", digest)
        assert box.names("dlq/cur") == [name]
    box.disk.system = SystemCalls()
    assert box.mailbox.put_back("m1.md", digest) is None
    assert (box.names("dlq/cur"), box.names("inbox/new"), box.names("inbox/tmp")) == ([], ["m1.md"], [])


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("place", ["new", "cur"])
def test_beside_what_has_its_name_nothing_is_put_back(box: Box, place: str, same: bool) -> None:
    """The same was put back already, by who was killed before it had gone; of two each stays where it is."""
    box.put("m1", message("m1", "first\n"))
    (envelope,) = box.pending().envelopes
    asyncio.run(box.mailbox.set_aside(envelope, "another one"))
    there = box.put("m1", message("m1", "first\n" if same else "second\n"), place)
    digest = hashlib.sha256(message("m1", "first\n")).hexdigest()
    answer = box.mailbox.put_back("m1.md", digest)
    assert answer == (None if same else Refused("another message has its name, m1.md"))
    assert len(box.names("dlq/new")) == (0 if same else 1)
    assert [*box.paths.new.iterdir(), *box.paths.cur.iterdir()] == [there]


def test_another_message_of_a_settled_id_is_put_back_under_an_id_of_its_own(box: Box) -> None:
    box.put("m1", message("m1", "first\n"), place="cur")
    box.put("m1", message("m1", "second\n", context={"kept": [1]}))
    other = asyncio.run(box.mailbox.read(box.one()))
    assert isinstance(other, Message)
    asyncio.run(box.mailbox.set_aside(other.envelope))
    assert box.mailbox.put_back("m1.md", content_digest(other), "m1-other") is None
    envelope = box.one()
    assert (envelope.id, envelope.locator) == ("m1-other", "m1-other.md")
    again = asyncio.run(box.mailbox.read(envelope))
    assert isinstance(again, Message)
    assert again.body == "second\n"
    assert b'"kept"' in (box.paths.new / "m1-other.md").read_bytes()
    assert list(box.paths.aside.iterdir()) == []
    assert box.mailbox.put_back("m1.md", content_digest(other), "m1-other") is None


def test_a_name_that_is_no_text_goes_aside_too(box: Box) -> None:
    name = os.fsencode(box.paths.new) + b"/\xff\xfe.md"
    Path(os.fsdecode(name)).write_bytes(message("x"))
    (item,) = box.pending().unreadable
    item.locator.encode()
    box.reject_all()
    assert box.pending() == Listing()
    (kept,) = box.paths.aside.iterdir()
    assert kept.read_bytes() == message("x")


def test_what_is_no_message_file_is_not_listed(box: Box) -> None:
    for name in ("notes.txt", ".hidden.md", ".x.md.tmp-1", "m.md.bak"):
        (box.paths.new / name).write_bytes(message("x"))
    assert box.pending() == Listing()


@pytest.mark.parametrize(
    ("data", "reason", "sender"),
    [
        (b"---json\n{torn", "parse_error", ""),
        (b"\xff\xfe\r\nbin\0ary", "parse_error", ""),
        (message("bad").replace(b"\n---\n", b"\n--- \n"), "parse_error", ""),
        (b"---json\n" + b"[" * 200_000, "parse_error", ""),
        (message("bad", kind="run"), "invalid_header", "bob"),
    ],
)
def test_a_bad_file_becomes_a_dead_letter_as_amq_writes_it(box: Box, data: bytes, reason: str, sender: str) -> None:
    box.put("bad", data)
    (item,) = box.pending().unreadable
    assert item.why.startswith(reason)
    box.reject_all()
    assert box.names("inbox/new") == box.names("inbox/cur") == box.names("dlq/tmp") == []
    (name,) = box.names("dlq/new")
    start, header, rest = (box.paths.dlq_new / name).read_bytes().partition(b"{\n")[0::1]
    head, _, original = rest.partition(b"\n}\n---\n")
    assert start == b"---\n"
    assert original == data
    fields = json.loads(header + head + b"}")
    assert list(fields) == [
        "schema", "id", "original_id", "original_file", "failure_reason", "failure_detail", "failure_time",
        "retry_count", "retry_state", "source_dir",
    ]  # fmt: skip
    assert fields["schema"] == "amq/dlq/v1"
    assert f"{fields['id']}.md" == name
    assert (fields["original_id"], fields["original_file"]) == ("bad", "bad.md")
    assert (fields["failure_reason"], fields["source_dir"]) == (reason, "new")
    assert (fields["retry_count"], fields["retry_state"]) == (0, "ready")
    assert len(fields["failure_time"]) == len("2026-01-01T00:00:00Z")
    receipt = box.receipt("bad__alice__dlq.json")
    assert receipt["sender"] == sender
    assert str(receipt["detail"]).startswith(reason)


def test_a_rejected_file_that_has_become_a_message_stays(box: Box) -> None:
    box.put("m1", b"torn")
    (item,) = box.pending().unreadable
    box.put("m1")
    asyncio.run(box.mailbox.reject(item))
    assert box.one().id == "m1"


def test_a_file_that_took_a_rejected_ones_name_meanwhile_stays(box: Box) -> None:
    """Its sender has mended it, between our look at it and the end of its copy."""
    path = box.put("m1", b"no message")

    class Mended(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            super().rename_noreplace(source, target)
            box.put("mended").replace(path)

    (item,) = box.pending().unreadable
    box.disk.system = Mended()
    asyncio.run(box.mailbox.reject(item))
    assert path.read_bytes() == message("mended")


def test_a_disk_that_fails_while_rejecting_loses_nothing(box: Box) -> None:
    path = box.put("bad", b"torn")
    mailbox = MaildirMailbox(Disk(Refusing("*", On.WRITE)), box.root, "alice")
    with pytest.raises(MailboxUnavailable):
        asyncio.run(mailbox.reject(Unreadable("bad.md", "x")))
    assert path.read_bytes() == b"torn"
    assert box.names("dlq/tmp") == box.names("dlq/new") == []


@pytest.mark.parametrize("code", [errno.EIO, None])
@pytest.mark.parametrize(("name", "call"), [("dlq/tmp", On.SYNC), ("dlq/new", On.COME), ("dlq/new", On.SYNC)])
def test_what_is_rejected_stays_until_its_dead_letter_is_durable(
    box: Box, name: str, call: On, code: int | None
) -> None:
    path = box.put("bad", b"torn")
    (item,) = box.pending().unreadable
    box.disk.system = Refusing(name, call, code=code)
    with pytest.raises(Died if code is None else MailboxUnavailable):
        asyncio.run(box.mailbox.reject(item))
    assert path.read_bytes() == b"torn"
    box.disk.system = SystemCalls()
    box.reject_all()
    assert box.names("inbox/new") == []
    assert all((box.paths.dlq_new / letter).read_bytes().endswith(b"torn") for letter in box.names("dlq/new"))
    assert box.names("dlq/new") != []


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_cannot_be_read_just_now_is_neither_bad_nor_put_away(box: Box, code: int) -> None:
    box.put("m1")
    envelope = box.one()
    calls = (
        box.mailbox.read(envelope),
        box.mailbox.set_aside(envelope, "another message"),
        box.mailbox.reject(Unreadable("m1.md", "torn")),
        box.mailbox.claim(envelope),
    )
    with unreadable("m1.md", code):
        for call in calls:
            with pytest.raises(MailboxUnavailable):
                asyncio.run(call)
    assert [box.names(place) for place in ("dlq/new", "receipts")] == [[], []]
    assert not box.paths.aside.exists()
    assert isinstance(box.claim(envelope, again=True), Message)


def test_a_message_that_went_bad_after_its_listing_is_listed_as_unreadable(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    box.put("m1", b"torn")
    result = box.claim(envelope)
    assert "no message" in gone(result)
    assert isinstance(result, Gone)
    assert (result.unreadable,) == box.pending().unreadable
    assert (box.names("inbox/new"), box.names("inbox/cur")) == (["m1.md"], [])


def test_a_message_of_ours_that_went_bad_is_dead_lettered_from_cur(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    assert isinstance(box.claim(envelope), Message)
    box.put("m1", b"torn", place="cur")
    assert "no message" in gone(box.claim(envelope, again=True))
    assert box.names("inbox/new") == box.names("inbox/cur") == []
    (name,) = box.names("dlq/new")
    assert b'"source_dir": "cur"' in (box.paths.dlq_new / name).read_bytes()


def test_a_message_exchanged_after_its_listing_is_listed_as_what_it_is(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    for other in (message("m1", **{"from": "eve"}), message("m1", thread="T"), message("m2")):
        box.put("m1", other)
        gone(box.claim(envelope))
        assert (box.paths.new / "m1.md").read_bytes() == other
        assert box.names("inbox/cur") == box.names("receipts") == []
    box.disk.system = Refusing("inbox/new", On.SYNC, code=errno.EIO)
    with pytest.raises(MailboxUnavailable):
        box.claim(envelope)


def test_a_message_exchanged_again_while_it_goes_back_is_kept_aside(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    box.put("m1", message("m2"))

    class Exchanged(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            super().rename_noreplace(source, target)
            if target.parent == box.paths.cur:
                box.put("m1", message("m3"))

    box.disk.system = Exchanged()
    gone(box.claim(envelope))
    assert ([path.read_bytes() for path in box.paths.aside.iterdir()], box.one().id) == ([message("m2")], "m3")


def test_what_somebody_put_into_the_place_of_ours_is_not_ours(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    box.put("m1", message("m2"), place="cur")
    result = box.claim(envelope, again=True)
    assert isinstance(result, Gone)
    assert result.name_taken
    (box.paths.new / "m1.md").unlink()
    gone(box.claim(envelope, again=True))
    assert (box.names("inbox/new"), box.names("inbox/cur")) == ([], ["m1.md"])


def test_what_is_settled_is_found_by_its_id_whatever_its_copy_is_called(box: Box) -> None:
    box.put("copy", message("m1"))
    envelope = box.one()
    box.put("copy", message("m2"), place="cur")
    assert asyncio.run(box.mailbox.settled(envelope)) is None
    box.put("m1", place="cur")
    found = asyncio.run(box.mailbox.settled(envelope))
    assert found is not None
    assert found.envelope.id == "m1"


@pytest.mark.parametrize("same", [True, False])
def test_what_was_given_up_does_not_come_back_by_a_crash(box: Box, same: bool) -> None:
    path = box.put("m1")
    envelope = box.one()
    assert isinstance(box.claim(envelope), Message)
    if same:
        os.link(box.paths.cur / "m1.md", path)
    else:
        box.put("m1", message("m1", "another\n"))
    box.disk.syncs = 0
    asyncio.run(box.mailbox.done(envelope, Progress("t", Stage.SETTLED, "failed")))
    assert (box.names("inbox/new"), box.disk.syncs) == ([] if same else ["m1.md"], 1)


def test_what_another_consumer_took_is_gone_for_good(box: Box) -> None:
    path = box.put("m1")
    envelope = box.one()
    path.rename(box.paths.cur / "m1.md")
    gone(box.claim(envelope))
    assert box.names("receipts") == []
    assert isinstance(box.claim(envelope, again=True), Message)
    (box.paths.cur / "m1.md").unlink()
    gone(box.claim(envelope, again=True))


def test_each_message_to_one_of_a_group_has_one_taker_who_has_it_again_after_a_crash(box: Box) -> None:
    bob = MaildirMailbox(Disk(), box.root, "bob")
    for name in ("m1", "m2"):
        data = message(name, to=["alice", "bob"], labels=["urgent", "one-of:cap:review"], **{"from": "carol"})
        box.put(name, data)
        (Paths(box.root, "bob").new / f"{name}.md").write_bytes(data)
    first, second = box.pending().envelopes
    assert isinstance(box.claim(first), Message)
    assert box.disk.syncs == 6, "the claim; three new folders, what is in the file and its name"
    assert asyncio.run(bob.claim(first)) == Gone("alice has taken it", elsewhere=True)
    # The thread, which is the same, is nobody's.
    assert isinstance(asyncio.run(bob.claim(second)), Message)
    box.disk.syncs = 0
    assert box.claim(second) == Gone("bob has taken it", elsewhere=True)
    assert box.disk.syncs == 2, "what is found to be another's was written before it was looked for"
    assert box.names("receipts") == ["m1__alice__drained.json"]
    assert isinstance(box.claim(first, again=True), Message)
    assert box.claim(second, again=True) == Gone("bob has taken it", elsewhere=True), "a claim that was cut off"
    assert sorted(os.listdir(box.paths.taken)) == ["m1", "m2"]


def test_one_message_under_both_names_is_one_message(box: Box) -> None:
    path = box.put("m1")
    envelope = box.one()
    os.link(path, box.paths.cur / "m1.md")
    assert isinstance(box.claim(envelope), Message)
    assert (box.names("inbox/new"), box.names("inbox/cur")) == ([], ["m1.md"])


@pytest.mark.parametrize("again", [False, True])
def test_an_equal_copy_under_both_names_is_dropped(box: Box, again: bool) -> None:
    box.put("m1")
    envelope = box.one()
    box.put("m1", place="cur")
    assert isinstance(box.claim(envelope, again=again), Message)
    assert (box.names("inbox/new"), box.names("inbox/cur")) == ([], ["m1.md"])


def test_two_messages_under_one_name_are_both_kept(box: Box) -> None:
    box.put("m1", message("m1", "first\n"), place="cur")
    box.put("m1", message("m1", "other\n"))
    result = box.claim(box.one())
    assert isinstance(result, Gone)
    assert result.name_taken
    assert box.names("inbox/new") == ["m1.md"], "it waits until somebody has written down that it is there"
    asyncio.run(box.mailbox.set_aside(box.one()))
    assert box.names("inbox/new") == []
    (kept,) = box.paths.aside.iterdir()
    assert kept.read_bytes() == message("m1", "other\n")
    assert (box.paths.cur / "m1.md").read_bytes() == message("m1", "first\n")


def test_our_own_claimed_message_is_not_lost_to_a_second_of_its_name(box: Box) -> None:
    box.put("m1", message("m1", "first\n"))
    envelope = box.one()
    assert isinstance(box.claim(envelope), Message)
    box.put("m1", message("m1", "second\n"))
    claimed = box.claim(envelope, again=True)
    assert isinstance(claimed, Message)
    assert claimed.body == "first\n"
    assert (box.paths.new / "m1.md").read_bytes() == message("m1", "second\n")


@pytest.mark.parametrize("there", ["nothing", "equal", "different"])
def test_setting_aside_destroys_nothing(box: Box, there: str) -> None:
    box.put("m1")
    if there != "nothing":
        box.put("m1", message("m1") if there == "equal" else message("m1", "play\n"), place="cur")
    if there == "different":
        box.disk.system = Refusing("aside", On.SYNC, code=errno.EIO, times=1)
        with pytest.raises(MailboxUnavailable):
            asyncio.run(box.mailbox.set_aside(box.one()))
        (kept,) = box.paths.aside.iterdir()
        kept.rename(box.paths.new / "m1.md")
    asyncio.run(box.mailbox.set_aside(box.one()))
    assert (box.names("inbox/new"), box.names("inbox/cur")) == ([], ["m1.md"])
    aside = [path.read_bytes() for path in box.paths.aside.iterdir()] if box.paths.aside.exists() else []
    assert aside == ([message("m1")] if there == "different" else [])


def test_a_failing_sync_of_the_claim_can_be_repeated(box: Box) -> None:
    box.mailbox = MaildirMailbox(Disk(Refusing("*", On.SYNC, code=errno.EIO, times=1)), box.root, "alice")
    box.put("m1")
    envelope = box.one()
    with pytest.raises(MailboxUnavailable):
        box.claim(envelope)
    assert isinstance(box.claim(envelope, again=True), Message)


def test_a_folder_that_cannot_be_written_is_no_loss(box: Box) -> None:
    box.mailbox = MaildirMailbox(Disk(Refusing("*", On.COME, code=errno.EROFS)), box.root, "alice")
    box.put("m1")
    with pytest.raises(MailboxUnavailable):
        box.claim(box.one())
    with pytest.raises(MailboxUnavailable):
        asyncio.run(box.mailbox.set_aside(box.one()))
    assert box.one().id == "m1"


@pytest.mark.parametrize("missing", ["cur", "new"])
def test_a_missing_folder_is_not_taken_for_somebody_elses_claim(box: Box, missing: str) -> None:
    box.put("m1")
    envelope = box.one()
    folder = box.paths.home / "inbox" / missing
    folder.rename(folder.with_name("away"))
    with pytest.raises(MailboxUnavailable):
        box.claim(envelope)
    assert not folder.exists()


CLAIMER = """
import asyncio, sys
from pathlib import Path
from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Message

async def main() -> None:
    mailbox = MaildirMailbox(Disk(), Path(sys.argv[1]), "alice")
    listing = await mailbox.pending(1000)
    print("ready", flush=True)
    sys.stdin.readline()
    for envelope in listing.envelopes:
        if isinstance(await mailbox.claim(envelope), Message):
            print(envelope.id)

asyncio.run(main())
"""


def test_of_two_claiming_processes_exactly_one_gets_each_message(box: Box) -> None:
    expected = sorted(f"m{number:03}" for number in range(200))
    for name in expected:
        box.put(name)
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(box.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for claimer in claimers:
            assert claimer.stdout is not None
            assert claimer.stdout.readline() == "ready\n"
        for claimer in claimers:
            assert claimer.stdin is not None
            claimer.stdin.write("go\n")
            claimer.stdin.flush()
        won = [claimer.communicate(timeout=60)[0].split() for claimer in claimers]
    finally:
        for claimer in claimers:
            claimer.kill()
            claimer.wait()
    assert sorted(won[0] + won[1]) == expected
    assert box.names("inbox/cur") == [f"{name}.md" for name in expected]


def test_a_message_in_a_folder_that_does_not_say_what_is_in_it_is_no_bad_one(box: Box) -> None:
    box.put("m1")
    envelope = box.one()
    mailbox = MaildirMailbox(Disk(), box.root, "alice")
    box.paths.new.chmod(0)
    try:
        with no_powers(), pytest.raises(MailboxUnavailable, match="Permission denied"):
            asyncio.run(mailbox.read(envelope))
    finally:
        box.paths.new.chmod(0o700)
    assert isinstance(asyncio.run(mailbox.read(envelope)), Message)
