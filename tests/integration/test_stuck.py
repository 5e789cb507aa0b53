"""Nothing vanishes: what was not worked on and what did not leave is written down, told once, and taken up again."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.desk import SOON, Desk, until
from tests.typed import type_in

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths, make_mailbox
from agent_mailer.mailbox.port import Automatic, Envelope, Gone, Message
from agent_mailer.state.records import ItemState
from agent_mailer.state.requests import Answer, Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch.requests import apply

STAGE = """cat >/dev/null; cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
printf '{"key":"k","action":"send","created":1700000000,"to":["%s"],"body":"paid for"}' >k.json
printf '{"kind":"done"}' >finish
echo "done, and a word to %s"
"""
HEADER = {"schema": 1, "from": "user", "to": ["coder"], "thread": "t", "created": "2026-08-22T10:00:00Z"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def file(identifier: str, body: str, **changes: object) -> bytes:
    return f"---json\n{json.dumps({'id': identifier, **HEADER, **changes})}\n---\n{body}".encode()


def put(desk: Desk, name: str, data: bytes) -> Path:
    path = Paths(desk.root, "coder").new / f"{name}.md"
    path.write_bytes(data)
    return path


def ask(desk: Desk, verb: Verb, *targets: str, reason: str = "") -> Answer:
    place = desk.place()
    place.prepare()
    return apply(place.state, Request(verb, targets, reason=reason), place.mailbox())


def stuck(desk: Desk) -> list[tuple[str, str]]:
    state = desk.place().state
    return [(entry.kind.value, entry.key) for entry in state.stuck.all()] + [
        ("not-sent", key) for key in state.unsent.all()
    ]


def notices(desk: Desk, handle: str = "user") -> list[Message]:
    return [one for one in desk.inbox(handle) if one.envelope.automatic is Automatic.NOTICE]


def add_handle(desk: Desk, handle: str) -> None:
    make_mailbox(desk.disk, desk.root, handle)


def bodies(messages: Sequence[Message]) -> list[str]:
    return [message.body.strip() for message in messages]


# Answers


def refused_answer(desk: Desk, to: str = "stranger") -> str:
    """A message is done, and what its agent wrote to `to` was refused; its key."""
    desk.shell(STAGE % (to, to))
    desk.send()
    desk.once()
    [(kind, key)] = stuck(desk)
    assert kind == "not-sent"
    return key


def test_an_answer_that_did_not_leave_is_sent_once_its_recipient_is_there(desk: Desk) -> None:
    key = refused_answer(desk)
    [told] = notices(desk)
    assert "stranger" in told.body
    assert f"agent-mailer stuck retry {key}" in told.body
    add_handle(desk, "stranger")
    assert ask(desk, Verb.STUCK_RETRY, *[f"not-sent {key}"] * 2) == Answer(
        ok=True, lines=(f"{key}: will be sent to stranger", f"{key}: is being sent to stranger")
    )
    assert len(desk.place().state.turns.open_ids()) == 1
    again = ask(desk, Verb.STUCK_RETRY, f"not-sent {key}")
    assert again.lines == (f"{key}: is being sent to stranger",)
    assert ask(desk, Verb.STUCK_DROP, f"not-sent {key}") == Answer(ok=False, lines=(f"{key}: it is being sent",))
    desk.once()
    assert bodies(desk.inbox("stranger")) == ["paid for"]
    assert stuck(desk) == []
    assert not ask(desk, Verb.STUCK_RETRY, f"not-sent {key}").ok
    desk.once()
    assert len(desk.inbox("stranger")) == 1
    assert len(notices(desk)) == 1
    turns = desk.place().state.turns
    [turn_id] = turns.ids()
    record = turns.load(turn_id)
    assert record is not None
    assert record.settlement is not None
    assert record.settlement.items[0].state is ItemState.DELIVERED


def test_two_who_ask_at_once_have_it_sent_once(desk: Desk) -> None:
    key = refused_answer(desk)
    add_handle(desk, "stranger")
    for _ in range(2):
        desk.place().state.requests.submit(Request(Verb.STUCK_RETRY, (f"not-sent {key}",)))
    # Whatever else is asked with it, the watcher that hears it sends it.
    other = desk.place().state.requests.submit(Request(Verb.SESSIONS_PRUNE, seconds=1.0))
    desk.once()
    assert desk.place().state.requests.take_answer(other)
    assert bodies(desk.inbox("stranger")) == ["paid for"]
    answers = [json.loads(path.read_bytes()) for path in (desk.state / "requests").glob("*.answer")]
    assert [answer["ok"] for answer in answers] == [True, True]
    assert stuck(desk) == []


def test_what_has_meanwhile_arrived_is_not_sent_twice(desk: Desk) -> None:
    key = refused_answer(desk)
    add_handle(desk, "stranger")
    turn_id, _, number = key.partition(".")
    record = desk.place().state.turns.load(turn_id)
    assert record is not None
    assert record.settlement is not None
    item = record.settlement.items[int(number)].item
    target = Paths(desk.root, "stranger").cur / f"{item.id}.md"
    target.write_bytes(item.payload.encode())
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    assert (stuck(desk), desk.inbox("stranger"), len(list(target.parent.iterdir()))) == ([], [], 1)


def test_an_answer_that_is_refused_again_stays(desk: Desk) -> None:
    """openclaw#23777."""
    key = refused_answer(desk)
    for _ in range(2):
        assert ask(desk, Verb.STUCK_RETRY).ok
        desk.once()
        assert stuck(desk) == [("not-sent", key)]
    assert len(notices(desk)) == 1
    assert not desk.place().state.turns.open_ids()
    assert ask(desk, Verb.STUCK_DROP, f"not-sent {key}") == Answer(ok=True, lines=(f"{key}: dropped",))
    assert stuck(desk) == []
    assert not ask(desk, Verb.STUCK_DROP, f"not-sent {key}").ok


