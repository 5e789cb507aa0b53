"""Which calls a person is asked about, when a call is the same, and what the hook says: pure."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agent_mailer.approvals.calls import MOST_INPUT, Call, Rule, as_input, call_of, is_named, rule_of, shown
from agent_mailer.approvals.hook import (
    ALREADY,
    FROM_THE_MAIN_AGENT,
    ONE_AT_A_TIME,
    TOO_MANY,
    UNKNOWN,
    Decision,
    Step,
    answer,
    as_json,
    before_a_tool,
    in_codex,
    instead_of_a_refusal,
)
from agent_mailer.approvals.turn import (
    MOST_ASKED,
    Told,
    TurnApprovals,
    Word,
    ask,
    asked_in,
    let_through,
    use_up,
    used_in,
    write,
)
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault


def bash(command: str, **more: object) -> Call:
    call = call_of("Bash", {"command": command, **more})
    assert call is not None
    return call


def test_how_a_command_is_run_is_shown_before_it_where_no_length_hides_it() -> None:
    call = bash("x" * 5000, description="nice", dangerouslyDisableSandbox=True, timeout=9)
    assert call.act == "x" * 5000
    assert call.beside == '{"dangerouslyDisableSandbox":true,"timeout":9}'
    assert shown(call).startswith('Bash {"dangerouslyDisableSandbox":true,"timeout":9}: xxx')
    assert shown(call).endswith("[cut: 5000 characters in all]")
    assert bash("ls", description="nice").beside == ""


def test_of_a_servers_tool_all_is_shown_and_all_makes_it_the_same() -> None:
    one, other = (call_of("mcp__hub__do", {"command": "publish", "description": text}) for text in ("a", "b"))
    assert one is not None
    assert other is not None
    assert one.digest != other.digest
    assert shown(one) == 'mcp__hub__do: {"command":"publish","description":"a"}'


def test_every_script_is_shown_as_it_is_and_what_deceives_the_eye_is_not() -> None:
    call = call_of("Write", {"content": "日本 ö \u202e \ud800", "file_path": "x"})
    assert call is not None
    assert call.input.isascii()
    assert shown(call) == 'Write: {"content":"日本 ö \\u202e \\ud800","file_path":"x"}'
    assert is_named(['mcp__x(*"日本"*)'], Call("mcp__x", as_input({"title": "日本"})))


@pytest.mark.parametrize(
    ("rule", "command"),
    [
        ("Bash", "ls"),
        ("Bash(*)", "ls"),
        ("B*", "ls"),
        ("Bash(git push *)", "git push origin main"),
        ("Bash(git push *)", "git push"),
        ("Bash(git push *)", "cd x && git  push"),
        ("Bash(git push *)", "true; sudo git push --force"),
        ("Bash(git push *)", "env A=1 git push"),
        ("Bash(git push *)", "sh -c 'git push origin'"),
        ("Bash(git push *)", "echo $(git push)"),
        ("Bash(git push *)", "git pu\\sh"),
        ("Bash(git push *)", "a\ngit push\nb"),
        ("Bash(rm *)", "find . | xargs rm -rf"),
    ],
)
def test_a_command_is_asked_about_wherever_it_stands(rule: str, command: str) -> None:
    assert is_named([rule], bash(command))


@pytest.mark.parametrize("beside", ["file_path", "notebook_path", "path", "url", "query"])
@pytest.mark.parametrize("command", ["sudo git push it", ["sudo", "git", "push", "it"]], ids=["text", "words"])
def test_a_command_is_asked_about_whatever_else_the_call_names(command: str | list[str], beside: str) -> None:
    for tool in ("shell", "mcp__hub__shell"):
        call = call_of(tool, {"command": command, beside: "/srv/work"})
        assert call is not None
        assert is_named([f"{tool}(git push *)"], call)
        # As an editor's `{"command": "view", "path": ...}`.
        assert is_named([f"{tool}(/srv/*)"], call)
        assert not is_named([f"{tool}(/etc/*)", f"{tool}(git fetch *)"], call)


@pytest.mark.parametrize("beside", [{}, {"path": "/srv/work"}], ids=["alone", "beside a path"])
def test_a_command_that_is_neither_text_nor_words_is_compared_by_all_that_the_call_says(beside: dict[str, str]) -> None:
    call = call_of("shell", {"command": {"argv": ["git", "push"]}, **beside})
    assert call is not None
    assert is_named(["shell(*git*push*)"], call)
    assert not is_named(["shell(*git*fetch*)"], call)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["Bash(git status)", "Bash(git push *)"], True),
        (["Bash(git push *)", "Bash(git status)"], True),
        (["Bash(git status)", "Bash"], True),
        (["WebFetch", "Bash(git fetch)", "B*(git push)"], True),
        (["WebFetch", "Bash(git status)", "Bash(git fetch)"], False),
    ],
)
def test_of_several_rules_each_asks(rules: list[str], named: bool) -> None:
    assert is_named(rules, bash("git push")) is named


def test_of_several_answers_each_is_for_its_own_call(tmp_path: Path) -> None:
    calls = [Call("Bash", f'{{"command":"{name}"}}', f"call-{name}") for name in ("one", "two", "one")]
    told = [
        Told(f"q-{number}", one.tool, one.input, one.digest, Word.ALLOW, call_id=f"{one.call_id}-{number}")
        for number, one in enumerate(calls)
    ]
    approvals = TurnApprovals(told=tuple(told))
    assert [approvals.pending(one.call_id) for one in told] == told
    assert [approvals.about(one.digest) for one in calls] == [told[2], told[1], told[2]], "the newest"
    assert [one.call_id for one in approvals.without_pending().told] == [""] * 3
    (tmp_path / "outbox").mkdir()
    for one in told[1:]:
        assert use_up(Disk(), tmp_path, one.id)
    assert used_in(tmp_path / "outbox", [one.id for one in told]) == {"q-1", "q-2"}


@pytest.mark.parametrize("between", ["||", "&&", ";", "&", "|", "\n", "(", ")", "{", "}", "`"])
def test_a_command_ends_where_the_shell_begins_another(between: str) -> None:
    assert is_named(["Bash(npm publish)"], bash(f"true{between}npm publish{between}true"))


@pytest.mark.parametrize(
    ("rule", "tool", "given"),
    [
        ("Bash(git push *)", "Bash", {"command": "git pull"}),
        ("Bash(git push *)", "Bash", {"command": "git pushes"}),
        ("Bash(git push *)", "Write", {"file_path": "git push"}),
        ("WebFetch(https://evil/*)", "WebFetch", {"url": "https://good/"}),
        ("mcp__*", "Bash", {"command": "x"}),
        ("mcp__*", "mcp__agent_mailer__read_message", {}),
        ("*", "mcp__agent_mailer__reply", {"body": "x"}),
    ],
)
def test_other_calls_are_not(rule: str, tool: str, given: dict[str, str]) -> None:
    call = call_of(tool, given)
    assert call is not None
    assert not is_named([rule], call)


def test_what_a_call_is_about_is_what_its_tool_touches() -> None:
    for tool, given, rule in (
        ("Write", {"file_path": "/etc/passwd", "content": "x"}, "Write(/etc/*)"),
        ("WebFetch", {"url": "https://evil/x", "prompt": "p"}, "WebFetch(https://evil/*)"),
        ("mcp__jira__close", {"id": 3}, 'mcp__jira__*(*"id":3*)'),
    ):
        call = call_of(tool, given)
        assert call is not None
        assert is_named([rule], call)


@pytest.mark.parametrize("rule", ["", "(x)", "Bash(", "Bash git", "Bash)x(", "a b"])
def test_what_is_no_rule_is_refused_with_the_command_that_mends_it(rule: str) -> None:
    with pytest.raises(ConfigFault, match=r"approve\.tools") as fault:
        rule_of(rule)
    assert "config set approve.tools" in fault.value.fix


def test_the_same_act_is_the_same_whatever_is_said_of_it() -> None:
    assert bash("ls", description="to look").digest == bash("ls", description="again").digest
    assert bash("ls").digest != bash("ls ").digest
    assert bash("ls").digest != bash("ls", timeout=3).digest
    one, other = call_of("Write", {"a": 1, "b": 2}), call_of("Write", {"b": 2, "a": 1})
    assert one is not None
    assert one == other
    description = call_of("Note", {"description": "x"})
    assert description is not None
    assert description.digest != call_of("Note", {"description": "y"}).digest  # type: ignore[union-attr]


@pytest.mark.parametrize("given", [None, [], "x", {"x": float("nan")}, {"x": "y" * MOST_INPUT}])
def test_nobody_is_asked_about_what_cannot_be_shown(given: object) -> None:
    assert call_of("Bash", given) is None


def test_what_is_shown_is_one_harmless_line() -> None:
    call = bash("echo \x1b[2J\n\u202erm -rf /\x00" + "x" * 5000)
    line = shown(call)
    assert line.isprintable()
    assert line.startswith("Bash: echo \\x1b[2J")
    assert "rm -rf /" in line
    assert line.endswith(f"[cut: {len(call.act)} characters in all]")


RULES = TurnApprovals(rules=("Bash(git push *)",), refused=True)
PUSH = Call("Bash", as_input({"command": "git push"}), "call-1")


def told(word: Word, call_id: str = "", **more: str) -> TurnApprovals:
    one = Told("q-1", PUSH.tool, PUSH.input, PUSH.digest, word, call_id, **more)
    return TurnApprovals(RULES.rules, refused=True, told=(one,))


def test_a_call_that_is_named_is_left_pending_and_no_other() -> None:
    assert before_a_tool(RULES, PUSH, sub_agent=False) == Decision(Step.DEFER)
    assert before_a_tool(RULES, bash("ls"), sub_agent=False) == Decision(Step.SILENCE)
    assert before_a_tool(RULES, PUSH, sub_agent=True) == Decision(Step.DENY, FROM_THE_MAIN_AGENT)
    plan = TurnApprovals(RULES.rules, forbidden="only plans")
    assert before_a_tool(plan, PUSH, sub_agent=False) == Decision(Step.DENY, "only plans")
    always = TurnApprovals(RULES.rules, always=(PUSH.digest,))
    assert before_a_tool(always, PUSH, sub_agent=False) == Decision(Step.ALLOW)


@pytest.mark.parametrize("call_id", ["", "call-1"])
def test_a_yes_of_before_is_kept_in_a_turn_that_only_plans(call_id: str) -> None:
    plans = msgspec.structs.replace(told(Word.ALLOW, call_id), forbidden="only plans")
    kept = Decision(Step.DENY, "only plans")
    assert before_a_tool(plans, Call(PUSH.tool, PUSH.input, call_id), sub_agent=False) == kept
    if not call_id:
        assert instead_of_a_refusal(plans, PUSH, sub_agent=False) == kept


def test_an_answer_to_the_pending_call_is_for_that_call_alone() -> None:
    allowed = told(Word.ALLOW, "call-1", changed='{"command":"true"}')
    assert before_a_tool(allowed, PUSH, sub_agent=False) == Decision(
        Step.ALLOW, use="q-1", changed='{"command":"true"}'
    )
    again = Call(PUSH.tool, PUSH.input, "call-2")
    assert before_a_tool(allowed, again, sub_agent=False) == Decision(Step.DENY, ALREADY)
    # Another call under that id was never asked about.
    assert before_a_tool(allowed, Call("Bash", as_input({"command": "rm x"}), "call-1"), sub_agent=False).step is (
        Step.SILENCE
    )
    assert before_a_tool(told(Word.DENY, "call-1", reason="friday"), again, sub_agent=False).why.endswith(": friday")
    assert before_a_tool(told(Word.UNKNOWN, "call-1"), PUSH, sub_agent=False) == Decision(Step.DENY, UNKNOWN)
    by_prompt = allowed.without_pending()
    assert before_a_tool(by_prompt, again, sub_agent=False).use == "q-1"


FORCE = bash("git push --force")


@pytest.mark.parametrize("newer", [Word.ALLOW, Word.DENY])
@pytest.mark.parametrize("asked", [PUSH, FORCE], ids=["asked twice", "chosen instead of another"])
def test_of_two_answers_about_a_call_the_newer_counts(asked: Call, newer: Word) -> None:
    other = Word.DENY if newer is Word.ALLOW else Word.ALLOW
    again = Told("q-2", asked.tool, asked.input, asked.digest, newer, changed="" if asked is PUSH else PUSH.input)
    older = told(other).told
    approvals = TurnApprovals(RULES.rules, refused=True, told=(*older, again))
    step = Step.ALLOW if newer is Word.ALLOW else Step.DENY
    for decision in (
        before_a_tool(approvals, PUSH, sub_agent=False),
        instead_of_a_refusal(approvals, PUSH, sub_agent=False),
        in_codex("PermissionRequest", approvals, PUSH, sub_agent=False),
    ):
        assert (decision.step, decision.use) == (step, "q-2" if newer is Word.ALLOW else "")


def test_what_the_mode_refuses_is_asked_by_mail_and_let_through_once() -> None:
    call = bash("curl x")
    assert instead_of_a_refusal(RULES, call, sub_agent=False).ask
    assert not instead_of_a_refusal(RULES, call, sub_agent=True).ask
    assert instead_of_a_refusal(TurnApprovals(), call, sub_agent=False) == Decision(Step.SILENCE)
    assert instead_of_a_refusal(told(Word.ALLOW), PUSH, sub_agent=True) == Decision(Step.ALLOW, use="q-1")


def spoken(directory: Path, event: str, command: str = "git push", **more: object) -> Decision:
    fields = {"tool_name": "Bash", "tool_input": {"command": command}, **more}
    return answer(Disk(), directory, event, fields)


@pytest.fixture
def turn(tmp_path: Path) -> Path:
    (tmp_path / "outbox").mkdir()
    write(Disk(), tmp_path, RULES)
    return tmp_path


def test_one_call_of_several_is_left_pending(turn: Path) -> None:
    assert spoken(turn, "PreToolUse", tool_use_id="1").step is Step.DEFER
    assert spoken(turn, "PreToolUse", tool_use_id="2") == Decision(Step.DENY, ONE_AT_A_TIME)


def test_a_yes_is_used_up_once_and_before_it_is_said(turn: Path) -> None:
    write(Disk(), turn, told(Word.ALLOW))
    assert spoken(turn, "PermissionRequest").step is Step.ALLOW
    assert used_in(turn / "outbox", ["q-1", "q-2"]) == {"q-1"}
    assert spoken(turn, "PermissionRequest") == Decision(Step.DENY, UNKNOWN)
    (turn / "outbox").rename(turn / "outbox.sealed")
    with pytest.raises(OSError, match="No such file"):
        spoken(turn, "PermissionRequest")


def test_what_was_allowed_is_said_word_for_word_so_that_no_quicker_hook_has_rewritten_it(turn: Path) -> None:
    write(Disk(), turn, told(Word.ALLOW, "1"))
    assert spoken(turn, "PreToolUse", PUSH.act, tool_use_id="1").changed == PUSH.input
    write(Disk(), turn, TurnApprovals(RULES.rules, always=(PUSH.digest,)))
    assert spoken(turn, "PreToolUse", PUSH.act, tool_use_id="2").changed == PUSH.input


def test_questions_are_bounded_and_what_is_none_is_passed_over(turn: Path) -> None:
    for number in range(MOST_ASKED):
        assert spoken(turn, "PermissionRequest", f"curl {number}").ask
    assert spoken(turn, "PermissionRequest", "curl 0").ask
    assert spoken(turn, "PermissionRequest", "curl more") == Decision(Step.DENY, TOO_MANY)
    (turn / "outbox" / "ask-0").write_text("{")
    (turn / "outbox" / f"ask-{'1' * 32}").write_text(json.dumps({"tool": "Bash", "input": '{"command":"x"}'}))
    (turn / "outbox" / "ask-2").symlink_to("/etc/passwd")
    # What an agent has put there itself takes the places of questions, and is none: the three come first by name.
    acts = {call.act for call in asked_in(turn / "outbox")}
    assert acts < {f"curl {number}" for number in range(MOST_ASKED)}
    assert len(acts) == MOST_ASKED - 1


def test_its_answers_have_the_form_of_the_programs() -> None:
    assert as_json("PreToolUse", Decision(Step.SILENCE)) == ""
    pre = json.loads(as_json("PreToolUse", Decision(Step.ALLOW, changed='{"a":1}')))["hookSpecificOutput"]
    assert (pre["permissionDecision"], pre["updatedInput"]) == ("allow", {"a": 1})
    request = json.loads(as_json("PermissionRequest", Decision(Step.DENY, "no")))["hookSpecificOutput"]
    assert request["decision"] == {"behavior": "deny", "message": "no"}


def left(turn: Path, call: Call) -> tuple[Call, ...]:
    assert ask(Disk(), turn, call)
    return asked_in(turn / "outbox")


def test_a_question_that_is_left_is_found_again_without_the_programs_own_name_of_it(turn: Path) -> None:
    call = bash("curl x")
    assert left(turn, msgspec.structs.replace(call, call_id="call-7", why="it is new")) == (
        msgspec.structs.replace(call, why="it is new"),
    )
    assert asked_in(turn / "none") == ()


def test_ten_questions_are_asked_in_a_turn_and_no_more(turn: Path) -> None:
    assert [ask(Disk(), turn, bash(f"curl {number}")) for number in range(12)] == [True] * 10 + [False] * 2
    assert len(asked_in(turn / "outbox")) == 10


def test_a_question_as_large_as_one_may_be_is_asked_and_no_larger_one(turn: Path) -> None:
    """An agent writes there as it likes: a name or an input that no call has is no question."""
    largest = Call("T" * 200, json.dumps("x" * (MOST_INPUT - 2)))
    assert len(largest.input) == 2**20
    assert left(turn, largest) == (largest,)
    for other in (Call("T" * 201, "{}"), Call("T", json.dumps("x" * (MOST_INPUT - 1)))):
        assert left(turn, other) == (largest,)


def test_what_is_let_through_is_used_up_and_goes_through_once(turn: Path) -> None:
    assert let_through(Disk(), turn, "q-1")
    assert used_in(turn / "outbox", ["q-1", "q-2"]) == {"q-1"}
    assert not use_up(Disk(), turn, "q-1")
    assert not let_through(Disk(), turn, "q-1")


def test_an_answer_says_no_more_than_it_was_given() -> None:
    one = Told("q", "Bash", "{}", "d", Word.ALLOW)
    assert (one.call_id, one.reason, one.changed, one.chosen) == ("", "", "", "")
    assert TurnApprovals() == TurnApprovals((), False, (), (), "", False)
    assert Call("Bash", "{}") == Call("Bash", "{}", "", "") == call_of("Bash", {})
    assert Rule("Bash") == Rule("Bash", "") == rule_of("Bash(*)") == rule_of(" Bash(**) ") == rule_of("Bash( )")


def test_what_a_call_says_of_itself_is_kept_up_to_its_bounds() -> None:
    call = call_of("T" * 200, {"a": 1}, call_id="i" * 201, why="w" * 4001)
    assert call == Call("T" * 200, '{"a":1}', "i" * 200, "w" * 4000)
    assert call_of("T" * 201, {"a": 1}) is None
    assert call_of("", {"a": 1}) is None
    frame = len(as_input({"x": ""}))
    assert call_of("T", {"x": "y" * (2**20 - frame)}) is not None
    assert call_of("T", {"x": "y" * (2**20 - frame + 1)}) is None


def test_a_command_of_words_is_one_that_a_shell_would_take() -> None:
    words = call_of("shell", {"command": ["git", "push it"], "timeout": 3})
    assert words is not None
    assert words.command == words.act == "git 'push it'"
    assert words.beside == '{"timeout":3}'
    assert is_named(["shell(git push*)"], words)
    for none in (["git", 3], 7, None):
        call = call_of("shell", {"command": none})
        assert call is not None
        assert call.command is None
        assert call.act == as_input({"command": none})


def test_an_act_that_is_no_command_is_shown_with_its_keys_in_order() -> None:
    assert Call("Write", '{"b":"é","a":{"d":1,"c":2}}').act == '{"a":{"c":2,"d":1},"b":"é"}'


def test_what_is_shown_is_cut_beyond_its_bound_and_says_so() -> None:
    assert shown(bash("x" * 4000)) == f"Bash: {'x' * 4000}"
    assert shown(bash("x" * 4001)) == f"Bash: {'x' * 4000} [cut: 4001 characters in all]"
    assert shown(Call("T" * 101, "{}")) == f"{'T' * 99}…: {{}}"
    with pytest.raises(ConfigFault, match=f"names '{'x ' * 49}x…', which") as fault:
        rule_of("x " * 99)
    assert (fault.value.code, fault.value.fix) == (
        "bad_rule",
        "agent-mailer config set approve.tools '\"Bash(git push *)\" WebFetch'",
    )


@pytest.mark.parametrize("key", ["command", "file_path", "notebook_path", "path", "url", "query"])
def test_a_rule_is_about_what_the_tool_is_to_touch(key: str) -> None:
    call = call_of("Touch", {"note": "other", key: "thing one"})
    assert call is not None
    assert is_named(["Touch(thing *)"], call)
    assert not is_named(["Touch(other)"], call)


def test_a_rule_sees_the_whole_command_each_of_its_parts_and_what_stands_in_quotes() -> None:
    assert is_named(["Bash(cd x && ls)"], bash("cd x && ls"))
    assert is_named(["Bash(git push *)"], bash('sh -c "git push origin"'))
    assert is_named(["Bash(git push)"], bash('"git" "push"'))
    assert is_named(["mcp__hub__do(git *)"], Call("mcp__hub__do", as_input({"command": "git push"})))
    assert is_named(["mcp__hub__do(cd x && *)"], Call("mcp__hub__do", as_input({"command": "cd x && ls"})))
    assert is_named(["T(*abc*)"], Call("T", '["abc"]'))
    # A net, and no wall: so far it looks.
    assert is_named(["Bash(git push)"], bash(" ".join(["a"] * 99 + ["git", "push"])))
    assert not is_named(["Bash(git push)"], bash(" ".join(["a"] * 100 + ["git", "push"])))
