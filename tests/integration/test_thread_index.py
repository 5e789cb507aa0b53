"""What belongs to a thread, and what waits: kept from look to look, and always as a new listing would find it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.desk import Desk, outcomes, until
from tests.refusing import without_descriptors
from tests.sizes import sizes

from agent_mailer import lying
from agent_mailer.disk import SystemCalls, read_regular
from agent_mailer.mailbox.maildir import adapter, listing, remembered
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import MailboxUnavailable, Priority, oldest_of_each

THREADS = ("one", "two", "three")
BOXES = ("coder", "user", "planner")
FOLDERS = ("inbox/new", "inbox/cur", "outbox/sent")
MOST_WAITING = 4
QUESTIONS = ((1000, 10), (4, 10), (3, 2), (2, 3))
"""How many are asked for, and which of those that wait are left out: each so-manieth."""


@contextmanager
def everything_watched() -> Iterator[None]:
    """However few names a folder has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "WATCHED", 0)
        for module in (lying, listing):
            patch.setattr(module, "AT_ONCE", 3)
        patch.setattr(adapter, "MAX_WAITING", MOST_WAITING)
        for module in (listing, remembered):
            patch.setattr(module, "WORTH_A_LINE", 2)
        # Longer than a tick of any kernel, shorter than a step here.
        for module in (remembered, lying):
            patch.setattr(module, "SETTLED_NS", 20_000_000)
        yield


def a_message(number: int, thread: str, minute: int = 0, priority: Priority = Priority.NORMAL) -> tuple[str, str]:
    """Name and content; `number` tells it from others."""
    name = f"2026-11-20T10-{minute:02d}-00.000Z_pid1_{number:08x}"
    head = (
        f'{{"schema": 1, "id": "{name}", "from": "user", "to": ["coder"], "thread": "{thread}",'
        f' "subject": "s", "created": "2026-11-20T10:{minute:02d}:00Z", "priority": "{priority}"}}'
    )
    return f"{name}.md", f"---json\n{head}\n---\nbody\n"


class Root:
    """A root whose `coder` is watched from inside, and changed by everybody else from outside."""

    def __init__(self, base: Path) -> None:
        self.desk = Desk(base)
        self.loop = asyncio.new_event_loop()
        self.count = 0
        self.copy = self.folder("coder", "extensions/agent-mailer/known.jsonl")
        self.begin()

    def begin(self) -> None:
        """A watcher's life."""
        self.mailbox = MaildirMailbox(self.desk.disk, self.desk.root, "coder")
        self.loop.run_until_complete(self.mailbox.open())
        self.lives = True

    def end(self) -> None:
        self.loop.run_until_complete(self.mailbox.close())
        self.lives = False

    def close(self) -> None:
        self.end()
        self.loop.close()

    def folder(self, box: str, leaf: str) -> Path:
        return self.desk.root / "agents" / box / leaf

    def files(self) -> list[Path]:
        return [path for box in BOXES for leaf in FOLDERS for path in sorted(self.folder(box, leaf).glob("*.md"))]

    def text(self, thread: str, minute: int = 0, priority: Priority = Priority.NORMAL) -> tuple[str, str]:
        self.count += 1
        return a_message(self.count, thread, minute, priority)

    def compare(self) -> None:
        """With a mailbox that nobody has ever looked into."""
        fresh = MaildirMailbox(self.desk.disk, self.desk.root, "coder")

        async def both() -> None:
            for thread in THREADS:
                assert ids(await self.mailbox.thread(thread)) == ids(await fresh.thread(thread)), thread
            wait = (await fresh.pending(1000)).envelopes
            for limit, every in QUESTIONS:
                # Another one each time: what was left out before is not, and so on.
                beside = {one.id for number, one in enumerate(wait, self.count) if number % every == 0}
                mine, wanted = await self.mailbox.pending(limit, beside), await fresh.pending(limit, beside)
                assert mine == wanted
                assert mine.envelopes == oldest_of_each(wait, limit, beside)

        self.loop.run_until_complete(both())


def ids(messages: Any) -> list[tuple[str, str, str]]:
    return [(one.envelope.id, one.subject, one.body) for one in messages]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    with everything_watched():
        found = Root(tmp_path)
        yield found
        found.close()


