"""Screens that are kept as text in `screens/`, and an agent's folder in which there is something of everything.

`WRITE_SCREENS=1 ./run test -m long tests/e2e -k screens` writes them anew. Look at them: that is what a person sees.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.clocks import noon
from tests.desk import SOON, Desk, until

from agent_mailer.clock import iso
from agent_mailer.mailbox.maildir.layout import Paths

KEPT = Path(__file__).parent / "screens"
PLACE = "/tmp/am-screens-12345678"

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
say(type="usage", input_tokens=1200, output_tokens=340, cost_usd=0.0612)
ends = {
    "ask": {"outcome": "blocked", "text": "Which colour?"},
    "want": {"outcome": "asked", "tool": "Bash", "input": {"command": "git push"}, "why": "the work is done"},
    "leave": {"outcome": "signed_out", "detail": "Not logged in. Please run /login"},
    "much": {"outcome": "limited", "detail": "You have hit your limit", "retry_at": time.time() + 3600},
}
say(type="result", **ends.get(word, {"outcome": "done", "text": "Done."}))
"""
SUBJECTS = {
    "work": "Write rain.txt",
    "ask": "قصيدة عن المطر 🙂",
    "break": "x" * 10_000,
    "leave": "\x1b[2J\u202ea\nb",
    "want": "Push it",
    "much": "Write a novel",
    "wait": "Write a long novel",
}


@contextmanager
def kept_desk() -> Iterator[Desk]:
    """Its folder has always as many characters, so that lines break where they did."""
    base = Path(tempfile.mkdtemp(prefix="am-screens-", dir="/tmp"))
    patch = pytest.MonkeyPatch()
    try:
        # The questions of an agent lie in the state folder of its person.
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        patch.setenv("TZ", noon())
        desk = Desk(base)
        agent = base / "agent.py"
        agent.write_text(AGENT)
        desk.configure(
            command=[sys.executable, str(agent)],
            command_output="jsonl",
            max_retries=1,
            retry={"first": 1, "longest": 1},
            stop_grace=30,
        )
        yield desk
    finally:
        patch.undo()
        shutil.rmtree(base, ignore_errors=True)


def put(desk: Desk, number: int, word: str, sender: str = "user") -> str:
    """A mail for the agent whose id is always the same; returns that."""
    message_id = f"2026-11-28T08-14-{number:02}.000Z_pid1000_{number:08x}"
    head = {"schema": 1, "id": message_id, "from": sender, "to": ["coder"], "thread": word}
    head |= {"subject": SUBJECTS.get(word, word), "created": iso(time.time())}
    text = f"---json\n{json.dumps(head)}\n---\nPlease: {word} !\n"
    (Paths(desk.root, "coder").new / f"{message_id}.md").write_text(text, "utf-8")
    return message_id


def put_nonsense(desk: Desk) -> None:
    (Paths(desk.root, "coder").new / "2026-11-28T08-14-59.000Z_pid1000_0000ffff.md").write_text("no mail at all\n")


def fill(desk: Desk) -> None:
    """Answered, asked, given up, held, stuck, a call to be allowed, and one that waits."""
    desk.configure(max_retries=0, allow_from=["user"])
    for number, word in enumerate(("work", "ask", "break"), 1):
        put(desk, number, word)
        desk.once()
    put(desk, 4, "work", sender="planner")
    put_nonsense(desk)
    desk.once()
    desk.tell()
    put(desk, 5, "want")
    desk.once()
    put(desk, 6, "work")


@contextmanager
def filled_desk() -> Iterator[Desk]:
    """One whose turns are all of one day, also around midnight: costs are told by the day (UTC)."""
    while True:
        with kept_desk() as desk:
            began = iso(time.time())[:10]
            fill(desk)
            if iso(time.time())[:10] == began:
                yield desk
                return


def vague(screen: str, desk: Desk | None = None) -> str:
    """What differs from run to run is the same: moments, durations, ids, pids; each as long as it was."""
    text = screen
    if desk is not None:
        text = _instead(text, str(desk.base), PLACE)
        for turn in (desk.state / "turns").glob("*"):
            text = _instead(text, turn.name, "20261128T153144-1a2b3c4d")
    text = re.sub(r"\b20\d\d-\d\d-\d\dT[\d.-]+Z_pid(?!1000_)\d+_[0-9a-f]{8}", "ID", text)
    text = re.sub(r"\b20\d\d-\d\d-\d\dT[\d.-]+Z?(_p[id]{0,2}\d*)?…", "ID…", text)
    text = re.sub(r"…(\S*)[0-9a-f]{8}\b", lambda found: f"…{'x' * len(found[1])}1a2b3c4d", text)
    text = re.sub(r"\bq-[0-9a-f]{12}\b", "q-1a2b3c4d5e6f", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d \d\d:\d\d(?!:)", "2026-11-28 15:31", text)
    text = re.sub(r"\b20\d\d-\d\d-\d\d(?![T\d-])", "2026-11-28", text)
    text = re.sub(r"\d\d:\d\d:\d\d", "15:31:44", text)
    text = re.sub(r"(?<=until |since )\d\d:\d\d\b", "15:31", text)
    text = re.sub(r"(?<![\w.])(\d+(\.\d+)? s|\d+ min)\b", "8 s", text)
    # The columns behind them moved, where one had more digits.
    text = re.sub(r"8 s( ago)? {2,}", r"8 s\1  ", text)
    text = re.sub(r"WAITING {2,}", "WAITING  ", text)
    text = re.sub(r"\b(?!PLAN)[0-9A-Z]{4}-[0-9A-Z]{4}\b", "ABCD-EFGH", text)
    text = re.sub(r"\b(pid|kill) \d+", r"\1 4711", text)
    text = re.sub(r"agent-mailer \d[\w.]*", "agent-mailer 1.0", text)
    text = re.sub(r"tried again (now|in 8 s)", "tried again in 8 s", text)
    return re.sub(r"(?<=retry )[0-9a-f]{8}\b", "1a2b3c4d", text).rstrip() + "\n"


def _instead(text: str, name: str, other: str) -> str:
    """`other` for `name`, which has as many characters and may be broken at the edge of the screen."""
    assert len(name) == len(other)
    pattern = "\n?".join(map(re.escape, name))

    def put_in(found: re.Match[str]) -> str:
        left = iter(other)
        return "".join(character if character == "\n" else next(left) for character in found[0])

    return re.sub(pattern, put_in, text)


def compare_once_drawn(name: str, look: Callable[[], str]) -> None:
    """For a screen that is drawn by and by, or anew: what it comes to is compared."""
    with suppress(AssertionError, OSError):
        until(lambda: look() == (KEPT / f"{name}.txt").read_text("utf-8"), "it is drawn", SOON)
    compare(name, look())


def compare(name: str, shown: str) -> None:
    path = KEPT / f"{name}.txt"
    if os.environ.get("WRITE_SCREENS"):
        KEPT.mkdir(exist_ok=True)
        path.write_text(shown, "utf-8")
    assert shown == path.read_text("utf-8"), "WRITE_SCREENS=1 writes it anew"
