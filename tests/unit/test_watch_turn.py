"""The steps of one turn's story over a real state and mailbox: what stands on the disk before which of them."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import Died, On, Refusing
from tests.unit.test_watch_deciding import turn_end
from tests.unit.test_watch_settling import DONE, RAN, changed, turn
from tests.watch_room import Scene, scene_at

from agent_mailer.approvals.calls import Call
from agent_mailer.approvals.turn import TurnApprovals, ask
from agent_mailer.approvals.turn import write as write_approvals
from agent_mailer.disk import _AT_ONCE as PORTION
from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Action, Draft, Envelope, Gone, MailboxUnavailable, Message, Refused
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.handle import identify
from agent_mailer.process.holder import adopt
from agent_mailer.runtimes.port import Observation
from agent_mailer.state.records import (
    Attempt,
    Batched,
    DeadLetter,
    Phase,
    Provisional,
    RetryEntry,
    SettledItem,
    TurnRecord,
)
from agent_mailer.turn_tools.folder import DOCUMENTS, OUTBOX, TURN_TMP
from agent_mailer.watch.claim import _kept_copy, open_turn, take
from agent_mailer.watch.given_up import take_up_again
from agent_mailer.watch.recovery import recover
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.start import _note_documents
from agent_mailer.watch.turn import (
    MOST_NAMED,
    _changed_documents,
    _end,
    _must_be_known,
    _program_then,
    _staged_before,
    adopt_turn,
    carry_out,
    give_back,
    run_turn,
)

NOW = 2_100_000_000.0
MAIL = Envelope("m", "th", "user", NOW, "1", "m.md")
OTHER = msgspec.structs.replace(MAIL, id="other")
ANSWER = Draft("", Action.REPLY, NOW, body="an answer")
AT_ONCE = msgspec.structs.replace(ANSWER, body="so far", at_once=True)
ITS_OWN, OTHERS = (msgspec.structs.replace(ANSWER, about=name, body=f"of {name}") for name in ("m", "other"))


scene = scene_at(lambda: FakeClock(NOW))


def before(scene: Scene, *drafts: Draft, head: Envelope = MAIL, body: str = "please") -> Attempt:
    """An earlier turn of the message, and what it staged."""
    name = new_turn_id(NOW)
    batch = () if head is MAIL else (Batched(MAIL),)
    scene.state.turns.create(TurnRecord(name, head, Phase.SETTLING, "command", NOW, settlement=DONE, batch=batch))
    folder = scene.handed(name, Message(head, body=body))
    for draft in drafts:
        folder.stage(draft)
    folder.seal()
    return Attempt(name, Outcome.FAILED, "no luck", NOW)


def again(*history: Attempt) -> TurnRecord:
    rerun = RetryEntry(MAIL, len(history), len(history), history=history)
    return TurnRecord(new_turn_id(NOW), MAIL, Phase.RUNNING, "command", NOW, rerun=rerun)


@pytest.mark.parametrize(
    ("earlier", "head", "kept"),
    [
        ([(ANSWER,), (AT_ONCE,)], MAIL, ["an answer"]),
        ([(ANSWER,), (ITS_OWN,), ()], MAIL, ["of m"]),
        ([(ANSWER, ITS_OWN, OTHERS)], OTHER, ["of m"]),
        ([(ANSWER,)], OTHER, []),
        ([(AT_ONCE, ANSWER, ITS_OWN)], MAIL, ["an answer", "of m"]),
        ([], MAIL, []),
    ],
)
def test_what_the_last_turn_that_had_written_for_it_wrote_is_kept(
    scene: Scene, earlier: Sequence[Sequence[Draft]], head: Envelope, kept: list[str]
) -> None:
    """Neither what has left at once, nor what a shared turn wrote for another, or for all."""
    record = again(*(before(scene, *drafts, head=head) for drafts in earlier))
    found = _staged_before(scene.state, record)
    assert ([one.body for one in found], {one.about for one in found} <= {""}) == (kept, True)


def test_what_a_shared_turn_wrote_for_the_second_of_its_messages_is_not_kept_for_the_first(scene: Scene) -> None:
    attempt = before(scene, ANSWER, ITS_OWN, OTHERS)
    shared = scene.state.turns.load(attempt.turn_id)
    assert shared is not None
    shared.batch = (Batched(OTHER),)
    scene.state.turns.save(shared)
    assert [one.body for one in _staged_before(scene.state, again(attempt))] == ["an answer", "of m"]


def test_of_a_message_that_has_vanished_the_last_copy_serves(scene: Scene) -> None:
    record = again(before(scene, body="first"), before(scene, body="last"))
    assert _kept_copy(scene.room, record).body.strip() == "last"


def test_a_claim_that_another_made_is_none_of_the_hours_turns(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    guards = msgspec.structs.replace(scene.policy.guards, turns_per_hour=1)
    scene.room.policy = msgspec.structs.replace(scene.policy, guards=guards)
    gate, one, waits = scene.room.gate, scene.mail(), [Candidate(scene.mail(body="another"))]
    gate.admit([], NOW)
    record = TurnRecord(new_turn_id(NOW), one, Phase.CLAIMED, "command", NOW)
    scene.state.turns.create(record)
    gate.claimed(record)
    assert gate.admit(waits, NOW).go == ()

    async def taken(*_: object, **__: object) -> Gone:
        return Gone("another has it", elsewhere=True)

    monkeypatch.setattr(scene.room.mailbox, "claim", taken)
    assert scene.run(take(scene.room, record)) is None
    assert len(gate.admit(waits, NOW).go) == 1


def test_a_claim_to_which_nothing_is_there_any_more_is_counted_and_no_turn(scene: Scene) -> None:
    """Whoever took it meanwhile has it; if nobody has, it waits for a person in the end."""
    envelope = scene.mail()
    [path] = (scene.box / "new").iterdir()
    path.unlink()
    claimed: list[bool] = []
    found = run_turn(scene.room, Candidate(envelope), new_turn_id(NOW), lambda: claimed.append(True))
    assert (scene.run(found), claimed, [*scene.state.turns.ids()]) == (None, [], [])
    known = scene.state.retries.get(envelope.id)
    assert known is not None
    assert (known.fetches, known.listed_only, known.attempts) == (1, True, 0)
    assert scene.desk.answered() == []


def test_what_is_given_back_has_run_nothing_and_costs_nothing(scene: Scene) -> None:
    record = turn(scene, None)
    scene.run(give_back(scene.room, record))
    known = scene.state.turns.load(record.turn_id)
    assert known is not None
    assert (known.process, scene.state.usage.days()) == (None, {})


@pytest.mark.parametrize("ends", ["in an outage", "killed"])
def test_a_rerun_that_came_no_further_than_its_claim_keeps_its_session_for_the_next(scene: Scene, ends: str) -> None:
    envelope = scene.mail()
    scene.run(scene.room.mailbox.claim(envelope))
    history = (Attempt("turn-0", Outcome.LIMITED, "quota", NOW),)
    session = Provisional("s-1", "claude", Outcome.LIMITED)
    entry = RetryEntry(envelope, 0, 1, history=history, provisional=session, dropped=1)
    scene.state.retries.put(entry)
    if ends == "killed":
        record = scene.run(open_turn(scene.room, Candidate(envelope, entry), new_turn_id(NOW), "claude"))
        assert record is not None

        async def come_back() -> None:
            for left in await recover(scene.room):
                await left.finish()

        scene.run(come_back())
    else:
        scene.place.disk.system = Refusing("inbox/cur", On.SYNC, code=errno.EIO)
        with pytest.raises(MailboxUnavailable):
            scene.run(run_turn(scene.room, Candidate(envelope, entry), new_turn_id(NOW), lambda: None))
    known = scene.state.retries.get(envelope.id)
    assert known is not None
    assert (known.provisional, known.dropped, known.history, known.starts) == (session, 1, history, 1)


class Watched(SystemCalls):
    """Looks at the turn's record and at what has left when the turn comes to count as settled."""

    def __init__(self, scene: Scene, turn_id: str) -> None:
        self.scene, self.turn_id = scene, turn_id
        self.phases: list[Phase] = []
        self.left: list[int] = []

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if path == self.scene.state.turns.path(self.turn_id) / "settled":
            known = self.scene.desk.place().state.turns.load(self.turn_id)
            assert known is not None
            self.phases.append(known.phase)
            self.left.append(len([*(self.scene.desk.root / "agents/user/inbox/new").iterdir()]))
        return super().open(path, flags, mode)


