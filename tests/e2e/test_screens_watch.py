"""`watch` on a real terminal, in every state that a mail can bring: its screens are kept as text in `screens/`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.desk import Desk
from tests.e2e.kept_screens import SUBJECTS, compare, kept_desk, put, put_nonsense, vague
from tests.sizes import LONG
from tests.terminal import Terminal, terminal
from tests.typed import COMMAND

from agent_mailer.cli.terminal.screen import cells

pytestmark = LONG


@pytest.fixture
def desk() -> Iterator[Desk]:
    with kept_desk() as found:
        yield found


def send(desk: Desk, word: str) -> None:
    desk.send(f"Please: {word} !", thread=word, subject=SUBJECTS.get(word, word))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_state_of_a_mail(desk: Desk, width: int) -> None:
    with terminal(
        [COMMAND, "watch", "--no-interactive"], desk.workdir, {"HOME": str(desk.base)}, width=width, height=60
    ) as screen:
        screen.until("Ctrl-C stops")
        for word, seen in (("work", "answered user"), ("ask", "asks user"), ("break", "GIVEN UP"), ("leave", "PAUSED")):
            send(desk, word)
            screen.until(seen)
        shown = screen.screen()
        screen.press("C-c")
        assert screen.until_ended() == 0
    lines = shown.splitlines()
    assert max(map(cells, lines)) <= width
    whole = " ".join(shown.split())
    for words in ("agent-mailer dead-letter retry ", "PAUSED signed out agent-mailer resume"):
        assert words in whole
    if width >= 80:
        compare(f"watch-{width}", vague(shown))
    log = (desk.state / "log.jsonl").read_text("utf-8")
    assert not [word for word in ("rain.txt", "قصيدة", "xxxx", "[2J", "colour") if word in log]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_waits_for_a_person_and_a_limit(desk: Desk, width: int) -> None:
    desk.configure(allow_from=["user"])
    with terminal(
        [COMMAND, "watch", "--no-interactive"], desk.workdir, {"HOME": str(desk.base)}, width=width, height=60
    ) as screen:
        screen.until("Ctrl-C stops")
        put(desk, 1, "work", sender="planner")
        screen.until("HELD")
        put_nonsense(desk)
        screen.until("STUCK")
        put(desk, 2, "want")
        screen.until("ASKS YOU")
        put(desk, 3, "much")
        shown = screen.until("PAUSED")
        screen.press("C-c")
        assert screen.until_ended() == 0
    assert max(map(cells, shown.splitlines())) <= width
    whole = " ".join(shown.split())
    for words in (
        "agent-mailer held release",
        "agent-mailer stuck show",
        "agent-mailer approvals show",
        "or: agent-mailer resume",
    ):
        assert words in whole
    if width >= 80:
        compare(f"watch-waits-{width}", vague(shown, desk))


def test_two_terminals_and_a_ctrl_c_that_waits(desk: Desk) -> None:
    home = {"HOME": str(desk.base)}
    with terminal([COMMAND, "watch", "--no-interactive"], desk.workdir, home, width=80) as screen:
        screen.until("Ctrl-C stops")
        send(desk, "wait")
        screen.until("2 tools", "Write rain.txt")
        with terminal([COMMAND, "watch", "--no-interactive"], desk.workdir, home, width=80) as second:
            assert second.until_ended() == 75
            compare("watch-twice-80", vague(second.everything(), desk))
        screen.press("C-c")
        screen.until("stopping")
        shown = screen.until("waits up to")
        _second_ctrl_c(screen)
        assert screen.until_ended() == 0
        compare("watch-stopping-80", vague("\n".join(shown.splitlines()[:-1]), desk))
        compare("watch-stopped-80", vague(screen.screen(), desk))


def test_ctrl_c_says_what_it_waits_for_and_a_second_one_ends_it(desk: Desk) -> None:
    with terminal([COMMAND, "watch", "--no-interactive"], desk.workdir, width=100) as screen:
        screen.until("Ctrl-C stops")
        send(desk, "wait")
        screen.until("2 tools", "Write rain.txt")
        screen.resize(60, 30)
        screen.resize(120, 30)
        screen.press("C-c")
        screen.until("waits up to 30 s for its turn; Ctrl-C again ends them now")
        _second_ctrl_c(screen)
        assert screen.until_ended() == 0
        shown = screen.screen()
    assert "stopped" in shown.splitlines()[-1]
    # The live line is gone, and nothing of it was left on the way.
    assert not [line for line in shown.splitlines() if "2 tools" in line and "interrupted" not in line]


def _second_ctrl_c(screen: Terminal) -> None:
    screen._ask("send-keys", "C-c")  # it draws each second: it need not wait for a key
