"""`watch` on a real terminal, in every state that a mail can bring: its screens are kept as text in `screens/`.

What differs from run to run is vague there: moments, durations, ids. A screen that has changed for good is written
anew with WRITE_SCREENS=1, and looked at.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.sizes import LONG
from tests.terminal import Terminal, terminal
from tests.typed import COMMAND

from agent_mailer.cli.terminal.screen import cells

pytestmark = LONG

KEPT = Path(__file__).parent / "screens"

AGENT = """
import json, subprocess, sys, time
def say(**event):
    print(json.dumps(event), flush=True)
sys.stdin.read()
mail = subprocess.run([sys.executable, "-m", "agent_mailer.cli.app", "mail", "read"], capture_output=True, text=True)
for number, name in enumerate(("mcp__agent_mailer__read_message", "Write")):
    say(type="tool_start", id=str(number), name=name, detail="rain.txt")
    say(type="tool_end", id=str(number))
word = mail.stdout.rpartition("Please: ")[2].split()[0]
if word == "wait":
    time.sleep(600)
if word == "break":
    print("it broke: there is no rain", file=sys.stderr)
    sys.exit(3)
say(type="usage", cost_usd=0.0612)
ends = {
    "ask": {"outcome": "blocked", "text": "Which colour?"},
    "leave": {"outcome": "signed_out", "detail": "Not logged in. Please run /login"},
}
say(type="result", **ends.get(word, {"outcome": "done", "text": "Done."}))
"""
SUBJECTS = {"work": "Write rain.txt", "ask": "قصيدة عن المطر 🙂", "break": "x" * 10_000, "leave": "\x1b[2J\u202ea\nb"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    found.configure(
        command=[sys.executable, str(agent)],
        command_output="jsonl",
        max_retries=1,
        retry={"first": 1, "longest": 1},
        stop_grace=30,
    )
    return found


def vague(screen: str) -> str:
    text = re.sub(r"^\d{4}-\d\d-\d\d\n", "", screen, flags=re.MULTILINE)  # midnight
    text = re.sub(r"\d\d:\d\d:\d\d", "15:31:44", text)
    text = re.sub(r"(?<![\w.])\d+(\.\d+)? s\b", "8 s", text)
    text = re.sub(r"tried again (now|in 8 s)", "tried again in 8 s", text)
    return re.sub(r"(?<=retry )[0-9a-f]{8}\b", "1a2b3c4d", text).rstrip() + "\n"


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


def compare(name: str, shown: str) -> None:
    path = KEPT / f"{name}.txt"
    if os.environ.get("WRITE_SCREENS"):
        KEPT.mkdir(exist_ok=True)
        path.write_text(shown, "utf-8")
    assert shown == path.read_text("utf-8")
