"""Turns of agents that speak the Agent Client Protocol: real processes, and an agent that follows a script."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import acp_agent
from tests.desk import Desk, outcomes, until
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.processes import read_stat

DESCRIPTOR = """\
argv = [{argv}]
title = "Scripted"
usage = "{usage}"
silent_for = {silent}
leaves_in = 1.0
[modes.plan]
allow_kinds = ["read"]
[modes.acceptEdits]
allow_kinds = ["read", "edit"]
[named]
field = "announced.title"
mail = "agent_mailer_[a-z_]+"
"""
STARTED: dict[str, list[dict[str, Any]]] = {
    "initialize": [{"answer": {"protocolVersion": 1, "agentCapabilities": {"loadSession": True}}}],
    "session/new": [{"answer": {"sessionId": acp_agent.SESSION}}],
    "session/load": [{"answer": {}}],
}
END = {"answer": {"stopReason": "end_turn", "usage": {"inputTokens": 5, "outputTokens": 2}}}


class AcpDesk(Desk):
    """The agent is described in the workdir, by `fake`."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.path = base / "acp.json"
        self.describe()
        self.configure(runtime="acp", agent="fake")

    def describe(self, silent: int = 60, usage: str = "prompt") -> None:
        argv = ", ".join(json.dumps(str(word)) for word in (sys.executable, acp_agent.__file__, self.path))
        folder = self.state / "templates" / "agents"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fake.toml").write_text(DESCRIPTOR.format(argv=argv, silent=silent, usage=usage))

    def follows(self, *steps: dict[str, Any], **methods: list[dict[str, Any]]) -> None:
        """On its prompt; `methods` as `session_load`."""
        more = {name.replace("_", "/", 1): value for name, value in methods.items()}
        self.path.write_text(json.dumps({**STARTED, "session/prompt": list(steps), **more}))

    def heard(self) -> list[dict[str, Any]]:
        """What the agents were told, in order."""
        return [json.loads(line) for line in Path(f"{self.path}.heard").read_text().splitlines()]

    def called(self) -> list[str]:
        return [message["method"] for message in self.heard() if "method" in message]

    def only_turn(self) -> Path:
        (turn,) = (self.state / "turns").iterdir()
        return turn


@pytest.fixture
def desk(tmp_path: Path) -> AcpDesk:
    return AcpDesk(tmp_path)


