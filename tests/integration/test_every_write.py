"""SPEC 4.5: what a write has made durable when it returns, and in which order. Read off the calls it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.crash.points import Point, PointedSystem
from tests.desk import Desk, outcomes

from agent_mailer.approvals.calls import Call
from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.outcomes import Outcome
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.port import Answered, Asked, Became
from agent_mailer.schedules.due import Known
from agent_mailer.state import State
from agent_mailer.state.approvals import Answer as Yes
from agent_mailer.state.approvals import Approval, By, Verdict
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Ended, Guard, HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb, Raised
from agent_mailer.state.notices import Channel, Notice, NoticeKind
from agent_mailer.state.records import (
    AfterStop,
    DeadLetter,
    ItemState,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    SessionEntry,
    SettledItem,
    Settlement,
    StopAsked,
    TurnRecord,
)
from agent_mailer.state.requests import Answer, Request, Verb
from agent_mailer.state.stuck import StuckEntry, StuckKind
from agent_mailer.turn_tools.folder import NoteScope, NoteWrite
from agent_mailer.watch.given_up import forget, take_up_again
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


def kept(name: str, above: str) -> list[str]:
    """In the user's own state folder; the folder of the file is the last but one part of what is shown of it."""
    folder, _, file = name.partition("/")
    return [f"fsync {folder}/.tmp.{file}", f"replace {name}", f"fsync {above}/{folder}"]


def calls_of(path: Path) -> list[str]:
    """Without those that make nothing durable, and publish or remove nothing."""
    names = path.read_text().splitlines() if path.exists() else []
    return [name for name in names if name.split()[0] in ("fsync", "replace", "rename", "unlink", "rmdir")]


def test_a_message_with_an_answer_and_a_session(desk: Desk) -> None:
    desk.configure(command_output="jsonl")
    # The last line has no end, and counts.
    desk.shell("""cat >/dev/null; echo '{"type":"session","id":"s"}'; printf '{"type":"result","text":"answer"}'""")
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


def _given_up(state: State) -> None:
    """Its turn is settled, as far as no power failure comes; it counts as settled, and is among the dead letters."""
    letter = DeadLetter("m", "t", turn_id=TURN, envelope=ENVELOPE)
    made = record(Phase.SETTLING)
    made.settlement = Settlement(Outcome.FAILED, "", 1.0, 1.0, finished=True, dead=letter)
    state.turns.create(made)
    state.turns.mark_settled(TURN)
    state.dead_letters.add(letter, again=False)
    state.processed.add("m")


def _refused() -> TurnRecord:
    return record(Phase.SETTLING, SettledItem(Outgoing("a", "x", "t", "text"), ItemState.REFUSED, "no"))


def _delivered() -> TurnRecord:
    return record(Phase.SETTLING, SettledItem(Outgoing("a", "user", "t", "text"), ItemState.DELIVERED))


def _hold(state: State, name: str) -> None:
    state.held.add([HeldEntry(name, 1.0, Guard.PAIR, "why", "q", msgspec.structs.replace(ENVELOPE, id=name))])


def _let_go(state: State) -> None:
    state.held._spared = 1
    for name in ("k", "m"):
        _hold(state, name)
    state.held.end(["m"], Ended.DROPPED)


def _strand(state: State) -> None:
    state.stuck.add(StuckKind.NOT_FETCHED, "m", ENVELOPE, "why")


def _stranded(state: State) -> StuckEntry:
    [entry] = state.stuck.all()
    return entry


def _ask_command(state: State) -> None:
    state.requests.submit(Request(Verb.RESUME))


def _answer_command(state: State) -> None:
    [(name, _)] = state.requests.waiting()
    assert state.requests.take(name)
    state.requests.answer(name, Answer(ok=True, lines=()))


def _ask(state: State, name: str) -> None:
    state.approvals.ask([msgspec.structs.replace(QUESTION, id=name)])


def _allow(state: State) -> None:
    state.approvals.answer(QUESTION, Yes(Verdict.ALLOW, 1.0, By.COMMAND))


def _allowed(state: State) -> None:
    _ask(state, "q-1")
    _allow(state)


CALL = Call("Bash", '{"command":"git push"}', "call-7")
QUESTION = Approval("q-1", "", CALL, CALL.digest, TURN, "m", "t", "user", "", 1.0, 2.0)
NOTICE = Notice("n-1", NoticeKind.HELD, 1.0, "", left=(Channel.COMMAND,))
ASKED = Asked(7, RemoteVerb.PAUSE, "ann", 60.0)

