"""The real codex asks a person before it acts: what its sandbox keeps from it, and what a rule names."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.desk import until
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_openai import (
    CODE_MODEL,
    PLAIN_MODEL,
    FakeOpenAI,
    Mail,
    Patch,
    Say,
    Shell,
    Spawn,
    Together,
    fake_openai,
)
from tests.sizes import LONG

from agent_mailer.approvals.hook import ASKED, EXPIRED, FROM_THE_MAIN_AGENT, INSTEAD, NOT_ASKED, UNKNOWN
from agent_mailer.events import EventName
from agent_mailer.runtimes.codex.asking import asking_words
from agent_mailer.runtimes.port import Asking

pytestmark = LONG


class AskingCodex(CodexDesk):
    """What it does it does by `act.sh`, a line in `acts` each time: in a place that its sandbox keeps from it."""

    def __init__(self, base: Path, fake: FakeOpenAI, *rules: str, operator: bool = True) -> None:
        super().__init__(base, fake)
        self.outside = base / "outside"
        self.outside.mkdir()
        self.configure(
            model=PLAIN_MODEL,
            auto_reply="if-silent",
            approve={"tools": list(rules)},
        )
        if operator:
            self.tell()
        self.script_of_act('echo "$1" >>acts; echo "did $1"')

    def script_of_act(self, then: str) -> None:
        (self.outside / "act.sh").write_text(f'cd "{self.outside}" || exit\n{then}\n')

    def act(self, what: str = "one", *, beyond: bool = True) -> Shell:
        """`beyond`: out of the sandbox."""
        return Shell(f"sh {self.outside}/act.sh {what}", beyond="it is needed" if beyond else "")

    @property
    def acts(self) -> list[str]:
        path = self.outside / "acts"
        return path.read_text().splitlines() if path.exists() else []

    def approve(self, *words: str) -> None:
        self.cli("approve", self.codes()[-1], *words)

    def model_was_told(self, words: str, request: int = -1) -> bool:
        return any(words in text for text in self.fake.texts(request))


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with fake_openai() as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path, fake: FakeOpenAI) -> AskingCodex:
    """Only the sandbox stands in the way."""
    return AskingCodex(tmp_path, fake)


@pytest.fixture
def ruled(tmp_path: Path, fake: FakeOpenAI) -> AskingCodex:
    """A rule names the act, in the sandbox and beyond it."""
    return AskingCodex(tmp_path, fake, "Bash(sh */act.sh *)")


@pytest.mark.parametrize("model", [PLAIN_MODEL, CODE_MODEL])
def test_what_the_sandbox_refuses_is_asked_and_let_through_once(desk: AskingCodex, model: str) -> None:
    desk.configure(model=model)
    desk.fake.script(desk.act(), Say("I have asked"))
    sent = desk.send()
    assert desk.run() == ["asked"]
    assert desk.acts == desk.answered() == []
    [told] = desk.notices()
    assert (told["act"], told["said"]) == (f"Bash: sh {desk.outside}/act.sh one", "it is needed")
    assert desk.model_was_told(ASKED)
    assert desk.retry(sent)["asked"]
    session = desk.retry(sent)["provisional"]["session_id"]
    assert desk.run() == []
    desk.approve()
    desk.fake.script(desk.act(), desk.act(), Say("done now"))
    assert desk.run() == ["done"]
    # Called a second time it had been used up.
    assert desk.acts == ["one"]
    assert desk.model_was_told(UNKNOWN)
    assert desk.model_was_told("What a person was asked", 2)
    assert desk.answered() == ["done now"]
    assert desk.session() == session
    assert len(desk.codes()) == 1


def test_a_no_is_told_to_the_model_with_its_reason(desk: AskingCodex) -> None:
    desk.fake.script(desk.act(), Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    desk.cli("deny", desk.codes()[-1], "not", "today")
    desk.fake.script(desk.act(), Say("then not"))
    assert desk.run() == ["done"]
    assert desk.acts == []
    assert desk.model_was_told("not today")
    assert desk.answered() == ["then not"]


@pytest.mark.parametrize("rules", [(), ("Bash(sh */act.sh *)",)])
def test_what_a_person_has_chosen_instead_runs_once(tmp_path: Path, fake: FakeOpenAI, rules: tuple[str, ...]) -> None:
    desk = AskingCodex(tmp_path, fake, *rules)
    fake.script(desk.act(), Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    (desk.base / "other").write_text(f"sh {desk.outside}/act.sh two\n")
    desk.approve("--change", str(desk.base / "other"))
    fake.script(desk.act(), desk.act("two"), desk.act("two"), Say("done now"))
    assert desk.run() == ["done"]
    assert desk.acts == ["two"]
    assert desk.model_was_told(f"{INSTEAD}sh {desk.outside}/act.sh two")
    assert desk.model_was_told(UNKNOWN)
    assert desk.answered() == ["done now"]


def test_what_is_allowed_for_good_runs_without_a_question(ruled: AskingCodex) -> None:
    ruled.fake.script(ruled.act(), Say("I have asked"))
    ruled.send()
    assert ruled.run() == ["asked"]
    ruled.approve("--always")
    ruled.fake.script(ruled.act(), Say("first"))
    assert ruled.run() == ["done"]
    ruled.fake.script(ruled.act(), ruled.act(), Say("second"))
    ruled.send("again")
    assert ruled.run() == ["done"]
    assert ruled.acts == ["one"] * 3
    assert len(ruled.codes()) == 1


def test_nobody_answers_and_a_late_yes_counts_for_nothing(desk: AskingCodex) -> None:
    desk.configure(approve={"expires": 1})
    desk.fake.script(desk.act(), Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    until(lambda: not desk.place().state.approvals.open(), "its time is over")
    desk.fake.script(desk.act(), Say("without it"))
    assert desk.run() == ["done"]
    with pytest.raises(AssertionError, match="came too late: nobody had answered"):
        desk.approve()
    assert desk.acts == []
    assert desk.model_was_told(EXPIRED)
    assert desk.answered() == ["without it"]


def test_two_calls_at_once_are_two_questions_and_run_once_each(desk: AskingCodex) -> None:
    both = Together((desk.act("one"), desk.act("two")))
    desk.fake.script(both, Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    one, two = desk.codes()
    desk.cli("approve", one)
    assert desk.run() == []
    desk.cli("approve", two)
    desk.fake.script(both, both, Say("done"))
    assert desk.run() == ["done"]
    assert sorted(desk.acts) == ["one", "two"]
    assert desk.answered() == ["done"]


def test_three_questions_one_after_another_are_one_answer(ruled: AskingCodex) -> None:
    ruled.fake.script(ruled.act("1"), Say("asked"))
    ruled.send()
    for number in (1, 2, 3):
        assert ruled.run() == ["asked"]
        ruled.approve()
        more = [ruled.act(str(number + 1))] if number < 3 else []
        ruled.fake.script(ruled.act(str(number)), *more, Say("said"))
    assert ruled.run() == ["done"]
    assert ruled.acts == ["1", "2", "3"]
    assert ruled.answered() == ["said"]
    assert len(ruled.codes()) == 3


def test_a_rule_asks_before_a_call_that_would_run_unasked(ruled: AskingCodex) -> None:
    (ruled.workdir / "act.sh").write_text('echo "$1" >>acts\n')
    within = Shell(f"sh {ruled.workdir}/act.sh one")
    ruled.fake.script(Shell("echo free >>acts"), within, Say("I have asked"))
    ruled.send()
    assert ruled.run() == ["asked"]
    assert (ruled.workdir / "acts").read_text() == "free\n"
    ruled.approve()
    ruled.fake.script(within, within, Say("done"))
    assert ruled.run() == ["done"]
    assert (ruled.workdir / "acts").read_text() == "free\none\n"
    assert ruled.model_was_told(UNKNOWN)


def test_a_patch_beyond_the_sandbox_is_one_question(tmp_path: Path, fake: FakeOpenAI) -> None:
    desk = AskingCodex(tmp_path, fake, "apply_patch")
    desk.configure(model=CODE_MODEL)
    patch = Patch(f"*** Begin Patch\n*** Add File: {desk.outside}/new\n+hi\n*** End Patch\n")
    fake.script(patch, Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    assert not (desk.outside / "new").exists()
    desk.approve()
    fake.script(patch, Say("done"))
    assert desk.run() == ["done"]
    assert (desk.outside / "new").read_text() == "hi\n"


def test_a_server_of_ones_own_is_asked_about(desk: AskingCodex) -> None:
    server = Path(__file__).with_name("poked_server.py")
    poked = desk.base / "poked"
    table = f'{{command="{sys.executable}",args=["{server}","{poked}"]}}'
    desk.configure(extra_args=[*desk.fake.provider(), "-c", f"mcp_servers.own={table}"])
    poke = Mail("poke", {"what": "x"}, server="own")
    desk.fake.script(poke, Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    assert desk.notices()[0]["act"] == 'mcp__own__poke: {"what":"x"}'
    assert not poked.exists()
    desk.approve()
    desk.fake.script(poke, poke, Say("done"))
    assert desk.run() == ["done"]
    assert poked.read_text() == "x\n"


def test_a_rule_over_all_servers_does_not_name_our_own_mail_tools(tmp_path: Path, fake: FakeOpenAI) -> None:
    desk = AskingCodex(tmp_path, fake, "mcp__*")
    fake.script(Mail("reply", {"body": "the answer"}), Say("done"))
    desk.send()
    assert desk.run() == ["done"]
    assert desk.answered() == ["the answer"]


def test_a_sub_agent_is_told_to_leave_it_to_the_main_one(desk: AskingCodex) -> None:
    # Both ask the model side by side: so many acts that each of them gets one, however the machine is loaded.
    desk.fake.script(Spawn("act"), *[desk.act()] * 16, *map(Say, ("one", "two", "three")))
    desk.send()
    assert desk.run() in (["asked"], ["done"])
    assert desk.acts == []
    assert any(desk.model_was_told(FROM_THE_MAIN_AGENT, at) for at in range(len(desk.fake.asked)))


def test_codex_dies_while_the_allowed_call_runs_and_it_runs_no_second_time(desk: AskingCodex) -> None:
    desk.script_of_act('echo "$1" >>acts; sleep 600')
    desk.fake.script(desk.act(), Say("I have asked"))
    sent = desk.send()
    assert desk.run() == ["asked"]
    desk.approve()
    desk.fake.script(desk.act())
    with desk.watching():
        until(lambda: desk.acts, "the act")
        desk.fake.script(desk.act(), Say("I looked: it was done"))
        for pid in desk.alive():
            with suppress(FileNotFoundError, ProcessLookupError):
                if os.readlink(f"/proc/{pid}/exe").endswith("/codex"):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) >= 3, "the turn after it")
    assert desk.acts == ["one"]
    assert desk.model_was_told(UNKNOWN)
    assert desk.answered() == ["I looked: it was done"]
    assert sent in (desk.state / "processed.txt").read_text()


def test_the_watcher_dies_while_the_allowed_call_runs(desk: AskingCodex) -> None:
    desk.script_of_act('echo "$1" >>acts; while [ ! -e go ]; do sleep 0.1; done; echo did')
    desk.fake.script(desk.act(), Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    desk.approve()
    desk.fake.script(desk.act(), Say("done"))
    with desk.watching() as watcher:
        until(lambda: desk.acts, "the act")
        watcher.kill()
        watcher.wait()
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
            (desk.outside / "go").touch()
            until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 2, "the settlement")
    assert desk.acts == ["one"]
    assert desk.answered() == ["done"]


ALLOWS = '{"outcome":"allow","risk_level":"low","user_authorization":"high","rationale":"ok"}'


@pytest.mark.parametrize("how", ["it is not there", "it says nothing"])
def test_a_hook_that_does_not_answer_allows_nothing(ruled: AskingCodex, how: str) -> None:
    """Neither does the model that codex would ask in a person's place."""
    hook = {"it is not there": "/nonexistent/hook", "it says nothing": "/bin/true"}[how]
    broken = list(asking_words(Asking((hook,), ("Bash",)), (), refuses=True))
    program = ruled.base / "codex"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nwords, real = sys.argv[1:], {ruled.settings['codex_command']!r}\n"
        f"at = min((words.index(word) for word in ('resume', '--json') if word in words), default=len(words))\n"
        f"if any('PermissionRequest' in word for word in words):\n    words[at:at] = {broken!r}\n"
        "os.execv(real, [real, *words])\n"
    )
    program.chmod(0o755)
    ruled.configure(codex_command=str(program))
    ruled.fake.script(ruled.act(), Say(ALLOWS), Say(ALLOWS), Say("not done"))
    ruled.send()
    ruled.run()
    assert ruled.acts == []
    assert ruled.codes() == []
    assert len(ruled.fake.asked) == 2, "no other model was asked"


