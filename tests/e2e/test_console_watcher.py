"""A person at the console's pages, in a real Chromium, and a real watcher: what is pressed there happens to turns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.console_stage import running_browser, running_console, tab
from tests.desk import until
from tests.integration.test_approvals import PUSH
from tests.integration.test_approvals_by_mail import AskingAtBroker

from agent_mailer.events import EventName

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_console(tmp_path_factory.mktemp("console")) as desk:
        yield desk, desk.person("someone")


@pytest.fixture(scope="module")
def browser(broker: tuple[BrokerDesk, Person]) -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def desk(broker: tuple[BrokerDesk, Person], tmp_path: Path) -> AskingAtBroker:
    desk = AskingAtBroker(tmp_path, *broker)
    desk.configure(remote="all", notify=desk.asking.settings["notify"], guards={"turns_per_hour": 20})
    return desk


@contextmanager
def watching(desk: AskingAtBroker) -> Iterator[None]:
    """In a thread of its own: the browser's loop runs in this one, and what ends a watcher's turns has another."""
    watcher = desk.watching()
    with ThreadPoolExecutor(1) as aside:
        aside.submit(watcher.__enter__).result()
        try:
            yield
        finally:
            aside.submit(watcher.__exit__, None, None, None).result()


def shown(desk: AskingAtBroker) -> bool:
    """Whether the broker knows what is asked."""
    return bool(desk.broker.sql("SELECT 1 FROM approval_links WHERE agent_id = :id", id=desk.coder["id"])) and bool(
        desk.broker.sql("SELECT 1 FROM reports WHERE agent_id = :id AND report LIKE '%Bash%'", id=desk.coder["id"])
    )


def test_a_yes_on_the_page_lets_the_turn_go_on_and_a_second_answer_is_told(
    desk: AskingAtBroker, browser: Browser
) -> None:
    name = desk.coder["address"].partition("@")[0]
    context, page = tab(browser, desk.broker, name="someone")
    # Without a script a page stays as it was.
    _, other = tab(browser, desk.broker, name="someone", java_script_enabled=False)
    with watching(desk):
        desk.mail()
        page.goto("/console/needs")
        until(lambda: shown(desk), "the question")
        row = page.get_by_role("list", name="Needs you").get_by_role("listitem").filter(has_text=name)
        row.get_by_label("What it would do").filter(has_text=f"Bash: {PUSH}").wait_for()
        other.goto("/console/needs")
        late = other.get_by_role("listitem").filter(has_text=name)
        late.get_by_label("What it would do").wait_for()
        assert not desk.asking.acts()
        row.get_by_role("button", name=re.compile("^Allow once")).click()
        until(lambda: desk.asking.acts() == [PUSH], "what was allowed")
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 2, "the end of the turn that went on")
        row.wait_for(state="detached")
        late.get_by_label("Why not").fill("not on a Friday")
        late.get_by_role("button", name=re.compile("^Deny")).click()
        other.get_by_text("someone has allowed this meanwhile; your answer was not taken").wait_for()

        page.goto(f"/console/agent?id={desk.coder['id']}")
        asked = page.get_by_role("region", name="Asked from here")
        asked.get_by_role("row", name=re.compile("approve.*someone.*done")).wait_for()
        page.get_by_text("Raise a limit for today").click()
        page.get_by_label("Limit").select_option("turns_per_hour")
        page.get_by_role("textbox", name="New value").fill("77")
        page.get_by_role("button", name="Raise it").click()
        until(lambda: desk.place().state.lifts.raised("turns_per_hour") == 77, "the limit")
        asked.get_by_role("row", name=re.compile(r"raise turns_per_hour=77.*done")).wait_for()
        page.get_by_text("Raise a limit for today").click()
        page.get_by_role("textbox", name="New value").fill("much '\"<b>")
        page.get_by_role("button", name="Raise it").click()
        asked.get_by_role("row", name=re.compile("is no limit")).wait_for()
    [answered] = desk.log(EventName.APPROVAL_ANSWERED)
    assert (answered["verdict"], answered["by"]) == ("allow", "remote")
    context.close()


def test_a_no_on_the_page_ends_the_question_with_its_reason(desk: AskingAtBroker, browser: Browser) -> None:
    name = desk.coder["address"].partition("@")[0]
    context, page = tab(browser, desk.broker, (360, 740), name="someone")
    with watching(desk):
        desk.mail()
        page.goto("/console/needs")
        row = page.get_by_role("listitem").filter(has_text=name)
        row.get_by_label("Why not").fill("not on a Friday")
        row.get_by_role("button", name=re.compile("^Deny")).click()
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 2, "the end of the turn that was told")
        row.wait_for(state="detached")
    [answered] = desk.log(EventName.APPROVAL_ANSWERED)
    assert (answered["verdict"], answered["by"]) == ("deny", "remote")
    assert not desk.asking.acts()
    assert desk.answers()[-1]["body"].strip() == "deny: not on a Friday"
    context.close()
