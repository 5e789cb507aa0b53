"""The scripted agent as the `command` runtime starts it, through the holder and back to a judgement."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_mailer.outcomes import Exit, Judgement, Outcome
from agent_mailer.process.holder import Supervised, start_behind_gate
from agent_mailer.process.output import LineFramer, OutputTail
from agent_mailer.process.tree import end_tree
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput, Evidence, Observation, ToolServer, ToolStarted, TurnRequest, Usage


class Desk:
    """Runs one scripted turn after the other in one workdir."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.started: list[Supervised] = []

    def turn(
        self, output: CommandOutput, script: object, *, attempt: int = 1, session_id: str | None = None
    ) -> tuple[Judgement, Observation, Exit]:
        turn_dir = self.workdir / f"turn{len(self.started)}"
        turn_dir.mkdir()
        (turn_dir / "prompt.md").write_text("Message: m1\n")
        (self.workdir / "script.json").write_text(json.dumps(script))
        argv = [sys.executable, "-m", "agent_mailer.testing.scripted_agent", "script.json"]
        runtime = CommandRuntime(argv, output, {"PATH": "/usr/bin:/bin"})
        turn_id = f"turn-{uuid.uuid4().hex}"
        request = TurnRequest(
            turn_id,
            turn_dir,
            self.workdir,
            None,
            "m1",
            "th1",
            "alice",
            attempt,
            session_id,
            ToolServer(("/bin/true",), {}),
        )
        launch = runtime.command(request)
        with start_behind_gate(
            launch.argv, env=launch.env, cwd=launch.cwd, turn_dir=turn_dir, turn_id=turn_id
        ) as gated:
            supervised = gated.release()
        self.started.append(supervised)
        asyncio.run(supervised.wait_ended())
        observation, framer, tail = Observation(), LineFramer(), OutputTail(turn_dir / "stdout")
        while data := tail.read():
            for line in framer.feed(data):
                for event in runtime.parse(line):
                    observation.add(event)
        end = supervised.exit()
        evidence = Evidence(observation, end, turn_dir / "stdout", turn_dir / "stderr", session_id)
        return runtime.judge(evidence), observation, end

    def stderr(self) -> str:
        return (self.started[-1].turn_dir / "stderr").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for supervised in desk.started:
        asyncio.run(end_tree(supervised.turn_id, supervised.identity, grace=0))


TEXT, JSONL = CommandOutput.TEXT, CommandOutput.JSONL


@pytest.mark.parametrize(
    ("output", "steps", "expected"),
    [
        (TEXT, [{"print": "one"}, {"write": "$AGENT_MAILER_FROM"}], Judgement(Outcome.DONE, final_text="one\nalice")),
        (TEXT, [{"print": "one"}, {"error": "broken"}, {"exit": 4}], Judgement(Outcome.FAILED, "broken")),
        (TEXT, [{"die": "KILL"}], Judgement(Outcome.CRASHED, "killed by SIGKILL")),
        (TEXT, [{"ignore": ["TERM"]}, {"die": "TERM"}], Judgement(Outcome.CRASHED, "killed by SIGTERM")),
        (TEXT, [{"run": ["{python}", "-c", "exit(3)"]}, {"print": "no"}], Judgement(Outcome.FAILED, "exit status 3")),
        (TEXT, [{"run": ["/bin/echo", "aside"]}, {"print": "said"}], Judgement(Outcome.DONE, final_text="said")),
        (JSONL, [{"print": "noise"}], Judgement(Outcome.FAILED, "ended without a result")),
        (JSONL, [{"emit": {"type": "result", "text": "yes"}}, {"exit": 1}], Judgement(Outcome.DONE, final_text="yes")),
    ],
)
def test_a_script_is_judged(desk: Desk, output: CommandOutput, steps: list[object], expected: Judgement) -> None:
    judgement, _, _ = desk.turn(output, {"steps": steps})
    assert judgement == expected


def test_events_arrive(desk: Desk) -> None:
    lines = [
        {"type": "session", "id": "s-1"},
        {"type": "tool_start", "id": "1", "name": "Bash"},
        {"type": "tool_start", "id": "2", "name": "Read"},
        {"type": "tool_end", "id": "1"},
        {"type": "usage", "input_tokens": 7},
        {"type": "something else"},
    ]
    _, observation, _ = desk.turn(JSONL, {"steps": [{"emit": line} for line in lines]})
    assert observation.session_id == "s-1"
    assert observation.open_tools == {"2": ToolStarted("2", "Read")}
    assert observation.usage == Usage(7)


def test_attempts_witness_prompt_and_environment(desk: Desk) -> None:
    script = {
        "witness": "witness.jsonl",
        "steps": [{"witness": "start"}, {"save_prompt": "prompt"}, {"save_env": "env"}, {"witness": "end"}],
        "attempts": {"2": [{"witness": "again"}]},
    }
    desk.turn(JSONL, script, session_id="s-1")
    desk.turn(JSONL, script, attempt=2)
    lines = [json.loads(line) for line in (desk.workdir / "witness.jsonl").read_text().splitlines()]
    assert [(line["mark"], line["attempt"], line["session"], line["message"]) for line in lines] == [
        ("start", "1", "s-1", "m1"),
        ("end", "1", "s-1", "m1"),
        ("again", "2", None, "m1"),
    ]
    assert lines[0]["turn"] == desk.started[0].turn_id
    assert (desk.workdir / "prompt").read_text() == "Message: m1\n"
    assert json.loads((desk.workdir / "env").read_text())["AGENT_MAILER_WORKDIR"] == str(desk.workdir)


@pytest.mark.parametrize(
    "script", [5, {"steps": [{}]}, {"steps": [{"print": "a", "exit": 0}]}, {"steps": [{"pirnt": "a"}]}, {"step": []}]
)
def test_a_script_with_a_mistake_says_so(desk: Desk, script: object) -> None:
    _, _, end = desk.turn(TEXT, script)
    assert end == Exit(status=64)
    assert desk.stderr().startswith("scripted agent: ")
