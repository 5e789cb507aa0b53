"""What an agent prints in its headless mode, by its description: recorded lines of the real programs, and odd ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.errors import ConfigFault
from agent_mailer.outcomes import FINAL_TEXT_LIMIT, MOST_OPEN, Exit, Outcome
from agent_mailer.runtimes.acp.adapter import AgentOptions, AgentRuntime
from agent_mailer.runtimes.acp.conversation import HangUp, Say, Send
from agent_mailer.runtimes.acp.descriptor import Line, UsageOf, read
from agent_mailer.runtimes.acp.lines import Listening
from agent_mailer.runtimes.acp.orders import Orders, Staged
from agent_mailer.runtimes.acp.shelf import Known, Shelf
from agent_mailer.runtimes.acp.verdict import judge
from agent_mailer.runtimes.port import Asking, Evidence, Observation, PermissionMode, RuntimeMissing
from agent_mailer.testing.runtime_suite import RuntimeSuite

RECORDED = Path(__file__).parents[1] / "fixtures" / "headless"
LINES = (
    Line({"t": "s"}, session="id"),
    Line({"t": "x"}, text="text"),
    Line({"t": "use"}, tool="id", name="name"),
    Line({"t": "used"}, tool_end="id"),
    Line({"t": "n"}, input_tokens="in", output_tokens="out"),
    Line({"t": "e"}, ends=True),
)


class Heard:
    """A turn of an agent that printed this."""

    def __init__(self, *lines: bytes, of: tuple[Line, ...] = LINES, usage: UsageOf = UsageOf.PROMPT) -> None:
        self.talk = Listening(
            Orders(("/bin/agent",), "Agent", "/srv/agent", "/srv/turn", usage=usage, lines=of), "Do it."
        )
        self.talk.begin()
        self.began, self.talk.steps = self.talk.steps, []
        for second, line in enumerate(lines):
            said = self.talk.read(line)
            if said is not None:
                self.talk.hear(said, float(second))

    def said(self, kind: str) -> list[dict[str, Any]]:
        lines = [dict(step.fields) for step in self.talk.steps if isinstance(step, Say)]
        return [line for line in lines if line["type"] == kind]


def line(kind: str, **fields: object) -> bytes:
    return json.dumps({"t": kind, **fields}).encode()


def shipped(name: str) -> Known:
    return Shelf({}, Path("/nowhere")).find(name)


@pytest.mark.parametrize(
    ("file", "outcome", "words"),
    [
        ("gemini-0.61.0-answer", Outcome.DONE, "The answer."),
        ("gemini-0.61.0-401", Outcome.SIGNED_OUT, ""),
        ("gemini-0.61.0-cut", Outcome.UNAVAILABLE, ""),
        ("qwen-0.15.10-answer", Outcome.DONE, "The answer."),
        ("qwen-0.15.10-401", Outcome.SIGNED_OUT, ""),
        ("qwen-0.15.10-cut", Outcome.UNAVAILABLE, ""),
        ("qwen-0.24.4-answer", Outcome.DONE, "The answer."),
        ("qwen-0.24.4-401", Outcome.SIGNED_OUT, ""),
        ("qwen-0.24.4-cut", Outcome.UNAVAILABLE, ""),
        ("qwen-0.24.4-500", Outcome.UNAVAILABLE, ""),
        ("qwen-0.24.4-404", Outcome.UNAVAILABLE, ""),
        ("qwen-0.24.4-context", Outcome.FAILED, ""),
    ],
)
def test_recorded_turns_of_the_real_programs(file: str, outcome: Outcome, words: str) -> None:
    """A provider's failure is none of its answers, also where the agent says that it ended well."""
    described = shipped({"gemini": "gemini-headless", "qwen": "qwen"}[file.partition("-")[0]]).descriptor
    assert described.headless is not None
    recorded = (RECORDED / f"{file}.jsonl").read_bytes().splitlines()
    heard = Heard(*recorded, of=described.headless.lines, usage=described.usage)
    [session] = heard.said("session")
    assert session["id"] == json.loads(recorded[0])["session_id"]
    assert heard.talk.ended is not None
    verdict = judge(heard.talk.ended, Staged(), resumed=False, errors=described.errors, answers=described.answers)
    assert (verdict.outcome, verdict.text) == (outcome, words), verdict
    if outcome is Outcome.DONE:
        [begun], [ended] = heard.said("tool_start"), heard.said("tool_end")
        assert (begun["id"] == ended["id"], begun["name"]) == (True, "run_shell_command")
        spent = heard.said("usage")[-1]
        # Two requests with tools, as the model server counts them.
        assert (spent["input_tokens"], spent["output_tokens"]) == (200, 40)
        assert spent.get("of") == ("session" if described.usage is UsageOf.SESSION else None)


def test_the_prompt_is_all_that_it_is_told() -> None:
    send, end = Heard().began
    assert isinstance(send, Send)
    assert send.line.startswith(b"Do it.\n\n")
    assert b"finish" in send.line
    assert isinstance(end, HangUp)


def test_what_was_said_before_a_tool_is_no_answer() -> None:
    heard = Heard(line("x", text="Let me "), line("x", text="see."), line("use", id="1"), line("used", id="1"))
    assert not heard.talk.over
    heard = Heard(line("x", text="Let me see."), line("use", id="1"), line("x", text="So."), line("e"))
    assert heard.talk.ended is not None
    assert (heard.talk.ended.text, heard.talk.ended.before) == ("So.", "Let me see.")
    assert heard.talk.in_a_tool


