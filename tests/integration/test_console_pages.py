"""The console's pages as HTML: strict, whatever strangers have written; and what its forms do, without a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from markupsafe import Markup, escape
from sqlalchemy import create_engine, event
from tests.broker_desk import BrokerDesk, Person
from tests.console_stage import PIXEL, Scene, Visitor, filled, pages_of, running_console
from tests.databases import ON_A_FILE
from tests.sizes import LONG
from tests.strict_html import check

from agent_mailer.broker.audit import Act
from agent_mailer.broker.search.words import wanted_by
from agent_mailer.console.charts import Bar, bars
from agent_mailer.console.mail.finding import Asked, find, marked, read
from agent_mailer.console.places.counting import Counting
from agent_mailer.console.words_zh import ZH
from agent_mailer.mailbox.port import Kind
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.state.held import Guard
from agent_mailer.state.records import PauseReason
from agent_mailer.state.stuck import StuckKind

NAMED = (PauseReason, StuckKind, Guard, RemoteVerb, Act, Kind)
TEMPLATES = Path(__file__).parents[2] / "src" / "agent_mailer" / "console" / "templates"
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "</textarea></form><form action=http://evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\u202egnp.exe",
    "&lt;b&gt;",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_console(tmp_path_factory.mktemp("console")) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


@pytest.fixture(scope="module")
def scene(desk: BrokerDesk, alice: Person) -> Scene:
    return filled(desk, alice)


@pytest.fixture(scope="module")
def visitor(desk: BrokerDesk, scene: Scene) -> Visitor:
    visitor = Visitor(desk)
    visitor.sign_in("alice")
    return visitor


@LONG
def test_every_page_is_strict_html_in_both_languages(visitor: Visitor, scene: Scene) -> None:
    for language in ("en", "zh"):
        visitor.post("/console/view", None, language=language)
        for name, path in pages_of(scene).items():
            answer = visitor.get(path)
            assert answer.status_code == (404 if name == "nothing" else 200), path
            page = check(answer.text)
            assert page.places[0][1]["lang"].startswith(language)
            part = visitor.http.get(path, headers={"HX-Request": "true"}).text
            assert '<div id="live">' in part
            assert 'class="top"' not in part
    visitor.post("/console/view", None, language="en")


def test_every_text_of_the_pages_is_there_in_chinese() -> None:
    missing = set()
    for template in TEMPLATES.glob("*.html"):
        for found in re.finditer(
            r'\b[tn]\(\s*"([^"]*)"(?:,\s*"([^"]*)")?|\bt\(\'([^\']*)\'', template.read_text("utf-8")
        ):
            missing |= {text for text in found.groups() if text and text not in ZH}
    assert missing == set()
    # And what watchers name by a word of theirs.
    named = [one.value.replace("_", " ").replace("-", " ") for kind in NAMED for one in kind]
    assert [word for word in named if word not in ZH] == []
    blanks = re.compile(r"\{\w+\}")
    assert [
        english for english, chinese in ZH.items() if set(blanks.findall(english)) != set(blanks.findall(chinese))
    ] == []


@pytest.mark.long
def test_what_strangers_write_stays_text_on_every_page(visitor: Visitor, scene: Scene, desk: BrokerDesk) -> None:
    agent = scene.agent("stranger")
    attached = [{"filename": "x", "url": "javascript:alert(1)"}, "http://evil.example/files/x.png", {"id": 1}]
    for text in HOSTILE:
        sent = scene.send("stranger", "me", text, f"{text}\n\n[a]({text})", labels=["a'\"<b>"], attachments=attached)
        scene.turn(scene.send("me", "stranger", text, text), "stranger", "failed", text)
        page = check(visitor.get("/console/thread", id=sent["thread_id"]).text)
        sources = {given["src"] for tag, given in page.places if tag == "img"}
        assert all(source.startswith("/console/static/") for source in sources)
        leads = {given["href"] for tag, given in page.places if tag == "a" and "href" in given}
        assert [lead for lead in leads if not lead.startswith(("/console", "#", "/files/"))] == []
        check(visitor.get("/console/compose", reply=sent["id"]).text)
        check(visitor.get("/console/message", id=sent["id"]).text)
        check(visitor.get("/console/search", q=text).text)
        check(visitor.get("/console/search", q="from:stranger").text)
        team = scene.call("POST", "/admin/teams", {"name": text[:64].replace("\u202e", "~"), "description": text})
        scene.call("POST", f"/admin/teams/{team['id']}/memories", {"title": "m'\"<i>", "content": text})
        check(visitor.get("/console/team", id=team["id"]).text)
        scene.call("DELETE", f"/admin/teams/{team['id']}")
    desk.sql("UPDATE agents SET name = :name, tags = '[\"<b>\"]' WHERE id = :id", name="<i>'\"", id=agent["id"])
    for path in pages_of(scene).values():
        page = check(visitor.get(path).text)
        assert "\u202e" not in "".join(page.texts)


def test_looking_takes_no_mail_from_an_agent_and_marks_none(visitor: Visitor, scene: Scene) -> None:
    scene.agent("reader")
    to_agent, to_me = scene.send("me", "reader", "Look", "?"), scene.send("reader", "me", "Look at this", "!")
    for message in (to_agent, to_me):
        assert visitor.get("/console/thread", id=message["thread_id"]).status_code == 200
        assert scene.call("GET", f"/messages/{message['id']}", as_agent=True)["is_read"] is False
    fields = {"back": "/console/threads", "unread": [to_me["id"]]}
    assert visitor.post("/console/thread/read", None, **fields).status_code == 303  # type: ignore[arg-type]
    assert scene.call("GET", f"/messages/{to_me['id']}", as_agent=True)["is_read"] is True
    refused = visitor.post("/console/thread/read", None, back="/console/threads", unread=[to_agent["id"]])
    assert refused.status_code == 403
    assert scene.call("GET", f"/messages/{to_agent['id']}", as_agent=True)["is_read"] is False


def test_a_form_that_is_sent_twice_sends_once_also_with_a_picture(visitor: Visitor, scene: Scene) -> None:
    to = scene.agent("picture")["address"]
    fields = {"to": to, "subject": "A picture", "body": "see", "action": "send", "key": "k1" * 10}
    headers = {"Sec-Fetch-Site": "same-origin"}
    led = set()
    for _ in range(2):
        files = {"picture": ("a'\"<b>.png", PIXEL, "image/png")}
        answer = visitor.http.post("/console/send", data=fields, files=files, headers=headers)
        assert answer.status_code == 303, answer.text
        led.add(parse_qs(urlsplit(answer.headers["Location"]).query)["id"][0])
    [thread] = led
    [message] = scene.call("GET", f"/admin/messages/thread/{thread}")
    page = check(visitor.get("/console/thread", id=thread).text)
    [picture] = [given["src"] for tag, given in page.places if tag == "img" and given["src"].startswith("/files/")]
    assert message["attachments"][0]["url"].endswith(picture)
    other = visitor.post("/console/send", None, **{**fields, "body": "something else"})
    assert other.status_code == 409
    assert "something else" in other.text


def test_what_the_browser_forgets_once_mail_is_sent_is_the_draft_of_its_form(visitor: Visitor, scene: Scene) -> None:
    """Under another name the text would stand in the form again."""
    asked = scene.send("planner", "me", "Drafted", "?")
    new = "/console/compose"
    written = re.compile(r'<form[^>]* action="/console/send"[^>]* data-draft="([^"]+)".*?</form>', re.DOTALL)
    for path in (
        f"/console/thread?id={asked['thread_id']}",
        f"{new}?reply={asked['id']}",
        f"{new}?forward={asked['id']}",
        new,
    ):
        form = written.search(visitor.get(path).text)
        assert form, path
        fields = {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form[0])}
        sent = visitor.post("/console/send", None, **{**fields, "to": asked["from_agent"], "body": path})
        told = visitor.get(sent.headers["Location"]).text
        assert re.findall(r'data-sent="([^"]+)"', told) == [form[1]], path


def test_what_cannot_leave_stays_on_the_page_with_the_reason(visitor: Visitor) -> None:
    answer = visitor.post("/console/send", None, to="nobody@nowhere", subject="s", body="kept words", key="k2" * 10)
    assert answer.status_code in (400, 404)
    page = check(answer.text)
    assert "kept words" in "".join(page.texts)
    assert "Not sent" in "".join(page.texts)


def test_a_thread_is_put_away_brought_back_and_undone(visitor: Visitor, scene: Scene) -> None:
    scene.agent("shelf")
    thread = scene.send("me", "shelf", "Shelved", "x")["thread_id"]

    def done(what: str, back: str = "/console/threads") -> str:
        answer = visitor.post(f"/console/thread/{what}", None, thread=thread, back=back)
        assert answer.status_code == 303
        return answer.headers["Location"]

    assert done("archive") == f"/console/threads?done=archive&done_id={thread}"
    assert "Undo" in visitor.get("/console/threads", done="archive", done_id=thread).text
    assert thread in visitor.get("/console/archive").text
    assert thread not in visitor.get("/console/threads").text
    done("unarchive")
    done("trash")
    assert thread in visitor.get("/console/trash").text
    done("restore")
    assert thread in visitor.get("/console/threads").text
    done("trash")
    assert done("purge", "https://evil.example").startswith("/console?")
    assert visitor.get("/console/thread", id=thread).status_code == 404


def test_a_reply_below_a_thread_answers_nothing_that_is_in_the_trash(visitor: Visitor, scene: Scene) -> None:
    keeper, mistaken = scene.agent("keeper"), scene.agent("mistaken")
    kept = scene.send("keeper", "me", "Words", "Which of them?")
    asked = scene.send("me", "mistaken", "Words", "?", thread_id=kept["thread_id"])
    gone = scene.send("mistaken", "me", "Words", "of another thread", parent_id=asked["id"])

    def answered() -> list[tuple[str, str]]:
        page = visitor.get("/console/thread", id=kept["thread_id"]).text
        fields = r'name="to" value="([^"]*)"><input type="hidden" name="parent" value="([^"]*)"'
        return re.findall(fields, page)

    assert answered() == [(mistaken["address"], gone["id"])]
    visitor.post("/console/thread/trash", None, message=gone["id"], back="/console/threads")
    assert answered() == [(keeper["address"], kept["id"])]


def test_lists_go_on_where_they_ended_and_stay_cut_to_what_was_asked(visitor: Visitor, scene: Scene) -> None:
    agent, team = scene.agent("many"), scene.call("POST", "/admin/teams", {"name": "Many"})["id"]
    scene.call("POST", f"/admin/teams/{team}/agents", {"agent_id": agent["id"]})
    scene.send("docs-bot", "billing-bot", "Of others", "x")
    for number in range(51):
        scene.send("many", "me", f"Many {number:02}", "x")
    for asked in ({"agent": agent["id"]}, {"team": team}, {"only": "mine"}, {"only": "unread"}):
        page = visitor.get("/console/threads", **asked).text
        first = re.findall(r"Many (\d\d)</bdi>", page)
        assert first == [f"{number:02}" for number in range(50, 0, -1)]
        older = re.search(r'rel="next" href="([^"]+)"', page)
        assert older
        second = visitor.get(unescape(older[1])).text
        assert (re.findall(r"Many (\d\d)</bdi>", second), "Of others" in second) == (["00"], False), asked
    scene.call("DELETE", f"/admin/teams/{team}")


def test_two_people_see_nothing_of_each_other(desk: BrokerDesk, visitor: Visitor, scene: Scene) -> None:
    desk.person("bob")
    bob = Visitor(desk)
    bob.sign_in("bob")
    for name, path in pages_of(scene).items():
        own = bob.get(path)
        if name in ("thread", "forward", "message", "team", "channel"):
            assert own.status_code == 404, path
        elif name == "users":
            assert own.status_code == 403
        assert "shop-coder" not in own.text, path
        assert "Build the new cart" not in own.text, path
    agent = scene.agents["shop-coder"]["id"]
    assert "Build" not in bob.get("/console/threads", agent=agent).text
    assert bob.post("/console/users/invite", None).status_code == 403
    assert bob.post("/console/act-as", None, user_id=scene.person.id).status_code == 403


def test_acting_as_another_shows_a_bar_and_is_in_the_audit(desk: BrokerDesk, visitor: Visitor) -> None:
    carol = desk.person("carol")
    assert visitor.post("/console/act-as", None, user_id=carol.id).status_code == 303
    page = visitor.get("/console/threads").text
    assert "You, alice, act as carol." in page
    assert visitor.post("/console/keys/make", None, name="made for her").status_code == 200
    audit = check(visitor.get("/console/audit").text)
    assert "acting as another user" in "".join(audit.texts)
    assert visitor.post("/console/act-as/end", None).headers["Location"] == "/console/users"
    assert "act as carol" not in visitor.get("/console/threads").text
    hers = Visitor(desk)
    hers.sign_in("carol")
    assert "logged in as" in hers.get("/console/audit").text
    # Whoever signs in in the browser of one who acts as her is himself.
    assert visitor.post("/console/act-as", None, user_id=carol.id).status_code == 303
    visitor.sign_in("alice")
    assert "act as carol" not in visitor.get("/console/threads").text
    # Everybody's is a superadmin's to see.
    assert hers.get("/console/audit?whose=all").text.count("<tr") == hers.get("/console/audit").text.count("<tr") > 1


def test_a_new_key_is_shown_once_and_works(desk: BrokerDesk, visitor: Visitor) -> None:
    answer = visitor.post("/console/keys/make", None, name="shown once")
    check(answer.text)
    [key] = set(re.findall(r"amk_[0-9a-f]{64}", answer.text))
    # What answers a form cannot be asked for again: it does not draw itself anew, and leads to its place.
    assert "data-live=" not in answer.text
    assert 'name="to_page" value="/console/keys"' in answer.text
    assert desk.http.get("/agents", headers={"X-API-Key": key}).status_code == 200
    assert key not in visitor.get("/console/keys").text


def test_memories_channels_and_teams_change_by_their_forms(visitor: Visitor, scene: Scene) -> None:
    made = visitor.post("/console/teams/make", None, name="By form", text="why")
    team = parse_qs(urlsplit(made.headers["Location"]).query)["id"][0]
    agent = scene.agent("joiner")["id"]
    visitor.post("/console/teams/add", None, team=team, agent=agent)
    visitor.post("/console/memories/make", None, team=team, title="Notes", text="one")
    visitor.post("/console/memories/append", None, team=team, title="Notes", text="two")
    # What cannot be is lost to nobody.
    refused = visitor.post("/console/memories/make", None, team=team, title="Notes", text="a long <b>text</b>")
    assert refused.status_code == 409
    check(refused.text)
    assert "a long &lt;b&gt;text&lt;/b&gt;</textarea>" in refused.text
    page = "".join(check(visitor.get("/console/team", id=team).text).texts)
    assert "joiner" in page
    assert "one" in page
    assert "two" in page
    [channel] = scene.call("GET", "/admin/channels")
    token = channel["join_token"]
    visitor.post("/console/channels/continue", None, token=token)
    assert scene.call("GET", f"/admin/channels/{token}")["channel"]["max_turns"] == 20
    visitor.post("/console/channels/close", None, token=token)
    assert scene.call("GET", f"/admin/channels/{token}")["channel"]["status"] == "closed"
    assert visitor.post("/console/channels/continue", None, token=token).status_code == 409
    visitor.post("/console/teams/delete", None, team=team)
    assert visitor.get("/console/team", id=team).status_code == 404


@pytest.mark.parametrize(
    ("query", "subjects"),
    [
        ("cart", {"Re: Review: cart API", "Review: cart API", "Build the new cart"}),
        ("from:reviewer cart", {"Re: Review: cart API"}),
        ("to:infra-runner", {"Deploy 1.4"}),
        ("subject:deploy", {"Deploy 1.4"}),
        ("team:shop from:planner to:billing", {"Migrate the invoices"}),
        ("tag:audited", set()),
        ("after:2999", set()),
        ("before:2000-01-01", set()),
        ("Spelling", {"Spelling"}),
        ("zz%_!\\'\"", set()),
    ],
)
def test_the_search_finds_what_is_asked(visitor: Visitor, scene: Scene, query: str, subjects: set[str]) -> None:
    page = visitor.get(f"/console/search?q={quote(query)}").text
    check(page)
    assert set(re.findall(r'class="subject"><bdi>([^<]*)</bdi>', page)) == subjects


@ON_A_FILE
def test_a_search_asks_the_index_of_words_once(desk: BrokerDesk, scene: Scene) -> None:
    """Begun with the messages it asked the index for each of them: minutes, with the mail of a month."""
    engine = create_engine(f"sqlite:///{desk.database}")
    plans: list[str] = []

    def note(_c: object, cursor: Any, statement: str, parameters: Any, _context: object, _many: bool) -> None:
        if "message_words" in statement:
            asked = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append("\n".join(row[3] for row in asked if row[3].startswith(("SCAN", "SEARCH"))))

    event.listen(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        found, total = find(connection, scene.person.id, "", read("from:planner cart"), 0, 5)
    engine.dispose()
    assert (len(found), total) == (1, 1)
    assert len(plans) == 2
    assert all(plan.startswith("SCAN message_words VIRTUAL TABLE") and "SEARCH m " in plan for plan in plans), plans


def test_what_is_asked_of_the_search_is_read() -> None:
    assert read('from:"a b" deploy* tag:x is:unread') == Asked(words="deploy*", sender="a b", tag="x", unread=True)
    assert read("after:2026-11 before:never is:odd") == Asked(words="before never is odd", after="2026-11")
    assert not read("  ").anything


@pytest.mark.parametrize("words", ["", "alert"])
def test_what_the_search_shows_of_a_mail_is_text(words: str) -> None:
    for text in HOSTILE:
        shown = marked(text, wanted_by(words))
        assert Markup(shown.replace("<mark>", "").replace("</mark>", "")) == escape(text)


def test_figures_are_true_at_once_though_what_is_over_is_counted_once(visitor: Visitor, scene: Scene) -> None:
    def figures() -> tuple[int, int, int]:
        page = visitor.get("/console/stats").text
        days = re.findall(r'class="number">(\d+)</td><td data-label="from me" class="number">(\d+)</td>', page)
        failed = re.search(r"failed</span> (\d+)</li>", page)
        return sum(int(one) for one, _ in days), sum(int(one) for _, one in days), int(failed[1]) if failed else 0

    whole = figures()
    # Some of it is old enough to be counted once.
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="microseconds")
    moved = "SELECT id FROM messages WHERE subject = 'Migrate the invoices'"
    scene.desk.sql(f"UPDATE receipts SET created_at = '{yesterday}' WHERE message_id IN ({moved})")
    scene.desk.sql(f"UPDATE messages SET created_at = '{yesterday}' WHERE id IN ({moved})")
    scene.desk.app.state.counting = Counting()
    before = figures()
    assert before == whole
    assert before[2] > 0
    assert figures() == before
    sent = scene.send("me", "docs-bot", "Figures", "x")
    scene.send("planner", "docs-bot", "Figures", "x", thread_id=sent["thread_id"])
    scene.turn(sent, "docs-bot", "failed", "exit 1")
    assert figures() == (before[0] + 1, before[1] + 1, before[2] + 1)


def test_an_agents_threads_are_the_same_however_they_are_looked_for(
    visitor: Visitor, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = scene.call("GET", "/admin/teams")[0]["id"]
    asked = [{"agent": one["id"]} for one in scene.agents.values()] + [{"team": team}, {"only": "mine"}]

    def listed() -> list[list[str]]:
        pages = [visitor.get("/console/threads", **one).text for one in asked]
        return [re.findall(r'href="/console/thread\?id=([^"#]*)"', page) for page in pages]

    little = listed()
    assert len({len(one) for one in little}) > 1
    monkeypatch.setattr("agent_mailer.console.mail.rows.LITTLE", -1)
    assert listed() == little
    assert visitor.get("/console/threads", agent="nobody").text.count('class="thread') == 0


def test_a_chart_is_svg_whose_bars_are_as_high_as_their_numbers() -> None:
    drawn = str(bars("<Mail>", [Bar("a", 10, 5), Bar("b", 0), Bar("c", 20)]))
    heights = [float(found) for found in re.findall(r'height="([\d.]+)" rx', drawn)]
    assert heights == [83, 41.5, 166]
    assert "&lt;Mail&gt;" in drawn
    assert "<Mail>" not in drawn
    assert str(bars("none", [])).endswith("</svg>")
