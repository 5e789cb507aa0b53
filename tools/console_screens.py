"""Writes a picture of every page of the console to a folder: python tools/console_screens.py FOLDER

The pages are a real broker's, filled with a day of a team's mail, and those of `agent-mailer console` over an agent of
this machine, in the system's Chromium: wide and narrow, some dark and in Chinese.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.console_stage import NARROW, WIDE, filled, pages_of, running_browser, running_console, tab
from tests.desk import until
from tests.integration.test_approvals import AskingDesk
from tests.own_console import own_console

ALSO_DARK = ("threads", "thread", "stats")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, running_console(Path(base)) as desk:
        scene = filled(desk, desk.person("alice"))
        desk.person("bob")
        shown = pages_of(scene)
        with running_browser() as browser:
            for size, kind in ((WIDE, "wide"), (NARROW, "narrow")):
                _, page = tab(browser, desk, size)
                page.goto("/console/login")
                page.screenshot(path=folder / f"login-{kind}.png")
                _, page = tab(browser, desk, size, name="alice")
                for name, path in shown.items():
                    page.goto(path)
                    page.get_by_text("live", exact=True).or_(page.get_by_role("heading", level=1)).first.wait_for()
                    page.screenshot(path=folder / f"{name}-{kind}.png", full_page=size == WIDE)
            _, page = tab(browser, desk, WIDE, name="alice", color_scheme="dark")
            for name in ALSO_DARK:
                page.goto(shown[name])
                page.screenshot(path=folder / f"{name}-dark.png", full_page=True)
            page.request.post("/console/view", form={"language": "zh"}, headers={"Sec-Fetch-Site": "same-origin"})
            page.goto(shown["threads"])
            page.screenshot(path=folder / "threads-chinese.png")
    with tempfile.TemporaryDirectory() as base:
        own(folder, AskingDesk(Path(base), "git push origin main"))
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")  # noqa: T201


def own(folder: Path, desk: AskingDesk) -> None:
    """An agent that asks for a yes, and one of whose mails is a question."""
    os.environ["XDG_STATE_HOME"] = str(desk.base / "user")
    desk.configure(limits={"dollars_per_day": 20})
    desk.send("Build the cart, then push it.", subject="Build the new cart")
    desk.send("Which colours?", sender="coder", to="user", subject="Colours", thread="colours")
    with desk.watching(), own_console(desk.workdir) as console, running_browser() as browser:
        until(desk.codes, "it asks for a yes")
        pages = ("needs", "agents", f"agent?id={desk.workdir}", "threads", "thread?id=p2p/coder__user", "compose")
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.goto(console.named)
        for language, size, kind in (("en", WIDE, "wide"), ("en", NARROW, "narrow"), ("zh", WIDE, "chinese")):
            origin = console.named.partition("/console/")[0]
            view = f"{language}.{'dark' if kind == 'narrow' else 'light'}.keys"
            context.add_cookies([{"name": "agent_mailer_view", "value": view, "url": origin}])
            page.set_viewport_size({"width": size[0], "height": size[1]})
            for path in pages:
                page.goto(f"{origin}/console/{path}")
                page.get_by_role("heading", level=1).wait_for()
                name = path.partition("?")[0]
                page.screenshot(path=folder / f"own-{name}-{kind}.png", full_page=size == WIDE)
                if name == "agent" and language == "en":
                    page.get_by_role("region", name="Its turns").get_by_role("link").first.click()
                    page.get_by_role("heading", name="What it did").wait_for()
                    page.screenshot(path=folder / f"own-turn-{kind}.png", full_page=size == WIDE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
