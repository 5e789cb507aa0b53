"""The hook as an agent program meets it: one word on its output to whatever it is given, and no edit of what is
somebody else's.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent_mailer import beneath
from agent_mailer.approvals import hook
from agent_mailer.approvals.calls import MOST_INPUT, Call, as_input
from agent_mailer.approvals.edits import EDITS, ELSEWHERE, note_edits, why_not
from agent_mailer.approvals.hook import (
    ASKED,
    DENIED,
    EXPIRED,
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
    in_codex,
    instead_of_a_refusal,
    main,
    run,
)
from agent_mailer.approvals.turn import SIGN, Told, TurnApprovals, Word, asked_in, write
from agent_mailer.clock import iso
from agent_mailer.disk import Disk
from agent_mailer.reservations.port import Owner, Reservation
from agent_mailer.reservations.turn import put_held

PRE, REQUEST = "PreToolUse", "PermissionRequest"
PUSH = Call("Bash", as_input({"command": "git push"}))
RULES = ("Bash(git push *)",)


@pytest.fixture
def turn(tmp_path: Path) -> Path:
    (tmp_path / "outbox").mkdir()
    write(Disk(), tmp_path, TurnApprovals(RULES, refused=True))
    return tmp_path


def said(turn: Path, given: object, dialect: Dialect = Dialect.CLAUDE) -> dict[str, Any]:
    out = io.StringIO()
    text = given if isinstance(given, str) else json.dumps(given)
    run(turn, io.StringIO(text), out, dialect)
    found: dict[str, Any] = json.loads(out.getvalue() or "{}")
    return found


def call(event: str = PRE, command: str = "git push", **more: object) -> dict[str, object]:
    return {"hook_event_name": event, "tool_name": "Bash", "tool_input": {"command": command}, **more}


def told(word: Word, **more: str) -> Told:
    return Told("q-1", PUSH.tool, PUSH.input, PUSH.digest, word, **more)


@pytest.mark.parametrize(
    "name", ["ASKED", "ONE_AT_A_TIME", "FROM_THE_MAIN_AGENT", "TOO_MANY", "TOO_LARGE", "UNKNOWN", "ALREADY"]
)
def test_why_not_is_said_in_whole_sentences(name: str) -> None:
    sentence = r"[A-Z][a-z]*(?:[,:;]? [a-z]+)*\."
    assert re.fullmatch(rf"{sentence}(?: {sentence})*", getattr(hook, name))


def test_what_an_agent_hears_of_an_answer() -> None:
    assert DENIED == "A person has denied this"
    assert EXPIRED == "A person was asked, and nobody has answered in time. Go on without it."
    assert NOT_ASKED == "This is not allowed, and nobody is asked about it. Go on without it."
    assert INSTEAD == "A person has allowed something else instead, once. Call exactly this, in the same way: "
    assert ELSEWHERE == "Do other work first, or say in your answer what you would change there."
    for word, reason, heard in (
        (Word.DENY, "", "A person has denied this."),
        (Word.DENY, "friday", "A person has denied this: friday"),
        (Word.EXPIRED, "", EXPIRED),
        (Word.UNKNOWN, "", UNKNOWN),
    ):
        approvals = TurnApprovals(RULES, told=(told(word, reason=reason),))
        assert instead_of_a_refusal(approvals, PUSH, sub_agent=False) == Decision(Step.DENY, heard)


def test_a_decision_asks_and_uses_up_nothing_that_it_does_not_name() -> None:
    assert Decision(Step.DENY) == Decision(Step.DENY, "", "", "", False, False)


def test_of_what_the_mode_refuses_only_what_may_be_asked_is_asked() -> None:
    forbidden = TurnApprovals(RULES, refused=True, forbidden="only plans")
    assert instead_of_a_refusal(forbidden, PUSH, sub_agent=False) == Decision(Step.DENY, "only plans")
    asks = TurnApprovals(RULES, refused=True)
    assert instead_of_a_refusal(asks, PUSH, sub_agent=True) == Decision(Step.DENY, FROM_THE_MAIN_AGENT)
    assert instead_of_a_refusal(asks, PUSH, sub_agent=False) == Decision(Step.DENY, ASKED, ask=True)
    named = TurnApprovals(RULES)
    assert instead_of_a_refusal(named, PUSH, sub_agent=False).ask
    other = Call("Bash", as_input({"command": "ls"}))
    assert instead_of_a_refusal(named, other, sub_agent=False) == Decision(Step.SILENCE)


def test_in_codex_a_standing_yes_is_one_and_needs_no_using_up() -> None:
    always = TurnApprovals(RULES, always=(PUSH.digest,), told=(told(Word.DENY),))
    for event in (PRE, REQUEST):
        assert in_codex(event, always, PUSH, sub_agent=False) == Decision(Step.ALLOW)
    granted = TurnApprovals(RULES, refused=True, told=(told(Word.ALLOW),))
    assert in_codex(PRE, granted, PUSH, sub_agent=False) == Decision(Step.ALLOW, use="q-1")
    assert in_codex(REQUEST, granted, PUSH, sub_agent=False) == Decision(Step.ALLOW, use="q-1", again=True)
    unnamed = TurnApprovals(refused=True, told=(told(Word.ALLOW),))
    assert in_codex(REQUEST, unnamed, PUSH, sub_agent=False) == Decision(Step.ALLOW, use="q-1")
    assert in_codex(REQUEST, TurnApprovals(refused=True), PUSH, sub_agent=True).why == FROM_THE_MAIN_AGENT


# One word on the output.


def test_as_a_session_begins_it_says_that_it_is_heard(turn: Path) -> None:
    assert said(turn, {"hook_event_name": "SessionStart"}) == {"suppressOutput": True, "systemMessage": SIGN}
    # The turn is over: nobody would be asked.
    refused = said(turn / "gone", {"hook_event_name": "SessionStart"})
    assert refused["hookSpecificOutput"]["decision"]["behavior"] == "deny"


def test_a_call_gets_its_word_in_the_form_of_its_event(turn: Path) -> None:
    assert said(turn, call(command="ls")) == {}
    assert said(turn, call(tool_use_id="1"))["hookSpecificOutput"] == {
        "hookEventName": PRE,
        "permissionDecision": "defer",
        "permissionDecisionReason": "defer",
    }
    assert said(turn, call(agent_id="sub"))["hookSpecificOutput"]["permissionDecisionReason"] == FROM_THE_MAIN_AGENT
    assert said(turn, call(REQUEST, "curl x", agent_id="sub"))["hookSpecificOutput"] == {
        "hookEventName": REQUEST,
        "decision": {"behavior": "deny", "message": FROM_THE_MAIN_AGENT},
    }
    write(Disk(), turn, TurnApprovals(RULES, always=(PUSH.digest,)))
    request = said(turn, call(REQUEST))["hookSpecificOutput"]
    assert request["decision"] == {"behavior": "allow", "updatedInput": {"command": "git push"}}
    before = said(turn, call())["hookSpecificOutput"]
    assert (before["permissionDecision"], before["updatedInput"]) == ("allow", {"command": "git push"})
    assert said(turn, call(), Dialect.CODEX) == {}
    assert "updatedInput" not in said(turn, call(REQUEST), Dialect.CODEX)["hookSpecificOutput"]["decision"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be integers"),
        ({}, "'hook_event_name'"),
        ({"hook_event_name": "Stop", "tool_name": "Bash", "tool_input": {}}, "nothing is known of Stop"),
    ],
)
def test_what_cannot_be_decided_is_denied_with_the_reason(turn: Path, given: object, why: str) -> None:
    answered = said(turn, given)["hookSpecificOutput"]
    heard = answered["permissionDecisionReason"] if "decision" not in answered else answered["decision"]["message"]
    assert why in heard
    assert (answered.get("permissionDecision") or answered["decision"]["behavior"]) == "deny"
    if not isinstance(given, dict) or "hook_event_name" not in given:
        assert answered["hookEventName"] == PRE, "what nobody has named may be a tool that is to run"


def test_a_turn_that_is_over_is_told_by_what_the_system_says(turn: Path) -> None:
    heard = said(turn / "gone", call())["hookSpecificOutput"]
    why = "agent-mailer cannot tell whether this may be: No such file or directory"
    assert (heard["permissionDecision"], heard["permissionDecisionReason"]) == ("deny", why)


def test_what_is_too_large_to_be_asked_about_is_denied_where_it_would_be_asked(turn: Path) -> None:
    large = {"tool_name": "Bash", "tool_input": {"command": "x" * MOST_INPUT}}
    too_large = Decision(Step.DENY, TOO_LARGE)
    for approvals, event, heard in (
        (TurnApprovals(RULES), PRE, too_large),
        (TurnApprovals(), PRE, Decision(Step.SILENCE)),
        (TurnApprovals(), REQUEST, too_large),
    ):
        write(Disk(), turn, approvals)
        assert answer(Disk(), turn, event, large) == heard


def test_codex_asks_with_its_own_words_and_without_its_last_line_ends(turn: Path) -> None:
    write(Disk(), turn, TurnApprovals(refused=True))
    for given, act, why in (
        ({"command": "X \n\n", "description": "to see"}, "X ", "to see"),
        ({"command": "say X\n"}, "say X", ""),
        ({"note": "y"}, '{"note":"y"}', ""),
        ({"command": "z", "description": 7}, "z", ""),
    ):
        fields = {"tool_name": "Bash", "tool_input": given}
        assert answer(Disk(), turn, REQUEST, fields, Dialect.CODEX) == Decision(Step.DENY, ASKED, ask=True)
        assert (act, why, "Bash") in {(one.act, one.why, one.tool) for one in asked_in(turn / "outbox")}
    for none in ("text", ["git"], None):
        heard = answer(Disk(), turn, REQUEST, {"tool_name": "Bash", "tool_input": none}, Dialect.CODEX)
        assert heard == Decision(Step.DENY, TOO_LARGE)


def test_the_program_ends_well_where_it_could_speak_and_denies_by_its_status_where_not(
    turn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Disk(), turn, TurnApprovals(RULES, always=(PUSH.digest,)))
    for words, heard in (([], True), (["claude"], True), (["codex"], False)):
        monkeypatch.setattr(sys, "argv", ["hook", str(turn), *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(call())))
        assert main() == 0
        assert bool(capsys.readouterr().out) is heard
    monkeypatch.setattr(sys, "argv", ["hook", str(turn)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(call())))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(hook.__file__), run_name="__main__")
    assert (end.value.code, "updatedInput" in capsys.readouterr().out) == (0, True)
    monkeypatch.setattr(sys, "argv", ["hook", str(turn), "another"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(call())))
    assert main() == 2
    assert as_json(PRE, Decision(Step.SILENCE), Dialect.CODEX) == ""


def test_through_a_link_in_the_place_of_its_outbox_it_leaves_nothing_and_says_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(beneath, "_roots", beneath.Roots())
    turn, elsewhere = tmp_path / "work" / ".agent-mailer" / "turns" / "t-1", tmp_path / "elsewhere"
    turn.mkdir(parents=True)
    elsewhere.mkdir()
    (turn / "outbox").symlink_to(elsewhere)
    write(Disk(), turn, TurnApprovals(RULES, refused=True))
    monkeypatch.setattr(sys, "argv", ["hook", str(turn)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(call(REQUEST))))
    assert main() == 0
    decision = json.loads(capsys.readouterr().out)["hookSpecificOutput"]["decision"]
    assert decision["behavior"] == "deny"
    assert "cannot tell whether this may be" in decision["message"]
    assert list(elsewhere.iterdir()) == []


# Edits of what somebody has reserved.


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """`a.py` and `docs` are another agent's; `old.py` was, until a moment ago."""
    place, now = tmp_path / "project", time.time()
    place.mkdir()
    owner = Owner("o" * 90)
    held = [("a.py", now + 3600), ("docs", now + 60), ("old.py", now - 1)]
    others = [Reservation(owner, str(place), pattern, until) for pattern, until in held]
    put_held(Disk(), tmp_path, place, others, own=True)
    (tmp_path / "outbox").mkdir(exist_ok=True)
    return place


