"""The console in a real Chromium, by roles and names: at both widths, by keys, live, without script."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec
import pytest
from tests.broker_desk import PASSWORD, BrokerDesk
from tests.broker_process import BrokerProcess, join
from tests.console_stage import (
    NARROW,
    WIDE,
    Scene,
    pages_of,
    running_browser,
    running_console,
    tab,
    two_people,
)
from tests.desk import until

from agent_mailer import __version__
from agent_mailer.remote.port import Question, Report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, Route

pytestmark = pytest.mark.long
SECONDS = 10_000
"""Milliseconds in which what is awaited comes, on a machine that does much else."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_console(tmp_path_factory.mktemp("console")) as desk:
        yield desk


@pytest.fixture(scope="module")
def scene(desk: BrokerDesk) -> Scene:
    return two_people(desk)


@pytest.fixture(scope="module")
def browser(scene: Scene) -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def entered(browser: Browser, desk: BrokerDesk) -> Iterator[BrowserContext]:
    """A window in which alice is signed in, for several tests."""
    context, page = tab(browser, desk, name="alice")
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(browser: Browser, desk: BrokerDesk) -> Iterator[Page]:
    context, page = tab(browser, desk, name="alice")
    yield page
    context.close()


def watched(page: Page) -> list[str]:
    """What a page does that it must not: asks another host, runs into its own policy, opens a box."""
    bad: list[str] = []
    page.on("request", lambda asked: None if asked.url.startswith("http://127.0.0.1:") else bad.append(asked.url))
    page.on("console", lambda said: bad.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: bad.append(str(error)))

    def opened(box: Dialog) -> None:
        bad.append(box.message)
        box.dismiss()

    page.on("dialog", opened)
    return bad


