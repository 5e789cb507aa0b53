"""SPEC 4.5: what a write has made durable when it returns, and in which order. Read off the calls it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.points import Point, PointedSystem
from tests.desk import Desk, outcomes

from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.outcomes import Outcome
from agent_mailer.state import State
from agent_mailer.state.records import (
    DeadLetter,
    ItemState,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    SessionEntry,
    SettledItem,
    Settlement,
    TurnRecord,
)
from agent_mailer.state.requests import Request, Verb
from agent_mailer.turn_tools.folder import NoteScope, NoteWrite
from agent_mailer.watch.requests import apply

ENVELOPE = Envelope("m", "t", "user", 0.0, "1", "m.md")
TURN = "20261121T000000-0123abcd"
FOLDER = "fsync coder/.agent-mailer"
RECORD = ["fsync TURN/.tmp.turn.json", "replace TURN/turn.json", "fsync turns/TURN"]
"""A turn's record: content, name."""

CLAIM = ["fsync TURN/turn.json", "fsync turns/TURN", "fsync .agent-mailer/turns"]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def published(name: str) -> list[str]:
    return [f"fsync .agent-mailer/.tmp.{name}", f"replace .agent-mailer/{name}", FOLDER]


def calls_of(path: Path) -> list[str]:
    """Without those that make nothing durable, and publish or remove nothing."""
    names = path.read_text().splitlines() if path.exists() else []
    return [name for name in names if name.split()[0] in ("fsync", "replace", "rename", "unlink", "rmdir")]


def test_a_message_with_an_answer_and_a_session(desk: Desk) -> None:
    desk.configure(command_output="jsonl")
    desk.shell("""cat >/dev/null; echo '{"type":"session","id":"s"}'; echo '{"type":"result","text":"answer"}'""")
    for _ in range(2):  # the second finds its mailboxes in use
        trace = desk.base / "trace"
        trace.unlink(missing_ok=True)
        desk.send()
        assert outcomes(desk.once(system=PointedSystem(Point(), trace))) == ["done"]
    calls = calls_of(trace)
    done = [
        *CLAIM,
        *("rename cur/ID.md", "fsync inbox/cur", "replace receipts/ID__coder__drained.json"),
        *RECORD,
        "rename TURN/outbox.sealed",
        *RECORD,
        *("fsync tmp/.ID.md", "rename new/ID.md", "fsync inbox/new"),
    ]
    begun = calls.index(CLAIM[0])
    assert calls[begun : begun + len(done)] == done
    rest = [name for name in calls[begun + len(done) :] if name.startswith("fsync")]
    assert rest[:3] == [
        "fsync .agent-mailer/.tmp.usage.json",
        FOLDER,  # the journal's first line
        "fsync .agent-mailer/sessions.journal",
    ]
    assert rest[3] == "fsync .agent-mailer/processed.txt"
    synced = [name for name in calls[begun:] if name.startswith("fsync")]
    assert len(synced) == 12 + 1 + 1 + 2, "with one reply; a session; its journal begun; at the end the journal's fold"


