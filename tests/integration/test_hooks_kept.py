"""What came by a folder's hook and could not leave at once, and what a hook keeps: tried again, known again, let go."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import Desk, until
from tests.hook_desk import mail_of, signed

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.hooks.book import VERSION, Book
from agent_mailer.hooks.listening import MOST, Hook, Listener, answer
from agent_mailer.hooks.place import HookPlace
from agent_mailer.hooks.taking import OtherBody, Taking
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import make_mailbox
from agent_mailer.outside.calls import Call, read_call
from agent_mailer.outside.event import Event, Source
from agent_mailer.outside.items import FIRST_WAIT_MS, KEPT_DAYS, LONGEST_WAIT_MS, MOST_TRIES, Item, Outcome
from agent_mailer.outside.rules import Rules

DAY = 86400.0


class Away(SystemCalls):
    """A disk on which nothing comes into the mailboxes of `whose`."""

    def __init__(self, whose: str = "") -> None:
        self.whose = whose

    def rename_noreplace(self, source: Path, target: Path) -> None:
        if self.whose and f"/{self.whose}/" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        super().rename_noreplace(source, target)


class Kept:
    """A hook over a folder mailbox, by a clock that stands, whose mail goes to `coder` and `planner`."""

    def __init__(self, base: Path) -> None:
        self.desk = Desk(base)
        self.clock = FakeClock()
        self.system = Away()
        self.book = Book(base / "deliveries.db")
        make_mailbox(Disk(), self.desk.root, "hook--ci")
        mailbox = MaildirMailbox(Disk(self.system), self.desk.root, "hook--ci")
        self.said: list[str] = []
        to = ("coder", "planner")
        self.taking = Taking("ci", mailbox, to, self.book, self.clock, self.said.append, lambda _: None)

    def call(self, key: str, **said: Any) -> Call:
        body = msgspec.json.encode({"title": key, **said})
        return read_call(Source.GENERIC, lambda _: "", body, "ci", Rules(), key)

    def has(self, agent: str) -> list[str]:
        return [one.subject for one in mail_of(self.desk.root, agent)]

    def due_in(self, key: str) -> float | None:
        """Seconds until it is tried again."""
        row = self.book.by_id(key)
        assert row is not None
        return None if row.due_ms is None else round(row.due_ms / 1000 - self.clock.moment)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    found = Kept(tmp_path)
    yield found
    found.book.close()


def test_what_one_of_several_does_not_take_is_tried_again_ever_later_until_all_have_it_once(kept: Kept) -> None:
    kept.system.whose = "planner"
    first = kept.taking.take(kept.call("one"))
    assert (first.outcome, first.message_ids, "mailbox_unavailable" in first.reason) == (Outcome.FAILED, (), True)
    waits: list[float | None] = [kept.due_in("one")]
    for _ in range(MOST_TRIES):
        kept.clock.moment += (waits[-1] or 0.0) - 1
        assert kept.taking.sweep() == 0, "its time has not come"
        kept.clock.moment += 2
        assert kept.taking.sweep() == 1
        waits.append(kept.due_in("one"))
    wanted = [min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2**tries) / 1000 for tries in range(MOST_TRIES)]
    assert waits == [*wanted, None]
    assert (kept.has("coder"), kept.has("planner")) == (["one"], [])
    kept.system.whose = ""
    assert kept.taking.sweep() == 0, "nobody tries it any more"
    # A person does, and it is as new: what still does not work is tried again.
    kept.system.whose = "planner"
    for wait in (FIRST_WAIT_MS, 2 * FIRST_WAIT_MS):
        kept.book.make_due(["one", "another"])
        assert kept.taking.sweep() == 1
        assert kept.due_in("one") == FIRST_WAIT_MS / 1000, wait
    kept.system.whose = ""
    # And whoever sends it again has it leave at once.
    sent = kept.taking.take(kept.call("one"))
    assert (sent.outcome, sent.replayed, sent.reason) == (Outcome.SENT, False, "")
    assert kept.due_in("one") is None
    assert (kept.has("coder"), kept.has("planner")) == (["one"], ["one"])
    assert kept.taking.take(kept.call("one")) == msgspec.structs.replace(sent, replayed=True)


def test_what_nobody_takes_for_good_is_kept_as_failed(kept: Kept) -> None:
    (kept.desk.root / "agents/planner").rename(kept.desk.base / "planner")
    roster = kept.desk.root / "meta/config.json"
    roster.write_text(roster.read_text().replace('"planner"', '"other"'))
    assert kept.taking.take(kept.call("one")).outcome is Outcome.FAILED
    assert kept.due_in("one") == FIRST_WAIT_MS / 1000
    [row] = kept.book.newest(Outcome.FAILED, 10)
    assert (row.delivery, row.held is None) == ("one", False)


def test_what_is_to_be_sent_first_is_sent_first_and_counts_then(kept: Kept) -> None:
    """Not delivered, an alarm is not open: the next one is told, and the first is counted once it can be."""
    kept.system.whose = "planner"
    alarm: Any = {"dedupeKey": "db", "source": "monitor"}
    assert kept.taking.take(kept.call("early", **alarm)).outcome is Outcome.FAILED
    kept.clock.moment += 1
    assert kept.taking.take(kept.call("late", **alarm)).outcome is Outcome.FAILED
    kept.system.whose = ""
    kept.clock.moment += 60
    assert kept.taking.sweep() == 2
    rows = {one.delivery: one.outcome for one in kept.book.newest(None, 10)}
    assert rows == {"early": Outcome.SENT, "late": Outcome.COUNTED}
    assert (kept.has("coder"), kept.has("planner")) == (["early", "late"], ["early"])


def test_the_end_of_an_alarm_that_could_not_be_told_yet_is_told_after_it(kept: Kept) -> None:
    """Else the alarm began when it was over, and stayed open: no later one would ever be told."""
    alarm: Any = {"dedupeKey": "db", "source": "monitor"}
    kept.system.whose = "planner"
    kept.taking.take(kept.call("down", **alarm))
    kept.system.whose = ""
    kept.clock.moment += 1
    over = kept.taking.take(kept.call("up", **alarm, status="resolved"))
    assert (over.outcome, over.reason) == (Outcome.FAILED, "begins_first")
    # However often it waits, it has all of its own tries before it.
    kept.system.whose = "planner"
    for tries in (1, 2, 3):
        assert kept.due_in("up") == kept.due_in("down")
        tried = {one.delivery: one.tries for one in kept.book.newest(Outcome.FAILED, 10)}
        assert tried == {"down": tries, "up": 0}
        kept.clock.moment += LONGEST_WAIT_MS / 1000
        assert kept.taking.sweep() == 2
    kept.system.whose = ""
    kept.clock.moment += LONGEST_WAIT_MS / 1000
    kept.taking.sweep()
    rows = {one.delivery: one.outcome for one in kept.book.newest(None, 10)}
    assert rows == {"down": Outcome.SENT, "up": Outcome.RESOLVED}
    assert kept.has("planner") == ["down", "Resolved: up"]
    assert kept.taking.take(kept.call("down again", **alarm)).outcome is Outcome.SENT


def test_a_beginning_that_comes_after_its_end_begins_nothing_however_close_they_were(kept: Kept) -> None:
    def told(at: str, status: str = "") -> str:
        alarm: Any = {"dedupeKey": "db", "source": "monitor", "status": status, "at": f"2026-11-28T09:30:{at}Z"}
        taken = kept.taking.take(kept.call(at, **alarm))
        return taken.reason or taken.outcome.value

    assert told("00.100") == "sent"
    assert told("00.300", "resolved") == "resolved"
    assert told("00.200") == "resolved_already"
    assert told("00.400") == "sent"


def test_of_what_is_open_the_book_keeps_all_that_was_noted_last(kept: Kept) -> None:
    event = Event("alarm", "x", "monitor", key="db")
    noted = [
        Item(is_open=True, occurrences=1, thread="a", moment_ms=100),
        Item(is_open=True, occurrences=2, thread="a", moment_ms=300),
        Item(is_open=False, occurrences=2, thread="a", moment_ms=400),
        Item(is_open=True, occurrences=1, thread="b", moment_ms=None),
    ]
    for item in noted:
        kept.book.put_item(event, item, 1.0)
        assert kept.book.item(event) == item


def test_what_is_over_is_forgotten_after_its_days_and_nothing_else(kept: Kept) -> None:
    taking = kept.taking
    for key in ("closed", "open"):
        taking.take(kept.call(f"{key} begins", dedupeKey=key, source="monitor"))
    taking.take(kept.call("closed ends", dedupeKey="closed", source="monitor", status="resolved"))
    taking.take(kept.call("news"))
    kept.system.whose = "planner"
    taking.take(kept.call("failed"))
    kept.clock.moment += KEPT_DAYS * DAY - 60
    taking.forget()
    assert len(kept.book.newest(None, 10)) == 5
    kept.clock.moment += 120
    taking.forget()
    assert [one.delivery for one in kept.book.newest(None, 10)] == ["failed"]
    assert [(one.item, one.is_open) for one in kept.book.told(10)] == [("open", True)]
    assert taking.take(kept.call("again", dedupeKey="open", source="monitor")).outcome is Outcome.COUNTED


def test_one_delivery_id_with_something_else_is_refused(kept: Kept) -> None:
    kept.taking.take(kept.call("one"))
    with pytest.raises(OtherBody):
        kept.taking.take(kept.call("one", body="else"))
    assert kept.has("coder") == ["one"]


def test_the_book_is_on_the_disk_when_a_change_ends_and_a_change_that_fails_is_none(kept: Kept) -> None:
    assert kept.book._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: what is answered survives a power cut"
    assert kept.book._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    kept.taking.take(kept.call("one"))
    row = kept.book.by_id("one")
    assert row is not None
    with suppress(ZeroDivisionError), kept.book.change():
        kept.book.put(msgspec.structs.replace(row, reason="half done"))
        raise ZeroDivisionError
    assert kept.book.by_id("one") == row
    assert kept.taking.take(kept.call("two")).outcome is Outcome.SENT
    kept.book._db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ConfigFault, match="newer"):
        Book(kept.desk.base / "deliveries.db")
    assert len(kept.book.newest(None, 10)) == 2


# The secret.


def test_a_secret_is_durable_one_mailboxs_own_and_never_empty(tmp_path: Path) -> None:
    done: list[str] = []

    class Watched(SystemCalls):
        def fsync(self, fd: int) -> None:
            done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name.partition('.tmp')[0] or 'secret'}")
            super().fsync(fd)

        def replace(self, source: Path, target: Path) -> None:
            done.append(f"replace {target.name}")
            super().replace(source, target)

    disk = Disk(Watched())
    one, other = (HookPlace(tmp_path / "state", tmp_path / root, "ci", disk) for root in ("mail", "more/mail"))
    one.make()
    assert done[-3:] == ["sync secret", "replace secret", "sync ci"]
    before = one.secret()
    one.make()
    other.make()
    assert one.secret() == before != other.secret()
    assert (one.path / "secret").stat().st_mode & 0o777 == 0o600
    for nothing in (b"", b"\n", b"\xff"):
        (one.path / "secret").write_bytes(nothing)
        with pytest.raises(MailerError, match="the secret of the hook ci") as fault:
            one.secret()
        assert fault.value.fix == "agent-mailer hook secret ci --roll"
    (one.path / "secret").unlink()
    with pytest.raises(MailerError, match="cannot be read"):
        one.secret()


def test_what_could_not_be_written_down_is_told_as_that(kept: Kept) -> None:
    """Whoever calls sends it again; with a 200 it would be lost."""
    body = b'{"title": "x"}'

    def told(secret: Callable[[], str]) -> int:
        headers = signed("secret", body, kept.clock.moment)
        return answer(
            Hook("ci", Source.GENERIC, Rules(), secret),
            kept.taking,
            kept.clock,
            lambda name: headers.get(name, ""),
            body,
        ).status

    def nobody() -> str:
        raise MailerError("no_secret", "it is gone")

    def no_disk() -> str:
        raise OSError(errno.EIO, "it fails")

    assert (told(lambda: "secret"), told(lambda: "other"), told(nobody), told(no_disk)) == (200, 401, 503, 503)
    kept.book.close()
    assert told(lambda: "secret") == 503


# The listener.


@contextmanager
def listening(listener: Listener) -> Iterator[str]:
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_address[1]}/hooks/ci"
    finally:
        listener.stop()
        thread.join()


def a_listener(kept: Kept, kind: type[Listener] = Listener) -> Listener:
    hook = Hook("ci", Source.GENERIC, Rules(), lambda: "secret")
    return kind(("127.0.0.1", 0), hook, kept.taking, kept.clock, kept.said.append)


def test_what_a_listener_before_it_left_is_sent_at_once_and_what_fails_later_at_its_time(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.hooks.listening.LOOK_EVERY", 3600.0)
    for key, looks in (("before", 3600.0), ("later", 0.01)):
        kept.system.whose = "planner"
        kept.taking.take(kept.call(key))
        kept.system.whose = ""
        monkeypatch.setattr("agent_mailer.hooks.listening.LOOK_EVERY", looks)
        if key == "before":
            kept.clock.moment += 61
        with listening(a_listener(kept)):
            if key == "later":
                kept.clock.moment += 61
            until(lambda: key in kept.has("planner"), f"{key} to be sent")  # noqa: B023


def test_who_is_being_answered_when_it_stops_has_the_answer(kept: Kept) -> None:
    delivering, goes_on, order = threading.Event(), threading.Event(), list[str]()

    class Slow(Away):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            delivering.set()
            goes_on.wait(60)
            super().rename_noreplace(source, target)
            order.append("delivered")

    class Closing(Listener):
        def _has_place(self, end: float) -> bool:
            if self._stopping.is_set():
                # It waits for who is being answered.
                goes_on.set()
            return super()._has_place(end)

        def server_close(self) -> None:
            order.append("closed")
            goes_on.set()
            super().server_close()

    kept.taking._mailbox = MaildirMailbox(Disk(Slow()), kept.desk.root, "hook--ci")
    body = b'{"title": "slow"}'
    told: list[str] = []

    def call() -> None:
        answered = httpx.post(url, content=body, headers=signed("secret", body, kept.clock.moment), trust_env=False)
        told.append(answered.json()["outcome"])

    with listening(a_listener(kept, Closing)) as url:
        caller = threading.Thread(target=call)
        caller.start()
        assert delivering.wait(60)
    caller.join()
    assert told == ["sent"]
    assert order[-1] == "closed"


def test_a_place_is_given_back_where_no_thread_can_be_had(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    listener = a_listener(kept)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none)
            for _ in range(MOST):
                with pytest.raises(RuntimeError, match="new thread"):
                    listener.process_request(None, None)
        assert listener._has_place(time.monotonic()), "else it would answer nobody any more"
    finally:
        listener.server_close()


def test_a_book_that_cannot_be_had_just_now_ends_no_listener(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    listener = a_listener(kept)
    kept.book.close()
    listener._look()
    listener.server_close()
    assert "what failed could not be looked at" in caplog.text