@pytest.mark.parametrize(("size", "theme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
def test_every_page_is_accessible_and_never_wider_than_the_window(
    browser: Browser, desk: BrokerDesk, scene: Scene, size: tuple[int, int], theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context, page = tab(browser, desk, size, name="alice", color_scheme=theme)
    bad = watched(page)
    found = []
    for name, path in {**pages_of(scene), "login": "/console/login"}.items():
        page.goto(path)
        result = Axe().run(page).response
        found += [(name, one["id"], one["nodes"][0]["html"][:200]) for one in result["violations"]]
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0]:
            found.append((name, "wide", str(wide)))
    assert found == []
    assert [said for said in bad if "404" not in said] == []
    context.close()


# Table A of what the console of before could do: the page, and what is pressed, read or filled in on it. `{}`: as in
# `pages_of`.
TABLE_A = [
    ("sign in", "login", "button", "Sign in"),
    ("register, with an invite code", "login", "group", None),
    ("who I am", "threads", "banner", None),
    ("language", "threads menu", "button", "中文"),
    ("light and dark", "threads menu", "button", "Dark"),
    ("log out", "threads menu", "button", "Sign out"),
    ("banner of acting as another", "users", "button", "Act as bob"),
    ("mail of one agent", "threads", "combobox", "Agent"),
    ("mail of a team's agents", "threads", "combobox", "Team"),
    ("presence, unread of each agent", "stats", "region", "By agent"),
    ("pages of a list", "many", "link", "Older"),
    ("unread marked", "threads unread", "link", re.compile("1 unread")),
    ("open a message", "threads", "link", re.compile("Many 50")),
    ("mark unread", "thread more", "button", "Mark as unread"),
    ("reply", "thread", "textbox", "Your reply"),
    ("reply to any message", "thread", "link", "Reply"),
    ("forward a message", "thread", "link", "Forward"),
    ("message to the trash", "thread more", "button", "Move this message to the trash"),
    ("copy as Markdown", "message", "button", "Copy as Markdown"),
    ("save to a team", "message", "button", "Save to the team"),
    ("thread: archive", "thread", "button", "Archive"),
    ("thread: trash", "thread", "button", "Trash"),
    ("archive: unarchive", "archive", "button", re.compile("^Unarchive")),
    ("trash: restore", "trash", "button", re.compile("^Restore")),
    ("trash: empty", "trash", "group", None),
    ("search", "search", "searchbox", "Search for"),
    ("search: snippet", "search", "mark", None),
    ("compose: to, with completion", "compose", "combobox", "To"),
    ("compose: subject", "compose", "textbox", "Subject"),
    ("compose: body", "compose", "textbox", "Text"),
    ("compose: pictures", "compose", "button", "Pictures"),
    ("compose: a memory of the team", "compose memories", "button", "Shop: How we release"),
    ("forward: message or thread", "forward", "radio", "the whole thread"),
    ("figures of each agent", "stats", "columnheader", "Forwarded"),
    ("chart", "stats", "img", "Mail of the last 14 days"),
    ("teams: list", "teams", "link", "Shop"),
    ("teams: create", "teams", "button", "Make the team"),
    ("teams: edit", "team name", "button", "Save"),
    ("teams: delete", "team", "group", None),
    ("teams: add a member", "team", "button", "Add member"),
    ("teams: remove a member", "team", "button", "Remove planner"),
    ("memories: add", "team", "textbox", "Title"),
    ("memories: edit", "team", "link", "Edit How we release"),
    ("memories: its address", "team", "link", "Its address"),
    ("channels: list", "channels", "link", re.compile("Agree on the names")),
    ("channels: continue", "channel", "button", "Continue, 10 more turns"),
    ("channels: close", "channel close", "button", "Close the channel"),
    ("keys: create", "keys", "button", "Make a key"),
    ("keys: deactivate", "keys", "button", "Stop laptop"),
    ("keys: delete", "keys", "group", None),
    ("password", "account", "button", "Change the password"),
    ("agents: list, with what each does", "agents", "region", "Agents"),
    ("agents: by team", "team", "region", "Members"),
    ("agents: those with tags", "agents tags", "checkbox", "night"),
    ("agents: tags of one", "agent settings", "textbox", "Tags, with commas between"),
    ("agents: create, with its address", "new agent", "textbox", re.compile("^Address, before @alice")),
    ("agents: create", "new agent", "button", "Make the agent"),
    ("agents: edit", "agent settings", "textbox", "System prompt"),
    ("agents: its team", "agent settings", "combobox", "Team"),
    ("agents: new key", "agent key", "button", "Make a new key"),
    ("agents: AGENT.md", "agent settings", "link", "Download AGENT.md"),
    ("agents: SOUL.md", "agent settings", "button", "Copy SOUL.md"),
    ("agents: delete", "agent delete", "button", "Delete the agent"),
    ("agents: show deleted", "agents", "link", "Deleted agents"),
    ("invite codes", "users", "button", "Make an invite code"),
    ("users", "users", "region", "Users"),
    ("log in as", "users", "button", "Act as bob"),
    ("setting: invite required", "users", "checkbox", "Whoever registers needs an invite code"),
]
TABLE_A += [
    ("hooks: create", "hooks", "button", "Make the hook"),
    ("hooks: another secret", "hooks secret", "button", "Make a new secret alarms"),
    ("hooks: disable", "hooks", "button", "Disable alarms"),
    ("hooks: what came", "hook", "heading", "What came"),
    ("schedules: the command", "agent", "heading", "Schedules"),
    ("schedules: what leaves next, what was sent last", "schedules", "region", "Schedules"),
]
"""What the console of before had not."""
LEFT_OUT = {
    "refresh every so many seconds": "a page is told by its stream when something changes, and polls without one",
    "new key and download its file": "a file never holds a key: the key is shown once, and `init` asks for it",
    "two kinds of deletion of an agent": "there is one; its mail stays",
    "list by agents or by teams in a sidebar": "Agents, and Teams with their members, are pages",
}
"""What of table A is not here, and why or where it is instead."""
OPENED = {
    "hooks secret": ("hooks", "New secret…"),
    "agents tags": ("agents", "Tags"),
    "agent key": ("agent settings", "New key…"),
    "agent delete": ("agent settings", "Delete the agent…"),
    "threads menu": ("threads", "Menu of alice"),
    "thread more": ("thread", "More with the message of"),
    "compose memories": ("compose", "Put in a memory of a team"),
    "team name": ("team", "Name and purpose of the team"),
    "channel close": ("channel", "Close…"),
}
"""What is folded: the page, and the words that unfold it."""


def test_what_people_had_before_they_find_again(page: Page, scene: Scene) -> None:
    agent = scene.agent("many")
    for number in range(51):
        scene.send("me", "many", f"Many {number}", "x")
    scene.call("PATCH", f"/admin/messages/{message_to_me(scene)}/read")
    known = {**pages_of(scene), "login": "/console/login", "many": f"/console/threads?agent={agent['id']}"}
    known["threads unread"] = "/console/threads?only=unread"
    missing = []
    at = ""
    for function, place, role, name in TABLE_A:
        if place != at:
            base, words = OPENED.get(place, (place, ""))
            page.goto(known[base])
            if words:
                folded = page.locator("summary").filter(has_text=words)
                folded = folded if folded.count() else page.get_by_label(words)
                folded.last.click()
            at = place
        found = page.get_by_role(role, name=name) if name else page.get_by_role(role)  # type: ignore[arg-type]
        if not any(found.nth(index).is_visible() for index in range(found.count())):
            missing.append((function, place, role, str(name)))
    assert missing == []


def message_to_me(scene: Scene) -> str:
    """The one in the thread that the pages show."""
    thread = pages_of(scene)["thread"].partition("id=")[2]
    found = scene.call("GET", f"/admin/messages/thread/{thread}")
    return str(next(one["id"] for one in found if one["to_agent"] == scene.operator))


def test_a_question_is_answered_by_keys_alone(page: Page, scene: Scene) -> None:
    asked = scene.send("docs-bot", "me", "By keys?", "Which one?")
    page.goto("/console/threads")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="By keys?", level=1).wait_for()
    page.keyboard.press("r")
    page.keyboard.type("The second. e j # ?")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="Sent.").wait_for()
    bodies = [one["body"] for one in scene.call("GET", f"/admin/messages/thread/{asked['thread_id']}")]
    assert bodies == ["Which one?", "The second. e j # ?"]
    assert page.get_by_role("textbox", name="Your reply").input_value() == ""
    page.locator("body").click(position={"x": 5, "y": 400})
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="Keyboard").wait_for(state="hidden")
    page.keyboard.press("e")
    page.get_by_role("status").filter(has_text="Archived.").wait_for()
    page.keyboard.press("z")
    page.get_by_role("status").filter(has_text="Taken out of the archive.").wait_for()
    page.keyboard.press("/")
    assert page.get_by_role("searchbox", name="Search mail").evaluate("field => field === document.activeElement")


