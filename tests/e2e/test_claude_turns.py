"""The real claude works on mail: it reads and answers with its tools, resumes its sessions, keeps to its mode."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.claude_desk import DONE, READ, ClaudeDesk, bash, reply
from tests.e2e.fake_anthropic import KEY, Failure, FakeAnthropic, Text, Tool
from tests.e2e.throwaway import is_nobody
from tests.sizes import LONG
from tests.typed import type_in
from tools.agent_clis import VERSIONS

from agent_mailer.errors import ExitCode
from agent_mailer.mailbox.port import Automatic

pytestmark = LONG


@pytest.fixture
def fake() -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        yield fake


@pytest.fixture
def desk(tmp_path: Path, fake: FakeAnthropic) -> ClaudeDesk:
    return ClaudeDesk(tmp_path, fake)


def test_a_turn_reads_and_answers_through_its_tools_and_the_next_one_resumes(desk: ClaudeDesk) -> None:
    fake = desk.fake
    desk.configure(model="claude-test-model")
    sent = desk.send("the secret word is MARZIPAN")
    fake.says(READ, bash("echo worked > result.txt"), reply("It is marzipan."), Text("I answered."))
    assert desk.run() == ["done"], desk.end()
    [answer] = desk.inbox()
    assert answer.body == "It is marzipan.\n"
    assert answer.refs == (sent,)
    assert answer.envelope.automatic is Automatic.NO
    assert (desk.workdir / "result.txt").read_text() == "worked\n"
    first = fake.requests[0]
    assert first.model == "claude-test-model"
    # The mail comes by the tool, never by the prompt, and the tools are there without a search for them.
    assert {"mcp__agent_mailer__read_message", "mcp__agent_mailer__reply"} <= set(first.tools)
    assert "MARZIPAN" not in json.dumps(first.body)
    assert "MARZIPAN" in fake.requests[1].tool_results[0]
    assert first.prompts[-1].startswith(f"Message: {sent}\n")
    # The key reached the provider and no file of ours.
    assert first.headers["x-api-key"] == KEY
    for path in desk.state.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    session = desk.session()
    assert first.headers["x-claude-code-session-id"] == session
    spent = _dollars(desk.state_file("usage.json"))
    assert spent > 0
    fake.says(Text("And that is all."))
    desk.send("anything else?")
    assert desk.run() == ["done"], desk.end()
    assert desk.session() == session
    assert desk.state_file("sessions.json")["p2p/coder__user"]["turn_count"] == 2
    last = fake.requests[-1]
    assert len(last.prompts) == 2
    assert last.prompts[0] == first.prompts[-1]
    # It staged nothing: its last words are the answer.
    answers = desk.inbox()
    assert [m.body for m in answers] == ["It is marzipan.\n", "And that is all.\n"]
    assert answers[1].envelope.automatic is Automatic.AUTO_REPLY
    assert answers[1].envelope.thread == answers[0].envelope.thread
    assert _dollars(desk.state_file("usage.json")) == pytest.approx(spent * 5 / 4)
    assert not desk.alive()


def _dollars(usage: dict[str, object]) -> float:
    """All that was spent on any day: four model calls of the same price in the first turn, one in the second."""
    found: list[float] = []

    def look(value: object, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                look(inner, key)
        elif name == "cost_usd" and isinstance(value, int | float):
            found.append(float(value))

    look(usage.get("days", usage), "")
    return sum(found)


def test_a_session_that_is_gone_is_dropped_and_the_thread_starts_fresh(desk: ClaudeDesk) -> None:
    desk.send("one")
    assert desk.run() == ["done"]
    before = desk.session()
    [transcript] = desk.transcripts()
    transcript.unlink()
    desk.send("two")
    assert desk.run() == ["session_lost"]
    assert "No conversation found" in desk.end()["detail"]
    assert desk.run() == ["done"]
    assert desk.session() != before
    assert "could not be resumed" in desk.fake.requests[-1].prompts[-1]
    assert not (desk.state / "dead_letter.jsonl").exists()
    assert len(desk.inbox()) == 2


def test_a_full_context_on_a_resumed_session_starts_a_fresh_one(desk: ClaudeDesk) -> None:
    too_long = Failure(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
    desk.send("one")
    assert desk.run() == ["done"]
    before = desk.session()
    desk.fake.default = too_long  # also to the summary that claude asks for before it gives up
    desk.send("two")
    assert desk.run() == ["session_lost"]
    desk.fake.default = DONE
    assert desk.run() == ["done"]
    assert desk.session() != before


def test_a_config_home_of_its_own_and_further_arguments(desk: ClaudeDesk) -> None:
    desk.configure(config_home="home", extra_args=["--append-system-prompt", "Speak like a PIRATE."])
    desk.send()
    assert desk.run() == ["done"]
    [transcript] = (desk.workdir / "home").glob("projects/*/*.jsonl")
    assert transcript.stem == desk.session()
    assert desk.transcripts() == []
    assert "PIRATE" in json.dumps(desk.fake.requests[0].body["system"])


def test_plan_reads_and_answers_but_changes_nothing(desk: ClaudeDesk) -> None:
    desk.configure(permission_mode="plan")
    desk.fake.says(READ, bash("echo no > result.txt"), reply("my plan"), Text("The plan is sent."))
    desk.send("what would you do?")
    assert desk.run() == ["done"], desk.end()
    assert [m.body for m in desk.inbox()] == ["my plan\n"]
    assert not (desk.workdir / "result.txt").exists()


def test_denied_tools_and_no_word_become_a_question(desk: ClaudeDesk) -> None:
    desk.configure(permission_mode="plan")
    desk.fake.says(bash("echo no > result.txt"), Text(""), Text(""))
    desk.send("write it")
    assert desk.run() == ["blocked"], desk.end()
    [question] = desk.inbox()
    assert "Bash" in question.body
    assert question.envelope.kind == "question"
    assert desk.session()


def test_bypass_may_do_everything_as_nobody(desk: ClaudeDesk) -> None:
    if not is_nobody():
        pytest.skip("we are root and cannot be anybody else: unshare --user does not work here")
    outside = desk.base / "outside.txt"
    desk.configure(permission_mode="bypassPermissions")
    desk.fake.says(bash(f"id -u > {outside}"), Tool("Write", {"file_path": f"{outside}.2", "content": "x"}), DONE)
    desk.send()
    assert desk.run() == ["done"], desk.end()
    assert outside.read_text().strip() != "0"
    assert Path(f"{outside}.2").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_bypass_as_root_is_refused_before_anything_is_claimed(desk: ClaudeDesk) -> None:
    desk.configure(permission_mode="bypassPermissions")
    sent = desk.send()
    typed = type_in(desk.workdir, "watch", "--once", "--no-interactive")
    assert typed.status == ExitCode.CONFIG
    assert "root" in typed.err
    assert "IS_SANDBOX" in typed.err
    assert (desk.root / f"agents/coder/inbox/new/{sent}.md").exists()


def test_the_agents_commands_work_beside_its_tools(desk: ClaudeDesk) -> None:
    desk.configure(permission_mode="bypassPermissions" if is_nobody() else "acceptEdits")
    desk.configure(extra_args=["--allowedTools", "Bash(agent-mailer mail:*)"])
    desk.fake.says(bash("agent-mailer mail read"), bash("agent-mailer mail reply --body 'by hand'"), DONE)
    desk.send("MARZIPAN")
    assert desk.run() == ["done"], desk.end()
    assert "MARZIPAN" in desk.fake.requests[1].tool_results[0]
    assert [m.body for m in desk.inbox()] == ["by hand\n"]


def test_doctor_knows_the_program_and_its_login(desk: ClaudeDesk) -> None:
    typed = desk.cli("doctor", "--verbose")
    assert f"claude {VERSIONS['claude']}" in typed.stdout, typed.stdout + typed.stderr
    assert "api_key" in typed.stdout
    desk.keys = {}
    typed = desk.cli("doctor")
    assert "not logged in" in typed.stdout
    assert typed.returncode != 0