@pytest.mark.parametrize("between", [(), (line("x", text="\n"),)], ids=["nothing", "a blank"])
def test_an_answer_before_several_tools_in_a_row_is_the_answer_still(between: tuple[bytes, ...]) -> None:
    """As of an agent that writes a note before it says that it is done."""
    words = [line("x", text="I look."), line("use", id="1"), line("used", id="1"), line("x", text="It is 42.")]
    note, finish = ((line("use", id=name), line("used", id=name), *between) for name in "23")
    heard = Heard(*words, *note, *finish, line("e"))
    assert heard.talk.ended is not None
    assert (heard.talk.ended.text, heard.talk.ended.before) == ("", "It is 42.")
    assert judge(heard.talk.ended, Staged(finished=True), resumed=False).text == "It is 42."


def test_of_words_and_tools_without_end_as_much_is_kept_as_anybody_needs() -> None:
    words = [line("x", text="x" * 100_000)] * 3
    tools = [line("use", id=str(number), name="sh") for number in range(MOST_OPEN + 10)]
    heard = Heard(*tools, *words, line("e"))
    assert heard.talk.ended is not None
    assert heard.talk.ended.text == "x" * FINAL_TEXT_LIMIT
    assert len(heard.said("tool_start")) == MOST_OPEN


def test_tokens_are_of_what_the_description_says() -> None:
    twice = [line("n", **{"in": 10, "out": 1}), line("n", **{"in": 20, "out": 2}), line("e")]
    for usage, tokens in ((UsageOf.PROMPT, 22), (UsageOf.REQUESTS, 33), (UsageOf.NONE, None)):
        heard = Heard(*twice, usage=usage)
        assert heard.talk.ended is not None
        assert heard.talk.ended.tokens == tokens


def test_odd_lines_are_passed_over_and_nothing_counts_after_the_end() -> None:
    odd: tuple[bytes, ...] = (
        b"",
        b"{",
        b"[1]",
        b'"x"',
        b"\xff",
        b"[" * 10_000,
        line("s", id="--resume"),
        line("s", id=7),
        line("used"),
    )
    odd += (line("n", **{"in": -1, "out": True}), line("x", text=["no"]), line("use", id=""), line("use", id=3))
    heard = Heard(*odd, line("e"), line("x", text="late"))
    assert heard.talk.steps == []
    assert heard.talk.ended is not None
    assert (heard.talk.ended.text, heard.talk.ended.tokens) == ("", None)


LEAST = """\
argv = ["sh", "-c", "true"]
[modes.plan]
[headless]
resume = ["--resume", "$session"]
server = ["--mcp-config", "$servers"]
lines = [{when = {t = "s"}, session = "id"}, {when = {t = "e"}, ends = true}]
[[errors]]
code = 42
outcome = "session_lost"
"""


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        (', {when = {t = "e"}, ends = true}', "none that ends a turn"),
        ('resume = ["--resume", "$session"]', "does not name \\$session"),
        ('server = ["--mcp-config", "$servers"]', "names \\$servers"),
        ('{when = {t = "s"}, session = "id"}, ', "no line of headless.lines tells a session"),
        ('t = "e"', "known by nothing"),
    ],
)
def test_a_description_that_cannot_work_says_why(gone: str, why: str) -> None:
    assert read(LEAST.encode(), "x.toml").headless is not None
    with pytest.raises(ConfigFault, match=why):
        read(LEAST.replace(gone, "").encode(), "x.toml")


def test_how_it_is_called_and_an_end_without_a_word(tmp_path: Path) -> None:
    known = Shelf({"agents/some.toml": LEAST.encode()}, tmp_path).find("some")
    runtime = AgentRuntime(known, AgentOptions(PermissionMode.PLAN), {"PATH": "/usr/bin:/bin", "HOME": "/home/u"})
    request = RuntimeSuite().request_for(tmp_path)
    session = "11111111-1111-4111-8111-111111111111"
    launch = runtime.command(msgspec.structs.replace(request, session_id=session))
    orders = msgspec.json.decode(launch.argv[-1], type=Orders)
    assert orders.argv[-2:] == ("--resume", session)
    option, servers = orders.argv[3:5]
    assert option == "--mcp-config"
    assert json.loads(servers)["mcpServers"]["agent_mailer"]["command"] == request.tools.argv[0]
    assert "--resume" not in msgspec.json.decode(runtime.command(request).argv[-1], type=Orders).argv
    (tmp_path / "err").write_text("nothing known")
    ended = Evidence(Observation(), Exit(status=42), tmp_path / "out", tmp_path / "err", resume=session)
    assert runtime.judge(ended).outcome is Outcome.SESSION_LOST
    assert runtime.judge(msgspec.structs.replace(ended, exit=Exit(status=1))).outcome is Outcome.FAILED
    # Of a new session none was lost.
    assert runtime.judge(msgspec.structs.replace(ended, resume=None)).outcome is Outcome.FAILED


def test_who_asks_nobody_starts_no_turn_in_which_a_person_is_to_be_asked(tmp_path: Path) -> None:
    known = Shelf({"agents/some.toml": LEAST.encode()}, tmp_path).find("some")
    runtime = AgentRuntime(known, AgentOptions(PermissionMode.PLAN), {"PATH": "/usr/bin:/bin", "HOME": "/home/u"})
    request = RuntimeSuite().request_for(tmp_path)
    with pytest.raises(RuntimeMissing, match="asks nobody"):
        runtime.command(msgspec.structs.replace(request, asking=Asking(("hook",))))