def test_a_key_right_after_the_help_was_closed_is_heard(page: Page, scene: Scene) -> None:
    """Until the page is drawn again the focus lies where it was, in the dialog that is closed."""
    asked = scene.send("docs-bot", "me", "Right after", "Which one?")
    page.goto(f"/console/thread?id={asked['thread_id']}")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard").wait_for()
    page.evaluate("""() => {
      const at = document.activeElement, dialog = at.closest("dialog");
      dialog.close();
      at.dispatchEvent(new KeyboardEvent("keydown", { key: "e", bubbles: true, cancelable: true }));
    }""")
    page.get_by_role("status").filter(has_text="Archived.").wait_for()


FOCUS = """() => {
  const at = document.activeElement, look = getComputedStyle(at);
  const seen = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2 && at.checkVisibility();
  return [at.outerHTML.slice(0, 120), seen || at === document.body];
}"""
"""What has the focus, and whether that is seen."""
HELP = {
    "j k": "next, previous row",
    "Enter": "open it",
    "u": "back to the list",
    "r": "reply",
    "f": "forward",
    "e": "archive",
    "#": "move to trash",
    "z": "undo",
    "c": "compose",
    "/": "search",
    "?": "this help",
}


def test_each_key_does_what_the_help_says_and_the_focus_is_seen(page: Page, scene: Scene) -> None:
    subjects = [f"Key {number}" for number in range(3)]
    threads = {one: scene.send("docs-bot", "me", one, "Which?")["thread_id"] for one in subjects}
    unseen: list[str] = []

    def press(key: str) -> None:
        page.keyboard.press(key)
        what, seen = page.evaluate(FOCUS)
        unseen.extend([] if seen else [f"{key}: {what}"])

    def at_row(subject: str) -> bool:
        return subject in page.evaluate("document.activeElement.innerText")

    page.goto("/console/threads")
    press("?")
    help_box = page.get_by_role("dialog", name="Keyboard")
    shown = zip(help_box.locator("dt").all_inner_texts(), help_box.locator("dd").all_inner_texts(), strict=True)
    assert dict(shown) == HELP
    page.keyboard.press("Escape")
    help_box.wait_for(state="hidden")
    page.goto("/console/threads")
    press("j")
    assert at_row("Key 2")
    press("j")
    assert at_row("Key 1")
    press("k")
    assert at_row("Key 2")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Key 2", level=1).wait_for()
    press("r")
    assert page.get_by_role("textbox", name="Your reply").evaluate("field => field === document.activeElement")
    page.goto(f"/console/thread?id={threads['Key 2']}")
    page.keyboard.press("u")
    page.get_by_role("heading", name="Threads", level=1).wait_for()
    page.goto(f"/console/thread?id={threads['Key 1']}")
    page.keyboard.press("f")
    page.get_by_role("textbox", name="Subject").wait_for()
    assert "Key 1" in page.get_by_role("textbox", name="Subject").input_value()
    page.goto(f"/console/thread?id={threads['Key 1']}")
    press("/")
    assert page.get_by_role("searchbox", name="Search mail").evaluate("field => field === document.activeElement")
    for key, done, shelf in (("e", "Archived.", "archive"), ("#", "Moved to the trash.", "trash")):
        page.goto("/console/threads")
        press("j")
        page.keyboard.press(key)
        page.get_by_role("status").filter(has_text=done).wait_for()
        page.goto(f"/console/{shelf}")
        page.get_by_role("link", name=re.compile("Key 2")).wait_for()
        page.go_back()
        page.keyboard.press("z")
        page.get_by_role("link", name=re.compile("Key 2")).wait_for()
    page.keyboard.press("c")
    page.get_by_role("combobox", name="To").wait_for()
    for path in (f"/console/thread?id={threads['Key 0']}", "/console/agents"):
        page.goto(path)
        for _ in range(40):
            press("Tab")
    assert unseen == []


