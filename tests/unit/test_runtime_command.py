from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent_mailer.errors import ConfigFault
from agent_mailer.outcomes import MOST_OPEN, Exit, Judgement, Outcome
from agent_mailer.process.holder import HOLDER
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import (
    FINAL_TEXT_LIMIT,
    CommandOutput,
    Event,
    Evidence,
    Observation,
    Progress,
    Result,
    RuntimeMissing,
    SessionStarted,
    ToolEnded,
    ToolServer,
    ToolStarted,
    TurnRequest,
    Usage,
)
from agent_mailer.runtimes.programs import build_env
from agent_mailer.testing.runtime_suite import RuntimeSuite

ENV = {"PATH": "/usr/bin:/bin", "HOME": "/home/somebody"}


def runtime(output: CommandOutput = CommandOutput.JSONL, *command: str, **env: str) -> CommandRuntime:
    return CommandRuntime(command or ("sh",), output, ENV | env)


def request_in(
    folder: Path, session_id: str | None = None, project_dir: Path | None = None, attempt: int = 2
) -> TurnRequest:
    return TurnRequest(
        turn_id="t1",
        turn_dir=folder / "turn",
        workdir=folder,
        project_dir=project_dir,
        message_id="m1",
        thread_id="th1",
        sender="alice",
        attempt=attempt,
        session_id=session_id,
        tools=ToolServer(("/bin/true",), {}),
    )


class TestTextSuite(RuntimeSuite):
    @pytest.fixture
    def runtime(self) -> CommandRuntime:
        return runtime(CommandOutput.TEXT)


class TestJsonlSuite(RuntimeSuite):
    @pytest.fixture
    def runtime(self) -> CommandRuntime:
        return runtime(CommandOutput.JSONL)

    def sample_lines(self) -> list[bytes]:
        return [
            b'{"type":"progress","text":"reading","tool":"Bash"}',
            b'{"type":"tool_start","id":"1","name":"Bash","detail":"ls"}',
            b'{"type":"tool_end","id":"1"}',
            b'{"type":"session","id":"abc-1"}',
            b'{"type":"usage","input_tokens":10,"output_tokens":2,"cost_usd":0.25}',
            b'{"type":"result","outcome":"limited","text":"t","detail":"d","retry_at":"2030-01-01T00:00:00Z"}',
        ]