def test_a_message_that_is_given_up(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell("exit 1")
    desk.send()
    trace = desk.base / "trace"
    assert outcomes(desk.once(system=PointedSystem(Point(), trace))) == ["failed"]
    calls = calls_of(trace)
    ends = [name for name in calls if name.endswith(("/dead_letter.jsonl", "inbox/new", "/processed.txt"))]
    # The notice arrives; no crash brings the message's name back into new, where it would look like put back by hand.
    assert ends == [
        *("fsync inbox/new", "fsync .agent-mailer/dead_letter.jsonl"),
        *("fsync inbox/new", "fsync .agent-mailer/processed.txt"),
    ]


def record(phase: Phase = Phase.CLAIMED, *items: SettledItem) -> TurnRecord:
    made = TurnRecord(TURN, ENVELOPE, phase, "command", 1.0)
    if items:
        made.settlement = Settlement(Outcome.DONE, "", 1.0, 1.0, finished=True, items=items)
    return made


def _settled(state: State) -> None:
    state.turns.create(record())
    state.turns.mark_settled(TURN)


def _nothing(_: State) -> None:
    pass


def _ended_session(state: State) -> None:
    state.sessions.put("t", SessionEntry("s", generation=1))


def _letters(state: State) -> None:
    for name in ("m", "n"):
        state.dead_letters.add(DeadLetter(name, turn_id=TURN), again=False)


def _retry(state: State) -> None:
    state.retries.put(RetryEntry(ENVELOPE))


def _refused() -> TurnRecord:
    return record(Phase.SETTLING, SettledItem(Outgoing("a", "x", "t", "text"), ItemState.REFUSED, "no"))


def _delivered() -> TurnRecord:
    return record(Phase.SETTLING, SettledItem(Outgoing("a", "user", "t", "text"), ItemState.DELIVERED))


Act = Callable[[State], object]
INDEX_GONE = "unlink .agent-mailer/inflight.json"

WRITES: dict[str, tuple[Act, Act, list[str]]] = {
    "a claim": (_nothing, lambda s: s.turns.create(record()), CLAIM),
    "a turn's record": (_settled, lambda s: s.turns.save(record()), RECORD),
    "settled": (lambda s: s.turns.create(record()), lambda s: s.turns.mark_settled(TURN), [INDEX_GONE]),
    "settled, for good": (
        _settled,
        lambda s: s.turns.mark_settled(TURN, durable=True),
        ["fsync TURN/.tmp.settled", "replace TURN/settled", "fsync turns/TURN", INDEX_GONE],
    ),
    "a record in short": (_settled, lambda s: s.retention.summarise(_delivered()), ["replace TURN/turn.json"]),
    "a record in short, with what was refused": (_settled, lambda s: s.retention.summarise(_refused()), RECORD[:2]),
    "a turn forgotten": (
        lambda s: s.turns.create(record()),
        lambda s: s.turns.drop(TURN),
        [
            *("rename turns/.gone.TURN", "fsync .agent-mailer/turns"),
            *("unlink .gone.TURN/turn.json", "rmdir turns/.gone.TURN", INDEX_GONE),
        ],
    ),
    "a message done": (
        lambda s: s.processed.add("k"),
        lambda s: s.processed.add("m"),
        ["fsync .agent-mailer/processed.txt"],
    ),
    "a message to run again": (
        lambda s: s.processed.add("m"),
        lambda s: s.processed.remove("m"),
        published("processed.txt"),
    ),
    "a retry": (_nothing, _retry, published("retries.json")),
    "a retry's end": (_retry, lambda s: s.retries.remove("m"), published("retries.json")),
    "a session": (
        _ended_session,
        lambda s: s.sessions.put("t", SessionEntry("r", generation=2)),
        ["fsync .agent-mailer/sessions.journal"],
    ),
    "the journal's fold": (
        _ended_session,
        lambda s: s.sessions.fold(),
        [*published("sessions.json"), "unlink .agent-mailer/sessions.journal"],
    ),
    "a dead letter": (
        _letters,
        lambda s: s.dead_letters.add(DeadLetter("o", turn_id=TURN), again=False),
        ["fsync .agent-mailer/dead_letter.jsonl"],
    ),
    "dead letters removed": (_letters, lambda s: s.dead_letters.remove(["m"]), published("dead_letter.jsonl")),
    "a pause": (
        _nothing,
        lambda s: s.pause.write(Pause(PauseReason.LIMITED, since=1.0)),
        published("pause.json")[:2],
    ),
    "a pause by hand": (
        _nothing,
        lambda s: s.pause.write(Pause(PauseReason.BY_HAND, since=1.0)),
        published("pause.json"),
    ),
    "a pause's end": (
        lambda s: s.pause.write(Pause(PauseReason.LIMITED, since=1.0)),
        lambda s: s.pause.clear(),
        ["unlink .agent-mailer/pause.json"],
    ),
    "a pause's end by hand": (
        lambda s: s.pause.write(Pause(PauseReason.LIMITED, since=1.0)),
        lambda s: s.pause.clear(durable=True),
        ["unlink .agent-mailer/pause.json", FOLDER],
    ),
    "a note of a turn that failed": (
        _nothing,
        lambda s: s.notes.keep(record(), [NoteWrite(NoteScope.THREAD, "text")]),
        [
            "fsync note-history/.tmp.TURN-t-kept.json",
            "replace note-history/TURN-t-kept.json",
            "fsync .agent-mailer/note-history",
        ],
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_of_the_state(desk: Desk, name: str) -> None:
    before, act, wanted = WRITES[name]
    place = desk.place()
    place.prepare()
    before(place.state)
    trace = desk.base / "trace"
    place.disk.system = PointedSystem(Point(), trace)
    act(place.state)
    assert calls_of(trace) == wanted


def test_a_resume_by_hand_lasts(desk: Desk) -> None:
    place = desk.place()
    place.prepare()
    place.state.pause.write(Pause(PauseReason.BY_HAND, since=1.0))
    trace = desk.base / "trace"
    place.disk.system = PointedSystem(Point(), trace)
    apply(place.state, Request(Verb.RESUME))
    assert calls_of(trace) == ["unlink .agent-mailer/pause.json", FOLDER]
