"""The console for tests and for pictures: a real broker with pages, people, agents and mail, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from tests.broker_desk import PASSWORD, BrokerDesk, Person

from agent_mailer import __version__
from agent_mailer.console.mounting import mount
from agent_mailer.remote.port import Report, Scheduled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

WIDE, NARROW = (1280, 900), (360, 740)
AGENTS = ("planner", "shop-coder", "reviewer", "infra-runner", "docs-bot", "billing-bot")
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db000"
    "00000049454e44ae426082"
)


@contextmanager
def running_console(base: Path, **settings: Any) -> Iterator[BrokerDesk]:
    """A broker with its pages, over a database in `base`."""
    desk = BrokerDesk(base, **settings)
    mount(desk.app)
    desk.start()
    try:
        yield desk
    finally:
        while _VISITORS:
            _VISITORS.pop().http.close()
        desk.stop()


class Visitor:
    """A person's browser without script: the cookies of one, the headers of one, and forms."""

    def __init__(self, desk: BrokerDesk) -> None:
        self.http = httpx.Client(base_url=desk.url, timeout=30, trust_env=False)
        _VISITORS.append(self)

    def sign_in(self, name: str, password: str = PASSWORD, **more: str) -> httpx.Response:
        return self.post("/console/login", None, username=name, password=password, **more)

    def get(self, path: str, **query: str) -> httpx.Response:
        return self.http.get(path, params=query or None)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str | list[str]) -> httpx.Response:
        return self.http.post(
            path, data=fields, headers={"Sec-Fetch-Site": "same-origin"} if headers is None else headers
        )


_VISITORS: list[Visitor] = []
"""They are closed with the console."""


class Scene:
    """Mail as a day brings it, between the agents of one person."""

    def __init__(self, desk: BrokerDesk, person: Person) -> None:
        self.desk, self.person = desk, person
        self.agents: dict[str, dict[str, Any]] = {}
        self.operator = self.call("GET", "/admin/human-operator")["address"]

    def call(self, method: str, path: str, body: object = None, *, as_agent: bool = False) -> Any:
        headers = self.person.header if as_agent else self.person.login
        answer = self.desk.http.request(method, path, json=body, headers=headers)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def agent(self, name: str, **more: object) -> dict[str, Any]:
        address = f"{name}@{self.person.name}.amp.localhost"
        body = {"name": name, "address": address, "role": "coder", "system_prompt": "be brief", **more}
        self.agents[name] = self.call("POST", "/agents/register", body, as_agent=True)
        return self.agents[name]

    def send(self, sender: str, to: str, subject: str, body: str, **more: object) -> dict[str, Any]:
        """`sender`: an agent's name, or `me`."""
        address = self.operator if to == "me" else self.agents[to]["address"] if to in self.agents else to
        said: dict[str, object] = {"to_agent": address, "subject": subject, "body": body, **more}
        if "parent_id" in said:
            said["action"] = "reply"
        if sender == "me":
            sent: dict[str, Any] = self.call("POST", "/admin/messages/send", said)
            return sent
        agent = self.agents[sender]
        said |= {"agent_id": agent["id"], "from_agent": agent["address"]}
        sent = self.call("POST", "/messages/send", said, as_agent=True)
        return dict(sent)

    def turn(self, message: dict[str, Any], agent: str, outcome: str | None, detail: str = "") -> None:
        """What the agent did for that message; without an outcome it works on it still."""
        base = {"agent_id": self.agents[agent]["id"], "turn_id": f"t-{message['id'][:8]}"}
        steps: list[dict[str, object]] = [{"stage": "started"}]
        if outcome is not None:
            steps.append({"stage": "settled", "outcome": outcome, "detail": detail, "final": True})
        for step in steps:
            self.call("POST", f"/messages/{message['id']}/receipts", {**base, **step}, as_agent=True)


def two_people(desk: BrokerDesk) -> Scene:
    """Alice, with all that a page can show, and bob. To be made before the browser: it needs a loop of its own."""
    scene = filled(desk, desk.person("alice"))
    desk.person("bob")
    return scene


