"""What an operator does with a broker's data: copies, puts back, looks over, counts, takes out; while it serves."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, select
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.broker_process import BrokerProcess, join
from tests.databases import ON_A_FILE, database_of
from tests.sizes import LONG, thinned
from tests.typed import Typed, type_in

from agent_mailer.broker.data import find_data
from agent_mailer.broker.database import Executor
from agent_mailer.broker.migrate import HEAD, upgrade
from agent_mailer.broker.upkeep.backup import back_up
from agent_mailer.broker.upkeep.derived import reflected
from agent_mailer.progress import Step

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
NOT_KEPT = ("last_used_at", "last_seen")
MOMENT = "2026-11-21T08:15:00.000000+00:00"
pytestmark = pytest.mark.usefixtures("each_database")


def command(place: Path, *words: str | Path) -> Typed:
    """`agent-mailer broker WORDS` over the database that belongs to that folder."""
    env = {"AGENT_MAILER_DATABASE_URL": database_of(place), "AGENT_MAILER_UPLOAD_DIR": str(place / "uploads")}
    return type_in(place, "broker", *words, env=env)


def rows_of(url: str) -> dict[str, list[str]]:
    """Every row of every table, but of those that say who serves just now, and without who was seen when."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            found = reflected(connection)
            return {
                table.name: sorted(
                    repr(tuple(row))
                    for row in connection.execute(select(*(one for one in table.columns if one.name not in NOT_KEPT)))
                )
                for table in found.sorted_tables
                if table.name not in ("processes", "leases")
            }
    finally:
        engine.dispose()


def require_same(there: dict[str, list[str]], after: str) -> None:
    """Row by row, in every table; but that it was put back is written down."""
    here = rows_of(after)
    more = set(here.pop("audit_log")) - set(there.pop("audit_log"))
    assert more
    assert all("restored" in row for row in more)
    assert here == there


def send(desk: BrokerDesk, person: Person, sender: dict[str, Any], to: str, **fields: Any) -> dict[str, Any]:
    form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": to, **fields}
    sent: dict[str, Any] = desk.call("POST", "/messages/send", json=form, headers=person.header)
    return sent


class Filled:
    """Two users; mail of every kind, a picture, a receipt, a message that was read."""

    def __init__(self, desk: BrokerDesk) -> None:
        self.desk = desk
        self.ann, self.bob = desk.person("ann"), desk.person("bob")
        self.coder, self.tester = desk.agent(self.ann, "coder"), desk.agent(self.ann, "tester")
        self.other = desk.agent(self.bob, "other")
        first = send(desk, self.ann, self.coder, self.tester["address"], subject="straße \N{SNOWMAN}", body="1\n" * 9)
        self.reply = send(
            desk, self.ann, self.tester, self.coder["address"], action="reply", parent_id=first["id"], body="2"
        )
        send(desk, self.ann, self.coder, self.tester["address"], body="3", priority="urgent", labels=["a", "b"])
        send(desk, self.bob, self.other, self.other["address"], body="bob's own secret", attachments=[{"x": [1, None]}])
        desk.call("PATCH", f"/messages/{first['id']}/read", headers=self.ann.header)
        receipt = {"stage": "started", "turn_id": "t-1", "watcher": "w"}
        desk.call("POST", f"/messages/{self.reply['id']}/receipts", 201, json=receipt, headers=self.ann.header)
        files = {"file": ("cat.png", PICTURE)}
        self.picture = desk.call("POST", "/files/upload", files=files, headers=self.ann.header)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Filled]:
    place = tmp_path / "served"
    place.mkdir()
    with running_broker(place) as desk:
        yield Filled(desk)


def place_of(filled: Filled) -> Path:
    return filled.desk.database.parent


def another(tmp_path: Path, name: str = "another") -> Path:
    place = tmp_path / name
    place.mkdir()
    return place


