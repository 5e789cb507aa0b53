"""Who ran the public broker of the protocol moves over with all that it kept, or is told why not; never with a part."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from tests.broker_desk import PASSWORD as HERE
from tests.broker_desk import running_broker
from tests.databases import ON_A_FILE, database_of
from tests.desk import until
from tests.public_broker import KEY, OWN_KEY, PASSWORD, PICTURE, PublicBroker, address
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in

pytestmark = pytest.mark.usefixtures("each_database")
INBOX = {"agent_id": "agent-tester", "all": True}


def place_env(place: Path) -> dict[str, str]:
    return {"AGENT_MAILER_DATABASE_URL": database_of(place), "AGENT_MAILER_UPLOAD_DIR": str(place / "uploads")}


def command(place: Path, *words: str | Path) -> Typed:
    return type_in(place, "broker", *words, env=place_env(place))


def many_users(place: Path) -> int:
    engine = create_engine(database_of(place))
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM users")).scalar_one())
    finally:
        engine.dispose()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[PublicBroker]:
    """Always a file, whatever the database is here."""
    folder = tmp_path / "there"
    folder.mkdir()
    broker = PublicBroker(f"sqlite:///{folder / 'agent_mailer.db'}", folder / "uploads").fill()
    yield broker
    broker.close()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    return place


def file_of(there: PublicBroker) -> Path:
    return Path(there.url.removeprefix("sqlite:///"))


def test_people_agents_and_mail_go_on_here_as_they_did_there(there: PublicBroker, here: Path) -> None:
    # What was read keeps its number while it is away: it comes back to it, and nothing new has it by then.
    there.run("UPDATE messages SET is_read = 1 WHERE id = 'message-put-away'")
    before = file_of(there).read_bytes()
    made = command(here, "import", file_of(there), "--json")
    assert made.status == 0, made
    tables = {one["table"]: one for one in made.json["tables"]}
    assert all(one["there"] == one["same"] + one["left"] and not one["differing"] for one in tables.values()), tables
    assert (tables["messages"]["same"], tables["archived_threads"]["left"], made.json["files"]) == (7, 1, 1)
    assert made.json["domain"] == "amp.example"
    assert file_of(there).read_bytes() == before
    whole = command(here, "check")
    assert whole.status == 0, whole
    again = command(here, "import", file_of(there))
    assert (again.status, "taken over before" in again.err) == (78, True), again
    with running_broker(here, domain="amp.example") as desk:
        credentials = {"username": "ann", "password": PASSWORD}
        desk.call("POST", "/users/login", 401, json={**credentials, "password": "another one"})
        token = desk.call("POST", "/users/login", json=credentials)["token"]
        assert desk.sql("SELECT password_hash FROM users WHERE username = 'ann'")[0][0].startswith("$argon2id$")
        assert desk.call("POST", "/users/login", json=credentials)["user"]["is_superadmin"] is True
        login, key, own = {"Authorization": f"Bearer {token}"}, {"X-API-Key": KEY}, {"X-API-Key": OWN_KEY}
        assert desk.call("GET", "/users/me", headers=login)["filter_tags"] == ["x"]
        assert desk.call("GET", "/users/registration-config") == {"invite_required": False}
        inbox = desk.call("GET", f"/messages/inbox/{address('tester')}", params=INBOX, headers=own)
        assert [one["id"] for one in inbox] == ["message-early", "message-first"]
        assert [one["parent_id"] for one in inbox] == ["message-answer", None]
        desk.call("GET", f"/messages/inbox/{address('coder')}", 403, params={"agent_id": "agent-coder"}, headers=own)
        answer = desk.call(
            "GET", f"/messages/inbox/{address('coder')}", params={"agent_id": "agent-coder"}, headers=key
        )
        assert answer[0]["attachments"] == ["a.txt", {"x": [1, None]}]
        sent = {"agent_id": "agent-coder", "from_agent": address("coder"), "to_agent": address("tester"), "body": "new"}
        desk.call("POST", "/messages/send", json=sent, headers=key)
        desk.call("POST", "/admin/threads/thread-put-away/unarchive", headers=login)
        desk.call("POST", "/admin/messages/message-one-binned/restore", headers=login)
        inbox = desk.call("GET", f"/messages/inbox/{address('tester')}", params=INBOX, headers=key)
        assert {"message-put-away", "message-one-binned"} < {one["id"] for one in inbox}
        assert "message-binned" not in {one["id"] for one in inbox}
        found = desk.call("GET", "/admin/search", params={"q": "first"}, headers=login)
        assert "message-first" in str(found)
        assert "message-own" not in str(desk.call("GET", "/admin/search", params={"q": "own"}, headers=login))
        assert desk.http.get("/files/file-1").content == PICTURE
        memories = desk.call("GET", "/admin/teams/team-1/memories", headers=login)
        assert [one["content"] for one in memories] == ["tabs"]
        assert desk.call("GET", "/admin/channels/t0k3n", headers=login)["messages"][0]["body"] == "hello"


def test_what_can_be_nothing_here_is_named_and_nothing_is_taken_until_it_may_be_left(
    there: PublicBroker, here: Path
) -> None:
    there.message("lost", "coder", "nobody")
    there.message("after", "coder", "tester", action="reply", parent_id="message-lost")
    there.message("orphan", "coder", "tester", action="reply", parent_id="message-never")
    there.agent("stray", user_id="user-none", address="stray@none.amp.example")
    there.run("UPDATE agents SET tags = '{' WHERE id = 'agent-coder'")
    refused = command(here, "import", file_of(there))
    assert refused.status == 78, refused
    assert "2 rows" in refused.err
    assert "message-lost" in refused.err
    assert "agent-stray" in refused.err
    assert many_users(here) == 0
    made = command(here, "import", file_of(there), "--leave-out", "--json")
    assert made.status == 0, made
    losses = {(one["key"], one["column"]) for one in made.json["losses"]}
    assert losses == {
        *(("message-lost", ""), ("agent-stray", ""), ("thread-nowhere", "")),
        *(("message-after", "parent_id"), ("message-orphan", "parent_id"), ("agent-coder", "tags")),
    }
    assert command(here, "check").status == 0


def test_a_newer_schema_is_refused_and_an_older_one_is_taken(there: PublicBroker, here: Path, tmp_path: Path) -> None:
    there.run("ALTER TABLE messages DROP COLUMN attachments")
    refused = command(here, "import", file_of(there))
    assert (refused.status, "messages.attachments" in refused.err) == (78, True), refused
    there.run("ALTER TABLE messages ADD COLUMN attachments TEXT DEFAULT '[]'")
    there.run("ALTER TABLE messages ADD COLUMN urgency TEXT")
    there.run("CREATE TABLE reactions (id TEXT)")
    refused = command(here, "import", file_of(there))
    assert (refused.status, "messages.urgency, reactions" in refused.err) == (78, True), refused
    there.run("ALTER TABLE messages DROP COLUMN urgency")
    there.run("DROP TABLE reactions")
    for name in ("channel_messages", "channel_members", "channels", "files", "team_memories", "trashed_messages"):
        there.run(f"DROP TABLE {name}")
    there.run("ALTER TABLE agents DROP COLUMN team_id")
    looked = command(here, "import", file_of(there), "--dry-run")
    assert (looked.status, "Nothing of it was kept" in looked.out) == (0, True), looked
    assert many_users(here) == 0
    made = command(here, "import", file_of(there))
    assert made.status == 0, made
    assert "broker serve --domain amp.example" in made.out
    ours = tmp_path / "ours"
    ours.mkdir()
    if database_of(here).startswith("sqlite"):
        refused = command(ours, "import", database_of(here).removeprefix("sqlite:///"))
        assert (refused.status, "of this program already" in refused.err) == (78, True), refused
    missing = command(ours, "import", "nothing.db")
    assert (missing.status, "there is no file" in missing.err) == (78, True), missing


def test_what_cannot_be_read_is_named_and_our_own_database_is_not(there: PublicBroker, here: Path) -> None:
    """The fix of a damaged database of ours is to move it away: never for a wrong file of somebody else's."""
    note = here / "notes.txt"
    note.write_text("this is no database at all\n" * 100)
    damaged = here / "damaged.db"
    whole = file_of(there).read_bytes()
    damaged.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    for source in (note, damaged):
        said = command(here, "import", source)
        assert said.status == 78
        assert f"what is to be taken over, {source}, cannot be read: " in said.err
        assert "mv " not in said.err
    assert many_users(here) == 0
    assert command(here, "import", file_of(there)).status == 0


