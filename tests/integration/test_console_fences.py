"""The console's fences: who is let in, what a page may load, where a form must come from, what a session is."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator
from importlib import resources

import httpx
import pytest
from tests.broker_desk import PASSWORD, BrokerDesk, Person
from tests.console_stage import Scene, Visitor, running_console

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_console(tmp_path_factory.mktemp("console"), login_attempts="5/5 minutes") as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


@pytest.fixture
def visitor(desk: BrokerDesk, alice: Person) -> Visitor:
    visitor = Visitor(desk)
    assert visitor.sign_in("alice").status_code == 303
    return visitor


def test_what_is_vendored_is_what_its_note_says() -> None:
    static = resources.files("agent_mailer.console") / "static"
    note = (static / "VENDORED.txt").read_text("utf-8")
    names = re.findall(r"^(\S+\.js)$", note, re.M)
    assert names == ["htmx.min.js"]
    assert re.search(r"^  version  4\.0\.\d+$", note, re.M)
    digest = hashlib.sha256((static / names[0]).read_bytes()).hexdigest()
    assert f"  sha256   {digest}" in note
    assert "Zero-Clause BSD" in (static / "htmx.LICENSE").read_text("utf-8")


def test_the_own_script_and_the_style_stay_small() -> None:
    static = resources.files("agent_mailer.console") / "static"
    assert len((static / "console.js").read_text("utf-8").splitlines()) <= 150
    assert len((static / "console.css").read_bytes()) <= 25_000


@pytest.mark.parametrize("path", ["/console/login", "/console/threads", "/console/no-such-page"])
def test_every_page_has_the_fences(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path)
    assert answer.headers["Content-Security-Policy"] == CSP
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=|javascript:", answer.text, re.I)


def test_files_are_kept_by_browsers_for_as_long_as_they_are_the_same(desk: BrokerDesk, visitor: Visitor) -> None:
    address = re.search(r'href="(/console/static/\w+/console\.css)"', visitor.get("/console/login").text)
    assert address
    assert "immutable" in visitor.get(address[1]).headers["Cache-Control"]
    assert visitor.get(re.sub(r"static/\w+", "static/old", address[1])).headers["Cache-Control"] == "no-store"
    assert desk.http.get("/console/static/x/..%2frendering.py").status_code == 404


def test_the_former_address_leads_to_the_console(desk: BrokerDesk) -> None:
    assert desk.http.get("/admin/ui").headers["Location"] == "/console"


def test_a_stranger_is_led_to_the_sign_in_and_back(desk: BrokerDesk, alice: Person) -> None:
    visitor = Visitor(desk)
    led = visitor.get("/console/threads", only="unread")
    assert (led.status_code, led.headers["Location"]) == (
        303,
        "/console/login?next=%2Fconsole%2Fthreads%3Fonly%3Dunread",
    )
    came = visitor.sign_in("alice", to_page="/console/threads?only=unread")
    assert came.headers["Location"] == "/console/threads?only=unread"


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/console\\@evil.example", "/consolex", "/files/x"]
)
def test_the_sign_in_leads_nowhere_else(desk: BrokerDesk, alice: Person, to: str) -> None:
    assert Visitor(desk).sign_in("alice", to_page=to).headers["Location"] == "/console"


def test_the_cookie_is_the_pages_own_and_no_bearer(desk: BrokerDesk, visitor: Visitor) -> None:
    [name] = visitor.http.cookies
    token = visitor.http.cookies[name]
    assert name == "agent_mailer_console"
    said = Visitor(desk).sign_in("alice").headers["Set-Cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(said.split("; "))
    for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"session_token={token}"}):
        assert desk.http.get("/users/me", headers=headers).status_code == 401
    bearer = {"Authorization": f"Bearer {desk.call('POST', '/users/login', json=ALICE)['token']}"}
    assert desk.http.get("/console/threads", headers=bearer).status_code == 303
    key = {"X-API-Key": "amk_" + "0" * 64, "Content-Length": "70000", "Sec-Fetch-Site": "same-origin"}
    assert desk.http.post("/console/send", headers=key, content=b"x" * 70_000).status_code == 401


ALICE = {"username": "alice", "password": PASSWORD}


def test_over_https_its_name_is_bound_to_the_host(desk: BrokerDesk, alice: Person) -> None:
    headers = {"X-Forwarded-Proto": "https", "Sec-Fetch-Site": "same-origin"}
    given = desk.http.post("/console/login", data=ALICE, headers=headers).headers.get_list("Set-Cookie")
    [said] = [cookie for cookie in given if "Max-Age=0" not in cookie]
    assert said.startswith("__Host-agent_mailer_console=")
    assert "Secure" in said.split("; ")


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none", "Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: "-".join(headers.values()))
@pytest.mark.parametrize("path", ["/console/send", "/console/logout", "/console/login", "/console/view"])
def test_no_other_page_acts(visitor: Visitor, path: str, headers: dict[str, str]) -> None:
    answer = visitor.post(path, headers=headers, to="x", body="y")
    assert answer.status_code == 403
    assert "only a page of this broker" in answer.text
    assert visitor.get("/console/threads").status_code == 200


def test_a_browser_of_text_acts(visitor: Visitor) -> None:
    assert visitor.post("/console/view", headers={}, language="zh").status_code == 303


def test_signing_out_ends_the_session_also_for_a_copy_of_its_cookie(desk: BrokerDesk, visitor: Visitor) -> None:
    copy = httpx.Cookies(visitor.http.cookies)
    assert visitor.get("/console/threads").status_code == 200, "it is known just now"
    assert visitor.post("/console/logout").headers["Location"] == "/console/login?done=signed-out"
    assert not visitor.http.cookies
    with httpx.Client(base_url=desk.url, cookies=copy, trust_env=False) as thief:
        assert thief.get("/console/threads").status_code == 303


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize("how", ["password", "disabled", "signed out"])
def test_acting_as_another_ends_with_the_superadmins_own_logins(desk: BrokerDesk, how: str) -> None:
    name = f"root-{how.replace(' ', '-')}"
    root, carol = desk.person(name), desk.person(f"of-{name}")
    desk.sql("UPDATE users SET is_superadmin = :yes WHERE id = :id", yes=True, id=root.id)
    desk.app.state.directory.forget()
    visitor = Visitor(desk)
    visitor.sign_in(name)
    assert visitor.post("/console/act-as", None, user_id=carol.id).status_code == 303
    copy = Visitor(desk)
    copy.http.cookies.update(visitor.http.cookies)
    token = desk.call("POST", f"/superadmin/login-as/{carol.id}", headers=root.login)["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert f"act as {carol.name}." in copy.get("/console/threads").text
    assert desk.call("GET", "/users/me", headers=bearer)["username"] == carol.name
    if how == "password":
        form = {"current_password": PASSWORD, "new_password": "another horse battery"}
        desk.call("PUT", "/users/me/password", headers=root.login, json=form)
    elif how == "disabled":
        # As another process of the broker, or its command, does it.
        desk.sql("UPDATE users SET standing = 'disabled' WHERE id = :id", id=root.id)
        desk.app.state.directory.forget()
    else:
        assert visitor.post("/console/logout", None).status_code == 303
    for one in (visitor, copy):
        answer = one.get("/console/threads")
        assert (answer.status_code, answer.headers["Location"][:14]) == (303, "/console/login")
    # A program's login of its own ends with neither window.
    desk.call("GET", "/users/me", 200 if how == "signed out" else 401, headers=bearer)
    # Hers is another.
    assert desk.call("GET", "/users/me", headers=carol.login)["username"] == carol.name


def test_wrong_passwords_are_throttled_and_the_page_says_when(desk: BrokerDesk) -> None:
    desk.person("guessed")
    visitor = Visitor(desk)
    for _ in range(5):
        assert visitor.sign_in("guessed", "wrong wrong").status_code == 401
    answer = visitor.sign_in("guessed", PASSWORD)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "Too many wrong passwords" in answer.text


def test_a_session_that_ends_in_the_middle_of_a_reply_loses_no_word(desk: BrokerDesk, alice: Person) -> None:
    scene = Scene(desk, alice)
    asked = scene.send("me", scene.agent("kept")["address"], "Kept", "?")
    visitor = Visitor(desk)
    visitor.sign_in("alice")
    copy = httpx.Cookies(visitor.http.cookies)
    visitor.post("/console/logout")
    visitor.http.cookies = copy
    written = {
        "to": asked["to_agent"],
        "parent": asked["id"],
        "action": "reply",
        "key": "k" * 20,
        "body": 'It\'s "so" <b>\n&amp;',
    }
    refused = visitor.post("/console/send", **written)
    assert refused.status_code == 401
    fields = dict(re.findall(r'name="(kept\.\w+)" value="([^"]*)"', refused.text))
    assert set(fields) == {f"kept.{name}" for name in written}
    there = visitor.sign_in("alice", **{name: html.unescape(value) for name, value in fields.items()})
    assert "It&#39;s &#34;so&#34; &lt;b&gt;\n&amp;amp;" in there.text
    sent = visitor.post("/console/send", **written)
    assert sent.status_code == 303
    assert visitor.post("/console/send", **written).headers["Location"] == sent.headers["Location"]
    thread = scene.call("GET", f"/admin/messages/thread/{asked['thread_id']}")
    assert [message["body"] for message in thread] == ["?", written["body"]]


def test_a_page_that_is_old_before_its_stream_begins_is_told_at_once(desk: BrokerDesk, visitor: Visitor) -> None:
    made_at = re.search(r'data-made-at="(\d+)"', visitor.get("/console/threads").text)
    assert made_at
    with visitor.http.stream("GET", "/console/live", params={"made_at": made_at[1]}) as stream:
        said = stream.iter_lines()
        assert next(said) == "event: hello"
        visitor.post("/console/view", None, language="en")
        visitor.post("/console/teams/make", None, name="Changed meanwhile")
        assert "event: changed" in said
    with visitor.http.stream("GET", "/console/live", params={"made_at": made_at[1]}) as stream:
        assert [line for line, _ in zip(stream.iter_lines(), range(4), strict=False)][3] == "event: changed"
