"""The adapter of Claude Code: recorded streams, the table of its failures, what it is started with."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.agent_clis import VERSIONS as PINS

from agent_mailer.assemble import Workplace
from agent_mailer.config import RuntimeKind
from agent_mailer.config_values import check_value, parse_value
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.outcomes import Exit, Judgement, Outcome
from agent_mailer.runtimes.claude.adapter import ClaudeOptions, ClaudeRuntime
from agent_mailer.runtimes.claude.lines import WAYS
from agent_mailer.runtimes.port import (
    Doomed,
    Evidence,
    Launch,
    Observation,
    PermissionMode,
    Probe,
    Progress,
    Runtime,
    RuntimeMissing,
    SessionStarted,
    ToolEnded,
    ToolServer,
    ToolStarted,
    Trouble,
    TurnRequest,
    Usage,
)
from agent_mailer.testing.runtime_suite import RuntimeSuite

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "claude"
VERSIONS = sorted(path.name for path in RECORDED.iterdir())
PINNED = PINS["claude"]
SECRET = "sk-a-secret-that-nobody-may-see"


def cases() -> Iterator[Any]:
    for version in VERSIONS:
        for name, case in json.loads((RECORDED / version / "cases.json").read_text("utf-8")).items():
            yield pytest.param(RECORDED / version / f"{name}.jsonl", case, id=f"{version}-{name}")


def make(folder: Path, mode: str = "acceptEdits", *, env: dict[str, str] | None = None, **chosen: Any) -> ClaudeRuntime:
    program = folder / "claude"
    if not program.exists():
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    chosen.setdefault("tools", ("default",))
    base = {"HOME": str(folder), "PATH": "/usr/bin:/bin", **(env or {})}
    return ClaudeRuntime(str(program), ClaudeOptions(PermissionMode(mode), **chosen), base, is_root=False)


def request(folder: Path, **changed: Any) -> TurnRequest:
    values: dict[str, Any] = {
        "turn_id": "turn-1",
        "turn_dir": folder,
        "workdir": folder,
        "project_dir": None,
        "message_id": "m-1",
        "thread_id": "t-1",
        "sender": "user",
        "attempt": 1,
        "session_id": None,
        "tools": ToolServer(("/usr/bin/python3", "-m", "tools", str(folder)), {"A": "b"}),
    }
    return TurnRequest(**(values | changed))


def observe(runtime: Runtime, *lines: bytes | dict[str, Any]) -> Observation:
    observation = Observation()
    for line in lines:
        for event in runtime.parse(line if isinstance(line, bytes) else json.dumps(line).encode()):
            observation.add(event)
    return observation


def judged(
    runtime: Runtime,
    folder: Path,
    *lines: bytes | dict[str, Any],
    status: int | None = 1,
    signal: int | None = None,
    stderr: str = "",
    resume: str | None = None,
) -> Judgement:
    (folder / "stderr").write_text(stderr)
    end = Exit(status=status if signal is None else None, signal=signal)
    evidence = Evidence(observe(runtime, *lines), end, folder / "stdout", folder / "stderr", resume)
    return runtime.judge(evidence)


def failed(**fields: Any) -> dict[str, Any]:
    """A result as claude prints it after a failure."""
    plain: dict[str, Any] = {"type": "result", "subtype": "success", "is_error": True, "num_turns": 1}
    return plain | {"api_error_status": None, "result": "words", "terminal_reason": "api_error"} | fields


def unfinished(**fields: Any) -> dict[str, Any]:
    return failed(subtype="error_during_execution", result=None, **fields)


def complaint(error: str, text: str = "words", **fields: Any) -> dict[str, Any]:
    """The message of claude itself that comes before such a result."""
    message = {"model": "<synthetic>", "content": [{"type": "text", "text": text}]}
    return {"type": "assistant", "message": message, "parent_tool_use_id": None, "error": error} | fields


def succeeded(text: str = "the answer", **fields: Any) -> dict[str, Any]:
    return {"result": text, "is_error": False, "subtype": "success", "type": "result"} | fields


class TestClaudeRuntime(RuntimeSuite):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        return make(tmp_path)

    def sample_lines(self) -> list[bytes]:
        names = ["answer", "401", "usage-limit", "denied", "session-lost"]
        lines = [
            line for name in names for line in (RECORDED / VERSIONS[-1] / f"{name}.jsonl").read_bytes().splitlines()
        ]
        return [line for line in lines if b'"stream_event"' not in line]


@pytest.mark.parametrize(("stream", "case"), list(cases()))
def test_a_recorded_turn_gets_its_outcome(stream: Path, case: dict[str, Any], tmp_path: Path) -> None:
    runtime = make(tmp_path)
    lines = stream.read_bytes().splitlines()
    seen = observe(runtime, *lines)
    judgement = judged(
        runtime,
        tmp_path,
        *lines,
        status=case.get("status"),
        signal=case.get("signal"),
        stderr=case.get("stderr", ""),
        resume=case.get("resume"),
    )
    assert judgement.outcome == case["outcome"]
    assert judgement.detail == case.get("detail", "")
    assert judgement.final_text == case.get("final_text", "")
    assert judgement.retry_at == case.get("retry_at")
    assert seen.worked == case["worked"]
    assert (seen.doomed.outcome if seen.doomed else None) == case.get("doomed")
    assert (seen.usage.cost_usd if seen.usage else None) == case.get("cost_usd")
    assert (seen.usage.of_session if seen.usage else None) == case.get("of_session")
    assert not seen.open_tools
    if not case.get("stderr", "").startswith(("error:", "Error:", "No conversation")):
        assert seen.session_id
    # A stream that is cut anywhere before its result is never done.
    ends = [at for at, line in enumerate(lines) if b'"type":"result"' in line]
    assert not judged(runtime, tmp_path, *lines[: ends[0] if ends else None], status=0).outcome.settles


# Rows of what was measured: the complaint, the result, the outcome on a fresh session, on a resumed one.
FAILURES = [
    (complaint("authentication_failed", api_error_status=401), failed(api_error_status=401), "signed_out", None),
    (complaint("authentication_failed", api_error_status=403), failed(api_error_status=403), "signed_out", None),
    (complaint("billing_error", api_error_status=402), failed(api_error_status=402), "signed_out", None),
    (complaint("billing_error", api_error_status=400), failed(api_error_status=400), "signed_out", None),
    (complaint("oauth_org_not_allowed"), failed(), "signed_out", None),
    (complaint("account_on_hold"), failed(), "signed_out", None),
    (complaint("verification_required"), failed(), "signed_out", None),
    (complaint("cloud_credential_error"), failed(), "signed_out", None),
    (None, failed(result="Not logged in · Please run /login"), "signed_out", None),
    (complaint("rate_limit", api_error_status=429), failed(api_error_status=429), "limited", None),
    (None, failed(api_error_status=429, api_error="usage_limit_reached"), "limited", None),
    (complaint("server_error", api_error_status=529), failed(api_error_status=529), "limited", None),
    (None, failed(result="API Error: Repeated 529 Overloaded errors."), "limited", None),
    (complaint("server_error", api_error_status=500), failed(api_error_status=500), "unavailable", None),
    (None, failed(api_error_status=503), "unavailable", None),
    (None, failed(api_error_status=408), "unavailable", None),
    (None, failed(api_error="connection_failed"), "unavailable", None),
    (complaint("server_error"), failed(result="something new"), "unavailable", None),
    (None, failed(api_error="stream_idle_timeout"), "unavailable", None),
    (None, failed(api_error="network_edge_blocked", api_error_status=403), "unavailable", None),
    (None, failed(result="Request timed out. If the API is slow"), "unavailable", None),
    (complaint("unknown"), failed(result="API Error: Stream ended without receiving any events"), "unavailable", None),
    (None, failed(result="API Error: Unable to connect to API (ConnectionRefused)"), "unavailable", None),
    (complaint("model_not_found", api_error_status=404), failed(api_error_status=404), "unavailable", None),
    (complaint("unknown", api_error_status=400), failed(api_error_status=400), "failed", "session_lost"),
    (None, failed(terminal_reason="prompt_too_long", api_error_status=400), "failed", "session_lost"),
    (None, failed(terminal_reason="blocking_limit"), "failed", "session_lost"),
    (None, failed(terminal_reason="image_error", api_error_status=413), "failed", "session_lost"),
    (None, unfinished(errors=["No conversation found with session ID: x"]), "failed", "session_lost"),
    (complaint("invalid_request", stop_reason="refusal"), failed(stop_reason="refusal"), "failed", None),
    (complaint("max_output_tokens"), failed(api_error="max_output_tokens"), "failed", None),
    (None, failed(subtype="error_max_turns", terminal_reason="max_turns"), "failed", None),
    (None, failed(subtype="error_max_budget_usd", terminal_reason="budget_exhausted"), "failed", None),
    (None, unfinished(terminal_reason="completed", errors=["[ede]"]), "failed", None),
    (None, unfinished(terminal_reason="aborted_tools"), "interrupted", None),
    (None, unfinished(terminal_reason="tool_deferred_unavailable"), "unavailable", None),
    (None, succeeded("", stop_reason="tool_deferred"), "asked", None),
    (complaint("a new kind"), failed(terminal_reason="a new reason"), "failed", None),
]  # fmt: skip


@pytest.mark.parametrize(("before", "result", "fresh", "resumed"), FAILURES)
def test_what_a_failure_comes_to(
    before: dict[str, Any] | None, result: dict[str, Any], fresh: str, resumed: str | None, tmp_path: Path
) -> None:
    lines = [line for line in (before, result) if line is not None]
    runtime = make(tmp_path)
    assert judged(runtime, tmp_path, *lines).outcome == fresh
    assert judged(runtime, tmp_path, *lines, resume="s").outcome == (resumed or fresh)
    # The exit status changes nothing, and neither does what claude prints in the end on stderr.
    assert judged(runtime, tmp_path, *lines, status=0, stderr="error: unknown option '--x'\n").outcome == fresh


@pytest.mark.parametrize(
    ("stderr", "status", "fresh", "resumed"),
    [
        ("", 0, "failed", "failed"),
        ("", 1, "failed", "failed"),
        ("something else\n", 1, "failed", "failed"),
        ("No conversation found with session ID: x\n", 1, "failed", "session_lost"),
        ("Error: Session ID x is already in use.\n", 1, "failed", "session_lost"),
        ("error: unknown option '--x'\n", 1, "unavailable", "unavailable"),
        ("error: option '--permission-mode <m>' argument 'x' is invalid.\n", 1, "unavailable", "unavailable"),
        ("Error: Invalid MCP configuration:\nfile not found\n", 1, "unavailable", "unavailable"),
        ("--dangerously-skip-permissions cannot be used with root/sudo privileges\n", 1, "unavailable", "unavailable"),
        ("sh: 1: exec: claude: Exec format error\n", 126, "unavailable", "unavailable"),
        ("[claude-code:unrecognized_model] {}\nwarning\n", 1, "failed", "failed"),
    ],
)
def test_an_end_without_a_result(stderr: str, status: int, fresh: str, resumed: str, tmp_path: Path) -> None:
    runtime = make(tmp_path)
    assert judged(runtime, tmp_path, status=status, stderr=stderr).outcome == fresh
    assert judged(runtime, tmp_path, status=status, stderr=stderr, resume="x").outcome == resumed


@pytest.mark.parametrize("status", [0, 1])
def test_what_was_complained_of_is_the_end_where_no_result_follows(status: int, tmp_path: Path) -> None:
    """However it ends: a limit costs no attempt."""
    event = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1795235005}}
    judgement = judged(make(tmp_path), tmp_path, event, complaint("rate_limit", api_error_status=429), status=status)
    assert (judgement.outcome, judgement.retry_at) == (Outcome.LIMITED, 1795235005.0)


@pytest.mark.parametrize("number", [1, 6, 9, 11, 15])
def test_killed_by_a_signal_is_a_crash_whatever_was_complained_of_before(number: int, tmp_path: Path) -> None:
    retry = {"type": "system", "subtype": "api_retry", "error": "overloaded", "error_status": 529}
    assert judged(make(tmp_path), tmp_path, retry, signal=number).outcome is Outcome.CRASHED


def test_the_reset_time_comes_from_the_event_and_survives_the_complaint(tmp_path: Path) -> None:
    event = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1795235005}}
    lines = [event, complaint("rate_limit", api_error_status=429), failed(api_error_status=429)]
    judgement = judged(make(tmp_path), tmp_path, *lines)
    assert (judgement.outcome, judgement.retry_at) == (Outcome.LIMITED, 1795235005.0)


@pytest.mark.parametrize("is_error", [True, False, None])
@pytest.mark.parametrize("moment", [1795235005, 1795235005000])
def test_a_limit_in_the_words_of_older_versions(moment: int, *, is_error: bool | None, tmp_path: Path) -> None:
    words = f"Claude AI usage limit reached|{moment}"
    wanted = Judgement(Outcome.LIMITED, "Claude AI usage limit reached", retry_at=1795235005.0)
    result = {"type": "result", "subtype": "success", "is_error": is_error, "result": words}
    runtime = make(tmp_path)
    assert judged(runtime, tmp_path, result) == wanted
    # Or on a line of its own, or on stderr, and nothing else comes.
    seen = Observation()
    for event in runtime.parse(words.encode()):
        seen.add(event)
    assert seen.trouble == Trouble(Outcome.LIMITED, "Claude AI usage limit reached", 1795235005.0)
    on_stderr = judged(runtime, tmp_path, stderr=f"{words}\n", status=1)
    assert (on_stderr.outcome, on_stderr.retry_at) == (Outcome.LIMITED, 1795235005.0)


def test_an_agent_that_writes_of_a_limit_has_met_none(tmp_path: Path) -> None:
    said = "The log says: Claude AI usage limit reached|1795235005"
    result = {"type": "result", "subtype": "success", "is_error": False, "result": said}
    assert judged(make(tmp_path), tmp_path, result) == Judgement(Outcome.DONE, final_text=said)


def test_what_could_not_start_is_not_the_messages_fault(tmp_path: Path) -> None:
    judgement = judged(make(tmp_path), tmp_path, stderr="Claude Code could not start: no sandbox\n", status=1)
    assert judgement == Judgement(Outcome.UNAVAILABLE, "Claude Code could not start: no sandbox")


@pytest.mark.parametrize(("status", "noticed"), [("stopped", True), ("killed", True), ("completed", False)])
def test_a_task_that_was_stopped_before_a_success_is_noticed(status: str, *, noticed: bool, tmp_path: Path) -> None:
    notice = {
        "type": "system",
        "subtype": "task_notification",
        "task_id": "t",
        "status": status,
        "summary": "the build",
    }
    result = {"type": "result", "subtype": "success", "is_error": False, "result": "all built"}
    judgement = judged(make(tmp_path), tmp_path, notice, result)
    assert (judgement.outcome, judgement.final_text) == (Outcome.DONE, "all built")
    assert judgement.detail == ("a task in the background was stopped before its end: the build" if noticed else "")


@pytest.mark.parametrize(
    "info",
    [
        {"status": "allowed", "resetsAt": 1795235005},
        {"status": "allowed_warning", "resetsAt": 1795235005},
        {"status": "rejected", "resetsAt": 1795235005, "isUsingOverage": True},
        {},
    ],
)
def test_an_early_warning_is_no_limit(info: dict[str, Any], tmp_path: Path) -> None:
    assert observe(make(tmp_path), {"type": "rate_limit_event", "rate_limit_info": info}).trouble is None


def test_an_old_complaint_does_not_explain_a_failure_of_another_kind(tmp_path: Path) -> None:
    retry = {"type": "system", "subtype": "api_retry", "error": "overloaded", "error_status": 529}
    result = failed(subtype="error_max_turns", terminal_reason="max_turns", errors=["Reached maximum"])
    assert judged(make(tmp_path), tmp_path, retry, result).outcome is Outcome.FAILED


def test_trying_again_is_no_work(tmp_path: Path) -> None:
    """A turn that met an outage before its first answer has cost nothing and is not counted as a start."""
    runtime = make(tmp_path)
    init = {"type": "system", "subtype": "init", "session_id": "s", "tools": [], "mcp_servers": []}
    retry = {"type": "system", "subtype": "api_retry", "error": "server_error", "error_status": 500}
    seen = observe(runtime, init, retry, complaint("server_error", api_error_status=500), failed(api_error_status=500))
    assert not seen.worked
    assert seen.trouble is not None
    assert seen.trouble.outcome is Outcome.UNAVAILABLE


def test_the_last_result_counts(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    assert judged(runtime, tmp_path, succeeded("one"), succeeded("two")).final_text == "two"
    assert judged(runtime, tmp_path, succeeded("one"), failed(api_error_status=500)).outcome is Outcome.UNAVAILABLE


def test_a_result_without_error_is_done_whatever_the_exit_and_the_subtype(tmp_path: Path) -> None:
    for status in (0, 1, 143):
        judgement = judged(make(tmp_path), tmp_path, succeeded("ok", subtype="error_new"), status=status)
        assert (judgement.outcome, judgement.final_text) == (Outcome.DONE, "ok")
    no_word_of_it = {"type": "result", "subtype": "success", "result": "ok"}
    assert judged(make(tmp_path), tmp_path, no_word_of_it, status=0).outcome is Outcome.FAILED


def test_denied_tools_block_only_an_agent_that_said_nothing(tmp_path: Path) -> None:
    denials = [{"tool_name": "Bash", "tool_use_id": "1"}, {"tool_name": "Write"}, {"tool_name": "Bash"}, 7]
    silent = judged(make(tmp_path), tmp_path, succeeded(" \n", permission_denials=denials))
    assert (silent.outcome, silent.detail) == (Outcome.BLOCKED, f"claude was not permitted to run Bash; Write{WAYS}")
    assert judged(make(tmp_path), tmp_path, succeeded("x", permission_denials=denials)).outcome is Outcome.DONE
    assert judged(make(tmp_path), tmp_path, succeeded("", permission_denials=[])).outcome is Outcome.DONE


def test_tools_open_and_close_and_subagents_end_nothing(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    use = {"type": "tool_use", "id": "t1", "name": "Agent", "input": {"prompt": "p", "description": "look"}}
    inner = {"type": "tool_use", "id": "t2", "name": "Bash", "input": {"command": "ls"}}
    back = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
    assert observe(runtime, {"type": "assistant", "message": {"content": [use]}}).open_tools == {
        "t1": ToolStarted("t1", "Agent", "look")
    }
    started = {"type": "assistant", "message": {"content": [use]}}
    below = {"parent_tool_use_id": "t1", "session_id": "s"}
    seen = observe(
        runtime,
        started,
        {"type": "assistant", "message": {"content": [inner]}, **below},
        {"type": "user", "message": {"content": [back]}, **below},
        complaint("server_error", api_error_status=500, **below),
    )
    assert list(seen.open_tools) == ["t1"]
    assert (seen.progress, seen.trouble, seen.result) == ("Bash ls", None, None)
    assert list(runtime.parse(json.dumps({"type": "user", "message": {"content": [back]}}).encode())) == [
        ToolEnded("t1")
    ]


def test_what_a_tool_is_to_write_is_shown_nowhere(tmp_path: Path) -> None:
    written = {"file_path": "/a/b", "content": "BODY"}
    said = {"body": "BODY", "to": "planner"}
    command = {"command": "mail <<E\nBODY\nE"}
    for given, shown in ((written, "/a/b"), (said, "planner"), (command, "mail <<E")):
        use = {"type": "tool_use", "id": "t", "name": "T", "input": given}
        [event] = make(tmp_path).parse(json.dumps({"type": "assistant", "message": {"content": [use]}}).encode())
        assert event == ToolStarted("t", "T", shown)


def test_a_stream_of_one_long_answer_is_a_sign_of_life_and_nothing_else(tmp_path: Path) -> None:
    delta = {"type": "stream_event", "session_id": "s-1", "event": {"type": "content_block_delta"}}
    assert list(make(tmp_path).parse(json.dumps(delta).encode())) == [SessionStarted("s-1")]
    text = {"type": "assistant", "message": {"content": [{"type": "text", "text": "said"}, {"type": "thinking"}]}}
    assert list(make(tmp_path).parse(json.dumps(text).encode())) == [Progress("said"), Progress("thinking")]


@pytest.mark.parametrize(
    ("servers", "doomed"),
    [
        ([{"name": "agent_mailer", "status": "connected", "source": "dynamic"}], False),
        ([{"name": "agent_mailer", "status": "pending"}], False),
        ([{"name": "other", "status": "failed"}, {"name": "agent_mailer", "status": "connected"}], False),
        ([{"name": "agent_mailer", "status": "failed"}], True),
        ([{"name": "agent_mailer", "status": "needs-auth"}], True),
        ([{"name": "other", "status": "connected"}], True),
        ([], True),
        (None, False),
    ],
)
def test_a_turn_without_its_mail_tools_is_doomed(servers: object, doomed: bool, tmp_path: Path) -> None:
    line = {"type": "system", "subtype": "init", "session_id": "s-1", "tools": [], "mcp_servers": servers}
    seen = observe(make(tmp_path), line)
    assert seen.session_id == "s-1"
    assert isinstance(seen.doomed, Doomed) == doomed
    assert not doomed or (seen.doomed is not None and seen.doomed.outcome is Outcome.UNAVAILABLE)


def test_dollars_are_of_the_session_where_results_are_numbered(tmp_path: Path) -> None:
    used = {"m": {"inputTokens": 1, "cacheReadInputTokens": 2, "cacheCreationInputTokens": 4, "outputTokens": 8}}
    old = succeeded(modelUsage=used, total_cost_usd=0.5)
    assert observe(make(tmp_path), old).usage == Usage(7, 8, 0.5)
    assert observe(make(tmp_path), old | {"result_index": 0}).usage == Usage(7, 8, 0.5, of_session=True)
    assert observe(make(tmp_path), succeeded(modelUsage={}, total_cost_usd=0)).usage is None


def test_what_several_models_took_is_taken_together(tmp_path: Path) -> None:
    used = {"one": {"inputTokens": 1, "outputTokens": 8}, "two": {"inputTokens": 20, "outputTokens": 300}}
    assert observe(make(tmp_path), succeeded(modelUsage=used, total_cost_usd=0.5)).usage == Usage(21, 308, 0.5)


def test_all_results_that_come_together_end_their_tools(tmp_path: Path) -> None:
    back = [{"type": "tool_result", "tool_use_id": name, "content": "x"} for name in ("t1", "t2")]
    line = json.dumps({"type": "user", "message": {"content": back}}).encode()
    assert list(make(tmp_path).parse(line)) == [ToolEnded("t1"), ToolEnded("t2")]


def test_the_first_words_that_say_something_are_the_reason_whichever_part_they_stand_in(tmp_path: Path) -> None:
    told = complaint("server_error", api_error_status=500)
    told["message"]["content"] = [{"type": "text", "text": text} for text in ("", "\n \nit is down\nand more")]
    trouble = observe(make(tmp_path), told).trouble
    assert trouble is not None
    assert trouble.detail.startswith("it is down")
    result = observe(make(tmp_path), unfinished(errors=["", "too little of it"])).result
    assert result is not None
    assert "too little of it" in result.detail


def test_a_moment_in_milliseconds_is_understood(tmp_path: Path) -> None:
    event = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1795235005000}}
    seen = observe(make(tmp_path), event)
    assert isinstance(seen.trouble, Trouble)
    assert seen.trouble.retry_at == 1795235005.0


SESSION = "5e550001-0000-4000-8000-000000000001"


def after(launch: Launch, flag: str) -> str:
    return launch.argv[launch.argv.index(flag) + 1]


def test_a_fresh_turn_chooses_its_session_and_the_same_for_the_same_turn(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    launch = runtime.command(request(tmp_path))
    assert launch.session_id == after(launch, "--session-id") == str(uuid.UUID(launch.session_id))
    assert "--resume" not in launch.argv
    assert runtime.command(request(tmp_path)).session_id == launch.session_id
    assert runtime.command(request(tmp_path, turn_id="turn-2")).session_id != launch.session_id


def test_a_resumed_turn_names_its_session_and_chooses_none(tmp_path: Path) -> None:
    launch = make(tmp_path).command(request(tmp_path, session_id=SESSION))
    assert after(launch, "--resume") == SESSION
    assert launch.session_id is None
    assert "--session-id" not in launch.argv


@pytest.mark.parametrize(("version", "model"), [("2.1.197", "claude-opus-4-8[1m]"), ("2.1.329", "claude-opus-5-5")])
def test_it_says_which_model_answers(tmp_path: Path, version: str, model: str) -> None:
    answer = (RECORDED / version / "answer.jsonl").read_bytes().splitlines()
    assert observe(make(tmp_path), *answer).model == model


@pytest.mark.parametrize("text", ["--dangerously-skip-permissions", "the title of a session", SESSION + " -p"])
def test_what_is_no_session_of_claude_becomes_no_word_of_its_own(text: str, tmp_path: Path) -> None:
    launch = make(tmp_path).command(request(tmp_path, session_id=text))
    assert text not in launch.argv
    assert str(uuid.UUID(after(launch, "--resume"))) == after(launch, "--resume")


def test_the_command_line_of_a_turn(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"model": "m-1", "extra_args": ("--effort", "high"), "max_budget_usd": 0.0000025}
    launch = make(tmp_path, "plan", **chosen).command(request(tmp_path, project_dir=tmp_path / "project"))
    assert launch.argv[0] == str(tmp_path / "claude")
    assert launch.cwd == tmp_path
    assert {"-p", "--verbose", "--strict-mcp-config", "--include-partial-messages"} <= set(launch.argv)
    assert after(launch, "--output-format") == "stream-json"
    assert after(launch, "--permission-mode") == "plan"
    place = launch.argv.index("--add-dir")
    assert launch.argv[place + 1 : place + 3] == (str(tmp_path), str(tmp_path / "project"))
    assert after(launch, "--allowedTools") == "mcp__agent_mailer"
    assert after(launch, "--model") == "m-1"
    assert after(launch, "--max-budget-usd") == "0.0000025"
    assert launch.argv[-2:] == ("--effort", "high")
    server = json.loads(after(launch, "--mcp-config"))["mcpServers"]["agent_mailer"]
    assert [server["command"], *server["args"]] == ["/usr/bin/python3", "-m", "tools", str(tmp_path)]
    assert (server["env"], server["alwaysLoad"]) == ({"A": "b"}, True)
    # An option that takes several values would swallow the first extra argument.
    assert launch.argv[-4] == "--max-budget-usd"


def test_what_was_not_chosen_is_not_named(tmp_path: Path) -> None:
    argv = make(tmp_path).command(request(tmp_path)).argv
    assert not {"--model", "--max-budget-usd"} & set(argv)
    assert argv[argv.index("--add-dir") + 2].startswith("--")


@pytest.mark.parametrize(
    ("version", "known"), [(VERSIONS[0], False), (VERSIONS[-1], True), ("3.0.0", True), ("x", False)]
)
def test_an_option_of_newer_versions_is_given_to_those_alone(version: str, known: bool, tmp_path: Path) -> None:
    package = tmp_path / "node_modules" / "@anthropic-ai" / "claude-code"
    (package / "bin").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": "@anthropic-ai/claude-code", "version": version}))
    binary = package / "bin" / "claude.exe"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (tmp_path / "claude").symlink_to(binary)
    argv = make(tmp_path).command(request(tmp_path)).argv
    assert argv[0] == str(tmp_path / "claude")
    assert ("--permission-prompts" in argv) == known


def test_the_environment_keeps_claude_quiet_and_short_of_patience(tmp_path: Path) -> None:
    env = make(tmp_path, env={"ANTHROPIC_API_KEY": SECRET}).command(request(tmp_path)).env
    assert env["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"] == env["DISABLE_AUTOUPDATER"] == "1"
    assert env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert int(env["CLAUDE_CODE_MAX_RETRIES"]) <= 3
    assert env["AGENT_MAILER_TURN_ID"] == "turn-1"
    assert "CLAUDE_CONFIG_DIR" not in env
    # What the user sets is the user's.
    ours = make(tmp_path, env={"CLAUDE_CODE_MAX_RETRIES": "9"}).command(request(tmp_path)).env
    assert ours["CLAUDE_CODE_MAX_RETRIES"] == "9"
    home = make(tmp_path, config_home=tmp_path / "c").command(request(tmp_path)).env
    assert home["CLAUDE_CONFIG_DIR"] == str(tmp_path / "c")


def test_root_is_told_at_once_that_claude_refuses_bypass(tmp_path: Path) -> None:
    (tmp_path / "claude").write_text("")
    bypass = ClaudeOptions(PermissionMode.BYPASS_PERMISSIONS)
    with pytest.raises(ConfigFault, match="root"):
        ClaudeRuntime("claude", bypass, {}, is_root=True)
    ClaudeRuntime("claude", bypass, {"IS_SANDBOX": "1"}, is_root=True)
    ClaudeRuntime("claude", bypass, {}, is_root=False)
    ClaudeRuntime("claude", ClaudeOptions(PermissionMode.ACCEPT_EDITS), {}, is_root=True)


def test_a_package_without_its_binary_is_missing(tmp_path: Path) -> None:
    stub = tmp_path / "claude"
    stub.write_text('echo "Error: claude native binary not installed." >&2\nexit 1\n')
    stub.chmod(0o755)
    with pytest.raises(RuntimeMissing, match="native binary"):
        make(tmp_path).command(request(tmp_path))


@pytest.mark.parametrize("kind", ["absent", "folder", "plain file"])
def test_a_program_that_cannot_be_run_is_missing(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "there"
    if kind == "folder":
        place.mkdir()
    if kind == "plain file":
        place.write_text("")
    runtime = ClaudeRuntime(str(place), ClaudeOptions(PermissionMode.PLAN), {}, is_root=False)
    with pytest.raises(RuntimeMissing) as raised:
        runtime.command(request(tmp_path))
    assert raised.value.fix


def test_the_account_is_the_same_for_whoever_shares_its_limits(tmp_path: Path) -> None:
    def account(env: dict[str, str], home: Path | None = None) -> str:
        found = make(tmp_path, env=env, config_home=home).traits.account
        assert found is not None
        assert SECRET not in found
        return found

    login, key = account({}), account({"ANTHROPIC_API_KEY": SECRET})
    assert login == account({}) == account({"LANG": "C"})
    assert login == account({}, tmp_path / ".claude")
    different = {
        login,
        key,
        account({"ANTHROPIC_API_KEY": SECRET + "2"}),
        account({"CLAUDE_CODE_OAUTH_TOKEN": SECRET}),
        account({"ANTHROPIC_API_KEY": SECRET, "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}),
        account({}, tmp_path / "other"),
    }
    assert len(different) == 6
    # The mode, the model and the like do not make another account of it.
    assert make(tmp_path, "plan", model="x").traits.account == login


@pytest.mark.parametrize(
    ("status", "output", "ok"),
    [
        (0, f"{PINNED} (Claude Code)\n", True),
        (0, "2.1.0 (Claude Code)\n", True),
        (0, "3.0.1 (Claude Code)\n", True),
        (0, "2.0.99 (Claude Code)\n", False),
        (0, "hello\n", False),
        (1, f"{PINNED}\n", False),
        (127, "", False),
    ],
)
def test_what_the_version_probe_says(status: int, output: str, ok: bool, tmp_path: Path) -> None:
    runtime = make(tmp_path)
    version, *_ = runtime.probes(tmp_path)
    assert version.argv == (str(tmp_path / "claude"), "--version")
    finding = runtime.read_probe(version, status, output)
    assert finding.ok == ok
    assert "\n" not in finding.text
    assert ok or finding.fix


def test_what_the_login_probe_says(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    _, login, _ = runtime.probes(tmp_path)
    assert login.argv[1:] == ("auth", "status")
    assert "api_key" in runtime.read_probe(login, 0, '{"loggedIn": true,\n "authMethod": "api_key"}').text
    for output in ('{"loggedIn": false}', "", "{", "[]", '{"authMethod": []}'):
        finding = runtime.read_probe(Probe("login", login.argv, {}, tmp_path), 1, output)
        assert not finding.ok
        assert finding.fix
        assert runtime.read_probe(login, 0, output).ok


def test_the_keys_shared_with_other_agent_programs() -> None:
    assert parse_value("extra_args", "--effort high 'two words'") == ["--effort", "high", "two words"]
    assert parse_value("max_budget_usd", "2.5") == 2.5
    for key, value in (("max_budget_usd", "much"), ("extra_args", "'open")):
        with pytest.raises(UsageFault, match=key):
            parse_value(key, value)
    for number in (-1.0, float("nan"), float("inf"), True):
        with pytest.raises(UsageFault, match="max_budget_usd"):
            check_value("max_budget_usd", number)
    check_value("max_budget_usd", 3)


def test_a_workdir_that_says_claude_gets_it_with_all_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "my-claude"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDECODE"):
        monkeypatch.setenv(name, SECRET)
    flags: dict[str, object] = {
        "runtime": "claude",
        "permission_mode": "plan",
        "claude_command": str(program),
        "config_home": "home",
        "model": "m",
        "extra_args": ["--effort", "low"],
        "max_budget_usd": 1.5,
    }
    place = Workplace(tmp_path, flags)
    assert place.config.runtime is RuntimeKind.CLAUDE
    launch = place.runtime().command(request(tmp_path))
    assert launch.argv[0] == str(program)
    assert launch.env["CLAUDE_CONFIG_DIR"] == str(tmp_path / "home")
    assert after(launch, "--max-budget-usd") == "1.5"
    assert SECRET not in launch.env.values()
    passed = Workplace(tmp_path, flags | {"env": {"pass": ["ANTHROPIC_API_KEY"]}})
    assert passed.runtime().command(request(tmp_path)).env["ANTHROPIC_API_KEY"] == SECRET
    assert os.environ["CLAUDECODE"] == SECRET