def test_beside_what_a_running_broker_serves(there: PublicBroker, here: Path) -> None:
    with running_broker(here) as desk:
        zoe = desk.person("zoe")
        made = command(here, "import", file_of(there), "--free-keys")
        assert made.status == 0, made
        assert "this broker has a superadmin of its own" in made.err
        # Anybody may register there; here it is this broker's superadmin who says so.
        assert desk.call("GET", "/users/registration-config") == {"invite_required": True}
        answer = desk.call("POST", "/users/login", json={"username": "ann", "password": PASSWORD})
        assert answer["user"]["is_superadmin"] is False
        own = {"X-API-Key": OWN_KEY}
        inbox = desk.call("GET", f"/messages/inbox/{address('coder')}", params={"agent_id": "agent-coder"}, headers=own)
        assert [one["id"] for one in inbox] == ["message-answer"], "as there: any key of a user acts for all agents"
        assert desk.call("POST", "/users/login", json={"username": "zoe", "password": HERE})["user"]["id"] == zoe.id
        assert [user["username"] for user in desk.call("GET", "/superadmin/users", headers=zoe.login)] != ["zoe"]
    there.run("UPDATE users SET id = 'user-more', username = 'zoe' WHERE username = 'bob'")
    there.run("DELETE FROM users WHERE username = 'ann'")
    refused = command(here, "import", file_of(there))
    assert (refused.status, "there is another zoe here" in refused.err) == (78, True), refused


