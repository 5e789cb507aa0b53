"""Folders as earlier versions of this repository left them, killed in the middle: opened, recovered and settled today.

`tests/kept_past.py` made them by running those versions. Each has an answered and a dead message, one to be retried
and one behind it, a pause, a turn without an end and one that ended while nobody followed it; later ones have an
answer that could not leave, a session in the journal alone, held mail, and a question to a person.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.kept import FOLDER, Kept, load
from tests.sizes import thinned

from agent_mailer.events import EventName
from agent_mailer.state.approvals import Answer, By, Verdict
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply

STATES = sorted(FOLDER.glob("*.json"))
LATER = 40 * 86400.0
"""Beyond every wait for a retry, within the time of a question."""
RUNS = {"open": 2, "retried": 2, "limited": 2, "asking": 2}
"""How often an agent starts on a message, where that is not once."""
NOT_ANSWERED = {"dead"}


class Opened:
    """A kept state laid out below `base`, and today's program on it."""

    def __init__(self, base: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept = kept
        self.clock = FakeClock(kept.moment + 1)
        self.desk = Desk(base)
        for made in (self.desk.root, self.desk.workdir):
            shutil.rmtree(made)
        monkeypatch.setenv("XDG_STATE_HOME", str(base / "state"))
        kept.lay_out(base)
        place = self.desk.place(self.clock)
        self.state = place.state
        if place.folder.knows_trust.exists():
            # It comes from another machine: a person says what is trusted.
            place.trust.give(place.trust.verdict.there, "test")

    def witness(self) -> list[str]:
        return (self.desk.base / "witness").read_text().splitlines()

    def runs(self) -> Counter[str]:
        return Counter(line.split()[1] for line in self.witness() if line.startswith("start "))

    def contents(self) -> dict[str, bytes]:
        volatile = ("log.jsonl", ".lock", "watcher.pid")
        found = (path for path in self.desk.base.rglob("*") if path.is_file() and path.name not in volatile)
        return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize("path", thinned(STATES, 5), ids=lambda path: path.stem)
def test_what_an_earlier_version_left_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    opened = Opened(tmp_path, load(path), monkeypatch)
    desk, ids, state = opened.desk, opened.kept.messages, opened.state
    assert sum(state.turns.load(turn) is not None for turn in state.turns.open_ids()) >= 2
    assert (desk.state / "pause.json").exists()
    assert ids["retried"] in {entry.envelope.id for entry in state.retries.all()}
    assert [letter.msg_id for letter in state.dead_letters.all()] == [ids["dead"]]

    # What recovery alone does: nothing new starts during the pause.
    before = opened.runs()
    events = desk.once(opened.clock)
    assert not [event for event in events if event.event is EventName.STATE_DAMAGED]
    assert opened.runs() == before
    assert sorted(body for body in desk.answered() if body.startswith("answer")) == sorted(
        f"answer {name}" for name in ("answered", "ended", "again", "unsent") if name in ids
    )

    _let_all_go(opened)
    (tmp_path / "go-open").touch()
    opened.clock.moment += LATER
    for _ in range(3):
        desk.once(opened.clock)
    settled = (desk.state / "processed.txt").read_text().split()
    assert sorted(settled) == sorted(ids.values()), "each is settled, none twice"
    assert opened.runs() == {name: RUNS.get(name, 1) for name in ids}
    told = [message.body.strip() for who in ("user", "planner") for message in desk.inbox(who)]
    assert sorted(body for body in told if body.startswith("answer")) == sorted(
        f"answer {name}" for name in ids if name not in NOT_ANSWERED
    )
    assert len([body for body in told if not body.startswith("answer")]) == 1, "who asked for the dead one was told"
    fresh = desk.place(opened.clock).state
    assert fresh.turns.open_ids() == []
    assert len(fresh.retries) == 0
    assert not fresh.held.waiting
    assert fresh.approvals.open() == []
    after = opened.contents()
    desk.once(opened.clock)
    assert opened.contents() == after, "recovered twice"


def _let_all_go(opened: Opened) -> None:
    """A person ends the pause, says yes, and lets go what is held."""
    state, ids = opened.desk.place(opened.clock).state, opened.kept.messages
    apply(state, Request(Verb.RESUME))
    if "asking" in ids:
        [question] = state.approvals.open()
        state.approvals.answer(question, Answer(Verdict.ALLOW, opened.clock.now(), By.COMMAND))
    if "stranger" in ids:
        assert set(state.held.waiting) == {ids["stranger"]}
        apply(state, Request(Verb.ORDER, (state.lifts.give(Order(OrderVerb.RELEASE, (ids["stranger"],))),)))


def test_the_kept_states_are_of_five_versions_and_have_what_each_knew() -> None:
    kept = [load(path) for path in STATES]
    assert len({one.commit for one in kept}) == len(kept) == 5
    assert [one.date for one in kept] == sorted(one.date for one in kept)
    journals = [any(name.endswith("/sessions.journal") for name in one.files) for one in kept]
    assert journals == [False, True, True, True, True]
    assert ["stranger" in one.messages for one in kept] == [False, False, True, True, True]
    assert ["asking" in one.messages for one in kept] == [False, False, False, True, True]
    texts = (text for one in kept for name, text in one.files.items() if name.endswith("/turn.json"))
    phases = Counter(msgspec.json.decode(text, type=TurnRecord).phase for text in texts)
    assert phases[Phase.RUNNING] == 2 * len(kept)