def says(text: str) -> dict[str, Any]:
    return {"update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}}


def tool(title: str = "bash", **fields: Any) -> dict[str, Any]:
    return {"update": {"sessionUpdate": "tool_call", "toolCallId": "t1", "title": title, **fields}}


def test_two_mails_of_a_thread_are_answered_in_one_session(desk: AcpDesk) -> None:
    desk.follows(says("The answer."), END)
    desk.send(thread="t")
    assert outcomes(desk.once()) == ["done"]
    assert desk.answered() == ["The answer."]
    # What the session holds comes again before the answer to load, and is no part of this turn.
    desk.follows({"mail": ["reply", "--body", "by the command"]}, END, session_load=[says("old"), {"answer": {}}])
    desk.send(thread="t")
    assert outcomes(desk.once()) == ["done"]
    assert desk.answered()[1:] == ["by the command"]
    new, load = "session/new", "session/load"
    assert desk.called() == ["initialize", new, "session/prompt", "initialize", load, "session/prompt"]


def test_a_lost_session_is_said_and_a_new_one_begun(desk: AcpDesk) -> None:
    desk.follows(says("One."), END)
    desk.send(thread="t")
    desk.once()
    desk.follows(says("Two."), END, session_load=[{"refuse": {"code": -32603, "message": "Internal error"}}])
    desk.send(thread="t")
    assert [*outcomes(desk.once()), *outcomes(desk.once())] == ["session_lost", "done"]
    assert desk.answered() == ["One.", "Two."]
    assert desk.called()[-1:] == ["session/prompt"]
    prompt = desk.heard()[-1]["params"]["prompt"][0]["text"]
    assert "the session of that" in prompt.replace("\n", " "), prompt


def test_what_is_no_success_is_not_settled(desk: AcpDesk) -> None:
    """A bare end after a mail that left at once, as news; the mail stays and nothing is answered."""
    desk.follows({"mail": ["reply", "--now", "--body", "I begin"]}, {"answer": {"stopReason": "end_turn"}})
    desk.send()
    events = desk.once()
    assert outcomes(events) == ["unavailable"]
    assert EventName.PAUSED in [event.event for event in events]
    assert EventName.MESSAGE_DONE not in [event.event for event in events]


@pytest.mark.long
def test_words_of_an_agent_that_counts_no_tokens_need_its_finish(desk: AcpDesk) -> None:
    """It may be the half of an answer: it is asked once more, in the same session."""
    desk.describe(usage="none")
    desk.configure(max_retries=0)
    end = {"answer": {"stopReason": "end_turn"}}
    desk.follows(says("The answer."), end, **{"session_prompt 2": [{"mail": ["finish"]}, says("Yes."), end]})
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert desk.answered() == ["The answer."]
    assert desk.called().count("session/prompt") == 2
    assert desk.called().count("session/new") == 1
    desk.follows(says("half of an"), end)
    desk.send()
    assert outcomes(desk.once()) == ["failed"]
    desk.follows(says("half of an"), end, **{"session_prompt 2": [end]})
    desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    assert not any("half of an" in answer for answer in desk.answered())
    desk.resume()
    desk.follows({"mail": ["finish"]}, says("Known."), end)
    assert outcomes(desk.once()) == ["done"]
    assert desk.called()[-1] == "session/prompt"
    assert desk.called()[-2] != "session/prompt", "it is not asked twice"


@pytest.mark.long
@pytest.mark.parametrize("where", ["initialize", "session/new"])
def test_an_agent_that_hangs_before_its_prompt_is_an_outage(desk: AcpDesk, where: str) -> None:
    desk.configure(first_output_timeout=3, silence_timeout=3)
    desk.follows(**{where.replace("/", "_"): [{"hang": True}]})
    desk.send()
    (ended,) = [event for event in desk.once() if event.event is EventName.TURN_ENDED]
    assert ended.fields["outcome"] == "unavailable"
    assert "timeout" in str(ended.fields["detail"])
    assert desk.called()[-1] == where


def test_a_descriptor_that_nobody_trusts_starts_nothing(desk: AcpDesk) -> None:
    desk.place().trust.remember()
    desk.follows(says("One."), END)
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    # An agent that changes it is not asked to start what it says.
    evil = desk.base / "evil"
    file = desk.state / "templates" / "agents" / "fake.toml"
    file.write_text(file.read_text().replace(f'argv = ["{sys.executable}"', f'argv = ["/usr/bin/touch", "{evil}"'))
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert not evil.exists()


@pytest.mark.long
def test_the_agent_is_asked_and_refused_by_the_mode(desk: AcpDesk) -> None:
    options = [{"optionId": name, "kind": name} for name in ("allow_always", "allow_once", "reject_once")]
    call = {"toolCall": {"toolCallId": "t1"}, "options": options}
    asks = {"ask": ["session/request_permission", call]}
    chosen = []
    for announced in (tool("agent_mailer_reply", kind="other"), tool("read", kind="read"), tool(kind="execute")):
        desk.follows(announced, asks, says("Done."), END)
        desk.send()
        assert outcomes(desk.once()) == ["done"]
        chosen.append(desk.heard()[-1]["result"]["outcome"]["optionId"])
    assert chosen == ["allow_once", "allow_once", "reject_once"]


@pytest.mark.long
def test_a_person_is_asked_and_the_call_runs_once_then(desk: AcpDesk) -> None:
    desk.tell()
    desk.configure(approve={"tools": ["bash"]}, permission_mode="acceptEdits")
    options = [{"optionId": name, "kind": name} for name in ("allow_once", "reject_once")]
    call = {"toolCall": {"toolCallId": "t1", "rawInput": {"command": "make release"}}, "options": options}
    desk.follows(tool(kind="execute"), {"ask": ["session/request_permission", call]}, says("I ended."), END)
    desk.send()
    assert outcomes(desk.once()) == ["asked"]
    assert desk.heard()[-1]["result"]["outcome"]["optionId"] == "reject_once"
    (code,) = desk.codes()
    assert type_in(desk.workdir, "approve", code).status == 0
    assert outcomes(desk.once()) == ["done"]
    assert desk.heard()[-1]["result"]["outcome"]["optionId"] == "allow_once"
    assert desk.called().count("session/new") == 1, "the session is kept meanwhile"


ENDS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"leave": 3}], "failed"),
    ([{"refuse": {"code": 401, "message": "x"}}], "signed_out"),
    ([{"refuse": {"code": -32603, "message": "Internal error", "data": {"details": "429 slow down"}}}], "limited"),
    ([{"refuse": {"code": -32603, "message": "Internal error: quota exceeded", "data": {}}}], "limited"),
    ([{"refuse": {"code": -32603, "message": "boom", "data": {"errorName": "APIError"}}}], "unavailable"),
    ([{"refuse": {"code": 400, "message": "maximum context length"}}], "failed"),
    (
        [
            says("half half"),
            {"answer": {"stopReason": "end_turn", "_meta": {"quota": {"token_count": {"input_tokens": 0}}}}},
        ],
        "unavailable",
    ),
    ([{"raw": "no JSON"}, {"raw": "{}"}, says("Well."), END], "done"),
    ([{"ask": ["fs/read_text_file", {"path": "/etc/passwd"}]}, says("Well."), END], "done"),
]


