"""Writes a picture of every page of the console to a folder: python tools/console_screens.py FOLDER

The pages are a real broker's, filled with a day of a team's mail, in the system's Chromium: wide and narrow, some
dark and in Chinese.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.console_stage import NARROW, WIDE, filled, pages_of, running_browser, running_console, tab

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
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
