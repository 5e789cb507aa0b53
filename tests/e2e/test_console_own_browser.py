"""The console of one machine in a real Chromium, over a real watcher: a yes, a pause, a mail and its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.console_stage import NARROW, WIDE, running_browser
from tests.desk import until
from tests.integration.test_approvals import PUSH, AskingDesk
from tests.own_console import OwnConsole, own_console

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.long
SECONDS = 15_000
"""Milliseconds in which what is awaited comes, on a machine that does much else."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskingDesk]:
    desk = AskingDesk(tmp_path_factory.mktemp("own"))
    with desk.watching():
        yield desk


@pytest.fixture(scope="module")
def console(desk: AskingDesk) -> Iterator[OwnConsole]:
    with own_console(desk.workdir) as console:
        yield console


@pytest.fixture(scope="module")
def browser(console: OwnConsole) -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def entered(browser: Browser, console: OwnConsole) -> Iterator[BrowserContext]:
    """A window that has opened the link, under the console's own name."""
    context = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]}, locale="en-GB")
    page = context.new_page()
    page.goto(console.named)
    page.get_by_role("heading", name="Needs you", level=1).wait_for()
    assert page.url == f"{own_url(console)}/console/needs"
    page.close()
    yield context
    context.close()


def sent(desk: AskingDesk, body: str, subject: str) -> str:
    """The browser has an event loop in this thread, and what sends needs one of its own."""
    with ThreadPoolExecutor(1) as beside:
        found: str = beside.submit(lambda: desk.send(body, subject=subject)).result()
    return found


def own_url(console: OwnConsole) -> str:
    return console.named.partition("/console/")[0]


@pytest.fixture
def page(entered: BrowserContext) -> Iterator[Page]:
    page = entered.new_page()
    yield page
    page.close()


def test_a_yes_from_the_page_lets_the_turn_go_on(
    browser: Browser, entered: BrowserContext, page: Page, console: OwnConsole, desk: AskingDesk
) -> None:
    page.goto(f"{own_url(console)}/console/needs")
    page.get_by_text("live", exact=True).wait_for()
    sent(desk, "push it", "Push it")
    # The page draws itself anew: what is asked is on it, word for word.
    page.get_by_label("What it would do").get_by_text(PUSH).wait_for(timeout=SECONDS)
    assert desk.acts() == []
    # Of two windows of one person the second shows what it showed.
    other = browser.new_context(java_script_enabled=False, storage_state=entered.storage_state())
    late = other.new_page()
    late.goto(page.url)
    page.get_by_role("button", name="Allow once coder").click()
    page.get_by_role("status").filter(has_text="Done").wait_for()
    until(lambda: desk.acts() == [PUSH], "what was allowed is done, once")
    late.get_by_role("button", name="Deny coder").click()
    late.get_by_role("heading", name="This did not work").wait_for()
    late.get_by_text(re.compile("answered before: allow|done with")).wait_for()
    other.close()
    page.get_by_text("Nothing needs you").wait_for(timeout=SECONDS)
    page.goto(f"{own_url(console)}/console/threads")
    page.get_by_role("link", name=re.compile("Push it")).click()
    page.get_by_role("article", name="Message from coder").get_by_text("all 1 done").wait_for(timeout=SECONDS)


def test_who_is_paused_from_the_page_begins_nothing(page: Page, console: OwnConsole, desk: AskingDesk) -> None:
    page.goto(f"{own_url(console)}/console/agents")
    page.get_by_role("link", name="coder", exact=True).click()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    page.get_by_text("paused", exact=True).first.wait_for()
    pause = desk.place().state.pause.read()
    assert pause is not None
    assert pause.reason == "by_hand"
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_text("idle", exact=True).wait_for(timeout=SECONDS)
    assert desk.place().state.pause.read() is None


def test_a_mail_from_the_page_is_answered_and_the_page_shows_it(
    page: Page, console: OwnConsole, desk: AskingDesk
) -> None:
    desk.done.write_text(f"{PUSH}\n")
    page.goto(f"{own_url(console)}/console/compose")
    page.get_by_role("combobox", name="To").fill("coder")
    page.get_by_role("textbox", name="Subject").fill("How far?")
    page.get_by_role("textbox", name="Text").fill("**Tell me.**")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("status").filter(has_text="Sent.").wait_for()
    field = page.get_by_role("textbox", name="Your reply")
    field.fill("half a sen")
    mine = page.get_by_role("article", name="Message from user").filter(has_text="Tell me.")
    mine.get_by_role("strong").filter(has_text="Tell me.").wait_for()
    answer = page.get_by_role("article", name="Message from coder").filter(has_text="Re: How far?")
    answer.get_by_text("all 1 done").wait_for(timeout=SECONDS)
    assert field.input_value() == "half a sen"
    page.goto(f"{own_url(console)}/console/agents")
    page.get_by_role("link", name="coder", exact=True).click()
    page.get_by_role("link", name=re.compile("How far")).click()
    page.get_by_role("heading", name="What it did").wait_for()
    page.get_by_label("What it did").get_by_text("all 1 done").wait_for()


def test_the_link_opens_no_second_window(browser: Browser, entered: BrowserContext, console: OwnConsole) -> None:
    other = browser.new_context()
    page = other.new_page()
    for link in (console.named, console.link):
        answer = page.goto(link)
        assert answer is not None
        assert answer.status == 403
        page.get_by_text("This link opens once").wait_for()
        answer = page.goto(link.partition("/enter")[0] + "/needs")
        assert answer is not None
        assert answer.status == 401
    other.close()


@pytest.mark.parametrize(("size", "theme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
def test_every_page_is_accessible_and_never_wider_than_the_window(
    browser: Browser, entered: BrowserContext, console: OwnConsole, desk: AskingDesk, size: tuple[int, int], theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    desk.done.unlink(missing_ok=True)
    sent(desk, "push it again", "Again")
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,  # type: ignore[arg-type]
        storage_state=entered.storage_state(),
    )
    page = context.new_page()
    bad: list[str] = []
    page.on("console", lambda said: bad.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: bad.append(str(error)))
    base = own_url(console)
    page.goto(f"{base}/console/needs")
    page.get_by_label("What it would do").wait_for(timeout=SECONDS)
    page.goto(f"{base}/console/agents")
    agent = page.get_by_role("link", name="coder", exact=True).get_attribute("href") or ""
    page.goto(base + agent)
    turn = page.get_by_role("region", name="Its turns").get_by_role("link").first.get_attribute("href") or ""
    page.goto(f"{base}/console/threads")
    thread = page.get_by_role("list", name="Threads").get_by_role("link").first.get_attribute("href") or ""
    found = []
    for path in ("/console/needs", "/console/agents", agent, turn, "/console/threads", thread, "/console/compose"):
        page.goto(base + path)
        page.get_by_role("heading", level=1).wait_for()
        result = Axe().run(page).response
        found += [(path, one["id"], one["nodes"][0]["html"][:200]) for one in result["violations"]]
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0]:
            found.append((path, "wide", str(wide)))
    assert found == []
    assert bad == []
    page.goto(f"{base}/console/needs")
    page.get_by_role("button", name="Deny coder").click()
    page.get_by_text("Nothing needs you").wait_for(timeout=SECONDS)
    context.close()
