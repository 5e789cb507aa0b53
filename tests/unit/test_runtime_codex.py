"""The codex adapter without codex: recorded streams, tables of its words, its command line."""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.e2e.codex_cases import FIXTURES, RESET, VERSION, Recorded, judged

from agent_mailer.outcomes import Exit, Judgement, Outcome
from agent_mailer.runtimes.codex.adapter import CodexRuntime
from agent_mailer.runtimes.codex.failures import classify, classify_retry, classify_stderr, reset_time
from agent_mailer.runtimes.codex.lines import events_of
from agent_mailer.runtimes.port import (
    FINAL_TEXT_LIMIT,
    Doomed,
    Event,
    Evidence,
    Observation,
    PermissionMode,
    Progress,
    Result,
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

THREAD = "01a1fd5a-81da-7f82-9a79-729482fbef98"
OTHER = "01a1fd5b-81da-7f82-9a79-729482fbef98"
STREAMS = sorted(FIXTURES.glob("*.jsonl"))


def codex(folder: Path, mode: PermissionMode = PermissionMode.PLAN, **given: object) -> CodexRuntime:
    program = folder / "bin" / "codex"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    env = {"PATH": str(program.parent), "HOME": str(folder), "TMPDIR": "/nowhere", "TZ": "UTC"}
    env |= dict(given.pop("env", {}))  # type: ignore[call-overload]
    return CodexRuntime("codex", env, mode=mode, **given)  # type: ignore[arg-type]


def request_in(folder: Path, session_id: str | None = None, project_dir: Path | None = None) -> TurnRequest:
    return TurnRequest(
        turn_id="t1",
        turn_dir=folder / "turn",
        workdir=folder,
        project_dir=project_dir,
        message_id="m1",
        thread_id="th1",
        sender="alice",
        attempt=1,
        session_id=session_id,
        tools=ToolServer(("/bin/tools", 'a "quoted" \\ word', "ünï\x7f"), {"SOME": "value"}),
    )


def evidence(
    folder: Path,
    end: Exit,
    *,
    stdout: str = "",
    stderr: str = "",
    resume: str | None = None,
    observation: Observation | None = None,
) -> Evidence:
    (folder / "stdout").write_text(stdout)
    (folder / "stderr").write_text(stderr)
    return Evidence(observation or Observation(), end, folder / "stdout", folder / "stderr", resume)


def line(kind: str, **fields: object) -> bytes:
    return json.dumps({"type": kind, **fields}).encode()


def item(kind: str, when: str = "completed", **fields: object) -> bytes:
    return line(f"item.{when}", item={"id": "item_1", "type": kind, **fields})


class TestSuite(RuntimeSuite):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> CodexRuntime:
        return codex(tmp_path)

    def sample_lines(self) -> list[bytes]:
        streams = ("answer", "usage-limit", "answer-after-retries")
        files = [FIXTURES / f"{VERSION}-{name}.jsonl" for name in streams]
        return sorted({row for file in files for row in file.read_bytes().splitlines()[1:]})


@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
def test_a_recorded_stream_gets_its_outcome(stream: Path, tmp_path: Path) -> None:
    head, *lines = stream.read_bytes().splitlines(keepends=True)
    recorded = msgspec.json.decode(head, type=Recorded)
    (tmp_path / "stdout").write_bytes(b"".join(lines))
    (tmp_path / "stderr").write_text(recorded.stderr)
    played = judged(codex(tmp_path), tmp_path, recorded.exit, recorded.resume)
    assert played.judgement.outcome is recorded.outcome, played.judgement
    text = played.judgement.final_text if recorded.outcome is Outcome.DONE else played.judgement.detail
    assert recorded.says in text
    if lines:
        assert json.loads(lines[0])["thread_id"] == played.observation.session_id
    assert not played.observation.open_tools


def test_there_are_recorded_streams_of_every_kind() -> None:
    outcomes = {msgspec.json.decode(path.read_bytes().splitlines()[0], type=Recorded).outcome for path in STREAMS}
    assert outcomes >= set(Outcome) - {
        Outcome.ASKED,
        Outcome.BLOCKED,
        Outcome.TIMED_OUT,
        Outcome.CRASHED,
        Outcome.INTERRUPTED,
    }


def test_the_model_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    started = line("thread.started", thread_id=THREAD)
    assert list(codex(tmp_path, model="large").parse(started)) == [SessionStarted(THREAD, "large")]


def test_a_stream_that_is_cut_in_a_line_is_a_failure(tmp_path: Path) -> None:
    lines = (FIXTURES / f"{VERSION}-answer.jsonl").read_bytes().splitlines(keepends=True)[1:]
    (tmp_path / "stdout").write_bytes(b"".join(lines)[:-30])
    (tmp_path / "stderr").write_text("")
    played = judged(codex(tmp_path), tmp_path, Exit(status=0), None)
    assert played.judgement.outcome is Outcome.FAILED
    assert played.observation.worked
    assert judged(codex(tmp_path), tmp_path, Exit(signal=9), None).judgement.outcome is Outcome.CRASHED


@pytest.mark.parametrize(
    ("said", "events"),
    [
        (line("thread.started", thread_id=THREAD), [SessionStarted(THREAD)]),
        (line("thread.started", thread_id="../../etc"), []),
        (line("thread.started", thread_id=["x"]), []),
        (line("turn.started"), []),
        (item("agent_message", text="hello"), [Progress("hello")]),
        (item("agent_message", text=" "), []),
        (item("reasoning", text="**hm**"), [Progress("**hm**")]),
        (item("error", message="Model metadata not found"), []),
        (item("command_execution", "started", command="ls"), [ToolStarted("item_1", "shell", "ls")]),
        (item("command_execution", command="ls", exit_code=1, status="failed"), [ToolEnded("item_1")]),
        (
            item("file_change", "started", changes=[{"path": "/a", "kind": "add"}, {"path": "/b", "kind": "update"}]),
            [ToolStarted("item_1", "edit", "/a /b")],
        ),
        (
            item("mcp_tool_call", "started", server="agent_mailer", tool="reply", arguments={}),
            [ToolStarted("item_1", "agent_mailer.reply")],
        ),
        (item("mcp_tool_call", server="s", tool="t", error={"message": "no"}, status="failed"), [ToolEnded("item_1")]),
        (item("collab_tool_call", "started", tool="spawn_agent"), [ToolStarted("item_1", "spawn_agent")]),
        (item("web_search", "started", query="q"), [Progress("web search: q")]),
        (
            item("todo_list", "updated", items=[{"text": "a", "completed": True}, {"text": "b", "completed": False}]),
            [Progress("plan: 1 of 2 done; now: b")],
        ),
        (item("something_new", "started"), []),
        (item("something_new"), []),
        (line("something.new", item={}), []),
        (
            line("turn.completed", usage={"input_tokens": 7, "cached_input_tokens": 5, "output_tokens": 2}),
            [Usage(7, 2, of_session=True), Result(Outcome.DONE)],
        ),
        (line("turn.completed", usage={"input_tokens": -1}), [Result(Outcome.DONE)]),
        (line("turn.completed"), [Result(Outcome.DONE)]),
        (
            line("turn.failed", error={"message": "Quota exceeded."}),
            [Result(Outcome.SIGNED_OUT, detail="Quota exceeded. (the plan or billing of the account)")],
        ),
        (line("turn.failed"), [Result(Outcome.FAILED, detail="codex said nothing of why")]),
        (
            line("error", message="Reconnecting... 1/5 (unexpected status 503 Service Unavailable: x)"),
            [Trouble(Outcome.UNAVAILABLE, "unexpected status 503 Service Unavailable: x")],
        ),
        (
            line("error", message="Reconnecting... 2/5 (rate limit exceeded: later)"),
            [Trouble(Outcome.LIMITED, "rate limit exceeded: later")],
        ),
        (line("error", message="Reconnecting... 2/5 (something new)"), [Trouble(Outcome.UNAVAILABLE, "something new")]),
        (
            line("error", message="Reconnecting... waiting for network (Connection failed: error sending request)"),
            [Doomed(Outcome.UNAVAILABLE, "Connection failed: error sending request")],
        ),
    ],
)
def test_a_line_becomes_events(said: bytes, events: list[Event]) -> None:
    assert list(events_of(said)) == events


def test_a_warning_before_the_turn_is_no_work() -> None:
    seen = Observation()
    for said in (line("thread.started", thread_id=THREAD), item("error", message="a warning"), line("turn.started")):
        for event in events_of(said):
            seen.add(event)
    assert (seen.session_id, seen.worked) == (THREAD, False)


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("Your access token could not be refreshed. Please log out and sign in again.", Outcome.SIGNED_OUT),
        ("exceeded retry limit, last status: 401 Unauthorized", Outcome.SIGNED_OUT),
        ("You’ve hit your usage limit. To get more access now, send a request to your admin", Outcome.LIMITED),
        ("You've hit your usage limit for gpt-6. Switch to another model now", Outcome.LIMITED),
        ("unexpected status 429 Too Many Requests: x", Outcome.LIMITED),
        ("exceeded retry limit, last status: 503 Service Unavailable", Outcome.UNAVAILABLE),
        ("Connection failed: error sending request", Outcome.UNAVAILABLE),
        ("stream disconnected before completion: failed to lookup address information", Outcome.UNAVAILABLE),
        ("request timed out", Outcome.UNAVAILABLE),
        # What stands further on is the provider's or the message's: it decides nothing.
        ('{"error": {"message": "the text says: rate limit exceeded, unexpected status 401"}}', Outcome.FAILED),
        ("unexpected status 418 I'm a teapot: unexpected status 503, high demand", Outcome.FAILED),
        ("unexpected status 400 Bad Request: You’ve hit your usage limit.", Outcome.FAILED),
        ("unexpected status 500 Internal Server Error: rate limit exceeded 401", Outcome.UNAVAILABLE),
        ("", Outcome.FAILED),
        ("something\nnew\x1b[2J", Outcome.FAILED),
    ],
)
def test_a_message_means_an_outcome(message: str, outcome: Outcome) -> None:
    failure = classify(message)
    assert failure.outcome is outcome
    assert failure.detail.isprintable()


