"""The watcher around the real claude: its clocks, its death, its end, and nothing left running."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import SOON, until
from tests.e2e.claude_desk import DONE, ClaudeDesk, reply
from tests.e2e.fake_anthropic import FakeAnthropic, Hang, Text
from tests.sizes import LONG

from agent_mailer.events import EventName
from agent_mailer.process.tree import members

pytestmark = LONG


@pytest.fixture
def fake() -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        yield fake


@pytest.fixture
def desk(tmp_path: Path, fake: FakeAnthropic) -> ClaudeDesk:
    return ClaudeDesk(tmp_path, fake)


@pytest.mark.parametrize("started", [False, True], ids=["no byte", "silent in the middle"])
def test_a_provider_that_never_answers_is_noticed_and_the_tree_is_ended(started: bool, desk: ClaudeDesk) -> None:
    desk.configure(silence_timeout=3)
    desk.fake.default = Hang(started)
    sent = desk.send()
    assert desk.run() == ["unavailable"], desk.end()
    assert desk.log(EventName.TURN_STOPPING)[-1]["reason"] == "silence_timeout"
    assert not desk.alive()
    assert desk.state_file("retries.json")[sent].get("attempts", 0) == 0


def test_claude_itself_gives_up_on_a_provider_that_never_answers(desk: ClaudeDesk) -> None:
    desk.impatient(API_TIMEOUT_MS="2000")
    desk.fake.default = Hang()
    desk.send()
    assert desk.run() == ["unavailable"], desk.end()
    assert "timed out" in desk.end()["detail"]
    assert not desk.log(EventName.TURN_STOPPING)


def test_a_long_answer_is_no_silence(desk: ClaudeDesk) -> None:
    desk.configure(silence_timeout=2)
    text = " ".join(["word"] * 40)
    desk.fake.says(Text(text, seconds=4, pieces=40))
    desk.send()
    assert desk.run() == ["done"], desk.end()
    assert [m.body for m in desk.inbox()] == [f"{text}\n"]


def test_a_tool_that_prints_nothing_for_longer_than_the_silence_clock_is_left_alone(desk: ClaudeDesk) -> None:
    desk.configure(silence_timeout=2)
    desk.fake.says(desk.slow_script("sleep 5; echo worked"), DONE)
    desk.send()
    assert desk.run() == ["done"], desk.end()
    assert "worked" in desk.fake.requests[-1].tool_results[0]


def test_a_tool_that_takes_too_long_is_ended_with_its_children(desk: ClaudeDesk) -> None:
    desk.configure(tool_timeout=2)
    desk.fake.says(desk.slow_script("setsid sleep 300 & sleep 300"))
    desk.send()
    assert desk.run() == ["timed_out"], desk.end()
    assert not desk.alive()


def test_a_turn_survives_its_watcher_and_runs_once(desk: ClaudeDesk) -> None:
    mark, go = desk.base / "mark", desk.base / "go"
    script = f"echo ran >> {mark}; while [ ! -e {go} ]; do sleep 0.1; done; echo went on"
    desk.fake.says(desk.slow_script(script), reply("the answer"), DONE)
    desk.send()
    with desk.working(mark) as watcher:
        watcher.kill()
        watcher.wait()
        assert desk.alive()
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
            go.touch()
            until(lambda: desk.log(EventName.TURN_SETTLED), "the settlement")
    assert desk.end()["outcome"] == "done"
    assert mark.read_text() == "ran\n"
    assert len(desk.fake.requests) == 3
    assert [m.body for m in desk.inbox()] == ["the answer\n"]
    assert desk.session() == desk.fake.requests[0].headers["x-claude-code-session-id"]


def test_a_stopped_watcher_takes_the_tree_along_and_the_next_goes_on_in_the_session(desk: ClaudeDesk) -> None:
    desk.configure(stop_grace=0)
    mark = desk.base / "mark"
    desk.fake.says(desk.slow_script(f"touch {mark}; setsid sleep 300 & sleep 300"))
    sent = desk.send()
    with desk.working(mark) as watcher:
        began = time.monotonic()
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(30) == 0
        assert time.monotonic() - began < SOON
        assert not desk.alive()
    assert desk.end()["outcome"] == "interrupted"
    assert desk.state_file("retries.json")[sent].get("attempts", 0) == 0
    desk.fake.script.clear()
    assert desk.run() == ["done"], desk.end()
    last = desk.fake.requests[-1]
    assert last.headers["x-claude-code-session-id"] == desk.fake.requests[0].headers["x-claude-code-session-id"]
    assert "was interrupted" in last.prompts[-1]


def test_claude_killed_from_outside_has_crashed_and_leaves_no_tool_behind(desk: ClaudeDesk) -> None:
    mark = desk.base / "mark"
    desk.fake.says(desk.slow_script(f"touch {mark}; sleep 300"))
    desk.send()
    with desk.working(mark):
        for pid in desk.alive():
            if procfs.said(pid, "comm").startswith("claude"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: desk.log(EventName.TURN_SETTLED), "the end of the turn")
        turn = desk.log(EventName.TURN_ENDED)[0]
        assert turn["outcome"] == "crashed"
        assert not members(turn["turn_id"], None)
        until(lambda: desk.log(EventName.TURN_CLAIMED)[1:], "the second attempt")
    assert desk.log(EventName.TURN_CLAIMED)[1]["attempt"] == 2
