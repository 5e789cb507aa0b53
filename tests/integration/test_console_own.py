"""The console of one machine, asked as a browser without script does: who gets in, and what its forms do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from tests.desk import Desk
from tests.own_console import OwnConsole, own_console
from tests.sizes import LONG
from tests.strict_html import check
from tests.typed import type_in

from agent_mailer.console.own import mail
from agent_mailer.console.own.gate import ENTER, Door, Gate
from agent_mailer.desk.here import AgentsHere
from agent_mailer.desk.mail import MailHere
from agent_mailer.mailbox.port import Priority


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("own"))
    desk.configure(limits={"tokens_per_day": 3})
    return desk


@pytest.fixture(scope="module")
def console(desk: Desk) -> Iterator[OwnConsole]:
    with own_console(desk.workdir) as console:
        console.http.cookies.set("agent_mailer_own", "nothing")
        assert console.get("/console/needs").status_code == 401
        entered = console.enter()
        assert (entered.status_code, entered.headers["location"]) == (303, f"{console.url}/console/needs")
        yield console


def test_the_link_opens_once_and_nobody_comes_without_it(console: OwnConsole) -> None:
    assert console.get("/console/needs").status_code == 200
    again = console.enter()
    assert (again.status_code, "set-cookie" in again.headers) == (403, False)
    assert console.http.get(console.link[:-1]).status_code == 403
    for name, value in list(console.http.cookies.items()):
        if name.startswith("agent_mailer_own_"):
            del console.http.cookies[name]
            assert console.get("/console/needs").status_code == 401
            assert console.get("/console/live").status_code == 401
            console.http.cookies.set(name, value[:-1])
            assert console.get("/console/needs").status_code == 401
            console.http.cookies.clear()
            console.http.cookies.set(name, value)
    assert console.get("/console/needs").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "agent-mailer.localhost.evil.example"]
)
def test_a_foreign_host_is_refused(console: OwnConsole, host: str) -> None:
    port = console.url.rpartition(":")[2]
    for path in ("/console/needs", "/console/static/x/console.css"):
        answer = console.http.get(path, headers={"Host": host.format(port=port)})
        assert (answer.status_code, "Needs you" in answer.text) == (421, False)


def test_no_page_of_elsewhere_changes_anything(console: OwnConsole, desk: Desk) -> None:
    form: dict[str, str] = {"agent": str(desk.workdir), "verb": "pause", "back": "/console/agents"}
    for site in ("cross-site", "same-site", "none"):
        assert console.post("/console/ask", site=site, **form).status_code == 403
    told = {"Origin": "http://127.0.0.1:1"}
    assert console.http.post("/console/ask", data=form, headers=told).status_code == 403
    assert desk.place().state.pause.read() is None


def test_what_is_asked_is_done_as_a_command_does_it(console: OwnConsole, desk: Desk) -> None:
    agent = str(desk.workdir)
    asked = console.post("/console/ask", agent=agent, verb="pause", back="/console/agents", reason="lunch")
    assert (asked.status_code, asked.headers["location"]) == (303, "/console/agents?done=did")
    pause = desk.place().state.pause.read()
    assert pause is not None
    assert pause.reason == "by_hand"
    assert ">Resume<" in console.get("/console/agents").text
    assert ">Resume<" in console.get("/console/agent", id=agent).text
    console.post("/console/ask", agent=agent, verb="resume", back="/console/needs")
    assert desk.place().state.pause.read() is None
    refused = console.post("/console/ask", agent=agent, verb="approve", target="q-none", back="/console/needs")
    assert (refused.status_code, "there is no such question" in refused.text) == (409, True)
    assert "there is no such question" in console.get("/console/agent", id=agent).text
    assert console.post("/console/ask", agent=agent, verb="burn").status_code == 422
    assert console.get("/console/agent", id=str(desk.base)).status_code == 404


def test_who_only_has_mail_that_nobody_takes_needs_somebody(console: OwnConsole, desk: Desk) -> None:
    assert "nobody watches" not in console.get("/console/needs").text
    desk.send("are you there?")
    assert "1 message waits, and nobody watches." in console.get("/console/needs").text


def test_no_console_opens_within_a_turn(tmp_path: Path) -> None:
    said = type_in(tmp_path, "console", env={"AGENT_MAILER_TURN_DIR": str(tmp_path)})
    assert said.status == 2
    assert "for a person to decide" in said.err


def test_the_person_writes_once_and_looking_takes_no_mail_from_an_agent(console: OwnConsole, desk: Desk) -> None:
    before = len(desk.inbox("planner"))
    form = {"to": "planner", "subject": "Plan", "body": "**Please**", "action": "send", "key": "0123456789abcdef"}
    sent = console.post("/console/send", **form)
    again = console.post("/console/send", **form)
    assert (sent.status_code, sent.headers["location"]) == (303, again.headers["location"])
    [*_, letter] = desk.inbox("planner")
    assert (letter.subject, letter.body.strip(), letter.envelope.sender) == ("Plan", "**Please**", "user")
    thread = letter.envelope.thread
    assert "Plan" in console.get("/console/threads", only="mine").text
    shown = console.get("/console/thread", id=thread).text
    assert "<strong>Please</strong>" in shown
    assert "Archive" not in shown
    console.get("/console/compose", reply=letter.envelope.id)
    assert len(desk.inbox("planner")) == before + 1


def test_what_came_to_the_person_counts_as_read_when_he_says_so(console: OwnConsole, desk: Desk) -> None:
    sent = desk.send("Postgres or SQLite?", sender="coder", to="user", subject="Which?", thread="th-which")
    for path in ("/console/threads", "/console/nothing"):
        assert "<title>(1) " in console.get(path, only="unread").text
    shown = console.get("/console/thread", id="th-which").text
    assert "Mark 1 message as read" in shown
    assert [one.envelope.id for one in desk.inbox()] == [sent]
    reply = {"to": "coder", "subject": "Re: Which?", "body": "Postgres", "action": "reply", "parent": sent}
    assert console.post("/console/send", key="fedcba9876543210", **reply).status_code == 303
    [*_, answer] = desk.inbox("coder")
    assert (answer.body.strip(), answer.refs, answer.envelope.thread) == ("Postgres", (sent,), "th-which")
    console.post("/console/thread/read", unread=sent, back="/console/threads")
    assert desk.inbox() == []
    assert "Nothing here" in console.get("/console/threads", only="unread").text


def test_the_form_below_a_thread_answers_what_was_written_to_the_person_and_not_what_agents_wrote_since(
    console: OwnConsole, desk: Desk
) -> None:
    asked = desk.send("Tabs or spaces?", sender="coder", to="user", thread="th-among")
    desk.send("I go on meanwhile.", sender="planner", to="coder", thread="th-among")
    shown = console.get("/console/thread", id="th-among").text
    assert "I go on meanwhile." in shown
    assert re.findall(r'name="parent" value="([^"]*)"', shown) == [asked]
    console.post("/console/thread/read", unread=asked, back="/console/threads")


def mail_pages(desk: Desk, door: Door) -> FastAPI:
    """Those of the console about mail, alone and in this process."""
    app = FastAPI()
    app.state.mail = MailHere(AgentsHere([desk.workdir]).looking)
    app.include_router(mail.router)
    app.add_middleware(Gate, door=door)
    return app


def test_the_page_of_a_long_thread_marks_what_it_says_and_nothing_that_it_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "MOST_SHOWN", 2)
    desk, door = Desk(tmp_path), Door(9)
    sent = [desk.send("x", sender="coder", to="user", thread="th-long") for _ in range(5)]
    app = mail_pages(desk, door)

    async def look(**query: str) -> tuple[list[str], list[str]]:
        """The messages that its button marks, and what is unread then."""
        page = (await http.get("/console/thread", params={"id": "th-long", **query})).text
        form = re.findall(r'name="unread" value="([^"]+)"', page)
        assert f"Mark {len(form)} message" in page
        taken = await http.post(
            "/console/thread/read", data={"unread": form}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert taken.status_code == 303
        return form, [one.envelope.id for one in await asyncio.to_thread(desk.inbox)]

    async def play() -> None:
        async with http:
            await http.get(ENTER, params={"key": door.key})
            assert await look() == (sent[3:], sent[:3])
            assert await look(all="yes") == (sent[:2], sent[2:3])
            assert await look(all="yes") == (sent[2:3], [])

    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9")
    asyncio.run(play())


def test_who_goes_through_all_pages_of_threads_sees_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "A_PAGE", 2)
    desk, door = Desk(tmp_path), Door(9)
    for number in range(5):
        desk.send("x", sender="coder", to="user", thread=f"th-{number}")
    app = mail_pages(desk, door)

    async def play() -> list[str]:
        seen, path = list[str](), "/console/threads"
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9", follow_redirects=True
        ) as http:
            await http.get(ENTER, params={"key": door.key}, follow_redirects=False)
            while path:
                page = (await http.get(path)).text
                seen += dict.fromkeys(re.findall(r'href="/console/thread\?id=(th-\d)', page))
                older = re.search(r'rel="next" href="([^"]+)"', page)
                path = unescape(older[1]) if older else ""
        return seen

    assert asyncio.run(play()) == [f"th-{number}" for number in (4, 3, 2, 1, 0)]


def test_each_mail_of_a_turn_for_several_is_shown_with_that_turn(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(batch_low=True)
    chores = [desk.send("a chore", thread="chores", priority=Priority.LOW) for _ in range(2)]
    desk.once()
    [turn] = desk.place().state.turns.ids()
    shown = MailHere(AgentsHere([desk.workdir]).looking).thread("chores")
    looks = {one.message.id: [seen.turn_id for seen in one.turns] for one in shown if one.turns}
    assert looks == {chore: [turn] for chore in chores}


def test_what_did_not_leave_is_still_on_the_page(console: OwnConsole) -> None:
    form = {"to": "nobody-here", "subject": "x", "body": "my long text", "action": "send", "key": "00112233445566"}
    too_much = console.post("/console/send", **form, unread=["x"] * 500)
    assert (too_much.status_code, "Too many fields" in too_much.text) == (400, True)
    refused = console.post("/console/send", **form)
    assert refused.status_code == 422
    assert "nobody is called nobody-here" in refused.text
    assert "my long text" in refused.text
    assert console.get("/console/thread", id="../../etc").status_code == 404


def test_a_limit_is_raised_for_today_and_a_note_is_read(console: OwnConsole, desk: Desk) -> None:
    agent = str(desk.workdir)
    (desk.state / "memory").mkdir(exist_ok=True)
    (desk.state / "memory" / "global.md").write_text("remember <b>this</b>\u202e")
    shown = console.get("/console/agent", id=agent).text
    assert "remember &lt;b&gt;this&lt;/b&gt;‹U+202E›" in shown
    console.post("/console/ask", agent=agent, verb="raise", limit="tokens_per_day", value="7", back="/console/agents")
    assert "raised until" in console.get("/console/agent", id=agent).text
    refused = console.post("/console/ask", agent=agent, verb="raise", limit="tokens_per_day", value="many")
    assert (refused.status_code, "is no limit" in refused.text) == (409, True)
    assert "is no limit" in console.get("/console/agent", id=agent).text


def test_what_leaves_by_the_clock_is_shown(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.workdir / "nightly.md").write_text("look")
    nightly = {"name": "nightly", "cron": "0 3 * * *", "subject": "What broke?", "body": "nightly.md"}
    desk.configure(schedule=[nightly])
    desk.place().trust.remember()  # as its first watcher does
    with own_console(desk.workdir) as console:
        console.enter()
        for path in ("/console/schedules", f"/console/agent?id={desk.workdir}"):
            page = console.get(path).text
            assert re.search(r">nightly</t[dh]>.*?<time datetime=", page, re.DOTALL), path
        (desk.workdir / "nightly.md").write_text("something else")
        assert "has changed since it was trusted" in console.get("/console/schedules").text
        assert "What its schedule nightly sends does not leave" in console.get("/console/needs").text
        (desk.workdir / "nightly.md").write_text("look")
        assert "does not leave:" not in console.get("/console/needs").text


def test_a_question_is_answered_in_place_once(console: OwnConsole, desk: Desk) -> None:
    desk.shell("agent-mailer mail finish --blocked 'Tabs or blanks?'")
    desk.send("indent it", subject="Indent", thread="th-indent")
    desk.once()
    shown = console.get("/console/needs").text
    assert "Tabs or blanks?" in shown
    [row] = [row for row in shown.split('<li class="need"') if "th-indent" in row]
    [need] = re.findall(r'name="need" value="([^"]*)"', row)
    form = {"need": need, "to": "coder", "key": "aabbccddeeff0011", "subject": "Re: Indent", "body": "Blanks"}
    # What could not be stored was not sent, however often: the agent waits for it still.
    way = desk.root / "agents" / "coder" / "inbox" / "tmp"
    way.rmdir()
    way.write_text("")
    for _ in range(2):
        failed = console.post("/console/needs/answer", action="reply", **form)
        assert (failed.status_code, "Blanks" in failed.text) == (409, True)
    way.unlink()
    way.mkdir(0o700)
    first = console.post("/console/needs/answer", action="reply", **form)
    again = console.post("/console/needs/answer", action="reply", **form)
    assert (first.status_code, again.status_code) == (303, 303)
    other = console.post("/console/needs/answer", action="reply", **{**form, "key": "1100ffeeddccbbaa", "body": "Tabs"})
    assert other.status_code == 409
    assert [one.body.strip() for one in desk.inbox("coder") if one.envelope.thread == "th-indent"] == ["Blanks"]


def test_the_search_finds_what_is_asked(console: OwnConsole, desk: Desk) -> None:
    for number, (subject, body) in enumerate((("The attic", "is empty"), ("The cellar", "<b>full</b> of jars"))):
        form = {"to": "coder", "subject": subject, "body": body, "action": "send", "key": f"{number}" * 32}
        assert console.post("/console/send", **form).status_code == 303

    def found(query: str) -> list[str]:
        page = console.get("/console/search", q=query).text
        check(page)
        return re.findall(r'class="subject"><bdi>([^<]*)</bdi>', page)

    today = datetime.now(UTC).date()
    for query, subjects in (
        ("jars full", ["The cellar"]),
        ("subject:attic", ["The attic"]),
        ("from:user to:coder empty", ["The attic"]),
        ("from:nobody empty", []),
        ("cella*", ["The cellar"]),
        (f"jars before:{today}", []),
        (f"jars after:{today}", ["The cellar"]),
        ("team:Shop jars", []),
        ("zz%_!\\'", []),
    ):
        assert found(query) == subjects, query
    page = console.get("/console/search", q="full").text
    assert "&lt;b&gt;<mark>full</mark>&lt;/b&gt;" in page
    [leads] = re.findall(r'href="(/console/thread\?id=[^"#]*)#', page)
    assert "of jars" in console.get(leads).text


def test_of_two_answers_in_the_same_instant_one_is_sent(console: OwnConsole, desk: Desk) -> None:
    desk.shell("agent-mailer mail finish --blocked 'Which colour?'")
    desk.send("paint it", subject="Paint", thread="th-paint")
    desk.once()
    [row] = [row for row in console.get("/console/needs").text.split('<li class="need"') if "th-paint" in row]
    [need] = re.findall(r'name="need" value="([^"]*)"', row)
    form = {"need": need, "to": "coder", "subject": "Re: Paint", "action": "reply"}
    with ThreadPoolExecutor(2) as both:
        said = [{**form, "key": word * 4, "body": word} for word in ("red-", "blue")]
        found = list(both.map(lambda one: console.post("/console/needs/answer", **one), said))
    assert sorted(one.status_code for one in found) == [303, 409]
    [late] = [word["body"] for word, one in zip(said, found, strict=True) if one.status_code == 409]
    assert [one.body.strip() for one in desk.inbox("coder") if one.envelope.thread == "th-paint"] == [
        "blue" if late == "red-" else "red-"
    ]


def test_who_has_no_agent_yet_is_told_what_makes_one() -> None:
    with own_console() as console:
        console.enter()
        for page in ("needs", "agents", "threads", "search", "schedules", "compose"):
            answer = console.get(f"/console/{page}")
            assert answer.status_code == 200, page
            check(answer.text)
        refused = console.post("/console/send", to="coder", subject="x", body="my text", action="send", key="")
        assert (refused.status_code, "my text" in refused.text) == (422, True)
        assert "nobody is called coder; give an agent a mailbox, in its folder: agent-mailer init" in refused.text


@LONG
def test_a_workdir_whose_path_has_signs_goes_through_pages_and_actions(tmp_path: Path) -> None:
    signs = 'o\'n "x" <b>&amp; 50% #1 ?q=+'
    desk = Desk(tmp_path / signs)
    desk.send(signs, subject=signs, thread=signs)
    desk.once()
    with own_console(desk.workdir) as console:
        console.enter()

        def told(path: str, **query: str) -> str:
            answer = console.get(path, **query)
            assert answer.status_code == 200, path
            return " ".join(check(answer.text).texts)

        workdir = str(desk.workdir)
        for path in ("/console/needs", "/console/agents", "/console/schedules", "/console/compose"):
            told(path)
        page = console.get("/console/agent", id=workdir).text
        assert str(desk.workdir) in told("/console/agent", id=workdir)
        [turn] = desk.place().state.turns.ids()
        told("/console/turn", agent=workdir, id=turn)
        assert told("/console/thread", id=signs).count(signs) >= 2
        assert signs in told("/console/search", q="subject:50%")
        led = re.findall(r'href="(/console/[^"]+)"', page)
        assert {console.http.get(unescape(one)).status_code for one in led} == {200}
        assert console.post("/console/ask", agent=workdir, verb="pause", back="/console/agents").status_code == 303
        assert desk.place().state.pause.read() is not None