def test_what_was_decided_is_durable_before_it_is_done(scene: Scene) -> None:
    record = turn(scene, None)
    scene.place.disk.system = watched = Watched(scene, record.turn_id)
    failed = Judgement(Outcome.FAILED, "no luck")
    scene.run(_end(scene.room, record, Message(record.envelope), failed, Observation()))
    assert watched.phases == [Phase.SETTLING]
    assert scene.room.gate.went_through == NOW, "it met no pause"


@pytest.mark.parametrize("may_ask", [True, False])
def test_what_a_program_has_asked_through_its_hook_is_put_to_a_person_where_the_turn_may_ask(
    scene: Scene, may_ask: bool
) -> None:
    push = Call("Bash", '{"command":"git push"}', why="because")
    record = turn(scene, None, process=RAN)
    path, disk = scene.handed(record.turn_id, Message(record.envelope)).path, scene.place.disk
    if may_ask:
        write_approvals(disk, path, TurnApprovals(rules=("Bash",)))
    assert ask(disk, path, push)
    scene.run(_end(scene.room, record, Message(record.envelope), Judgement(Outcome.DONE, "", "I wait"), Observation()))
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert kept.settlement is not None
    assert kept.settlement.outcome is (Outcome.ASKED if may_ask else Outcome.DONE)
    assert [one.call for one in scene.state.approvals.open()] == ([push] if may_ask else [])


