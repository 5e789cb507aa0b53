"""What a look finds in a real folder mailbox, and what the watcher does with what it has to put away; no turn runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.amq_tree import write
from tests.clocks import FakeClock
from tests.refusing import PUT, Died, On, Refusing
from tests.watch_room import Scene

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Automatic, Envelope, Gone, Message, Unreadable
from agent_mailer.names import new_turn_id, text_digest
from agent_mailer.outcomes import Outcome
from agent_mailer.state.approvals import Verdict
from agent_mailer.state.held import Guard, HeldEntry
from agent_mailer.state.records import Attempt, Batched, DeadLetter, Phase, RetryEntry, Settlement, TurnRecord
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch import backlog
from agent_mailer.watch.answering import Said
from agent_mailer.watch.backlog import (
    Action,
    Answered,
    DropRetry,
    Hold,
    LetGo,
    PassBy,
    PutAway,
    Revive,
    SetAside,
    Strand,
)
from agent_mailer.watch.claim import pass_over, take
from agent_mailer.watch.guards.holding import Stop
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import MOST_FETCHES, Candidate
from agent_mailer.watch.stuck import drop_stuck, retry_stuck

NOW = 1_800_000_000.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    tmp_path.chmod(0o755)
    one = Scene(tmp_path)
    yield one
    one.close()


# The look.


def test_what_lies_in_the_folder_may_run_but_for_what_is_in_work(scene: Scene) -> None:
    one, two = scene.mail(), scene.mail(body="more")
    assert [each.id for each in scene.listed()] == [one.id, two.id]
    assert [each.envelope.id for each in scene.look(one.id).candidates] == [two.id]


def test_what_is_stuck_takes_nobodys_place_in_the_listing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = scene.mail(), scene.mail(body="more")
    monkeypatch.setattr(backlog, "LIST_LIMIT", 1)
    assert [each.id for each in scene.listed()] == [one.id]
    scene.state.stuck.add(StuckKind.NO_WAY_BACK, one.id, one, "no such place")
    assert [each.id for each in scene.listed()] == [two.id]


def test_an_answer_by_mail_counts_where_the_agent_cannot_reach_the_folder(scene: Scene) -> None:
    scene.policy = msgspec.structs.replace(scene.policy, who=WhoPolicy(people=("user",), address="coder"))
    answer = scene.mail(body=f"allow {scene.asked().code}")
    assert scene.look().actions == ()
    assert [each.id for each in scene.listed()] == [answer.id]
    hidden = msgspec.structs.replace(scene.policy.approve, mail_hidden=True)
    scene.policy = msgspec.structs.replace(scene.policy, approve=hidden)
    found = scene.look()
    assert found.candidates == ()
    [action] = found.actions
    assert isinstance(action, Answered)
    assert (action.envelope.id, action.said.verdict) == (answer.id, Verdict.ALLOW)


def test_mail_that_names_no_way_back_leaves_its_thread_and_holds_up_no_other(scene: Scene) -> None:
    """A status wants no answer, and what is ours already is worked on in any case."""
    plain = write(scene.desk.root, "coder", sender="user")
    lost = write(scene.desk.root, "coder", kind="question", reply_to="bob@nowhere")
    again = write(scene.desk.root, "coder", kind="question", reply_to="bob@nowhere")
    news = write(scene.desk.root, "coder", kind="status", reply_to="bob@nowhere")
    known = write(scene.desk.root, "coder", sender="user", kind="question", reply_to="user")
    last = scene.mail(body="last")
    found = scene.look()
    assert {one.envelope.id for one in found.candidates} == {plain, news, known, last.id}
    strands = [one for one in found.actions if isinstance(one, Strand)]
    assert {one.envelope.id for one in strands} == {lost, again}
    assert len(found.actions) == 2
    assert all("nowhere" in one.why for one in strands)
    [ours] = [one.envelope for one in strands if one.envelope.id == again]
    scene.state.retries.put(RetryEntry(ours, 1, 1, revision=1))
    assert {one.envelope.id for one in scene.look().candidates} == {plain, news, known, last.id, again}
    scene.do(*strands)
    assert scene.state.stuck.waiting == {lost, again}
    assert scene.state.stuck.get(StuckKind.NO_WAY_BACK, lost) is not None
    assert scene.look().actions == ()


def test_each_claim_in_vain_is_counted_until_the_message_waits_for_a_person(scene: Scene) -> None:
    """By whichever watcher: the count is on the disk."""
    envelope = scene.mail()
    counts: list[int] = []
    while scene.state.stuck.get(StuckKind.NOT_FETCHED, envelope.id) is None and len(counts) < MOST_FETCHES:
        known = scene.desk.place().state.retries.get(envelope.id)
        counts.append(known.fetches if known is not None else 0)
        record = TurnRecord(new_turn_id(NOW), envelope, Phase.CLAIMED, "command", NOW, rerun=known)
        pass_over(scene.room, record, "it is not there", answered=True)
    assert counts == [*range(MOST_FETCHES)]
    assert scene.state.stuck.get(StuckKind.NOT_FETCHED, envelope.id) is not None
    assert scene.state.retries.get(envelope.id) is None


def test_what_the_disk_does_not_let_us_drop_stays_stuck(scene: Scene) -> None:
    """It is listed still: without its line it would run."""

    one = scene.mail()
    scene.state.stuck.add(StuckKind.NO_WAY_BACK, one.id, one, "nobody is called so")
    scene.state.folder.disk.system = Refusing("processed.txt")
    with pytest.raises(OSError, match="No space"):
        drop_stuck(scene.state, StuckKind.NO_WAY_BACK, [one.id])
    assert scene.desk.place().state.stuck.waiting == {one.id}


def test_what_waits_for_a_persons_word_goes_on_when_he_has_spoken(scene: Scene) -> None:
    one = scene.mail()
    question = scene.asked(one.id)
    scene.state.retries.put(RetryEntry(one, 1, 1, asked=(question.id,), revision=1))
    [waits] = scene.look().candidates
    assert waits.not_before == question.expires_at
    scene.state.retries.put(RetryEntry(one, 1, 1, revision=1), force=True)
    [goes] = scene.look().candidates
    assert goes.not_before == 0.0


# What is put away.


def test_a_file_that_is_no_message_is_written_down_and_put_where_it_blocks_nobody(scene: Scene) -> None:
    (scene.box / "new/broken.md").write_text("no header at all")
    [action] = scene.look().actions
    assert isinstance(action, PutAway)
    assert isinstance(action.item, Unreadable)
    assert scene.do(action) == set()
    assert scene.names("new") == 0
    [entry] = scene.state.stuck.all()
    assert entry.kind is StuckKind.UNREADABLE
    assert scene.doer.taken == 0


def test_what_is_settled_and_listed_again_is_set_aside(scene: Scene) -> None:
    one = scene.mail()
    scene.state.processed.add(one.id)
    assert scene.look().actions == (SetAside(one),)
    scene.do(SetAside(one))
    assert scene.names("new") == 0
    assert [said["message_id"] for said in scene.told(EventName.MESSAGE_SET_ASIDE)] == [one.id]


def test_what_a_turn_took_is_known_though_it_was_open_when_another_message_was_looked_for(scene: Scene) -> None:
    """Of a mailbox that no longer has it: the turn alone tells what was settled under the id."""
    one = scene.mail(body="first")
    record = TurnRecord(new_turn_id(1.0), one, Phase.CLAIMED, "command", 1.0)
    scene.state.turns.create(record)
    assert scene.run(scene.room.stuck.another(scene.mail(body="other"))) is None
    record.digest = text_digest("user", "task", "first")
    scene.state.turns.save(record)
    scene.state.turns.mark_settled(record.turn_id)
    assert scene.run(scene.room.stuck.another(one)) is None
    (scene.box / "new" / one.locator).write_bytes((scene.box / "new" / one.locator).read_bytes() + b"and more")
    assert scene.run(scene.room.stuck.another(one)) is not None


def test_a_notice_counts_as_settled_before_it_is_taken(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn remembers it: taken first, it would be nobody's after a crash between the two."""
    one, claim, found = scene.mail(), MaildirMailbox.claim, list[bool]()

    async def looked(box: MaildirMailbox, envelope: Envelope, **more: Any) -> Message | Gone:
        found.append(envelope.id in scene.desk.place().state.processed)
        return await claim(box, envelope, **more)

    monkeypatch.setattr(MaildirMailbox, "claim", looked)
    scene.do(PassBy(one))
    assert found == [True]