@pytest.mark.parametrize(
    ("line", "events"),
    [
        ({"type": "progress", "text": "reading"}, [Progress("reading")]),
        ({"type": "progress", "text": "ls", "tool": "Bash"}, [Progress("Bash: ls")]),
        ({"type": "progress", "tool": "Bash"}, [Progress("Bash")]),
        ({"type": "progress"}, []),
        ({"type": "progress", "text": ["x"]}, []),
        ({"type": "progress", "text": "x" * 5000}, [Progress("x" * 1000)]),
        ({"type": "tool_start", "id": "1", "name": "Bash"}, [ToolStarted("1", "Bash")]),
        ({"type": "tool_start", "id": "1", "name": 5, "detail": "ls"}, [ToolStarted("1", "", "ls")]),
        ({"type": "tool_start", "id": 1, "name": "Bash"}, []),
        ({"type": "tool_start", "id": "x" * 300, "name": "B"}, [ToolStarted("x" * 200, "B")]),
        ({"type": "tool_end", "id": "x" * 300}, [ToolEnded("x" * 200)]),
        ({"type": "tool_end"}, []),
        ({"type": "session", "id": "0199-Ab.c_d:e"}, [SessionStarted("0199-Ab.c_d:e")]),
        ({"type": "session", "id": "s", "model": "large"}, [SessionStarted("s", "large")]),
        ({"type": "session", "id": "a" * 200}, [SessionStarted("a" * 200)]),
        ({"type": "session", "id": "a" * 201}, []),
        ({"type": "session", "id": "--resume"}, []),
        ({"type": "session", "id": "../etc"}, []),
        ({"type": "session", "id": "a b"}, []),
        ({"type": "session", "id": "a\n"}, []),
        ({"type": "session", "id": ""}, []),
        ({"type": "session", "id": 5}, []),
        ({"type": "usage", "input_tokens": 3, "output_tokens": 4, "cost_usd": 0.5}, [Usage(3, 4, 0.5)]),
        ({"type": "usage", "input_tokens": "3", "output_tokens": True, "cost_usd": -1}, [Usage()]),
        ({"type": "usage", "input_tokens": 3.9, "cost_usd": 2}, [Usage(3, 0, 2.0)]),
        ({"type": "result", "text": "answer\n\n"}, [Result(Outcome.DONE, "answer")]),
        ({"type": "result", "outcome": None}, [Result(Outcome.DONE)]),
        ({"type": "result", "text": 17}, [Result(Outcome.DONE, "17")]),
        ({"type": "result", "text": {"answer": ["ä"]}}, [Result(Outcome.DONE, '{"answer":["ä"]}')]),
        ({"type": "result", "outcome": "blocked", "text": "which?"}, [Result(Outcome.BLOCKED, "which?")]),
        ({"type": "result", "outcome": "limited", "retry_at": 1900000000}, [Result(Outcome.LIMITED, "", "", 1.9e9)]),
        (
            {"type": "result", "outcome": "limited", "retry_at": "2030-03-17T17:46:40Z"},
            [Result(Outcome.LIMITED, "", "", 1.9e9)],
        ),
        ({"type": "result", "outcome": "limited", "retry_at": "soon"}, [Result(Outcome.LIMITED)]),
        ({"type": "result", "outcome": "limited", "retry_at": True}, [Result(Outcome.LIMITED)]),
        ({"type": "result", "outcome": "limited", "retry_at": -5}, [Result(Outcome.LIMITED)]),
        ({"type": "result", "outcome": "failed", "detail": "a\nb"}, [Result(Outcome.FAILED, "", "a\\nb")]),
        ({"type": "result", "text": 5, "detail": []}, [Result(Outcome.DONE, "5")]),
        ({"type": "result", "outcome": "signed_out"}, [Result(Outcome.SIGNED_OUT)]),
        ({"type": "result", "outcome": "unavailable"}, [Result(Outcome.UNAVAILABLE)]),
        ({"type": "result", "outcome": "session_lost"}, [Result(Outcome.SESSION_LOST)]),
        ({"type": "later", "text": "x"}, []),
        ({"text": "x"}, []),
        (["progress"], []),
    ],
)
def test_what_a_line_says(line: object, events: list[Event]) -> None:
    assert list(runtime().parse(json.dumps(line).encode())) == events


@pytest.mark.parametrize(
    "outcome", ["error", "DONE", "", "interrupted", "crashed", "timed_out", 5, ["done"], {}, False]
)
def test_an_outcome_that_is_none_of_ours_is_a_failure(outcome: object) -> None:
    line = json.dumps({"type": "result", "outcome": outcome, "text": "x"}).encode()
    (event,) = runtime().parse(line)
    assert isinstance(event, Result)
    assert event.outcome is Outcome.FAILED
    assert event.detail


def test_of_tools_that_are_opened_without_end_some_are_known_and_their_ends_make_room() -> None:
    seen = Observation()
    for number in range(2 * MOST_OPEN):
        seen.add(ToolStarted(str(number), "Bash"))
    assert len(seen.open_tools) == MOST_OPEN
    seen.add(ToolStarted("0", "Read"))
    assert seen.open_tools["0"].name == "Read"
    seen.add(ToolEnded("1"))
    seen.add(ToolStarted("more", "Bash"))
    assert list(seen.open_tools)[-1] == "more"


def test_text_has_no_events() -> None:
    assert list(runtime(CommandOutput.TEXT).parse(b'{"type":"result","text":"x"}')) == []


def judge(
    folder: Path,
    output: CommandOutput,
    end: Exit,
    stdout: bytes = b"",
    stderr: bytes = b"",
    result: Result | None = None,
) -> Judgement:
    (folder / "stdout").write_bytes(stdout)
    (folder / "stderr").write_bytes(stderr)
    observation = Observation(result=result)
    evidence = Evidence(observation, end, folder / "stdout", folder / "stderr", resume=None)
    return runtime(output).judge(evidence)


