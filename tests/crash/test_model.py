"""A model of what a watcher promises, against the real one: whatever happens to it, and in whatever order.

Rules are what may happen: mail, agents that end in every way, deaths of the watcher at any call, hand-overs, a full
disk, a clock that jumps, and the hands of people and other programs. Whenever no watcher runs the promises are checked
against the files, the turns' records and an outside witness; at the end all is mended, and all must come to its end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.crash.world import MAX_STARTS, OUTCOMES, THREADS, WAIT, Ending, Meanwhile, Run, World
from tests.proved import Harness, proved
from tests.sizes import sizes

from agent_mailer.mailbox.port import Automatic, Message, Priority
from agent_mailer.outcomes import Outcome, StopReason
from agent_mailer.state.approvals import Verdict
from agent_mailer.state.lifts import OrderVerb
from agent_mailer.state.records import AfterStop, ItemState, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch import room

EXAMPLES = {"quick": 6, "long": 40}
"""Always the same."""
OTHERS = int(os.environ.get("MODEL_EXAMPLES", "3000"))
"""Others each time."""
STEPS = 30
STEPS_OF_OTHERS = 60
DRAIN_TICKS = 60
OWN_FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED)

ENDINGS = st.sampled_from(list(Ending))
PLANS = st.sampled_from([*map(str, Ending), *[WAIT] * 4])
WHICH = st.integers(0, 11)
"""Which of those there are: drawn without looking, so that what is drawn depends on nothing that happens."""

JUMPS = (-86400.0, -30.0, 0.5, 3.0, 40.0, 4000.0, 9 * 86400.0)


class Life(RuleBasedStateMachine):
    """One example: one workdir from its first message to its last."""

    base: Path

    @initialize(
        parallel=st.integers(1, 2), plans=st.lists(PLANS, min_size=1, max_size=3), turns=st.sampled_from([0, 0, 2, 5])
    )
    def begin(self, parallel: int, plans: list[str], turns: int) -> None:
        self.world = World(Path(tempfile.mkdtemp(dir=self.base)), parallel, turns)
        for number, how in enumerate(plans):
            self.world.plan(self.world.deliver(THREADS[number % 2], None, Automatic.NO), how)

    # What arrives.

    @rule(
        thread=st.sampled_from(THREADS),
        priority=st.sampled_from([None, Priority.URGENT]),
        automatic=st.sampled_from([Automatic.NO, Automatic.NO, Automatic.NO, Automatic.NOTICE]),
        how=PLANS,
        strange=st.sampled_from([False, False, True]),
    )
    def deliver(self, thread: str, priority: Priority | None, automatic: Automatic, how: str, strange: bool) -> None:
        if len(self.world.sent) < 12:
            self.world.plan(self.world.deliver(thread, priority, automatic, strange=strange), how)

    @rule(which=WHICH, other_name=st.booleans(), other_body=st.booleans())
    def duplicate(self, which: int, other_name: bool, other_body: bool) -> None:
        self.world.duplicate(self._message(which), other_name, other_body)

    @rule(which=WHICH, how=PLANS)
    def plan(self, which: int, how: str) -> None:
        self.world.plan(self._message(which), how)

    @rule(which=WHICH)
    def put_back(self, which: int) -> None:
        self.world.put_back(self._message(which))

    @rule()
    def user_reads(self) -> None:
        self.world.user_reads()

    # The watcher's lives.

    @rule(meanwhile=st.sampled_from(list(Meanwhile)), ending=ENDINGS)
    def tick(self, meanwhile: Meanwhile, ending: Ending) -> None:
        self.world.tick(meanwhile, ending)

    @rule(calls=st.integers(1, 250), meanwhile=st.sampled_from(list(Meanwhile)))
    def tick_and_die(self, calls: int, meanwhile: Meanwhile) -> None:
        self.world.weather.dies_in = calls
        self.world.tick(meanwhile)

    @rule(calls=st.integers(1, 150), fails=st.integers(1, 8))
    def tick_with_a_disk_that_is_full_for_a_while(self, calls: int, fails: int) -> None:
        self.world.weather.full_after, self.world.weather.full_for = calls, fails
        self.world.tick()
        self.world.weather.full_after = self.world.weather.full_for = 0

    # What happens while no watcher runs.

    @rule(which=WHICH, ending=ENDINGS)
    def finish(self, which: int, ending: Ending) -> None:
        if (turn := self._waiting(which)) is not None:
            self.world.finish(turn, ending)

    @rule(which=WHICH)
    def kill_agent(self, which: int) -> None:
        if (turn := self._waiting(which)) is not None:
            self.world.kill_agent(turn)

    @rule(by=st.sampled_from(JUMPS))
    def clock_jumps(self, by: float) -> None:
        self.world.sky.moment += by

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.world.weather.full = full

    # Hands.

    @rule(
        verb=st.sampled_from([Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.SESSIONS_INVALIDATE]), leave_it=st.booleans()
    )
    def ask(self, verb: Verb, leave_it: bool) -> None:
        self.world.ask(Request(verb), leave_it=leave_it)

    @rule(which=WHICH, leave_it=st.booleans(), every=st.booleans())
    def retry_dead(self, which: int, leave_it: bool, every: bool) -> None:
        targets = () if every else (f"{StuckKind.GIVEN_UP} {self._message(which)}",)
        self.world.ask(Request(Verb.STUCK_RETRY, targets, reason=StuckKind.GIVEN_UP.value), leave_it=leave_it)

    @rule(which=WHICH, then=st.sampled_from(list(AfterStop)), leave_it=st.booleans())
    def stop_turn(self, which: int, then: AfterStop, leave_it: bool) -> None:
        """As the command does where no watcher runs; what waits in a request may meet a turn that has ended."""
        if (turn := self._waiting(which)) is not None:
            self.world.stop(turn, then, leave_it=leave_it)

    @rule(
        which=WHICH,
        verb=st.sampled_from([OrderVerb.RELEASE, OrderVerb.RELEASE, OrderVerb.DROP]),
        leave_it=st.booleans(),
    )
    def order(self, which: int, verb: OrderVerb, leave_it: bool) -> None:
        """Also of what is not held, or no longer."""
        self.world.order(verb, (self._message(which),), leave_it=leave_it)

    @rule(which=WHICH, verdict=st.sampled_from([Verdict.ALLOW, Verdict.ALLOW, Verdict.DENY]))
    def answer(self, which: int, verdict: Verdict) -> None:
        self.world.answer(which, verdict)

    # The promises.

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "world"):
            check(self.world)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            drain(self.world)
        finally:
            self.world.end()
        shutil.rmtree(self.world.base)

    def _message(self, which: int) -> str:
        """One of the messages there are; an id that is none where there is none."""
        sent = list(self.world.sent)
        return sent[which % len(sent)] if sent else "no-message"

    def _waiting(self, which: int) -> str | None:
        waiting = self.world.waiting()
        return waiting[which % len(waiting)] if waiting else None


def check(world: World) -> None:
    """What holds whenever no watcher runs."""
    state = world.desk.place(world.sky).state
    records, runs = world.records, {run.turn: run for run in world.runs()}
    assert not world.faults, world.faults
    open_turns = {record.envelope.id for i in state.turns.open_ids() if (record := state.turns.load(i))}
    path = world.desk.state / "processed.txt"
    lines = Counter(path.read_text().splitlines() if path.exists() else [])
    retries = {entry.envelope.id: entry for entry in state.retries.all()}
    for message in world.sent:
        assert lines[message] <= 1, f"{message} is settled twice"
        listed = (world.new / f"{message}.md").exists()
        known = lines[message] or listed or message in {*retries, *open_turns, *state.held.waiting}
        assert known, f"{message} is lost"
    for letter in state.dead_letters.all():
        there = lines[letter.msg_id] or letter.msg_id in open_turns or letter.msg_id in retries
        assert there, f"{letter.msg_id} is dead, and not settled"
    for message in world.sent:
        _check_turns(world, message, {i: run for i, run in runs.items() if run.message == message})
    for entry in retries.values():
        if entry.envelope.id in open_turns or lines[entry.envelope.id]:
            continue  # what is being settled is not written to the end
        life = _last_life(_turns_of(world, entry.envelope.id))
        counted = sum(
            1 for record in life if record.settlement is not None and record.settlement.outcome in OWN_FAILURES
        )
        assert entry.attempts == counted, f"{entry.envelope.id}: {entry.attempts} attempts, {counted} failures"
        assert entry.starts <= min(MAX_STARTS, len(life)), f"{entry.envelope.id}: starts"
    for record in records.values():
        _check_outcome(world, record)
        _check_session(world, record)
    _check_bound(world)
    _check_mail(world)
    _check_questions(world)


def _turns_of(world: World, message: str) -> list[TurnRecord]:
    """Oldest first. The clock, and with it the ids, may have jumped; revisions begin anew when all turns are pruned."""
    found = [record for record in world.records.values() if record.envelope.id == message]
    return sorted(found, key=lambda record: (world.seen[record.turn_id], _revision(record)))


def _revision(record: TurnRecord) -> int:
    return record.rerun.revision if record.rerun is not None else 0


def _last_life(turns: list[TurnRecord]) -> list[TurnRecord]:
    """The turns since the message was last given up."""
    deaths = [n for n, record in enumerate(turns) if record.settlement is not None and record.settlement.dead]
    return turns[deaths[-1] + 1 :] if deaths else turns


def _check_turns(world: World, message: str, runs: dict[str, Run]) -> None:
    """One run a turn, one turn a revision; a message that was answered has none after it."""
    turns = _turns_of(world, message)
    kept = [record for record in turns if (world.desk.state / "turns" / record.turn_id).exists()]
    revisions = Counter(_revision(record) for record in kept)
    told = [(r.turn_id, _revision(r), r.settlement.outcome.value if r.settlement else r.phase.value) for r in turns]
    assert not revisions or max(revisions.values()) == 1, f"{message}: two turns for one revision: {told}"
    assert set(runs) <= {record.turn_id for record in turns}, f"{message}: a run without a turn"
    ends = [n for n, record in enumerate(turns) if record.settlement is not None and record.settlement.outcome.settles]
    assert ends in ([], [len(turns) - 1]), f"{message}: a turn after it was done"
    starts = [record for record in _last_life(turns) if record.turn_id in runs]
    uncounted = [r for r in starts if r.settlement and (r.settlement.outcome.pauses or r.settlement.asked)]
    assert len(starts) - len(uncounted) <= MAX_STARTS, f"{message}: started without end"


def _check_outcome(world: World, record: TurnRecord) -> None:
    """The outcome follows from what the agent said, else from what befell it."""
    if record.settlement is None:
        return
    outcome, turn = record.settlement.outcome, record.turn_id
    run = next((run for run in world.runs() if run.turn == turn), None)
    if record.process is None:
        assert run is None, f"{turn}: ran without being known"
        assert outcome in (Outcome.INTERRUPTED, Outcome.UNAVAILABLE), f"{turn}: {outcome} though nothing ran"
        return
    stopped: dict[StopReason | None, Outcome] = {
        StopReason.SHUTDOWN: Outcome.INTERRUPTED,
        StopReason.TURN_TIMEOUT: Outcome.TIMED_OUT,
        StopReason.BY_HAND: Outcome.INTERRUPTED,
    }
    if turn in world.stopped and outcome is Outcome.INTERRUPTED:
        return
    if run is None or run.ending is None or turn in world.killed:
        wanted = {stopped[record.stopped]} if record.stopped in stopped else set()
        if turn in world.killed:
            # Whoever stops a watcher may have been quicker than whoever killed its agent.
            wanted |= {Outcome.CRASHED, Outcome.INTERRUPTED} if turn in world.under_a_stop else {Outcome.CRASHED}
        assert outcome in wanted, f"{turn}: {outcome} where {wanted} was to come"
        return
    said = OUTCOMES.get(run.ending) or Outcome(run.ending.value)
    lost_before = record.rerun is not None and record.rerun.session_lost
    if said is Outcome.SESSION_LOST and (record.resume is None or lost_before):
        said = Outcome.FAILED
    # A stop may have met it between its last mark and its last word; whoever stops a watcher may have killed its agent.
    by_a_stop = Outcome.INTERRUPTED if said is Outcome.CRASHED and turn in world.under_a_stop else said
    detail = record.settlement.detail
    assert outcome in {said, by_a_stop, stopped.get(record.stopped, said)}, (
        f"{turn}: {outcome} ({detail}) where {said} was to come"
    )


def _check_session(world: World, record: TurnRecord) -> None:
    """A turn goes on in a session of its thread that a finished turn left, or one of its own message."""
    settlement = record.settlement
    if settlement is not None and settlement.session is not None and settlement.session.entry.session_id:
        assert settlement.finished, "only a finished turn binds"
    if record.resume is None:
        return
    origin = world.records[record.resume.removeprefix("s-")]
    assert origin.envelope.thread == record.envelope.thread, "a session of another thread"
    own = origin.envelope.id == record.envelope.id
    bound = any(
        other.settlement is not None
        and other.settlement.finished
        and other.settlement.session is not None
        and other.settlement.session.entry.session_id == record.resume
        for other in world.records.values()
    )
    assert own or bound, f"{record.turn_id} goes on in a session that was never bound"


def _check_bound(world: World) -> None:
    """What sessions.json holds is what the last change of the thread left, or a hand has dropped it."""
    state = world.desk.place(world.sky).state
    for thread, entry in state.sessions.all():
        changes = [
            record.settlement.session.entry
            for record in world.records.values()
            if record.settlement is not None and record.settlement.session is not None
            if record.envelope.thread == thread
        ]
        same = [change for change in changes if change.generation == entry.generation]
        assert any(change.session_id == entry.session_id for change in same) or not entry.session_id, thread


def _check_questions(world: World) -> None:
    """A question keeps its code; what it asks is begun at most once, and only where a person has said yes."""
    state = world.desk.place(world.sky).state
    acts = Counter(world.acts())
    assert not acts or max(acts.values()) == 1, f"done twice: {acts}"
    for one in state.approvals.all():
        assert world.codes.setdefault(one.id, one.code) == one.code, f"{one.id} has another code"
        turn = world.records.get(one.used or one.granted)
        assert one.id in acts or not one.used, f"{one.id} is used up, and was not"
        assert one.id not in acts or turn is not None, f"{one.id} was done, and nobody knows"
    for question in acts:
        answer = world.answers.get(question)
        assert answer is not None, f"{question} was done, and nobody was asked"
        assert answer.verdict is Verdict.ALLOW, f"{question} was done without a yes"


def _tells_of_stuck(message: Message) -> bool:
    return message.body.startswith("A message of yours was not worked on.")


def _check_mail(world: World) -> None:
    """What left is what settlements recorded, each once; what is settled has left whole."""
    found = Counter(message.envelope.id for message in world.mail_to_senders() if not _tells_of_stuck(message))
    words = Counter(message.body for message in world.mail_to_senders() if _tells_of_stuck(message))
    stuck = {entry.key for entry in world.desk.place(world.sky).state.stuck.all()}
    assert {body.rstrip().rpartition(" ")[2] for body in words} <= stuck, "told of what is not stuck"
    assert not words or max(words.values()) == 1, "told twice of what is stuck"
    assert not found or max(found.values()) == 1, "one message twice"
    recorded: dict[str, TurnRecord] = {}
    for record in world.records.values():
        for entry in record.settlement.items if record.settlement is not None else ():
            assert entry.state is not ItemState.REFUSED, entry.why
            recorded[entry.item.id] = record
    assert set(found) <= set(recorded), "something left that no settlement recorded"
    for item, record in recorded.items():
        if (world.desk.state / "turns" / record.turn_id / "settled").exists():
            assert found[item] == 1, f"{record.turn_id}: {item} has not left"
    bodies = Counter(m.body.strip() for m in world.mail_to_senders() if m.body.startswith("answer "))
    assert not bodies or max(bodies.values()) == 1, "a message was answered twice"


def drain(world: World) -> None:
    """Everything is mended: all must come to its end, and then stay as it is."""
    world.weather.fair()
    for message in world.sent:
        world.plan(message, Ending.DONE)
    world.no_limits()
    world.order(OrderVerb.ALLOW, ("planner",), leave_it=False)
    for _ in range(DRAIN_TICKS):
        world.ask(Request(Verb.RESUME), leave_it=False)
        world.allow_all()
        world.sky.moment += 10.0
        world.tick()
        if not to_do(world):
            break
    check(world)
    assert not to_do(world)
    check_ends(world)
    world.tick()  # clears away what is past its days
    before = _files(world)
    world.tick()
    after = _files(world)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert not changed, f"nothing to do, and something was written: {changed}"


def check_ends(world: World) -> None:
    """Where nothing is left to do: each message was given up or done, and answered as its last run says, once."""
    letters = {letter.msg_id for letter in world.desk.place(world.sky).state.dead_letters.all()}
    for message, envelope in world.sent.items():
        turns = _turns_of(world, message)
        if envelope.automatic is Automatic.NOTICE:
            assert not turns, "a notice starts nothing"
            continue
        if message in world.dropped and not turns:
            continue
        last = turns[-1].settlement
        assert last is not None
        assert (message in letters) == (last.dead is not None), f"{message}: dead or done, not both"
        answers = [m for m in world.mail_to_senders() if m.body.strip() == f"answer {message}"]
        run = next(run for run in reversed(world.runs()) if run.message == message)
        expected = last.outcome is Outcome.DONE and run.ending is Ending.DONE
        what = f"{turns[-1].turn_id} ({run.turn} ran last): {last.outcome}, {[item.state for item in last.items]}"
        assert len(answers) == expected, f"{message}: answered {len(answers)} times by {what}"


def to_do(world: World) -> bool:
    state = world.desk.place(world.sky).state
    settled = all(message in state.processed for message in world.sent)
    return (
        not settled
        or bool(state.held.waiting)
        or bool(state.turns.open_ids())
        or bool(os.listdir(world.new))
        or bool(len(state.retries))
    )


def _files(world: World) -> dict[str, bytes]:
    return {
        str(path.relative_to(world.base)): path.read_bytes()
        for path in world.base.rglob("*")
        if path.is_file() and path.name not in ("log.jsonl", ".lock") and path.suffix != ".answer"
    }


@pytest.mark.parametrize("examples", sizes(**EXAMPLES, soak=OTHERS))
def test_whatever_happens_every_message_comes_to_its_one_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    # What a full disk keeps from being settled is left to the next watcher sooner than in life.
    monkeypatch.setattr(room, "STOP_PATIENCE", 0.5)
    Life.base = tmp_path
    fixed = examples in EXAMPLES.values()
    profile = settings(
        max_examples=examples,
        stateful_step_count=STEPS if fixed else STEPS_OF_OTHERS,
        derandomize=fixed,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Life, settings=profile)
    proved(Harness.MODEL, lives=examples)
