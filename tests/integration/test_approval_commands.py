"""A question as a person reads it at the terminal, and what he may have run in its place."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from tests.integration.test_approvals import PUSH, AskingDesk
from tests.refusing import Died, On, Refusing

from agent_mailer.approvals.calls import Call, as_input
from agent_mailer.assemble import Workplace
from agent_mailer.desk.doing import do
from agent_mailer.disk import SystemCalls
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.setup import Wishes
from agent_mailer.setup.documents import plan_documents
from agent_mailer.setup.workdir import set_up
from agent_mailer.state.approvals import Answer, Approval, By, Verdict
from agent_mailer.state.requests import Answer as Said
from agent_mailer.watch.asking import approvals_of


@pytest.fixture
def desk(tmp_path: Path) -> AskingDesk:
    return AskingDesk(tmp_path)


def test_what_is_shown_is_the_whole_word_for_word(desk: AskingDesk) -> None:
    act = "git status" + " " * 5000 + "; rm -rf ~\rx\u2028y\nz"
    shown = desk.say("approvals", "show", put(desk, Call("Bash", as_input({"command": act})))).out
    assert "  git status" + " " * 5000 + "; rm -rf ~\\rx\\u2028y\n  z\n" in shown


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "nothing stands in"),
        (b" \n", "nothing stands in"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"ls\0", "is no text in UTF-8"),
        (b"x" * 1_100_000, "has more than 1048576 bytes"),
        (None, "has more than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_run_instead_changes_nothing(desk: AskingDesk, data: bytes | None, said: str) -> None:
    call = Call("Bash", as_input({"command": PUSH}))
    refused = desk.say("approve", put(desk, call), "--change", changed(desk, data), code=2)
    assert said in refused.err
    assert desk.place().state.approvals.answered() == frozenset()


@pytest.mark.parametrize("data", [b"ls", b"[1]", b'{"a": 1}', b'{"a": NaN, "b": 1}', b"[" * 100_000])
def test_an_input_is_changed_by_the_same_fields_alone(desk: AskingDesk, data: bytes) -> None:
    call = Call("Write", as_input({"a": 1, "b": 2}))
    refused = desk.say("approve", put(desk, call), "--change", changed(desk, data), code=2)
    assert 'begin with: {"a":1,"b":2}' in refused.err
    assert desk.place().state.approvals.answered() == frozenset()


def test_who_allows_something_else_is_told_what_runs(desk: AskingDesk) -> None:
    code = put(desk, Call("Bash", as_input({"command": PUSH, "timeout": 9})))
    assert 'Bash {"timeout":9}: git push' in desk.say("approvals", "list").out
    said = desk.say("approve", code, "--change", changed(desk, b"git push --dry-run\n"))
    assert said.out == 'allowed instead, once: Bash {"timeout":9}: git push --dry-run\n'


def test_who_comes_too_late_to_change_what_was_allowed_is_told_that_it_runs(desk: AskingDesk) -> None:
    code = put(desk, Call("Bash", as_input({"command": PUSH})))
    desk.say("approve", code)
    desk.say("approve", code)
    late = desk.say("approve", code, "--change", changed(desk, b"git push --dry-run\n"), code=1)
    assert "nothing was changed" in late.err
    [given] = [desk.place().state.approvals.answer_to(one) for one in desk.place().state.approvals.answered()]
    assert given is not None
    assert given.changed == ""


def test_who_has_allowed_something_else_has_not_allowed_what_was_asked(desk: AskingDesk) -> None:
    code = put(desk, Call("Bash", as_input({"command": PUSH})))
    instead = ("approve", code, "--change", changed(desk, b"git push --dry-run\n"))
    desk.say(*instead)
    for more in ((), ("--always",)):
        assert "nothing was changed" in desk.say("approve", code, *more, code=1).err
    assert desk.say("approvals", "list", "--json").json["always"] == []
    assert "nothing was changed" in desk.say(*instead).err


def test_whose_answer_on_a_page_comes_too_late_is_told_so(desk: AskingDesk) -> None:
    put(desk, Call("Bash", as_input({"command": PUSH})))
    assert do(desk.place(), RemoteVerb.APPROVE, ["q-1"]).ok
    for late in (RemoteVerb.DENY, RemoteVerb.APPROVE):
        assert do(desk.place(), late, ["q-1"]) == Said(ok=False, lines=("it was answered before: allow",))


def test_what_was_answered_in_time_is_told_as_answered_ever_after(desk: AskingDesk) -> None:
    code, book = put(desk, Call("Bash", as_input({"command": PUSH})), ago=120.0), desk.place().state.approvals
    for words in (("approve", code), ("deny", code)):
        assert "nobody has answered it in time" in desk.say(*words, code=1).err
    assert not do(desk.place(), RemoteVerb.APPROVE, ["q-1"]).ok
    assert book.answered() == frozenset(), "too late"
    book.answer(book.all()[0], Answer(Verdict.ALLOW, time.time() - 100.0, By.COMMAND))
    assert "nothing was changed" in desk.say("approve", code).err
    refused = desk.say("deny", code, code=1).err
    assert ("it was answered before: allow" in refused, "in time" in refused) == (True, False)
    for verb in (RemoteVerb.APPROVE, RemoteVerb.DENY):
        assert do(desk.place(), verb, ["q-1"]) == Said(ok=False, lines=("it was answered before: allow",))


def put(desk: AskingDesk, call: Call, *, ago: float = 0.0) -> str:
    """The code of a question that waits for a minute, asked so many seconds `ago`."""
    now, book = time.time() - ago, desk.place().state.approvals
    book.ask([Approval("q-1", "", call, call.digest, "t", "m", "thread", "user", str(desk.workdir), now, now + 60)])
    return book.all()[0].code


def changed(desk: AskingDesk, data: bytes | None) -> str:
    """A file with that; None: one without an end."""
    if data is None:
        return "/dev/zero"
    (desk.base / "change").write_bytes(data)
    return str(desk.base / "change")


def test_what_is_allowed_for_good_is_not_in_a_turn_that_only_plans(desk: AskingDesk) -> None:
    desk.configure(approve={"tools": ["Bash"]})
    desk.say("approve", put(desk, Call("Bash", as_input({"command": PUSH}))), "--always")
    desk.send()
    desk.once()
    place = desk.place()
    [record] = [place.state.turns.load(folder.name) for folder in desk.state.glob("turns/*")]
    assert record is not None
    policy = place.policy().approve
    assert len(approvals_of(place.state, policy, record).always) == 1
    desk.configure(permission_mode="plan")
    assert approvals_of(place.state, desk.place().policy().approve, record).always == ()


def test_an_agent_that_is_set_up_anew_in_the_folder_of_another_inherits_no_yes(desk: AskingDesk) -> None:
    desk.say("approve", put(desk, Call("Bash", as_input({"command": PUSH}))), "--always")
    init = (
        "init",
        "--address",
        "coder",
        "--runtime",
        "command",
        "--command",
        "cat",
        "--permission-mode",
        "plan",
        "--sandbox",
        "off",
    )
    assert "forgot" not in desk.say(*init).out
    desk.say("held", "allow", "stranger")
    assert desk.place().state.lifts.standing.allowed == ("stranger",)
    assert desk.say("approvals", "list", "--json").json["always"]
    shutil.rmtree(desk.state)
    assert "forgot    what an earlier agent" in desk.say(*init).out
    assert desk.say("approvals", "list", "--json", "--all").json == {"approvals": [], "always": []}
    assert desk.place().state.lifts.standing.allowed == (), (
        "whose mail that one was to work on says nothing of this one"
    )


@pytest.mark.parametrize("at", ["config.toml", "trust/*.json"], ids=["before its configuration is there", "after it"])
def test_a_set_up_that_is_killed_and_said_again_leaves_no_yes_of_an_earlier_agent(desk: AskingDesk, at: str) -> None:
    """Once its configuration is there, it does not look like a new agent's any more."""
    desk.say("approve", put(desk, Call("Bash", as_input({"command": PUSH}))), "--always")
    desk.say("held", "allow", "stranger")
    desk.place().trust.remember()
    shutil.rmtree(desk.state)

    def init(system: SystemCalls) -> None:
        place = Workplace(desk.workdir, desk.settings, anew=True)
        place.disk.system = system
        set_up(place, {}, plan_documents(place, "", Wishes()), ())

    with pytest.raises(Died):
        init(Refusing(at, On.REPLACE, code=None))
    assert (desk.state / "config.toml").exists() == (at != "config.toml")
    init(SystemCalls())
    state = desk.place().state
    assert (state.approvals.all(), state.lifts.standing.allowed) == ([], ())
    assert desk.say("approvals", "list", "--json", "--all").json["always"] == []