def filled(desk: BrokerDesk, person: Person) -> Scene:
    """A team of agents in the middle of their work."""
    scene = Scene(desk, person)
    for name in AGENTS:
        made = scene.agent(name, role=name.rpartition("-")[2])
        scene.call("PUT", f"/admin/agents/{made['id']}/tags", {"tags": ["night"] if "infra" in name else ["day"]})
    team = scene.call("POST", "/admin/teams", {"name": "Shop", "description": "The shop and all around it"})
    for name in AGENTS[:4]:
        scene.call("POST", f"/admin/teams/{team['id']}/agents", {"agent_id": scene.agents[name]["id"]})
    scene.call(
        "POST",
        f"/admin/teams/{team['id']}/memories",
        {
            "title": "How we release",
            "content": "# How we release\n\n1. tests are green\n2. a tag\n3. `deploy production`",
        },
    )
    scene.call("POST", "/users/api-keys", {"name": "laptop"})
    scene.send(
        "planner", "docs-bot", "Release notes for 1.4", "Please write them from the merged changes.", priority="low"
    )
    failed = scene.send("planner", "billing-bot", "Migrate the invoices", "Move the 2025 invoices into the new table.")
    scene.turn(failed, "billing-bot", "failed", "exit 1: no such table: invoices_2025")
    asked = scene.send(
        "me", "planner", "Build the new cart", "We need the new cart by Friday. **Plan it**, and hand it out."
    )
    scene.turn(asked, "planner", "done")
    task = scene.send(
        "planner",
        "shop-coder",
        "Build the new cart",
        "The plan:\n\n1. data model\n2. API: `POST /cart/items`\n3. the page\n\n| part | who | until |\n|---|---|---|\n"
        "| model, API | shop-coder | Wednesday |\n| review | reviewer | Thursday |\n\n"
        "```sql\nCREATE TABLE cart_items (\n"
        "  cart_id uuid NOT NULL,\n  sku text NOT NULL\n);\n```\n",
        thread_id=asked["thread_id"],
    )
    scene.turn(task, "shop-coder", "done", "3 files changed, all tests green")
    scene.send(
        "shop-coder",
        "me",
        "Build the new cart",
        "The API stands. One question before I go on:\n\n> Postgres or SQLite for the carts of visitors who are not "
        "signed in?\n\n"
        "Postgres is what all else uses; SQLite would keep the load of bots away from it.",
        thread_id=asked["thread_id"],
        kind="question",
    )
    deploy = scene.send(
        "planner", "infra-runner", "Deploy 1.4", "Deploy 1.4 to staging, then tell me.", priority="urgent"
    )
    scene.turn(deploy, "infra-runner", None)
    review = scene.send(
        "shop-coder", "reviewer", "Review: cart API", "Please look at the branch `cart-api`.", kind="review_request"
    )
    scene.turn(review, "reviewer", "done")
    scene.send("reviewer", "shop-coder", "Re: Review: cart API", "Two remarks, none blocks.", parent_id=review["id"])
    scene.send(
        "docs-bot", "me", "Which style for the API pages?", "Should examples be in curl or in Python?", kind="question"
    )
    scene.call("POST", "/admin/hooks", {"name": "alarms", "to": scene.agents["infra-runner"]["address"]})
    now = time.time()
    nightly = Scheduled("nightly", "0 3 * * 1-5 UTC", now + 40_000, sent=review["id"], sent_at=now - 40_000)
    weekly = Scheduled("licences", "30 6 * * 1 Europe/Berlin", now + 200_000)
    told = Report(__version__, "operate", "claude", schedules=(nightly, weekly), ended="stopped")
    path = f"/agents/{scene.agents['reviewer']['id']}/report"
    scene.call("PUT", path, msgspec.to_builtins(told), as_agent=True)
    kept = scene.send("reviewer", "planner", "Licences of our dependencies", "All are MIT, BSD or Apache 2.0.")
    scene.call("POST", f"/admin/threads/{kept['thread_id']}/archive")
    away = scene.send("docs-bot", "planner", "Spelling", "Colour or color?")
    scene.call("POST", f"/admin/threads/{away['thread_id']}/trash")
    opened = scene.call(
        "POST",
        "/channels",
        {"agent_id": scene.agents["planner"]["id"], "initial_prompt": "Agree on the names of the cart's events."},
        as_agent=True,
    )
    token = opened["join_token"]
    scene.call("POST", f"/channels/{token}/join", {"agent_id": scene.agents["shop-coder"]["id"]}, as_agent=True)
    for number in range(10):
        who = scene.agents["planner" if number % 2 == 0 else "shop-coder"]
        body = f"`cart.item_{('added', 'removed', 'changed', 'kept', 'moved')[number % 5]}`?"
        scene.call("POST", f"/channels/{token}/messages", {"agent_id": who["id"], "body": body}, as_agent=True)
    return scene


def chromium() -> str:
    """Where Debian's Chromium is. Skips where it is missing, fails with CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        words = "the console's tests need Chromium (Debian's package chromium)"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # which starts a program of its own

    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            yield browser
        finally:
            browser.close()


def tab(
    browser: Browser, desk: BrokerDesk, size: tuple[int, int] = WIDE, *, name: str = "", **more: Any
) -> tuple[BrowserContext, Page]:
    """A window of its own, signed in as `name` where that is given."""
    width, height = size
    context = browser.new_context(
        base_url=desk.url, viewport={"width": width, "height": height}, locale="en-GB", **more
    )
    page = context.new_page()
    if name:
        page.goto("/console/login")
        page.get_by_role("textbox", name="Name", exact=True).fill(name)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("navigation", name="Main").wait_for()
    return context, page


def pages_of(scene: Scene) -> dict[str, str]:
    """Every page that a superadmin has, by a name: each once, with something on it."""
    threads = scene.call("GET", "/admin/threads/summary")
    cart = next(one["thread_id"] for one in threads if one["preview_subject"] == "Build the new cart")
    message = scene.call("GET", f"/admin/messages/thread/{cart}")[-1]["id"]
    [team] = scene.call("GET", "/admin/teams")
    [channel] = scene.call("GET", "/admin/channels")
    [asking] = [one for one in scene.call("GET", "/admin/agents") if one["address"].startswith("shop-coder@")]
    return {
        "needs": "/console/needs",
        "agents": "/console/agents",
        "agent": f"/console/agent?id={asking['id']}",
        "agent settings": f"/console/agent/settings?id={asking['id']}",
        "new agent": "/console/agents/new",
        "deleted agents": "/console/agents/deleted",
        "schedules": "/console/schedules",
        "threads": "/console/threads",
        "thread": f"/console/thread?id={cart}",
        "compose": "/console/compose",
        "forward": f"/console/compose?forward={message}",
        "message": f"/console/message?id={message}",
        "search": "/console/search?q=cart",
        "archive": "/console/archive",
        "trash": "/console/trash",
        "teams": "/console/teams",
        "team": f"/console/team?id={team['id']}",
        "channels": "/console/channels",
        "channel": f"/console/channel?token={channel['join_token']}",
        "hooks": "/console/hooks",
        "hook": f"/console/hook?id={scene.call('GET', '/admin/hooks')[0]['id']}",
        "stats": "/console/stats",
        "keys": "/console/keys",
        "account": "/console/account",
        "audit": "/console/audit",
        "users": "/console/users",
        "nothing": "/console/no-such-page",
    }