TEXT, JSONL = CommandOutput.TEXT, CommandOutput.JSONL


@pytest.mark.parametrize(
    ("output", "end", "expected"),
    [
        (TEXT, Exit(status=0), Judgement(Outcome.DONE, final_text="  line one\nline two")),
        (TEXT, Exit(status=3), Judgement(Outcome.FAILED, "the last \\x1b[31mwords")),
        (TEXT, Exit(signal=9), Judgement(Outcome.CRASHED, "killed by SIGKILL")),
        (TEXT, Exit(signal=63), Judgement(Outcome.CRASHED, "killed by signal 63")),
        (TEXT, Exit(), Judgement(Outcome.CRASHED, "ended without a record of how")),
        (JSONL, Exit(status=0), Judgement(Outcome.FAILED, "ended without a result")),
        (JSONL, Exit(status=3), Judgement(Outcome.FAILED, "the last \\x1b[31mwords")),
        (JSONL, Exit(signal=15), Judgement(Outcome.CRASHED, "killed by SIGTERM")),
        (JSONL, Exit(), Judgement(Outcome.CRASHED, "ended without a record of how")),
    ],
)
def test_how_a_turn_without_a_result_ended(
    tmp_path: Path, output: CommandOutput, end: Exit, expected: Judgement
) -> None:
    stdout, stderr = b"  line one\nline two \n\n\t\n", b"first\nthe last \x1b[31mwords\n  \n"
    assert judge(tmp_path, output, end, stdout, stderr) == expected


@pytest.mark.parametrize("output", CommandOutput)
@pytest.mark.parametrize("status", [126, 127, 125, 128])
def test_a_program_that_was_executed_is_to_blame_for_its_own_status(
    tmp_path: Path, output: CommandOutput, status: int
) -> None:
    """Who says with it that nothing was executed is the shell of whoever held the turn, and it says so by its name."""
    own = f"/opt/agent: line 3: exec: frob: not found, says {HOLDER}: no"
    assert judge(tmp_path, output, Exit(status=status), stderr=own.encode()) == Judgement(Outcome.FAILED, own)
    held = judge(tmp_path, output, Exit(status=status), stderr=f"{HOLDER}: 1: exec: /opt/agent: not found".encode())
    assert held.outcome is (Outcome.UNAVAILABLE if status in (126, 127) else Outcome.FAILED)
    assert held.detail.endswith("/opt/agent: not found")


@pytest.mark.parametrize("instead", ["nothing", "a link", "a folder", "a fifo"])
def test_an_answer_that_cannot_be_read_is_no_empty_one(tmp_path: Path, instead: str) -> None:
    """The agent may put anything in the place of what it has written."""
    stdout = tmp_path / "stdout"
    if instead == "a link":
        (tmp_path / "elsewhere").write_text("the answer")
        stdout.symlink_to("elsewhere")
    elif instead == "a folder":
        stdout.mkdir()
    elif instead == "a fifo":
        os.mkfifo(stdout)
    evidence = Evidence(Observation(), Exit(status=0), stdout, tmp_path / "stderr", resume=None)
    judgement = runtime(TEXT).judge(evidence)
    assert (judgement.outcome, judgement.final_text) == (Outcome.FAILED, "")
    assert "cannot be read" in judgement.detail


def test_a_failure_without_words_names_its_status(tmp_path: Path) -> None:
    assert judge(tmp_path, TEXT, Exit(status=3)).detail == "exit status 3"


def test_a_result_is_the_last_word_with_all_it_says(tmp_path: Path) -> None:
    result = Result(Outcome.LIMITED, "so far", "quota", 5.0)
    expected = Judgement(Outcome.LIMITED, "quota", "so far", 5.0)
    for end in (Exit(status=0), Exit(status=1), Exit(signal=15), Exit()):
        assert judge(tmp_path, JSONL, end, result=result) == expected