SWITCHES_OFF = """
approvals_reviewer = "user"
approval_policy = "never"
[features]
hooks = false
[auto_review]
timeout_ms = 60000
[hooks.state."/<session-flags>/config.toml:pre_tool_use:0:0"]
enabled = false
[hooks.state."/<session-flags>/config.toml:permission_request:0:0"]
enabled = false
"""


def test_settings_of_project_and_person_switch_nothing_off(ruled: AskingCodex) -> None:
    (ruled.workdir / ".codex").mkdir()
    (ruled.workdir / ".codex" / "config.toml").write_text(SWITCHES_OFF)
    trusts = f'[projects."{ruled.workdir}"]\ntrust_level = "trusted"\n'
    (ruled.home / "config.toml").write_text(f"{SWITCHES_OFF}{trusts}")
    ruled.fake.script(ruled.act(), Say("I have asked"))
    ruled.send()
    assert ruled.run() == ["asked"]
    assert ruled.acts == []


def test_a_codex_whose_hooks_are_switched_off_by_hand_starts_no_turn(ruled: AskingCodex) -> None:
    ruled.configure(extra_args=[*ruled.fake.provider(), "--disable", "hooks"])
    ruled.fake.script(ruled.act(), Say("not asked"))
    ruled.send()
    assert ruled.run() == ["unavailable"]
    assert "codex does not ask before it acts" in ruled.detail()
    assert ruled.fake.asked == []


