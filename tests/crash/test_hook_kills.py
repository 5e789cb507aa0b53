"""kill -9 of a folder's listener: before and after each call on the disk of one delivery, and at any moment of many."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest
from tests.crash.points import Point, PointedSystem, points
from tests.desk import Desk, until
from tests.hook_desk import HookDesk, mail_of, signed
from tests.sizes import LONG, sizes

from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.hooks.book import Book
from agent_mailer.hooks.taking import Taking
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import make_mailbox
from agent_mailer.outside.calls import Call, read_call
from agent_mailer.outside.event import Source
from agent_mailer.outside.items import Outcome, Taken
from agent_mailer.outside.rules import Rules

SEED = int(os.environ.get("KILL_LOOP_SEED", "20261128"))
SENDERS, ROUNDS = 4, 3


@contextmanager
def taking(desk: Desk, system: SystemCalls) -> Iterator[Taking]:
    book = Book(desk.base / "deliveries.db")
    try:
        make_mailbox(Disk(), desk.root, "hook--ci")
        mailbox = MaildirMailbox(Disk(system), desk.root, "hook--ci")
        yield Taking("ci", mailbox, ("coder",), book, SystemClock(), lambda line: None, lambda before: None)
    finally:
        book.close()


def call(key: str, **said: str) -> Call:
    body = json.dumps({"title": "db is down", "dedupeKey": "db", **said}).encode()
    return read_call(Source.GENERIC, lambda name: "", body, "ci", Rules(), key)


def live(desk: Desk, system: SystemCalls, key: str = "first", change: int = 0) -> int:
    """Another process takes the delivery; the signal that it ended by, or 0. `change`: the one of its book before
    which it dies.
    """
    child = os.fork()
    if child == 0:
        with taking(desk, system) as taker:
            seen = count(1)

            def before(words: str) -> None:
                if words.startswith("BEGIN") and next(seen) == change:
                    os.kill(os.getpid(), signal.SIGKILL)

            taker._book._db.set_trace_callback(before)
            taker.take(call(key))
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("stride", sizes(quick=5, long=1))
def test_a_delivery_is_one_mail_wherever_its_listener_is_killed(tmp_path: Path, stride: int) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "whole").mkdir()
    assert live(Desk(tmp_path / "whole"), PointedSystem(Point(), trace)) == 0
    found = points(trace.read_text().splitlines())
    assert len(found) > 10
    for number, point in enumerate(found[::stride]):
        base = tmp_path / str(number)
        base.mkdir()
        desk = Desk(base)
        assert live(desk, PointedSystem(point)) == signal.SIGKILL, str(point)
        with taking(desk, SystemCalls()) as taker:
            if number % 2:
                assert taker.sweep() == 1, str(point)
                assert taker.take(call("first")).replayed
            else:
                # GitHub's own button is quicker than we are.
                assert taker.take(call("first")).outcome is Outcome.SENT, str(point)
            second, over = taker.take(call("second")), taker.take(call("third", status="resolved"))
        assert (second.outcome, second.occurrence_count) == (Outcome.COUNTED, 2)
        assert (over.outcome, over.occurrence_count) == (Outcome.RESOLVED, 2)
        assert [mail.subject for mail in mail_of(desk.root)] == ["db is down", "Resolved: db is down"], str(point)


@pytest.mark.parametrize("key", ["first", "second"])
def test_mail_and_book_agree_before_whichever_change_of_it_a_listener_dies(tmp_path: Path, key: str) -> None:
    for change in count(1):
        base = tmp_path / str(change)
        base.mkdir()
        desk = Desk(base)
        if key == "second":
            assert live(desk, SystemCalls()) == 0
        killed = live(desk, SystemCalls(), key, change)
        with taking(desk, SystemCalls()) as taker:
            taker.sweep()
            first, second = taker.take(call("first")), taker.take(call("second"))
            over = taker.take(call("third", status="resolved"))
        assert (first.outcome, second.outcome) == (Outcome.SENT, Outcome.COUNTED), change
        assert (second.occurrence_count, over.occurrence_count) == (2, 2), change
        assert [mail.subject for mail in mail_of(desk.root)] == ["db is down", "Resolved: db is down"], change
        if not killed:
            break
    assert change > 1


@LONG
def test_a_killed_listener_loses_no_accepted_delivery_and_has_none_twice(tmp_path: Path) -> None:
    hook = HookDesk(tmp_path)
    chance = random.Random(SEED)
    try:
        hook.start()
        with ThreadPoolExecutor(SENDERS) as pool:
            over: list[bool] = []
            senders = [pool.submit(_send_on, hook, f"s{n}", over) for n in range(SENDERS)]
            for _ in range(ROUNDS):
                before = len(list((hook.desk.root / "agents/coder/inbox/new").iterdir()))
                wanted = before + chance.randrange(1, 40)
                _until_mail(hook, wanted)
                hook.end(signal.SIGKILL)
                hook.start()
            over.append(True)
            accepted = [one for sender in senders for one in sender.result()]
        assert hook.end() == 0
    finally:
        hook.close()
    assert len(accepted) > ROUNDS
    assert all(one.outcome is Outcome.SENT for one in accepted)
    mail = mail_of(hook.desk.root)
    assert sorted(one.subject for one in mail) == sorted(one.delivery for one in accepted), "each once, none missing"
    assert sorted(one.envelope.id for one in mail) == sorted(name for one in accepted for name in one.message_ids)


def _until_mail(hook: HookDesk, many: int) -> None:
    until(lambda: len(list((hook.desk.root / "agents/coder/inbox/new").iterdir())) >= many, f"{many} mails")


def _send_on(hook: HookDesk, name: str, over: list[bool]) -> list[Taken]:
    """Deliveries one after the other, each sent again under its id until it is answered."""
    accepted: list[Taken] = []
    while not over:
        key = f"{name}-{len(accepted)}"
        body = json.dumps({"title": key}).encode()
        while True:
            try:
                answer = hook.post(body, signed(hook.secret, body) | {"Idempotency-Key": key})
            except httpx.TransportError:
                time.sleep(0.05)  # it is being started again
                continue
            break
        assert answer.status_code == 200, answer.text
        said = answer.json()
        accepted.append(Taken(said["delivery"], Outcome(said["outcome"]), message_ids=tuple(said["messageIds"])))
    return accepted