def test_a_retry_is_never_the_messages_fault() -> None:
    for message in ("", "Incomplete response returned", "Codex ran out of room in the model's context window."):
        assert classify_retry(message).outcome is Outcome.UNAVAILABLE
    assert classify_retry("unexpected status 401 Unauthorized: x").outcome is Outcome.SIGNED_OUT


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("Error: thread/resume: thread/resume failed: no rollout found for thread id X", Outcome.SESSION_LOST),
        ("Error: thread/resume: thread/resume failed: failed to read session metadata", Outcome.SESSION_LOST),
        ("Error: thread/resume: thread/resume failed: thread X already has an active writer", Outcome.UNAVAILABLE),
        (
            "Error: thread/resume: thread/resume failed: required MCP servers failed to initialize: x",
            Outcome.UNAVAILABLE,
        ),
        ("Error: turn/start: turn/start failed: Input exceeds the maximum length", Outcome.FAILED),
        ('Error finding codex home: CODEX_HOME points to "/x", but that path does not exist', Outcome.UNAVAILABLE),
        ("Error loading config.toml: invalid type", Outcome.UNAVAILABLE),
        ("Error: something new", Outcome.UNAVAILABLE),
    ],
)
def test_an_end_before_any_turn_means_an_outcome(words: str, outcome: Outcome) -> None:
    assert classify_stderr(words).outcome is outcome