def test_doctor_shows_that_codex_asks(desk: AskingCodex) -> None:
    assert "codex asks a person before what it may not do by itself" in desk.cli("doctor", "--verbose")
    assert desk.fake.asked == []
    assert desk.rollouts() == []


def test_in_plan_mode_nothing_is_asked(ruled: AskingCodex) -> None:
    ruled.configure(permission_mode="plan")
    ruled.fake.script(ruled.act(), ruled.act(beyond=False), Say("only planned"))
    ruled.send()
    assert ruled.run() == ["done"]
    assert ruled.acts == ruled.codes() == []
    assert ruled.model_was_told("only plans")


def test_whoever_allows_everything_is_asked_about_what_a_rule_names(ruled: AskingCodex) -> None:
    ruled.configure(permission_mode="bypassPermissions")
    ruled.fake.script(Shell(f"echo free >>{ruled.outside}/acts"), ruled.act(beyond=False), Say("I have asked"))
    ruled.send()
    assert ruled.run() == ["asked"]
    assert ruled.acts == ["free"]
    ruled.approve()
    ruled.fake.script(ruled.act(beyond=False), Say("done"))
    assert ruled.run() == ["done"]
    assert ruled.acts == ["free", "one"]


def test_without_an_operator_and_without_rules_nothing_changes(tmp_path: Path, fake: FakeOpenAI) -> None:
    desk = AskingCodex(tmp_path, fake, operator=False)
    fake.script(desk.act(), Say("I may not"))
    desk.send()
    assert desk.run() == ["done"]
    assert desk.answered() == ["I may not"]
    assert desk.model_was_told("approval policy is Never")