OF_THE_USER = ["fsync .local/state", "fsync state/agent-mailer"]
BOOK = ["fsync remote/ID", "replace remote/ID", "fsync agent-mailer/remote"]

Act = Callable[[State], object]
INDEX_GONE = "unlink .agent-mailer/inflight.json"
FOR_GOOD = ["fsync TURN/.tmp.settled", "replace TURN/settled", "fsync turns/TURN", INDEX_GONE]
"""A turn that is settled once and for all: over what comes now its settlement never applies again."""

WRITES: dict[str, tuple[Act, Act, list[str]]] = {
    "a claim": (_nothing, lambda s: s.turns.create(record()), CLAIM),
    "a turn's record": (_settled, lambda s: s.turns.save(record()), RECORD),
    "settled": (lambda s: s.turns.create(record()), lambda s: s.turns.mark_settled(TURN), [INDEX_GONE]),
    "settled, for good": (
        _settled,
        lambda s: s.turns.mark_settled(TURN, durable=True),
        FOR_GOOD,
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
    "a dead letter taken up again": (
        _given_up,
        lambda s: take_up_again(s, ["m"]),
        [*FOR_GOOD, *published("retries.json"), *published("processed.txt"), *published("dead_letter.jsonl")],
    ),
    "a dead letter dropped": (
        _given_up,
        lambda s: forget(s, ["m"]),
        [*FOR_GOOD, *published("dead_letter.jsonl")],
    ),
    "a pause": (
        _nothing,
        lambda s: s.pause.write(Pause(PauseReason.LIMITED, since=1.0)),
        published("pause.json")[:2],
    ),
    "what was spent": (_nothing, lambda s: s.usage.add(TURN, 1.0, 1.0, None), published("usage.json")[:2]),
    "a stop of a turn": (
        _settled,
        lambda s: s.turns.ask_stop(TURN, StopAsked(AfterStop.DROP, 1.0)),
        ["fsync TURN/.tmp.stop.json", "replace TURN/stop.json", "fsync turns/TURN"],
    ),
    "a stop of the watcher": (_nothing, lambda s: s.turns.stop_begins(), published("stopping")),
    "mail held": (_nothing, lambda s: _hold(s, "m"), [FOLDER, "fsync .agent-mailer/held.jsonl"]),
    "more mail held": (lambda s: _hold(s, "k"), lambda s: _hold(s, "m"), ["fsync .agent-mailer/held.jsonl"]),
    "mail let go": (
        lambda s: _hold(s, "m"),
        lambda s: s.held.end(["m"], Ended.RELEASED),
        ["fsync .agent-mailer/held.jsonl"],
    ),
    "mail held, and what ended forgotten": (_let_go, lambda s: s.held.tidy(lambda _: True), published("held.jsonl")),
    "mail stuck": (_nothing, _strand, [FOLDER, "fsync .agent-mailer/stuck.jsonl"]),
    "mail stuck, and its sender told": (
        _strand,
        lambda s: s.stuck.heard(_stranded(s)),
        ["fsync .agent-mailer/stuck.jsonl"],
    ),
    "mail stuck no more": (_strand, lambda s: s.stuck.remove([(StuckKind.NOT_FETCHED, "m")]), published("stuck.jsonl")),
    "what did not leave": (_nothing, lambda s: s.unsent.note(_refused()), []),
    "what left after all": (
        lambda s: s.unsent.note(_refused()),
        lambda s: s.unsent.remove([f"{TURN}.0"]),
        published("unsent.txt"),
    ),
    "a notice": (_nothing, lambda s: s.notices.add(NOTICE), published("guards.json")),
    "a notice told": (
        lambda s: s.notices.add(NOTICE),
        lambda s: s.notices.done(NOTICE, Channel.COMMAND),
        published("guards.json"),
    ),
    "what leaves by the clock": (
        _nothing,
        lambda s: s.schedules.put("a", Known("line", 1.0)),
        published("schedules.json"),
    ),
    "a request": (
        _nothing,
        lambda s: s.requests.submit(Request(Verb.RESUME)),
        kept("requests/N.json", ".agent-mailer"),
    ),
    "a ping": (_nothing, lambda s: s.requests.submit(Request(Verb.PING)), ["replace requests/N.json"]),
    "a request answered": (
        _ask_command,
        _answer_command,
        [
            "rename requests/N.taken",
            "replace requests/N.answer",
            "unlink requests/N.taken",
            "unlink requests/N.json",
            "fsync .agent-mailer/requests",
        ],
    ),
    "a request withdrawn": (
        _ask_command,
        lambda s: s.requests.withdraw(*[name for name, _ in s.requests.waiting()]),
        ["unlink requests/N.json", "fsync .agent-mailer/requests"],
    ),
    "an order": (
        lambda s: s.lifts.give(Order(OrderVerb.ALLOW, ("x",))),
        lambda s: s.lifts.give(Order(OrderVerb.ALLOW, ("x",))),
        kept("ID/N.order", "guards"),
    ),
    "the first order": (
        _nothing,
        lambda s: s.lifts.give(Order(OrderVerb.ALLOW, ("x",))),
        [*OF_THE_USER, "fsync agent-mailer/guards", *kept("ID/N.order", "guards")],
    ),
    "a sender allowed": (
        lambda s: s.lifts.allow(("y",)),
        lambda s: s.lifts.allow(("x",)),
        kept("ID/standing.json", "guards"),
    ),
    "a sender allowed no more": (
        lambda s: s.lifts.allow(("x",)),
        lambda s: s.lifts.disallow(("x",)),
        kept("ID/standing.json", "guards"),
    ),
    "a limit raised": (
        lambda s: s.lifts.allow(("x",)),
        lambda s: s.lifts.set_aside({"a": Raised(1.0, 2.0)}),
        kept("ID/standing.json", "guards"),
    ),
    "a request from afar": (lambda s: s.remote.take(ASKED), lambda s: s.remote.take(ASKED), BOOK),
    "the first request from afar": (_nothing, lambda s: s.remote.take(ASKED), [*OF_THE_USER, *BOOK]),
    "what came of it": (lambda s: s.remote.take(ASKED), lambda s: s.remote.end(Answered(7, Became.DONE)), BOOK),
    "that it was told": (
        lambda s: s.remote.end(Answered(7, Became.DONE)),
        lambda s: s.remote.told(Answered(7, Became.DONE)),
        BOOK[:2],
    ),
    "a question": (lambda s: _ask(s, "q-0"), lambda s: _ask(s, "q-1"), kept("ID/q-1.json", "approvals")),
    "the first question": (
        _nothing,
        lambda s: _ask(s, "q-1"),
        [*OF_THE_USER, "fsync agent-mailer/approvals", *kept("ID/q-1.json", "approvals")],
    ),
    "a question's answer": (
        lambda s: _ask(s, "q-1"),
        _allow,
        ["fsync ID/.tmp.q-1", "rename ID/q-1.answer", "fsync approvals/ID"],
    ),
    "an answer that a turn is told of": (
        _allowed,
        lambda s: s.approvals.grant("q-1", TURN),
        kept("ID/q-1.json", "approvals"),
    ),
    "an answer used up": (
        _allowed,
        lambda s: s.approvals.ended(["q-1"], TURN, ["q-1"], over=False),
        kept("ID/q-1.json", "approvals"),
    ),
    "a question that is over": (
        lambda s: _ask(s, "q-1"),
        lambda s: s.approvals.close(["q-1"]),
        kept("ID/q-1.json", "approvals"),
    ),
    "a call allowed for good": (
        lambda s: _ask(s, "q-1"),
        lambda s: s.approvals.allow_for_good(QUESTION, 1.0),
        ["fsync approvals/ID", *kept("always/q-1.json", "ID")],
    ),
    "a call allowed no more": (
        lambda s: s.approvals.allow_for_good(QUESTION, 1.0),
        lambda s: s.approvals.revoke("q-1"),
        ["unlink always/q-1.json", "fsync ID/always"],
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
            FOLDER,
            "fsync note-history/.tmp.TURN-t-kept.json",
            "replace note-history/TURN-t-kept.json",
            "fsync .agent-mailer/note-history",
        ],
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_of_the_state(tmp_path: Path, name: str) -> None:
    before, act, wanted = WRITES[name]
    folder = StateFolder(tmp_path / "coder", Disk(), FakeClock(1.0))
    folder.prepare()
    state = State(folder, EventLog(folder.log, folder.disk, folder.clock))
    before(state)
    trace = tmp_path / "trace"
    folder.disk.system = PointedSystem(Point(), trace)
    act(state)
    assert calls_of(trace) == wanted


def test_a_resume_by_hand_lasts(desk: Desk) -> None:
    place = desk.place()
    place.prepare()
    place.state.pause.write(Pause(PauseReason.BY_HAND, since=1.0))
    trace = desk.base / "trace"
    place.disk.system = PointedSystem(Point(), trace)
    apply(place.state, Request(Verb.RESUME))
    assert calls_of(trace) == ["unlink .agent-mailer/pause.json", FOLDER]
