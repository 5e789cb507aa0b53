"""Changes of a workdir's state, each with the file that it writes and how it is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.clocks import FakeClock
from tests.refusing import GONE, On

from agent_mailer.approvals.calls import Call
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.outcomes import Outcome
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.port import Answered, Asked, Became
from agent_mailer.runtimes.port import Usage
from agent_mailer.schedules.due import Known
from agent_mailer.state import State
from agent_mailer.state.approvals import Answer, Approval, By, Verdict
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Ended, Guard, HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb, Raised
from agent_mailer.state.notices import Channel, Notice, NoticeKind
from agent_mailer.state.pauses import AccountPause
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
from agent_mailer.state.requests import Answer as Answered_
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.state.takeover import read_inflight, take_over
from agent_mailer.watch.guards.holding import carry_out

NOW = 1_700_000_000.0
TURN = "20260101T000001-00000000"
MAIL = Envelope("m", "t", "user", 0.0, "1", "m.md")
CALL = Call("Bash", '{"command":"git push"}', "call-7")
QUESTION = Approval("q-1", "", CALL, CALL.digest, TURN, "m", "t", "user", "", NOW, NOW + 3600)
NOTICE = Notice("n-1", NoticeKind.HELD, NOW, "", left=(Channel.COMMAND,))
LIMIT = Pause(PauseReason.LIMITED, NOW, NOW + 600.0)
MET = Settlement(Outcome.LIMITED, "", NOW, 5.0, finished=False, retry=RetryEntry(MAIL, revision=1), pause=LIMIT)
REFUSED = TurnRecord(
    TURN,
    MAIL,
    Phase.SETTLING,
    "command",
    NOW,
    settlement=Settlement(
        Outcome.DONE,
        "",
        NOW,
        1.0,
        finished=True,
        items=(SettledItem(Outgoing("a", "x", "t", "text"), ItemState.REFUSED, "no"),),
    ),
)

Act = Callable[[State], object]


def state_in(workdir: Path, system: SystemCalls | None = None) -> State:
    """As the next process finds it."""
    folder = StateFolder(workdir, Disk(system), FakeClock(NOW))
    folder.prepare()
    account = AccountPause(workdir / "accounts", "acc", folder.disk, folder.clamp, lambda *_: None)
    return State(folder, EventLog(folder.log, folder.disk, folder.clock), account)


class Case(NamedTuple):
    """`refused` is the file; by `calls`, where it is not that something new gets its name.

    `losable`: a power cut may take it, which is harmless (docs/reference/files.md says why).
    """

    before: Act
    act: Act
    refused: str
    look: Act
    calls: tuple[On, ...] = ()
    losable: bool = False


def each(*acts: Act) -> Act:
    return lambda state: [act(state) for act in acts]


def nothing(_: State) -> None:
    pass


def hold(state: State) -> None:
    state.held.add([HeldEntry("m", NOW, Guard.PAIR, "why", "q", MAIL)])


def held(state: State) -> object:
    return dict(state.held.waiting), [one.message_id for one in state.held.all()]


def strand(state: State) -> None:
    state.stuck.add(StuckKind.NOT_FETCHED, "m", MAIL, "why")


def stranded(state: State) -> object:
    return state.stuck.all(), state.stuck.waiting, state.stuck.unheard, [*state.stuck.wanted]


def of_stuck(act: Callable[[State], Callable[..., object]], *more: str) -> Act:
    def done(state: State) -> None:
        entry = state.stuck.get(StuckKind.NOT_FETCHED, "m")
        assert entry is not None
        act(state)(entry, *more)

    return done


def ask(state: State) -> None:
    state.approvals.ask([QUESTION])


def asked(state: State) -> object:
    known = state.approvals.get("q-1")
    return known and (known.granted, known.used, known.over), state.approvals.answer_to("q-1")


def allow(state: State) -> None:
    state.approvals.answer(QUESTION, Answer(Verdict.ALLOW, NOW, By.COMMAND))


def waits_for_a_yes(state: State) -> None:
    ask(state)
    state.retries.put(RetryEntry(MAIL, asked=("q-1",)))


def dead(state: State) -> None:
    state.dead_letters.add(DeadLetter("m", turn_id=TURN), again=True)


def order(verb: OrderVerb, *targets: str) -> Act:
    return lambda state: carry_out(state, Order(verb, targets, NOW + 60.0))


def said(state: State) -> object:
    return state.lifts.standing


def remote(state: State) -> object:
    return state.remote.seen, state.remote.doing, state.remote.untold


def end_what_was_taken(state: State) -> None:
    if state.remote.doing is not None:
        state.remote.end(Answered(7, Became.DONE))


def requested(state: State) -> None:
    state.requests.submit(Request(Verb.PAUSE))


def answer_all(state: State) -> None:
    for name, _ in state.requests.waiting():
        state.requests.answer(name, Answered_(ok=True, lines=()))


def pause(state: State) -> None:
    state.pause.write(Pause(PauseReason.BY_HAND, NOW))


ASKED = Asked(7, RemoteVerb.PAUSE, "ann", 60.0)
CASES = {
    "held": Case(nothing, hold, "held.jsonl", held),
    "let go": Case(hold, lambda s: s.held.end(["m"], Ended.RELEASED), "held.jsonl", held),
    "let go by an order, and not to be run": Case(hold, order(OrderVerb.RELEASE, "m"), "retries.json", held),
    "dropped by an order, and not settled": Case(hold, order(OrderVerb.DROP, "m"), "processed.txt", held),
    "dropped by an order, and still to be run": Case(
        each(hold, lambda s: s.retries.put(RetryEntry(MAIL))), order(OrderVerb.DROP, "m"), "retries.json", held
    ),
    "allowed": Case(
        each(order(OrderVerb.ALLOW, "ann"), lambda s: s.lifts.set_aside({"a": Raised(1.0, NOW + 9.0)})),
        order(OrderVerb.ALLOW, "bob"),
        "standing.json",
        said,
    ),
    "allowed no more": Case(
        each(order(OrderVerb.ALLOW, "ann", "bob"), lambda s: s.lifts.set_aside({"a": Raised(1.0, NOW + 9.0)})),
        order(OrderVerb.DISALLOW, "ann"),
        "standing.json",
        said,
    ),
    "raised": Case(
        each(order(OrderVerb.ALLOW, "ann"), lambda s: s.lifts.set_aside({"b": Raised(1.0, NOW + 9.0)})),
        order(OrderVerb.RAISE, "turns_per_hour=7"),
        "standing.json",
        said,
    ),
    "raised, and the pause": Case(
        lambda s: s.pause.write(Pause(PauseReason.BUDGET, NOW)),
        order(OrderVerb.RAISE, "turns_per_hour=7"),
        "standing.json",
        lambda s: s.pause.read(),
    ),
    "stuck": Case(nothing, strand, "stuck.jsonl", stranded),
    "stuck, and heard of": Case(strand, of_stuck(lambda s: s.stuck.heard), "stuck.jsonl", stranded),
    "stuck, and wanted": Case(strand, of_stuck(lambda s: s.stuck.want), "stuck.jsonl", stranded),
    "stuck, and wanted in vain": Case(
        each(strand, of_stuck(lambda s: s.stuck.want)),
        of_stuck(lambda s: s.stuck.refused, "no"),
        "stuck.jsonl",
        stranded,
    ),
    "stuck no more": Case(strand, lambda s: s.stuck.remove([(StuckKind.NOT_FETCHED, "m")]), "stuck.jsonl", stranded),
    "not sent": Case(nothing, lambda s: s.unsent.note(REFUSED), "unsent.txt", lambda s: s.unsent.all(), losable=True),
    "sent after all": Case(
        lambda s: s.unsent.note(REFUSED),
        lambda s: s.unsent.remove([f"{TURN}.0"]),
        "unsent.txt",
        lambda s: s.unsent.all(),
    ),
    "settled": Case(nothing, lambda s: s.processed.add("m"), "processed.txt", lambda s: "m" in s.processed),
    "settled no more": Case(
        lambda s: s.processed.add("m"),
        lambda s: s.processed.remove("m"),
        "processed.txt",
        lambda s: ("m" in s.processed, len(s.processed)),
    ),
    "finished, and still to be run": Case(
        lambda s: s.retries.put(RetryEntry(MAIL)),
        lambda s: s.retention.finish_message("m"),
        "processed.txt",
        lambda s: [*s.retries.all()],
    ),
    "given up": Case(nothing, dead, "dead_letter.jsonl", lambda s: s.dead_letters.all()),
    "given up no more": Case(
        dead, lambda s: s.dead_letters.remove(["m"]), "dead_letter.jsonl", lambda s: s.dead_letters.all()
    ),
    "to be run again": Case(
        nothing, lambda s: s.retries.put(RetryEntry(MAIL)), "retries.json", lambda s: [*s.retries.all()]
    ),
    "to be run no more": Case(
        lambda s: s.retries.put(RetryEntry(MAIL)),
        lambda s: s.retries.remove("m"),
        "retries.json",
        lambda s: [*s.retries.all()],
    ),
    "to be run no more, and its question": Case(
        waits_for_a_yes, lambda s: s.retries.remove("m"), "q-1.json", lambda s: ([*s.retries.all()], asked(s))
    ),
    "a session": Case(
        lambda s: s.sessions.put("t", SessionEntry("old", generation=1)),
        lambda s: s.sessions.put("t", SessionEntry("new", generation=2)),
        "sessions.journal",
        lambda s: s.sessions.all(),
    ),
    "sessions forgotten": Case(
        each(lambda s: s.sessions.put("t", SessionEntry("old", generation=7)), lambda s: s.sessions.fold()),
        lambda s: s.sessions.prune(60.0),
        "sessions.json",
        lambda s: s.sessions.all(),
    ),
    "sessions forgotten of which some stand only in the journal": Case(
        each(*(lambda s, name=name: s.sessions.put(name, SessionEntry("old", generation=7)) for name in "ab")),
        lambda s: s.sessions.prune(60.0),
        "sessions.json",
        lambda s: s.sessions.all(),
    ),
    "what was spent": Case(
        lambda s: s.usage.add("one", NOW, 1.0, Usage(1, 2, 0.5)),
        lambda s: s.usage.add("two", NOW, 1.0, Usage(1, 2, 0.5)),
        "usage.json",
        lambda s: s.usage.days(),
        losable=True,
    ),
    "a schedule": Case(
        lambda s: s.schedules.put("a", Known("line", 1.0, sent=("m",))),
        lambda s: s.schedules.put("a", Known("line", 2.0, sent=("m", "n"))),
        "schedules.json",
        lambda s: (s.schedules.all, s.schedules.sent),
    ),
    "a schedule forgotten": Case(
        each(*(lambda s, name=name: s.schedules.put(name, Known("line", 1.0, sent=(name,))) for name in "ab")),
        lambda s: s.schedules.keep(["a"]),
        "schedules.json",
        lambda s: (s.schedules.all, s.schedules.sent),
    ),
    "all schedules forgotten": Case(
        lambda s: s.schedules.put("a", Known("line", 1.0, sent=("m",))),
        lambda s: s.schedules.keep([]),
        "schedules.json",
        lambda s: (s.schedules.all, s.schedules.sent),
        GONE,
        losable=True,
    ),
    "to be told": Case(nothing, lambda s: s.notices.add(NOTICE), "guards.json", lambda s: s.notices.told),
    "taken from afar": Case(nothing, lambda s: s.remote.take(ASKED), "remote/*.json", remote),
    "done from afar": Case(
        lambda s: s.remote.take(ASKED),
        end_what_was_taken,
        "remote/*.json",
        remote,
    ),
    "told to whoever asked from afar": Case(
        lambda s: s.remote.end(Answered(7, Became.DONE)),
        lambda s: s.remote.told(Answered(7, Became.DONE)),
        "remote/*.json",
        remote,
        losable=True,
    ),
    "asked": Case(nothing, ask, "q-1.json", asked),
    "answered": Case(ask, allow, "q-1.answer", asked),
    "an answer told to a turn": Case(each(ask, allow), lambda s: s.approvals.grant("q-1", TURN), "q-1.json", asked),
    "an answer used up": Case(
        each(ask, allow, lambda s: s.approvals.grant("q-1", TURN)),
        lambda s: s.approvals.ended(["q-1"], TURN, ["q-1"], over=True),
        "q-1.json",
        asked,
    ),
    "nobody is asked any more": Case(ask, lambda s: s.approvals.close(["q-1"]), "q-1.json", asked),
    "a pause of the account": Case(
        nothing,
        lambda s: s.pause.settled(MET, 0.0),
        "accounts/*.json",
        lambda s: s.pause.account and s.pause.account.read(),
        losable=True,
    ),
    "a pause of the account, here": Case(
        nothing, lambda s: s.pause.settled(MET, 0.0), "pause.json", lambda s: s.pause.read(), losable=True
    ),
    "a person's pause": Case(nothing, pause, "pause.json", lambda s: s.pause.read()),
    "a person's pause, ended": Case(
        pause, lambda s: s.pause.clear(durable=True), "pause.json", lambda s: s.pause.read(), GONE
    ),
    "in work at another client": Case(
        lambda s: (s.folder.path / "inflight.json").write_text('{"msg_id": "m", "thread_id": "t"}'),
        lambda s: take_over(s.folder, s.processed, s.retries, s.log),
        "retries.json",
        lambda s: (s.retries.get("m") is not None, read_inflight(s.folder.path / "inflight.json")),
    ),
    "a request that is answered": Case(requested, answer_all, "*.answer", lambda s: s.requests.waiting()),
    "a request that is done with": Case(requested, answer_all, "requests/*.json", lambda s: s.requests.waiting(), GONE),
}
