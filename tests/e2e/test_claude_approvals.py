"""The real claude asks a person before it acts: with a call left pending in its session, and in place of a refusal."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests import procfs
from tests.desk import until
from tests.e2e.claude_desk import READ, ClaudeDesk, bash
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.sizes import LONG

from agent_mailer.approvals.hook import ASKED, EXPIRED, FROM_THE_MAIN_AGENT, ONE_AT_A_TIME, UNKNOWN
from agent_mailer.events import EventName

pytestmark = LONG


class AskingClaude(ClaudeDesk):
    """What it does it does by `acts.sh`, a line in `acts` each time."""

    def __init__(self, base: Path, fake: FakeAnthropic, *rules: str) -> None:
        super().__init__(base, fake)
        self.configure(approve={"tools": list(rules)})
        self.tell()
        (self.workdir / "act.sh").write_text('echo "$1" >>acts; echo "did $1"\n')

    def act(self, what: str = "one", **more: Any) -> Tool:
        return Tool("Bash", {"command": f"sh ./act.sh {what}", "description": "a step"}, **more)

    @property
    def acts(self) -> list[str]:
        path = self.workdir / "acts"
        return path.read_text().splitlines() if path.exists() else []

    def answer(self, *words: str) -> None:
        done = self.cli(*words)
        assert done.returncode == 0, done.stderr

    def approve(self, *words: str) -> None:
        self.answer("approve", self.codes()[-1], *words)


@pytest.fixture
def fake() -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        yield fake


@pytest.fixture
def desk(tmp_path: Path, fake: FakeAnthropic) -> AskingClaude:
    """A rule names the act; claude would refuse it, too."""
    return AskingClaude(tmp_path, fake, "Bash(sh ./act.sh *)")


@pytest.fixture
def mode(tmp_path: Path, fake: FakeAnthropic) -> AskingClaude:
    """Only the mode stands in the way."""
    return AskingClaude(tmp_path, fake)


def test_a_call_that_a_rule_names_is_left_pending_and_runs_once_after_the_yes(desk: AskingClaude) -> None:
    desk.fake.says(desk.act(say="I must."), Text("all is done"))
    sent = desk.send()
    assert desk.run() == ["asked"]
    assert desk.acts == desk.answered() == []
    [told] = desk.notices()
    assert told["act"] == "Bash: sh ./act.sh one"
    assert desk.state_file("retries.json")[sent]["asked"]
    assert desk.run() == []
    desk.approve()
    assert desk.run() == ["done"]
    assert desk.acts == ["one"]
    assert desk.answered() == ["all is done"]
    first, second = desk.fake.requests
    assert "did one" in second.tool_results[0]
    assert second.headers["x-claude-code-session-id"] == first.headers["x-claude-code-session-id"]
    # Nothing was asked of the model but to go on: no second prompt of ours.
    assert len([text for text in second.prompts if "Message:" in text]) == 1


def test_a_no_is_told_to_the_model_with_its_reason(desk: AskingClaude) -> None:
    desk.fake.says(desk.act(), Text("then not"))
    desk.send()
    assert desk.run() == ["asked"]
    desk.answer("deny", desk.codes()[-1], "not", "today")
    assert desk.run() == ["done"]
    assert desk.acts == []
    assert desk.answered() == ["then not"]
    assert "not today" in desk.fake.requests[-1].tool_results[-1]


def test_something_else_runs_instead(desk: AskingClaude) -> None:
    desk.fake.says(desk.act(), Text("fine"))
    desk.send()
    assert desk.run() == ["asked"]
    (desk.base / "other").write_text("sh ./act.sh two\n")
    desk.approve("--change", str(desk.base / "other"))
    assert desk.run() == ["done"]
    assert desk.acts == ["two"]


def test_what_is_allowed_for_good_runs_without_a_question(desk: AskingClaude) -> None:
    desk.fake.says(desk.act(), Text("first"))
    desk.send()
    assert desk.run() == ["asked"]
    desk.approve("--always")
    assert desk.run() == ["done"]
    desk.fake.says(desk.act(), Text("second"))
    desk.send("again")
    assert desk.run() == ["done"]
    assert desk.acts == ["one", "one"]
    assert len(desk.codes()) == 1


def test_what_is_allowed_for_good_is_not_done_in_plan_mode(tmp_path: Path, fake: FakeAnthropic) -> None:
    desk = AskingClaude(tmp_path, fake, "Write")
    made = desk.workdir / "made"
    write = Tool("Write", {"file_path": str(made), "content": "x"})
    desk.fake.says(write, Text("first"))
    desk.send()
    assert desk.run() == ["asked"]
    desk.approve("--always")
    assert desk.run() == ["done"]
    made.unlink()
    desk.configure(permission_mode="plan")
    desk.fake.says(write, Text("planned"))
    desk.send("again")
    assert desk.run() == ["done"]
    assert not made.exists()
    assert "only plans" in desk.fake.requests[-1].tool_results[-1]


def test_nobody_answers(desk: AskingClaude) -> None:
    desk.configure(approve={**desk.settings["approve"], "expires": 1})
    desk.fake.says(desk.act(), Text("without it"))
    desk.send()
    assert desk.run() == ["asked"]
    until(lambda: not desk.place().state.approvals.open(), "its time is over")
    assert desk.run() == ["done"]
    assert desk.cli("approve", desk.codes()[-1]).returncode == 1
    assert desk.acts == []
    assert EXPIRED in desk.fake.requests[-1].tool_results[-1]


def test_of_several_calls_at_once_one_is_asked_about_and_each_runs_once(desk: AskingClaude) -> None:
    desk.fake.says(desk.act("one", beside=(desk.act("two"), desk.act("three"))))
    desk.send()
    assert desk.run() == ["asked"]
    desk.fake.says(desk.act("two"), Text("enough"))
    desk.approve()
    assert desk.run() == ["asked"]
    assert desk.acts == ["one"]
    results = desk.fake.requests[-1].tool_results
    assert sum(result.count(ONE_AT_A_TIME) for result in results) == 2, results
    desk.approve()
    assert desk.run() == ["done"]
    assert desk.acts == ["one", "two"]
    assert desk.answered() == ["enough"]


def test_three_questions_one_after_another_are_one_answer(desk: AskingClaude) -> None:
    desk.fake.says(desk.act("one"), desk.act("two"), desk.act("three"), Text("all three"))
    desk.send()
    for _ in range(3):
        assert desk.run() == ["asked"]
        desk.approve()
    assert desk.run() == ["done"]
    assert desk.acts == ["one", "two", "three"]
    assert desk.answered() == ["all three"]
    assert len(desk.codes()) == 3


def test_a_sub_agent_is_told_to_leave_it_to_the_main_one(desk: AskingClaude) -> None:
    agent = Tool("Agent", {"description": "x", "prompt": "act", "subagent_type": "general-purpose"})
    desk.fake.says(agent, desk.act(), Text("sub-agent done"), Text("main done"))
    desk.send()
    assert desk.run() == ["done"]
    assert desk.acts == []
    said = [result for request in desk.fake.requests for result in request.tool_results]
    assert any(FROM_THE_MAIN_AGENT in one for one in said)


def test_what_the_mode_refuses_is_asked_and_let_through_once(mode: AskingClaude) -> None:
    mode.fake.says(mode.act(), Text("I have asked"))
    mode.send()
    assert mode.run() == ["asked"]
    assert mode.answered() == []
    assert ASKED in mode.fake.requests[-1].tool_results[-1]
    mode.approve()
    mode.fake.says(mode.act(), mode.act(), Text("done now"))
    assert mode.run() == ["done"]
    # Called a second time it had been used up.
    assert mode.acts == ["one"]
    assert any(UNKNOWN in result for result in mode.fake.requests[-1].tool_results)
    assert mode.answered() == ["done now"]
    assert any("What a person was asked" in text for text in mode.fake.requests[2].prompts)


def test_without_an_operator_the_senders_question_names_what_was_denied(mode: AskingClaude) -> None:
    del mode.settings["notify"]
    mode.configure()
    mode.fake.says(mode.act())
    mode.fake.default = Text("")
    mode.send()
    assert mode.run() == ["blocked"]
    [question] = mode.answered()
    assert "Bash: sh ./act.sh one" in question
    assert "config set notify.command" in question


def test_a_changed_command_in_place_of_a_refusal(mode: AskingClaude) -> None:
    mode.fake.says(mode.act(), Text("I have asked"))
    mode.send()
    assert mode.run() == ["asked"]
    (mode.base / "other").write_text("sh ./act.sh two\n")
    mode.approve("--change", str(mode.base / "other"))
    mode.fake.says(mode.act(), Text("done now"))
    assert mode.run() == ["done"]
    assert mode.acts == ["two"]


def test_claude_dies_while_the_allowed_call_runs_and_it_runs_no_second_time(desk: AskingClaude) -> None:
    (desk.workdir / "act.sh").write_text('echo "$1" >>acts; sleep 600\n')
    desk.fake.says(desk.act())
    sent = desk.send()
    assert desk.run() == ["asked"]
    desk.approve()
    with desk.watching():
        until(lambda: desk.acts, "the act")
        holder = desk.record()["process"]["pid"]
        for pid in desk.alive():
            if pid != holder and "act.sh" not in procfs.said(pid, "cmdline"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        desk.fake.says(desk.act(), Text("I looked: it was done"))
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) >= 3, "the turn after it", 60)
    assert desk.acts == ["one"]
    assert desk.answered() == ["I looked: it was done"]
    assert sent in (desk.state / "processed.txt").read_text()


def test_the_watcher_dies_while_the_allowed_call_runs(desk: AskingClaude) -> None:
    (desk.workdir / "act.sh").write_text('echo "$1" >>acts; while [ ! -e go ]; do sleep 0.1; done; echo did\n')
    desk.fake.says(desk.act(), Text("done"))
    desk.send()
    assert desk.run() == ["asked"]
    desk.approve()
    with desk.watching() as watcher:
        until(lambda: desk.acts, "the act")
        watcher.kill()
        watcher.wait()
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
            (desk.workdir / "go").touch()
            until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 2, "the settlement")
    assert desk.end()["outcome"] == "done"
    assert desk.acts == ["one"]
    assert desk.answered() == ["done"]


def test_other_mail_of_the_thread_waits_and_does_not_destroy_the_pending_call(desk: AskingClaude) -> None:
    desk.fake.says(desk.act(), Text("first done"), Text("second done"))
    desk.send(thread="t")
    assert desk.run() == ["asked"]
    desk.send("more", thread="t")
    assert desk.run() == []
    desk.approve()
    assert desk.run() == ["done", "done"]
    assert desk.acts == ["one"]
    assert desk.answered() == ["first done", "second done"]


def test_a_call_that_is_pending_no_longer_is_called_again_and_runs_once(desk: AskingClaude) -> None:
    """As after an upgrade that knows nothing of it, or when somebody went on in that session."""
    desk.fake.says(desk.act())
    desk.send()
    assert desk.run() == ["asked"]
    [transcript] = desk.transcripts()
    lines = [line for line in transcript.read_text().splitlines() if "deferred" not in line]
    transcript.write_text("\n".join(lines) + "\n")
    desk.approve()
    desk.fake.says(desk.act(), Text("done after all"))
    assert desk.run()[-1:] in (["done"], ["asked"])
    if desk.acts == []:
        assert desk.run() == ["done"]
    assert desk.acts == ["one"]
    assert desk.answered() == ["done after all"]


@pytest.mark.parametrize("settings", [{"disableAllHooks": True}, {"hooks": {}}, {"permissions": {"allow": ["Bash"]}}])
def test_the_project_switches_nothing_off(desk: AskingClaude, settings: dict[str, Any]) -> None:
    for name in ("settings.json", "settings.local.json"):
        (desk.workdir / ".claude").mkdir(exist_ok=True)
        (desk.workdir / ".claude" / name).write_text(json.dumps(settings))
    desk.fake.says(desk.act(), Text("not asked"))
    desk.send()
    assert desk.run() == ["asked"]
    assert desk.acts == []


def test_settings_of_ones_own_keep_the_hooks(desk: AskingClaude) -> None:
    own = {"disableAllHooks": True, "hooks": {"PreToolUse": [{"matcher": "Read", "hooks": []}]}}
    desk.configure(extra_args=["--settings", json.dumps(own), "--allowedTools", "Bash"])
    desk.fake.says(desk.act(), Text("not asked"))
    desk.send()
    assert desk.run() == ["asked"]
    assert desk.acts == []


def test_in_plan_mode_nothing_is_asked(desk: AskingClaude) -> None:
    desk.configure(permission_mode="plan")
    desk.fake.says(desk.act(), Text("only planned"))
    desk.send()
    assert desk.run() == ["done"]
    assert desk.acts == []
    assert desk.codes() == []
    assert "only plans" in desk.fake.requests[-1].tool_results[-1]


def test_whoever_allows_everything_is_asked_about_what_a_rule_names(desk: AskingClaude) -> None:
    desk.configure(permission_mode="bypassPermissions")
    desk.fake.says(bash("echo free >>acts"), desk.act(), Text("done"))
    desk.send()
    assert desk.run() == ["asked"]
    assert desk.acts == ["free"]
    desk.approve()
    assert desk.run() == ["done"]
    assert desk.acts == ["free", "one"]


def test_a_machine_on_which_no_hook_of_ours_is_heard_runs_nothing(desk: AskingClaude) -> None:
    """As by an administrator's settings, which no argument of ours can undo: here by a hook that cannot start."""
    desk.fake.says(desk.act(), Text("not asked"))
    runtime = desk.workdir / "claude"
    none = """case $word in *SessionStart*) word='{"disableAllHooks":true}';; esac"""
    words = f'for word; do shift; {none}; set -- "$@" "$word"; done'
    runtime.write_text(f'#!/bin/sh\n{words}\nexec {desk.settings["claude_command"]} "$@"\n')
    runtime.chmod(0o755)
    desk.configure(claude_command=str(runtime), extra_args=["--allowedTools", "Bash"])
    desk.send()
    assert desk.run() == ["unavailable"]
    assert "does not ask before it acts" in desk.end()["detail"]
    assert desk.acts == []