def test_a_notice_is_taken_and_done_and_stays_to_be_read(scene: Scene) -> None:
    one = scene.mail(automatic=Automatic.NOTICE)
    assert scene.look().actions == (PassBy(one),)
    assert scene.do(PassBy(one)) == set()
    assert one.id in scene.state.processed
    assert (scene.names("new"), scene.names("cur"), scene.doer.taken) == (0, 1, 0)
    [said] = scene.told(EventName.MESSAGE_SKIPPED)
    assert (said["message_id"], said["thread"], said["why"]) == (one.id, one.thread, "notice")


def test_an_answer_is_taken_once_and_what_it_answers_can_go_on(scene: Scene) -> None:
    question = scene.asked()
    first, second = scene.mail(body="one"), scene.mail(body="two")
    said = Said(Verdict.ALLOW, question.code)
    assert scene.do(Answered(first, said), Answered(second, said)) == set()
    assert scene.doer.taken == 2
    known = scene.state.approvals.answer_to(question.id)
    assert known is not None
    assert (known.verdict, known.message_id, known.who) == (Verdict.ALLOW, first.id, "user")
    assert {first.id, second.id} == set(scene.state.processed.among([first.id, second.id, "x"]))
    assert scene.names("new") == 0
    told = [(one["message_id"], one["thread"], one["why"]) for one in scene.told(EventName.MESSAGE_SKIPPED)]
    assert told == [(one.id, one.thread, "answer") for one in (first, second)]