@pytest.mark.parametrize(
    ("end", "stderr", "resume", "outcome", "says"),
    [
        (Exit(signal=9), "", None, Outcome.CRASHED, "SIGKILL"),
        (Exit(), "", None, Outcome.CRASHED, "without a record"),
        (Exit(status=101), "thread 'main' panicked at stdout", None, Outcome.CRASHED, "panicked"),
        (Exit(status=0), "", None, Outcome.FAILED, "without a result"),
        (Exit(status=2), "error: unexpected argument '-z' found\n\nUsage: codex\n", None, Outcome.UNAVAILABLE, "'-z'"),
        (Exit(status=127), "sh: not found", None, Outcome.UNAVAILABLE, "not found"),
        (
            Exit(status=1),
            "WARNING: a\nError: no rollout found for X\nmore\n",
            OTHER,
            Outcome.SESSION_LOST,
            "found for X more",
        ),
        (Exit(status=1), "Error: no rollout found for X\n", None, Outcome.FAILED, "no rollout"),
        (Exit(status=1), "", None, Outcome.UNAVAILABLE, "nothing of why"),
    ],
)
def test_an_end_without_a_result(
    tmp_path: Path, end: Exit, stderr: str, resume: str | None, outcome: Outcome, says: str
) -> None:
    judgement = codex(tmp_path).judge(evidence(tmp_path, end, stderr=stderr, resume=resume))
    assert judgement.outcome is outcome
    assert says in judgement.detail


