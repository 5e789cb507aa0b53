"""The last look before a claim, over a state of its own: what may start, what is held, what pauses; nothing runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.events import EventLog
from agent_mailer.locks import FileLock
from agent_mailer.mailbox.port import Envelope, Message, Outgoing
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.runtimes.port import Usage
from agent_mailer.schedules.due import Known, Schedule
from agent_mailer.state import State
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Guard
from agent_mailer.state.lifts import Raised
from agent_mailer.state.records import (
    Attempt,
    Batched,
    Counted,
    ItemState,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    SettledItem,
    Settlement,
    TurnRecord,
)
from agent_mailer.watch.guards.budgets import BudgetPolicy, midnight
from agent_mailer.watch.guards.calm import CalmPolicy, parse_hours
from agent_mailer.watch.guards.gate import HOUR, Admitted, Gate, counts_hourly, ran
from agent_mailer.watch.guards.rounds import CHAIN_GAP, GuardPolicy
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import Candidate, WatchPolicy

NOON = datetime(2026, 6, 10, 12).astimezone().timestamp()
WHO = WhoPolicy(people=("ann", "boss@*"), address="coder", vouched=frozenset({"ann"}))


class Scene:
    """A gate and what lies around it. Another policy is folded anew."""

    def __init__(self, base: Path) -> None:
        self.clock = FakeClock(NOON)
        folder = StateFolder(base, Disk(), self.clock)
        folder.prepare()
        self.state = State(folder, EventLog(folder.log, folder.disk, self.clock))
        self.policy = WatchPolicy(base, who=WHO)
        self.gate = Gate(self.state, lambda: self.policy, self.clock, "coder")

    def guards(self, **keys: int | CalmPolicy | None) -> None:
        self.policy = msgspec.structs.replace(self.policy, guards=msgspec.structs.replace(GuardPolicy(), **keys))

    def budget(self, **keys: float | str) -> None:
        self.policy = msgspec.structs.replace(self.policy, budget=BudgetPolicy(**keys))  # type: ignore[arg-type]

    def admit(self, *candidates: Candidate, at: float = NOON) -> Admitted:
        return self.gate.admit(candidates, at)

    def ran(self, name: str, at: float = NOON, **more: object) -> TurnRecord:
        """A turn that was claimed then, and what is in its record beside."""
        found = turn(name, at, **more)  # type: ignore[arg-type]
        self.state.turns.create(found)
        return found


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    return Scene(tmp_path)


def mail(
    name: str = "m",
    sender: str = "robot",
    *,
    thread: str = "t",
    visited: str = "",
    created: float = NOON - 1,
    answers: bool = False,
) -> Envelope:
    chain = tuple(visited.split())
    return Envelope(name, thread, sender, created, "o", "l", visited=chain, hops=len(chain), answers=answers)


def wants(envelope: Envelope, **entry: object) -> Candidate:
    return Candidate(envelope, RetryEntry(envelope, **entry) if entry else None)  # type: ignore[arg-type]


def turn(name: str, at: float = NOON, *, sender: str = "robot", dollars: float = 1.0, **more: object) -> TurnRecord:
    envelope = msgspec.structs.replace(mail(name, sender), thread=str(more.pop("thread", "t")))
    made = TurnRecord(new_turn_id(at), envelope, Phase.SETTLING, "command", at, process=ProcessIdentity(1, 1, "b"))
    made.settlement = Settlement(Outcome.DONE, "", at + 5, 5.0, finished=True, usage=Usage(10, 1, dollars))
    for key, value in more.items():
        setattr(made, key, value)
    return made


def ids(admitted: Admitted) -> tuple[list[str], list[str]]:
    return [one.envelope.id for one in admitted.go], [stop.envelope.id for stop in admitted.stops]


def test_what_ran_or_still_may_counts_and_what_a_known_person_wants_counts_not_by_the_hour() -> None:
    given_back = turn("x", process=None)
    assert (ran(turn("x")), ran(given_back), ran(turn("x", process=None, settlement=None))) == (True, False, True)
    assert counts_hourly(turn("x"))
    assert counts_hourly(turn("x", counted=Counted(0)))
    assert not counts_hourly(turn("x", counted=Counted(0, free=True)))


def test_too_many_hops_hold_a_message_and_say_whose_it_is(scene: Scene) -> None:
    scene.guards(max_hops=2)
    far = mail("far", visited="a b c")
    for candidate, ours in ((wants(far), False), (wants(far, listed_only=True), False), (wants(far, starts=1), True)):
        [stop] = scene.admit(candidate).stops
        assert (stop.guard, stop.ours, stop.envelope) == (Guard.HOPS, ours, far)
        assert stop.question.startswith("hops\0")
        assert stop.why


def test_who_was_let_go_is_a_person_or_has_run_before_is_not_judged_by_rounds(scene: Scene) -> None:
    scene.guards(max_hops=2)
    far = mail("far", visited="a b c")
    attempt = Attempt("turn", Outcome.FAILED, "", NOON - 9)
    assert ids(scene.admit(wants(far, released=True))) == (["far"], [])
    assert ids(scene.admit(wants(far, starts=1, history=(attempt,)))) == (["far"], [])
    assert ids(scene.admit(wants(msgspec.structs.replace(far, sender="ann")))) == (["far"], [])
    assert ids(scene.admit(wants(msgspec.structs.replace(far, sender="boss@acme")))) == (["far"], [])
    assert ids(scene.admit(wants(msgspec.structs.replace(far, sender="coder")))) == ([], ["far"])
    scene.policy = msgspec.structs.replace(scene.policy, who=WhoPolicy(people=("coder",), address="coder"))
    assert ids(scene.admit(wants(msgspec.structs.replace(far, sender="coder")))) == ([], ["far"]), "never a person"
    # A chain is none any more after six hours.
    assert ids(scene.admit(wants(msgspec.structs.replace(far, created=NOON - 7 * HOUR)))) == (["far"], [])


def test_the_rounds_of_a_thread_are_those_that_were_claimed_before(scene: Scene) -> None:
    scene.guards(pair_rounds=2)
    for number in range(3):
        name = f"m{number}"
        scene.ran(name, NOON - 30 + number, counted=Counted(number))
    again = mail("again", answers=True)
    [stop] = scene.admit(wants(again)).stops
    assert stop.guard in (Guard.PAIR, Guard.THREAD)
    assert scene.gate.counted(again, None) == Counted(3)
    assert scene.gate.counted(msgspec.structs.replace(again, sender="ann"), None) == Counted(0, person=True, free=True)
    assert scene.gate.counted(again, RetryEntry(again, released=True)) == Counted(0, person=True, free=True)


def test_what_a_person_writes_or_lets_go_begins_the_thread_anew(scene: Scene) -> None:
    scene.guards(pair_rounds=2)
    for number in range(3):
        scene.ran(f"m{number}", NOON - 30 + number, counted=Counted(number))
    assert scene.gate.counted(mail("again", answers=True), None).depth == 3
    scene.gate.claimed(turn("p", NOON - 5, sender="ann", counted=Counted(0, person=True, free=True)))
    assert scene.gate.counted(mail("again", answers=True), None).depth == 0
    assert ids(scene.admit(wants(mail("again", answers=True)))) == (["again"], [])


def test_where_a_persons_turn_has_written_his_chain_goes_on(scene: Scene) -> None:
    for number in range(3):
        scene.ran(f"m{number}", NOON - 30 + number, counted=Counted(number), thread="other")
    there = mail("again", thread="other", answers=True)
    assert scene.gate.counted(there, None).depth == 3
    done = turn("p", NOON - 5, sender="ann", counted=Counted(0, person=True))
    item = Outgoing("i", "user", "other", "d")
    assert done.settlement is not None
    done.settlement = msgspec.structs.replace(done.settlement, items=(SettledItem(item, ItemState.DELIVERED),))
    scene.gate.settled(msgspec.structs.replace(done, counted=Counted(0)))
    assert scene.gate.counted(there, None).depth == 3
    scene.gate.settled(done)
    assert scene.gate.counted(there, None).depth == 0


def test_turns_of_an_hour_pause_and_a_known_person_goes_by(scene: Scene) -> None:
    scene.guards(turns_per_hour=2)
    for number in range(3):
        scene.ran(f"long ago {number}", NOON - HOUR - 3 + number)
    first = scene.ran("two", NOON - HOUR + 1)
    known = mail("by-ann", "ann")
    found = scene.admit(wants(mail("a")), wants(mail("b")), wants(known), wants(mail("let-go"), released=True))
    assert ids(found) == (["a", "by-ann", "let-go"], [])
    assert found.pause is not None
    assert found.pause.reason is PauseReason.TOO_MANY_TURNS
    assert (found.pause.since, found.pause.until) == (NOON, NOON + HOUR), "the one that is admitted now is not claimed"
    assert "2 turns within an hour" in found.pause.detail
    assert "limits raise turns_per_hour 4 --today" in found.pause.detail
    scene.gate.claimed(turn("three", NOON))
    found = scene.admit(wants(mail("a")))
    assert found.pause is not None
    assert (ids(found), found.pause.until) == (([], []), first.claimed_at + HOUR)
    assert ids(scene.admit(wants(mail("a")), at=NOON + 1)) == (["a"], [])
    # What turned out to have been none is no turn.
    scene.gate.claimed(turn("four", NOON + 1))
    assert ids(scene.admit(wants(mail("a")), at=NOON + 1)) == ([], [])
    scene.gate.nothing_ran(turn("four", NOON + 1))
    assert ids(scene.admit(wants(mail("a")), at=NOON + 1)) == (["a"], [])
    # Nobody counted the person's, nor does a limit that is raised for today count as before.
    scene.gate.claimed(turn("five", NOON + 1, sender="ann", counted=Counted(0, person=True, free=True)))
    assert ids(scene.admit(wants(mail("a")), at=NOON + 1)) == (["a"], [])
    scene.gate.claimed(turn("six", NOON + 1))
    scene.state.lifts.set_aside({"turns_per_hour": Raised(3.0, NOON + HOUR)})
    assert ids(scene.admit(wants(mail("a")), wants(mail("b")), at=NOON + 1)) == (["a"], [])


def test_a_clock_that_was_set_back_holds_nobody_for_longer_than_an_hour(scene: Scene) -> None:
    scene.guards(turns_per_hour=1)
    scene.gate.admit((), NOON)
    scene.gate.claimed(turn("ahead", NOON + 9 * HOUR))
    pause = scene.admit(wants(mail())).pause
    assert pause is not None
    assert pause.until == NOON + HOUR


def test_a_pause_of_too_many_turns_lets_by_what_is_wanted_and_any_other_lets_all_try(scene: Scene) -> None:
    met = tuple(Attempt(f"t{n}", Outcome.LIMITED, "", NOON) for n in range(4))
    ready = [wants(mail("again"), history=met), wants(mail("by-ann", "ann")), wants(mail("new"))]
    many = Pause(PauseReason.TOO_MANY_TURNS, NOON, NOON + 9, "")
    assert scene.gate.past(None, ready) == (None, ready)
    assert scene.gate.past(many, ready) == (None, [ready[1]])
    limited = Pause(PauseReason.LIMITED, NOON, NOON + 9, "")
    assert scene.gate.past(limited, ready) == (limited, [ready[1], ready[2], ready[0]])


def test_in_quiet_hours_nothing_is_admitted_and_without_mail_nobody_asks(scene: Scene) -> None:
    scene.guards(calm=CalmPolicy(quiet=parse_hours("11:00-13:00")))
    found = scene.admit(wants(mail()))
    assert found.pause is not None
    assert (ids(found), found.pause.reason, found.pause.until) == (([], []), PauseReason.QUIET_HOURS, NOON + HOUR)
    assert scene.admit() == Admitted()
    assert scene.gate.calm(NOON + HOUR) is None


def test_what_goes_with_the_head_into_its_turn_is_alike_and_stopped_by_nobody(scene: Scene) -> None:
    scene.guards(max_hops=2)
    head = mail("head")
    two, far, anns = mail("two", "other"), mail("far", visited="a b c"), mail("anns", "ann")
    assert scene.gate.beside(head, [two, mail("three")], NOON) == (two, mail("three"))
    assert scene.gate.beside(head, [anns, two], NOON) == ()
    assert scene.gate.beside(head, [two, far, mail("three")], NOON) == (two,)
    assert scene.gate.beside(anns, [mail("hers", "ann", visited="a b c")], NOON) != ()
    old = mail("old", visited="a b c", created=NOON - 7 * HOUR)
    assert scene.gate.beside(head, [old], NOON) == (old,)
    scene.budget(dollars_per_day=10)
    his, more = mail("his"), mail("more")
    assert scene.gate.beside(head, [his, two, more], NOON) == (his,), "a turn is charged to one sender, in order"


def test_a_day_that_is_used_up_pauses_until_midnight_and_a_senders_day_holds_his_mail(scene: Scene) -> None:
    scene.ran("one", NOON - 60, dollars=5.0)
    scene.budget(dollars_per_day=6)
    found = scene.admit(wants(mail("a")))
    assert found.pause is not None
    assert (found.pause.reason, found.pause.since, found.pause.until) == (
        PauseReason.BUDGET,
        NOON,
        midnight(NOON, 1),
    )
    assert "dollars_per_day" in found.pause.detail
    scene.guards(max_hops=2)
    found = scene.admit(wants(mail("far", visited="a b c")), wants(mail("a")))
    assert (ids(found), found.pause is None) == (([], ["far"]), False), "what a guard stops is told today"
    scene.budget(turns_per_sender=1)
    found = scene.admit(wants(mail("a")), wants(mail("b", "other")), wants(mail("mine"), starts=1))
    assert ids(found) == (["b"], ["a", "mine"])
    assert [stop.ours for stop in found.stops] == [False, True]
    assert {stop.question for stop in found.stops} == {"budget\0turns_per_sender\0robot"}
    assert {stop.guard for stop in found.stops} == {Guard.BUDGET}
    assert found.pause is None
    # `b` has reserved its sender's only one; put back, it has not.
    assert ids(scene.admit(wants(mail("c", "other")))) == ([], ["c"])
    scene.gate.put_back(mail("b", "other"))
    assert ids(scene.admit(wants(mail("c", "other")))) == (["c"], [])
    scene.state.lifts.set_aside({"turns_per_sender": Raised(2.0, NOON + HOUR)})
    assert ids(scene.admit(wants(mail("a")))) == (["a"], [])


def test_what_is_let_go_passes_over_a_senders_day_and_not_over_everybodys(scene: Scene) -> None:
    scene.ran("one", NOON - 60)
    scene.budget(turns_per_sender=1)
    assert ids(scene.admit(wants(mail("a"), released=True))) == (["a"], [])
    scene.budget(turns_per_day=1)
    assert scene.admit(wants(mail("a"), released=True)).pause is not None


def test_those_who_share_a_day_hear_of_what_is_taken_and_who_only_looks_says_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    scene.ran("one", NOON - 60, dollars=6.0)
    scene.budget(dollars_per_day=6, share="ours")
    (tmp_path / "beside").mkdir()
    other = Scene(tmp_path / "beside")
    other.budget(dollars_per_day=6, share="ours")
    looks = Gate(scene.state, lambda: scene.policy, scene.clock, "coder", looks_only=True)
    looks.admit((wants(mail("a")),), NOON)
    assert other.admit(wants(mail("a"))).pause is None
    scene.admit()
    found = other.admit(wants(mail("b")))
    assert found.pause is not None
    assert found.pause.reason is PauseReason.BUDGET


def test_a_pause_for_what_others_of_a_share_took_stands_as_long_as_it_is_taken(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    other = Scene(tmp_path / "beside")
    for one in (scene, other):
        one.budget(turns_per_day=1, share="ours")
    assert ids(scene.admit(wants(mail("a")))) == (["a"], [])
    pause = other.admit(wants(mail("b"))).pause
    assert pause is not None
    other.gate.pause(None, NOON, pause)
    assert other.gate.pause(pause, NOON + 60) == other.state.pause.read() == pause
    again = Gate(other.state, lambda: other.policy, other.clock, "coder")
    assert again.pause(pause, NOON + 60) == other.state.pause.read() == pause, "another watcher of it looks as well"
    other.budget(turns_per_day=2, share="ours")
    assert other.gate.pause(pause, NOON + 60) is None


def test_a_guards_pause_goes_on_while_its_reason_stands_and_ends_with_it(scene: Scene) -> None:
    scene.guards(turns_per_hour=1)
    scene.ran("one", NOON - 60)
    many = Pause(PauseReason.TOO_MANY_TURNS, NOON - 50, NOON + HOUR - 60, "")
    assert scene.gate.pause(many, NOON) == many
    assert scene.gate.pause(many, NOON + HOUR) is None, "its time is up"
    scene.guards(turns_per_hour=2)
    assert scene.gate.pause(many, NOON) is None, "somebody has raised it"
    scene.guards(turns_per_hour=0)
    assert scene.gate.pause(many, NOON) is None
    scene.budget(turns_per_day=1)
    used_up = Pause(PauseReason.BUDGET, NOON - 50, midnight(NOON, 1), "")
    assert scene.gate.pause(used_up, NOON) == used_up
    scene.budget(turns_per_day=9)
    assert scene.gate.pause(used_up, NOON) is None
    scene.budget()
    assert scene.gate.pause(used_up, NOON) is None
    limited = Pause(PauseReason.LIMITED, NOON - 50, NOON - 1, "")
    assert scene.gate.pause(limited, NOON) is limited, "the account's is no guard's"
    assert scene.gate.pause(None, NOON) is None


def test_quiet_hours_that_were_made_longer_or_taken_away_are_those_that_count(scene: Scene) -> None:
    quiet = Pause(PauseReason.QUIET_HOURS, NOON - HOUR, NOON + 60, "guards.quiet_hours")
    scene.guards(calm=CalmPolicy(quiet=parse_hours("11:00-14:00")))
    longer = scene.gate.pause(quiet, NOON)
    assert longer is not None
    assert (longer.since, longer.until) == (NOON - HOUR, NOON + 2 * HOUR)
    assert scene.state.pause.read() == longer
    scene.guards(calm=None)
    assert scene.gate.pause(longer, NOON) is None
    assert scene.state.pause.read() is None
    machine = Pause(PauseReason.MACHINE, NOON - 9, NOON + 60, "load")
    assert scene.gate.pause(machine, NOON) is None, "nobody looks at the machine any more"
    scene.guards(calm=CalmPolicy(max_load=1e9))
    assert scene.gate.pause(machine, NOON) is machine, "until its next look"
    assert scene.gate.pause(machine, NOON + 61) is None


def test_a_pause_that_begins_keeps_the_moment_of_one_of_its_kind_and_displaces_no_other(scene: Scene) -> None:
    wanted = Pause(PauseReason.TOO_MANY_TURNS, NOON, NOON + 9, "now")
    assert scene.gate.pause(None, NOON, wanted) == wanted
    assert scene.state.pause.read() == wanted
    known = msgspec.structs.replace(wanted, since=NOON - 50, detail="then")
    assert scene.gate.pause(known, NOON, wanted) == msgspec.structs.replace(wanted, since=NOON - 50)
    limited = Pause(PauseReason.LIMITED, NOON - 50, NOON + 50, "")
    assert scene.gate.pause(limited, NOON, wanted) is limited


def test_a_text_that_was_there_before_and_an_empty_one_count_twice(scene: Scene) -> None:
    def taken(name: str, body: str, digest: str) -> Counted | None:
        record = turn(name, counted=Counted(1), digest=digest)
        scene.gate.taken(record, Message(mail(name), body=body))
        return record.counted

    assert taken("a", "text", "d1") == Counted(1)
    assert taken("b", "text", "d1") == Counted(1, double=True)
    assert taken("c", "other", "d2") == Counted(1)
    assert taken("e", " \n", "d3") == Counted(1, double=True)
    record = turn("f", digest="d1", counted=None)
    scene.gate.taken(record, Message(mail("f"), body="x"))
    assert record.counted is None


def test_texts_of_earlier_lives_are_known_those_of_a_batch_too(scene: Scene) -> None:
    beside = Batched(mail("beside"), digest="d2")
    scene.ran("one", NOON - 60, digest="d1", batch=(beside,))
    scene.admit()
    for digest in ("d1", "d2"):
        record = turn("again", counted=Counted(1), digest=digest)
        scene.gate.taken(record, Message(mail("again"), body="text"))
        assert record.counted == Counted(1, double=True)


@pytest.mark.parametrize(
    ("created", "person", "hops"), [(NOON - 1, False, 1), (NOON - 1, True, 0), (NOON - 7 * HOUR, False, 0)]
)
def test_a_message_that_begins_anew_goes_on_without_its_chain(
    scene: Scene, created: float, person: bool, hops: int
) -> None:
    envelope = mail("m", visited="a", created=created)
    record = turn("m", counted=Counted(1, person=person))
    found = scene.gate.taken(record, Message(envelope, body="text"))
    assert (found.envelope.hops, len(found.envelope.visited)) == (hops, hops)
    found = scene.gate.taken(record, Message(msgspec.structs.replace(envelope, hops=0), body="text"))
    assert (found.envelope.hops, len(found.envelope.visited)) == (0, hops)


def test_the_last_turn_and_the_last_that_went_through_are_remembered(scene: Scene) -> None:
    scene.ran("one", NOON - 60)
    scene.ran("none", NOON - 30, process=None)
    scene.ran("sent again", NOON - 20, resends="x")
    scene.admit()
    assert scene.gate.last_turn(NOON) == NOON - 60
    scene.gate.claimed(turn("two", NOON - 70))
    assert scene.gate.last_turn(NOON) == NOON - 60
    scene.gate.settled(turn("two", NOON - 70))
    assert scene.gate.went_through == NOON - 65
    scene.gate.settled(turn("before", NOON - 90))
    assert scene.gate.went_through == NOON - 65
    for outcome in (Outcome.LIMITED, Outcome.INTERRUPTED):
        late = turn("three", NOON)
        late.settlement = Settlement(outcome, "", NOON, 1.0, finished=False)
        scene.gate.settled(late)
        assert scene.gate.went_through == NOON - 65


def test_a_text_is_known_for_sixty_four_others(scene: Scene) -> None:
    def is_double(digest: str) -> bool:
        record = turn("m", counted=Counted(1), digest=digest)
        scene.gate.taken(record, Message(mail(), body="text"))
        assert record.counted is not None
        return record.counted.double

    assert not any(is_double(f"d{number}") for number in range(64))
    assert is_double("d0")
    assert not is_double("d64")
    assert not is_double("d1"), "sixty-four came after it"


def test_a_fresh_gate_knows_of_no_turn_and_each_candidate_is_judged(scene: Scene) -> None:
    assert (scene.gate.last_turn(NOON), scene.gate.went_through) == (0.0, 0.0)
    scene.guards(max_hops=2, turns_per_hour=2)
    others = [wants(mail(name, thread=name)) for name in "abc"]
    found = scene.admit(wants(mail("far", visited="a b c")), wants(mail("ann", "ann")), *others)
    assert ids(found) == (["ann", "a", "b"], ["far"])
    assert found.pause is not None


def test_a_pause_of_too_many_turns_is_over_when_its_time_is_up_whatever_has_run_since(scene: Scene) -> None:
    scene.guards(turns_per_hour=1)
    scene.ran("one", NOON - 60)
    assert scene.gate.pause(Pause(PauseReason.TOO_MANY_TURNS, NOON - HOUR, NOON, ""), NOON) is None


def test_what_turned_out_to_be_a_double_counts_as_one_in_the_rounds(scene: Scene) -> None:
    scene.guards(pair_rounds=3)
    for number in range(2):
        record = turn(f"m{number}", NOON - 9 + number, counted=Counted(number + 1), digest="d")
        scene.gate.claimed(record)
        scene.gate.taken(record, Message(record.envelope, body="text"))
    assert ids(scene.admit(wants(mail("again", answers=True)))) == ([], ["again"])


def test_a_chain_of_hops_alone_is_cut_for_a_person_too(scene: Scene) -> None:
    envelope = msgspec.structs.replace(mail(), hops=3)
    found = scene.gate.taken(turn("m", counted=Counted(0, person=True)), Message(envelope, body="text"))
    assert found.envelope.hops == 0


def test_what_was_no_turn_takes_nothing_of_a_senders_day(scene: Scene) -> None:
    scene.budget(turns_per_sender=1)
    scene.admit()
    record = turn("one")
    scene.gate.claimed(record)
    assert ids(scene.admit(wants(mail("a")))) == ([], ["a"])
    scene.gate.nothing_ran(record)
    assert ids(scene.admit(wants(mail("a")))) == (["a"], [])


def test_what_a_turn_has_cost_counts_once_it_is_settled_for_those_who_share_the_day_too(
    scene: Scene, tmp_path: Path
) -> None:
    (tmp_path / "beside").mkdir()
    other = Scene(tmp_path / "beside")
    for one in (scene, other):
        one.budget(dollars_per_day=6, share="ours")
        one.admit()
    record = turn("one", dollars=6.0)
    scene.gate.claimed(msgspec.structs.replace(record, settlement=None))
    assert other.admit(wants(mail("a"))).pause is None
    scene.gate.settled(record)
    for one in (other, scene):
        found = one.admit(wants(mail("b")))
        assert found.pause is not None
        assert found.pause.reason is PauseReason.BUDGET


def test_what_is_admitted_is_taken_from_a_shared_day_at_once(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    other = Scene(tmp_path / "beside")
    for one in (scene, other):
        one.budget(turns_per_day=1, share="ours")
    found = scene.admit(wants(mail("a")), wants(mail("b")))
    assert (ids(found), found.pause is not None) == ((["a"], []), True)
    assert other.admit(wants(mail("c"))).pause is not None
    shared = [path for path in (tmp_path / "user").rglob("*") if path.is_dir()]
    assert shared
    assert [path for path in shared if path.stat().st_mode & 0o077] == [], "what was spent is nobody else's to read"


def test_what_is_taken_of_a_shared_day_is_written_before_another_may_look(scene: Scene) -> None:
    free: list[bool] = []

    class Beside(SystemCalls):
        def replace(self, source: Path, target: Path) -> None:
            if "budgets" in target.parts:
                lock = FileLock(target.with_name(".lock"))
                free.append(lock.acquire())
                lock.release()
            super().replace(source, target)

    scene.state.folder.disk.system = Beside()
    scene.budget(turns_per_day=2, share="ours")
    assert ids(scene.admit(wants(mail("a")))) == (["a"], [])
    assert free == [False]


def test_one_person_is_known_by_his_pattern_alone(scene: Scene) -> None:
    scene.policy = msgspec.structs.replace(scene.policy, who=WhoPolicy(people=("boss@*",), address="coder"))
    scene.guards(max_hops=2)
    assert ids(scene.admit(wants(mail("far", "boss@acme", visited="a b c")))) == (["far"], [])


def test_a_record_counts_what_goes_round_and_nothing_that_a_person_let_go_or_that_lay_long(scene: Scene) -> None:
    round_, old = mail("m", visited="a coder b"), mail("m", visited="a coder b", created=NOON - CHAIN_GAP - 1)
    released = RetryEntry(round_, released=True)
    assert scene.gate.counted(round_, None) == Counted(1, person=False, free=False)
    assert scene.gate.counted(round_, RetryEntry(round_)) == Counted(1, person=False, free=False)
    assert scene.gate.counted(round_, released) == Counted(0, person=True, free=True)
    assert scene.gate.counted(old, None) == Counted(0, person=False, free=False)


def test_what_a_schedule_has_sent_is_a_persons_and_nothing_else_is(scene: Scene, tmp_path: Path) -> None:
    nightly = Schedule("nightly", "0 2 * * *", "UTC", "News", tmp_path / "body.md")
    sent, other = mail("sent", visited="a b c"), mail("other", visited="a b c", thread="u")
    scene.guards(max_hops=2)
    scene.state.schedules.put("nightly", Known(nightly.line, NOON, sent=("sent",)))
    assert ids(scene.admit(wants(sent), wants(other))) == ([], ["sent", "other"]), "nobody has a schedule"
    scene.policy = msgspec.structs.replace(scene.policy, schedules=(nightly,))
    assert ids(scene.admit(wants(sent), wants(other))) == (["sent"], ["other"])
    assert scene.gate.counted(sent, None) == Counted(0, person=True, free=True)


def test_where_a_persons_turn_of_an_earlier_life_has_written_his_chain_goes_on(scene: Scene) -> None:
    for number in range(3):
        scene.ran(f"m{number}", NOON - 30 + number, counted=Counted(number), thread="other")
    done = turn("p", NOON - 5, sender="ann", counted=Counted(0, person=True))
    assert done.settlement is not None
    item = SettledItem(Outgoing("i", "user", "other", "d"), ItemState.DELIVERED)
    done.settlement = msgspec.structs.replace(done.settlement, items=(item,))
    scene.state.turns.create(done)
    assert scene.gate.counted(mail("again", thread="other", answers=True), None).depth == 0


def test_a_record_without_a_count_began_its_chain(scene: Scene) -> None:
    scene.ran("m", NOON - 30)
    assert scene.gate.counted(mail("again", answers=True), None).depth == 1