def test_what_was_backed_up_while_it_served_is_put_back_and_goes_on(served: Filled, tmp_path: Path) -> None:
    place, file = place_of(served), tmp_path / "backup"
    made = command(place, "backup", file)
    assert made.status == 0, made
    assert file.stat().st_mode & 0o777 == 0o600
    rest = another(tmp_path)
    put = command(rest, "restore", file, "--json")
    assert (put.status, put.json["files"]) == (0, 1), put
    require_same(rows_of(database_of(place)), database_of(rest))
    whole = command(rest, "check")
    assert whole.status == 0, whole
    with running_broker(rest) as again:
        inbox = f"/messages/inbox/{served.tester['address']}"
        question = {"agent_id": served.tester["id"], "after": 0, "all": True}
        listed = again.call("GET", inbox, params=question, headers=served.ann.header)
        assert [one["body"] for one in listed["messages"]] == ["1\n" * 9, "3"]
        assert again.call("GET", "/users/me", headers=served.ann.login)["username"] == "ann"
        picture = again.http.get(f"/files/{served.picture['id']}")
        assert picture.content == PICTURE
        receipt = {"stage": "settled", "turn_id": "t-1", "watcher": "w", "outcome": "done", "final": True}
        again.call("POST", f"/messages/{served.reply['id']}/receipts", 201, json=receipt, headers=served.ann.header)
        sent = send(again, served.ann, served.coder, served.tester["address"], body="4")
        assert sent["cursor"] == listed["cursor"] + 1


def test_a_backup_is_of_one_moment_whatever_arrives_from_table_to_table(served: Filled, tmp_path: Path) -> None:
    place, desk, arrived = place_of(served), served.desk, itertools.count()
    data = find_data(place, database_of(place), {"AGENT_MAILER_UPLOAD_DIR": str(place / "uploads")})
    then = rows_of(data.database)

    def arrive(_step: Step) -> None:
        new = desk.agent(served.ann, f"new{next(arrived)}")
        desk.send(served.ann, served.coder, [new["address"], served.tester["address"]], body="more")

    back_up(data, tmp_path / "backup", arrive)
    assert next(arrived) >= len(then), "before each table, and the uploads"
    rest = another(tmp_path)
    assert command(rest, "restore", tmp_path / "backup").status == 0
    require_same(then, database_of(rest))
    # Totals and what waits are those of the mail that is there.
    whole = command(rest, "check")
    assert whole.status == 0, whole


