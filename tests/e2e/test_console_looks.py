"""How the console looks in a real Chromium, with names and mail of any length: nothing is cut, spread or hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.broker_desk import BrokerDesk
from tests.console_stage import NARROW, WIDE, Scene, pages_of, running_browser, running_console, tab, two_people

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.long
LONGEST = "a" * 63
"""The name of an agent, and the part of its address before the @."""


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
def pages(browser: Browser, desk: BrokerDesk) -> Iterator[dict[str, Page]]:
    wide, page = tab(browser, desk, name="alice")
    narrow, other = tab(browser, desk, NARROW, name="alice", color_scheme="dark")
    yield {"wide": page, "narrow": other}
    wide.close()
    narrow.close()


SIZES = pytest.mark.parametrize("kind", ["wide", "narrow"])


@SIZES
def test_the_longest_name_makes_no_page_wider_than_the_window(pages: dict[str, Page], scene: Scene, kind: str) -> None:
    page, width = pages[kind], {"wide": WIDE, "narrow": NARROW}[kind][0]
    if LONGEST not in scene.agents:
        scene.agent(LONGEST, role="r" * 200, description="d" * 300)
    agent = scene.agents[LONGEST]["id"]
    sent = scene.send("me", LONGEST, "S" * 500, "b" * 2000)
    shown = {
        **pages_of(scene),
        "agent": f"/console/agent?id={agent}",
        "agent settings": f"/console/agent/settings?id={agent}",
        "thread": f"/console/thread?id={sent['thread_id']}",
        "message": f"/console/message?id={sent['id']}",
        "reply": f"/console/compose?reply={sent['id']}",
    }
    wider = {}
    for name, path in shown.items():
        page.goto(path)
        if (found := page.evaluate("document.documentElement.scrollWidth")) > width:
            wider[name] = found
    assert wider == {}


def test_a_word_of_half_a_megabyte_is_laid_out_at_once(pages: dict[str, Page], scene: Scene) -> None:
    """Without a place to break it such a word takes a browser minutes, in which it answers to nothing."""
    sent = scene.send("planner", "me", "One word", "A" * 500_000)
    page = pages["wide"]
    page.goto(f"/console/thread?id={sent['thread_id']}")
    text = page.get_by_role("article").locator(".text")
    assert text.evaluate("text => text.innerText.trim().length") == 500_000
    assert text.evaluate("text => text.getBoundingClientRect().right") < WIDE[0]


@SIZES
def test_how_much_is_unread_is_seen_beside_a_subject_of_any_length(
    pages: dict[str, Page], scene: Scene, kind: str
) -> None:
    scene.send("docs-bot", "me", f"{kind}: " + "a long subject " * 20, "x")
    page = pages[kind]
    page.goto("/console/threads")
    row = page.get_by_role("link", name=re.compile(f"{kind}: a long subject"))
    ends = row.evaluate("row => [row, row.querySelector('.count')].map((at) => at.getBoundingClientRect().right)")
    assert ends[1] <= ends[0]
    # The rest of the subject is what gives way.
    assert row.locator(".subject bdi").evaluate("at => at.scrollWidth > at.clientWidth")


def test_what_deletes_looks_like_it_and_small_is_small_on_whatever_is_pressed(
    pages: dict[str, Page], scene: Scene
) -> None:
    seen, wrong = 0, []
    page = pages["narrow"]
    for name, path in pages_of(scene).items():
        page.goto(path)
        for words, dangerous, colour, bad, size in page.evaluate("""() => {
          const probe = document.createElement("p");
          probe.className = "error";
          document.body.append(probe);
          const bad = getComputedStyle(probe).color;
          return [...document.querySelectorAll(".danger, .small")].map((at) => [at.textContent,
            at.matches(".danger"), getComputedStyle(at).color, bad, parseFloat(getComputedStyle(at).fontSize)]);
        }"""):
            seen += 1
            if colour != bad if dangerous else size != 13:
                wrong.append((name, words, colour, size))
    assert seen > 10
    assert wrong == []


def test_on_a_telephone_the_parts_of_a_cell_stand_together(pages: dict[str, Page], scene: Scene) -> None:
    page = pages["narrow"]
    page.goto("/console/users")
    apart = page.evaluate("""() => [...document.querySelectorAll("td[data-label]")].flatMap((cell) => {
      const boxes = [...cell.childNodes].filter((at) => at.textContent.trim()).map((at) => {
        const range = document.createRange();
        range.selectNodeContents(at);
        return range.getBoundingClientRect();
      });
      return boxes.slice(1).map((box, index) => box.left - boxes[index].right);
    })""")
    assert len(apart) > 1
    assert max(apart) < 24


@SIZES
def test_the_two_colours_of_the_chart_are_told_apart(pages: dict[str, Page], kind: str) -> None:
    page = pages[kind]
    page.goto("/console/stats")
    colours = page.locator(".swatch").evaluate_all("all => all.map((at) => getComputedStyle(at).backgroundColor)")
    darker, lighter = sorted(map(luminance, colours))
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def luminance(colour: str) -> float:
    """Of `rgb(1, 2, 3)`, as WCAG counts it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