def test_an_end_in_the_middle_of_a_turn_is_the_turns(tmp_path: Path) -> None:
    seen = Observation(session_id=THREAD)
    runtime = codex(tmp_path)
    words = "Error: no rollout found"
    assert runtime.judge(evidence(tmp_path, Exit(status=1), stderr=words, observation=seen)).outcome is Outcome.FAILED
    seen.trouble = Trouble(Outcome.LIMITED, "rate limit exceeded: x")
    for status in (0, 1):
        judgement = runtime.judge(evidence(tmp_path, Exit(status=status), observation=seen))
        assert judgement == Judgement(Outcome.LIMITED, "rate limit exceeded: x"), "it costs no attempt"
    assert runtime.judge(evidence(tmp_path, Exit(signal=9), observation=seen)).outcome is Outcome.CRASHED


def test_the_last_message_is_the_answer(tmp_path: Path) -> None:
    said = [item("agent_message", text=text) for text in ("first", "the answer \n")]
    noise = [item("command_execution", aggregated_output='{"type":"agent_message","text":"not me"}')]
    stdout = b"\n".join([*said, *noise, line("turn.completed"), b'{"type":"item.comp']).decode()
    seen = Observation(result=Result(Outcome.DONE))
    runtime = codex(tmp_path)
    judgement = runtime.judge(evidence(tmp_path, Exit(status=0), stdout=stdout, observation=seen))
    assert judgement == Judgement(Outcome.DONE, final_text="the answer")
    long = "ü" * (FINAL_TEXT_LIMIT + 10)
    stdout = b"\n".join([*said, item("agent_message", text=long), line("turn.completed")]).decode()
    judgement = runtime.judge(evidence(tmp_path, Exit(signal=9), stdout=stdout, observation=seen))
    assert judgement.final_text == long


def test_an_empty_answer_in_plan_mode_is_told_to_the_sender(tmp_path: Path) -> None:
    """Elsewhere the work itself may be all that was wanted."""
    seen = Observation(result=Result(Outcome.DONE))
    for mode, outcome in ((PermissionMode.PLAN, Outcome.BLOCKED), (PermissionMode.ACCEPT_EDITS, Outcome.DONE)):
        judgement = codex(tmp_path, mode=mode).judge(evidence(tmp_path, Exit(status=0), observation=seen))
        assert judgement.outcome is outcome
        assert ("plan mode" in judgement.detail) == (mode is PermissionMode.PLAN)


def test_work_done_in_another_session_is_done_and_said_so(tmp_path: Path) -> None:
    seen = Observation(session_id=OTHER, result=Result(Outcome.DONE, "the answer"))
    judgement = codex(tmp_path).judge(evidence(tmp_path, Exit(status=0), resume=THREAD, observation=seen))
    assert judgement.outcome is Outcome.DONE
    assert THREAD in judgement.detail


