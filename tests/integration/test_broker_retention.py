"""Old mail goes, by age and by size; what somebody has yet to read never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy import Connection
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.broker_process import BrokerProcess, join, register
from tests.databases import ON_A_FILE
from tests.desk import until
from tests.integration.test_broker_database import sql
from tests.typed import Typed, type_in

from agent_mailer.broker.data import Keep
from agent_mailer.broker.database import Store
from agent_mailer.broker.upkeep import retention
from agent_mailer.broker.upkeep.retention import prune
from agent_mailer.cli.examples import examples_of
from agent_mailer.progress import Step

T = TypeVar("T")
LONG_AGO = "2020-01-01T00:00:00.000000+00:00"
pytestmark = pytest.mark.usefixtures("each_database")


class Aged:
    """An agent that writes to itself; what was sent is made old by hand."""

    def __init__(self, desk: BrokerDesk) -> None:
        self.desk = desk
        self.ann: Person = desk.person("ann")
        self.coder = desk.agent(self.ann, "coder")

    def send(self, body: str, *, read: bool = True, old: bool = True, key: str = "", **fields: Any) -> dict[str, Any]:
        form = {"agent_id": self.coder["id"], "from_agent": self.coder["address"], "to_agent": self.coder["address"]}
        headers = {**self.ann.header, **({"Idempotency-Key": key} if key else {})}
        sent: dict[str, Any] = self.desk.call(
            "POST", "/messages/send", json={**form, "body": body, **fields}, headers=headers
        )
        if read:
            self.desk.call("PATCH", f"/messages/{sent['id']}/read", headers=self.ann.header)
        if old:
            self.desk.sql("UPDATE messages SET created_at = :m WHERE id = :i", m=LONG_AGO, i=sent["id"])
        return sent

    def bodies(self) -> list[str]:
        question = {"agent_id": self.coder["id"], "all": True}
        path = f"/messages/inbox/{self.coder['address']}"
        return [one["body"] for one in self.desk.call("GET", path, params=question, headers=self.ann.header)]

    def broker(self, *words: str) -> Typed:
        env = {"AGENT_MAILER_DATABASE_URL": self.desk.settings.database}
        env["AGENT_MAILER_UPLOAD_DIR"] = str(self.desk.settings.uploads)
        return type_in(self.desk.database.parent, "broker", *words, env=env)


@pytest.fixture
def aged(tmp_path: Path) -> Iterator[Aged]:
    with running_broker(tmp_path) as desk:
        yield Aged(desk)


def test_by_age_what_was_read_goes_and_what_was_not_stays_with_its_thread(aged: Aged) -> None:
    aged.send("old and read", key="once")
    aged.send("old and unread", read=False)
    aged.send("new and read", old=False)
    begun = aged.send("old and read, and its thread goes on")
    aged.send("unread there", read=False, old=False, action="reply", parent_id=begun["id"])
    answered = aged.send("old, with an answer that stays")
    aged.send("a new answer", old=False, action="reply", parent_id=answered["id"])
    would = aged.broker("prune", "--keep-days", "30", "--dry-run", "--json")
    assert would.json["messages"] == 2, would
    assert len(aged.bodies()) == 7
    gone = aged.broker("prune", "--keep-days", "30", "--json")
    assert gone.json == would.json
    assert sorted(aged.bodies()) == [
        "a new answer",
        "new and read",
        "old and read, and its thread goes on",
        "old and unread",
        "unread there",
    ]
    whole = aged.broker("check")
    assert whole.status == 0, whole
    # Its key stays used: the same request is no second message.
    again = aged.send("old and read", read=False, old=False, key="once")
    assert again["body"] == ""
    assert len(aged.bodies()) == 5
    assert aged.broker("prune", "--keep-days", "30", "--json").json["messages"] == 0


@pytest.mark.parametrize("how", ["marked", "answered"])
def test_what_becomes_unread_while_it_is_looked_stays_with_its_thread(aged: Aged, how: str) -> None:
    message = aged.send("old and read")["id"]

    def tell(step: Step) -> None:
        if step.what != "deletes old mail":
            return
        if how == "marked":
            aged.desk.call("PATCH", f"/messages/{message}/unread", headers=aged.ann.header)
        else:
            aged.send("and unread", read=False, old=False, action="reply", parent_id=message)

    async def play() -> None:
        store = Store(aged.desk.settings.database)
        await store.open()
        try:
            await prune(store, aged.desk.settings.uploads, Keep(days=30), tell=tell)
        finally:
            await store.close()

    asyncio.run(play())
    assert aged.bodies() == ["old and read", "and unread"][: 1 if how == "marked" else 2]


def test_by_size_the_oldest_that_was_read_goes_first(aged: Aged) -> None:
    for number in range(4):
        aged.send(f"{number}" * 1000)
    aged.send("u" * 5000, read=False)
    aged.send("n" * 1000, old=False)
    gone = aged.broker("prune", "--keep-bytes", "8000", "--json")
    assert (gone.json["messages"], gone.json["bytes"]) == (2, 2000), gone
    left = aged.bodies()
    assert sum(map(len, left)) == 8000
    assert "n" * 1000 in left
    # What is unread alone is more: all else goes, and it stays.
    aged.broker("prune", "--keep-bytes", "1")
    assert aged.bodies() == ["u" * 5000]


def test_by_size_two_at_once_take_no_more_than_one(aged: Aged, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, uploads = Keep(bytes=4000), aged.desk.settings.uploads
    monkeypatch.setattr(retention, "IN_A_LOOK", 3)
    for number in range(8):
        aged.send(f"{number}" * 1000)

    class Slow(Store):
        """After each of its looks another process has done all of it."""

        async def read(self, work: Callable[[Connection], T]) -> T:
            found = await super().read(work)
            await prune(others, uploads, keep)
            return found

    others, ours = Store(aged.desk.settings.database), Slow(aged.desk.settings.database)

    async def play() -> None:
        await others.open()
        await ours.open()
        try:
            await prune(ours, uploads, keep)
        finally:
            await ours.close()
            await others.close()

    asyncio.run(play())
    assert sum(map(len, aged.bodies())) == 4000


def old_uploads(aged: Aged, *names: str) -> list[dict[str, Any]]:
    made = []
    for name in names:
        files = {"file": (name, b"\x89PNG\r\n\x1a\n" + name.encode())}
        made.append(aged.desk.call("POST", "/files/upload", files=files, headers=aged.ann.header))
    aged.desk.sql("UPDATE files SET created_at = :m", m=LONG_AGO)
    return made


def test_uploads_go_by_age_unless_unread_mail_names_them(aged: Aged) -> None:
    desk = aged.desk
    made = old_uploads(aged, "old.png", "named.png")
    aged.send("look", read=False, attachments=[{"url": made[1]["url"]}])
    assert aged.broker("prune", "--keep-days", "30", "--json").json["uploads"] == 1
    assert desk.http.get(f"/files/{made[0]['id']}").status_code == 404
    assert desk.http.get(f"/files/{made[1]['id']}").status_code == 200
    assert len([*desk.settings.uploads.glob("*/*.png")]) == 1


@ON_A_FILE
def test_an_upload_that_is_named_by_unread_mail_while_others_go_stays(aged: Aged) -> None:
    """As soon as one of the two is gone, the mail that names both is marked unread."""
    desk = aged.desk
    made = old_uploads(aged, "one.png", "other.png")
    aged.send("look", old=False, attachments=[{"url": one["url"]} for one in made])
    desk.sql("CREATE TRIGGER marked AFTER DELETE ON files BEGIN UPDATE messages SET is_read = 0; END")
    assert aged.broker("prune", "--keep-days", "30", "--json").json["uploads"] == 1
    assert sorted(desk.http.get(f"/files/{one['id']}").status_code for one in made) == [200, 404]


def test_a_broker_that_serves_does_it_by_itself(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk:
        first = Aged(desk)
        first.send("old and read")
        first.send("old and unread", read=False)
        first.send("new and read", old=False)
        question = ("GET", f"/messages/inbox/{first.coder['address']}")
        header, who = first.ann.header, {"agent_id": first.coder["id"], "all": True}
    with running_broker(tmp_path, keep=Keep(days=30)) as desk:

        def bodies() -> list[str]:
            return [one["body"] for one in desk.call(*question, params=who, headers=header)]

        until(lambda: "old and read" not in bodies(), "old mail goes", 30)
        assert sorted(bodies()) == ["new and read", "old and unread"]


def test_the_audit_goes_by_its_own_age_and_no_mail_with_it(aged: Aged) -> None:
    aged.send("old and read")
    (before,) = aged.desk.sql("SELECT count(*) FROM audit_log")[0]
    aged.desk.sql("UPDATE audit_log SET at = :m WHERE act = 'registered'", m=LONG_AGO)
    looked = aged.broker("prune", "--keep-audit-days", "30", "--dry-run")
    assert "would go: 0 messages (0 B), 0 uploads, 1 audit line" in looked.out
    assert aged.desk.sql("SELECT count(*) FROM audit_log")[0][0] == before
    gone = aged.broker("prune", "--keep-audit-days", "30", "--json").json
    assert (gone["audit"], gone["messages"]) == (1, 0)
    assert aged.desk.sql("SELECT count(*) FROM audit_log")[0][0] == before - 1
    assert aged.desk.sql("SELECT count(*) FROM audit_log WHERE act = 'registered'")[0][0] == 0


@ON_A_FILE
def test_a_broker_is_started_with_the_days_of_its_audit(tmp_path: Path) -> None:
    process, database = BrokerProcess(tmp_path / "data"), tmp_path / "data" / "broker.db"

    def audit() -> list[str]:
        return [act for (act,) in sql(database, "SELECT act FROM audit_log ORDER BY at")]

    try:
        process.start()
        ann = join(process.url, "ann", process.invite)
        coder = register(process.url, ann, "coder")
        form = {"agent_id": coder["id"], "from_agent": coder["address"], "to_agent": coder["address"], "body": "x" * 99}
        with httpx.Client(base_url=process.url, headers=ann.as_agent, trust_env=False) as client:
            sent = client.post("/messages/send", json=form).json()
            client.patch(f"/messages/{sent['id']}/read")
        process.stop()
        assert "registered" in audit()
        sql(database, f"UPDATE audit_log SET at = '{LONG_AGO}' WHERE act = 'registered'")
        process.start("--keep-audit-days", "30")
        until(lambda: "registered" not in audit(), "the old entry goes")
        process.stop()
        assert sql(database, "SELECT length(body) FROM messages") == [(99,)]
    finally:
        process.end()


def test_what_shall_go_has_to_be_said(aged: Aged) -> None:
    refused = aged.broker("prune")
    assert (refused.status, "--keep-days" in refused.err) == (2, True), refused
    # As its help says it.
    for line in examples_of("broker prune"):
        program, *words = line.split()
        taken = aged.broker(*words[1:])
        assert (program, taken.status) == ("agent-mailer", 0), taken