@SIZES
def test_what_has_a_border_does_not_touch_what_is_below_it(pages: dict[str, Page], scene: Scene, kind: str) -> None:
    page, found = pages[kind], {}
    for name, path in pages_of(scene).items():
        page.goto(path)
        touching = page.evaluate("""() => [...document.querySelectorAll(
          "main :is(.card, .empty, .table, .needs, .rows, .messages, .acts, .sure, pre)")].flatMap((at) => {
            const next = at.nextElementSibling;
            if (!next || !at.checkVisibility() || !next.checkVisibility()) return [];
            const [above, below] = [at, next].map((one) => one.getBoundingClientRect());
            return below.height && below.top >= above.top + above.height / 2 && below.top - above.bottom < 4
              ? [`${at.outerHTML.slice(0, 60)} … ${next.outerHTML.slice(0, 60)}`] : [];
        })""")
        if touching:
            found[name] = touching
    assert found == {}


def test_the_words_of_what_can_be_searched_are_no_column_of_single_words(pages: dict[str, Page]) -> None:
    page = pages["narrow"]
    page.goto("/console/search")
    widths = page.locator("dl.keys").first.evaluate(
        "list => [list, list.querySelector('dd')].map((at) => at.getBoundingClientRect().width)"
    )
    assert widths[1] > widths[0] * 0.4


COVERED = """() => {
  const at = document.activeElement, box = at.getBoundingClientRect();
  const seen = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  return at === document.body || at.contains(seen) || seen?.contains(at) ? "" : at.outerHTML.slice(0, 80);
}"""
"""What has the focus, where something else lies over it."""


def covered(page: Page, key: str, times: int) -> list[str]:
    found = []
    for _ in range(times):
        page.keyboard.press(key)
        if what := page.evaluate(COVERED):
            found.append(what)
    return found


def test_what_has_the_focus_lies_under_no_bar_of_a_telephone(pages: dict[str, Page], scene: Scene) -> None:
    page, found = pages["narrow"], {}
    for name in ("thread", "team", "agent settings", "account"):
        page.goto(pages_of(scene)[name])
        if under := covered(page, "Tab", 45) + covered(page, "Shift+Tab", 30):
            found[name] = under
    assert found == {}


def test_who_acts_as_another_sees_the_whole_page_on_a_telephone(browser: Browser, desk: BrokerDesk) -> None:
    context, page = tab(browser, desk, NARROW, name="alice")
    page.goto("/console/users")
    page.get_by_role("button", name="Act as bob").click()
    page.get_by_role("region", name="Acting as another user").wait_for()
    page.goto("/console/account")
    page.mouse.wheel(0, 500)
    page.wait_for_function("scrollY > 300")
    bars = page.locator(".acting, .top").evaluate_all(
        "all => all.map((bar) => bar.getBoundingClientRect()).map((at) => [at.top, at.bottom])"
    )
    [[top, bottom], under] = bars
    assert top == 0
    assert under[0] >= bottom or under[1] <= 0, "one bar lies over the other"
    assert covered(page, "Tab", 40) == []
    context.close()