def test_looking_marks_the_operators_own_mail_as_read(page: Page, scene: Scene) -> None:
    sent = scene.send("docs-bot", "me", "Seen", "now")
    page.goto(f"/console/thread?id={sent['thread_id']}")
    article = page.get_by_role("article", name=re.compile("docs-bot"))
    article.wait_for()
    article.get_by_text("unread", exact=True).wait_for(state="detached", timeout=SECONDS)
    assert scene.call("GET", f"/messages/{sent['id']}", as_agent=True)["is_read"] is True


def test_a_page_stays_true_and_takes_nothing_from_who_types(page: Page, scene: Scene) -> None:
    begun = scene.send("me", "planner", "Live", "first")
    page.goto(f"/console/thread?id={begun['thread_id']}")
    page.get_by_text("live", exact=True).wait_for()
    field = page.get_by_role("textbox", name="Your reply")
    field.fill("half a sen")
    field.evaluate("field => field.setSelectionRange(4, 6)")
    scene.send("planner", "me", "Re: Live", "second, as it comes", parent_id=begun["id"])
    page.get_by_text("second, as it comes").wait_for(timeout=SECONDS)
    state = field.evaluate("f => [f.value, f.selectionStart, f.selectionEnd, f === document.activeElement]")
    assert state == ["half a sen", 4, 6, True]
    scene.turn(begun, "planner", "done", "all of it")
    page.get_by_text("all of it").wait_for(timeout=SECONDS)
    page.goto("/console/threads")
    row = page.get_by_role("link", name=re.compile("Live"))
    row.focus()
    scene.send("docs-bot", "me", "Newer than that", "x")
    page.get_by_role("link", name=re.compile("Newer than that")).wait_for(timeout=SECONDS)
    assert "Live" in page.evaluate("document.activeElement.innerText")
    assert re.match(r"\(\d+\) Threads", page.title())