def test_what_could_not_even_be_composed_is_composed_again(desk: Desk) -> None:
    key = refused_answer(desk, "NO HANDLE")
    [told] = notices(desk)
    assert "NO HANDLE" in told.body
    turns = desk.place().state.turns
    record = turns.load(key.partition(".")[0])
    assert record is not None
    assert record.settlement is not None
    entry = record.settlement.items[0]
    assert entry.draft is not None
    # A later version can write to such an address.
    draft = type(entry.draft)(entry.draft.key, entry.draft.action, entry.draft.created, ("planner",), body="paid for")
    items = (type(entry)(entry.item, entry.state, entry.why, draft), *record.settlement.items[1:])
    record.settlement = type(record.settlement)(
        **{**{f: getattr(record.settlement, f) for f in record.settlement.__struct_fields__}, "items": items}
    )
    turns.save(record)
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    assert bodies(desk.inbox("planner")) == ["paid for"]
    [path] = Paths(desk.root, "planner").new.iterdir()
    assert record.turn_id in path.read_text(), "it is of the turn that wrote it"
    assert stuck(desk) == []


def test_what_did_not_leave_outlives_its_days_and_a_lost_index(desk: Desk) -> None:
    desk.configure(keep_transcripts=1)
    key = refused_answer(desk)
    turn = desk.state / "turns" / key.partition(".")[0]
    os.utime(turn / "settled", (0, 0))
    (desk.state / "unsent.txt").unlink()
    desk.once()
    assert stuck(desk) == [("not-sent", key)]
    assert not (turn / "stdout").exists()
    assert ask(desk, Verb.STUCK_DROP).ok
    desk.once()
    assert not turn.exists()


def test_a_retry_leaves_a_pause_and_a_waiting_message_as_they_are(desk: Desk) -> None:
    key = refused_answer(desk)
    ask(desk, Verb.PAUSE)
    desk.send()
    ask(desk, Verb.STUCK_RETRY, f"not-sent {key}")
    desk.once()
    assert desk.place().state.pause.read() is not None
    assert not desk.place().state.turns.open_ids()
    assert len(list(Paths(desk.root, "coder").new.iterdir())) == 1