def test_the_final_text_is_the_end_of_the_output(tmp_path: Path) -> None:
    judgement = judge(tmp_path, TEXT, Exit(status=0), b"start" + b"x" * FINAL_TEXT_LIMIT + b"\xff end\n")
    assert len(judgement.final_text.encode()) <= FINAL_TEXT_LIMIT + 2
    assert judgement.final_text.startswith(f"[cut: the last of {FINAL_TEXT_LIMIT + 11} bytes; the whole is in")
    assert "[cut" not in judge(tmp_path, TEXT, Exit(status=0), b"x" * FINAL_TEXT_LIMIT).final_text
    assert judgement.final_text.endswith("x\ufffd end")
    assert "start" not in judgement.final_text


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_program_is_found_in_the_path_of_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = program(tmp_path / "ours" / "agent"), program(tmp_path / "theirs" / "agent")
    monkeypatch.setenv("PATH", str(ours.parent))
    launch = runtime(TEXT, "agent", "--flag", "a b", PATH=f"/nonexistent:{theirs.parent}").command(request_in(tmp_path))
    assert launch.argv == (str(theirs), "--flag", "a b")
    assert launch.cwd == tmp_path


@pytest.mark.parametrize("name", ["./bin/agent", "bin/agent", "{}/bin/agent"])
def test_a_program_with_a_slash_is_found_from_the_workdir(tmp_path: Path, name: str) -> None:
    program(tmp_path / "bin" / "agent")
    launch = runtime(TEXT, name.format(tmp_path)).command(request_in(tmp_path))
    assert Path(launch.argv[0]) == tmp_path / "bin" / "agent"


def test_a_relative_path_entry_gives_an_absolute_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "agent")
    monkeypatch.chdir(tmp_path)
    launch = runtime(TEXT, "agent", PATH="bin").command(request_in(tmp_path))
    assert launch.argv[0] == str(tmp_path / "bin" / "agent")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("nothing-of-the-kind", "runtime_missing"),
        ("./nothing", "runtime_missing"),
        ("./dangling", "runtime_missing"),
        ("", "runtime_missing"),
        ("./folder", "runtime_is_directory"),
        ("/dev/null", "runtime_is_directory"),
        ("./plain", "runtime_not_executable"),
        ("plain", "runtime_not_executable"),
    ],
)
def test_a_program_that_cannot_be_run_says_what_mends_it(tmp_path: Path, command: str, code: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    program(tmp_path / "plain", 0o644)
    with pytest.raises(RuntimeMissing) as caught:
        runtime(TEXT, command, PATH=str(tmp_path)).command(request_in(tmp_path))
    assert caught.value.code == code
    assert caught.value.fix


@pytest.mark.parametrize(
    ("first", "lacks"),
    [
        ("#!/nowhere/python -u", "/nowhere/python"),
        ("#! gone/bin/sh", "gone/bin/sh"),
        ("#!/bin/sh\r", "/bin/sh"),
        ("#!/usr/bin/env no-such-node", "no-such-node in PATH"),
        ("#!/usr/bin/env -S no-such-node --flag", "no-such-node in PATH"),
        ("#!/bin/sh", ""),
        ("#!/usr/bin/env sh", ""),
        ("#!/usr/bin/env -S sh -e", ""),
        ("#!/usr/bin/env -i no-such-node", ""),
        ("#!", ""),
        ("echo no line of that kind", ""),
    ],
)
def test_a_script_needs_what_its_first_line_names(tmp_path: Path, first: str, lacks: str) -> None:
    script = tmp_path / "agent"
    script.write_text(f"{first}\necho hello\n", newline="")
    script.chmod(0o755)
    wanted = runtime(TEXT, "./agent", PATH="/usr/bin:/bin")
    if not lacks:
        assert wanted.command(request_in(tmp_path)).argv[0] == str(script)
        return
    with pytest.raises(RuntimeMissing) as caught:
        wanted.command(request_in(tmp_path))
    assert (caught.value.code, lacks in caught.value.message) == ("interpreter_missing", True)
    assert caught.value.message.isprintable()
    assert str(script) in caught.value.fix


def test_no_command_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing):
        CommandRuntime((), TEXT, ENV).command(request_in(tmp_path))