def test_a_picture_is_one_of_the_folder_and_a_picture(there: PublicBroker, here: Path) -> None:
    secret = there.uploads.parent / "secret.png"
    secret.write_bytes(PICTURE)
    common = {"filename": "x.png", "mime_type": "image/png", "size": len(PICTURE), "user_id": "user-ann"}
    for number, path in enumerate(("../secret.png", "2026-11-21/cat.png/../../../secret.png", "2026-11-21/none.png")):
        there.add("files", id=f"file-x{number}", stored_path=path, created_at=there.moment(), **common)
    (there.uploads / "2026-11-21" / "words.png").write_bytes(b"x" * len(PICTURE))
    there.add("files", id="file-words", stored_path="2026-11-21/words.png", created_at=there.moment(), **common)
    made = command(here, "import", file_of(there), "--json")
    assert made.status == 0, made
    assert (made.json["files"], len(made.json["missing"])) == (1, 4)


@LONG
@ON_A_FILE
def test_killed_in_the_middle_nothing_of_it_is_there_and_the_next_takes_all(there: PublicBroker, here: Path) -> None:
    there.run(
        "INSERT INTO messages WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        " SELECT 'm' || i, 't' || (i / 3), :sender, :to, 'send', 's', 'body ' || i, '[]', i % 2, NULL,"
        " '2026-11-21T09:00:00.' || printf('%06d', i) || '+00:00' FROM n",
        sender=address("coder"),
        to=address("tester"),
    )
    type_in(here, "broker", "user", "add", "zoe", env={**place_env(here), "AGENT_MAILER_PASSWORD": HERE})
    file = Path(database_of(here).removeprefix("sqlite:///"))
    size = file.stat().st_size
    env = {**os.environ, **place_env(here)}
    process = subprocess.Popen(
        [COMMAND, "broker", "import", file_of(there)], cwd=here, env=env, stdout=subprocess.DEVNULL
    )

    def written() -> int:
        return sum(one.stat().st_size for one in here.iterdir() if one.name.startswith(file.name)) - size

    until(lambda: written() > 4_000_000 or process.poll() is not None, "the middle of it", 60)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert many_users(here) == 1
    made = command(here, "import", file_of(there), "--json")
    assert made.status == 0, made
    assert next(one for one in made.json["tables"] if one["table"] == "messages")["same"] == 20_007
    assert command(here, "check").status == 0


@LONG
def test_from_a_server_too(tmp_path: Path, here: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    there = PublicBroker(database_of(folder), folder / "uploads").fill()
    try:
        url = there.url.replace("+psycopg", "")
        made = command(here, "import", url, "--uploads", folder / "uploads", "--json")
        assert made.status == 0, made
        assert made.json["files"] == 1
        assert not any(one["differing"] for one in made.json["tables"])
        assert "Traceback" not in command(here, "check").err
    finally:
        there.close()