@LONG
def test_what_a_file_held_goes_on_in_a_server_and_back(
    served: Filled, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if database_of(tmp_path).startswith("sqlite"):
        pytest.skip("the other half has a server")
    place = another(tmp_path)
    there = tmp_path / "file"
    assert command(place_of(served), "backup", tmp_path / "1").status == 0
    assert type_in(tmp_path, "broker", "restore", tmp_path / "1", "--data", there).status == 0
    assert type_in(tmp_path, "broker", "check", "--data", there).status == 0
    assert type_in(tmp_path, "broker", "backup", tmp_path / "2", "--data", there).status == 0
    assert command(place, "restore", tmp_path / "2").status == 0
    assert command(place, "check").status == 0
    require_same(rows_of(database_of(place_of(served))), database_of(place))


def _of_version(url: str, version: str) -> None:
    """A database as that version made it, with a user, an agent, a key and three messages, one of them read."""

    def work(connection: Connection) -> None:
        upgrade(connection, "it", version)
        found = reflected(connection)
        user: dict[str, Any] = {
            "id": "u",
            "username": "ann",
            "password_hash": "x",
            "is_superadmin": True,
            "created_at": MOMENT,
        }
        agent: dict[str, Any] = {
            "id": "a",
            "name": "coder",
            "address": "coder@ann.amp.localhost",
            "role": "r",
            "description": "d",
        }
        agent |= {"system_prompt": "s", "created_at": MOMENT, "tags": ["t"], "user_id": "u", "status": "active"}
        key = {"id": "k", "user_id": "u", "key_hash": "h", "name": "n", "created_at": MOMENT, "is_active": True}
        mail: dict[str, Any] = {
            "thread_id": "t",
            "user_id": "u",
            "from_agent_id": "a",
            "from_agent": "a",
            "to_agent_id": "a",
        }
        mail |= {"to_agent": "a", "action": "send", "subject": "", "body": "b", "attachments": [], "created_at": MOMENT}
        mail |= {"hops": 0, "automatic": "no", "priority": "normal", "labels": [], "ordinal": 0}
        rows: dict[str, list[dict[str, Any]]] = {
            "users": [{**user, "filter_tags": [], "token_version": 1}],
            "agents": [{**agent, "inbox_seq": 3, "inbox_total": 3, "inbox_unread": 2}],
            "api_keys": [key],
            # An answer before what it answers, as no version has written them.
            "messages": [
                {**mail, "id": f"m{n}", "seq": n, "is_read": n == 1, "parent_id": "m3" if n == 2 else None}
                for n in (1, 3, 2)
            ],
            "threads": [{"user_id": "u", "thread_id": "t", "last_activity": MOMENT, "shelf": "open"}],
            "waiting_threads": [{"agent_id": "a", "thread_id": "t", "urgency": 1, "head_seq": 2, "pressing_seq": 2}],
        }
        for name, those in rows.items():
            if name in found.tables:
                known = found.tables[name].columns.keys()
                for row in those:
                    connection.execute(found.tables[name].insert(), [{k: v for k, v in row.items() if k in known}])

    async def run() -> None:
        database = Executor(url, writes=True, stores=False)
        try:
            await database.run(work)
        finally:
            await database.close()

    asyncio.run(run())


VERSIONS = [f"{number:04}" for number in range(1, int(HEAD))]


@pytest.mark.parametrize("version", thinned(VERSIONS, every=len(VERSIONS)))
def test_a_backup_of_every_earlier_version_is_put_back_and_brought_here(tmp_path: Path, version: str) -> None:
    old, new = another(tmp_path, "old"), another(tmp_path, "new")
    _of_version(database_of(old), version)
    before = command(old, "check")
    assert (before.status, "earlier version" in before.err) == (78, True), before
    assert command(old, "backup", tmp_path / "backup").status == 0
    # To look is not to change.
    assert rows_of(database_of(old))["alembic_version"] == [f"('{version}',)"]
    put = command(new, "restore", tmp_path / "backup", "--json")
    assert (put.status, put.json["schema"]) == (0, version), put
    whole = command(new, "check")
    assert whole.status == 0, whole
    found = command(new, "stats", "--json").json
    assert (found["messages"], found["unread"], found["waiting"], len(found["users"])) == (3, 2, 2, 1)


def test_a_place_where_somebody_has_mail_is_left_as_it_is(served: Filled, tmp_path: Path) -> None:
    assert command(place_of(served), "backup", tmp_path / "backup").status == 0
    rest = another(tmp_path)
    assert command(rest, "restore", tmp_path / "backup").status == 0
    before = rows_of(database_of(rest))
    again = command(rest, "restore", tmp_path / "backup")
    assert again.status == 78, again
    assert "2 users" in again.err
    assert "fix: " in again.err
    assert rows_of(database_of(rest)) == before
    # Nor is a file written over.
    twice = command(place_of(served), "backup", tmp_path / "backup")
    assert (twice.status, "already" in twice.err) == (2, True), twice


@LONG
def test_none_is_put_back_under_a_broker_that_serves(served: Filled, tmp_path: Path) -> None:
    assert command(place_of(served), "backup", tmp_path / "backup").status == 0
    data = tmp_path / "data"
    options = ["--database", database_of(data)] if database_of(data).startswith("postgres") else []
    process = BrokerProcess(data)
    try:
        process.start(*options, env={"AGENT_MAILER_SECRET_KEY": "s" * 32})
        refused = type_in(tmp_path, "broker", "restore", tmp_path / "backup", "--data", data, *options)
        assert refused.status == 75, refused
        assert "fix: " in refused.err
        # It serves on, and what it has is what it had.
        assert join(process.url, "carol", process.invite).key
        alone = type_in(tmp_path, "broker", "user", "list", "--data", data, *options, "--json")
        assert [one["username"] for one in alone.json] == ["carol"]
    finally:
        process.end()


def _changed(file: Path, to: Path, change: Any) -> Path:
    lines = gzip.decompress(file.read_bytes()).splitlines()
    to.write_bytes(gzip.compress(b"\n".join(change(lines)) + b"\n"))
    return to


def _with_head(**fields: Any) -> Any:
    return lambda lines: [json.dumps({**json.loads(lines[0]), **fields}).encode(), *lines[1:]]


@LONG
def test_what_is_no_whole_backup_changes_nothing(served: Filled, tmp_path: Path) -> None:
    good = tmp_path / "backup"
    assert command(place_of(served), "backup", good).status == 0
    (tmp_path / "text").write_text("no backup at all\n")
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-200])
    flipped = bytearray(good.read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (tmp_path / "flipped").write_bytes(flipped)
    summed = bytearray(good.read_bytes())
    summed[-8] ^= 0xFF  # what follows the last line: the sum of what was packed
    (tmp_path / "summed").write_bytes(summed)
    upload = json.dumps(["", "../../planted", "AAAA"]).encode()
    cases = {
        tmp_path / "nowhere": "cannot be read",
        tmp_path / "text": "no whole backup",
        tmp_path / "cut": "no whole backup",
        tmp_path / "flipped": "no whole backup",
        tmp_path / "summed": "no whole backup",
        _changed(good, tmp_path / "short", lambda lines: lines[:-5] + lines[-1:]): "no whole backup",
        _changed(good, tmp_path / "planted", lambda lines: [*lines[:-1], upload, lines[-1]]): "no whole backup",
        _changed(good, tmp_path / "newer", _with_head(schema="9999", program="99.0")): "newer agent-mailer (99.0)",
        _changed(good, tmp_path / "format", _with_head(format=2)): "newer agent-mailer",
        _changed(
            good, tmp_path / "orphans", lambda lines: [one for one in lines if not one.startswith(b'["agents"')]
        ): "no whole backup",
    }
    for number, (file, words) in enumerate(cases.items()):
        rest = another(tmp_path, f"rest{number}")
        refused = command(rest, "restore", file)
        assert refused.status == 78, (file, refused)
        assert words in refused.err, (file, refused)
        # No user, no picture; and the good one can be put there.
        assert not [*(rest / "uploads").glob("*/*")]
        assert command(rest, "restore", good).status == 0
    assert not [*tmp_path.rglob("planted/*")]
    assert not (tmp_path / "planted.png").exists()


def test_what_a_restore_that_was_killed_has_left_is_in_nobodys_way(served: Filled, tmp_path: Path) -> None:
    file, rest = tmp_path / "backup", another(tmp_path)
    assert command(place_of(served), "backup", file).status == 0
    (picture,) = (place_of(served) / "uploads").glob("*/*")
    there = rest / "uploads" / picture.relative_to(place_of(served) / "uploads")
    there.parent.mkdir(parents=True)
    there.write_bytes(b"another's")
    refused = command(rest, "restore", file)
    assert (refused.status, there.read_bytes()) == (1, b"another's")
    assert "cannot be written: File exists" in refused.err
    there.write_bytes(PICTURE[:9])
    put = command(rest, "restore", file, "--json")
    assert (put.status, put.json["files"], there.read_bytes()) == (0, 1, PICTURE)


def test_a_backup_that_contradicts_itself_is_refused_as_a_whole(served: Filled, tmp_path: Path) -> None:
    good = tmp_path / "backup"
    assert command(place_of(served), "backup", good).status == 0

    def without_agents(lines: list[bytes]) -> list[bytes]:
        left = [one for one in lines if not one.startswith(b'["agents"')]
        tail = json.loads(left[-1])
        tail["rows"] -= len(lines) - len(left)
        return [*left[:-1], json.dumps(tail).encode()]

    rest = another(tmp_path)
    refused = command(rest, "restore", _changed(good, tmp_path / "orphans", without_agents))
    assert (refused.status, "contradicts itself" in refused.err) == (78, True), refused
    assert command(rest, "restore", good).status == 0


def test_wrong_totals_are_found_and_made_anew(served: Filled) -> None:
    desk, place = served.desk, place_of(served)
    desk.call("GET", "/admin/search?q=state", headers=served.ann.login)  # so the words are in the index
    desk.sql("UPDATE agents SET inbox_total = 7 WHERE id = :id", id=served.coder["id"])
    desk.sql("DELETE FROM waiting_threads WHERE agent_id = :id", id=served.coder["id"])
    desk.sql("DELETE FROM threads")
    desk.sql("DELETE FROM searchable")
    found = command(place, "check", "--json")
    assert found.status == 1, found
    assert {one["code"] for one in found.json["findings"]} == {
        "wrong_totals",
        "wrong_waiting",
        "unlisted_threads",
        "unfound",
    }
    assert all("check --repair" in one["fix"] for one in found.json["findings"])
    mended = command(place, "check", "--repair")
    assert mended.status == 0, mended
    question = {"agent_id": served.coder["id"], "heads": True}
    heads = desk.call("GET", f"/messages/inbox/{served.coder['address']}", params=question, headers=served.ann.header)
    assert [one["id"] for one in heads["messages"]] == [served.reply["id"]]


def test_an_upload_that_is_gone_is_told(served: Filled, tmp_path: Path) -> None:
    place = place_of(served)
    (picture,) = (place / "uploads").glob("*/*.png")
    picture.write_bytes(PICTURE[:10])
    damaged = command(place, "check")
    assert (damaged.status, "10 bytes instead of" in damaged.out) == (1, True), damaged
    picture.unlink()
    lost = command(place, "check")
    assert (lost.status, str(picture) in lost.out) == (1, True), lost
    # The rest is backed up all the same, and it is said.
    made = command(place, "backup", tmp_path / "backup")
    assert (made.status, picture.name in made.err) == (0, True), made
    assert command(another(tmp_path), "restore", tmp_path / "backup").status == 0


@ON_A_FILE
def test_damage_of_a_file_is_told(served: Filled, tmp_path: Path) -> None:
    rest = another(tmp_path)
    assert command(place_of(served), "backup", tmp_path / "backup").status == 0
    assert command(rest, "restore", tmp_path / "backup").status == 0
    path = rest / "broker.db"
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM agents WHERE name = 'coder'")
    database.close()
    dangling = command(rest, "check")
    assert (dangling.status, "names one of agents that there is not" in dangling.out) == (1, True), dangling
    raw = bytearray(path.read_bytes())
    raw[3 * 4096 : 4 * 4096] = os.urandom(4096)
    path.write_bytes(raw)
    torn = command(rest, "check")
    assert torn.status in (1, 78), torn
    assert "fix: " in torn.out + torn.err


def test_numbers_for_an_operator(served: Filled) -> None:
    # The person's own mailbox is none of their agents.
    served.desk.call("GET", "/admin/human-operator", headers=served.bob.login)
    found = command(place_of(served), "stats", "--json").json
    assert (found["messages"], found["unread"], found["waiting"], found["files"]) == (4, 3, 3, 1)
    ann, bob = found["users"]
    assert (ann["username"], ann["agents"], ann["messages"], ann["file_bytes"]) == ("ann", 2, 3, len(PICTURE))
    assert (bob["username"], bob["agents"], bob["messages"], bob["file_bytes"]) == ("bob", 1, 1, 0)
    assert found["database_bytes"] > 0
    shown = command(place_of(served), "stats")
    assert "4, 3 unread" in shown.out, shown


def test_a_user_gets_what_is_theirs_and_nothing_of_others(served: Filled, tmp_path: Path) -> None:
    theirs = {"file": ("dog.png", PICTURE + b"bob's own")}
    served.desk.call("POST", "/files/upload", files=theirs, headers=served.bob.header)
    made = command(place_of(served), "export", "ann", tmp_path / "ann.zip")
    assert made.status == 0, made
    with zipfile.ZipFile(tmp_path / "ann.zip") as zipped:
        inside = {name: zipped.read(name) for name in zipped.namelist()}
    bodies = [json.loads(line)["body"] for line in inside["messages.jsonl"].splitlines()]
    assert sorted(bodies) == ["1\n" * 9, "2", "3"]
    pictures = {name: held for name, held in inside.items() if name.startswith("files/")}
    assert pictures == {f"files/{served.picture['id']}.png": PICTURE}
    assert len(inside["receipts.jsonl"].splitlines()) == 1
    every = b"".join(inside.values())
    assert b"bob" not in every
    assert b"hash" not in every
    unknown = command(place_of(served), "export", "nobody", tmp_path / "none.zip")
    assert (unknown.status, (tmp_path / "none.zip").exists()) == (2, False), unknown


def test_where_it_cannot_be_written_is_told(served: Filled, tmp_path: Path) -> None:
    missing = command(place_of(served), "backup", tmp_path / "nowhere" / "backup")
    assert (missing.status, "cannot be written" in missing.err) == (1, True), missing
    assert not [*tmp_path.rglob("*backup*")]
