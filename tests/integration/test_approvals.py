"""A yes by mail: asked once, answered once, used up once, and nothing waits meanwhile."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.clocks import FakeClock
from tests.desk import CLI, Desk, outcomes, until
from tests.pages import PROJECT
from tests.sizes import LONG
from tests.typed import Typed, type_in

from agent_mailer.events import EventName
from agent_mailer.state.approvals import Answer, Approval, By, Verdict
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.watch.asking import apply

PUSH = "git push origin"


class AskingDesk(Desk):
    def __init__(self, base: Path, *acts: str) -> None:
        super().__init__(base)
        self.done = base / "done"
        plan = {"acts": acts or (PUSH,), "done": str(self.done), "use": [*CLI, "approvals", "use"]}
        (base / "plan.json").write_text(json.dumps(plan))
        self.configure(
            command=[sys.executable, "-m", "tests.asking_agent", str(base / "plan.json")],
            command_output="jsonl",
            permission_mode="acceptEdits",
            env={"set": {"PYTHONPATH": str(PROJECT)}},
        )
        self.tell()

    def acts(self) -> list[str]:
        return self.done.read_text().splitlines() if self.done.exists() else []

    def say(self, *words: str, code: int = 0, **env: str) -> Typed:
        said = type_in(self.workdir, *words, env=env)
        assert said.status == code, said
        return said

    def asked(self) -> list[Approval]:
        return self.place().state.approvals.all()


@pytest.fixture
def desk(tmp_path: Path) -> AskingDesk:
    return AskingDesk(tmp_path)


def test_nothing_waits_until_the_yes_comes_and_the_sender_gets_one_answer(desk: AskingDesk) -> None:
    sent = desk.send("push it")
    with desk.watching() as watcher:
        until(desk.codes, "the operator is told")
        assert outcomes_of(desk) == ["asked"]
        assert desk.acts() == desk.answered() == []
        [notice] = desk.notices()
        assert notice["act"] == f"Bash: {PUSH}"
        assert notice["said"] == "it is \\x1b[31mneeded"
        assert (notice["message_id"], notice["workdir"]) == (sent, str(desk.workdir))
        status = desk.say("status", "--json").json
        assert status["healthy"]
        assert [(one["tool"], one["message_id"]) for one in status["asked"]] == [("Bash", sent)]
        assert status["self_approving"]
        assert not status["retries"]
        shown = desk.say("status").out
        assert "1 for your yes: Bash" in shown
        assert "may give itself one" in shown
        said = desk.say("approve", notice["code"].lower().replace("-", " "))
        assert said.out == f"allowed, once: Bash: {PUSH}\n"
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 2, "the answer is sent, and all is written down")
        assert watcher.poll() is None
    assert desk.acts() == [PUSH]
    assert desk.answered() == ["all 1 done"]
    assert outcomes_of(desk) == ["asked", "done"]
    [asked] = desk.asked()
    assert asked.over
    assert asked.used
    [answered] = desk.log(EventName.APPROVAL_ANSWERED)
    assert (answered["verdict"], answered["by"]) == ("allow", "command")
    settled = desk.place().state.turns.load(asked.used)
    assert settled is not None
    assert (settled.attempt, settled.starts, settled.resume) == (1, 1, "s-1")
    assert len(desk.codes()) == 1


@LONG
def test_whoever_waits_for_the_answer_is_told_for_what_it_waits(desk: AskingDesk) -> None:
    known_workdirs(desk.disk).remember(desk.workdir)
    with desk.watching():
        waited = desk.say("send", "--to", "coder", "--subject", "s", "--body", "b", "--wait", "3", code=4)
    assert "waits for a person's yes: agent-mailer approvals list" in waited.err


def outcomes_of(desk: Desk) -> list[str]:
    return [event["outcome"] for event in desk.log(EventName.TURN_ENDED)]


def test_the_code_stands_nowhere_in_the_workdir_nor_in_the_mail(desk: AskingDesk) -> None:
    desk.configure(notify={**desk.settings["notify"], "address": "planner"})
    desk.send()
    desk.once()
    [code] = desk.codes()
    [mail] = desk.inbox("planner")
    assert f"Bash: {PUSH}" in mail.body
    assert "agent-mailer approvals list" in mail.body
    for text in (code, code.replace("-", "")):
        for folder in (desk.state, desk.root):
            for path in folder.rglob("*"):
                assert not path.is_file() or text.encode() not in path.read_bytes(), path


@LONG
def test_where_a_sandbox_hides_the_mail_it_carries_the_code(desk: AskingDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    desk.say("watch", "--once")
    policy = desk.place().policy()
    assert not policy.approve.tells_codes
    desk.say("config", "set", "sandbox.kind", "bwrap")
    assert desk.place().policy().approve.tells_codes
    desk.say("config", "set", "sandbox.mailbox", "write")
    assert not desk.place().policy().approve.tells_codes


def test_a_no_is_told_with_its_reason_and_nothing_is_done(desk: AskingDesk) -> None:
    """What was asked is answered, although nothing is to be asked about any more."""
    desk.send()
    desk.once()
    assert desk.say("deny", *desk.codes(), "not", "on a friday").out == f"denied: Bash: {PUSH}\n"
    desk.configure(approve={"refused": False})
    assert not desk.place().policy().approve.asks
    desk.once()
    assert desk.answered() == ["deny: not on a friday"]
    prompt = (desk.base / "prompt").read_text()
    assert f"What a person was asked for you is answered:\n- Bash: {PUSH}\n" in prompt
    assert "(not on a friday)" in prompt
    assert desk.acts() == []


def test_what_nobody_answers_in_time_is_over_and_a_late_yes_counts_for_nothing(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    assert outcomes(desk.once()) == []
    place = desk.place(FakeClock(time.time() + 4 * 86400))
    assert not place.state.approvals.open()
    assert outcomes(desk.once(FakeClock(time.time() + 4 * 86400))) == ["done"]
    assert desk.answered() == ["expired:"]
    late = desk.say("approve", *desk.codes(), code=1)
    said = " ".join(late.err.split())
    assert said.startswith("error: it came too late: nobody had answered, ")
    assert "nothing was changed" in said
    assert desk.acts() == []


@LONG
def test_something_else_can_be_run_instead(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    (desk.base / "change").write_text("git push --dry-run\n")
    desk.say("approve", *desk.codes(), "--change", str(desk.base / "change"))
    desk.once()
    assert desk.acts() == ["git push --dry-run"]
    assert "allow, changed" in desk.say("approvals", "list", "--all").out


@LONG
def test_allowed_for_good_is_not_asked_again_until_it_is_revoked(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    desk.say("approve", *desk.codes(), "--always")
    desk.once()
    assert desk.acts() == [PUSH]
    desk.done.unlink()
    desk.send("again")
    desk.once()
    desk.once()
    assert outcomes_of(desk) == ["asked", "done", "asked", "done"]
    assert desk.acts() == [PUSH]
    assert len(desk.codes()) == 1
    [standing] = desk.say("approvals", "list", "--json").json["always"]
    assert standing["act"] == PUSH
    desk.say("approvals", "revoke", standing["question"])
    desk.done.unlink()
    desk.send("once more")
    desk.once()
    assert len(desk.codes()) == 2
    assert desk.acts() == []


def test_the_first_of_two_answers_counts(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    [code] = desk.codes()
    desk.say("deny", code)
    other = desk.say("approve", code, code=1)
    assert "it was answered before: deny, " in other.err
    assert "; nothing was changed" in other.err
    same = desk.say("deny", code)
    assert "nothing was changed" in same.err
    desk.once()
    assert desk.answered() == ["deny:"]
    used = desk.say("approve", code, code=1)
    assert "answered before" in used.err


def test_a_code_that_is_no_code_or_anothers_changes_nothing(desk: AskingDesk, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    other = AskingDesk(tmp_path / "second")
    for one in (desk, other):
        one.send()
        one.once()
    [code] = other.codes()
    known_workdirs(desk.disk).remember(other.workdir)
    theirs = desk.say("approve", code, code=2)
    assert f"is a code of the agent in {other.workdir}" in theirs.err
    assert f"-C {other.workdir}" in theirs.err
    wrong = desk.say("approve", "0000-0000", code=2)
    assert "no question of this agent has the code 0000-0000; nothing was changed" in wrong.err
    assert desk.place().state.approvals.answered() == frozenset()


@pytest.mark.parametrize(
    "words",
    [("approve", "X"), ("deny", "X"), ("approvals", "list"), ("approvals", "show", "X"), ("approvals", "revoke", "X")],
)
def test_inside_a_turn_no_agent_answers_by_our_commands(desk: AskingDesk, words: tuple[str, ...]) -> None:
    refused = desk.say(*words, code=2, AGENT_MAILER_TURN_DIR=str(desk.base))
    assert "for a person to decide" in refused.err


def test_a_request_that_the_agent_forges_answers_nothing(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    [asked] = desk.asked()
    (desk.state / "requests" / "1.json").write_text(json.dumps({"verb": "answered", "targets": [asked.id]}))
    (desk.state / "requests" / "2.json").write_text(
        json.dumps({"verb": "answered", "targets": ["../../x", asked.code]})
    )
    assert outcomes(desk.once()) == []
    assert desk.acts() == []


@LONG
def test_three_acts_one_after_another_are_three_questions_and_one_answer(tmp_path: Path) -> None:
    desk = AskingDesk(tmp_path, "one", "two", "three")
    desk.send()
    desk.once()
    for number in range(3):
        assert len(desk.codes()) == number + 1
        desk.say("approve", desk.codes()[-1])
        desk.once()
    assert desk.acts() == ["one", "two", "three"]
    assert desk.answered() == ["all 3 done"]
    assert outcomes_of(desk) == ["asked"] * 3 + ["done"]


@LONG
def test_its_thread_waits_behind_it_and_others_go_on(desk: AskingDesk) -> None:
    desk.send("first", thread="a")
    desk.once()
    desk.send("second", thread="a")
    desk.send("other", thread="b")
    desk.once()
    assert len(desk.codes()) == 2
    assert [asked.thread for asked in desk.asked()] == ["a", "b"]
    desk.say("approve", desk.codes()[0])
    desk.once()
    assert desk.answered() == ["all 1 done", "all 1 done"]
    assert outcomes_of(desk) == ["asked", "asked", "done", "done"]


def test_a_yes_that_was_used_up_in_a_turn_that_was_killed_is_unknown_to_the_next(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    desk.say("approve", *desk.codes())
    plan = json.loads((desk.base / "plan.json").read_text())
    dies = "import os, signal, subprocess, sys; subprocess.run(sys.argv[1:]); os.kill(os.getppid(), signal.SIGKILL)"
    (desk.base / "plan.json").write_text(json.dumps({**plan, "use": [sys.executable, "-c", dies, *plan["use"]]}))
    events = outcomes(desk.once())
    assert events == ["crashed"]
    (desk.base / "plan.json").write_text(json.dumps(plan))
    assert outcomes(desk.once(FakeClock(time.time() + 3600))) == ["done"]
    assert desk.answered() == ["unknown:"]
    assert desk.acts() == []


@LONG
def test_a_turn_that_was_stopped_before_it_used_the_yes_up_keeps_it(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    plan = json.loads((desk.base / "plan.json").read_text())
    started = desk.base / "started"
    waits = f"import time, pathlib; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
    (desk.base / "plan.json").write_text(json.dumps({**plan, "use": [sys.executable, "-c", waits]}))
    desk.say("approve", *desk.codes())
    desk.configure(stop_grace=0)
    with desk.watching() as watcher:
        until(started.exists, "the turn is about to use it up")
        watcher.send_signal(signal.SIGTERM)
        watcher.wait(30)
    (desk.base / "plan.json").write_text(json.dumps(plan))
    desk.once()
    assert desk.acts() == [PUSH]
    assert desk.answered() == ["all 1 done"]


def test_who_answers_is_asked_for_by_the_same_name_for_ever_and_once(desk: AskingDesk) -> None:
    """A settlement that is applied again asks nothing anew, and keeps code and answer."""
    desk.send()
    desk.once()
    [before] = desk.asked()
    place = desk.place()
    place.state.approvals.answer(before, Answer(Verdict.DENY, 1.0, By.COMMAND, "no"))
    record = place.state.turns.load(before.turn_id)
    assert record is not None
    assert record.settlement is not None
    place.folder.hold()
    apply(place.state, record, record.settlement)
    assert desk.asked() == [before]
    assert place.state.approvals.answer(before, Answer(Verdict.ALLOW, 2.0, By.COMMAND)).reason == "no"


def test_an_asked_result_without_a_call_is_a_failure(desk: AskingDesk) -> None:
    desk.shell("""cat >/dev/null; echo '{"type":"result","outcome":"asked","tool":"Bash"}'""")
    desk.configure(max_retries=0)
    desk.send()
    assert outcomes(desk.once()) == ["failed"]


@LONG
def test_a_message_that_is_settled_closes_its_questions(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    desk.shell("""cat >/dev/null; echo '{"type":"result","text":"never mind"}'""")
    desk.say("deny", *desk.codes())
    desk.once()
    [asked] = desk.asked()
    assert asked.over
    assert not asked.used
    assert desk.say("approvals", "list", "--all", "--json").json["approvals"][0]["state"] == "settled"


@LONG
def test_a_pause_holds_the_answer_back_and_keeps_it(desk: AskingDesk) -> None:
    desk.send()
    desk.once()
    desk.say("pause")
    desk.say("approve", *desk.codes())
    assert outcomes(desk.once()) == []
    desk.say("resume")
    assert outcomes(desk.once()) == ["done"]
    assert desk.acts() == [PUSH]


@LONG
def test_a_session_that_is_too_old_or_has_too_many_turns_is_gone_on_in_all_the_same(desk: AskingDesk) -> None:
    desk.configure(session_max_turns=1, session_max_age_days=1, approve={"expires": 30 * 86400})
    desk.send()
    desk.once()
    desk.say("approve", *desk.codes())
    late = desk.once(FakeClock(time.time() + 5 * 86400))
    assert outcomes(late) == ["done"]
    [started] = [one for one in late if one.event is EventName.TURN_STARTED]
    assert started.fields["resumes"] == "s-1"


@LONG
def test_a_message_that_is_given_up_closes_its_questions(desk: AskingDesk) -> None:
    desk.configure(max_retries=0)
    desk.send()
    desk.once()
    desk.shell("cat >/dev/null; exit 1")
    desk.say("approve", *desk.codes())
    assert outcomes(desk.once()) == ["failed"]
    [asked] = desk.asked()
    assert asked.over
    assert not desk.say("approvals", "list", "--json").json["approvals"]
    assert desk.acts() == []


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"runtime": "command", "approve": {"tools": ["Bash"]}}, 78, "counts for claude and codex"),
        ({"runtime": "claude", "approve": {"tools": ["Bash git"]}}, 78, "neither a tool"),
    ],
)
def test_rules_that_nobody_would_ask_by_are_no_secret(
    desk: AskingDesk, settings: dict[str, Any], status: int, said: str
) -> None:
    desk.configure(**settings)
    checked = desk.say("verify", code=status)
    assert said in checked.out + checked.err
    assert "approve.tools" in checked.out + checked.err
