"""`batch_low`: low mail of one thread as one turn; each message keeps its claim, attempts, answer and settlement."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.desk import Desk, until
from tests.refusing import On, Refusing
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import make_mailbox
from agent_mailer.mailbox.port import Envelope, Kind, Priority, Progress, Stage
from agent_mailer.outcomes import Outcome
from agent_mailer.people.port import MessageState, Report
from agent_mailer.state.records import TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.state.turns import ids_of, shares
from agent_mailer.views.standing import standing_in
from agent_mailer.watch.requests import apply


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.configure(batch_low=True)
    return desk


def low(desk: Desk, count: int, thread: str = "chores", **more: str) -> list[str]:
    return [desk.send(f"chore {n}", thread=thread, priority=Priority.LOW, **more) for n in range(count)]  # type: ignore[arg-type]


def turns(desk: Desk) -> list[TurnRecord]:
    found = (desk.place().state.turns.load(turn) for turn in desk.place().state.turns.ids())
    return [record for record in found if record is not None]


def answered(desk: Desk, handle: str = "user") -> dict[str, str]:
    """What each message got, by the message that is answered."""
    return {message.refs[-1]: message.body.strip() for message in desk.inbox(handle)}


def receipts(desk: Desk) -> set[str]:
    folder = desk.root / "agents/coder/receipts"
    return {json.loads(path.read_text())["msg_id"] for path in folder.iterdir() if "__drained" in path.name}


def test_low_mail_of_a_thread_is_one_turn_and_each_message_has_its_own_end(desk: Desk) -> None:
    sent = low(desk, 3)
    desk.once()
    [record] = turns(desk)
    assert [record.envelope.id, *(one.envelope.id for one in record.batch)] == sent
    # By these another message under its id is told from it.
    assert all(one.digest and one.content for one in shares(record))
    assert answered(desk) == dict.fromkeys(sent, "done")
    place = desk.place()
    assert place.state.processed.among(sent) == set(sent)
    assert receipts(desk) == set(sent)
    assert sorted(path.stem for path in (desk.root / "agents/coder/inbox/cur").iterdir()) == sorted(sent)
    assert {row["message_id"] for row in desk.log(EventName.MESSAGE_DONE)} == set(sent)
    assert {row["message_id"] for row in desk.log(EventName.TURN_CLAIMED)} == set(sent)
    assert place.state.usage.today().turns == 1
    assert not (place.state.turns.path(record.turn_id) / "mail.json").exists()


def test_each_sender_may_hear_that_it_was_begun_and_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Stage]] = []
    report = MaildirMailbox.report

    def noted(mailbox: MaildirMailbox, envelope: Envelope, progress: Progress) -> None:
        told.append((envelope.id, progress.stage))
        report(mailbox, envelope, progress)

    monkeypatch.setattr(MaildirMailbox, "report", noted)
    desk.shell("cat >/dev/null; exit 3")
    sent = low(desk, 3)
    desk.once()
    assert told[:6] == [(one, stage) for stage in (Stage.STARTED, Stage.SETTLED) for one in sent]


def test_it_is_off_unless_it_is_chosen(desk: Desk) -> None:
    desk.configure(batch_low=False)
    low(desk, 2)
    desk.once()
    assert [record.batch for record in turns(desk)] == [(), ()]


def test_nothing_else_may_wait(desk: Desk) -> None:
    """Ordinary mail, of whatever thread, would wait longer for a turn that has more to do."""
    chores = low(desk, 3)
    other = desk.send("now", thread="other")
    desk.once()
    first, *rest = sorted(turns(desk), key=lambda record: record.claimed_at)
    assert first.envelope.id == other
    assert [sorted(ids_of(record)) for record in rest] == [sorted(chores)]


def test_what_a_guard_stops_is_no_part_of_it(desk: Desk) -> None:
    """It is judged by itself, and held; those behind it get a turn of their own."""
    desk.configure(guards={"max_hops": 3})
    sent = low(desk, 4, sender="planner")
    path = desk.root / "agents/coder/inbox/new" / f"{sent[2]}.md"
    _, header, body = path.read_text().split("---", 2)
    fields = json.loads(header.removeprefix("json"))
    fields["context"] = {"agent_mailer": {"hops": 9}}
    path.write_text(f"---json\n{json.dumps(fields)}\n---{body}")
    desk.once()
    by_age = sorted(turns(desk), key=lambda record: record.claimed_at)
    assert [sorted(ids_of(record)) for record in by_age] == [sent[:2], [sent[3]]]
    assert sent[2] in desk.place().state.held.waiting


def test_what_cannot_be_answered_is_no_part_of_it(desk: Desk) -> None:
    """It waits for a person, and what comes after it gets a turn of its own."""
    sent = [*low(desk, 1, sender="critic"), *low(desk, 1, sender="planner"), *low(desk, 1, sender="critic")]
    (desk.root / "agents/planner").rename(desk.base / "away")
    (desk.root / "agents/planner").touch()
    desk.once()
    by_age = sorted(turns(desk), key=lambda record: record.claimed_at)
    assert [sorted(ids_of(record)) for record in by_age] == [sent[:1], sent[2:]]
    assert [(entry.kind, entry.key) for entry in desk.place().state.stuck.all()] == [(StuckKind.NO_WAY_BACK, sent[1])]


def test_mail_of_people_and_of_others_share_no_turn(desk: Desk) -> None:
    sent = [*low(desk, 2), *low(desk, 2, sender="planner")]
    desk.once()
    assert sorted(sorted(ids_of(record)) for record in turns(desk)) == [sent[:2], sent[2:]]


def test_the_agent_answers_each_by_itself_and_the_rest_get_its_last_words(desk: Desk) -> None:
    desk.shell(
        'cat >/dev/null; set -- $AGENT_MAILER_MESSAGE_IDS; agent-mailer mail reply "$2" --body "for the second" >&2;'
        " agent-mailer mail read >&2; agent-mailer mail inbox >&2; echo the rest"
    )
    sent = low(desk, 3)
    desk.once()
    assert answered(desk) == {sent[0]: "the rest", sent[1]: "for the second", sent[2]: "the rest"}
    [record] = turns(desk)
    seen = (desk.state / "turns" / record.turn_id / "stderr").read_text()
    assert all(f"chore {number}" in seen for number in range(3))
    assert all(seen.count(name) >= 2 for name in sent)


def test_a_reply_that_names_none_answers_all_and_mail_of_its_own_leaves_once(desk: Desk) -> None:
    desk.shell(
        "cat >/dev/null; agent-mailer mail reply --body 'all of it is done' >&2;"
        " agent-mailer mail send --to planner --body 'look' --subject s >&2; echo unused"
    )
    sent = low(desk, 2)
    desk.once()
    assert answered(desk) == dict.fromkeys(sent, "all of it is done")
    assert [message.body.strip() for message in desk.inbox("planner")] == ["look"]


def test_a_question_goes_to_those_that_have_no_answer(desk: Desk) -> None:
    desk.shell(
        'cat >/dev/null; agent-mailer mail reply "$AGENT_MAILER_MESSAGE_ID" --body "done" >&2;'
        ' agent-mailer mail finish --blocked "which one?" >&2'
    )
    sent = low(desk, 2)
    desk.once()
    first, second = sorted(desk.inbox(), key=lambda message: message.refs)
    assert (first.refs[-1], first.body.strip()) == (sent[0], "done")
    assert (second.refs[-1], second.envelope.kind) == (sent[1], Kind.QUESTION)
    [record] = turns(desk)
    assert [one.settlement.outcome for one in shares(record) if one.settlement] == [Outcome.DONE, Outcome.BLOCKED]
    [question] = desk.place().state.questions.all()
    assert question.text == "which one?"


def test_a_failure_counts_for_each_and_each_then_runs_alone(desk: Desk) -> None:
    """A message that nobody can work on costs its neighbours one attempt, and none of them its life."""
    poison = (
        'case "$AGENT_MAILER_MESSAGE_IDS$AGENT_MAILER_MESSAGE_ID" in *"$(cat ../poison)"*) exit 1;; esac; echo done'
    )
    desk.configure(max_retries=1)
    desk.shell(f"cat >/dev/null; {poison}")
    sent = low(desk, 3)
    (desk.base / "poison").write_text(sent[1])
    desk.once()
    state = desk.place().state
    assert {entry.envelope.id: (entry.attempts, entry.starts) for entry in state.retries.all()} == dict.fromkeys(
        sent, (1, 1)
    )
    assert answered(desk) == {}
    for hours in range(1, 5):
        desk.once(FakeClock(time.time() + hours * 3600))
    assert [letter.msg_id for letter in desk.place().state.dead_letters.all()] == [sent[1]]
    got = answered(desk)
    assert (got[sent[0]], got[sent[2]]) == ("done", "done")
    assert got[sent[1]].startswith("This message was given up")
    assert [len(record.batch) for record in turns(desk)] == [2, 0, 0, 0]
    assert list(desk.state.glob("turns/*/mail.json")) == []


def test_nobody_is_given_up_for_a_turn_that_was_shared(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 1")
    sent = low(desk, 2)
    desk.once()
    assert desk.place().state.dead_letters.all() == []
    desk.once()
    desk.once()
    assert [letter.msg_id for letter in desk.place().state.dead_letters.all()] == sent
    apply(desk.place().state, Request(Verb.STUCK_RETRY, reason=StuckKind.GIVEN_UP.value))
    desk.shell("cat >/dev/null; echo done")
    desk.once()
    desk.once()
    assert {name: text for name, text in answered(desk).items() if text == "done"} == dict.fromkeys(sent, "done")


def test_what_a_shared_turn_had_staged_for_none_of_them_is_kept_once(desk: Desk) -> None:
    """It failed, and so does each by itself, with not a word."""
    desk.configure(max_retries=1)
    desk.shell(
        'cat >/dev/null; [ "$AGENT_MAILER_MESSAGE_IDS" = "${AGENT_MAILER_MESSAGE_IDS% *}" ] ||'
        " agent-mailer mail send --to planner --body look --subject s >&2; exit 1"
    )
    sent = low(desk, 2)
    for hours in range(3):
        desk.once(FakeClock(time.time() + hours * 3600))
    state = desk.place().state
    assert {letter.msg_id for letter in state.dead_letters.all()} == set(sent)
    assert [state.dead_letters.find(sent[0]).turn_id] == [key.partition(".")[0] for key in state.unsent.all()]  # type: ignore[union-attr]


def test_what_somebody_else_has_taken_is_no_part_of_it(desk: Desk) -> None:
    """The listing is older than the claim: what is gone by then leaves the turn, and nobody works on it."""
    sent = low(desk, 3)
    box = desk.root / "agents/coder/inbox"

    place = desk.place()
    claim = place.disk.system.rename_noreplace

    class Thief(type(place.disk.system)):  # type: ignore[misc]
        def rename_noreplace(self, source: Path, target: Path) -> None:
            if target.parent.name == "cur" and target.stem == sent[0]:
                (box / "new" / f"{sent[1]}.md").rename(box / "cur" / f"{sent[1]}.md")
            claim(source, target)

    desk.once(system=Thief())
    [record] = turns(desk)
    assert ids_of(record) == {sent[0], sent[2]}
    assert set(answered(desk)) == {sent[0], sent[2]}
    assert desk.place().state.processed.among(sent) == {sent[0], sent[2]}


@pytest.mark.parametrize("which", [0, 1])
def test_where_a_claim_of_it_fails_what_may_be_ours_is_and_what_comes_after_is_not(desk: Desk, which: int) -> None:
    """The message has been moved, and the disk does not confirm it: only our own record can say that it is to be done.
    What was never claimed somebody else may take.
    """
    sent = low(desk, 3)
    desk.once(system=Refusing("coder/inbox/cur", On.SYNC, code=errno.EIO, times=1, after=which))
    assert desk.failed
    # That there was no answer counts for the turn's own message alone.
    left = {entry.envelope.id: (entry.listed_only, entry.fetches) for entry in desk.place().state.retries.all()}
    assert left == {name: (False, int(name == sent[0])) for name in sent[: which + 1]}
    desk.once(FakeClock(time.time() + 3600))
    desk.once(FakeClock(time.time() + 7200))
    assert answered(desk) == dict.fromkeys(sent, "done")
    assert len(desk.inbox()) == 3


def test_an_answer_that_does_not_leave_is_stuck_for_its_own_message(desk: Desk) -> None:
    desk.shell("cat >/dev/null; echo done")
    known = low(desk, 1, sender="critic")
    [lost] = low(desk, 1, sender="planner")
    planner = desk.root / "agents/planner"
    desk.shell(f"cat >/dev/null; rm -r {planner}; touch {planner}; echo done")
    desk.once()
    assert [(message.refs[-1], message.body.strip()) for message in desk.inbox("critic")] == [(known[0], "done")]
    state = desk.place().state
    [key] = state.unsent.all()
    planner.unlink()
    make_mailbox(desk.disk, desk.root, "planner")
    apply(state, Request(Verb.STUCK_RETRY, (f"not-sent {key}",)))
    assert [one.envelope.id for one in turns(desk) if one.resends] == [lost]
    desk.once()
    assert answered(desk, "planner") == {lost: "done"}
    assert desk.place().state.unsent.all() == []


def test_whose_message_it_was_written_for_hears_that_it_did_not_leave(desk: Desk) -> None:
    desk.shell(
        'cat >/dev/null; set -- $AGENT_MAILER_MESSAGE_IDS; cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1; printf '
        """'{"key":"k","action":"send","created":1700000000,"to":["stranger"],"body":"x","about":"%s"}' "$2" >k.json"""
    )
    make_mailbox(desk.disk, desk.root, "critic")
    low(desk, 1, sender="critic")
    [second] = low(desk, 1, sender="planner")
    desk.once()
    assert desk.inbox("critic") == []
    [word] = desk.inbox("planner")
    assert (word.refs[-1], "could not be sent" in word.body) == (second, True)


def running(desk: Desk) -> str:
    until(lambda: desk.log(EventName.TURN_STARTED), "the turn")
    turn: str = desk.log(EventName.TURN_STARTED)[0]["turn_id"]
    return turn


@pytest.mark.parametrize("lost", ["turn.json", "mail.json"])
def test_where_its_record_is_lost_each_message_runs_by_itself(desk: Desk, lost: str) -> None:
    desk.shell("cat >/dev/null; [ -e ../again ] || { touch ../again; sleep 600; }; echo done")
    sent = low(desk, 3)
    with desk.watching() as watcher:
        turn = desk.state / "turns" / running(desk)
        until((desk.base / "again").exists, "the agent")
        watcher.kill()
        watcher.wait()
        (turn / "turn.json").write_text("{torn")
        if lost == "mail.json":
            (turn / "mail.json").write_text("{torn")
        for _ in range(3):
            desk.once()
    assert answered(desk) == dict.fromkeys(sent, "done")
    assert len(desk.inbox()) == 3
    assert desk.place().state.turns.open_ids() == []


@LONG
@pytest.mark.parametrize("watched", [pytest.param(True, marks=LONG), False])
def test_a_person_drops_all_of_it_and_each_sender_is_told(desk: Desk, watched: bool) -> None:
    desk.shell("cat >/dev/null; sleep 600")
    sent = low(desk, 1, sender="critic") + low(desk, 1, sender="planner")
    with desk.watching() as watcher:
        turn = running(desk)
        if not watched:
            watcher.kill()
            watcher.wait()
        assert type_in(desk.workdir, "turns", "stop", turn, "--drop").status == 0
        if watched:
            until(lambda: len(desk.log(EventName.MESSAGE_DONE)) == 2, "the end of both")
        else:
            desk.once()
    assert [len(record.batch) for record in turns(desk)] == [1]
    assert "dropped by hand" in answered(desk, "critic")[sent[0]]
    assert "dropped by hand" in answered(desk, "planner")[sent[1]]
    assert desk.place().state.processed.among(sent) == set(sent)


@LONG
def test_a_person_sees_all_of_it(desk: Desk) -> None:
    desk.shell("cat >/dev/null; until [ -e ../go ]; do sleep 0.02; done; echo done")
    sent = low(desk, 3)
    with desk.watching():
        turn = running(desk)
        [shown] = type_in(desk.workdir, "status", "--json").json["running"]
        assert [shown["message_id"], *shown["batch"]] == sent
        assert ", 3 messages" in type_in(desk.workdir, "status").out
        assert standing_in(desk.workdir, sent[2], "chores") == Report(MessageState.WORKING, "is at work on it")
        (desk.base / "go").touch()
        until(lambda: desk.log(EventName.TURN_SETTLED), "its end")
        report = standing_in(desk.workdir, sent[2], "chores")
    assert report is not None
    assert report.state is MessageState.DONE
    assert "what it sent has left" in report.text
    assert type_in(desk.workdir, "turns", "show", turn, "--json").json["turn"]["batch"] == sent[1:]
    assert all(name in type_in(desk.workdir, "turns", "show", turn).out for name in sent)
