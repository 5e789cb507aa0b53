"""People and their keys at the broker: every call and every refusal of the protocol's second section."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest
from sqlalchemy import create_engine, text
from tests.broker_desk import PASSWORD, BrokerDesk, Person, running_broker
from tests.desk import until
from tests.sizes import LONG

from agent_mailer.broker.database import Store
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.users.login import Passwords, issue_token
from agent_mailer.broker.users.rows import MOST_KNOWN_HOSTS, add_known_host, is_known_host
from agent_mailer.broker.users.throttle import Throttle

pytestmark = pytest.mark.usefixtures("each_database")

OTHER_PASSWORD = "another horse battery"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), login_attempts="1000/1 hour") as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    """The first user, and so the superadmin."""
    return desk.person("alice")


@pytest.fixture(scope="module")
def bob(desk: BrokerDesk, alice: Person) -> Person:
    return desk.person("bob")


def detail(desk: BrokerDesk, method: str, path: str, status: int, **request: object) -> str:
    said = desk.call(method, path, status, **request)["detail"]
    assert isinstance(said, str), said
    return said


def test_from_nothing_to_a_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_broker(tmp_path_factory.mktemp("new")) as desk:
        assert desk.call("GET", "/health") == {"status": "ok"}
        assert desk.call("GET", "/users/registration-config") == {"invite_required": True}
        code = desk.bootstrap_code()
        assert re.fullmatch(r"[A-Za-z0-9]{8}", code)
        assert desk.bootstrap_code() == code, "the same until it is used"

        form = {"username": "first", "password": PASSWORD, "invite_code": code}
        user = desk.call("POST", "/users/register", 201, json=form)
        assert set(user) == {"id", "username", "is_superadmin", "created_at", "filter_tags"}
        assert ID.fullmatch(user["id"])
        assert MOMENT.fullmatch(user["created_at"])
        assert (user["username"], user["is_superadmin"], user["filter_tags"]) == ("first", True, [])
        with pytest.raises(AssertionError):
            desk.bootstrap_code()

        again = {**form, "username": "second"}
        assert detail(desk, "POST", "/users/register", 400, json=again) == "Invalid or already used invite code"

        answer = desk.http.post("/users/login", json={"username": "first", "password": PASSWORD})
        assert answer.status_code == 200
        assert answer.json()["user"] == user
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Max-Age=86400" in cookie
        assert "Secure" not in cookie
        token = answer.json()["token"]
        for_pages = cookie.partition("session_token=")[2].partition(";")[0]
        for opened, seconds in ((token, desk.settings.token_seconds), (for_pages, 86400)):
            claims = json.loads(base64.urlsafe_b64decode(opened.split(".")[1] + "=="))
            assert claims["user_id"] == user["id"]
            assert claims["exp"] - claims["iat"] == seconds

        # The cookie opens people's calls only, and neither token does as the other.
        assert desk.call("GET", "/users/me", headers={"Cookie": f"session_token={for_pages}"}) == user
        assert desk.call("GET", "/agents", 401, headers={"Cookie": f"session_token={for_pages}"})
        assert desk.call("GET", "/users/me", 401, headers={"Cookie": f"session_token={token}"})
        assert desk.call("GET", "/users/me", 401, headers={"Authorization": f"Bearer {for_pages}"})
        key = desk.call("POST", "/users/api-keys", 201, json={}, headers={"Authorization": f"Bearer {token}"})
        assert desk.call("GET", "/agents", headers={"X-API-Key": key["raw_key"]}) == []


def test_behind_https_the_cookie_is_secure(desk: BrokerDesk, alice: Person) -> None:
    form = {"username": "alice", "password": PASSWORD}
    answer = desk.http.post("/users/login", json=form, headers={"X-Forwarded-Proto": "https"})
    assert answer.headers["set-cookie"].startswith("__Host-session_token=")
    assert "Secure" in answer.headers["set-cookie"]
    assert "Path=/" in answer.headers["set-cookie"]


def invite(desk: BrokerDesk, alice: Person) -> str:
    code: str = desk.call("POST", "/superadmin/invite-codes", 201, headers=alice.login)["code"]
    return code


@pytest.mark.parametrize("name", ["", "ab", "x" * 31, "Carol", "ca rol", "ca_rol", "càrol", "carol\n", "../carol"])
def test_a_bad_username_is_refused(desk: BrokerDesk, alice: Person, name: str) -> None:
    form = {"username": name, "password": PASSWORD, "invite_code": invite(desk, alice)}
    assert "3-30" in detail(desk, "POST", "/users/register", 400, json=form)


def test_a_registration_that_cannot_be(desk: BrokerDesk, alice: Person) -> None:
    code = invite(desk, alice)
    form = {"username": "carol", "password": PASSWORD, "invite_code": code}
    short = {**form, "password": "short"}
    assert "at least 8" in detail(desk, "POST", "/users/register", 400, json=short)
    for none in ({}, {"invite_code": None}, {"invite_code": ""}):
        without = {"username": "carol", "password": PASSWORD, **none}
        assert detail(desk, "POST", "/users/register", 400, json=without) == "Invite code is required"
    wrong = {**form, "invite_code": "XXXXXXXX"}
    assert detail(desk, "POST", "/users/register", 400, json=wrong) == "Invalid or already used invite code"
    taken = {**form, "username": "alice"}
    assert detail(desk, "POST", "/users/register", 409, json=taken) == "Username already taken"
    # None of these used the code up.
    assert desk.call("POST", "/users/register", 201, json=form)["is_superadmin"] is False


def test_one_code_makes_one_user(desk: BrokerDesk, alice: Person) -> None:
    code = invite(desk, alice)

    def register(name: str) -> int:
        form = {"username": name, "password": PASSWORD, "invite_code": code}
        return desk.http.post("/users/register", json=form).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(register, [f"racer-{n}" for n in range(8)]))
    assert sorted(statuses) == [201] + [400] * 7


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"username": "alice"},
        {"password": PASSWORD},
        {"username": None, "password": PASSWORD},
        {"username": 7, "password": PASSWORD},
        {"username": ["alice"], "password": PASSWORD},
        {"username": "a\0lice", "password": PASSWORD},
        {"username": "a" * 60_000, "password": PASSWORD},
        {"username": "alice", "password": None},
        {"username": "alice", "password": {"a": 1}},
        {"username": "alice", "password": "p" * 60_000},
        {"username": "alice", "password": "with\0nul"},
        {"username": "alice", "password": 1e400},
        [],
        "text",
        None,
        12,
    ],
)
def test_a_bad_form_is_422_and_never_repeats_a_password(desk: BrokerDesk, alice: Person, form: object) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/users/login", "/users/register"):
        answer = desk.http.post(path, content=json.dumps(form), headers=headers)
        assert answer.status_code == 422, answer.text
        issues = answer.json()["detail"]
        assert issues
        for issue in issues:
            assert {"type", "loc", "msg", "input"} <= set(issue)
            assert len(json.dumps(issue)) < 1000
        assert PASSWORD not in answer.text
        assert "pppp" not in answer.text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"username": "\xff\xfe"}',
        b'{"username": "\\ud800", "password": "long enough"}',
        b'{"username": NaN, "password": NaN}',
        b'{"username": ' + b"9" * 5000 + b"}",
        b"[" * 50_000,
        b'{"\\ud800": 1}',
    ],
)
def test_what_is_no_json_is_refused_in_json(desk: BrokerDesk, alice: Person, raw: bytes) -> None:
    answer = desk.http.post("/users/login", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["detail"]


def test_a_wrong_login_says_nothing_of_what_is_wrong(desk: BrokerDesk, alice: Person) -> None:
    for form in (
        {"username": "alice", "password": "wrong password"},
        {"username": "nobody-of-that-name", "password": PASSWORD},
        {"username": "", "password": ""},
        {"username": "alice' OR 1=1 --", "password": PASSWORD},
    ):
        assert detail(desk, "POST", "/users/login", 401, json=form) == "Invalid username or password"


@pytest.mark.parametrize(
    "password",
    [PASSWORD, "x" * 73, "\N{CJK UNIFIED IDEOGRAPH-9A6C}" * 25, "x" + "\u00fc" * 60],
    ids=["fewer", "more", "more in fewer signs", "amid a sign"],
)
def test_of_a_password_that_the_public_broker_has_stored_the_first_72_bytes_count(password: str) -> None:
    """Whatever the signs are, and where the last of these bytes is in the middle of one, too."""
    stored = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode()
    typed = (password, f"{password}!", f"!{password}")
    fits = [asyncio.run(Passwords().verify(stored, one)) for one in typed]
    assert fits == [True, len(password.encode()) > 72, False]


def test_whoever_is_not_logged_in(desk: BrokerDesk, alice: Person) -> None:
    secret = desk.settings.secret
    gone = issue_token(secret, alice.id, 1, -10)
    others = issue_token("another secret", alice.id, 1, 100)
    nobody = issue_token(secret, "00000000-0000-0000-0000-000000000001", 1, 100)
    header, _, signature = alice.token.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    for said, headers in (
        ("Not authenticated", {}),
        ("Not authenticated", {"Authorization": "Bearer"}),
        ("Not authenticated", {"Authorization": f"Basic {alice.token}"}),
        ("Not authenticated", {"X-API-Key": alice.key}),
        ("Not authenticated", {"Cookie": "session_token="}),
        ("Invalid or expired token", {"Authorization": "Bearer nonsense"}),
        ("Invalid or expired token", {"Authorization": f"Bearer {gone}"}),
        ("Invalid or expired token", {"Authorization": f"Bearer {others}"}),
        ("Invalid or expired token", {"Authorization": f"Bearer {header}.e30.{signature}"}),
        ("Invalid or expired token", {"Authorization": f"Bearer {unsigned}.{alice.token.split('.')[1]}."}),
        ("Invalid or expired token", {"Cookie": "session_token=nonsense"}),
        ("User not found", {"Authorization": f"Bearer {nobody}"}),
    ):
        assert detail(desk, "GET", "/users/me", 401, headers=headers) == said


def test_every_call_of_a_person_asks_for_a_login(desk: BrokerDesk) -> None:
    paths = desk.call("GET", "/openapi.json")["paths"]
    asked = 0
    for path, calls in paths.items():
        for method, call in calls.items():
            schemes = {name for need in call.get("security", []) for name in need}
            if schemes & {"Login", "ApiKey"}:
                words = "API key required" if schemes == {"ApiKey"} else "Not authenticated"
                where = re.sub(r"\{.*?\}", "x", path)
                answer = desk.http.request(method, where, params={"agent_id": "x"}, json={})
                assert (answer.status_code, answer.json()) == (401, {"detail": words}), (method, path, answer.text)
                assert "401" in call["responses"]
                asked += 1
    assert asked > 40


def test_logout_takes_the_cookie_back(desk: BrokerDesk) -> None:
    answer = desk.http.post("/users/logout")
    assert answer.json() == {"detail": "Logged out"}
    assert 'session_token=""' in answer.headers["set-cookie"]


def test_a_login_that_was_ended_stays_so_when_others_end_theirs(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    ended = []
    for person in (alice, bob):
        # One that has less than a day left, as most have when they are ended.
        token = issue_token(desk.settings.secret, person.id, 1, 3600)
        ended.append({"Authorization": f"Bearer {token}"})
        assert desk.call("GET", "/users/me", headers=ended[-1])["username"] == person.name
        desk.call("POST", "/users/logout", headers=ended[-1])
    for headers in ended:
        assert detail(desk, "GET", "/users/me", 401, headers=headers) == "Invalid or expired token"


def test_a_new_password_voids_every_token(desk: BrokerDesk, alice: Person) -> None:
    dave = desk.person("dave")
    second = desk.call("POST", "/users/login", json={"username": "dave", "password": PASSWORD})["token"]

    def change(old: str, new: str, status: int) -> str:
        form = {"current_password": old, "new_password": new}
        return detail(desk, "PUT", "/users/me/password", status, json=form, headers=dave.login)

    assert change("wrong password", OTHER_PASSWORD, 400) == "Current password is incorrect"
    assert "at least 8" in change(PASSWORD, "short", 400)
    assert change(PASSWORD, OTHER_PASSWORD, 200)
    for token in (dave.token, second):
        headers = {"Authorization": f"Bearer {token}"}
        assert detail(desk, "GET", "/users/me", 401, headers=headers) == "Invalid or expired token"
    assert desk.call("POST", "/users/login", 401, json={"username": "dave", "password": PASSWORD})
    token = desk.call("POST", "/users/login", json={"username": "dave", "password": OTHER_PASSWORD})["token"]
    assert desk.call("GET", "/users/me", headers={"Authorization": f"Bearer {token}"})["username"] == "dave"
    # Keys are not logins: an agent goes on.
    assert desk.call("GET", "/agents", headers=dave.header) == []


def test_filter_tags(desk: BrokerDesk, bob: Person) -> None:
    user = desk.call("PUT", "/users/me/filter-tags", json={"filter_tags": ["a", "b c", "ü"]}, headers=bob.login)
    assert user["filter_tags"] == ["a", "b c", "ü"]
    assert desk.call("GET", "/users/me", headers=bob.login) == user
    for bad in (None, "a", [1], [None], ["x" * 101], ["x"] * 101, ["new\nline"], ["nul\0"]):
        desk.call("PUT", "/users/me/filter-tags", 422, json={"filter_tags": bad}, headers=bob.login)


def test_keys(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    made = desk.call("POST", "/users/api-keys", 201, json={"name": "of tests"}, headers=bob.login)
    raw = made.pop("raw_key")
    assert re.fullmatch(r"amk_[0-9a-f]{64}", raw)
    assert made["key_prefix"] == f"{raw[:8]}...{raw[-4:]}"
    assert (made["name"], made["last_used_at"], made["is_active"], made["agent_id"]) == ("of tests", None, True, None)

    listed = desk.call("GET", "/users/api-keys", headers=bob.login)
    assert [key["name"] for key in listed] == ["of tests", "all"], "newest first"
    assert {key["key_prefix"] for key in listed} == {"amk_****...****"}
    assert raw not in json.dumps(listed)

    header = {"X-API-Key": raw}
    path = f"/users/api-keys/{made['id']}"
    assert desk.call("GET", "/agents", headers=header) == []
    assert MOMENT.fullmatch(desk.call("GET", "/users/api-keys", headers=bob.login)[0]["last_used_at"])
    assert detail(desk, "POST", f"{path}/deactivate", 200, headers=bob.login)
    assert detail(desk, "GET", "/agents", 401, headers=header) == "Invalid API key"
    assert desk.call("GET", "/users/api-keys", headers=bob.login)[0]["is_active"] is False
    assert detail(desk, "POST", f"{path}/reactivate", 200, headers=bob.login)
    assert desk.call("GET", "/agents", headers=header) == []

    # Somebody else's key is as unknown as one that is not there.
    for login, wanted in (
        (alice.login, path),
        (bob.login, "/users/api-keys/nothing"),
        (bob.login, "/users/api-keys/%2e%2e"),
    ):
        assert detail(desk, "POST", f"{wanted}/deactivate", 404, headers=login) == "API key not found"
        assert detail(desk, "POST", f"{wanted}/reactivate", 404, headers=login) == "API key not found"
        assert detail(desk, "DELETE", wanted, 404, headers=login) == "API key not found"
    assert desk.call("DELETE", path, 204, headers=bob.login) is None
    assert detail(desk, "GET", "/agents", 401, headers=header) == "Invalid API key"
    for bad in ({"name": None}, {"name": 1}, {"name": "x" * 201}, {"name": "a\nb"}, {"agent_id": 5}):
        desk.call("POST", "/users/api-keys", 422, json=bad, headers=bob.login)


def test_a_bad_key_is_refused(desk: BrokerDesk, alice: Person) -> None:
    assert detail(desk, "GET", "/agents", 401) == "API key required"
    assert detail(desk, "GET", "/agents", 401, headers={"X-API-Key": ""}) == "API key required"
    for bad in (
        "x",
        "amk_",
        f"amk_{'0' * 64}",
        alice.key.upper(),
        f"{alice.key}0",
        "amk_" + "f" * 5000,
        b"amk_\xff\xfe",
    ):
        assert detail(desk, "GET", "/agents", 401, headers={"X-API-Key": bad}) == "Invalid API key"
    assert detail(desk, "GET", "/agents", 401, headers=alice.login) == "API key required"


def test_the_superadmins_calls(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    invited = desk.call("POST", "/superadmin/invite-codes", 201, headers=alice.login)
    assert re.fullmatch(r"[A-Za-z0-9]{8}", invited["code"])
    assert (invited["created_by"], invited["used_by"], invited["used_at"]) == (alice.id, None, None)
    listed = desk.call("GET", "/superadmin/invite-codes", headers=alice.login)
    assert listed[0] == invited
    assert bob.id in {code["used_by"] for code in listed}

    people = desk.call("GET", "/superadmin/users", headers=alice.login)
    mine = desk.call("GET", "/users/me", headers=alice.login)
    assert people[0] == {**mine, "standing": "active"}, "oldest first"
    assert "bob" in {user["username"] for user in people}
    assert not {"password_hash", "token_version"} & set(people[0])

    answer = desk.call("POST", f"/superadmin/login-as/{bob.id}", headers=alice.login)
    assert answer["user"]["username"] == "bob"
    as_bob = {"Authorization": f"Bearer {answer['token']}"}
    assert desk.call("GET", "/users/me", headers=as_bob)["id"] == bob.id
    claims = json.loads(base64.urlsafe_b64decode(answer["token"].split(".")[1] + "=="))
    assert claims["impersonated_by"] == alice.id
    assert detail(desk, "POST", "/superadmin/login-as/nobody", 404, headers=alice.login) == "User not found"

    assert desk.call("GET", "/superadmin/settings", headers=alice.login) == {"invite_required": True}
    wrong: tuple[object, ...] = (None, "yes", 1, [], {})
    for bad in wrong:
        desk.call("PUT", "/superadmin/settings", 422, json={"invite_required": bad}, headers=alice.login)
    try:
        for wanted in (False, True, False):
            body = {"invite_required": wanted}
            assert desk.call("PUT", "/superadmin/settings", json=body, headers=alice.login) == body
            assert desk.call("GET", "/users/registration-config") == body
        form = {"username": "uninvited", "password": PASSWORD}
        assert desk.call("POST", "/users/register", 201, json=form)["is_superadmin"] is False
    finally:
        desk.call("PUT", "/superadmin/settings", json={"invite_required": True}, headers=alice.login)


def test_nobody_else_may(desk: BrokerDesk, bob: Person) -> None:
    for method, path, body in (
        ("POST", "/superadmin/invite-codes", None),
        ("GET", "/superadmin/invite-codes", None),
        ("GET", "/superadmin/settings", None),
        ("PUT", "/superadmin/settings", {"invite_required": False}),
        ("GET", "/superadmin/users", None),
        ("POST", f"/superadmin/login-as/{bob.id}", None),
        ("GET", "/superadmin/agents", None),
        ("POST", "/superadmin/agents", {"name": "mine"}),
    ):
        assert detail(desk, method, path, 403, json=body, headers=bob.login) == "Superadmin required"


def test_guessing_is_slowed_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_broker(tmp_path_factory.mktemp("slow"), login_attempts="5/1 hour") as desk:
        dave = desk.person("dave")
        desk.person("erin")

        def change(number: int) -> int:
            form = {"current_password": f"wrong password {number}", "new_password": OTHER_PASSWORD}
            return desk.http.put("/users/me/password", json=form, headers=dave.login).status_code

        with ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(change, range(12)))
        # Two are looked at side by side.
        assert set(statuses) == {400, 429}
        assert statuses.count(400) <= 7, "who has a token of hers guesses no more"

        def attempt(password: str) -> int:
            return desk.http.post("/users/login", json={"username": "erin", "password": password}).status_code

        # At once, so that none has been counted when the first ones come.
        with ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(attempt, [f"wrong password {n}" for n in range(30)]))
        assert set(statuses) == {401, 429}
        assert statuses.count(401) <= 7
        answer = desk.http.post("/users/login", json={"username": "erin", "password": PASSWORD})
        assert answer.status_code == 429, "the right one has to wait, too"
        assert 3000 <= int(answer.headers["retry-after"]) <= 3600
        assert "Too many" in answer.json()["detail"]
        # A user who is not there is counted in the same way.
        assert desk.http.post("/users/login", json={"username": "ghost", "password": PASSWORD}).status_code == 429


def test_strangers_lock_nobody_out_where_they_are_known_and_nobody_makes_room_for_guessing(desk: BrokerDesk) -> None:
    async def waits(throttle: Throttle, name: str, host: str, *, known: bool = False) -> bool:
        try:
            await throttle.check(name, host, known=known)
        except Fault as fault:
            return fault.status == 429
        return False

    async def play() -> list[bool]:
        store = Store(desk.settings.database)
        await store.open()
        try:
            throttle = Throttle(store, "2/1 hour")
            for n in range(2):
                await throttle.failed("hers", f"10.2.2.{n}", known=False)
                await throttle.failed(f"his{n}", "10.9.9.9", known=False)
            found = [
                await waits(throttle, "hers", "10.3.3.3"),
                await waits(throttle, "another", "10.9.9.9"),
                not await waits(throttle, "another", "10.3.3.3"),
                not await waits(throttle, "hers", "10.1.1.1", known=True),
                not await waits(throttle, "hers", "10.9.9.9", known=True),
            ]
            # One's own login there leaves the address as it was.
            await throttle.succeeded("another", "10.9.9.9", known=False)
            found.append(await waits(throttle, "another", "10.9.9.9"))
            for _ in range(2):
                await throttle.failed("hers", "10.1.1.1", known=True)
            return [*found, await waits(throttle, "hers", "10.1.1.1", known=True)]
        finally:
            await store.close()

    assert asyncio.run(play()) == [True] * 7


def test_the_wait_is_for_the_time_that_began_with_the_first_wrong_password(desk: BrokerDesk) -> None:
    """Else who mistypes now and then, and everybody behind one address, is locked out after so many, however slowly."""
    passed = text("UPDATE wrong_passwords SET ends_ms = ends_ms - :ms")

    async def play() -> list[int]:
        store = Store(desk.settings.database)
        await store.open()
        throttle = Throttle(store, "3/5 minutes")

        async def wrong_after(minutes: int) -> int:
            """The seconds to wait then."""
            await store.write(lambda connection: connection.execute(passed, {"ms": minutes * 60_000}))
            await throttle.failed("slow", "10.4.4.4", known=False)
            try:
                await throttle.check("slow", "10.4.4.4", known=False)
            except Fault as fault:
                return int((fault.headers or {})["Retry-After"])
            return 0

        try:
            return [await wrong_after(minutes) for minutes in (0, 4, 4, 4, 4, 2, 1)]
        finally:
            await store.close()

    *before, last = asyncio.run(play())
    assert before == [0] * 6
    assert 60 < last <= 120


def test_of_many_hosts_those_are_known_where_one_logged_in_last(desk: BrokerDesk, alice: Person) -> None:
    hosts = [f"10.7.7.{n}" for n in range(MOST_KNOWN_HOSTS + 1)]
    desk.sql("DELETE FROM known_hosts WHERE user_id = :id", id=alice.id)
    engine = create_engine(desk.settings.database)
    try:
        with engine.connect() as connection:
            # The first again, before the last.
            for host in (*hosts[:-1], hosts[0], hosts[-1]):
                add_known_host(connection, alice.id, host)
            assert [host for host in hosts if not is_known_host(connection, alice.id, host)] == [hosts[1]]
            connection.rollback()
    finally:
        engine.dispose()
    # Each login counts.
    form = {"username": alice.name, "password": PASSWORD}
    for _ in range(2):
        desk.sql("UPDATE known_hosts SET last_login_at = '' WHERE user_id = :id", id=alice.id)
        desk.call("POST", "/users/login", json=form)
        rows = desk.sql("SELECT host, last_login_at FROM known_hosts WHERE user_id = :id", id=alice.id)
        assert [(host, bool(MOMENT.fullmatch(at))) for host, at in rows] == [("127.0.0.1", True)]


def test_a_restart_forgets_no_guess(tmp_path: Path) -> None:
    form = {"username": "erin", "password": PASSWORD}
    with running_broker(tmp_path, login_attempts="2/1 hour") as desk:
        desk.person("erin")
        for _ in range(2):
            desk.call("POST", "/users/login", 401, json={**form, "password": "wrong password"})
    with running_broker(tmp_path, login_attempts="2/1 hour") as desk:
        desk.call("POST", "/users/login", 429, json=form)
        # A clock that was set back makes nobody wait longer than it takes, and what is over goes.
        desk.sql("UPDATE wrong_passwords SET ends_ms = ends_ms + 7200000")
        desk.call("POST", "/users/login", 401, json={**form, "password": "wrong password"})
        desk.call("POST", "/users/login", json=form)
        desk.sql("UPDATE wrong_passwords SET ends_ms = 1")
        desk.call("POST", "/users/login", 401, json={"username": "ghost", "password": PASSWORD})
        assert desk.sql("SELECT count(*) FROM wrong_passwords WHERE ends_ms = 1") == [(0,)]


@LONG
def test_the_wait_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_broker(tmp_path_factory.mktemp("wait"), login_attempts="1/2 seconds") as desk:
        desk.person("erin")
        form = {"username": "erin", "password": PASSWORD}
        desk.call("POST", "/users/login", 401, json={**form, "password": "wrong password"})
        until(lambda: desk.http.post("/users/login", json=form).status_code == 200, "the end of the wait", 30)


@LONG
def test_a_login_ends_by_its_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_broker(tmp_path_factory.mktemp("short"), token_seconds=1) as desk:
        code = desk.bootstrap_code()
        form = {"username": "frank", "password": PASSWORD}
        desk.call("POST", "/users/register", 201, json={**form, "invite_code": code})
        login = {"Authorization": f"Bearer {desk.call('POST', '/users/login', json=form)['token']}"}
        until(lambda: desk.http.get("/users/me", headers=login).status_code == 401, "the token's end", 30)


def test_too_large_is_413(desk: BrokerDesk, alice: Person) -> None:
    most = 2 * desk.settings.max_body_bytes + 65_536
    body = b'{"username": "alice", "password": "' + b"x" * most + b'"}'
    headers = {"Content-Type": "application/json"}
    assert "larger than" in detail(desk, "POST", "/users/login", 413, content=body, headers=headers)

    def in_pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    assert "larger than" in detail(desk, "POST", "/users/login", 413, content=in_pieces(), headers=headers)
    assert desk.call("GET", "/health") == {"status": "ok"}


def test_what_is_nowhere(desk: BrokerDesk) -> None:
    assert desk.call("GET", "/nowhere", 404) == {"detail": "Not Found"}
    answer = desk.http.request("DELETE", "/users/login")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"detail": "Method Not Allowed"}
    for path in ("/agents/a%00b", "/agents?agent_id=%00", "/%00"):
        assert "NUL" in detail(desk, "GET", path, 422)
