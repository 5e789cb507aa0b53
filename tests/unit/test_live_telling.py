"""Of what a live session is told, how often, and in which words; and what a program's hook says."""

from __future__ import annotations

import json

import pytest

from agent_mailer.live.heard import Heard, Moment, Program, heard, somebody_sits_there
from agent_mailer.live.telling import (
    MARK,
    MOST_RINGS,
    Known,
    after_look,
    after_prompt,
    after_ring,
    due,
    due_to_ring,
    is_ring,
    line,
    may_ring,
    ring,
    untold,
)


def test_each_mail_is_told_once_and_in_one_session() -> None:
    known = Known(("a",), 1)
    assert due(["a", "b", "c"], known, {"c"}) == ("b",)
    later = after_ring(known, ["b", "c"], ["b"])
    # What was read meanwhile is forgotten: the record never outgrows what waits.
    assert later == Known(("b",), 2, ())
    assert due(["b", "c"], later, frozenset()) == ("c",)


def test_what_waits_when_a_session_begins_is_told_with_a_prompt_and_does_not_ring() -> None:
    known = Known(before=("a",))
    assert due_to_ring(["a", "b"], known, frozenset()) == ("b",)
    assert due(["a", "b"], known, frozenset()) == ("a", "b")
    assert untold(known)
    assert not untold(after_prompt(known, ["a", "b"], ["a", "b"], "hello"))
    # What was read elsewhere is nothing to tell any more.
    assert not untold(after_ring(known, ["b"], ["b"]))


def test_two_sessions_that_answer_each_other_come_to_an_end_until_a_person_types() -> None:
    known = Known()
    for number in range(MOST_RINGS):
        assert may_ring(known)
        known = after_ring(known, [str(number)], [str(number)])
        # Both programs call a ring a prompt; it is none of the person's.
        known = after_prompt(known, [str(number)], (), f"<system-reminder>{ring([str(number)], 'user')}")
    assert not may_ring(known)
    assert due_to_ring(["new"], known, frozenset()) == (), "it waits for the person's next prompt"
    assert may_ring(after_prompt(known, [], (), "go on"))


def test_a_ring_has_the_number_and_ids_and_is_known_again() -> None:
    ids = [f"2026_{number}" for number in range(7)]
    for text in (ring(ids, "user"), line(ids, "user")):
        assert text.startswith(f"{MARK} 7 new mails wait for user: 2026_0, ")
        assert "2026_4 and 2 more." in text
        assert is_ring(text)
    assert "1 new mail waits for user: x\\u001b[2J." in ring(["x\x1b[2J"], "user").replace("\\x1b", "\\u001b")
    assert not is_ring("what is new?")


def call(**fields: object) -> bytes:
    return json.dumps({"session_id": "0a-1", "hook_event_name": "UserPromptSubmit", **fields}).encode()


def test_a_hooks_call_is_read_and_anything_else_is_none() -> None:
    assert heard(call(prompt="hello", later="field")) == Heard("0a-1", Moment.PROMPT, "hello")
    assert heard(call(hook_event_name="Stop")) == Heard("0a-1", Moment.RESTS)
    for odd in (b"", b"[]", b"\xff", call(session_id="../../x"), call(session_id=1), call(hook_event_name="Later")):
        assert heard(odd) is None, odd


@pytest.mark.parametrize(
    ("environ", "there"),
    [
        ({"CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDE_CODE_SESSION_ATTENDED": "1"}, True),
        ({"CLAUDE_CODE_ENTRYPOINT": "cli"}, True),
        ({"CLAUDE_CODE_ENTRYPOINT": "sdk-cli", "CLAUDE_CODE_SESSION_ATTENDED": "0"}, False),
        ({"CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDE_CODE_SESSION_ATTENDED": "0"}, False),
        ({"CLAUDE_CODE_ENTRYPOINT": "cli", "AGENT_MAILER_TURN_DIR": "/t"}, False),
        ({}, False),
    ],
)
def test_in_a_headless_run_of_claude_nobody_sits_there(environ: dict[str, str], *, there: bool) -> None:
    assert somebody_sits_there(Program.CLAUDE, environ) is there


def test_what_waits_at_the_first_look_was_there_before_the_session() -> None:
    known = Known()
    assert untold(known), "nobody has looked"
    looked = after_look(known, ["a"])
    assert due_to_ring(["a", "b"], looked, frozenset()) == ("b",)
    assert after_look(looked, ["a", "b"]) == looked, "later looks find what came"
    assert not untold(after_look(known, []))