def test_what_changes_behind_ones_back_is_there_when_one_comes_back(page: Page, scene: Scene) -> None:
    # No tab of a browser without windows is ever in the background.
    page.add_init_script("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if one.headers.get("hx-request") else None)
    page.goto("/console/threads")
    page.get_by_text("live", exact=True).wait_for()
    # It is told once: a second word, in front, would draw it anew.
    once = "source.addEventListener('changed', () => { source.close(); done(1); })"
    page.evaluate(f"window.told = new Promise((done) => {once}); 0")
    scene.send("docs-bot", "me", "Behind one's back", "x")
    assert page.evaluate("window.told") == 1
    assert asked == []
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_role("link", name=re.compile("Behind one's back")).wait_for(timeout=SECONDS)


def asking(scene: Scene, *asked: tuple[str, float]) -> None:
    """Of these agents each asks since then, of the others none; nobody watches them."""
    now = time.time()
    for name in ("shop-coder", "infra-runner", "billing-bot"):
        questions = tuple(Question(f"t-{who}", f"th-{who}", f"m-{who}", now - age) for who, age in asked if who == name)
        told = Report(__version__, "operate", ended="stopped", questions=questions)
        path = f"/agents/{scene.agents[name]['id']}/report"
        scene.call("PUT", path, msgspec.to_builtins(told), as_agent=True)


def test_what_is_typed_stays_with_its_question_whatever_comes_and_goes_around_it(page: Page, scene: Scene) -> None:
    asking(scene, ("shop-coder", 300), ("infra-runner", 200))
    page.goto("/console/needs")
    page.get_by_text("live", exact=True).wait_for()

    def field(who: str) -> Locator:
        return page.get_by_role("textbox", name=f"Your answer to {who}@alice.amp.localhost")

    field("infra-runner").fill("yes, delete it")
    asking(scene, ("billing-bot", 900), ("shop-coder", 300), ("infra-runner", 200))
    field("billing-bot").wait_for(timeout=SECONDS)
    values = [field(who).input_value() for who in ("billing-bot", "shop-coder", "infra-runner")]
    assert values == ["", "", "yes, delete it"]
    assert field("infra-runner").evaluate("field => field === document.activeElement")
    # What comes while the page is open has a draft, too.
    field("billing-bot").fill("half an ans")
    asking(scene, ("infra-runner", 200))
    field("shop-coder").wait_for(state="detached", timeout=SECONDS)
    row = page.get_by_role("listitem").filter(has=field("billing-bot"))
    row.get_by_role("status").filter(has_text="Over:").wait_for()
    assert [field(who).input_value() for who in ("billing-bot", "infra-runner")] == ["half an ans", "yes, delete it"]
    asking(scene, ("billing-bot", 900))
    page.get_by_role("listitem").filter(has=field("infra-runner")).get_by_text("Over:").wait_for(timeout=SECONDS)
    assert row.get_by_text("Over:").is_hidden()
    page.goto("/console/needs")
    assert field("billing-bot").input_value() == "half an ans"
    asking(scene)


def test_a_draft_is_there_again_and_goes_when_it_is_sent(page: Page, scene: Scene) -> None:
    begun = scene.send("me", "reviewer", "Drafted", "first")
    page.goto(f"/console/thread?id={begun['thread_id']}")
    page.get_by_role("textbox", name="Your reply").fill("kept over a click elsewhere")
    page.goto("/console/teams")
    page.goto(f"/console/thread?id={begun['thread_id']}")
    field = page.get_by_role("textbox", name="Your reply")
    assert field.input_value() == "kept over a click elsewhere"
    page.get_by_role("button", name="Send").click()
    page.get_by_role("status").filter(has_text="Sent.").wait_for()
    page.goto(f"/console/thread?id={begun['thread_id']}")
    assert page.get_by_role("textbox", name="Your reply").input_value() == ""


@pytest.mark.usefixtures("scene")
def test_a_draft_is_shown_to_its_writer_alone_whoever_else_has_the_same_browser(page: Page) -> None:
    field = page.get_by_role("textbox", name="Text")
    page.goto("/console/compose")
    field.fill("for nobody else")
    for before, name, found in (("alice", "bob", ""), ("bob", "alice", "for nobody else")):
        page.get_by_label(f"Menu of {before}").click()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("textbox", name="Name", exact=True).fill(name)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label(f"Menu of {name}").wait_for()
        page.goto("/console/compose")
        assert field.input_value() == found, name


def test_a_session_that_ends_elsewhere_leaves_what_is_being_typed(
    browser: Browser, desk: BrokerDesk, scene: Scene
) -> None:
    context, page = tab(browser, desk, name="alice")
    begun = scene.send("me", "reviewer", "Ends", "first")
    page.goto(f"/console/thread?id={begun['thread_id']}")
    page.get_by_text("live", exact=True).wait_for()
    page.get_by_role("textbox", name="Your reply").fill("in the middle of")
    # The same session in another window signs out.
    other = context.new_page()
    other.goto("/console/threads")
    cookies = context.cookies()
    other.get_by_label("Menu of alice").click()
    other.get_by_role("button", name="Sign out").click()
    other.get_by_role("heading", name="Sign in").wait_for()
    context.add_cookies(cookies)  # type: ignore[arg-type]
    scene.send("reviewer", "me", "Re: Ends", "news", parent_id=begun["id"])
    page.get_by_text("You are signed out.").wait_for(timeout=SECONDS)
    assert page.get_by_role("textbox", name="Your reply").input_value() == "in the middle of"
    page.get_by_role("button", name="Send").click()
    page.get_by_role("textbox", name="Name", exact=True).fill("alice")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("textbox", name="Text").input_value() == "in the middle of"
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Send").click()
    page.get_by_role("status").filter(has_text="Sent.").wait_for()
    bodies = [one["body"] for one in scene.call("GET", f"/admin/messages/thread/{begun['thread_id']}")]
    assert bodies == ["first", "news", "in the middle of"]
    context.close()


def test_without_script_all_of_it_works_as_forms(browser: Browser, desk: BrokerDesk, scene: Scene) -> None:
    context, page = tab(browser, desk, NARROW, name="alice", java_script_enabled=False)
    page.get_by_role("link", name="Compose").first.click()
    page.get_by_role("combobox", name="To").fill("planner")
    page.get_by_role("textbox", name="Subject").fill("Without script")
    page.get_by_role("textbox", name="Text").fill("**plain**")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("status").filter(has_text="Sent.").wait_for()
    page.get_by_role("button", name="Archive").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("link", name=re.compile("Without script")).click()
    page.get_by_role("textbox", name="Your reply").fill("again")
    page.get_by_role("button", name="Send").click()
    assert page.get_by_role("article").count() == 2
    page.get_by_role("link", name="More", exact=True).click()
    page.get_by_role("navigation", name="All pages").get_by_role("link", name="Trash").click()
    page.locator("summary").filter(has_text="Empty the trash").click()
    page.get_by_role("button", name="Delete for ever").click()
    page.get_by_role("status").filter(has_text="The trash is empty.").wait_for()
    context.close()


def test_hostile_mail_neither_runs_nor_leads_away(page: Page, scene: Scene) -> None:
    bad = watched(page)
    bodies = (
        "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>",
        "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
        "<form action=/console/logout method=post><button>Sign out</button></form>",
        "<div hx-get=/console/logout hx-trigger=load data-once data-live=/x id=live data-key=e>x</div>",
        "[go](/console/logout) [run](javascript:alert(3)) ![see](http://evil.example/y.png)",
        "<style>body{display:none}</style><base href=http://evil.example/><iframe src=http://evil.example></iframe>",
        "# Skip to content\n\n<h1>Sign in</h1><input name=password>",
        "x" * 200 + "\u202eabc\u0000".replace("\u0000", ""),
        "\n".join("|" + f"{cell}|" * 60 for cell in ("column", "---", "value")) + "\n\n```\n" + "y" * 3000 + "\n```\n",
    )
    begun = scene.send("planner", "me", "<img src=x onerror=alert(4)>", bodies[0])
    for body in bodies[1:]:
        scene.send("planner", "me", "'\"><script>alert(5)</script>", body, thread_id=begun["thread_id"])
    page.goto(f"/console/thread?id={begun['thread_id']}")
    page.get_by_role("article").nth(len(bodies) - 1).wait_for()
    page.get_by_text("live", exact=True).wait_for()
    articles = page.get_by_role("list", name="Messages")
    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW[0], "a table is wider than the page"
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    assert articles.get_by_role("button", name=re.compile("Sign out")).count() == 0
    assert articles.get_by_role("heading", level=1).count() == 0
    assert articles.locator(".text input, .text img, .text form, .text [id], .text [hx-get], .text style").count() == 0
    page.goto("/console/threads")
    page.get_by_role("link", name=re.compile("onerror")).wait_for()
    page.goto("/console/search?q=skip")
    assert bad == []
    assert page.get_by_role("navigation", name="Main").is_visible()


def test_a_broker_that_restarts_under_the_page_heals_it(browser: Browser, tmp_path: Path) -> None:
    process = BrokerProcess(tmp_path / "data")
    try:
        process.start()
        join(process.url, "dora", process.invite)
        context = browser.new_context(base_url=process.url, locale="en-GB")
        page = context.new_page()
        page.goto("/console/login")
        page.get_by_role("textbox", name="Name", exact=True).fill("dora")
        page.get_by_label("Password", exact=True).fill("correct horse")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("live", exact=True).wait_for()
        page.evaluate("window.sameDocument = true")
        process.kill()
        page.get_by_text("Not live since").wait_for(timeout=SECONDS)
        process.start()
        page.get_by_text("Not live since").wait_for(state="hidden", timeout=3 * SECONDS)
        page.get_by_text("live", exact=True).wait_for()
        assert page.evaluate("window.sameDocument")
        context.close()
    finally:
        process.end()


@pytest.mark.parametrize("name", ["cut", "refused", "held_back"])
def test_without_a_stream_a_page_polls_and_says_that_it_is_not_live(
    entered: BrowserContext, scene: Scene, name: str
) -> None:
    page = entered.new_page()
    polls: list[str] = []
    held: list[Route] = []  # as by a proxy that passes nothing on: neither an answer nor an error
    ways: dict[str, Callable[[Route], None]] = {
        "cut": lambda route: route.abort(),
        "refused": lambda route: route.fulfill(status=429, body="Too many"),
        "held_back": lambda route: held.append(route),
    }
    page.route("**/console/live?*", ways[name])
    page.clock.install()
    # Its time stands still but for what is said here.
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=5))
    page.goto("/console/threads")
    foot = page.locator("[data-live-state]")
    not_live = page.get_by_role("status").filter(has_text="Not live since")
    if name != "held_back":
        not_live.wait_for()
    if name == "refused":
        # It has looked, once, whether the session is over.
        foot.filter(has_text="as of").wait_for()
    page.on("request", lambda asked: polls.append(asked.url) if asked.headers.get("hx-request") else None)
    for number in range(2):
        scene.send("docs-bot", "me", f"By poll {number}, {name}", "x")
        page.clock.run_for(14_900)
        page.evaluate("0")
        assert len(polls) == number
        page.clock.run_for(100)
        page.get_by_role("link", name=re.compile(f"By poll {number}, {name}")).wait_for()
        foot.filter(has_text="as of").wait_for()
        not_live.wait_for()
    assert len(polls) == 2
    for route in held:
        route.abort()
    page.unroute("**/console/live?*")
    page.close()


