"""What every kill loop is made of: a load, kills at random moments, and what an outside witness must find after."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.desk import Desk, until

from agent_mailer.events import EventName
from agent_mailer.process import members

THREADS = ("red", "green")
SEED = int(os.environ.get("KILL_LOOP_SEED", "20261121"))
ANSWERS_WITH_ITS_ID = (
    {"witness": "start"},
    {"sleep": 0.05},
    {"witness": "end"},
    {"print": "$AGENT_MAILER_MESSAGE_ID"},
)

Sent = list[tuple[str, str]]
"""Thread and id of each message, in the order of sending."""


def kill_the_watcher(
    desk: Desk, chance: random.Random, rounds: int, *, meanwhile: Callable[[], None] = lambda: None
) -> Sent:
    """Send, start a watcher, kill it at a random moment; `meanwhile` runs in each round while the watcher does."""
    sent: Sent = []
    for _ in range(rounds):
        for thread in THREADS:
            if chance.random() < 0.7:
                sent.append((thread, desk.send(thread=thread)))
        watcher = desk.start_watch()
        meanwhile()
        time.sleep(chance.uniform(0.2, 1.2))  # the kill is to fall anywhere, not on something observable
        watcher.send_signal(signal.SIGUSR1 if chance.random() < 0.1 else signal.SIGKILL)
        watcher.wait()
    return sent


def settle_all(desk: Desk, count: int) -> None:
    processed = desk.state / "processed.txt"
    with desk.watching():
        until(
            lambda: processed.exists() and len(processed.read_text().splitlines()) >= count and _nothing_open(desk),
            f"{count} settled messages",
        )


def _nothing_open(desk: Desk) -> bool:
    return all((turn / "settled").exists() for turn in (desk.state / "turns").iterdir())


def check(desk: Desk, sent: Sent) -> None:
    """Nothing lost, nothing twice, one run a message, each thread in its order, no process left."""
    ids = [message_id for _, message_id in sent]
    lines = (desk.state / "processed.txt").read_text().splitlines()
    assert sorted(lines) == sorted(ids), "every message is settled exactly once"
    assert not desk.log(EventName.DEAD_LETTER)
    answers = [message.body.strip() for message in desk.inbox()]
    assert sorted(answers) == sorted(ids), "no answer lost, none twice"
    marks = desk.marks()
    runs = [mark["message"] for mark in marks if mark["mark"] == "start"]
    assert sorted(runs) == sorted(ids), "exactly one run per message"
    for thread in THREADS:
        order = [message_id for name, message_id in sent if name == thread]
        assert [m for m in runs if m in order] == order, "a thread in its order"
        _no_overlap([mark for mark in marks if mark["message"] in order])
    for turn in (desk.state / "turns").iterdir():
        assert members(turn.name, None) == [], "no process left behind"


def _no_overlap(marks: Sequence[dict[str, Any]]) -> None:
    """Start and end of one thread's turns alternate, and each end belongs to the start before it."""
    assert len(marks) % 2 == 0
    for start, end in zip(marks[::2], marks[1::2], strict=True):
        assert (start["mark"], end["mark"]) == ("start", "end")
        assert start["turn"] == end["turn"]
