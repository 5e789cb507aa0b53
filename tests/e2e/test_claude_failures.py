"""Every way in which the provider can fail the real claude, and what the watcher makes of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import SOON, until
from tests.e2e.claude_desk import DONE, ClaudeDesk, bash
from tests.e2e.fake_anthropic import Answer, Drop, Failure, FakeAnthropic, Overloaded, Text, usage_limit
from tests.sizes import LONG

from agent_mailer.events import EventName

pytestmark = LONG


@pytest.fixture
def fake() -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        yield fake


@pytest.fixture
def desk(tmp_path: Path, fake: FakeAnthropic) -> ClaudeDesk:
    return ClaudeDesk(tmp_path, fake)


def test_a_usage_limit_pauses_until_its_reset_and_the_work_goes_on_in_the_same_session(
    tmp_path: Path, fake: FakeAnthropic
) -> None:
    desk = ClaudeDesk(tmp_path, fake, subscription=True)
    resets = time.time() + 6
    fake.says(bash("echo started"), usage_limit(resets), Text("finished"))
    sent = desk.send("work")
    with desk.watching():
        until(lambda: desk.log(EventName.TURN_ENDED), "the limit")
        assert desk.end()["outcome"] == "limited"
        assert "limit" in desk.end()["detail"]
        until(lambda: desk.log(EventName.TURN_ENDED)[1:], "the turn after the reset")
        until(lambda: desk.log(EventName.TURN_SETTLED)[1:], "its settlement")
    assert desk.end()["outcome"] == "done"
    # Nothing was started before the reset, and the second turn went on where the first had stopped.
    first, limited, again = fake.requests
    assert again.at >= int(resets)
    assert again.headers["x-claude-code-session-id"] == first.headers["x-claude-code-session-id"]
    assert "started" in again.tool_results[0]
    assert "You are in the session of that turn" in again.prompts[-1]
    assert limited.tool_results == again.tool_results
    assert [m.body for m in desk.inbox()] == ["finished\n"]
    assert sent in (desk.state / "processed.txt").read_text()
    assert not desk.state_file("retries.json")


REFUSED = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
OUTAGES: list[tuple[str, Answer, dict[str, str], str, str]] = [
    ("401", Failure(401, "authentication_error", "invalid x-api-key"), {}, "signed_out", "claude auth login"),
    ("billing", Failure(400, "invalid_request_error", "Your credit balance is too low"), {}, "signed_out", "billing"),
    ("429", Failure(429, "rate_limit_error", "slow down", {"retry-after": "3600"}), {}, "limited", "429"),
    ("overloaded", Overloaded(), {}, "limited", "Overloaded"),
    ("500", Failure(500, "api_error", "Internal server error"), {}, "unavailable", "500"),
    ("dropped", Drop(started=True), {}, "unavailable", "Connection"),
    ("refused", DONE, REFUSED, "unavailable", "Connection refused"),
    ("model", Failure(404, "not_found_error", "model: m"), {}, "unavailable", "agent-mailer config set model"),
]


@pytest.mark.parametrize(
    ("answer", "keys", "outcome", "said"), [row[1:] for row in OUTAGES], ids=[row[0] for row in OUTAGES]
)
def test_what_is_not_the_messages_fault_pauses_and_costs_nothing(
    answer: Answer, keys: dict[str, str], outcome: str, said: str, desk: ClaudeDesk
) -> None:
    desk.impatient()
    desk.keys = desk.keys | keys
    desk.fake.default = answer
    sent = desk.send()
    began = time.monotonic()
    assert desk.run() == [outcome], desk.end()
    assert time.monotonic() - began < SOON
    assert said in desk.end()["detail"]
    entry = desk.state_file("retries.json")[sent]
    assert (entry.get("attempts", 0), entry.get("starts", 0)) == (0, 0)
    pause = desk.state_file("pause.json") or _shared_pause()
    assert pause["reason"] == outcome
    assert desk.run() == []
    assert not (desk.state / "dead_letter.jsonl").exists()


def _shared_pause() -> dict[str, object]:
    """The pause of the account, in the user's state folder."""
    [path] = Path(os.environ["XDG_STATE_HOME"]).glob("agent-mailer/accounts/*.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_a_login_that_is_refused_after_work_keeps_the_session(desk: ClaudeDesk) -> None:
    desk.impatient()
    desk.fake.says(bash("echo half"), Failure(401, "authentication_error", "expired"))
    sent = desk.send()
    assert desk.run() == ["signed_out"]
    assert desk.state_file("retries.json")[sent].get("attempts", 0) == 0


def test_what_is_the_messages_fault_costs_an_attempt(desk: ClaudeDesk) -> None:
    desk.impatient()
    desk.configure(max_retries=1)
    desk.fake.default = Text("no", stop="refusal")
    sent = desk.send()
    assert desk.run() == ["failed"]
    assert desk.state_file("retries.json")[sent]["attempts"] == 1
    assert not (desk.state / "pause.json").exists()


def test_a_budget_ends_the_turn_and_names_its_key(desk: ClaudeDesk) -> None:
    desk.configure(max_budget_usd=0.00001)
    desk.fake.says(bash("echo spending"))
    desk.send()
    assert desk.run() == ["failed"]
    assert "max_budget_usd" in desk.end()["detail"]


def test_an_argument_that_claude_does_not_know_is_configuration(desk: ClaudeDesk) -> None:
    desk.configure(extra_args=["--no-such-option"])
    sent = desk.send()
    assert desk.run() == ["unavailable"]
    assert "extra_args" in desk.end()["detail"]
    assert desk.state_file("retries.json")[sent].get("attempts", 0) == 0
