"""Mail is found by its words, on either database, as soon as it is there and not when it is gone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.desk import until

pytestmark = pytest.mark.usefixtures("each_database")


def search(desk: BrokerDesk, person: Person, q: str, **query: Any) -> Any:
    return desk.call("GET", "/admin/search", params={"q": q, **query}, headers=person.login)


def found(desk: BrokerDesk, person: Person, q: str) -> list[str]:
    return [one["message_id"] for one in search(desk, person, q)["messages"]]


def test_a_message_is_found_by_its_words(desk: BrokerDesk, alice: Person) -> None:
    one, two = desk.agent(alice, "one"), desk.agent(alice, "two")
    sent = desk.send(alice, one, two["address"], subject="Flaky Harvest", body="The migration of users.db failed.")
    other = desk.send(alice, two, one["address"], subject="Re", body="harvest again; 请审查这个补丁")
    answer = search(desk, alice, "migration FAILED")
    assert answer == {
        "messages": [
            {
                "message_id": sent["id"],
                "thread_id": sent["thread_id"],
                "subject": "Flaky Harvest",
                "body_snippet": "The migration of users.db failed.",
                "from_agent": one["address"],
                "to_agent": two["address"],
                "created_at": sent["created_at"],
            }
        ],
        "total": 1,
        "page": 1,
        "page_size": 20,
        "total_pages": 1,
        "query": "migration FAILED",
    }
    assert found(desk, alice, "harvest") == [other["id"], sent["id"]], "the newest first"
    assert found(desk, alice, "审查") == [other["id"]]
    assert found(desk, alice, "补") == [other["id"]]
    assert found(desk, alice, "migr*") == [sent["id"]]
    for nothing in ("migr", "unheard", "harvest unheard", "!!", "*", '"', "' OR 1=1 --", "NOT", "users.db AND nowhere"):
        answer = search(desk, alice, nothing)
        assert (answer["messages"], answer["total"], answer["total_pages"]) == ([], 0, 1), nothing


def test_pages(desk: BrokerDesk, alice: Person) -> None:
    one = desk.agent(alice, "pages")
    made = [desk.send(alice, one, one["address"], body="turnip")["id"] for _ in range(5)]
    pages = [search(desk, alice, "turnip", page=n, page_size=2) for n in (1, 2, 3, 4)]
    assert [m["message_id"] for page in pages for m in page["messages"]] == made[::-1]
    assert {(page["total"], page["total_pages"]) for page in pages} == {(5, 3)}
    for bad in (
        {"q": ""},
        {"q": "x" * 201},
        {"q": "x", "page": 0},
        {"q": "x", "page_size": 101},
        {"q": "x", "page": "y"},
    ):
        desk.call("GET", "/admin/search", 422, params=bad, headers=alice.login)
    desk.call("GET", "/admin/search", 422, headers=alice.login)
    desk.call("GET", "/admin/search", 401, params={"q": "x"}, headers=alice.header)


def test_who_shares_a_word_shares_nothing_else(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    hers, his = desk.agent(alice, "hers"), desk.agent(bob, "his")
    sent = desk.send(alice, hers, hers["address"], body="parsnip")
    owner = f"u{alice.id.replace('-', '')}"
    mine = desk.send(bob, his, his["address"], body=f"parsnip {owner} swede")
    assert found(desk, alice, "parsnip") == [sent["id"]]
    assert found(desk, bob, "parsnip") == [mine["id"]]
    assert found(desk, alice, "swede") == []


def test_what_is_put_away_is_found_and_what_is_deleted_for_good_is_not(desk: BrokerDesk, alice: Person) -> None:
    one = desk.agent(alice, "away")
    sent = [desk.send(alice, one, one["address"], subject="rutabaga", body=f"n{n}") for n in range(2)]
    thread = f"/admin/threads/{sent[0]['thread_id']}"
    desk.call("POST", f"{thread}/trash", headers=alice.login)
    assert len(found(desk, alice, "rutabaga")) == 2
    desk.call("POST", f"{thread}/purge", headers=alice.login)
    assert found(desk, alice, "rutabaga") == [sent[1]["id"]]
    desk.call("POST", f"/admin/messages/{sent[1]['id']}/trash", headers=alice.login)
    desk.call("POST", f"/admin/messages/{sent[1]['id']}/purge", headers=alice.login)
    answer = search(desk, alice, "rutabaga")
    assert (answer["messages"], answer["total"]) == ([], 0), "its words are gone from the index, too"


def test_one_message_of_every_text(desk: BrokerDesk, alice: Person) -> None:
    """What the tokenizers of the databases might take apart in another way than we do."""
    one = desk.agent(alice, "texts")
    for number, body in enumerate(
        ["ǅungla", "İstanbul", "١٢٣", "Ⅷ", "🙂 smile🙂", "a\u0301cute", "हिन्दी भाषा", "\u202eabc"]
    ):
        sent = desk.send(alice, one, one["address"], body=f"{body} beet{number}")
        for asked in (f"{body} beet{number}", f"beet{number}"):
            assert found(desk, alice, asked) == [sent["id"]], asked


def test_what_is_erased_before_it_is_in_the_index_never_comes_into_it(desk: BrokerDesk, alice: Person) -> None:
    one = desk.agent(alice, "early")
    sent = [desk.send(alice, one, one["address"], body=f"celeriac {n}") for n in range(3)]
    for message in sent[:2]:
        desk.call("POST", f"/admin/messages/{message['id']}/trash", headers=alice.login)
        desk.call("POST", f"/admin/messages/{message['id']}/purge", headers=alice.login)
    assert found(desk, alice, "celeriac") == [sent[2]["id"]]
    desk.call("POST", f"/admin/messages/{sent[2]['id']}/trash", headers=alice.login)
    desk.call("POST", f"/admin/messages/{sent[2]['id']}/purge", headers=alice.login)
    late = desk.send(alice, one, one["address"], body="celeriac, at last")
    assert found(desk, alice, "celeriac") == [late["id"]]
    if desk.settings.database.startswith("sqlite"):
        desk.sql("INSERT INTO message_words (message_words) VALUES ('integrity-check')")


def test_new_mail_comes_into_a_files_index_without_a_search_and_after_a_restart(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk:
        ann = desk.person("ann")
        one = desk.agent(ann, "one")
        first = desk.send(ann, one, one["address"], body="salsify")
        until(lambda: indexed(desk, first["id"]), "the first in the index")
        second = desk.send(ann, one, one["address"], body="salsify again")
    desk_of_old = sqlite3.connect(tmp_path / "broker.db") if desk.settings.database.startswith("sqlite") else None
    if desk_of_old is not None:
        # As whoever was killed right after a commit leaves it.
        desk_of_old.execute("DELETE FROM searchable WHERE message_id = ?", (second["id"],))
        desk_of_old.commit()
        desk_of_old.close()
    with running_broker(tmp_path) as again:
        until(lambda: indexed(again, second["id"]), "the second in the index")
        assert indexed(again, first["id"])


def indexed(desk: BrokerDesk, message_id: str) -> bool:
    return bool(desk.sql("SELECT number FROM searchable WHERE message_id = :id", id=message_id))
