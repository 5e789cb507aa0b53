"""What of an inbox comes next at the broker: each thread's oldest and most urgent, however much waits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from tests.broker_desk import BrokerDesk, running_broker
from tests.databases import ON_A_FILE
from tests.integration.test_broker_inbox import Box
from tests.sizes import LONG

from agent_mailer.broker.messages.waiting import RANKS, heads, note_changed
from agent_mailer.broker.migrations.v0005_waiting import FILL
from agent_mailer.broker.migrations.v0009_totals import COUNTED
from agent_mailer.mailbox.amp.wire import parse_message
from agent_mailer.mailbox.port import Envelope, oldest_of_each

pytestmark = pytest.mark.usefixtures("each_database")
OLD = "2020-01-01T00:00:00.000000+00:00"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), claim_seconds=3600.0) as desk:
        yield desk


@pytest.fixture(scope="module")
def boxes(desk: BrokerDesk) -> Iterator[Box]:
    alice = desk.person("alice")
    planner = desk.agent(alice, "planner")
    return (Box(desk, alice, planner, f"coder{number}") for number in range(100))


@pytest.fixture
def box(boxes: Iterator[Box]) -> Box:
    return next(boxes)


def numbers(messages: Sequence[dict[str, Any]]) -> list[int]:
    return [message["cursor"] for message in messages]


def held_beside(desk: BrokerDesk) -> list[Any]:
    return sorted(map(tuple, desk.sql("SELECT * FROM waiting_threads")))


def follows_from_the_messages(desk: BrokerDesk) -> list[Any]:
    """What a new database would begin with."""
    return sorted(map(tuple, desk.sql(FILL[FILL.index("SELECT") :])))


def totals_kept(desk: BrokerDesk) -> list[Any]:
    return sorted(map(tuple, desk.sql("SELECT id, inbox_total, inbox_unread FROM agents")))


def totals_counted(desk: BrokerDesk) -> list[Any]:
    return sorted(map(tuple, desk.sql(COUNTED)))


def test_an_empty_inbox(box: Box) -> None:
    assert box.get(heads=True) == {"messages": [], "cursor": 0, "more": False}


def test_all_of_few_and_without_bodies(box: Box) -> None:
    sent = box.fill(3)
    left_out = {"body", "body_html", "attachments"}
    without = [{name: value for name, value in message.items() if name not in left_out} for message in sent]
    assert box.get(heads=True) == {"messages": without, "cursor": 3, "more": False}
    assert box.get(heads=True, limit=3)["more"] is False
    box.claim(sent[0])
    box.mark(sent[1])
    assert box.get(heads=True) == {"messages": without[2:], "cursor": 3, "more": False}
    box.desk.sql("UPDATE messages SET claimed_at = :old WHERE id = :id", old=OLD, id=sent[0]["id"])
    assert numbers(box.get(heads=True)["messages"]) == [1, 3], "a claim does not last for ever"
    assert [box.get(heads=True, limit=limit)["more"] for limit in (1, 2)] == [True, False]


def test_a_flood_hides_no_other_thread_and_the_urgent_come_first(box: Box) -> None:
    box.fill(30, thread_id="flood")
    box.fill(1, thread_id="late")
    box.fill(3, thread_id="pressing")
    box.fill(1, thread_id="pressing", priority="urgent")
    found = box.get(heads=True, limit=2)
    assert (numbers(found["messages"]), found["cursor"], found["more"]) == ([32, 35], 35, True)
    assert numbers(box.get(heads=True, limit=4)["messages"]) == [1, 31, 32, 35]
    assert numbers(box.get(heads=True, limit=6)["messages"]) == [1, 2, 3, 31, 32, 35]


def test_what_was_taken_makes_room_for_the_next_of_its_thread(box: Box) -> None:
    sent = box.fill(6, thread_id="one") + box.fill(2, thread_id="two")
    for step, expected in enumerate(([1, 7], [2, 7], [3, 7], [4, 7])):
        assert numbers(box.get(heads=True, limit=2)["messages"]) == expected
        (box.claim, box.mark)[step % 2](sent[step])
    box.mark(sent[0], "unread")
    assert numbers(box.get(heads=True, limit=2)["messages"]) == [5, 7]
    assert numbers(box.get(heads=True)["messages"]) == [5, 6, 7, 8, 9]


def test_a_thread_comes_first_as_long_as_something_in_it_is_urgent(box: Box) -> None:
    box.fill(2, thread_id="old")
    box.fill(1, thread_id="pressing")
    for urgent in box.fill(2, thread_id="pressing", priority="urgent"):
        assert numbers(box.get(heads=True, limit=2)["messages"]) == [3, urgent["cursor"]]
        box.claim(urgent)
    assert numbers(box.get(heads=True, limit=1)["messages"]) == [1]


@pytest.mark.parametrize("seed", range(2))
def test_any_history_leaves_what_follows_from_the_messages(box: Box, seed: int) -> None:
    lot = random.Random(seed)
    waiting: dict[str, dict[str, Any]] = {}
    taken: dict[str, dict[str, Any]] = {}
    for step in range(60):
        what = lot.choice(("send", "send", "send", "claim", "read", "unread", "again"))
        some = taken if what == "unread" else waiting
        if what == "send" or not some:
            fields = {"thread_id": f"t{lot.randrange(6)}-{box.agent['id']}", "priority": lot.choice(RANKS)}
            for sent in box.fill(lot.randrange(1, 4), **fields):
                waiting[sent["id"]] = sent
        else:
            one = some.pop(lot.choice([*some]))
            if what == "claim":
                box.claim(one)
            elif what == "read":
                box.mark(one)
            taken[one["id"]] = one
            if what in ("unread", "again"):
                waiting[one["id"]] = box.mark(taken.pop(one["id"]), "unread")
            elif what != "unread" and lot.random() < 0.3:
                box.mark(one)  # perhaps a second time
        if step % 5 == 0:
            limit = lot.randrange(1, 12)
            found = box.get(heads=True, limit=limit)
            assert numbers(found["messages"]) == [number_of(one) for one in chosen(waiting, limit)]
            assert found["more"] == (len(waiting) > limit)
    assert held_beside(box.desk) == follows_from_the_messages(box.desk)
    assert totals_kept(box.desk) == totals_counted(box.desk)


def chosen(waiting: dict[str, dict[str, Any]], limit: int) -> tuple[Envelope, ...]:
    """What a mailbox that has all of it before its eyes would choose."""
    heard = [parse_message(json.dumps(message).encode()) for message in waiting.values()]
    return oldest_of_each([one.message.envelope for one in heard], limit)  # type: ignore[union-attr]


def number_of(envelope: Envelope) -> int:
    return int(envelope.order)


def test_those_who_send_and_take_at_once_leave_it_true(box: Box) -> None:
    """Senders into one thread, beside those who take of it and mark, so that it runs empty again and again."""
    fields = {"thread_id": f"shared-{box.agent['id']}"}

    def send(_: int) -> None:
        for _ in range(15):
            box.fill(1, **fields)

    def take(number: int) -> None:
        for _ in range(20):
            for message in box.get(heads=True, limit=4)["messages"]:
                headers = {**box.alice.header, "X-Agent-Mailer-Watcher": f"w{number}"}
                box.desk.http.post(f"/messages/{message['id']}/claim", headers=headers)

    def mark(number: int) -> None:
        lot = random.Random(number)
        for _ in range(10):
            for message in box.get(after=0, limit=6, all=True)["messages"]:
                box.mark(message, lot.choice(("read", "read", "unread")))

    with ThreadPoolExecutor(9) as pool:
        works = [pool.submit(work, number) for number in range(3) for work in (send, take, mark)]
        for work in works:
            work.result(60)
    assert held_beside(box.desk) == follows_from_the_messages(box.desk)
    assert totals_kept(box.desk) == totals_counted(box.desk)
    rest = box.get(heads=True, limit=1000)
    waiting = box.get(after=0, limit=1000, claimed=False, bodies=False)["messages"]
    assert rest["messages"] == waiting


@ON_A_FILE
@LONG
def test_a_look_costs_the_same_with_a_hundred_thousand_waiting_or_claimed(box: Box) -> None:
    """What SQLite does for it, and for taking one: at ten, behind 50,000 that are claimed, before 50,000 in a flood."""
    box.fill(10)
    before = [steps(box, 10), taking(box)]
    (model,) = box.fill(1)
    for number, (first, last, claimed) in enumerate(((100, 50_000, "2999"), (50_001, 100_000, None))):
        row = box.desk.sql("SELECT * FROM messages WHERE id = :id", id=model["id"])[0]._mapping
        fields = {**row, "claimed_at": claimed, "thread_id": f"flood{number}"}
        names = [name for name in fields if name not in ("id", "seq", "idempotency_key")]
        box.desk.sql(
            f"WITH RECURSIVE up(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM up WHERE n < {last})"
            f" INSERT INTO messages (id, seq, {', '.join(names)})"
            f" SELECT 'bulk-' || n, n, {', '.join(f':{name}' for name in names)} FROM up",
            **fields,
        )
    box.desk.sql("UPDATE agents SET inbox_seq = 100000 WHERE id = :id", id=box.agent["id"])
    box.desk.sql("DELETE FROM waiting_threads")
    box.desk.sql(FILL)
    after = [steps(box, 10), taking(box)]
    assert all(many < 2 * few + 200 for few, many in zip(before, after, strict=True)), (before, after)


def steps(box: Box, limit: int) -> int:
    return counted(box, lambda c: heads(c, box.agent["id"], limit, OLD))


def taking(box: Box) -> int:
    (first, *_) = box.get(heads=True, limit=1)["messages"]
    taken = {(box.agent["id"], first["thread_id"]): {first["cursor"]}}
    return counted(box, lambda c: note_changed(c, taken, ()))


def counted(box: Box, work: Callable[[Connection], object]) -> int:
    """The instructions of the database; what it changes is undone."""
    engine = create_engine(box.desk.settings.database)
    seen = 0

    def step() -> None:
        nonlocal seen
        seen += 1

    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(step, 1)
        work(connection)
        driver.set_progress_handler(None, 1)
        connection.rollback()
    engine.dispose()
    return seen