@pytest.mark.long
@pytest.mark.parametrize(("steps", "outcome"), ENDS)
def test_ends(desk: AcpDesk, steps: list[dict[str, Any]], outcome: str) -> None:
    desk.configure(max_retries=0)
    desk.follows(*steps)
    desk.send()
    assert outcomes(desk.once()) == [outcome]
    assert (desk.answered() == ["Well."]) is (outcome == "done")


@pytest.mark.long
@pytest.mark.parametrize(
    ("methods", "outcome", "says_why"),
    [
        ({"initialize": [{"leave": 1}]}, "unavailable", "ended before it was told anything"),
        ({"initialize": [{"answer": {"protocolVersion": 2}}]}, "unavailable", "version 2"),
        ({"session_new": [{"refuse": {"code": -32000, "message": "log in"}}]}, "signed_out", "log in"),
    ],
)
def test_beginnings(desk: AcpDesk, methods: dict[str, Any], outcome: str, says_why: str) -> None:
    desk.follows(**methods)
    desk.send()
    (ended,) = [event for event in desk.once() if event.event is EventName.TURN_ENDED]
    assert ended.fields["outcome"] == outcome
    assert says_why in str(ended.fields["detail"])


@pytest.mark.long
def test_an_agent_that_says_nothing_any_more_is_an_outage(desk: AcpDesk) -> None:
    desk.describe(silent=1)
    desk.configure()
    desk.follows(says("I think."), {"hang": True})
    desk.send()
    assert outcomes(desk.once()) == ["unavailable"]


@pytest.mark.long
def test_a_daemon_of_the_agents_ends_with_the_turn(desk: AcpDesk) -> None:
    pid = desk.base / "pid"
    desk.follows({"daemon": str(pid)}, says("Done."), END)
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    stat = read_stat(int(pid.read_text()))
    assert stat is None or not stat.alive


def _bridge_of(desk: AcpDesk) -> int:
    """The process that talks with the agent: the agent's parent."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(str(desk.path)) in words and words[1].endswith(b"acp_agent.py"):
                return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


@pytest.mark.long
def test_the_bridge_outlives_its_watcher_and_the_next_one_follows_it(desk: AcpDesk) -> None:
    there, go = desk.base / "there", desk.base / "go"
    desk.follows(tool(), {"touch": str(there)}, {"await": str(go)}, says("Still here."), END)
    desk.send()
    with desk.watching() as watcher:
        until(there.exists, "the agent's tool")
        watcher.kill()
        watcher.wait()
        assert _bridge_of(desk)
        go.touch()
        events = desk.once()
    assert [event.event for event in events].count(EventName.TURN_ADOPTED) == 1
    assert desk.answered() == ["Still here."]
    assert desk.called().count("session/prompt") == 1


@pytest.mark.long
def test_a_killed_bridge_is_a_crash_and_nothing_of_the_turn_is_left(desk: AcpDesk) -> None:
    there = desk.base / "there"
    desk.follows(tool(), {"touch": str(there)}, {"hang": True})
    desk.send()
    with desk.watching():
        until(there.exists, "the agent's tool")
        desk.follows(says("Again."), END)
        bridge = _bridge_of(desk)
        assert bridge
        os.kill(bridge, signal.SIGKILL)
        until(lambda: desk.answered() == ["Again."], "the second attempt")
    (first, *_) = desk.log(EventName.TURN_ENDED)
    assert first["outcome"] == "crashed"


@pytest.mark.long
def test_a_turn_that_is_stopped_cancels_the_agents_prompt(desk: AcpDesk) -> None:
    there = desk.base / "there"
    desk.follows(tool(), {"touch": str(there)}, {"ask": ["session/request_permission", {}]}, {"ask": ["x", {}]})
    desk.send()
    with desk.watching() as watcher:
        until(there.exists, "the agent's tool")
        os.kill(_bridge_of(desk), signal.SIGTERM)
        until(lambda: desk.log(EventName.TURN_ENDED), "the turn's end")
        watcher.terminate()
        watcher.wait()
    assert "session/cancel" in desk.called()
