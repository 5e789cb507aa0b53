"""The checker of histories: it finds what was planted, in acts that were written down and in a database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.broker_desk import BrokerDesk, running_broker
from tests.broker_process import Account
from tests.crash.history import Act, Kind, Stored, Told, faults
from tests.crash.mail_clients import Clients
from tests.sizes import LONG

YES, NO, UNKNOWN = Told.YES, Told.NO, Told.UNKNOWN


def claim(client: str, began: float, ended: float, told: Told) -> Act:
    return Act(client, Kind.CLAIM, "m", began, ended, told)


def settle(client: str, began: float, ended: float, told: Told = YES) -> Act:
    return Act(client, Kind.SETTLE, "m", began, ended, told)


def send(key: str, began: float, ended: float, told: Told = YES) -> Act:
    return Act("s", Kind.SEND, key, began, ended, told)


SOUND = {
    "one after the other": [claim("a", 1, 2, YES), claim("b", 3, 4, NO), settle("a", 5, 6), claim("b", 7, 8, NO)],
    "at the same time": [claim("a", 1, 5, YES), claim("b", 2, 3, NO)],
    "twice the same": [claim("a", 1, 2, YES), claim("a", 3, 4, YES)],
    "an answer that was lost": [claim("a", 1, 2, UNKNOWN), claim("b", 3, 4, NO)],
    "or a request": [claim("a", 1, 2, UNKNOWN), claim("b", 3, 4, YES)],
    "which comes late": [claim("a", 1, 2, UNKNOWN), claim("b", 3, 4, YES), settle("b", 5, 6), claim("c", 7, 8, NO)],
}
WRONG = {
    "a double claim": [claim("a", 1, 2, YES), claim("b", 3, 4, YES)],
    "at the same time": [claim("a", 1, 5, YES), claim("b", 2, 3, YES)],
    "one that waits for nobody": [claim("a", 1, 2, NO), claim("a", 3, 4, NO)],
    "given after it was settled": [claim("a", 1, 2, YES), settle("a", 3, 4), claim("b", 5, 6, YES)],
    "lost by its owner": [claim("a", 1, 2, YES), claim("a", 3, 4, NO)],
    "two of three": [claim("a", 1, 9, UNKNOWN), claim("b", 2, 3, YES), claim("c", 4, 5, YES)],
}


@pytest.mark.parametrize("acts", SOUND.values(), ids=SOUND)
def test_what_can_be(acts: list[Act]) -> None:
    assert faults(acts, []) == []


@pytest.mark.parametrize("acts", WRONG.values(), ids=WRONG)
def test_what_cannot_be(acts: list[Act]) -> None:
    assert len(faults(acts, [])) == 1


def test_what_is_stored() -> None:
    acts = [send("a", 1, 2), send("b", 3, 4), send("c", 3, 5), send("d", 6, 7, UNKNOWN), send("e", 8, 9, NO)]

    def stored(*keys: str) -> list[Stored]:
        return [Stored(f"{key}{place}", key, place) for place, key in enumerate(keys)]

    for sound in (("a", "b", "c"), ("a", "c", "b"), ("a", "b", "c", "d"), ("d", "a", "b", "c")):
        assert faults(acts, stored(*sound)) == []
    for wrong, word in (
        (("a", "b"), "lost"),
        (("b", "a", "c"), "behind"),
        (("a", "b", "c", "c"), "more than once"),
        (("a", "b", "c", "e"), "refused"),
        (("a", "b", "c", "x"), "nobody"),
    ):
        found = faults(acts, stored(*wrong))
        assert found, wrong
        assert word in found[0]


PLANTS = {
    "nothing": ((), None),
    "a lost message": (("DELETE FROM receipts", "DELETE FROM messages WHERE body = 's0-5'"), "lost"),
    "a re-ordered one": (
        (
            "UPDATE agents SET inbox_seq = inbox_seq + 1 WHERE name = 'reader'",
            "UPDATE messages SET seq = (SELECT max(inbox_seq) FROM agents) WHERE body = 's0-1'",
        ),
        "behind",
    ),
    "a double one": (("UPDATE messages SET body = 's0-2' WHERE body = 's0-3'",), "more than once"),
}


@LONG
@pytest.mark.parametrize(("statements", "word"), PLANTS.values(), ids=PLANTS)
def test_what_is_planted_in_a_database_is_found(tmp_path: Path, statements: tuple[str, ...], word: str | None) -> None:
    with running_broker(tmp_path) as desk:
        found = history(desk, statements)
    assert (word is None) == (found == []), found
    assert word is None or any(word in one for one in found)


@LONG
def test_a_claim_that_the_broker_forgets_is_found(tmp_path: Path) -> None:
    """Two watchers, between whom somebody frees what the first one has."""
    with running_broker(tmp_path) as desk:
        alice = desk.person("alice")
        reader = desk.agent(alice, "reader")
        sent = desk.send(alice, reader, reader["address"])
        acts: list[Act] = []
        for moment, name in enumerate(("a", "b")):
            header = {**alice.header, "X-Agent-Mailer-Watcher": name}
            answer = desk.http.post(f"/messages/{sent['id']}/claim", headers=header)
            told = YES if answer.status_code == 200 else NO
            acts.append(Act(name, Kind.CLAIM, sent["id"], moment, moment + 0.5, told))
            assert (moment == 0) or (told is YES)
            desk.sql("UPDATE messages SET claimed_by = NULL, claimed_at = NULL")
    assert len(faults(acts, [])) == 1


def history(desk: BrokerDesk, planted: tuple[str, ...]) -> list[str]:
    alice = desk.person("alice")
    account = Account(alice.name, alice.token, alice.key)
    reader, *senders = (desk.agent(alice, name) for name in ("reader", "s0", "s1"))

    async def play() -> list[str]:
        clients = Clients([desk.url], account, reader, seed=1)
        over = asyncio.Event()
        working = [asyncio.create_task(clients.work(f"w{number}", over)) for number in range(2)]
        await asyncio.gather(*(clients.send(sender, 12) for sender in senders))
        over.set()
        await asyncio.gather(*working)
        for statement in planted:
            await asyncio.to_thread(desk.sql, statement)
        found = faults(clients.acts, await clients.stored())
        await clients.close()
        return found

    return asyncio.run(play())