class Changes(RuleBasedStateMachine):
    """Anything that anybody may do to the files, and between every two of these the two answers."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="thread-index-"))
        self.patch = everything_watched()
        self.patch.__enter__()
        self.root = Root(self.folder)
        self.old = b""

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.root.close()
            self.patch.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    @rule(
        box=st.sampled_from(BOXES),
        leaf=st.sampled_from(FOLDERS),
        thread=st.sampled_from(THREADS),
        minute=st.integers(0, 59),
        how=st.sampled_from(["renamed", "written", "no message", "under another name"]),
        priority=st.sampled_from(Priority),
    )
    def arrives(self, box: str, leaf: str, thread: str, minute: int, how: str, priority: Priority) -> None:
        name, text = self.root.text(thread, minute, priority)
        name = name if how != "under another name" else f"{59 - minute:02d}-{self.root.count}.md"
        target = self.root.folder(box, leaf) / name
        text = text if how != "no message" else "nothing of the kind"
        if how == "renamed":
            (self.folder / "aside").write_text(text)
            (self.folder / "aside").rename(target)
        else:
            target.write_text(text)

    @rule(which=st.integers(0, 1000), box=st.sampled_from(BOXES), leaf=st.sampled_from(FOLDERS))
    def is_moved(self, which: int, box: str, leaf: str) -> None:
        if (path := self.pick(which)) is not None:
            path.rename(self.root.folder(box, leaf) / path.name)

    @rule(which=st.integers(0, 1000))
    def is_removed(self, which: int) -> None:
        if (path := self.pick(which)) is not None:
            path.unlink()

    @rule(which=st.integers(0, 1000), thread=st.sampled_from(THREADS))
    def is_written_in_place(self, which: int, thread: str) -> None:
        """Another content under the same inode, and at the same time: only what is heard tells of it."""
        if (path := self.pick(which)) is not None:
            before = path.stat()
            _, text = self.root.text(thread)
            path.write_text(text)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(which=st.integers(0, 1000), thread=st.sampled_from(THREADS))
    def is_replaced_under_its_name(self, which: int, thread: str) -> None:
        if (path := self.pick(which)) is not None:
            _, text = self.root.text(thread)
            (self.folder / "aside").write_text(text)
            (self.folder / "aside").replace(path)

    @rule(which=st.integers(0, 1000), leaf=st.sampled_from(FOLDERS))
    def gets_a_second_name(self, which: int, leaf: str) -> None:
        path = self.pick(which)
        if path is not None and not (other := self.root.folder("user", leaf) / path.name).exists():
            os.link(path, other)

    @rule(box=st.sampled_from(BOXES), leaf=st.sampled_from(FOLDERS))
    def a_folder_is_swapped_for_its_copy(self, box: str, leaf: str) -> None:
        folder = self.root.folder(box, leaf)
        shutil.copytree(folder, copy := folder.with_name("copy"))
        folder.rename(folder.with_name("away"))
        copy.rename(folder)
        shutil.rmtree(folder.with_name("away"))

    @rule(box=st.sampled_from(("user", "planner")))
    def a_mailbox_is_swapped_for_an_empty_one(self, box: str) -> None:
        home = self.root.desk.root / "agents" / box
        home.rename(home.with_name("was"))
        shutil.copytree(home.with_name("was"), home, ignore=shutil.ignore_patterns("*.md"))
        shutil.rmtree(home.with_name("was"))

    @rule(count=st.integers(4, 12), leaf=st.sampled_from(["inbox/new", "inbox/cur"]))
    def a_burst(self, count: int, leaf: str) -> None:
        for n in range(count):
            name, text = self.root.text(THREADS[n % 3], n)
            (self.root.folder("coder", leaf) / name).write_text(text)

    @rule(count=st.integers(1, 12))
    def some_that_wait_are_taken_by_another(self, count: int) -> None:
        for path in sorted(self.root.folder("coder", "inbox/new").glob("*.md"))[:count]:
            path.rename(self.root.folder("coder", "inbox/cur") / path.name)

    @rule(which=st.integers(0, 1000))
    def gets_the_id_of_another(self, which: int) -> None:
        new = self.root.folder("coder", "inbox/new")
        if waiting := sorted(new.glob("*.md")):
            path = waiting[which % len(waiting)]
            self.root.count += 1
            (new / f"{which % 60:02d}-{self.root.count}.md").write_bytes(path.read_bytes())

    @rule()
    def the_watcher_ends_or_begins(self) -> None:
        """What others do in between it is not told."""
        if self.root.lives:
            self.root.end()
        else:
            self.root.begin()

    @rule(how=st.sampled_from(["torn", "garbled", "old", "gone", "a folder", "a FIFO"]), where=st.integers(0, 10_000))
    def the_copy_is_spoiled(self, how: str, where: int) -> None:
        copy, data = self.root.copy, b""
        if copy.is_file():
            data = copy.read_bytes()
            copy.unlink()
        elif copy.is_dir():
            copy.rmdir()
        elif copy.exists():
            copy.unlink()
        match how:
            case "torn":
                copy.write_bytes(data[: where % (len(data) + 1)])
            case "garbled" if data:
                place = where % len(data)
                copy.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            case "old":
                copy.write_bytes(self.old)
                self.old = data
            case "a folder":
                copy.mkdir()
            case "a FIFO":
                os.mkfifo(copy)

    @rule()
    def a_watch_is_lost(self) -> None:
        """As when the file system is unmounted: the kernel takes it away."""
        for events in (self.root.mailbox._all_events, self.root.mailbox._events):
            if events is None:
                return
            for _, watch in list(events._watched.values())[:2]:
                # Both may have one for the same folder.
                with suppress(OSError):
                    events._kernel._inotify.rm_watch(watch)  # type: ignore[union-attr]

    @rule(which=st.integers(0, 1000))
    def the_watcher_claims(self, which: int) -> None:
        async def claim() -> None:
            found = (await self.root.mailbox.pending(1000)).envelopes
            if found:
                await self.root.mailbox.claim(found[which % len(found)])

        if self.root.lives:
            self.root.loop.run_until_complete(claim())

    @invariant()
    def both_say_the_same(self) -> None:
        if hasattr(self, "root") and self.root.lives:
            self.root.compare()

    def pick(self, which: int) -> Path | None:
        files = self.root.files()
        return files[which % len(files)] if files else None


@pytest.mark.parametrize("examples", sizes(quick=6, long=60))
def test_the_answer_is_always_that_of_a_new_listing(examples: int) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=25,
        derandomize=True,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Changes, settings=profile)


def test_a_queue_that_overflows_means_a_listing(root: Root) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip("the queue is too long to overflow in a test")
    cur = root.folder("coder", "inbox/cur")
    name, text = root.text("one")
    (cur / name).write_text(text)
    root.compare()
    other = cur / "2026-11-20T11-00-00.000Z_pid1_ffffffff.md"
    for _ in range(limit // 2 + 100):
        (cur / name).rename(other)
        other.rename(cur / name)
    late, text = root.text("two")
    (cur / late).write_text(text)
    (cur / name).unlink()
    root.compare()


def test_what_could_not_be_read_is_looked_at_again(root: Root) -> None:
    """What was heard of it is heard once."""
    cur = root.folder("coder", "inbox/cur")
    name, text = root.text("one")
    (cur / name).write_text(text)
    root.compare()
    _, text = root.text("two")
    (cur / name).write_text(text)
    with without_descriptors(), pytest.raises(MailboxUnavailable):
        root.loop.run_until_complete(root.mailbox.thread("one"))
    root.compare()


def test_all_that_became_another_under_its_name_belongs_where_it_says(root: Root) -> None:
    cur = root.folder("coder", "inbox/cur")
    names = []
    for _ in range(4):
        name, text = root.text("one")
        (cur / name).write_text(text)
        names.append(name)
    root.compare()
    for name in names[:3]:
        (cur / "other").write_text(root.text("two")[1])
        (cur / "other").rename(cur / name)
    root.compare()


def test_a_message_that_is_written_in_place_belongs_where_it_ends(root: Root) -> None:
    """Half of it is no message, and was taken for one that never will be."""
    path = root.folder("user", "outbox/sent") / (named := root.text("one"))[0]
    with path.open("w") as stream:
        stream.write(named[1][:40])
        stream.flush()
        root.compare()
        stream.write(named[1][40:])
        stream.flush()
        root.compare()
    root.compare()
    assert len(root.loop.run_until_complete(root.mailbox.thread("one"))) == 1


def test_others_go_on_while_many_are_read(root: Root) -> None:
    cur = root.folder("coder", "inbox/cur")
    for n in range(30):
        name, text = root.text("one", n)
        (cur / name).write_text(text)

    async def beside() -> None:
        reading = asyncio.create_task(root.mailbox.thread("one"))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 5
        assert len(reading.result()) == 30

    root.loop.run_until_complete(beside())


def test_of_what_is_known_nothing_is_read_or_listed_again(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn costs the same, whatever lies around it."""
    cur = root.folder("coder", "inbox/cur")
    for n in range(20):
        name, text = root.text("one", n)
        (cur / name).write_text(text)
    root.compare()
    opened: list[str] = []
    real = os.scandir

    def listed(path: Any) -> Any:
        opened.append(str(path))
        return real(path)

    name, text = root.text("two")
    (cur / name).write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        found = root.loop.run_until_complete(root.mailbox.thread("two"))
        root.loop.run_until_complete(root.mailbox.pending(10))
    assert len(found) == 1
    assert [path for path in opened if path.endswith(("cur", "new", "sent"))] == []


