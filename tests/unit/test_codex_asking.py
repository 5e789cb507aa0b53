"""How codex is told to ask, and what its hook says: pure."""

from __future__ import annotations

import io
import json
import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest
from tests.unit.test_runtime_codex import codex, request_in

from agent_mailer.approvals.calls import Call, as_input
from agent_mailer.approvals.hook import (
    ASKED,
    FROM_THE_MAIN_AGENT,
    INSTEAD,
    NOT_ASKED,
    TOO_LARGE,
    UNKNOWN,
    Decision,
    Dialect,
    Step,
    answer,
    as_json,
    run,
)
from agent_mailer.approvals.turn import Told, TurnApprovals, Word, asked_in, used_in, write
from agent_mailer.disk import Disk
from agent_mailer.runtimes.codex.asking import asking_words, trial
from agent_mailer.runtimes.port import ASKS, Asking, PermissionMode

HOOK = ("/a hook", "ünï", "x'y\x7f")
PRE, REQUEST = "PreToolUse", "PermissionRequest"
PUSH = Call("Bash", as_input({"command": "git push"}))
RULES = ("Bash(git push *)",)


def test_codex_knows_our_hooks_by_the_hash_that_it_makes_itself() -> None:
    """The hashes are those that codex itself has told of these very hooks."""
    words = list(asking_words(Asking(HOOK, ("Bash", "apply_patch")), (), refuses=True))
    state = tomllib.loads(words[-1])["hooks"]["state"]
    assert {key.rpartition("toml:")[2]: known for key, known in state.items()} == {
        "pre_tool_use:0:0": {
            "trusted_hash": "sha256:80fef17dcd2203b75c2d43b50da462b564d0e6f9f959cb4ecdc266a394c44814",
            "enabled": True,
        },
        "permission_request:0:0": {
            "trusted_hash": "sha256:1adfea89016686c11311588b0becf2822dbb1e7dea76a0f5ef6cad12a7466478",
            "enabled": True,
        },
    }
    assert "auto_review.timeout_ms=1" in words
    assert not any("bypass" in word for word in words)


def test_what_is_run_around_each_command_stands_beside_the_hook_that_asks() -> None:
    words = list(asking_words(Asking(HOOK, ("Bash", "apply_patch"), around=("around", "turn")), (), refuses=True))
    hooks = tomllib.loads("\n".join(word for word in words if word.startswith(("hooks.P", "hooks.state"))))["hooks"]
    around = [("^Bash$", "around turn")]
    found = {
        event: [(one["matcher"], one["hooks"][0]["command"]) for one in hooks[event]]
        for event in ("PreToolUse", "PostToolUse", "PermissionRequest")
    }
    (asks, _), *beside = found["PreToolUse"]
    assert "apply_patch" in asks
    assert "Bash" in asks
    assert [beside, found["PostToolUse"]] == [around, around]
    places = sorted(key.rpartition("toml:")[2] for key in hooks["state"])
    assert places == ["permission_request:0:0", "post_tool_use:0:0", "pre_tool_use:0:0", "pre_tool_use:1:0"]