STAGE_AND_FAIL = STAGE.rpartition("printf")[0] + "exit 1\n"


def test_what_was_staged_for_a_message_that_was_given_up_is_kept_and_leaves_when_asked(desk: Desk) -> None:
    desk.configure(max_retries=0, notify={"address": "boss"})
    for handle in ("boss", "planner"):
        add_handle(desk, handle)
    desk.shell(STAGE_AND_FAIL % "planner")
    sent = desk.send()
    desk.once()
    [(kind, key)] = stuck(desk)
    assert kind == "not-sent"
    assert desk.inbox("planner") == []
    [told] = notices(desk)
    assert "What the agent wrote for it (1) is kept: agent-mailer stuck list --reason not-sent" in told.body
    assert len(notices(desk, "boss")) == 2, "a message was given up, and something did not leave"
    shown = type_in(desk.workdir, "stuck", "show", key).out
    assert "paid for" in shown
    assert "its turn did not end well" in shown
    assert (
        f"what the agent wrote for it: agent-mailer stuck show {key}"
        in type_in(desk.workdir, "stuck", "show", sent).err
    )
    status = json.loads(type_in(desk.workdir, "status", "--json").out)
    assert {problem["code"] for problem in status["problems"]} >= {"dead_letters", "stuck"}
    # The message is dropped, and what was written for it stays; whoever takes all up has the message worked on alone.
    assert ask(desk, Verb.STUCK_DROP, f"given-up {sent}").ok
    assert type_in(desk.workdir, "stuck", "retry", key).out == f"{key}: will be sent to planner\n"
    desk.once()
    assert bodies(desk.inbox("planner")) == ["paid for"]
    assert stuck(desk) == []
    desk.once()
    assert len(desk.inbox("planner")) == 1


def test_who_takes_all_up_has_a_message_run_again_and_not_sent_twice(desk: Desk) -> None:
    desk.configure(max_retries=0)
    add_handle(desk, "planner")
    desk.shell(STAGE_AND_FAIL % "planner")
    desk.send()
    desk.once()
    [kept] = stuck(desk)
    desk.shell(STAGE % ("planner", "planner"))
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    assert bodies(desk.inbox("planner")) == ["paid for"]
    assert stuck(desk) == [kept]
    assert ask(desk, Verb.STUCK_DROP).ok
    assert stuck(desk) == []


def test_what_an_earlier_turn_of_it_had_staged_is_kept_where_the_last_one_wrote_nothing(desk: Desk) -> None:
    desk.configure(max_retries=1)
    add_handle(desk, "planner")
    desk.shell(STAGE_AND_FAIL % "planner")
    desk.send()
    desk.once()
    assert stuck(desk) == [], "it is tried again, and the agent is told"
    desk.shell("cat >/dev/null; exit 1")
    desk.once(FakeClock(time.time() + 3600))
    assert [kind for kind, _ in stuck(desk)] == ["not-sent"]
    assert ask(desk, Verb.STUCK_RETRY, reason="not-sent").ok
    desk.once()
    assert bodies(desk.inbox("planner")) == ["paid for"]


def test_what_was_staged_outlives_its_days(desk: Desk) -> None:
    desk.configure(max_retries=0, keep_transcripts=1)
    desk.shell(STAGE_AND_FAIL % "planner")
    sent = desk.send()
    desk.once()
    assert ask(desk, Verb.STUCK_DROP, f"given-up {sent}").ok
    [(_, key)] = stuck(desk)
    turn = desk.state / "turns" / key.partition(".")[0]
    os.utime(turn / "settled", (0, 0))
    (desk.state / "unsent.txt").unlink()
    desk.once()
    assert [one for _, one in stuck(desk)] == [key]
    assert ask(desk, Verb.STUCK_DROP).ok
    desk.once()
    assert not turn.exists()


# Mail