def test_an_answer_is_durable_before_its_mail_is_over(scene: Scene) -> None:
    question, one = scene.asked(), scene.mail(body="yes")
    scene.state.folder.disk.system = Refusing("processed.txt", On.WRITE, *PUT, code=None)
    with pytest.raises(Died):
        scene.do(Answered(one, Said(Verdict.ALLOW, question.code)))
    known = scene.desk.place().state.approvals.answer_to(question.id)
    assert known is not None
    assert known.message_id == one.id


def test_mail_that_the_folder_does_not_give_holds_up_no_other_and_is_told_once(scene: Scene) -> None:
    one, two = scene.mail(automatic=Automatic.NOTICE), scene.mail(body="more")
    current = scene.box / "cur"
    current.rmdir()
    current.write_text("somebody's file")
    retry = RetryEntry(two, 1, 1, revision=1)
    scene.state.retries.put(retry)
    doing = scene.doer.do
    for _ in range(2):
        asyncio.run(doing([PassBy(one), DropRetry(two.id)]))
    assert scene.told(EventName.MESSAGE_SKIPPED) == []
    [trouble] = scene.told(EventName.MAILBOX_TROUBLE)
    assert "cur" in trouble["why"]
    assert trouble["fix"].startswith("ls -ld ")
    assert scene.state.retries.get(two.id) is None


def given_up(scene: Scene, one: Envelope) -> None:
    history = (Attempt("turn-1", Outcome.FAILED, "no luck", 5.0),)
    letter = DeadLetter(
        one.id, one.thread, 4, "no luck", "2033-05-18T03:33:20Z", "turn-1", history=history, envelope=one, put_back=2
    )
    scene.state.processed.add(one.id)
    scene.state.dead_letters.add(letter, again=False)


def test_what_was_given_up_and_put_back_is_taken_up_with_its_history(scene: Scene) -> None:
    one = scene.mail()
    given_up(scene, one)
    assert scene.look().actions == (Revive(one),)
    assert scene.do(Revive(one)) == set()
    entry = scene.state.retries.get(one.id)
    assert entry is not None
    assert (entry.put_back, len(entry.history)) == (3, 1)
    assert one.id not in scene.state.processed