def edit(tool: str, given: object, cwd: object) -> dict[str, object]:
    return {"tool_name": tool, "tool_input": given, "cwd": cwd}


PATCHES = (
    "*** Begin Patch\n*** Update File: b.py\n*** Move to: a.py\n*** End Patch",
    {"input": "  *** Delete File: a.py  \n"},
    {"input": 7, "command": "*** Add File: docs/new.md"},
    {"input": "*** Add File: b.py", "command": "*** Add File: docs/new.md"},
)


def test_an_edit_of_what_another_has_reserved_is_refused_with_who_and_until_when(tmp_path: Path, project: Path) -> None:
    assert EDITS == ("Edit", "Write", "NotebookEdit", "apply_patch")
    why = why_not(tmp_path, edit("Edit", {"file_path": "a.py"}, str(project)))
    [until] = [one.until for one in (hook_held(tmp_path)) if one.pattern == "a.py"]
    assert why == f"a.py is reserved by {'o' * 79}… (a.py) until {iso(until)}. {ELSEWHERE}"
    for tool in ("Write", "NotebookEdit", "MultiEdit"):
        assert why_not(tmp_path, edit(tool, {"file_path": str(project / "a.py")}, None))
        assert why_not(tmp_path, edit(tool, {"notebook_path": "docs/x.ipynb"}, str(project)))
    for patch in PATCHES:
        assert why_not(tmp_path, edit("apply_patch", patch, str(project)))
    # Where it stands nobody says: then names count from the top of all.
    assert why_not(tmp_path, edit("Edit", {"file_path": str(project / "a.py").lstrip("/")}, None))
    long = "docs/" + "x" * 200
    assert why_not(tmp_path, edit("Edit", {"file_path": long}, str(project))).startswith(f"{long[:199]}… is reserved")