class TestCommand:
    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            (PermissionMode.PLAN, ["-c", 'default_permissions="agent_mailer"', "-c"]),
            (PermissionMode.ACCEPT_EDITS, ["-c", 'default_permissions="agent_mailer"', "-c"]),
            (PermissionMode.BYPASS_PERMISSIONS, ["--dangerously-bypass-approvals-and-sandbox"]),
        ],
    )
    @pytest.mark.parametrize("session_id", [None, THREAD])
    def test_the_policy_is_said_on_every_call(
        self, tmp_path: Path, mode: PermissionMode, words: list[str], session_id: str | None
    ) -> None:
        runtime = codex(tmp_path, mode, model="m", extra_args=["--extra", "e"])
        launch = runtime.command(request_in(tmp_path, session_id, tmp_path / "project"))
        argv = list(launch.argv)
        at = argv.index("exec")
        assert argv[at + 1 : at + 1 + len(words)] == words
        rest = argv[argv.index("-C") :]
        assert rest[:6] == ["-C", str(tmp_path), "--add-dir", str(tmp_path / "project"), "-m", "m"]
        resume = [] if session_id is None else ["resume"]
        tail = ["--json", "--skip-git-repo-check", *([session_id] if session_id else []), "-"]
        assert rest[8:] == ["--extra", "e", *resume, *tail]
        # By a word that no `--disable` among the extra arguments puts out of force.
        assert "features.unbounded_connection_retries=false" in argv[:at]
        assert "shell_environment_policy.ignore_default_excludes=false" in argv[:at]
        assert launch.session_id is None

    def test_the_tools_are_required_and_approved(self, tmp_path: Path) -> None:
        launch = codex(tmp_path).command(request_in(tmp_path))
        [setting] = [word for word in launch.argv if word.startswith("mcp_servers.")]
        [server] = tomllib.loads(setting)["mcp_servers"].items()
        assert server[0] == "agent_mailer"
        assert server[1] == {
            "command": "/bin/tools",
            "args": ['a "quoted" \\ word', "ünï\x7f"],
            "env": {"SOME": "value", "AGENT_MAILER_TURN_ID": "t1"},
            "required": True,
            "default_tools_approval_mode": "approve",
            "startup_timeout_sec": 30,
        }

    def test_what_is_no_thread_id_never_begins_a_thread_unseen(self, tmp_path: Path) -> None:
        runtime = codex(tmp_path)
        words = [runtime.command(request_in(tmp_path, name)).argv[-2] for name in ("a-name", "a-name", "--last")]
        assert words[0] == words[1] != words[2]
        assert all(events_of(line("thread.started", thread_id=word)) for word in words)

    def test_keys_are_seen_only_where_they_are_passed(self, tmp_path: Path) -> None:
        launch = codex(tmp_path, env={"CODEX_API_KEY": "secret"}).command(request_in(tmp_path))
        assert launch.env["CODEX_API_KEY"] == "secret"
        assert not any("secret" in word for word in launch.argv)
        assert "CODEX_HOME" not in launch.env

    def test_its_own_home_must_be_there(self, tmp_path: Path) -> None:
        home = tmp_path / "codex-home"
        runtime = codex(tmp_path, home=home)
        with pytest.raises(RuntimeMissing) as fault:
            runtime.command(request_in(tmp_path))
        assert f"mkdir -m 700 {home}" in fault.value.fix
        home.mkdir()
        assert runtime.command(request_in(tmp_path)).env["CODEX_HOME"] == str(home)

    def test_without_any_home_it_says_so(self, tmp_path: Path) -> None:
        runtime = codex(tmp_path, env={"HOME": ""})
        with pytest.raises(RuntimeMissing, match="HOME is not set"):
            runtime.command(request_in(tmp_path))

    @pytest.mark.skipif(sys.platform != "linux", reason="the packages of other systems have other names")
    @pytest.mark.parametrize("nested", [False, True])
    def test_the_native_program_is_found_behind_its_wrapper(self, tmp_path: Path, nested: bool) -> None:
        modules = tmp_path / "lib" / "node_modules"
        wrapper = modules / "@openai" / "codex" / "bin" / "codex.js"
        wrapper.parent.mkdir(parents=True)
        wrapper.write_text("#!/usr/bin/env node\n")
        wrapper.chmod(0o755)
        (tmp_path / "codex").symlink_to(wrapper)
        runtime = CodexRuntime("codex", {"PATH": str(tmp_path), "HOME": str(tmp_path)}, mode=PermissionMode.PLAN)
        with pytest.raises(RuntimeMissing) as fault:
            runtime.command(request_in(tmp_path))
        assert "npm install" in fault.value.fix
        machine = {"x86_64": ("x64", "x86_64")}.get(platform.machine(), ("arm64", "aarch64"))
        place = (wrapper.parents[1] / "node_modules" if nested else modules) / "@openai" / f"codex-linux-{machine[0]}"
        native = place / "vendor" / f"{machine[1]}-unknown-linux-musl" / "bin" / "codex"
        native.parent.mkdir(parents=True)
        native.write_text("")
        native.chmod(0o755)
        assert runtime.command(request_in(tmp_path)).argv[0] == str(native)

    @pytest.mark.parametrize("how", ["nothing", "a folder", "not executable"])
    def test_a_program_that_cannot_run_is_missing(self, tmp_path: Path, how: str) -> None:
        path = tmp_path / "other" / "codex"
        path.parent.mkdir()
        if how == "a folder":
            path.mkdir()
        elif how == "not executable":
            path.write_text("")
        runtime = CodexRuntime(str(path), {"PATH": os.defpath, "HOME": "/"}, mode=PermissionMode.PLAN)
        with pytest.raises(RuntimeMissing):
            runtime.command(request_in(tmp_path))


