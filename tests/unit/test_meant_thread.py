"""Whose note a person means who types a thread, or how it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import Desk

from agent_mailer.names import memory_file
from agent_mailer.state.records import SessionEntry
from agent_mailer.views import kept


@pytest.mark.parametrize(
    ("noted", "known", "typed", "wanted"),
    [
        # A note that is called so is meant, though it is of no session and another thread begins so.
        (["big plan"], ["big plan for may"], "big plan", "big plan"),
        (["plan"], ["planner"], "plan", "plan"),
        ([], ["big plan for may"], "big plan", "big plan for may"),
        (["planner"], [], "plan", "planner"),
        (["big plan"], ["other"], "new", "new"),
    ],
)
def test_a_note_of_that_very_name_is_meant_before_a_thread_that_begins_so(
    tmp_path: Path, noted: list[str], known: list[str], typed: str, wanted: str
) -> None:
    place = Desk(tmp_path).place()
    memory = place.folder.memory
    memory.mkdir(exist_ok=True)
    for thread in noted:
        memory_file(memory, thread).write_text("known\n")
    for number, thread in enumerate(known):
        place.state.sessions.put(thread, SessionEntry(f"s-{number}", generation=1))
    assert kept.meant_thread(place, typed) == wanted
    assert kept.note_path(place, typed) == memory_file(memory, wanted)
