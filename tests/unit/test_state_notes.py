"""What is known of who changed a note, and which of several changes counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.clocks import FakeClock

from agent_mailer.disk import Disk
from agent_mailer.names import turn_id_at
from agent_mailer.state import notes
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.notes import BY_HAND, KEPT, REFUSED, NoteChange, NoteHistory

NOW = 1_900_000_000.0
NOTE = "global.md"


class Kept:
    def __init__(self, base: Path) -> None:
        folder = StateFolder(base, Disk(), FakeClock(NOW))
        folder.prepare()
        self.path, self.history = folder.path / "note-history", NoteHistory(folder)

    def change(self, second: float, after: str | None, how: str = BY_HAND, note: str = NOTE, began: float = 0.0) -> str:
        """That long after `NOW` the note came to read so; returns the change's id."""
        stem = note.removesuffix(".md")
        name = f"{turn_id_at(NOW + second)}-00000000-{stem}-{how}"
        assert self.history.add(NoteChange(name, note, NOW + second, how, "before", after, began=began))
        return name


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_any_of_the_newest_changes_since_then_accounts_for_what_a_note_says(kept: Kept) -> None:
    for second, text in ((1, "one"), (2, "two"), (3, "three")):
        kept.change(second, text)
    kept.change(4, "refused", how=REFUSED)
    kept.change(5, "left undone", how=KEPT)
    kept.change(6, "another's", note="another.md")
    told = {text: kept.history.accounts_for(NOTE, text, NOW + 2) for text in ("one", "two", "three", "refused")}
    assert told == {"one": False, "two": True, "three": True, "refused": False}
    assert not kept.history.accounts_for(NOTE, "left undone", NOW)
    assert not kept.history.accounts_for(NOTE, "another's", NOW)


def test_of_what_others_have_changed_the_newest_counts_and_what_was_undone_of_an_earlier_turn(kept: Kept) -> None:
    def last(since: float, began: float = NOW + 100) -> str | None:
        found = kept.history.last_of_others(NOTE, NOW + since, began)
        return found.after if found is not None else None

    assert last(0) is None
    for second, text in ((1, "one"), (3, "three"), (2, "two")):
        kept.change(second, text)
    kept.change(9, "left undone", how=KEPT)
    assert [last(0), last(3), last(4)] == ["three", "three", None]
    kept.change(5, "undone", how=REFUSED, began=NOW + 50)
    assert [last(0), last(0, began=NOW + 50)] == ["undone", "three"]


def test_of_very_many_changes_the_newest_stay_and_none_is_noted_twice(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "KEPT_CHANGES", 3)
    made = [kept.change(number, str(number)) for number in range(4)]
    for name in made[:2]:
        # Of what an earlier version has left there may be more.
        (kept.path / f"{name}.json").write_bytes((kept.path / f"{made[3]}.json").read_bytes())
    made.append(kept.change(9, "newest"))
    assert [path.stem for path in sorted(kept.path.iterdir())] == made[-3:]
    assert not kept.history.add(NoteChange(made[-1], NOTE, NOW, BY_HAND))
    assert [one.after for one in kept.history.all(NOTE)] == ["newest", "3", "2"]


def test_all_that_a_turn_did_not_come_to_change_is_kept_for_a_person(kept: Kept) -> None:
    turn = f"{turn_id_at(NOW)}-00000000"
    names = [kept.change(0, "x", how=KEPT, note=note) for note in ("global.md", "thread.md")]
    kept.change(0, "y", note="other.md")
    kept.change(7, "z", how=KEPT)
    assert kept.history.kept(turn) == names