@pytest.mark.parametrize(
    ("runtime", "has_events", "then"),
    [
        ("command", True, ("command", True)),
        ("command", None, ("command", True)),
        ("command", False, ("command", False)),
        ("claude", True, ("claude", True)),
        ("codex", True, ("codex", True)),
    ],
)
def test_what_a_turn_prints_is_read_as_by_the_program_that_it_was_started_with(
    scene: Scene, runtime: str, has_events: bool | None, then: tuple[str, bool]
) -> None:
    """Whatever the configuration names by now."""
    scene.desk.configure(command_output="jsonl")
    room = scene.desk.place().room(scene.lock)
    assert (room.traits.name, room.traits.has_events) == ("command", True)
    traits = _program_then(room, TurnRecord("t", MAIL, Phase.RUNNING, runtime, NOW, has_events=has_events)).traits
    assert (traits.name, traits.has_events) == then


def test_of_documents_that_a_turn_has_changed_each_is_named_up_to_a_few(scene: Scene) -> None:
    record, names = turn(scene, None), [f"{scene.policy.workdir}/{number}.md" for number in range(MOST_NAMED + 2)]
    done = Judgement(Outcome.DONE, "", "")
    scene.run(_end(scene.room, record, Message(record.envelope), done, Observation(), changed=names))
    [told] = scene.told(EventName.INSTRUCTIONS_CHANGED)
    shown = " ".join(f"{number}.md" for number in range(MOST_NAMED))
    assert told["file"] == f"{shown} and 2 more"


