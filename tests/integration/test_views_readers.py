"""Whoever looks at a workdir changes nothing in it, waits for nobody, and can tell what changed from what got older."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.sizes import LONG

from agent_mailer.assemble import Workplace
from agent_mailer.clock import SystemClock
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import DeadLetter
from agent_mailer.views import kept
from agent_mailer.views.local import look
from agent_mailer.views.turns import newest_turns, thread_story, whole_turn
from agent_mailer.views.values import View

HOUR = 3600.0
DAYS = 10 * 24 * 3600


class At(SystemClock):
    """A clock that stands."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds


def tomorrows_noon() -> float:
    """An instant with no midnight in the hour that follows it: a new day changes what was spent today."""
    tomorrow = datetime.now().astimezone() + timedelta(days=1)
    return tomorrow.replace(hour=12, minute=0, second=0, microsecond=0).timestamp()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A message done in a session, one given up, one to be tried again, and one that waits."""
    desk = Desk(tmp_path)
    desk.configure(command_output="jsonl", max_retries=0)
    desk.script({"emit": {"type": "session", "id": "s-1"}}, {"emit": {"type": "result", "text": "yes"}})
    desk.send(thread="green")
    desk.once()
    desk.shell("cat >/dev/null; exit 3")
    desk.send(thread="grey")
    desk.once()
    desk.configure(max_retries=3, retry={"first": DAYS, "longest": DAYS})
    desk.send(thread="later")
    desk.once()
    desk.send(thread="waits")
    (desk.state / "memory" / "green.md").write_text("known\n")
    return desk


def views(place: Workplace) -> Iterator[View]:
    yield look(place)
    for turn in newest_turns(place.state, 10, None, None):
        yield turn
        yield whole_turn(place.state, turn.turn_id)
        yield thread_story(place, turn.thread)
    yield from kept.sessions(place.state).values()
    yield from kept.dead_letters(place.state).values()
    yield from kept.notes(place.folder.memory)
    yield kept.note_text(place, "green")


def seen(place: Workplace) -> dict[tuple[str, str], str]:
    return {(type(view).__name__, view.key): view.version for view in views(place)}


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@LONG
def test_readers_write_nothing_take_no_lock_and_only_the_hour_passes(desk: Desk) -> None:
    before = contents(desk.base)
    lock = desk.place().lock()
    lock.acquire()
    try:
        noon, hour_later = desk.place(At(tomorrows_noon())), desk.place(At(tomorrows_noon() + HOUR))
        now, then = look(noon), look(hour_later)
        first, second = seen(noon), seen(hour_later)
    finally:
        lock.release()
    assert contents(desk.base) == before
    assert first == second
    assert now.mailbox.queue[0].seconds + HOUR - 60 < then.mailbox.queue[0].seconds
    assert {kind for kind, _ in first} == {
        *("StatusView", "TurnView", "WholeTurnView", "ThreadView", "SessionView", "DeadLetterView", "NoteView"),
        "NoteTextView",
    }


def test_what_happens_shows_in_the_versions_of_what_it_happens_to_and_in_no_other(desk: Desk) -> None:
    before = seen(desk.place())
    desk.shell("cat >/dev/null; echo fine")
    desk.once()
    after = seen(desk.place())
    changed = {view for view in after if view in before and after[view] != before[view]}
    assert changed == {("StatusView", str(desk.workdir))}
    assert {key for kind, key in set(after) - set(before) if kind == "ThreadView"} == {"waits"}
    desk.send(thread="green")
    changed = {view for view, version in seen(desk.place()).items() if after[view] != version}
    assert changed == {("StatusView", str(desk.workdir)), ("ThreadView", "green")}


def test_of_what_was_given_up_for_a_reason_the_newest_are_shown_however_much_else_came_since(tmp_path: Path) -> None:
    state = Desk(tmp_path).place().state
    ends = [Outcome.CRASHED, Outcome.CRASHED, *[Outcome.FAILED] * 3]
    for number, outcome in enumerate(ends):
        state.dead_letters.add(DeadLetter(f"m{number}", "t", turn_id=f"t{number}", outcome=outcome), again=False)

    def shown(reason: str | None, newest: int) -> list[str]:
        return [*kept.dead_letters(state, reason, newest)]

    assert (shown("crashed", 2), shown("crashed", 1), shown("crashed", 0)) == (["m0", "m1"], ["m1"], ["m0", "m1"])
    assert (shown(None, 2), shown("failed", 2), shown("timed_out", 2)) == (["m3", "m4"], ["m3", "m4"], [])