def test_with_rules_alone_other_calls_beyond_the_sandbox_are_refused(tmp_path: Path, fake: FakeOpenAI) -> None:
    desk = AskingCodex(tmp_path, fake, "Bash(git push *)", operator=False)
    fake.script(desk.act(), Say("I may not"))
    desk.send()
    assert desk.run() == ["done"]
    assert desk.model_was_told(NOT_ASKED)
    assert desk.acts == []


def test_a_lost_session_is_told_of_the_yes_and_the_call_runs_once(desk: AskingCodex) -> None:
    desk.fake.script(desk.act(), Say("I have asked"))
    desk.send()
    assert desk.run() == ["asked"]
    for rollout in desk.rollouts():
        rollout.unlink()
    desk.approve()
    desk.fake.script(desk.act(), Say("done"))
    with desk.watching():
        until(desk.answered, "the turn in a session of its own")
    assert desk.acts == ["one"]
    assert desk.answered() == ["done"]


def test_within_a_sandbox_of_ours_codex_asks_and_goes_on() -> None:
    if not os.access("/var/lib", os.W_OK) or (shutil.which("bwrap") is None and not os.environ.get("CI")):
        pytest.skip("it takes bubblewrap, and a place that is not below /tmp")
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="agent-mailer-test-") as base, fake_openai() as fake:
        desk = AskingCodex(Path(base), fake)
        desk.configure(sandbox={"kind": "bwrap"})
        # Codex's own sandbox refuses it, and ours does not.
        desk.outside = desk.home
        desk.script_of_act('echo "$1" >>acts')
        fake.script(desk.act(), Say("I have asked"))
        desk.send()
        assert desk.run() == ["asked"], desk.detail()
        desk.approve()
        fake.script(desk.act(), desk.act(), Say("done"))
        assert desk.run() == ["done"]
        assert desk.acts == ["one"]
        assert desk.model_was_told(UNKNOWN)
