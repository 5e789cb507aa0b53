"""Writes a picture of every page of the console to a folder: python tools/console_screens.py FOLDER

The pages are a real broker's, filled with a day of a team's mail and with agents that need somebody, and those of
`agent-mailer console` over an agent of this machine, in the system's Chromium: each wide and narrow, light and dark, in
English and in Chinese (which needs a font: Debian's fonts-noto-cjk or fonts-wqy-zenhei).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
from tests.console_stage import NARROW, WIDE, Scene, filled, pages_of, running_browser, running_console, tab
from tests.desk import until
from tests.integration.test_approvals import AskingDesk
from tests.own_console import own_console

from agent_mailer.remote.port import (
    Counted,
    Ended,
    Question,
    Report,
    Resting,
    Scheduled,
    Spent,
    Stuck,
    Trouble,
    Working,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEWS = [
    (size, kind, theme, language)
    for size, kind in ((WIDE, "wide"), (NARROW, "narrow"))
    for theme in ("light", "dark")
    for language in ("en", "zh")
]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, running_console(Path(base)) as desk:
        scene = filled(desk, desk.person("alice"))
        desk.person("bob")
        shown = {"login": "/console/login", **pages_of(scene)}
        with running_browser() as browser, ExitStack() as stack:
            _, page = tab(browser, desk, name="alice")
            _pictures(folder, page, desk.url, shown)
            stack.enter_context(_watched(scene))
            _troubled(scene)
            more = {f"{name}-full": shown[name] for name in ("needs", "agents", "agent", "schedules")}
            _pictures(folder, page, desk.url, more)
    with tempfile.TemporaryDirectory() as base:
        own(folder, AskingDesk(Path(base), "git push origin main"))
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")  # noqa: T201


def _pictures(folder: Path, page: Page, origin: str, shown: dict[str, str]) -> None:
    for size, kind, theme, language in VIEWS:
        page.context.add_cookies([{"name": "agent_mailer_view", "value": f"{language}.{theme}.keys", "url": origin}])
        page.set_viewport_size({"width": size[0], "height": size[1]})
        for name, path in shown.items():
            with _signed_out(page, only=name == "login"):
                page.goto(origin + path)
                page.get_by_role("heading", level=1).first.wait_for()
                page.screenshot(path=folder / f"{name.replace(' ', '-')}-{kind}-{theme}-{language}.png", full_page=True)


@contextmanager
def _signed_out(page: Page, *, only: bool) -> Iterator[None]:
    kept = page.context.cookies()
    if only:
        page.context.clear_cookies()
        page.context.add_cookies([one for one in kept if one.get("name") == "agent_mailer_view"])  # type: ignore[misc]
    yield
    if only:
        page.context.add_cookies(kept)  # type: ignore[arg-type]


@contextmanager
def _watched(scene: Scene) -> Iterator[None]:
    """Somebody holds each agent but one."""
    with ExitStack() as stack:
        kept = []
        for name in sorted(scene.agents.keys() - {"docs-bot"}):
            path = f"/messages/inbox/{scene.agents[name]['address']}/stream?agent_id={scene.agents[name]['id']}"
            watcher = {"X-Agent-Mailer-Watcher": name, "X-Agent-Mailer-Watcher-Name": "a machine"}
            stream = scene.desk.http.stream("GET", path, headers={**scene.person.header, **watcher})
            kept.append(stack.enter_context(stream).iter_lines())
            next(kept[-1])
        yield


def _troubled(scene: Scene) -> None:
    """Every kind of what needs somebody."""
    now = time.time()
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    spent = Spent(day, 12, 3600.0, 900_000, 40_000, 4.2)
    asks = scene.call("GET", "/admin/threads/summary")
    cart = next(one["thread_id"] for one in asks if one["preview_subject"] == "Build the new cart")
    stuck = tuple(Stuck("given_up", f"m{n}", now - 9000 - n) for n in range(7))
    told = {
        "shop-coder": {
            "questions": (
                Question("t1", cart, "m1", now - 1600, "human"),
                Question("q-1", cart, "m1", now - 700, tool="Bash", until=now + 80_000),
            ),
            "remote": "all",
            "last": Ended("t0", "m0", cart, "blocked", now - 1600, 250.0, 0.21),
        },
        "planner": {
            "working": (Working("t2", "m2", cart, now - 240, "Edit", now - 5),),
            "waiting": 2,
            "oldest": now - 540,
        },
        "infra-runner": {"signed_out": now - 4000, "runtime": "claude", "waiting": 14, "oldest": now - 20_000},
        "billing-bot": {
            "stuck": stuck,
            "stuck_counts": (Counted("given_up", 7),),
            "held": (Stuck("ring", "h1", now - 600),),
            "held_counts": (Counted("ring", 1),),
            "pause": Resting("limited", now - 5000, now + 9000),
            "last": Ended("t3", "m3", "", "failed", now - 5000, 12.0, 0.02),
        },
        "docs-bot": {"trouble": Trouble("mailbox: no space left on device", now - 300), "remote": "none"},
        "reviewer": {
            "pause": Resting("budget", now - 100, now + 30_000),
            "schedules": (Scheduled("nightly", "0 3 * * 1-5 UTC", now + 40_000, due=now - 60, why="refused"),),
        },
    }
    for name, said in told.items():
        report = Report("1", said.pop("remote", "operate"), today=spent, since=now - 50_000, **said)  # type: ignore[arg-type]
        path = f"/agents/{scene.agents[name]['id']}/report"
        scene.call("PUT", path, msgspec.to_builtins(report), as_agent=True)


def own(folder: Path, desk: AskingDesk) -> None:
    """An agent that asks for a yes, and one of whose mails is a question."""
    os.environ["XDG_STATE_HOME"] = str(desk.base / "user")
    desk.configure(limits={"dollars_per_day": 20})
    desk.send("Build the cart, then push it.", subject="Build the new cart")
    desk.send("Which colours?", sender="coder", to="user", subject="Colours", thread="colours")
    with desk.watching(), own_console(desk.workdir) as console, running_browser() as browser:
        until(desk.codes, "it asks for a yes")
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.goto(console.named)
        pages = ("needs", "agents", "threads", "compose", "search?q=cart", "schedules")
        shown = {f"own-{one.partition('?')[0]}": f"/console/{one}" for one in pages}
        shown["own-agent"] = agent = f"/console/agent?id={desk.workdir}"
        origin = console.named.partition("/console/")[0]
        shown["own-thread"] = "/console/thread?id=p2p/coder__user"
        page.goto(origin + agent)
        turn = page.get_by_role("region", name="Its turns").get_by_role("link").first.get_attribute("href")
        shown["own-turn"] = str(turn)
        _pictures(folder, page, origin, shown)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