def test_a_stream_that_dies_without_a_word_is_known_by_its_silence(entered: BrowserContext, scene: Scene) -> None:
    page = entered.new_page()
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=5))
    page.goto("/console/threads")
    page.get_by_text("live", exact=True).wait_for()
    not_live = page.get_by_role("status").filter(has_text="Not live since")
    # A change is a sign of life, and counts as one.
    page.clock.run_for(20_000)
    scene.send("docs-bot", "me", "A sign of life", "x")
    page.get_by_role("link", name=re.compile("A sign of life")).wait_for()
    page.route("**/console/live?*", lambda route: route.abort())
    page.clock.run_for(37_000)
    assert page.get_by_text("live", exact=True).is_visible()
    page.clock.run_for(1_000)
    not_live.wait_for()
    page.unroute("**/console/live?*")
    page.clock.run_for(3_000)
    not_live.wait_for(state="hidden")
    page.close()


def test_what_is_gone_while_it_is_looked_at_is_said_to_be_gone(page: Page, scene: Scene) -> None:
    made = scene.call("POST", "/admin/teams", {"name": "Short-lived", "description": ""})
    page.goto(f"/console/team?id={made['id']}")
    page.get_by_text("live", exact=True).wait_for()
    scene.call("DELETE", f"/admin/teams/{made['id']}")
    page.get_by_role("status").filter(has_text="What this page showed is not there any more.").wait_for()