class TestResetTime:
    SEEN = datetime(2026, 11, 21, 9, 7, tzinfo=UTC).timestamp()

    @pytest.mark.parametrize(
        ("message", "zone", "moment"),
        [
            ("or try again at 10:06 AM.", "UTC", datetime(2026, 11, 21, 10, 7, tzinfo=UTC)),
            ("or try again at 4:18 AM.", "UTC", datetime(2026, 11, 22, 4, 19, tzinfo=UTC)),
            ("or try again at 9:07 AM.", "UTC", datetime(2026, 11, 21, 9, 8, tzinfo=UTC)),
            ("or try again at 4:18 AM.", "America/New_York", datetime(2026, 11, 21, 9, 19, tzinfo=UTC)),
            ("try again at Nov 24th, 2026 3:37 PM.", "UTC", datetime(2026, 11, 24, 15, 38, tzinfo=UTC)),
            ("try again at Dec 1st, 2026 12:00 AM.", "Europe/Berlin", datetime(2026, 11, 30, 23, 1, tzinfo=UTC)),
            ("try again at 4:18 AM.", "no such zone", None),
            ("Try again later.", "UTC", None),
            ("try again at 14:18 AM.", "UTC", None),
            ("try again at Feb 31st, 2026 3:37 PM.", "UTC", None),
        ],
    )
    def test_the_words_tell_local_time(self, tmp_path: Path, message: str, zone: str, moment: datetime | None) -> None:
        found = reset_time(tmp_path, None, message, seen=self.SEEN, zone=zone)
        if zone == "no such zone":
            assert found is not None
        else:
            assert found == (None if moment is None else moment.timestamp())

    @pytest.mark.parametrize(("late", "days"), [(0, 0), (20, 0), (59, 0), (120, 1)])
    def test_a_moment_of_this_very_minute_is_todays_and_one_that_is_over_tomorrows(
        self, tmp_path: Path, late: int, days: int
    ) -> None:
        """The words tell the minute alone, of which some has passed when they are read."""
        found = reset_time(tmp_path, None, "try again at 9:07 AM.", seen=self.SEEN + late, zone="UTC")
        assert found == self.SEEN + 60 + days * 86_400

    def rollout(self, home: Path, *limits: object, thread: str = THREAD) -> None:
        folder = home / "sessions" / "2026" / "11" / "21"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"type": "event_msg", "payload": {"type": "token_count", "rate_limits": one}} for one in limits]
        text = "".join(json.dumps(row) + "\n" for row in rows) + '{"rate_limits": torn'
        (folder / f"rollout-2026-11-21T09-07-00-{thread}.jsonl").write_text(text)

    def test_the_sessions_file_tells_the_exact_moment(self, tmp_path: Path) -> None:
        used_up = {"used_percent": 100.0, "window_minutes": 300, "resets_at": int(self.SEEN) + 500}
        week = {"used_percent": 100.0, "window_minutes": 10080, "resets_at": int(self.SEEN) + 90_000}
        free = {"used_percent": 12.5, "window_minutes": 10080, "resets_at": int(self.SEEN) + 90_000}
        words = "try again at 10:06 AM."

        def told(thread: str = THREAD) -> float | None:
            return reset_time(tmp_path, thread, words, seen=self.SEEN, zone="UTC")

        by_words = datetime(2026, 11, 21, 10, 7, tzinfo=UTC).timestamp()
        assert told() == by_words
        self.rollout(tmp_path, {"primary": used_up, "secondary": free}, {"primary": None, "secondary": None})
        assert told() == self.SEEN + 500
        self.rollout(tmp_path, {"primary": used_up, "secondary": week}, None)
        assert told() == self.SEEN + 90_000
        assert told(OTHER) == told("../*") == by_words, "another session's file"
        self.rollout(tmp_path, {"primary": free})
        assert told() == by_words, "no window is used up: the limit is another"
        self.rollout(tmp_path, {"primary": used_up, "secondary": week}, {"primary": free})
        assert told() == by_words, "what was used up is not any more: the last word counts"
        self.rollout(tmp_path, {"primary": {**used_up, "resets_at": int(self.SEEN) - 500}})
        assert told() == by_words, "that window is over"

    def test_a_limit_is_judged_with_its_moment(self, tmp_path: Path) -> None:
        self.rollout(tmp_path / ".codex", {"primary": {"used_percent": 100.0, "resets_at": RESET}})
        message = "You’ve hit your usage limit. Upgrade to Pro, or try again at 10:26 PM."
        seen = Observation(session_id=THREAD, result=Result(Outcome.LIMITED, detail=message))
        given = evidence(tmp_path, Exit(status=1), observation=seen)
        os.utime(given.stdout, (RESET - 1000, RESET - 1000))
        assert codex(tmp_path).judge(given).retry_at == RESET
        # Where only the words tell they are in the agent's time.
        there = (codex(tmp_path, env={"TZ": zone, "CODEX_HOME": str(tmp_path)}) for zone in ("UTC", "Asia/Tokyo"))
        utc, tokyo = (one.judge(given).retry_at for one in there)
        assert utc is not None
        assert tokyo is not None
        assert (tokyo - utc) % 86_400 == 15 * 3600