def test_mail_leaves_before_its_turn_counts_as_settled(scene: Scene) -> None:
    """Nobody comes back to a settled one for what it had to say."""
    record = turn(scene, None, process=RAN)
    composed = scene.room.mailbox.compose(Draft("k", Action.SEND, NOW, to=("user",), body="x"), None, record.turn_id)
    assert not isinstance(composed, Refused)
    record.settlement = changed(DONE, items=tuple(map(SettledItem, composed)))
    record.phase = Phase.SETTLING
    scene.state.turns.save(record)
    scene.place.disk.system = watched = Watched(scene, record.turn_id)
    scene.run(carry_out(scene.room, record))
    assert watched.left == [1]


def test_what_is_taken_up_again_waits_until_its_last_turn_is_over_for_good(scene: Scene) -> None:
    """Applied once more after a power failure, its settlement would undo the new start."""
    ended = before(scene)
    scene.state.turns.mark_settled(ended.turn_id)
    letter = DeadLetter(MAIL.id, MAIL.thread, 4, "no luck", "", ended.turn_id, envelope=MAIL)
    scene.state.dead_letters.add(letter, again=False)
    scene.state.folder.disk.system = Refusing("turns/*", On.SYNC, code=None)
    with pytest.raises(Died):
        take_up_again(scene.state, [MAIL.id])
    again = scene.desk.place().state
    assert (again.retries.get(MAIL.id), again.dead_letters.find(MAIL.id)) == (None, letter)


def test_what_an_agent_has_filled_goes_and_what_cannot_be_read_of_it_is_told(scene: Scene) -> None:
    record = turn(scene, None, process=RAN)
    path = scene.state.turns.path(record.turn_id)
    (path / TURN_TMP).mkdir()
    for number in range(2 * PORTION):
        (path / TURN_TMP / str(number)).touch()
    (path / OUTBOX).mkdir()
    (path / OUTBOX / "k.json").write_text("no draft")
    failed = Judgement(Outcome.FAILED, "no luck")
    scene.run(_end(scene.room, record, Message(record.envelope), failed, Observation()))
    assert not (path / TURN_TMP).exists()
    [damaged] = scene.told(EventName.STATE_DAMAGED)
    assert (damaged["turn_id"], damaged["why"]) == (
        record.turn_id,
        "1 staged items cannot be read; they are not sent",
    )


def test_what_tells_agents_what_to_do_is_compared_with_how_the_turn_found_it(scene: Scene) -> None:
    record = turn(scene, None)
    folder, orders = scene.state.turns.folder(record.turn_id), scene.policy.workdir / "AGENTS.md"
    orders.write_text("Be kind.")

    def changed_since() -> list[str]:
        return scene.run(_changed_documents(scene.room, record, folder.path))

    assert changed_since() == [], "nobody knows how it was"
    scene.run(_note_documents(scene.room, record, folder))
    assert changed_since() == []
    orders.write_text("Be quick.")
    assert changed_since() == [str(orders)]
    (folder.path / DOCUMENTS).write_bytes(b"{")
    assert changed_since() == []


def test_one_whose_gate_its_watcher_did_not_come_to_open_is_pending_again_and_no_outage(scene: Scene) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        identity = identify(ended.pid)
    assert identity is not None
    record = turn(scene, None, process=identity)
    supervised = adopt(identity, scene.state.turns.path(record.turn_id), record.turn_id)
    assert scene.run(adopt_turn(scene.room, record, supervised)) is Outcome.INTERRUPTED
    assert scene.state.pause.read() is None
    known = scene.state.retries.get(record.envelope.id)
    assert known is not None
    assert known.attempts == 0


def test_what_the_thread_shows_matters_where_the_last_words_may_become_an_answer_to_any(scene: Scene) -> None:
    """One of several may lack the answer that another has."""
    answered, alone = turn_end(Outcome.DONE, drafts=[ANSWER]), turn_end(Outcome.DONE)
    assert _must_be_known(alone, scene.policy)
    assert not _must_be_known(answered, scene.policy)
    answered.record.batch = (Batched(OTHER),)
    assert _must_be_known(answered, scene.policy)