BREAK_IN = """
cat "$1"/*/* && echo read
for name in $(ls "$1"); do echo '{"verdict":"allow","at":1,"by":"command"}' >"$1/$name/$2.answer" && echo wrote; done
unset AGENT_MAILER_TURN_DIR AGENT_MAILER_TURN_ID
agent-mailer -C . approvals list && echo listed
{python} -m agent_mailer.cli.app approve "$3" && echo approved
echo '{{"verb":"answered","targets":["$2"]}}' >.agent-mailer/requests/1.json && echo requested
echo over
"""


@pytest.mark.parametrize("kind", ["bwrap", "landlock"])
def test_in_a_sandbox_the_agent_answers_itself_by_no_way(
    tmp_path: Path, fake: FakeAnthropic, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    desk = AskingClaude(tmp_path, fake, "Bash(sh ./act.sh *)")
    desk.configure(sandbox={"kind": kind}, extra_args=["--allowedTools", "Bash(sh ./break.sh *)"], max_parallel_turns=2)
    (desk.workdir / "break.sh").write_text(
        BREAK_IN.replace("{python}", sys.executable).replace("{{", "{").replace("}}", "}")
    )
    # Landlock lets no new file be made right in the workdir.
    (desk.workdir / "acts").touch()
    fake.says(desk.act())
    desk.send(thread="asks")
    assert desk.run() == ["asked"], desk.end()
    [asked] = desk.place().state.approvals.open()
    state = desk.place().state.approvals.folder.parent
    fake.says(bash(f"sh ./break.sh {state} {asked.id} {asked.code}"), Text("tried"))
    desk.send(thread="breaks in")
    assert desk.run() == ["done"], desk.end()
    said = fake.requests[-1].tool_results[0]
    assert "over" in said
    for word in ("read", "wrote", "listed", "approved", "requested"):
        assert word not in said.splitlines(), said
    assert asked.code not in said
    assert desk.place().state.approvals.open() == [asked]
    assert not json.loads(desk.cli("status", "--json").stdout)["self_approving"]
    fake.says(Text("done"))
    desk.approve()
    assert desk.run() == ["done"], desk.end()
    assert desk.acts == ["one"]


def test_without_one_it_can_and_status_says_so(desk: AskingClaude) -> None:
    desk.fake.says(desk.act())
    desk.send()
    assert desk.run() == ["asked"]
    assert json.loads(desk.cli("status", "--json").stdout)["self_approving"]
    assert "may give itself one" in desk.cli("status").stdout


def test_a_rule_over_all_tools_asks_nobody_whether_mail_may_be_read(tmp_path: Path, fake: FakeAnthropic) -> None:
    desk = AskingClaude(tmp_path, fake, "*")
    fake.says(READ, desk.act())
    desk.send("the secret word is MARZIPAN")
    assert desk.run() == ["asked"]
    assert "MARZIPAN" in fake.requests[-1].tool_results[0]
    assert desk.place().state.approvals.open()[0].call.tool == "Bash"