def test_the_variables_of_a_turn(tmp_path: Path) -> None:
    launch = runtime().command(request_in(tmp_path, "s-1", tmp_path / "project"))
    assert launch.env == ENV | {
        "AGENT_MAILER_WORKDIR": str(tmp_path),
        "AGENT_MAILER_TURN_ID": "t1",
        "AGENT_MAILER_TURN_DIR": str(tmp_path / "turn"),
        "AGENT_MAILER_MESSAGE_ID": "m1",
        "AGENT_MAILER_THREAD_ID": "th1",
        "AGENT_MAILER_FROM": "alice",
        "AGENT_MAILER_ATTEMPT": "2",
        "AGENT_MAILER_SESSION_ID": "s-1",
        "AGENT_MAILER_PROJECT_DIR": str(tmp_path / "project"),
    }


def test_variables_with_nothing_to_say_are_not_set(tmp_path: Path) -> None:
    env = runtime().command(request_in(tmp_path)).env
    assert "AGENT_MAILER_SESSION_ID" not in env
    assert "AGENT_MAILER_PROJECT_DIR" not in env
    assert "AGENT_MAILER_SESSION_ID" not in runtime(TEXT).command(request_in(tmp_path, "s-1")).env


def test_only_typed_output_has_sessions_and_silence() -> None:
    assert (runtime(JSONL).traits.resumes, runtime(JSONL).traits.has_events) == (True, True)
    assert (runtime(TEXT).traits.resumes, runtime(TEXT).traits.has_events) == (False, False)


ENVIRON = {
    "HOME": "/h",
    "PATH": "/bin",
    "LC_ALL": "C",
    "XDG_CONFIG_HOME": "/x",
    "TERM": "xterm",
    "AGENT_MAILER_API_KEY": "key",
    "AGENT_MAILER_TURN_ID": "the parent's",
    "ANTHROPIC_API_KEY": "sk",
    "CLAUDECODE": "1",
    "CLAUDE_CONFIG_DIR": "/c",
    "CODEX_HOME": "/d",
    "AM_ME": "x",
    "LD_PRELOAD": "x",
    "HOMEPAGE": "x",
    "BASH_FUNC_x%%": "() { :; }",
    "LC_odd-name": "x",
}
BASICS = {"HOME": "/h", "PATH": "/bin", "LC_ALL": "C", "XDG_CONFIG_HOME": "/x", "TERM": "xterm"}


@pytest.mark.parametrize(
    ("names", "values", "more"),
    [
        ([], {}, {}),
        (["ANTHROPIC_API_KEY", "NOT_SET"], {}, {"ANTHROPIC_API_KEY": "sk"}),
        (["CODEX_HOME"], {}, {"CODEX_HOME": "/d"}),
        (["AGENT_MAILER_API_KEY"], {"AGENT_MAILER_TURN_ID": "x"}, {}),
        ([], {"PATH": "/usr/bin", "NEW": ""}, {"PATH": "/usr/bin", "NEW": ""}),
        (["CODEX_HOME"], {"CODEX_HOME": "/e"}, {"CODEX_HOME": "/e"}),
    ],
)
def test_what_the_agent_may_see(names: list[str], values: dict[str, str], more: dict[str, str]) -> None:
    assert build_env(ENVIRON, names, values) == BASICS | more


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["a b"], {}),
        (["A=B"], {}),
        ([""], {}),
        ([], {"1A": "x"}),
        ([], {"A": "x\0y"}),
        ([], {"A\n": "x"}),
        (["FINE", "a b"], {}),
        (["FINE"], {"A B": "x"}),
        ([], {"FINE": "x", "A": "x\0y"}),
    ],
)
def test_what_no_environment_can_carry(names: list[str], values: dict[str, str]) -> None:
    with pytest.raises(ConfigFault):
        build_env(ENVIRON, names, values)