def test_in_a_turn_no_code_is_shown_and_nothing_is_taken_back(desk: AskingDesk) -> None:
    """A hint to the agent, no wall."""
    code = put(desk, Call("Bash", as_input({"command": PUSH})))
    for words in (("list",), ("list", "--json"), ("show", code), ("revoke", "q-")):
        said = desk.say("approvals", *words, code=2, AGENT_MAILER_TURN_DIR=str(desk.base))
        assert "for a person to decide" in said.out + said.err
        assert code not in said.out


def test_where_none_waits_nobody_is_told_how_to_answer(desk: AskingDesk) -> None:
    code = put(desk, Call("Bash", as_input({"command": PUSH})))
    assert "yes: agent-mailer approve CODE" in desk.say("approvals", "list", "--all").err
    desk.say("deny", code)
    listed = desk.say("approvals", "list", "--all")
    assert "deny" in listed.out
    assert "nothing waits for you" in listed.err
    assert "approve CODE" not in listed.err


@pytest.mark.parametrize("words", [("Bash(git push",), ("WebFetch", "B sh"), ("Bäsh",), ("Bash(git", "push)")])
def test_a_rule_that_names_no_tool_is_not_written_down(desk: AskingDesk, words: tuple[str, ...]) -> None:
    refused = desk.say("config", "set", "approve.tools", *words, code=2)
    assert "neither a tool nor a tool with" in refused.err
    assert "approve" not in (desk.state / "config.toml").read_text()


def test_a_rule_that_was_typed_into_the_file_is_a_fault_of_the_file_and_of_nothing_else(desk: AskingDesk) -> None:
    desk.configure(approve={"tools": ["Bash(git push"]})
    for words in (("status",), ("verify",), ("watch", "--once")):
        said = desk.say(*words, code=78)
        assert "approve.tools" in said.out + said.err
        assert "neither a tool nor a tool with" in said.out + said.err
        assert "mailbox" not in said.err