def test_a_hook_that_fails_says_no(tmp_path: Path) -> None:
    """A program that hears nothing else than a no lets the call run."""
    for hook, status in (("/nonexistent", 2), ("/bin/false", 2), ("/bin/true", 0)):
        words = list(asking_words(Asking((hook,), ("Bash",)), (), refuses=False))
        [word] = [one for one in words if one.startswith("hooks.PreToolUse=")]
        [group] = tomllib.loads(word)["hooks"]["PreToolUse"]
        done = subprocess.run(["sh", "-c", group["hooks"][0]["command"]], capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert ("not able to answer" in done.stderr) is (status == 2)


@pytest.mark.parametrize(
    ("mode", "own_sandbox", "reviewed"),
    [
        (PermissionMode.ACCEPT_EDITS, True, True),
        (PermissionMode.ACCEPT_EDITS, False, False),
        (PermissionMode.PLAN, True, False),
        (PermissionMode.BYPASS_PERMISSIONS, True, False),
    ],
)
def test_what_codex_keeps_from_a_turn_is_asked_where_it_keeps_something(
    tmp_path: Path, mode: PermissionMode, own_sandbox: bool, reviewed: bool
) -> None:
    request = msgspec.structs.replace(request_in(tmp_path), own_sandbox=own_sandbox)
    quiet = codex(tmp_path, mode, extra_args=["--extra"]).command(request).argv
    assert not any("hooks." in word or "approvals_reviewer" in word for word in quiet)
    asks = msgspec.structs.replace(request, asking=Asking(HOOK, ("Bash",)))
    for session in (None, "01a1fd5a-81da-7f82-9a79-729482fbef98"):
        argv = codex(tmp_path, mode, extra_args=["--extra"]).command(
            msgspec.structs.replace(asks, session_id=session)
        ).argv  # fmt: skip
        ours = argv[argv.index("--extra") + 1 : argv.index("--json") - (session is not None)]
        assert ("approvals_reviewer=auto_review" in ours) is reviewed
        assert any("hooks.PermissionRequest=" in word for word in ours) is reviewed
        assert any("hooks.PreToolUse=" in word for word in ours)


@pytest.mark.parametrize("by_hand", [["--approve-for-me"], ["-c", "approvals_reviewer=auto_review"]])
def test_a_reviewer_that_was_chosen_by_hand_stays(by_hand: list[str]) -> None:
    words = list(asking_words(Asking(HOOK, ("Bash",)), by_hand, refuses=True))
    assert not any("approv" in word or "PermissionRequest" in word for word in words)
    assert any("hooks.PreToolUse=" in word for word in words)


def test_a_glob_over_names_has_codex_ask_about_every_tool() -> None:
    words = list(asking_words(Asking(HOOK, ("Bash", "mcp__*")), (), refuses=False))
    assert any(word.startswith('hooks.PreToolUse=[{matcher="*"') for word in words)


def test_codex_is_tried_before_it_is_asked_to_ask(tmp_path: Path) -> None:
    runtime = codex(tmp_path, PermissionMode.ACCEPT_EDITS, extra_args=["--extra"], asks=True)
    [probe] = [one for one in runtime.probes(tmp_path) if one.name == ASKS]
    assert "--extra" in probe.argv
    assert runtime.read_probe(probe, 0, '{"type":"turn.completed","usage":{}}\n').ok
    unheard = runtime.read_probe(probe, 1, '{"type":"turn.failed","error":{"message":"Connection failed"}}\n')
    assert unheard.opens
    assert "hooks are not heard" in unheard.text
    (tmp_path / "package.json").write_text('{"name": "@openai/codex", "version": "0.170.2"}')
    old = runtime.read_probe(probe, 0, '{"type":"turn.completed"}')
    assert (old.ok, old.opens) == (False, False)
    assert "codex 0.170.2 asks nobody about what its sandbox refuses" in old.text
    request = msgspec.structs.replace(request_in(tmp_path), asking=Asking(HOOK, ("Bash",)))
    argv = runtime.command(request).argv
    assert "approvals_reviewer=auto_review" not in argv
    assert any("hooks.PreToolUse=" in word for word in argv)
    assert ASKS not in {one.name for one in codex(tmp_path).probes(tmp_path)}
    assert trial("codex", (), (), tmp_path)[-1] == "trial"


# What the hook says.


@pytest.fixture
def turn(tmp_path: Path) -> Path:
    (tmp_path / "outbox").mkdir()
    return tmp_path


def spoken(turn: Path, event: str, command: str = "git push", tool: str = "Bash", **more: object) -> Decision:
    fields = {"tool_name": tool, "tool_input": {"command": command}, **more}
    return answer(Disk(), turn, event, fields, Dialect.CODEX)


def told(word: Word, **more: str) -> Told:
    return Told("q-1", PUSH.tool, PUSH.input, PUSH.digest, word, **more)


def test_what_a_rule_names_is_asked_before_it_runs_and_what_is_refused_when_it_is(turn: Path) -> None:
    write(Disk(), turn, TurnApprovals(RULES, refused=True))
    assert spoken(turn, PRE, "ls").step is Step.SILENCE
    assert spoken(turn, PRE) == Decision(Step.DENY, ASKED, ask=True)
    assert spoken(turn, PRE, agent_id="a") == Decision(Step.DENY, FROM_THE_MAIN_AGENT)
    request = {"tool_name": "Bash", "tool_input": {"command": "curl x", "description": "I must"}}
    assert answer(Disk(), turn, REQUEST, request, Dialect.CODEX).why == ASKED
    assert sorted((call.act, call.why) for call in asked_in(turn / "outbox")) == [
        ("curl x", "I must"),
        ("git push", ""),
    ]
    write(Disk(), turn, TurnApprovals(RULES))
    assert spoken(turn, REQUEST, "curl x") == Decision(Step.DENY, NOT_ASKED)
    assert spoken(turn, REQUEST, tool="") == Decision(Step.DENY, TOO_LARGE)


def test_one_yes_is_for_one_call_which_is_heard_before_it_and_beyond_the_sandbox(turn: Path) -> None:
    write(Disk(), turn, TurnApprovals(RULES, refused=True, told=(told(Word.ALLOW),)))
    assert spoken(turn, PRE).step is Step.ALLOW
    assert used_in(turn / "outbox", ["q-1"]) == {"q-1"}
    assert spoken(turn, REQUEST).step is Step.ALLOW
    assert spoken(turn, REQUEST) == Decision(Step.DENY, UNKNOWN)
    assert spoken(turn, PRE) == Decision(Step.DENY, UNKNOWN)


def test_in_the_sandbox_a_call_that_no_rule_names_uses_nothing_up(turn: Path) -> None:
    write(Disk(), turn, TurnApprovals(refused=True, told=(told(Word.ALLOW),)))
    assert spoken(turn, PRE).step is Step.SILENCE
    assert spoken(turn, REQUEST).step is Step.ALLOW
    assert spoken(turn, REQUEST) == Decision(Step.DENY, UNKNOWN)


@pytest.mark.parametrize("rules", [(), RULES])
def test_what_a_person_has_chosen_is_to_be_called_in_place_of_it_and_runs_once(
    turn: Path, rules: tuple[str, ...]
) -> None:
    changed = told(Word.ALLOW, changed=as_input({"command": "make push"}))
    write(Disk(), turn, TurnApprovals(rules, refused=True, told=(changed,)))
    assert spoken(turn, REQUEST) == Decision(Step.DENY, f"{INSTEAD}make push")
    assert spoken(turn, PRE).step is (Step.DENY if rules else Step.SILENCE)
    assert not used_in(turn / "outbox", ["q-1"])
    assert spoken(turn, PRE, "make push").step is Step.ALLOW
    assert spoken(turn, REQUEST, "make push").step is Step.ALLOW
    assert spoken(turn, PRE, "make push") == Decision(Step.DENY, UNKNOWN)
    assert spoken(turn, REQUEST, "make push") == Decision(Step.DENY, UNKNOWN)


def test_a_patch_is_the_same_with_and_without_its_last_line_end(turn: Path) -> None:
    write(Disk(), turn, TurnApprovals(("apply_patch",), refused=True))
    spoken(turn, PRE, "*** End Patch\n", "apply_patch")
    spoken(turn, REQUEST, "*** End Patch", "apply_patch")
    assert len(asked_in(turn / "outbox")) == 1


def test_a_no_is_all_that_codex_hears_before_a_tool(turn: Path) -> None:
    assert as_json(PRE, Decision(Step.ALLOW, use="q-1"), Dialect.CODEX) == ""
    assert json.loads(as_json(PRE, Decision(Step.DENY, "no"), Dialect.CODEX))["hookSpecificOutput"] == {
        "hookEventName": PRE,
        "permissionDecision": "deny",
        "permissionDecisionReason": "no",
    }
    said = io.StringIO()
    run(turn / "gone", io.StringIO(json.dumps({"hook_event_name": REQUEST})), said, Dialect.CODEX)
    assert json.loads(said.getvalue())["hookSpecificOutput"]["decision"]["behavior"] == "deny"