def test_another_message_under_the_id_of_one_that_was_given_up_is_none_to_run(scene: Scene) -> None:
    one = scene.mail()
    scene.run(scene.room.mailbox.claim(one))
    scene.run(scene.room.mailbox.done(one))
    given_up(scene, one)
    [kept] = (scene.box / "cur").iterdir()
    (scene.box / "new" / kept.name).write_bytes(kept.read_bytes().replace(b"please", b"perish"))
    assert scene.look().actions == (Revive(one),)
    assert scene.do(Revive(one)) == {one.id}
    assert scene.state.retries.get(one.id) is None
    [entry] = scene.state.stuck.all()
    assert (entry.kind, entry.message_id) == (StuckKind.USED_ID, one.id)


def test_what_a_person_has_released_is_held_no_more(scene: Scene) -> None:
    one = scene.mail()
    scene.state.held.add([HeldEntry(one.id, 5.0, Guard.PAIR, "too often", envelope=one)])
    scene.do(LetGo(one.id))
    assert scene.state.held.waiting == {}
    last = (scene.desk.state / "held.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"message_id": one.id, "ended": "released"}


def test_what_a_guard_stops_is_taken_off_the_list_and_counted(scene: Scene) -> None:
    one, two = scene.mail(), scene.mail(body="more")
    stops: Sequence[Action] = [Hold(Stop(each, Guard.WHO, "deny_from has user", "who\0user")) for each in (one, two)]
    assert scene.doer.taken == 0
    assert scene.do(*stops) == set()
    assert (scene.doer.taken, scene.names("new")) == (2, 0)
    assert set(scene.state.held.waiting) == {one.id, two.id}
    assert scene.do() == set()
    assert scene.doer.taken == 0


@pytest.mark.parametrize("listed_only", [True, False])
def test_a_claim_that_gives_its_message_ends_the_row_of_those_that_gave_none(scene: Scene, listed_only: bool) -> None:
    one = scene.mail()
    in_vain = RetryEntry(one, fetches=5, fetching_since=1.0, listed_only=listed_only)
    record = TurnRecord(new_turn_id(1.0), one, Phase.CLAIMED, "command", 1.0, rerun=in_vain)
    scene.state.turns.create(record)
    assert scene.run(take(scene.room, record)) is not None
    assert record.rerun == (None if listed_only else RetryEntry(one))


def test_what_was_ours_and_is_anothers_for_good_runs_here_no_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scene.mail()
    scene.state.retries.put(entry := RetryEntry(one, 1, 1))
    record = TurnRecord(new_turn_id(1.0), one, Phase.CLAIMED, "command", 1.0, rerun=entry)
    scene.state.turns.create(record)

    async def taken(*_: object, **__: object) -> Gone:
        return Gone("another has it", elsewhere=True)

    monkeypatch.setattr(scene.room.mailbox, "claim", taken)
    assert scene.run(take(scene.room, record)) is None
    assert (scene.state.retries.get(one.id), scene.state.turns.ids()) == (None, [])


def test_who_sent_a_notice_hears_nothing_of_it(scene: Scene) -> None:
    """What answers him by itself would answer that as well."""
    one = scene.mail()
    for automatic, words in ((Automatic.NOTICE, 0), (Automatic.NO, 1)):
        sent = Message(msgspec.structs.replace(one, automatic=automatic), "s", str(automatic))
        assert scene.run(scene.room.stuck.under_used_id(sent))
        assert len(scene.desk.inbox()) == words


def test_the_sender_of_what_could_not_be_fetched_is_told_at_the_next_look(scene: Scene) -> None:
    one = scene.mail()
    assert scene.do(DropRetry("x")) == set()
    scene.room.stuck.not_fetched(one, "it is not there")
    scene.state.folder.disk.system = Refusing("agents/user")
    scene.do()
    assert scene.state.stuck.unheard, "he could not be told yet"
    scene.state.folder.disk.system = SystemCalls()
    scene.do()
    assert scene.state.stuck.unheard == []
    [word] = scene.desk.inbox()
    assert "A message of yours was not worked on." in word.body


def test_what_stays_listed_is_written_down_once_and_its_sender_told_though_it_takes_a_day(tmp_path: Path) -> None:
    """It keeps nothing waiting meanwhile. What is to be moved waits for an hour, as long as he may."""
    clock = FakeClock(NOW)
    scene = Scene(tmp_path, clock)
    one = scene.mail()
    scene.state.folder.disk.system = Refusing("agents/user")
    for _ in range(2):
        scene.room.stuck.not_fetched(one, "it is not there")
        scene.do()
    assert len(scene.told(EventName.MESSAGE_STUCK)) == 1
    clock.moment += 86400
    scene.do()
    assert scene.state.stuck.unheard
    clock.moment += 7 * 86400
    scene.do()
    assert scene.state.stuck.unheard == [], "he is not to be reached"
    scene.close()


@pytest.mark.parametrize(("late", "moved"), [(0.0, False), (3601.0, True)])
def test_another_message_under_a_used_id_stays_until_its_sender_was_told_or_an_hour_is_up(
    tmp_path: Path, late: float, moved: bool
) -> None:
    clock = FakeClock(NOW)
    scene = Scene(tmp_path, clock)
    one = scene.mail()
    scene.run(scene.room.mailbox.claim(one))
    [kept] = (scene.box / "cur").iterdir()
    (scene.box / "new" / kept.name).write_bytes(kept.read_bytes().replace(b"please", b"perish"))
    scene.state.folder.disk.system = Refusing("agents/user")
    assert scene.run(scene.room.stuck.was_another(one))
    clock.moment += late
    assert scene.run(scene.room.stuck.was_another(one))
    assert (scene.names("new") == 0) is moved
    assert [entry.kind for entry in scene.state.stuck.all()] == [StuckKind.USED_ID]
    scene.close()


def test_what_a_shared_turn_was_handed_is_known_though_its_mailbox_has_it_no_more(scene: Scene) -> None:
    """Taken for the same, another message under its id would go without a word."""
    head, one = scene.mail(), scene.mail(body="another")
    share = Batched(one, digest=text_digest("user", "task", "please"))
    done = Settlement(Outcome.DONE, "", NOW, 1.0, finished=True)
    turn = TurnRecord(new_turn_id(NOW), head, Phase.SETTLING, "command", NOW, settlement=done)
    turn.batch = (msgspec.structs.replace(share, settlement=done),)
    scene.state.turns.create(turn)
    assert scene.run(scene.room.stuck.another(one)) is None, "until it is settled nobody knows"
    scene.state.turns.mark_settled(turn.turn_id)
    other = scene.run(scene.room.stuck.another(one))
    assert other is not None
    assert other.body.strip() == "another"


def test_what_cannot_be_taken_up_stays_stuck_and_what_is_dropped_runs_no_more(scene: Scene) -> None:
    stuck, one = scene.state.stuck, scene.mail()
    stuck.add(StuckKind.TOO_LARGE, "big.md", None, "it is too large", locator="big.md")
    [(done, why)] = retry_stuck(scene.state, StuckKind.TOO_LARGE, ["big.md"], scene.room.mailbox)
    assert (done, "larger than a message may be" in why, len(stuck.all())) == (False, True, 1)
    stuck.add(StuckKind.NO_WAY_BACK, one.id, one, "nobody is called so")
    scene.state.retries.put(RetryEntry(one, 1, 1, revision=1))
    assert drop_stuck(scene.state, StuckKind.NO_WAY_BACK, [one.id]) == [(True, f"{one.id}: dropped")]
    assert (one.id in scene.state.processed, scene.state.retries.get(one.id)) == (True, None)


def test_what_is_asked_for_again_stays_wanted_until_its_mailbox_has_answered(scene: Scene) -> None:
    state = scene.state
    state.stuck.add(StuckKind.UNREADABLE, "cut.md", None, "cut off", locator="cut.md")
    [entry] = state.stuck.all()
    state.stuck.want(entry)

    async def while_it_is_away() -> None:
        scene.box.rename(scene.box.with_name("away"))
        await scene.room.stuck.ask_again()

    scene.run(while_it_is_away())
    again = scene.desk.place().state.stuck
    assert [one.key for one in again.all()] == ["cut.md"]
    assert list(again.wanted) == [(StuckKind.UNREADABLE, "cut.md")]


def test_what_cannot_be_put_away_is_told_once(scene: Scene) -> None:
    (scene.box / "new/broken.md").write_text("no header at all")
    scene.state.folder.disk.system = Refusing("dlq")
    for _ in range(2):
        scene.do(*scene.look().actions)
    assert scene.names("new") == 1
    [said] = scene.told(EventName.MESSAGE_UNREADABLE)
    assert "it cannot be put away" in said["why"]


@pytest.mark.parametrize(("sender", "words"), [("user", 1), ("coder", 0)])
def test_a_sender_is_told_once_though_he_has_removed_the_word_and_the_agent_tells_itself_nothing(
    scene: Scene, sender: str, words: int
) -> None:
    one = Message(msgspec.structs.replace(scene.mail(), sender=sender), "s", "b")
    inbox = scene.box.parent.parent / sender / "inbox/new"
    before = {*inbox.iterdir()}
    assert scene.run(scene.room.stuck.under_used_id(one))
    told = {*inbox.iterdir()} - before
    assert len(told) == words
    for word in told:
        word.unlink()
    assert scene.run(scene.room.stuck.under_used_id(one))
    assert {*inbox.iterdir()} == before


def hold(scene: Scene, envelope: Envelope) -> None:
    scene.do(Hold(Stop(envelope, Guard.PAIR, "", "pair\0user")))


def test_another_message_under_the_id_of_one_that_is_held_is_not_taken_for_it(scene: Scene) -> None:
    """Whatever their files are called."""
    sent = scene.mail()
    (scene.box / "new" / sent.locator).rename(scene.box / "new/a.md")
    [one] = scene.listed()
    hold(scene, one)
    (scene.box / "new/b.md").write_bytes((scene.box / "cur/a.md").read_bytes().replace(b"please", b"perish"))
    [other] = scene.run(scene.room.mailbox.pending(10)).envelopes
    assert (other.id, other.locator) == (one.id, "b.md")
    hold(scene, other)
    assert [(entry.kind, entry.message_id) for entry in scene.state.stuck.all()] == [(StuckKind.USED_ID, one.id)]
    assert set(scene.state.held.waiting) == {one.id}


def test_what_was_written_down_as_held_is_ours_though_it_was_claimed_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it down may have been killed with the claim made, of which a broker hears no second one."""
    one = scene.mail()
    scene.state.held.add([HeldEntry(one.id, 5.0, Guard.PAIR, "too often", envelope=one)])
    claim = scene.room.mailbox.claim

    async def claimed_before(envelope: Envelope, *, again: bool = False, silent: bool = False) -> Message | Gone:
        return await claim(envelope, again=again, silent=silent) if again else Gone("it was claimed before")

    monkeypatch.setattr(scene.room.mailbox, "claim", claimed_before)
    hold(scene, one)
    assert (set(scene.state.held.waiting), scene.doer.taken) == ({one.id}, 1)


def test_mail_is_stranded_by_its_own_way_back_and_by_no_other_of_its_senders(scene: Scene) -> None:
    envelope = scene.mail()
    ways = ("user@nowhere", "user", "user@nowhere", "")
    candidates = [
        Candidate(msgspec.structs.replace(envelope, id=f"m{number}", reply_to=way)) for number, way in enumerate(ways)
    ]
    for order in (candidates, candidates[::-1]):
        stranded = scene.run(backlog._without_way_back(scene.room.mailbox, order))
        assert sorted(one.envelope.id for one in stranded) == ["m0", "m2"]
