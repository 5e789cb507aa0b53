"""Delivery on real folders, with faults of the disk under it."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
from tests.powers import no_powers
from tests.refusing import On, Refusing

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.mailbox.maildir import delivery
from agent_mailer.mailbox.maildir.compose import compose
from agent_mailer.mailbox.maildir.delivery import Trace
from agent_mailer.mailbox.maildir.layout import Paths, add_handle, check_mailbox, make_root
from agent_mailer.mailbox.port import (
    Action,
    Delivered,
    Delivery,
    Draft,
    MailboxUnavailable,
    Outgoing,
    Refused,
    Route,
    Unknown,
)
from agent_mailer.names import DEDUPE_KEY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_root(Disk(), tmp_path / "root", ["alice", "bob"])
    return tmp_path / "root"


def item(key: str = "k", to: str = "alice", body: str = "work\n") -> Outgoing:
    draft = Draft(key=key, action=Action.SEND, created=1787392800.5, to=(to,), body=body)
    composed = compose("bob", "root", draft, None, "t1")
    assert not isinstance(composed, Refused), composed
    return composed[0]


def deliver(root: Path, what: Outgoing, disk: Disk | None = None) -> Delivery:
    return delivery.deliver(disk or Disk(), root, "bob", what)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_delivery_is_private_whole_and_costs_two_syncs(root: Path) -> None:
    disk, what = Disk(), item()
    assert deliver(root, what, disk) == Delivered()
    assert disk.syncs == 2
    alice, bob = Paths(root, "alice"), Paths(root, "bob")
    landed, copy = alice.new / f"{what.id}.md", bob.sent / f"{what.id}.md"
    assert landed.read_bytes() == copy.read_bytes() == what.payload.encode()
    assert stat.S_IMODE(landed.stat().st_mode) == stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert files(alice.tmp) == []


def test_delivering_what_waits_makes_it_durable_with_one_sync(root: Path) -> None:
    what = item()
    deliver(root, what)
    disk = Disk()
    assert deliver(root, what, disk) == Delivered()
    assert disk.syncs == 1


def test_what_took_an_items_name_at_the_last_moment_is_not_taken_for_it(root: Path) -> None:
    what, new = item(), Paths(root, "alice").new

    class Overtaken(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            (new / target.name).write_text("another")
            super().rename_noreplace(source, target)

    assert isinstance(deliver(root, what, Disk(Overtaken())), Refused)
    assert (new / f"{what.id}.md").read_text() == "another"


@pytest.mark.parametrize("way", ["here", "elsewhere"])
@pytest.mark.parametrize("place", ["cur", "drained receipt", "dlq receipt", "dlq/new", "dlq/cur", "dlq by file"])
def test_wherever_its_consumer_moved_it_it_is_delivered(root: Path, place: str, way: str) -> None:
    what, alice = item(), Paths(root, "alice")
    if way == "elsewhere":
        make_root(Disk(), other := root.with_name("other"), ["alice"])
        found, alice = other.stat(), Paths(other, "alice")
        route = Route("alice@other", str(other), found.st_dev, found.st_ino, "alice")
        what = msgspec.structs.replace(what, recipient=route.address, route=route)
    if place == "cur":
        (alice.cur / f"{what.id}.md").write_text(what.payload)
    elif "receipt" in place:
        (alice.receipts / f"{what.id}__alice__{place.split(maxsplit=1)[0]}.json").write_text("{}")
    else:
        folder = alice.dlq_cur if place == "dlq/cur" else alice.dlq_new
        names = {"original_id": "?", "original_file": f"{what.id}.md"} if "file" in place else {"original_id": what.id}
        text = f"---\n{json.dumps({'schema': 'amq/dlq/v1', **names}, indent=2)}\n---\n{what.payload}"
        (folder / "dlq_1_2_abc.md").write_text(text)
    assert delivery.look(root, what) is Trace.TAKEN
    assert deliver(root, what) == Delivered()
    assert files(alice.new) == []


def test_what_its_consumer_takes_between_two_looks_is_not_sent_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, alice, look = item(), Paths(root, "alice"), os.lstat
    deliver(root, what)
    name = f"{what.id}.md"

    def then_taken(path: Path) -> os.stat_result:
        try:
            return look(path)
        finally:
            if path.name == name and name in files(alice.new):
                (alice.new / name).rename(alice.cur / name)

    monkeypatch.setattr(os, "lstat", then_taken)
    assert deliver(root, what) == Delivered()
    assert (files(alice.new), files(alice.cur)) == ([], [name])


def test_what_lies_in_the_dead_letters_of_others_is_not_mistaken(root: Path) -> None:
    alice = Paths(root, "alice")
    (alice.dlq_new / "dlq_1.md").write_text('---\n{"original_id": "other"}\n---\n' + item().id)
    (alice.dlq_new / "dlq_2.md").write_bytes(b"\xff" * 100)
    (alice.dlq_new / "dlq_3.md").write_text("---\n" + "[" * 100_000)
    os.mkfifo(alice.dlq_new / "dlq_4.md")
    assert delivery.look(root, item()) is Trace.NONE
    (alice.dlq_new / "dlq_5.md").write_text(f'---\n{{"original_id": "{item().id}"}}\n---\n')
    assert delivery.look(root, item()) is Trace.TAKEN, "it is among them"


def test_a_receipt_is_found_by_either_of_its_names(root: Path) -> None:
    """AMQ writes an id as it is, we map what is no plain name."""
    folder, odd = Paths(root, "alice").receipts, "odd id"
    ours = delivery.receipt_name(odd, "alice", delivery.Stage.DRAINED)
    assert ours != f"{odd}__alice__drained.json"
    for name in (ours, f"{odd}__alice__drained.json"):
        assert delivery.read_receipt(folder, odd, "alice", delivery.Stage.DRAINED) is None
        (folder / name).write_text('{"detail": "done"}')
        assert delivery.read_receipt(folder, odd, "alice", delivery.Stage.DRAINED) == delivery.Receipt(
            "drained", None, "done"
        )
        (folder / name).unlink()


@pytest.mark.parametrize("place", ["new", "cur"])
@pytest.mark.parametrize("other", ["other bytes", "same length", "fifo", "link", "folder"])
def test_a_name_held_by_something_else_is_refused_and_kept(root: Path, place: str, other: str) -> None:
    what = item()
    path = Paths(root, "alice").home / "inbox" / place / f"{what.id}.md"
    if other == "fifo":
        os.mkfifo(path)
    elif other == "link":
        (root / "same").write_text(what.payload)
        path.symlink_to(root / "same")
    elif other == "folder":
        path.mkdir()
    else:
        path.write_text("x" * len(what.payload.encode()) if other == "same length" else "other")
    kind = stat.S_IFMT(path.lstat().st_mode)
    assert isinstance(deliver(root, what), Refused)
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    assert files(Paths(root, "alice").tmp) == []


def test_a_dedupe_key_delivers_the_first_and_only_the_first(root: Path) -> None:
    first, second = item(DEDUPE_KEY + "d", body="one"), item(DEDUPE_KEY + "d", body="two")
    assert first.id == second.id
    assert deliver(root, first) == Delivered()
    assert deliver(root, second) == Delivered()
    assert (Paths(root, "alice").new / f"{first.id}.md").read_text() == first.payload


def test_who_is_nobody_is_refused_and_gets_no_folder(root: Path) -> None:
    refused = deliver(root, item(to="nobody"))
    assert isinstance(refused, Refused)
    assert "nobody" in refused.why
    assert not (root / "agents" / "nobody").exists()


def test_who_is_known_gets_a_mailbox(root: Path) -> None:
    add_handle(Disk(), root, "carol")
    for path in sorted((root / "agents" / "carol").rglob("*"), reverse=True):
        path.rmdir()
    (root / "agents" / "carol").rmdir()
    assert deliver(root, item(to="carol")) == Delivered()
    assert check_mailbox(root, "carol") == []
    assert deliver(root, item(to="user")) == Delivered()


@pytest.mark.parametrize("identifier", ["../../x", "a/b", "", ".x", "x.md", "i" * 300, "a\0b", "a\\b"])
def test_an_odd_id_never_becomes_a_path(root: Path, identifier: str) -> None:
    before = sorted(root.rglob("*"))
    odd = Outgoing(id=identifier, recipient="alice", thread="t", payload=item().payload)
    assert isinstance(deliver(root, odd), Refused)
    assert delivery.look(root, odd) is Trace.NONE
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("recipient", ["../bob", "", ".", "Alice", "alice/inbox"])
def test_an_odd_recipient_never_becomes_a_path(root: Path, recipient: str) -> None:
    odd = Outgoing(id="i", recipient=recipient, thread="t", payload="x")
    assert isinstance(deliver(root, odd), Refused)


def test_eleven_mebibytes_are_refused(root: Path) -> None:
    huge = Outgoing(id="i", recipient="alice", thread="t", payload="x" * (11 << 20))
    assert isinstance(deliver(root, huge), Refused)


def test_a_recipient_behind_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    home = root / "agents" / "alice"
    home.rename(tmp_path / "moved")
    home.symlink_to(tmp_path / "moved")
    assert isinstance(deliver(root, item()), Refused)
    assert files(tmp_path / "moved" / "inbox" / "new") == []


def test_a_root_that_is_gone_is_no_refusal(root: Path) -> None:
    root.rename(root.with_name("away"))
    with pytest.raises(MailboxUnavailable):
        deliver(root, item())
    assert not root.exists()


@pytest.mark.parametrize(
    ("call", "code", "path"),
    [
        (On.MAKE, errno.EROFS, "inbox/tmp"),
        (On.MAKE, errno.EACCES, "inbox/tmp"),
        (On.WRITE, errno.ENOSPC, "inbox/tmp"),
        (On.SYNC, errno.EIO, "inbox/tmp"),
        (On.COME, errno.ENOSPC, "inbox/new"),
        (On.COME, errno.EIO, "inbox/new"),
    ],
)
def test_a_fault_before_the_rename_leaves_nothing_and_can_be_tried_again(
    root: Path, call: On, code: int, path: str
) -> None:
    with pytest.raises(MailboxUnavailable):
        deliver(root, item(), Disk(Refusing(path, call, code=code)))
    alice = Paths(root, "alice")
    assert files(alice.new) == files(alice.tmp) == files(Paths(root, "bob").sent) == []
    assert deliver(root, item()) == Delivered()


def test_a_fault_after_the_rename_is_unknown_until_looked_at(root: Path) -> None:
    unknown = deliver(root, item(), Disk(Refusing("inbox/new", On.SYNC, code=errno.EIO)))
    assert isinstance(unknown, Unknown)
    assert files(Paths(root, "alice").new) == [f"{item().id}.md"]
    assert files(Paths(root, "bob").sent) == []
    again = deliver(root, item(), Disk(Refusing("inbox/new", On.SYNC, code=errno.EIO)))
    assert isinstance(again, Unknown)
    assert delivery.look(root, item()) is Trace.WAITING
    assert deliver(root, item()) == Delivered()


def test_a_fault_after_its_consumer_took_it_is_unknown_too(root: Path) -> None:
    alice, name = Paths(root, "alice"), f"{item().id}.md"

    class Taken(Refusing):
        def fsync(self, fd: int) -> None:
            if (alice.new / name).exists():
                (alice.new / name).rename(alice.cur / name)
            super().fsync(fd)

    assert isinstance(deliver(root, item(), Disk(Taken("inbox/new", On.SYNC, code=errno.EIO))), Unknown)
    assert files(alice.cur) == [name]


def test_a_way_on_which_no_mailbox_is_to_be_made_makes_none(root: Path) -> None:
    """It was there when the way was found."""
    found = root.stat()
    route = Route("carol", str(root), found.st_dev, found.st_ino, "carol")
    with pytest.raises(MailboxUnavailable):
        deliver(root, Outgoing(id="i", recipient="carol", thread="t", payload="x", route=route))
    assert not (root / "agents" / "carol").exists()


@pytest.mark.parametrize("call", [On.MAKE, On.WRITE, On.REPLACE])
def test_the_senders_copy_is_best_effort(root: Path, call: On) -> None:
    assert deliver(root, item(), Disk(Refusing("outbox/sent", call))) == Delivered()
    assert files(Paths(root, "alice").new) == [f"{item().id}.md"]


def test_a_sender_without_a_mailbox_can_still_send(root: Path) -> None:
    assert delivery.deliver(Disk(), root, "visitor", item()) == Delivered()
    assert not (root / "agents" / "visitor").exists()


@pytest.mark.parametrize("shut", ["new", "cur"])
def test_a_folder_that_does_not_say_what_is_in_it_holds_no_other_message_of_that_name(root: Path, shut: str) -> None:
    folder: Path = getattr(Paths(root, "alice"), shut)
    folder.chmod(0)
    try:
        with no_powers(), pytest.raises(MailboxUnavailable, match="Permission denied"):
            deliver(root, item())
    finally:
        folder.chmod(0o700)
    assert deliver(root, item()) == Delivered()
    assert files(Paths(root, "alice").new) == [f"{item().id}.md"]