def test_of_more_than_can_be_known_those_behind_move_up(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """And back; the folder is not listed for it."""
    new = root.folder("coder", "inbox/new")
    texts = [root.text(THREADS[n % 3], n) for n in range(0, 3 * MOST_WAITING, 2)]
    for name, text in texts:
        (new / name).write_text(text)
    waits = root.loop.run_until_complete(root.mailbox.pending(1000))
    assert [f"{one.id}.md" for one in waits.envelopes] == [name for name, _ in texts[:MOST_WAITING]]
    assert waits.more

    def look() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} is listed"))
            root.loop.run_until_complete(root.mailbox.pending(1000))
        root.compare()

    for number in (0, MOST_WAITING + 1, 3):
        (new / texts[number][0]).unlink()
        look()
    for minute in (1, 3 * MOST_WAITING, 15):
        name, text = root.text("one", minute)
        (new / name).write_text(text)
        look()
    (new / texts[-1][0]).write_text(root.text("two", 0)[1])
    for name, _ in texts[1:MOST_WAITING]:
        (new / name).unlink(missing_ok=True)
    look()
    (new / texts[-1][0]).write_text("nothing of the kind")
    for path in sorted(new.iterdir())[:-1]:
        path.unlink()
    look()


def test_a_later_life_reads_only_what_is_new(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred thousand files each life would read them all."""
    cur = root.folder("coder", "inbox/cur")
    for n in range(20):
        name, text = root.text("one", n)
        (cur / name).write_text(text)
    until(lambda: time.time_ns() - cur.stat().st_ctime_ns > 2 * lying.SETTLED_NS, "the files have settled")
    root.compare()
    assert root.copy.stat().st_mode & 0o777 == 0o600
    root.end()
    (cur / name).unlink()
    late, text = root.text("two")
    (cur / late).write_text(text)
    root.begin()
    read: list[str] = []
    real = read_regular

    def spied(path: Path | str, *more: Any) -> bytes:
        read.append(os.path.basename(path))
        return real(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(listing, "read_regular", spied)
        found = root.loop.run_until_complete(root.mailbox.thread("two"))
    assert len(found) == 1
    assert set(read) == {late}
    root.compare()


def test_a_copy_that_is_mostly_of_no_use_is_made_anew(root: Root) -> None:
    cur = root.folder("coder", "inbox/cur")
    names = []
    for n in range(20):
        name, text = root.text("one", n)
        (cur / name).write_text(text)
        names.append(name)
    until(lambda: time.time_ns() - cur.stat().st_ctime_ns > 2 * lying.SETTLED_NS, "the files have settled")
    root.compare()
    root.end()
    before = root.copy.stat().st_size
    for name in names[2:]:
        (cur / name).unlink()
    root.begin()
    root.compare()
    root.end()
    assert 0 < root.copy.stat().st_size < before / 3
    root.begin()
    root.compare()


def test_a_foreign_copy_counts_for_nothing(root: Root, tmp_path: Path) -> None:
    """Of another machine, say, with the same names and numbers; of another folder; as earlier versions wrote it."""
    cur = root.folder("coder", "inbox/cur")
    for n in range(4):
        name, text = root.text("one", n)
        (cur / name).write_text(text)
    found = (cur / name).stat()
    place = found.st_ino.to_bytes(remembered.INODE_BYTES) + listing.thread_digest("two") + b"\0" * 12
    entry = (found.st_ino, found.st_ctime_ns, found.st_size, name, place)
    changed = (entry[0], entry[1] - 1, *entry[2:])
    folder = cur.stat().st_ino
    root.end()

    def copied(line: tuple[object, ...]) -> bytes:
        data = msgspec.json.encode(line)
        root.copy.write_bytes(b"%08x %b\n" % (crc32(data), data))
        root.begin()
        return data

    for line in (
        (found.st_dev + 1, folder, [entry]),
        (found.st_dev, folder + 1, [entry]),
        (found.st_dev, folder, [changed]),
        (found.st_dev, [entry]),
    ):
        data = copied(line)
        root.compare()
        root.end()
    assert not root.copy.exists() or data not in root.copy.read_bytes(), "what nobody can read any more does not stay"
    # But for that it would count.
    copied((found.st_dev, folder, [entry]))
    with pytest.raises(AssertionError):
        root.compare()


class Disturbed(SystemCalls):
    """Before each call that changes the disk somebody else changes the mailbox, too."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.count = 0
        self.still = threading.Lock()
        """Held while two answers are compared, and while somebody changes something: some calls are made in threads."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in vars(SystemCalls) and callable(found):
            self.disturb()
        return found

    def disturb(self) -> None:
        # Whoever runs in the loop's own thread cannot wait for what is compared there.
        if self.still.acquire(blocking=threading.current_thread() is not threading.main_thread()):
            try:
                self._disturb()
            finally:
                self.still.release()

    def _disturb(self) -> None:
        self.count += 1
        boxes = [
            self.root / "agents" / box / leaf for box in ("user", "planner") for leaf in ("inbox/cur", "outbox/sent")
        ]
        folder = self.random.choice(boxes)
        known = sorted(folder.glob("*.md"))
        match self.random.randrange(5):
            case 0 if known:
                self.random.choice(known).unlink()
            case 1 if known:
                path = self.random.choice(known)
                path.rename(boxes[0] / path.name)
            case 2 if known:
                self.random.choice(known).write_text(a_message(self.count, self.random.choice(THREADS))[1])
            case 3:
                shutil.copytree(folder, copy := folder.with_name("copy"))
                # It stays: an inode that is given to another file of the same name is taken for the same file.
                folder.rename(self.root.parent / f"away-{self.count}")
                copy.rename(folder)
            case _:
                name, text = a_message(self.count, self.random.choice(THREADS))
                (folder / name).write_text(text)


@pytest.mark.parametrize("seed", sizes(quick=range(1), long=range(1, 12)))
def test_between_any_two_steps_of_a_turn_others_may_do_what_they_like(
    tmp_path: Path, seed: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a turn is shown of its thread, and what is looked up when it has ended, is what lies there then."""
    asked = 0
    real = listing.ThreadIndex.thread

    async def compared(index: Any, thread_id: str, events: Any) -> Any:
        nonlocal asked
        if events is None:
            return await real(index, thread_id, events)
        while not system.still.acquire(blocking=False):  # noqa: ASYNC110 - threads wait for it, too
            await asyncio.sleep(0)
        try:
            asked += 1
            while True:
                before = ids(await real(listing.ThreadIndex(index._root), thread_id, None))
                found = await real(index, thread_id, events)
                after = ids(await real(listing.ThreadIndex(index._root), thread_id, None))
                if before == after:  # else another turn's mail came between the answers
                    assert ids(found) == after
                    return found
        finally:
            system.still.release()

    for number in seed:
        desk = Desk(tmp_path / str(number))
        for thread in THREADS:
            desk.send(thread=thread)
        asked = 0
        with everything_watched():
            # Nothing else of ours comes between the two answers.
            monkeypatch.setattr(lying, "AT_ONCE", 10**6)
            system = Disturbed(desk.root, number)
            monkeypatch.setattr(listing.ThreadIndex, "thread", compared)
            assert outcomes(desk.once(system=system)) == ["done"] * 3
            monkeypatch.undo()
        assert system.count > 50
        assert asked >= 6


def test_a_message_that_was_kept_whole_is_read_again_where_it_is_another(root: Root) -> None:
    """Also where inode, size and time of change are as before, as whoever copies a file back can make them."""
    name, text = root.text("one")
    path = root.folder("coder", "inbox/cur") / name
    path.write_text(text)
    until(lambda: time.time_ns() - path.stat().st_ctime_ns > 2 * lying.SETTLED_NS, "the file has settled")
    root.compare()
    before = path.stat()
    path.write_text(text.replace("body", "BODY"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    [found] = root.loop.run_until_complete(root.mailbox.thread("one"))
    assert found.body == "BODY\n"
    root.compare()