def test_who_wants_no_motion_sees_none(entered: BrowserContext, scene: Scene) -> None:
    page = entered.new_page()
    moving = """() => [...document.querySelectorAll("*")].flatMap((at) => ["", "::before", "::after"].map((part) => {
      const look = getComputedStyle(at, part || null);
      const times = [look.transitionDuration, look.animationDuration].join().split(",");
      const long = times.some((one) => parseFloat(one) > 0);
      return long || look.scrollBehavior === "smooth" ? at.outerHTML.slice(0, 80) : "";
    })).filter(Boolean)"""
    page.goto("/console/threads")
    assert page.evaluate(moving), "the look finds what moves for everybody else"
    page.emulate_media(reduced_motion="reduce")
    found = {}
    for name, path in pages_of(scene).items():
        page.goto(path)
        found[name] = page.evaluate(moving)
    page.close()
    assert {name: moves for name, moves in found.items() if moves} == {}


def test_moments_are_in_the_readers_zone(browser: Browser, entered: BrowserContext, scene: Scene) -> None:
    context = browser.new_context(
        base_url=scene.desk.url, locale="en-GB", timezone_id="Asia/Kolkata", storage_state=entered.storage_state()
    )
    page = context.new_page()
    begun = scene.send("me", "planner", "Zones", "first")

    def wrong() -> list[tuple[str, str, str]]:
        shown = page.evaluate(
            "[...document.querySelectorAll('main time')].map((t) => [t.dateTime, t.innerText, t.title])"
        )
        bad = [] if shown else [("", "no moment", "")]
        for moment, words, title in shown:
            there = datetime.fromisoformat(moment).astimezone(ZoneInfo("Asia/Kolkata"))
            words, title = " ".join(words.split()), " ".join(title.split())
            day = f"{there:%A, %B} {there.day}, {there.year}"
            if f"{there:%I:%M %p}" not in words or not title.startswith(day) or not title.endswith("GMT+5:30"):
                bad.append((moment, words, title))
        return bad

    shown = pages_of(scene)
    for name in ("threads", "thread", "agent", "schedules", "channel", "keys", "audit"):
        page.goto(shown[name])
        until(lambda: wrong() == [], f"{name}: {wrong()}", SECONDS / 1000)
    page.goto(f"/console/thread?id={begun['thread_id']}")
    page.get_by_text("live", exact=True).wait_for()
    scene.send("planner", "me", "Re: Zones", "by the stream", parent_id=begun["id"])
    page.get_by_text("by the stream").wait_for(timeout=SECONDS)
    until(lambda: wrong() == [], f"what came by the stream: {wrong()}", SECONDS / 1000)
    context.close()


