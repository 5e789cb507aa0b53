"""What of claude a turn may use: which tools are too many, which settings count, what its file tools leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_runtime_claude import after, judged, make, observe, request

from agent_mailer.approvals.turn import SIGN
from agent_mailer.config import Config
from agent_mailer.errors import ConfigFault
from agent_mailer.outcomes import Exit, Outcome
from agent_mailer.runtimes.claude.fence import fence
from agent_mailer.runtimes.claude.lines import NOT_ASKING
from agent_mailer.runtimes.port import FENCE, Asking, Evidence, Reach, RuntimeMissing
from agent_mailer.watch.judging import judge

TOOLS = Config().tools
OURS = {"name": "agent_mailer", "status": "connected"}


def init(*tools: object) -> dict[str, Any]:
    return {"type": "system", "subtype": "init", "session_id": "s", "tools": list(tools), "mcp_servers": [OURS]}


REACH_OUT = (
    "SendMessage",
    "ListAgents",
    "ScheduleWakeup",
    "CronCreate",
    "Monitor",
    "EnterWorktree",
    "Workflow",
    "Skill",
)


@pytest.mark.parametrize("name", REACH_OUT)
def test_a_tool_that_reaches_out_of_a_turn_ends_it_before_it_is_used(name: str, tmp_path: Path) -> None:
    seen = observe(make(tmp_path, tools=TOOLS), init("Task", "Bash", name, "mcp__agent_mailer__reply"))
    assert seen.doomed is not None
    assert (seen.doomed.outcome, seen.doomed.for_good) == (Outcome.UNAVAILABLE, True)
    assert name in seen.doomed.detail
    assert "Bash" not in seen.doomed.detail
    assert "key tools" in seen.doomed.detail
    assert observe(make(tmp_path, tools=(*TOOLS, name)), init("Bash", name)).doomed is None


def test_the_tools_of_a_turn_are_the_default_ones_and_the_mail_tools(tmp_path: Path) -> None:
    runtime = make(tmp_path, tools=TOOLS)
    assert after(runtime.command(request(tmp_path)), "--tools").split(",") == list(TOOLS)
    assert observe(runtime, init("Task", *TOOLS, "mcp__agent_mailer__reply")).doomed is None
    resumed = runtime.command(request(tmp_path, session_id="abc"))
    assert after(resumed, "--tools").split(",") == list(TOOLS)


def test_no_tools_are_no_tools(tmp_path: Path) -> None:
    runtime = make(tmp_path, tools=())
    assert after(runtime.command(request(tmp_path)), "--tools") == ""
    assert observe(runtime, init("mcp__agent_mailer__reply")).doomed is None
    assert observe(runtime, init("Read")).doomed is not None


@pytest.mark.parametrize("tools", [None, "Bash", {"Bash": 1}])
def test_tools_that_are_not_named_are_not_proved(tools: object, tmp_path: Path) -> None:
    seen = observe(make(tmp_path, tools=TOOLS), init() | {"tools": tools})
    assert seen.doomed is not None
    assert "does not say which tools" in seen.doomed.detail
    assert observe(make(tmp_path, tools=TOOLS), init("Bash", 7)).doomed is not None


def test_a_server_beside_ours_is_allowed_where_the_extra_arguments_name_one(tmp_path: Path) -> None:
    line = init("Bash", "mcp__other__send")
    seen = observe(make(tmp_path, tools=TOOLS), line)
    assert seen.doomed is not None
    assert "mcp__other__send" in seen.doomed.detail
    assert "--mcp-config" in seen.doomed.detail
    for extra in (("--mcp-config", "f.json"), ("--mcp-config=f.json",)):
        assert observe(make(tmp_path, tools=TOOLS, extra_args=extra), line).doomed is None


@pytest.mark.parametrize(
    "extra", [("--tools", "Read,Grep"), ("--tools", "Read", "Grep", "--effort", "low"), ("--tools=Read Grep",)]
)
def test_tools_chosen_by_hand_stand_alone(extra: tuple[str, ...], tmp_path: Path) -> None:
    runtime = make(tmp_path, tools=TOOLS, extra_args=extra)
    argv = runtime.command(request(tmp_path)).argv
    assert sum(word.startswith("--tools") for word in argv) == 1
    assert argv[-len(extra) :] == extra
    assert observe(runtime, init("Read", "Grep")).doomed is None
    assert observe(runtime, init("Read", "Grep", "Bash")).doomed is not None


def test_the_tool_of_a_wanted_form_comes_with_it() -> None:
    assert fence(("Read",), ()).beyond(["StructuredOutput"]) == ("StructuredOutput",)
    assert fence(("Read",), ("--json-schema", "{}")).beyond(["StructuredOutput"]) == ()


@pytest.mark.parametrize("name", ["", "Bash(git:*)", "--dangerously-skip-permissions", "a,b", "Ünicode", "x" * 101])
def test_what_is_no_name_of_a_tool_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="tools"):
        make(tmp_path, tools=("Bash", name))


def test_a_result_after_too_many_tools_counts_for_nothing(tmp_path: Path) -> None:
    runtime = make(tmp_path, tools=TOOLS)
    done = {"type": "result", "subtype": "success", "is_error": False, "result": "I have sent it elsewhere."}
    observation = observe(runtime, init("SendMessage"), done)
    evidence = Evidence(observation, Exit(status=0), tmp_path / "stdout", tmp_path / "stderr", None)
    assert judge(evidence, runtime, restarted=False).outcome is Outcome.UNAVAILABLE


@pytest.mark.parametrize("option", ["--tools", "--setting-sources"])
def test_a_claude_older_than_the_fence_is_named_as_that(option: str, tmp_path: Path) -> None:
    said = judged(make(tmp_path), tmp_path, stderr=f"error: unknown option '{option}'\n")
    assert said.outcome is Outcome.UNAVAILABLE
    assert "older than the fence" in said.detail
    assert "npm install" in said.detail


def settings_of(tmp_path: Path, **chosen: Any) -> dict[str, Any]:
    launch = make(tmp_path, tools=TOOLS, **chosen).command(request(tmp_path))
    assert sum(word.startswith("--settings") for word in launch.argv) == 1
    found: dict[str, Any] = json.loads(after(launch, "--settings"))
    return found


@pytest.mark.parametrize("mode", ["plan", "acceptEdits", "bypassPermissions"])
def test_every_mode_has_the_settings_and_rules(mode: str, tmp_path: Path) -> None:
    state, secret = tmp_path / ".agent-mailer", tmp_path / "elsewhere" / "credentials.json"
    reach = Reach(hidden=(state / "config.toml", secret), kept=(state,))
    runtime = make(tmp_path, mode, tools=TOOLS, reach=reach)
    launch = runtime.command(request(tmp_path))
    assert after(launch, "--setting-sources") == "user"
    assert launch.env["CLAUDE_CODE_DISABLE_AUTO_MEMORY"] == "1"
    found = json.loads(after(launch, "--settings"))
    assert (found["crossSessionInbound"], found["disableAllHooks"]) == ("refuse", False)
    deny = set(found["permissions"]["deny"])
    assert {"Edit(./.agent-mailer/**)", f"Edit(/{state}/**)", "Read(./.agent-mailer/config.toml)"} <= deny
    assert {f"Read(/{secret})", f"Edit(/{secret})", f"Read(/{tmp_path}/.claude/.credentials.json)"} <= deny
    assert f"Edit(/{tmp_path}/.claude/hooks/**)" in deny, "what it writes there would run in the next turn"
    assert {f"Edit(./.claude/{name}.json)" for name in ("settings", "settings.local")} <= deny
    assert "Read(./.agent-mailer/**)" not in deny
    assert (f"Read(/{tmp_path}/.ssh/**)" in deny) == (mode != "bypassPermissions")


def test_a_turn_in_which_a_person_is_asked_ends_where_no_hook_of_ours_was_heard(tmp_path: Path) -> None:
    """Before its first tool: else it would run all that its mode allows, and nobody would be asked."""
    runtime = make(tmp_path, tools=TOOLS, asks=True)
    heard = {"type": "system", "subtype": "hook_response", "hook_event": "SessionStart", "stdout": SIGN, "exit_code": 0}
    assert observe(runtime, heard, init("Bash")).doomed is None
    for silent in (init("Bash"), {**heard, "exit_code": 1}, {**heard, "stdout": ""}, {**heard, "hook_event": "Stop"}):
        doomed = observe(runtime, silent, init("Bash")).doomed
        assert doomed is not None
        assert (doomed.outcome, doomed.for_good, doomed.detail) == (Outcome.UNAVAILABLE, True, NOT_ASKING)
    assert observe(make(tmp_path, tools=TOOLS), init("Bash")).doomed is None


def test_settings_given_by_hand_do_not_switch_off_that_a_person_is_asked(tmp_path: Path) -> None:
    theirs = {"disableAllHooks": True, "hooks": {"SessionStart": [{"hooks": []}]}}
    runtime = make(tmp_path, tools=TOOLS, extra_args=("--settings", json.dumps(theirs)), asks=True)
    asked = request(tmp_path, asking=Asking(("hook", "turn")))
    found = json.loads(after(runtime.command(asked), "--settings"))
    assert found["disableAllHooks"] is False
    assert [len(found["hooks"][event]) for event in ("SessionStart", "PermissionRequest")] == [2, 1]


def test_the_hook_is_asked_before_each_tool_that_is_named_by_each_of_its_names(tmp_path: Path) -> None:
    runtime = make(tmp_path, tools=TOOLS, asks=True)

    def hooks(*tools: str) -> dict[str, list[tuple[str, str]]]:
        asking = Asking(("hook", "turn"), tools, around=("around", "turn"))
        found = json.loads(after(runtime.command(request(tmp_path, asking=asking)), "--settings"))["hooks"]
        return {event: [(one["matcher"], one["hooks"][0]["command"]) for one in each] for event, each in found.items()}

    found = hooks("Bash", "Edit", "Agent")
    (matcher, command), around = found["PreToolUse"]
    assert (set(matcher.split("|")), command) == ({"Bash", "Edit", "Agent", "Task"}, "hook turn")
    assert around == ("Bash", "around turn")
    assert found["PostToolUse"] == found["PostToolUseFailure"] == [around]
    assert hooks("Bash", "mcp__*")["PreToolUse"][0] == ("*", "hook turn")


def test_a_path_with_signs_of_a_pattern_means_itself(tmp_path: Path) -> None:
    odd = tmp_path / "a[b]*"
    odd.mkdir()
    reach = Reach(kept=(odd / ".agent-mailer",))
    launch = make(odd, tools=TOOLS, reach=reach).command(request(odd))
    deny = json.loads(after(launch, "--settings"))["permissions"]["deny"]
    assert f"Edit(/{tmp_path}/a\\[b\\]\\*/.agent-mailer/**)" in deny
    assert "Edit(./.agent-mailer/**)" in deny


@pytest.mark.parametrize("as_file", [True, False])
def test_settings_given_by_hand_and_ours_are_one(as_file: bool, tmp_path: Path) -> None:
    theirs = {"permissions": {"deny": ["WebFetch"], "allow": ["Bash(ls:*)"]}, "crossSessionInbound": "hold", "x": 1}
    (tmp_path / "s.json").write_text(json.dumps(theirs))
    extra = ("--effort", "low", "--settings", "s.json" if as_file else json.dumps(theirs), "--verbose")
    reach = Reach(kept=(tmp_path / ".agent-mailer",))
    found = settings_of(tmp_path, extra_args=extra, reach=reach)
    assert found["permissions"]["allow"] == ["Bash(ls:*)"]
    assert {"WebFetch", "Edit(./.agent-mailer/**)"} <= set(found["permissions"]["deny"])
    assert (found["crossSessionInbound"], found["disableAllHooks"], found["x"]) == ("hold", False, 1)
    argv = make(tmp_path, tools=TOOLS, extra_args=extra).command(request(tmp_path)).argv
    assert argv[-3:] == ("--effort", "low", "--verbose")


@pytest.mark.parametrize("given", ["nosuch.json", "{broken", "[]", "{" * 100_000])
def test_settings_that_cannot_be_read_start_nothing(given: str, tmp_path: Path) -> None:
    (tmp_path / "[]").write_text("[]")
    runtime = make(tmp_path, tools=TOOLS, extra_args=("--settings", given))
    with pytest.raises(RuntimeMissing, match="--settings"):
        runtime.command(request(tmp_path))


def test_what_the_project_forbids_stays_forbidden_and_what_it_allows_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / ".claude"
    folder.mkdir()
    project = {"permissions": {"deny": ["Read(./.env)", 7], "ask": ["Bash(git push:*)"], "allow": ["Bash"]}}
    (folder / "settings.json").write_text(json.dumps(project | {"hooks": {}, "disableAllHooks": True}))
    (folder / "settings.local.json").write_text(json.dumps({"permissions": {"deny": ["WebSearch"]}}))
    found = settings_of(tmp_path)
    assert {"Read(./.env)", "Bash(git push:*)", "WebSearch"} <= set(found["permissions"]["deny"])
    assert "allow" not in found["permissions"]
    assert found["disableAllHooks"] is False
    many = {"permissions": {"deny": [f"Read(./{n})" for n in range(100_000)] + ["x" * 100_000]}}
    (folder / "settings.json").write_text(json.dumps(many)[: 1024 * 1024])
    assert len(json.dumps(settings_of(tmp_path))) < 60_000
    many["permissions"]["deny"] = ["x" * 100_000, *many["permissions"]["deny"][:20_000]]
    (folder / "settings.json").write_text(json.dumps(many))
    assert len(json.dumps(settings_of(tmp_path))) < 60_000
    (folder / "settings.json").write_text("{")
    (folder / "settings.local.json").unlink()
    (folder / "settings.local.json").symlink_to("/dev/zero")
    assert "WebSearch" not in settings_of(tmp_path)["permissions"]["deny"]


@pytest.mark.parametrize("other", ["none", "cut", "endless"])
@pytest.mark.parametrize("name", ["settings.json", "settings.local.json"])
def test_what_one_file_forbids_stays_so_whatever_the_other_is(tmp_path: Path, name: str, other: str) -> None:
    folder = tmp_path / ".claude"
    folder.mkdir()
    (folder / name).write_text(json.dumps({"permissions": {"deny": ["WebSearch"]}}))
    [beside] = {"settings.json", "settings.local.json"} - {name}
    if other == "cut":
        (folder / beside).write_text('{"permissions": {"deny": [')
    elif other == "endless":
        (folder / beside).symlink_to("/dev/zero")
    assert "WebSearch" in settings_of(tmp_path)["permissions"]["deny"]


@pytest.mark.parametrize(
    ("output", "ok", "says"),
    [
        (json.dumps(init("Bash", "Task")), True, "Bash, Task"),
        ("a warning\n" + json.dumps(init("Bash", "CronCreate")), False, "CronCreate"),
        ("error: unknown option '--tools'", False, "--tools"),
        ("", False, "does not say"),
        (json.dumps(init() | {"tools": None}), False, "does not say"),
    ],
)
def test_what_the_trial_of_a_version_says(output: str, ok: bool, says: str, tmp_path: Path) -> None:
    runtime = make(tmp_path, tools=TOOLS)
    trial = next(probe for probe in runtime.probes(tmp_path) if probe.name == FENCE)
    assert trial.argv[trial.argv.index("--tools") + 1] == ",".join(TOOLS)
    assert trial.env["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")
    finding = runtime.read_probe(trial, 0, output)
    assert (finding.ok, says in finding.text) == (ok, True), finding
    assert ok or finding.fix