def test_by_whatever_name_the_project_is_known_an_edit_of_what_lies_there_is_refused(
    tmp_path: Path, project: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(project)
    put_held(Disk(), tmp_path, link, hook_held(tmp_path))
    for place in (project, link):
        assert why_not(tmp_path, edit("Edit", {"file_path": str(place / "a.py")}, None))


def hook_held(directory: Path) -> list[Reservation]:
    from agent_mailer.reservations.turn import held_in

    held = held_in(directory)
    assert held is not None
    return list(held.others)


def test_any_other_edit_and_any_other_tool_may_be(tmp_path: Path, project: Path) -> None:
    for given in ({"file_path": "old.py"}, {"file_path": "b.py"}, {"file_path": ""}, {"file_path": 7}, "a.py", None):
        assert why_not(tmp_path, edit("Edit", given, str(project))) == ""
    assert why_not(tmp_path, edit("Read", {"file_path": "a.py"}, str(project))) == ""
    assert why_not(tmp_path, edit("Edit", {"file_path": "a.py"}, None)) == ""
    other = "*** Update File: b.py\n+*** Move to: a.py"
    assert why_not(tmp_path, edit("apply_patch", other, str(project))) == ""
    with pytest.raises(ValueError, match=r"^the patch names no file$"):
        why_not(tmp_path, edit("apply_patch", {"input": "nothing"}, str(project)))


def noted(turn: Path) -> list[str]:
    journal = turn / "outbox"
    lines = [line for path in journal.iterdir() if path.is_file() for line in path.read_text().splitlines()]
    return [json.loads(line)["edit"] for line in lines]


def test_what_a_turn_edits_itself_is_noted_where_it_has_reserved_something(tmp_path: Path, project: Path) -> None:
    note_edits(Disk(), tmp_path, edit("Write", {"file_path": "b.py"}, str(project)))
    note_edits(Disk(), tmp_path, edit("apply_patch", "*** Add File: c.py\n*** Add File: c.py", str(project)))
    note_edits(Disk(), tmp_path, edit("Write", {"file_path": str(project / "d.py").lstrip("/")}, None))
    note_edits(Disk(), tmp_path, edit("Read", {"file_path": "e.py"}, str(project)))
    assert noted(tmp_path) == ["b.py", "c.py", "d.py"]
    put_held(Disk(), tmp_path, project, hook_held(tmp_path))
    note_edits(Disk(), tmp_path, edit("Write", {"file_path": "f.py"}, str(project)))
    assert len(noted(tmp_path)) == 3


def test_every_file_of_an_edit_is_noted_by_every_name_that_others_may_know(tmp_path: Path, project: Path) -> None:
    (project / "link.py").symlink_to("real.py")
    note_edits(Disk(), tmp_path, edit("apply_patch", "*** Add File: c.py\n*** Update File: link.py", str(project)))
    assert noted(tmp_path) == ["c.py", "link.py", "real.py"]


def test_before_a_tool_an_edit_is_refused_or_noted_and_where_edits_are_free_it_is_neither(
    tmp_path: Path, project: Path
) -> None:
    theirs = edit("Edit", {"file_path": "a.py"}, str(project))
    ours = edit("Edit", {"file_path": "b.py"}, str(project))
    write(Disk(), tmp_path, TurnApprovals(edits=True))
    assert answer(Disk(), tmp_path, PRE, theirs) == Decision(Step.DENY, why_not(tmp_path, theirs))
    assert answer(Disk(), tmp_path, REQUEST, theirs) == Decision(Step.SILENCE)
    assert noted(tmp_path) == []
    assert answer(Disk(), tmp_path, PRE, ours) == Decision(Step.SILENCE)
    assert noted(tmp_path) == ["b.py"]
    write(Disk(), tmp_path, TurnApprovals())
    assert answer(Disk(), tmp_path, PRE, theirs) == Decision(Step.SILENCE)