def test_two_people_at_two_browsers_have_each_their_own(browser: Browser, desk: BrokerDesk, scene: Scene) -> None:
    windows = [tab(browser, desk, name=name) for name in ("alice", "bob")]
    (_, hers), (_, his) = windows
    for page in (hers, his):
        page.goto("/console/threads")
        page.get_by_text("live", exact=True).wait_for()
    scene.send("planner", "me", "Hers alone", "x")
    hers.get_by_role("link", name=re.compile("Hers alone")).wait_for(timeout=SECONDS)
    assert his.get_by_role("link", name=re.compile("Hers alone")).count() == 0
    assert his.get_by_text("No mail yet").is_visible()
    for context, _ in windows:
        context.close()


def test_the_first_page_is_few_requests_and_small(browser: Browser, desk: BrokerDesk, scene: Scene) -> None:
    context, page = tab(browser, desk, name="alice")
    fresh = browser.new_context(base_url=desk.url, storage_state=context.storage_state())
    page = fresh.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/console/threads")
    page.get_by_text("live", exact=True).wait_for()
    # The icon of its tab a browser fetches once all is there.
    kinds = {url for url in asked if "/live" not in url and not url.endswith("/icon.svg")}
    assert len(kinds) <= 4, kinds
    fresh.close()
    context.close()
