"""What the state is told to keep is there after a power cut, each of its files by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.crash.recording import after_power_failures
from tests.state_changes import (
    CALL,
    CASES,
    NOW,
    QUESTION,
    REFUSED,
    TURN,
    Act,
    each,
    nothing,
    requested,
    said,
    state_in,
)

from agent_mailer.approvals.turn import ask as ask_from
from agent_mailer.approvals.turn import asked_in, use_up, used_in
from agent_mailer.disk import Disk
from agent_mailer.state import State
from agent_mailer.state.held import Guard, Held, HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.records import AfterStop, Phase, StopAsked
from agent_mailer.turn_tools.folder import OUTBOX, NoteScope, NoteWrite


def begin(state: State) -> None:
    state.turns.create(msgspec.structs.replace(REFUSED, phase=Phase.CLAIMED, settlement=None))


def opened(state: State) -> None:
    begin(state)
    (state.turns.path(TURN) / OUTBOX).mkdir()


def for_good(state: State) -> object:
    return state.approvals.standing()


def turn(state: State) -> object:
    turns = state.turns
    return turns.load(TURN), turns.is_settled(TURN), turns.stop_asked(TURN), turns.stop_was_cut_off(), turns.open_ids()


LOSABLE = [name for name, case in CASES.items() if case.losable]
KEPT: dict[str, tuple[Act, Act, Act]] = {
    **{name: (case.before, case.act, case.look) for name, case in CASES.items() if not case.losable},
    "a person's request": (nothing, requested, lambda s: s.requests.waiting()),
    "a person's order": (
        nothing,
        lambda s: s.lifts.give(Order(OrderVerb.DROP, ("m",), NOW)),
        lambda s: [*map(s.lifts.order, sorted(path.stem for path in s.lifts.folder.glob("*.order")))],
    ),
    "a turn": (nothing, begin, turn),
    "how far a turn is": (begin, lambda s: s.turns.save(REFUSED), turn),
    "that a turn is to be stopped": (begin, lambda s: s.turns.ask_stop(TURN, StopAsked(AfterStop.DROP, NOW)), turn),
    "that a turn is settled": (begin, lambda s: s.turns.mark_settled(TURN, durable=True), turn),
    "that the watcher stops": (nothing, lambda s: s.turns.stop_begins(), turn),
    "that a turn is gone": (
        each(begin, lambda s: s.turns.mark_settled(TURN, durable=True)),
        lambda s: s.turns.remove([TURN]),
        lambda s: s.turns.ids(),
    ),
    "a turn's question": (
        opened,
        lambda s: ask_from(s.folder.disk, s.turns.path(TURN), CALL),
        lambda s: asked_in(s.turns.path(TURN) / OUTBOX),
    ),
    "that a turn has used its yes": (
        opened,
        lambda s: use_up(s.folder.disk, s.turns.path(TURN), "q-1"),
        lambda s: used_in(s.turns.path(TURN) / OUTBOX, ["q-1"]),
    ),
    "a note that did not come to be": (
        nothing,
        lambda s: s.notes.keep(REFUSED, [NoteWrite(NoteScope.THREAD, "known")]),
        lambda s: [*s.notes.history.all()],
    ),
    "a note": (
        begin,
        lambda s: s.notes.write(REFUSED, [NoteWrite(NoteScope.THREAD, "known")]),
        lambda s: [path.read_bytes() for path in s.folder.memory.glob("*.md")],
    ),
    "how many more are held": (
        nothing,
        lambda s: Held(s.folder, most=1, spared=9).add([HeldEntry(one, NOW, Guard.WHO) for one in "abc"]),
        lambda s: Held(s.folder).counts(),
    ),
    "what is allowed for good": (nothing, lambda s: s.approvals.allow_for_good(QUESTION, NOW), for_good),
    "what is allowed for good no more": (
        lambda s: s.approvals.allow_for_good(QUESTION, NOW),
        lambda s: s.approvals.revoke(QUESTION.id),
        for_good,
    ),
    "the first whom a person allows": (nothing, lambda s: s.lifts.allow(("ann",)), said),
    "a request taken back": (
        requested,
        lambda s: [s.requests.withdraw(name) for name, _ in s.requests.waiting()],
        lambda s: s.requests.waiting(),
    ),
    "by what a broker knows us": (
        nothing,
        lambda s: s.folder.watcher_id(),
        lambda s: s.folder.bytes_of(s.folder.path / "watcher"),
    ),
}


def after_power_cuts(tmp_path: Path, before: Act, act: Act, look: Act) -> Iterator[tuple[str, str, str]]:
    """What is seen in each state, before it was done and once it was done."""
    workdir, tops = tmp_path / "coder", ("coder", "person")
    for top in tops:
        (tmp_path / top).mkdir(mode=0o700, exist_ok=True)
    state = state_in(workdir)
    before(state)
    was, done = repr(look(state)), ""

    def carried_out(disk: Disk) -> None:
        nonlocal done
        state = state_in(workdir, disk.system)
        act(state)
        done = repr(look(state))
        assert done != was

    for _ in after_power_failures(tmp_path, tops, carried_out, most=0):
        yield repr(look(state_in(workdir))), was, done


@pytest.mark.parametrize("name", KEPT)
def test_what_is_done_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "person"))
    for seen, _, done in after_power_cuts(tmp_path, *KEPT[name]):
        assert seen == done


@pytest.mark.parametrize("name", LOSABLE)
def test_what_a_power_cut_may_take_is_as_it_was(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    for seen, was, done in after_power_cuts(tmp_path, case.before, case.act, case.look):
        assert seen in (was, done)