def test_what_is_unreadable_is_stuck_before_it_is_moved_and_its_sender_is_told(desk: Desk) -> None:
    desk.configure(notify={"address": "planner"})
    put(desk, "bad", file("bad", "x", kind="run"))
    put(desk, "labels", file("labels", "x", labels="none"))
    put(desk, "torn", b"---json\n{")
    put(desk, "big", file("big", "x" * (11 << 20)))
    desk.once()
    desk.once()
    assert sorted(kind for kind, _ in stuck(desk)) == ["too-large", *["unreadable"] * 3]
    told = sorted(one.body.split("Message: ")[1].split("\n")[0] for one in notices(desk))
    assert told == ["bad.md", "big.md", "labels.md"]
    assert len(notices(desk, "planner")) == 4
    assert (Paths(desk.root, "coder").receipts / "big__coder__dlq.json").exists()
    answer = ask(desk, Verb.STUCK_RETRY)
    assert not answer.ok
    assert len(answer.lines) == 4
    assert ask(desk, Verb.STUCK_DROP).ok
    assert stuck(desk) == []


def test_the_sender_of_what_is_unreadable_has_been_told_when_it_is_moved(desk: Desk) -> None:
    """What was moved is listed no more: whoever is killed after that comes back to nothing."""
    letters, theirs, told = Paths(desk.root, "coder").dlq_new, Paths(desk.root, "user").new, list[int]()

    class Watched(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            if target.parent == letters:
                told.append(len([*theirs.iterdir()]))
            super().rename_noreplace(source, target)

    put(desk, "bad", file("bad", "x", kind="run"))
    desk.once(system=Watched())
    assert told == [1]


def test_each_file_that_cannot_be_read_is_stuck_by_itself(desk: Desk) -> None:
    desk.configure(notify={"address": "planner"})
    for _ in range(3):
        os.mkfifo(Paths(desk.root, "coder").new / "bad.md")
        desk.once()
        desk.once()
    assert [kind for kind, _ in stuck(desk)] == ["unreadable"] * 3
    assert len({key for _, key in stuck(desk)}) == 3
    assert len(notices(desk, "planner")) == 3
    answer = ask(desk, Verb.STUCK_RETRY)
    assert not answer.ok
    named = [line.split("/aside/")[1].split()[0] for line in answer.lines]
    assert sorted(named) == sorted(path.name for path in Paths(desk.root, "coder").aside.iterdir())


def test_what_can_be_read_now_is_worked_on(desk: Desk) -> None:
    path = put(desk, "m1", b"torn")
    desk.once()
    [(_, key)] = stuck(desk)
    [letter] = Paths(desk.root, "coder").dlq_new.iterdir()
    # What was no message to an earlier version is one to this.
    data = letter.read_bytes()
    entry = desk.place().state.stuck.get(StuckKind.UNREADABLE, key)
    assert entry is not None
    whole = file("m1", "work")
    letter.write_bytes(data.replace(b"torn", whole))
    place = desk.place()
    place.prepare()
    place.state.stuck.remove([(StuckKind.UNREADABLE, key)])
    place.state.stuck.add(StuckKind.UNREADABLE, key, None, "x", locator="m1.md", digest=sha256(whole).hexdigest())
    assert ask(desk, Verb.STUCK_RETRY, f"unreadable {key}") == Answer(ok=True, lines=(f"{key}: pending again",))
    assert path.exists()
    desk.once()
    assert bodies(desk.inbox()) == ["done"]
    assert stuck(desk) == []


def test_another_message_under_a_used_id_is_stuck_and_can_be_worked_on(desk: Desk) -> None:
    desk.shell("cat >/dev/null; echo ran")
    first = desk.send("first")
    desk.once()
    put(desk, first, file(first, "second, different\n", thread="other", **{"from": "planner"}))
    desk.once()
    [(kind, key)] = stuck(desk)
    assert kind == "used-id"
    [told] = notices(desk, "planner")
    assert "belongs to another message" in told.body
    assert told.envelope.thread == "other"
    assert len(list(Paths(desk.root, "coder").dlq_new.iterdir())) == 1
    assert (Paths(desk.root, "coder").receipts / f"{first}__coder__dlq.json").exists()
    desk.once()
    assert len(notices(desk, "planner")) == 1
    assert ask(desk, Verb.STUCK_RETRY, f"used-id {key}").ok
    desk.once()
    assert [one.body.strip() for one in desk.inbox("planner") if one.envelope.automatic is not Automatic.NOTICE] == [
        "ran"
    ]
    assert stuck(desk) == []


@pytest.mark.parametrize("keeps", [True, False], ids=["the mailbox has it", "the turn knows its text"])
def test_what_was_taken_up_under_a_used_id_is_not_stuck_again(desk: Desk, keeps: bool) -> None:
    first = desk.send("first")
    desk.once()
    other = file(first, "second, different\n", **{"from": "planner"})
    put(desk, first, other)
    desk.once()
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    if not keeps:
        for path in Paths(desk.root, "coder").cur.glob(f"{first}-*"):
            path.unlink()
    put(desk, first, other)
    assert "settled already, under an id of its own" in type_in(desk.workdir, "watch", "--dry-run").out
    events = desk.once()
    assert [event.event for event in events].count(EventName.MESSAGE_SET_ASIDE) == 1
    assert stuck(desk) == []
    assert bodies(desk.inbox("planner"))[1:] == ["done"]
    assert not list(Paths(desk.root, "coder").new.iterdir())
    put(desk, first, file(first, "third\n", **{"from": "planner"}))
    desk.once()
    assert [kind for kind, _ in stuck(desk)] == ["used-id"]


@pytest.mark.parametrize("other_name", [False, True])
def test_the_same_text_again_is_only_set_aside(desk: Desk, other_name: bool) -> None:
    first = desk.send("first")
    desk.once()
    data = (Paths(desk.root, "coder").cur / f"{first}.md").read_bytes()
    put(desk, "again" if other_name else first, data)
    events = desk.once()
    assert [event.event for event in events].count(EventName.MESSAGE_SET_ASIDE) == 1
    assert stuck(desk) == []
    assert notices(desk) == []


CHANGES: dict[str, object] = {
    "thread": "other",
    "reply_to": "planner",
    "refs": ["q2"],
    "labels": ["urgent"],
    "kind": "todo",
    "context": {"ticket": 2},
    "from": "planner",
    "subject": "another",
}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("keeps", [True, False], ids=["the mailbox has it", "the turn knows it"])
def test_the_same_words_elsewhere_are_another_message(desk: Desk, field: str, keeps: bool) -> None:
    put(desk, "m1", file("m1", "the build is red\n"))
    desk.once()
    if not keeps:
        (Paths(desk.root, "coder").cur / "m1.md").unlink()
    other = file("m1", "the build is red\n", **{field: CHANGES[field]})
    put(desk, "m1", other)
    desk.once()
    [(kind, key)] = stuck(desk)
    assert kind == "used-id"
    assert len(notices(desk, "planner" if field in ("from", "reply_to") else "user")) == 1
    assert ask(desk, Verb.STUCK_RETRY, f"used-id {key}").ok
    desk.once()
    assert len(desk.place().state.turns.ids()) == 2
    put(desk, "m1", other)
    desk.once()
    assert (stuck(desk), len(desk.place().state.turns.ids())) == ([], 2)


def test_each_of_several_under_one_id_is_stuck_by_itself(desk: Desk) -> None:
    for thread in ("a", "b", "c"):
        put(desk, "m1", file("m1", "the build is red\n", thread=thread))
        desk.once()
    assert len(stuck(desk)) == 2
    assert sorted(one.envelope.thread for one in notices(desk)) == ["b", "c"]
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    threads = [record.envelope.thread for record in map(desk.place().state.turns.load, turn_ids(desk)) if record]
    assert sorted(threads) == ["a", "b", "c"]


def turn_ids(desk: Desk) -> list[str]:
    return desk.place().state.turns.ids()


@pytest.mark.parametrize(
    "changes", [{"created": "2026-08-22T11:00:00Z"}, {"priority": "urgent"}, {"to": ["coder", "planner"]}], ids=str
)
def test_what_is_sent_once_more_is_the_same_message(desk: Desk, changes: dict[str, object]) -> None:
    put(desk, "m1", file("m1", "the build is red\n"))
    desk.once()
    put(desk, "m1", file("m1", "the build is red\n", **changes))
    events = desk.once()
    assert [event.event for event in events].count(EventName.MESSAGE_SET_ASIDE) == 1
    assert stuck(desk) == []


@pytest.mark.parametrize(("thread", "found"), [("t", []), ("other", ["used-id"])], ids=["same", "another"])
def test_what_an_earlier_version_has_written_of_a_message_is_understood(
    desk: Desk, thread: str, found: list[str]
) -> None:
    put(desk, "m1", file("m1", "the build is red\n", labels=["ci"]))
    desk.once()
    (Paths(desk.root, "coder").cur / "m1.md").unlink()
    [turn_id] = turn_ids(desk)
    record = desk.state / "turns" / turn_id / "turn.json"
    told = json.loads(record.read_bytes())
    assert told.pop("content") != told["digest"]
    record.write_text(json.dumps(told))
    put(desk, "m1", file("m1", "the build is red\n", labels=["ci"], thread=thread))
    desk.once()
    assert [kind for kind, _ in stuck(desk)] == found


def test_what_an_earlier_version_put_away_under_a_used_id_is_taken_up_once(desk: Desk) -> None:
    put(desk, "m1", file("m1", "first\n"))
    desk.once()
    other = file("m1", "second\n")
    put(desk, "m1", other)
    desk.once()
    [(_, key)] = stuck(desk)
    # As it was written then: by the text alone.
    text = sha256(b"user\0\0second").hexdigest()
    line = json.loads((desk.state / "stuck.jsonl").read_bytes())
    line |= {"key": f"m1~{text[:12]}", "digest": text}
    (desk.state / "stuck.jsonl").write_text(json.dumps(line) + "\n")
    assert key != line["key"]
    assert ask(desk, Verb.STUCK_RETRY, f"used-id {line['key']}").ok
    desk.once()
    assert len(turn_ids(desk)) == 2
    put(desk, "m1", other)
    desk.once()
    assert (stuck(desk), len(turn_ids(desk))) == ([], 2)


def test_where_the_mailbox_has_it_no_more_the_turn_knows_its_text(desk: Desk) -> None:
    first = desk.send("first")
    desk.once()
    (Paths(desk.root, "coder").cur / f"{first}.md").unlink()
    put(desk, first, file(first, "other\n"))
    desk.once()
    assert [kind for kind, _ in stuck(desk)] == ["used-id"]
    desk.shell("cat >/dev/null; echo ran")
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    assert "ran" in bodies(desk.inbox())


def test_a_name_that_another_reader_has_claimed_before_loses_no_mail(desk: Desk) -> None:
    (Paths(desk.root, "coder").cur / "m1.md").write_bytes(file("m1", "somebody took it\n"))
    put(desk, "m1", file("m1", "another\n"))
    events = desk.once()
    assert [kind for kind, _ in stuck(desk)] == ["used-id"]
    assert len(notices(desk)) == 1
    assert [event.event for event in events].count(EventName.MESSAGE_GONE) == 1
    desk.shell("cat >/dev/null; echo ran")
    assert ask(desk, Verb.STUCK_RETRY).ok
    desk.once()
    assert [one.body.strip() for one in desk.inbox() if one.envelope.automatic is not Automatic.NOTICE] == ["ran"]
    put(desk, "m1", file("m1", "another\n"))
    desk.once()
    assert stuck(desk) == []
    assert not list(Paths(desk.root, "coder").new.iterdir())


def test_a_message_with_the_id_of_one_that_was_given_up_does_not_turn_the_watcher_round(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 1")
    first = desk.send()
    desk.once()
    put(desk, first, file(first, "other\n", thread="other", **{"from": "planner"}))
    desk.once()
    assert [kind for kind, _ in stuck(desk)] == ["used-id"]
    assert len(desk.place().state.dead_letters.all()) == 1
    assert len(desk.place().state.turns.ids()) == 1


def test_what_waits_for_a_person_is_passed_over_until_he_asks(desk: Desk) -> None:
    sent = desk.send(thread="red")
    desk.send(thread="red")
    place = desk.place()
    place.prepare()
    [envelope] = [one for one in listed(desk) if one.id == sent]
    place.state.stuck.add(StuckKind.NO_WAY_BACK, sent, envelope, "no such session")
    desk.once()
    assert len(desk.place().state.turns.ids()) == 1, "its thread goes on without it"
    assert ask(desk, Verb.STUCK_RETRY, f"no-way-back {sent}").ok
    desk.once()
    assert len(desk.place().state.turns.ids()) == 2
    place = desk.place()
    third = desk.send(thread="red")
    [envelope] = [one for one in listed(desk) if one.id == third]
    place.prepare()
    place.state.stuck.add(StuckKind.NO_WAY_BACK, third, envelope, "no such session")
    assert ask(desk, Verb.STUCK_DROP, f"no-way-back {third}").ok
    desk.once()
    assert len(desk.place().state.turns.ids()) == 2
    assert not list(Paths(desk.root, "coder").new.iterdir())


def listed(desk: Desk) -> list[Envelope]:
    return list(asyncio.run(desk.place().mailbox().pending(10)).envelopes)


def test_a_long_list_is_taken_up_in_pieces(desk: Desk) -> None:
    place = desk.place()
    place.prepare()
    for number in range(1200):
        place.state.stuck.add(StuckKind.UNREADABLE, f"m{number}", None, "x", locator=f"m{number}.md")
    answer = ask(desk, Verb.STUCK_DROP)
    assert answer.ok
    assert answer.lines[-1] == "200 more are left for the next time: say it again"
    assert len(answer.lines) < 60
    assert ask(desk, Verb.STUCK_DROP, reason="too-large") == Answer(ok=True, lines=("nothing is stuck",))
    assert ask(desk, Verb.STUCK_DROP, reason="unreadable").ok
    assert stuck(desk) == []


# What a person sees and types


def test_a_person_sees_what_is_stuck_and_takes_it_up(desk: Desk) -> None:
    key = refused_answer(desk)
    put(desk, "bad", file("bad", "x", kind="run"))
    desk.once()
    shown = type_in(desk.workdir, "stuck", "list", "--json")
    assert shown.status == 0, shown
    told = json.loads(shown.out)
    assert told["total"] == 2
    assert [(one["reason"], one["from"]) for one in told["stuck"]] == [("not-sent", "user"), ("unreadable", "user")]
    assert told["stuck"][0]["to"] == "stranger"
    status = type_in(desk.workdir, "status", "--json")
    assert status.status == 1
    found = json.loads(status.out)
    assert found["stuck"] == [{"reason": "not-sent", "count": 1}, {"reason": "unreadable", "count": 1}]
    assert "stuck" in [problem["code"] for problem in found["problems"]]
    assert "1 not-sent, 1 unreadable" in type_in(desk.workdir, "status").out
    whole = type_in(desk.workdir, "stuck", "show", key)
    assert "paid for" in whole.out
    assert "stranger" in whole.out
    add_handle(desk, "stranger")
    with desk.watching():
        asked = type_in(desk.workdir, "stuck", "retry", key)
        assert (asked.status, asked.out) == (0, f"{key}: will be sent to stranger\n")
        until(lambda: bodies(desk.inbox("stranger")) == ["paid for"], "it is sent")
        until(lambda: not desk.place().state.unsent.all(), "it counts as sent")
        assert type_in(desk.workdir, "stuck", "retry", "--all", "--reason", "unreadable").status == 1
        assert type_in(desk.workdir, "stuck", "drop", "--all").status == 0
        assert type_in(desk.workdir, "status", "--json").status == 0
    assert type_in(desk.workdir, "stuck", "retry").status == 2
    assert "or give --all --reason not-sent" in type_in(desk.workdir, "stuck", "retry", "--reason", "not-sent").err
    assert type_in(desk.workdir, "stuck", "retry", "--all", "--reason", "boredom").status == 2
    assert "nothing is stuck" in type_in(desk.workdir, "stuck", "list").err


def test_what_was_given_up_is_stuck_too_and_dead_letter_is_the_same_command_for_it(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 1")
    sent = desk.send()
    desk.once()
    [one] = json.loads(type_in(desk.workdir, "stuck", "list", "--reason", "given-up", "--json").out)["stuck"]
    assert (one["key"], one["reason"]) == (sent, "given-up")
    assert [p["code"] for p in json.loads(type_in(desk.workdir, "status", "--json").out)["problems"]] == [
        "no_watcher",
        "dead_letters",
    ]
    assert type_in(desk.workdir, "stuck", "retry", sent).out == f"{sent}: pending again\n"
    desk.once()
    assert len(json.loads(type_in(desk.workdir, "dead-letter", "list", "--json").out)["dead_letters"]) == 1
    assert type_in(desk.workdir, "stuck", "drop", sent).status == 0
    assert json.loads(type_in(desk.workdir, "dead-letter", "list", "--json").out)["dead_letters"] == []


@pytest.mark.parametrize("verb", ["retry", "purge"])
def test_every_dead_letter_is_none_that_is_stuck_for_another_reason(desk: Desk, verb: str) -> None:
    """What was read and refused, or did not leave, is not asked for by that command."""
    key = refused_answer(desk)
    put(desk, "bad", file("bad", "x", kind="run"))
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 1")
    sent = desk.send()
    desk.once()
    [unreadable] = [entry for entry in stuck(desk) if entry[0] == "unreadable"]
    assert [letter.msg_id for letter in desk.place().state.dead_letters.all()] == [sent]
    done = type_in(desk.workdir, "dead-letter", verb, "--all")
    told = f"{sent}: pending again" if verb == "retry" else "1 dead letters removed"
    assert (done.status, done.out) == (0, f"{told}\n"), done
    assert desk.place().state.dead_letters.all() == []
    assert stuck(desk) == [unreadable, ("not-sent", key)]


def test_the_turn_of_what_was_given_up_is_kept_until_it_is_dropped(desk: Desk) -> None:
    desk.configure(max_retries=0, keep_transcripts=1)
    desk.shell("cat >/dev/null; exit 1")
    sent = desk.send()
    desk.once()
    [turn] = (desk.state / "turns").iterdir()
    os.utime(turn / "settled", (0, 0))
    desk.once()
    assert (turn / "turn.json").exists()
    assert not (turn / "stderr").exists()
    assert ask(desk, Verb.STUCK_DROP, f"given-up {sent}").ok
    os.utime(turn / "settled", (0, 0))
    desk.once()
    assert not turn.exists()


def test_a_message_that_goes_bad_between_look_and_claim_is_stuck(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = desk.send()
    path = Paths(desk.root, "coder").new / f"{sent}.md"
    claim = MaildirMailbox.claim

    async def late(
        self: MaildirMailbox, envelope: Envelope, *, again: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        path.write_bytes(b"torn")
        return await claim(self, envelope, again=again, turn_id=turn_id)

    monkeypatch.setattr(MaildirMailbox, "claim", late)
    desk.once()
    assert [kind for kind, _ in stuck(desk)] == ["unreadable"]
    assert not path.exists()


@pytest.mark.long
def test_a_hundred_thousand_are_listed_in_a_moment(desk: Desk) -> None:
    place = desk.place()
    place.prepare()
    row = b'{"kind":"unreadable","key":"m%d","at":1.0,"why":"x","locator":"m%d.md"}\n'
    (desk.state / "stuck.jsonl").write_bytes(b"".join(row % (n, n) for n in range(100_000)))
    began = time.monotonic()
    shown = type_in(desk.workdir, "stuck", "list", "--json")
    assert time.monotonic() - began < SOON / 3
    told = json.loads(shown.out)
    assert (told["total"], len(told["stuck"])) == (100_000, 100)
    assert type_in(desk.workdir, "status", "--json").status == 1
    assert type_in(desk.workdir, "stuck", "drop", "m99999").status == 0
