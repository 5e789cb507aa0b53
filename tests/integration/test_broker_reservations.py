"""Files that an agent has to itself, kept at the broker: one of many has them, until an end by the database's clock."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.desk import Desk
from tests.typed import type_in

from agent_mailer.at_server import reservations_of
from agent_mailer.reservations.port import Owner

pytestmark = pytest.mark.usefixtures("each_database")


def at(agent: dict[str, Any], last: str = "") -> str:
    return f"/agents/{agent['id']}/reservations{last}"


def form(project: str, *patterns: str, **more: Any) -> dict[str, Any]:
    return {"project": project, "patterns": list(patterns), "seconds": 60, "turn": "t1", **more}


def test_all_or_none_is_had_renewed_and_given_back(desk: BrokerDesk, alice: Person) -> None:
    one, other = desk.agent(alice, "res-one"), desk.agent(alice, "res-other")
    key, shop = alice.header, "/srv/shop"
    assert desk.call("POST", at(one), json=form(shop, "src/app/*.py", "docs"), headers=key) == {"many": 2}
    assert desk.call("POST", at(one), json=form(shop, "src/app/*.py", seconds=30), headers=key) == {"many": 1}
    said = desk.call("POST", at(other), 409, json=form(shop, "x", "src/**"), headers=key)
    assert said["reason"] == "reserved"
    assert said["detail"] == f"'src/app/*.py' is reserved by {one['address']}"
    [way] = said["held"]
    assert (way["by"], way["turn"], way["pattern"]) == (one["address"], "t1", "src/app/*.py")
    assert 30 < way["seconds_left"] <= 60
    listed = desk.call("GET", at(other), params={"project": shop}, headers=key)
    assert [row["pattern"] for row in listed] == ["docs", "src/app/*.py"]
    assert desk.call("GET", at(other), params={"project": "/srv/else"}, headers=key) == []
    assert desk.call("POST", at(other), json=form("/srv/else", "src/**"), headers=key) == {"many": 1}
    # Another turn of the same agent, and a person, are somebody else.
    desk.call("POST", at(one), 409, json=form(shop, "docs/a.md", turn="t2"), headers=key)
    desk.call("POST", at(one), 409, json=form(shop, "docs/a.md", turn="", by="operator"), headers=key)
    assert desk.call("POST", at(one, "/renew"), json={"turn": "t1", "seconds": 600}, headers=key) == {"many": 2}
    assert desk.call("GET", at(one), params={"project": shop}, headers=key)[0]["seconds_left"] > 500
    assert desk.call("POST", at(one, "/renew"), json={"turn": "t9", "seconds": 600}, headers=key) == {"many": 0}
    back = {"project": shop, "turn": "t1", "patterns": ["docs"]}
    assert desk.call("POST", at(one, "/release"), json=back, headers=key) == {"many": 1}
    assert desk.call("POST", at(one, "/release"), json={**back, "patterns": []}, headers=key) == {"many": 1}
    assert desk.call("POST", at(one, "/release"), json=back, headers=key) == {"many": 0}
    assert desk.call("POST", at(other), json=form(shop, "src/**"), headers=key) == {"many": 1}
    # What it has in another project it keeps.
    assert desk.call("POST", at(other, "/release"), json={**back, "patterns": []}, headers=key) == {"many": 1}
    [kept] = desk.call("GET", at(one), params={"project": "/srv/else"}, headers=key)
    assert (kept["by"], kept["pattern"]) == (other["address"], "src/**")


@pytest.mark.parametrize(
    ("last", "asked"),
    [("", form("/srv/long", "docs")), ("", form("/srv/long", "src")), ("/renew", {"turn": "t1", "seconds": 60})],
    ids=["more", "the same", "renewed"],
)
def test_what_one_has_ends_no_earlier_because_one_asks_again_for_a_shorter_time(
    desk: BrokerDesk, alice: Person, last: str, asked: dict[str, Any]
) -> None:
    agent = desk.agent(alice, f"long-{uuid.uuid4().hex}")
    desk.call("POST", at(agent), json=form("/srv/long", "src", seconds=7200), headers=alice.header)
    desk.call("POST", at(agent, last), json=asked, headers=alice.header)
    listed = desk.call("GET", at(agent), params={"project": "/srv/long"}, headers=alice.header)
    assert max(row["seconds_left"] for row in listed if row["pattern"] == "src") > 7000
    desk.call("POST", at(agent, "/release"), json={"project": "/srv/long", "turn": "t1"}, headers=alice.header)


@pytest.mark.parametrize(
    ("one", "other", "status"),
    [
        ("src/**/a.py", "src/x/y/a.py", 409),
        ("**/a.py", "src/a.py", 409),
        ("src/*/a.py", "src/x/a.py", 409),
        ("src/?/a.py", "src/x", 409),
        ("src/x", "src/x/y/a.py", 409),
        ("src/*/a.py", "src/x/b.py", 200),
        ("src/x/a.py", "src/y/*", 200),
    ],
)
def test_no_file_is_had_by_two_whoever_asks_first(
    desk: BrokerDesk, alice: Person, one: str, other: str, status: int
) -> None:
    first, second = (desk.agent(alice, f"meet-{word}-{uuid.uuid4().hex}") for word in ("a", "b"))
    for project, patterns in (("/srv/m1", (one, other)), ("/srv/m2", (other, one))):
        for agent, pattern, expected in zip((first, second), patterns, (200, status), strict=True):
            desk.call("POST", at(agent), expected, json=form(f"{project}/{one}/{other}", pattern), headers=alice.header)


def test_of_many_that_ask_at_once_one_has_it(desk: BrokerDesk, alice: Person) -> None:
    crowd = [desk.agent(alice, f"crowd-{n}") for n in range(8)]

    def ask(agent: dict[str, Any]) -> int:
        asked = form("/srv/crowd", "src/**", f"own/{agent['name']}")
        return desk.http.post(at(agent), json=asked, headers=alice.header).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, crowd)) == [200, *[409] * 7]
    assert len(desk.call("GET", at(crowd[0]), params={"project": "/srv/crowd"}, headers=alice.header)) == 2


def test_what_has_run_out_by_the_databases_clock_is_free(desk: BrokerDesk, alice: Person) -> None:
    one, other = desk.agent(alice, "end-one"), desk.agent(alice, "end-other")
    desk.call("POST", at(one), json=form("/srv/end", "src"), headers=alice.header)
    desk.call("POST", at(other), 409, json=form("/srv/end", "src"), headers=alice.header)
    desk.sql("UPDATE file_reservations SET ends_ms = ends_ms - 61000 WHERE project = '/srv/end'")
    assert desk.call("POST", at(one, "/renew"), json={"turn": "t1", "seconds": 60}, headers=alice.header)["many"] == 0
    desk.call("POST", at(other), json=form("/srv/end", "src"), headers=alice.header)
    assert len(desk.sql("SELECT 1 FROM file_reservations WHERE project = '/srv/end'")) == 1


BAD: list[dict[str, Any]] = [
    {"patterns": []},
    {"patterns": ["x"] * 101},
    {"patterns": [f"p{n}" for n in range(10_000)]},
    *({"patterns": [one]} for one in ("/", "/etc", "../x", "a/../b", "a//b", "", " ", "a\0b", "a\nb", "x" * 201, ".")),
    *({"seconds": one} for one in (0, -1, 30 * 86400 + 1, "soon", 1e300)),
    *({"project": one} for one in ("", "x" * 4097, "a\0")),
    *({"by": one} for one in ("a@b.c", "a b", "x" * 61)),
    {"turn": "x" * 65},
]


@pytest.mark.parametrize("change", BAD, ids=lambda one: str(one)[:40])
def test_bad_input_is_refused(desk: BrokerDesk, alice: Person, change: dict[str, Any]) -> None:
    agent = next(iter(desk.call("GET", "/agents", headers=alice.header)), None) or desk.agent(alice, "bad-one")
    desk.call("POST", at(agent), 422, json={**form("/srv/bad", "src"), **change}, headers=alice.header)


def test_of_others_there_is_nothing_and_nobody_takes_all(
    desk: BrokerDesk, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    hers, his = desk.agent(alice, "hers-r"), desk.agent(bob, "his-r")
    desk.call("POST", at(hers), json=form("/srv/both", "src"), headers=alice.header)
    assert desk.call("GET", at(his), params={"project": "/srv/both"}, headers=bob.header) == []
    desk.call("POST", at(his), json=form("/srv/both", "src"), headers=bob.header)
    # Two people of one name.
    person: dict[str, Any] = {"turn": "", "by": "operator"}
    for agent, key in ((hers, alice.header), (his, bob.header)):
        desk.call("POST", at(agent), json=form("/srv/named", "docs", **person), headers=key)
    assert desk.call("POST", at(hers, "/release"), json={"project": "/srv/named", **person}, headers=alice.header) == {
        "many": 1
    }
    assert desk.call("POST", at(his, "/renew"), json={"seconds": 60, **person}, headers=bob.header) == {"many": 1}
    assert desk.call("POST", at(his, "/release"), json={"project": "/srv/named", **person}, headers=bob.header) == {
        "many": 1
    }
    desk.call("GET", at(hers), 404, params={"project": "/srv/both"}, headers=bob.header)
    for last in ("", "/renew", "/release"):
        desk.call("POST", at(hers, last), 404, json=form("/srv/both", "src"), headers=bob.header)
    bound = {"X-API-Key": desk.own_agent(alice, "bound-r")["api_key_plaintext"]}
    desk.call("POST", at(hers), 403, json=form("/srv/both", "src"), headers=bound)
    standing = desk.sql(f"SELECT 1 FROM file_reservations WHERE user_id = '{bob.id}'")
    monkeypatch.setattr("agent_mailer.broker.reservations.rows.MOST_STANDING", len(standing) + 2)
    said = desk.call("POST", at(his), 409, json=form("/srv/more", "a", "b", "c"), headers=bob.header)
    assert said["reason"] == "too_many"
    desk.call("POST", at(his), json=form("/srv/more", *[f"{'?*' * 60}{n}" for n in range(2)]), headers=bob.header)
    monkeypatch.setattr("agent_mailer.broker.reservations.rows.MOST_STANDING", 1000)
    wide = form("/srv/more", *[f"{'*?' * 60}{n}" for n in range(100)], turn="t2")
    assert desk.call("POST", at(his), 409, json=wide, headers=bob.header)["reason"] in ("too_many", "reserved")


def test_two_watchers_keep_them_at_the_broker(desk: BrokerDesk, alice: Person, tmp_path: Path) -> None:
    one, other = desk.agent(alice, "keeps-one"), desk.agent(alice, "keeps-other")
    box = Desk(tmp_path)
    shown = {"maildir_root": "", "broker_url": desk.url, "api_key": alice.key, "project_dir": str(tmp_path)}
    box.configure(**shown, agent_id=other["id"], address=other["address"])
    second = reservations_of(box.place(), other["address"])
    box.configure(agent_id=one["id"], address=one["address"])
    first = reservations_of(box.place(), one["address"])

    async def scenario() -> None:
        assert await first.take("t1", ["src/**"], 60.0) == []
        (way,) = await second.take("t2", ["src/x.py"], 60.0)
        assert way.owner == Owner(one["address"], "t1")
        now = box.place().clock.now()
        assert now + 30 < way.until <= now + 60
        assert await first.renew("t1", 120.0)
        assert not await second.renew("t2", 120.0)
        assert [held.pattern for held in await second.held()] == ["src/**"]

    asyncio.run(scenario())
    refused = type_in(box.workdir, "mail", "reserve", "src/y.py")
    assert (refused.status, f"held by {one['address']}" in refused.err) == (1, True)
    assert type_in(box.workdir, "mail", "reserve", "docs").status == 0
    listed = type_in(box.workdir, "mail", "reservations", "--json").json["reservations"]
    assert [(row["path"], row["by"]) for row in listed] == [("docs", "operator"), ("src/**", one["address"])]
    assert type_in(box.workdir, "mail", "release", "--json").json["released"] == 1
    assert type_in(box.workdir, "mail", "reserve", "x", "--as", other["address"]).status == 2
    assert asyncio.run(first.release("t1")) == 1