class TestProbes:
    @pytest.mark.parametrize(
        ("status", "output", "ok"),
        [
            (0, f"codex-cli {VERSION}\n", True),
            (0, "WARNING: x\ncodex-cli 1.2.3\n", True),
            (0, "codex-cli 0.99.0\n", False),
            (0, "something else", False),
            (1, f"codex-cli {VERSION}", False),
        ],
    )
    def test_the_version(self, tmp_path: Path, status: int, output: str, ok: bool) -> None:
        runtime = codex(tmp_path)
        probe = runtime.probes(tmp_path)[0]
        assert (probe.name, probe.argv[1:]) == ("version", ("--version",))
        finding = runtime.read_probe(probe, status, output)
        assert finding.ok is ok
        assert ok or finding.fix

    def test_the_login(self, tmp_path: Path) -> None:
        def login(runtime: CodexRuntime, status: int = 1, output: str = "Not logged in\n") -> tuple[bool, str]:
            probe = runtime.probes(tmp_path)[1]
            assert probe.argv[1:] == ("login", "status")
            finding = runtime.read_probe(probe, status, output)
            return finding.ok, finding.text

        assert login(codex(tmp_path), 0, "Logged in using ChatGPT\n") == (True, "Logged in using ChatGPT")
        assert login(codex(tmp_path)) == (False, "Not logged in")
        assert login(codex(tmp_path, env={"CODEX_API_KEY": "k"}))[0]
        ok, text = login(codex(tmp_path, env={"OPENAI_API_KEY": "k"}))
        assert (ok, "CODEX_API_KEY" in text) == (False, True)
        assert login(codex(tmp_path, extra_args=["-c", "model_provider=own"]))[0]
        (tmp_path / ".codex").mkdir()
        (tmp_path / ".codex" / "config.toml").write_text('model_provider = "own"\n')
        assert login(codex(tmp_path))[0]


def test_the_account_is_the_home_the_keys_and_the_provider(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    runtimes = [
        codex(tmp_path),
        codex(tmp_path, home=tmp_path / "other"),
        codex(tmp_path, env={"CODEX_API_KEY": "one"}),
        codex(tmp_path, env={"CODEX_API_KEY": "two"}),
        codex(tmp_path, extra_args=["-c", "model_provider=own"]),
    ]
    accounts = [runtime.traits.account for runtime in runtimes]
    assert len(set(accounts)) == len(accounts)
    assert codex(tmp_path, PermissionMode.BYPASS_PERMISSIONS, model="m").traits.account == accounts[0]
    assert not any("one" in str(account) for account in accounts)
