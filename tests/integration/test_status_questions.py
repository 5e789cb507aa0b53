"""What a blocked agent has asked is known until its thread moves on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import Desk

from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def asks(desk: Desk, question: str) -> None:
    desk.shell(f"cat >/dev/null; agent-mailer mail finish --blocked {question!r}")


def asked(desk: Desk) -> list[tuple[str, str, str]]:
    return [(one.thread, one.asked, one.text) for one in desk.place().state.questions.all()]


def test_a_question_is_known_until_another_message_of_its_thread_is_settled(desk: Desk) -> None:
    asks(desk, "May I drop the table?")
    desk.send("clean up", thread="db")
    desk.send("and this", thread="docs")
    desk.once()
    assert asked(desk) == [("db", "user", "May I drop the table?"), ("docs", "user", "May I drop the table?")]
    asks(desk, "Really all of it?")
    desk.send("yes", thread="db")
    desk.once()
    assert asked(desk) == [("docs", "user", "May I drop the table?"), ("db", "user", "Really all of it?")]
    desk.shell("cat >/dev/null; echo dropped")
    desk.send("yes!", thread="db")
    desk.once()
    assert asked(desk) == [("docs", "user", "May I drop the table?")]
    apply(desk.place().state, Request(Verb.SESSIONS_INVALIDATE, ("docs",)))
    assert asked(desk) == []


def test_a_failed_answer_leaves_the_question_and_a_damaged_list_stops_nothing(desk: Desk) -> None:
    asks(desk, "Which one?")
    desk.send("one of them", thread="t")
    desk.once()
    desk.shell("cat >/dev/null; exit 3")
    desk.send("the left one", thread="t")
    desk.once()
    assert asked(desk) == [("t", "user", "Which one?")]
    (desk.state / "questions.json").write_text("{")
    desk.configure(max_retries=0)
    desk.send("other", thread="u")
    desk.once()
    assert asked(desk) == []
    assert list(desk.state.glob("questions.json.corrupt-*"))
