"""Held mail: never run, never answered, its operator told once; kept over any end, and let go by a person alone."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.broker_desk import running_broker
from tests.desk import Desk, until
from tests.integration.test_amp_watch import AmpDesk
from tests.plain_broker import running_plain_broker
from tests.sizes import LONG, thinned
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths, make_mailbox
from agent_mailer.mailbox.port import Automatic, Envelope
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Ended, Guard, Held, HeldEntry
from agent_mailer.state.records import RetryEntry
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.backlog import LIST_LIMIT
from agent_mailer.watch.guards.holding import MOST_AT_ONCE, Stop
from agent_mailer.watch.requests import apply


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def held(desk: Desk) -> dict[str, str]:
    return {entry.message_id: entry.guard.value for entry in desk.place().state.held.all()}


def ran(desk: Desk) -> list[str]:
    return [mark["message"] for mark in desk.marks()]


def status(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = type_in(desk.workdir, "status", "--json").json
    return found


def test_a_strangers_mail_is_held_and_hears_nothing(desk: Desk) -> None:
    told = desk.base / "told"
    desk.shell_that_tells("echo done")
    desk.configure(
        allow_from=["reviewer"],
        notify={"command": ["/bin/sh", "-c", 'echo "$AGENT_MAILER_NOTICE_TEXT" >>"$0"', str(told)]},
    )
    first = desk.send("run me", sender="planner", thread="t")
    second = desk.send("run me too", sender="planner", thread="u")
    mine = desk.send("and me", sender="user", thread="t")
    desk.once()
    assert ran(desk) == [mine], "a person needs no entry, and what is held holds up no other of its thread"
    assert held(desk) == {first: "who", second: "who"}
    assert desk.inbox("planner") == []
    paths = Paths(desk.root, "coder")
    assert not list(paths.new.iterdir())
    assert [path for path in paths.receipts.glob("*") if first in path.name or second in path.name] == []
    assert told.read_text().count("holds mail of planner") == 1
    seen = status(desk)
    assert seen["held"] == [{"guard": "who", "count": 2}]
    assert {problem["code"] for problem in seen["problems"]} <= {"no_watcher"}
    assert "2 who (agent-mailer held list)" in type_in(desk.workdir, "status").out
    desk.once()
    assert ran(desk) == [mine]
    assert told.read_text().count("holds mail of planner") == 1


@pytest.mark.parametrize("elsewhere", [{"thread": "u"}, {"body": "other"}, {"sender": "stranger"}], ids=str)
def test_another_message_under_a_held_id_takes_nothing_from_it(desk: Desk, elsewhere: dict[str, str]) -> None:
    desk.shell_that_tells("echo done")
    desk.configure(deny_from=["planner", "stranger"])
    make_mailbox(desk.disk, desk.root, "stranger")
    said = {"sender": "planner", "thread": "t", "body": "one"}

    def put(**changes: str) -> None:
        told = said | changes
        head = {"schema": 1, "id": "m1", "from": told["sender"], "to": ["coder"], "thread": told["thread"]}
        head["created"] = "2026-08-22T10:00:00Z"
        text = f"---json\n{json.dumps(head)}\n---\n{told['body']}\n"
        (Paths(desk.root, "coder").new / "m1.md").write_text(text)

    def stuck() -> list[str]:
        return [entry.kind.value for entry in desk.place().state.stuck.all()]

    put()
    desk.once()
    put()
    desk.once()
    assert (held(desk), stuck()) == ({"m1": "who"}, []), "the same once more"
    put(**elsewhere)
    desk.once()
    desk.once()
    assert (held(desk), stuck()) == ({"m1": "who"}, ["used-id"])
    assert not list(Paths(desk.root, "coder").new.iterdir())
    assert desk.inbox("planner") == []
    assert type_in(desk.workdir, "held", "allow", "planner", "stranger").status == 0
    desk.once()
    assert ran(desk) == ["m1"]
    assert type_in(desk.workdir, "stuck", "retry", "--all").status == 0
    desk.once()
    assert len(ran(desk)) == 2


def test_what_was_to_be_tried_again_and_is_held_is_no_retry(desk: Desk) -> None:
    desk.configure(retry={"first": 3600, "longest": 3600})
    desk.shell("cat >/dev/null; exit 3")
    sent = desk.send(sender="planner", thread="t")
    desk.once()
    assert [row["message_id"] for row in status(desk)["retries"]] == [sent]
    desk.configure(deny_from=["planner"])
    desk.once()
    assert held(desk) == {sent: "who"}
    seen = status(desk)
    assert (seen["retries"], seen["mailbox"]["waiting"]) == ([], 0)
    assert type_in(desk.workdir, "turns", "thread", "t", "--json").json["waiting"] == []
    assert type_in(desk.workdir, "held", "release", sent).status == 0
    assert [row["message_id"] for row in status(desk)["retries"]] == [sent]


def test_a_person_lets_it_go_drops_it_or_allows_its_sender(desk: Desk) -> None:
    desk.shell_that_tells("echo done")
    desk.configure(deny_from=["planner"])
    first, second, third, fourth = (desk.send(f"n {n}", sender="planner", thread=f"t{n}") for n in range(4))
    desk.once()
    assert list(held(desk)) == [first, second, third, fourth]
    shown = type_in(desk.workdir, "held", "show", first)
    assert "n 0" in shown.out
    assert "deny_from has planner" in shown.out
    assert [row["message_id"] for row in type_in(desk.workdir, "quarantine", "list", "--json").json["held"]] == list(
        held(desk)
    )
    assert type_in(desk.workdir, "held", "release", first).status == 0
    assert type_in(desk.workdir, "held", "drop", second).status == 0
    assert type_in(desk.workdir, "held", "drop", second).status != 0
    desk.once()
    assert ran(desk) == [first]
    assert list(held(desk)) == [third, fourth]
    assert type_in(desk.workdir, "held", "allow", "planner").status == 0
    fifth = desk.send("n 5", sender="planner")
    desk.once()
    assert set(ran(desk)) == {first, third, fourth, fifth}
    assert held(desk) == {}
    assert second in desk.place().state.processed
    assert {m.envelope.thread for m in desk.inbox("planner")} == {"t0", "t2", "t3", "p2p/coder__planner"}


def test_who_was_allowed_is_shown_and_that_is_taken_back(desk: Desk) -> None:
    desk.configure(deny_from=["planner"])
    assert type_in(desk.workdir, "held", "allow", "planner", "boss").status == 0
    assert type_in(desk.workdir, "held", "allow", "--json").json == {"allowed": ["planner", "boss"]}
    agent = {"AGENT_MAILER_TURN_DIR": str(desk.workdir)}
    assert type_in(desk.workdir, "held", "allow", "--undo", "planner", env=agent).status == 2
    assert type_in(desk.workdir, "held", "allow", "--undo").status == 2
    assert type_in(desk.workdir, "held", "allow", "--undo", "planner").status == 0
    assert type_in(desk.workdir, "held", "allow", "--undo", "planner").status == 1, "nobody had"
    assert type_in(desk.workdir, "held", "allow").out.split() == ["boss"]
    theirs = desk.send("x", sender="planner")
    desk.once()
    assert held(desk) == {theirs: "who"}


def test_only_a_sender_can_be_allowed(desk: Desk) -> None:
    desk.configure(deny_from=["planner"])
    for wrong in (" ", "pl*", "kind:question"):
        assert type_in(desk.workdir, "held", "allow", wrong).status == 2, wrong
    assert desk.place().state.lifts.standing.allowed == ()


@pytest.mark.parametrize("sender", ["pl*", "@planner", "kind:question", "a\u202eb"])
def test_whoever_could_be_allowed_can_be_taken_back_when_nothing_is_held_of_his(desk: Desk, sender: str) -> None:
    """By that name, though it looks like a pattern."""
    place = desk.place()
    place.prepare()
    theirs = msgspec.structs.replace(envelope(1), sender=sender)
    place.state.held.add([HeldEntry(theirs.id, 1.0, Guard.WHO, "why", "q", theirs)])
    assert type_in(desk.workdir, "held", "allow", sender).status == 0
    assert (held(desk), desk.place().state.lifts.standing.allowed) == ({}, (sender,))
    taken = type_in(desk.workdir, "held", "allow", "--undo", sender)
    assert (taken.status, desk.place().state.lifts.standing.allowed) == (0, ()), taken


def test_what_one_order_leaves_is_told(desk: Desk) -> None:
    desk.configure(deny_from=["planner"])
    place = desk.place()
    place.prepare()
    place.state.held.add(entry(number) for number in range(2 * MOST_AT_ONCE + 7))
    released = type_in(desk.workdir, "held", "release", "--all")
    assert f"{MOST_AT_ONCE + 7} more are left for the next time: say it again" in released.out
    allowed = type_in(desk.workdir, "held", "allow", "x")
    assert "held messages will be worked on, 7 more after: agent-mailer held release --from x" in allowed.out
    assert len(desk.place().state.held.waiting) == 7


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("release --all --from x", {"m1", "m2"}),
        ("drop --all --from x", {"m1", "m2"}),
        ("release --all --guard pair", {"m2", "m3"}),
        ("drop --from x --guard pair", {"m2"}),
        ("release --all", {"m1", "m2", "m3", "m4"}),
    ],
)
def test_all_that_is_held_so_is_all_that_an_order_lets_go(desk: Desk, words: str, meant: set[str]) -> None:
    place = desk.place()
    place.prepare()
    theirs = [msgspec.structs.replace(one, sender="y") for one in (envelope(3), envelope(4))]
    guards = [Guard.WHO, Guard.PAIR, Guard.PAIR, Guard.WHO]
    place.state.held.add(
        HeldEntry(one.id, 1.0, guard, "why", "q", one)
        for one, guard in zip([envelope(1), envelope(2), *theirs], guards, strict=True)
    )
    assert type_in(desk.workdir, "held", *words.split()).status == 0
    assert set(held(desk)) == {"m1", "m2", "m3", "m4"} - meant


def test_what_is_ordered_for_one_sender_is_done_to_no_other(desk: Desk) -> None:
    desk.configure(deny_from=["planner*"])
    one, other = desk.send("x", sender="planner"), desk.send("y", sender="planner-two")
    desk.once()
    assert type_in(desk.workdir, "held", "drop", "--from", "planner").status == 0
    assert held(desk) == {other: "who"}
    assert one in desk.place().state.processed


def test_a_watcher_is_told_by_the_command(desk: Desk) -> None:
    desk.shell_that_tells("echo done")
    desk.configure(deny_from=["pl*"])
    with desk.watching():
        stopped = desk.send("x", sender="planner")
        until(lambda: held(desk) == {stopped: "who"}, "the hold")
        assert type_in(desk.workdir, "held", "release", "--from", "planner").status == 0
        until(lambda: ran(desk) == [stopped], "the release")
        until(lambda: len(desk.inbox("planner")) == 1, "its answer")


def test_a_request_alone_lets_nothing_go_and_an_agent_is_refused(desk: Desk) -> None:
    desk.configure(deny_from=["planner"])
    stopped = desk.send("x", sender="planner")
    desk.once()
    place = desk.place()
    place.prepare()
    for target in (stopped, "../../held", ""):
        assert not apply(place.state, Request(Verb.ORDER, (target,))).ok
    refused = type_in(desk.workdir, "held", "release", "--all", env={"AGENT_MAILER_TURN_DIR": str(desk.base)})
    assert refused.status == 2
    assert held(desk) == {stopped: "who"}


def test_what_was_written_down_is_taken_by_the_next_watcher(desk: Desk) -> None:
    """The end of a watcher between the line and the mailbox's claim, and a mailbox that lists what is held again."""
    desk.shell_that_tells("echo done")
    message_id = desk.send("x", sender="planner")
    place = desk.place()
    place.prepare()
    envelope = Envelope(message_id, "p2p/coder__planner", "planner", time.time(), "1", f"{message_id}.md")
    place.state.held.add([HeldEntry(message_id, time.time(), Guard.PAIR, "a loop", "q", envelope)])
    paths = Paths(desk.root, "coder")
    assert [path.stem for path in paths.new.iterdir()] == [message_id]
    desk.once()
    assert not list(paths.new.iterdir())
    (paths.cur / f"{message_id}.md").rename(paths.new / f"{message_id}.md")
    desk.once()
    assert not list(paths.new.iterdir())
    assert held(desk) == {message_id: "pair"}
    assert ran(desk) == []


def test_a_message_under_way_is_held_once_its_sender_is_denied(desk: Desk) -> None:
    desk.shell_that_tells("exit 1")
    message_id = desk.send("x", sender="planner")
    desk.once()
    assert ran(desk) == [message_id]
    desk.configure(deny_from=["planner"])
    until(lambda: desk.once() and held(desk) == {message_id: "who"}, "the hold")
    assert ran(desk) == [message_id]
    desk.shell_that_tells("echo done")
    assert type_in(desk.workdir, "held", "release", "--all").status == 0
    desk.once()
    assert ran(desk) == [message_id, message_id]
    assert desk.inbox("planner")[0].body.strip() == "done"


def test_a_release_outlives_damaged_retries(desk: Desk) -> None:
    desk.shell_that_tells("echo done")
    desk.configure(deny_from=["planner"])
    message_id = desk.send("x", sender="planner")
    desk.once()
    assert type_in(desk.workdir, "held", "release", message_id).status == 0
    (desk.state / "retries.json").write_bytes(b"\0" * 100)
    desk.once()
    assert ran(desk) == [message_id]


def test_a_notice_of_a_denied_sender_starts_nothing_and_is_not_held(desk: Desk) -> None:
    desk.configure(deny_from=["planner"])
    desk.send("x", sender="planner", automatic=Automatic.NOTICE)
    desk.once()
    assert held(desk) == {}


@LONG
def test_a_flood_that_is_held_hides_nobody(desk: Desk) -> None:
    """More than one look takes in: of one thread, and each of a thread of its own."""
    desk.shell_that_tells("echo done")
    desk.configure(deny_from=["planner"])
    first = desk.send("x", sender="planner", thread="flood")
    new = Paths(desk.root, "coder").new
    text = (new / f"{first}.md").read_text()
    for number in range(LIST_LIMIT + 200):
        name = f"2020-01-01T00-00-00.000Z_pid1_{number:08x}"
        thread = "flood" if number % 2 else f"flood-{number}"
        (new / f"{name}.md").write_text(text.replace(first, name).replace('"flood"', f'"{thread}"'))
    mine = desk.send("me", sender="user")
    desk.once()
    assert ran(desk) == [mine]
    assert len(held(desk)) == LIST_LIMIT + 201
    assert list(new.iterdir()) == []


def test_many_names_of_one_sender_do_not_flood_the_operator(desk: Desk) -> None:
    told = desk.base / "told"
    desk.configure(notify={"command": ["/bin/sh", "-c", 'echo "$AGENT_MAILER_NOTICE_TEXT" >>"$0"', str(told)]})
    place = desk.place()
    place.prepare()

    async def hold() -> None:
        lock = place.lock()
        lock.acquire()
        room = place.room(lock)
        stops = [
            Stop(
                Envelope(f"m{n}", "t", f"name{n}", 1.0, str(n), f"m{n}.md"),
                Guard.WHO,
                "why",
                f"who\0name{n}",
                ours=True,
            )
            for n in range(100)
        ]
        await room.held.hold(stops)
        await room.held.hold(stops)
        lock.release()

    asyncio.run(hold())
    assert len(desk.place().state.notices.told.waiting) == 21


def files(tmp_path: Path, most: int = 10, spared: int = 4) -> Held:
    (tmp_path / ".agent-mailer").mkdir(exist_ok=True)
    folder = StateFolder(tmp_path, Disk(), SystemClock())
    folder.hold()
    return Held(folder, most, spared)


def entry(number: int, guard: Guard = Guard.WHO) -> HeldEntry:
    return HeldEntry(f"m{number}", float(number), guard, "why", "q", envelope(number))


def envelope(number: int) -> Envelope:
    return Envelope(f"m{number}", "t", "x", 1.0, str(number), f"m{number}.md")


def test_the_file_is_bounded_and_what_a_loop_stopped_is_never_only_counted(tmp_path: Path) -> None:
    book = files(tmp_path)
    book.add([entry(0, Guard.PAIR), *(entry(n) for n in range(1, 10))])
    assert len([*book.all()]) == 10
    book.add([entry(10)])
    for one in (book, files(tmp_path)):
        assert one.counts() == {Guard.PAIR: 1, Guard.WHO: 10}
        assert [e.message_id for e in one.all()] == ["m0", *(f"m{n}" for n in range(5, 11))]
    book.add(entry(n, Guard.RING) for n in range(20, 60))
    assert len(book.waiting) == 43, "nothing of these may go"


def test_lines_that_ended_go_and_what_they_say_stays(tmp_path: Path) -> None:
    book = files(tmp_path, most=100)
    book.add(entry(n) for n in range(6))
    assert book.end(["m0", "m1", "m1", "nobody"], Ended.RELEASED) == 2
    book.end(["m2", "m3"], Ended.DROPPED)
    assert [one.id for one in book.released()] == ["m0", "m1"]
    book.add([entry(0)])
    assert [one.id for one in files(tmp_path).released()] == ["m1"]
    book.end(["m0"], Ended.DROPPED)
    book.tidy(lambda _: False)
    assert list(files(tmp_path, most=100).waiting) == ["m4", "m5"]
    book.tidy({"m0", "m2", "m3"}.__contains__)
    lines = (tmp_path / ".agent-mailer/held.jsonl").read_text().splitlines()
    assert [json.loads(line)["message_id"] for line in lines] == ["m1", "m4", "m5", "m1"]
    assert list(files(tmp_path).waiting) == ["m4", "m5"]


@pytest.mark.parametrize("name", ['a",b', "a\\", 'a"', "ä\x01", "x,y"])
def test_an_odd_id_is_found(tmp_path: Path, name: str) -> None:
    book = files(tmp_path, most=100)
    odd = msgspec.structs.replace(entry(1), message_id=name)
    book.add([entry(0), odd, entry(2)])
    assert book.find([name, "m0"]) == {name: odd, "m0": entry(0)}


def test_a_damaged_line_costs_that_line(tmp_path: Path) -> None:
    book = files(tmp_path, most=100)
    book.add(entry(n) for n in range(3))
    path = tmp_path / ".agent-mailer/held.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:40], b"\0\0", b'{"message_id": 7}', lines[2]]))
    again = files(tmp_path)
    assert list(again.waiting) == ["m0", "m2"]
    again.add([entry(3)])
    assert list(files(tmp_path).waiting) == ["m0", "m2", "m3"]


def test_what_is_held_is_nobodys_lost_mail(desk: Desk) -> None:
    """`doctor --repair` gives back what was claimed and never settled, where a turn's record is lost."""
    desk.configure(deny_from=["planner"])
    message_id = desk.send("x", sender="planner")
    desk.once()
    turn = desk.state / "turns" / "20260101T000000-00000000"
    turn.mkdir()
    (turn / "turn.json").write_text("{")
    type_in(desk.workdir, "doctor", "--repair")
    assert desk.place().state.retries.get(message_id) is None
    assert held(desk) == {message_id: "who"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("deny_from", [""], "nothing fits it"),
        ("allow_from", ["a b"], "nothing fits it"),
        ("deny_from", ["kind:gossip"], "names no kind"),
        ("allow_from", ["[a,b]"], "nothing fits it"),
        ("allow_from", ['"a"'], "nothing fits it"),
        ("people", [7], "str"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(desk: Desk, key: str, value: list[Any], said: str) -> None:
    desk.configure(**{key: value})
    seen = type_in(desk.workdir, "status")
    assert seen.status == 78
    assert said in seen.err


def test_an_allow_list_without_the_operator_keeps_him_and_no_other(desk: Desk) -> None:
    desk.shell_that_tells("echo done")
    desk.configure(allow_from=["planner"], notify={"address": "boss"})
    mine, boss, theirs = (desk.send("x", sender=name) for name in ("user", "boss", "planner"))
    other = desk.send("x", sender="stranger")
    desk.once()
    assert set(ran(desk)) == {mine, boss, theirs}
    assert held(desk) == {other: "who"}


def test_a_list_as_a_program_writes_it_is_one(desk: Desk) -> None:
    assert type_in(desk.workdir, "config", "set", "allow_from", '["boss", "@team.example"]').status == 0
    assert desk.place().config.allow_from == ("boss", "@team.example")
    assert type_in(desk.workdir, "config", "set", "deny_from", "[ab]*").status == 0
    assert desk.place().config.deny_from == ("[ab]*",), "a glob is none"
    for wrong in ("[boss, friend]", "['boss']", "boss,friend"):
        typed = type_in(desk.workdir, "config", "set", "allow_from", wrong)
        assert (typed.status, "nothing fits it" in typed.err) == (2, True), wrong


def test_everybody_denied_leaves_the_people(desk: Desk) -> None:
    desk.shell_that_tells("echo done")
    desk.configure(deny_from=["*"], notify={"address": "boss"})
    mine = desk.send("x", sender="user")
    theirs = desk.send("x", sender="planner")
    desk.once()
    assert (ran(desk), held(desk)) == ([mine], {theirs: "who"})
    desk.configure(deny_from=["user"])
    named = desk.send("x", sender="user")
    desk.once()
    assert held(desk) == {theirs: "who", named: "who"}


def test_a_retry_entry_of_before_reads(tmp_path: Path) -> None:
    assert RetryEntry(entry(1).envelope or Envelope("", "", "", 0.0, "", "")).released is False
    assert Workplace(tmp_path).state.held.counts() == {}


@LONG
@pytest.mark.parametrize("kind", thinned(["ours", "plain"]))
def test_at_a_broker(kind: str, tmp_path: Path) -> None:
    running = running_broker if kind == "ours" else running_plain_broker
    with running(tmp_path) as broker:
        person = broker.person("someone")
        desk = AmpDesk(tmp_path, broker, person)
        desk.shell_that_tells("echo done")
        desk.configure(deny_from=[desk.planner["name"]])
        with desk.watching():
            stopped = desk.mail()["id"]
            until(lambda: held(desk) == {stopped: "who"}, "the hold")
        with desk.watching():
            until(lambda: len(desk.log(EventName.WATCH_STARTED)) == 2, "the next watcher")
            if kind == "ours":
                assert broker.call("GET", f"/messages/{stopped}/receipts", headers=person.header) == []
            assert (desk.answers(), ran(desk)) == ([], [])
            assert type_in(desk.workdir, "held", "release", stopped).status == 0
            until(lambda: len(desk.answers()) == 1, "its answer")
            dropped = desk.mail()["id"]
            until(lambda: held(desk) == {dropped: "who"}, "the second hold")
            assert type_in(desk.workdir, "held", "drop", dropped).status == 0
        with desk.watching():
            until(lambda: desk.log(EventName.MESSAGE_SET_ASIDE) or kind == "ours", "what is dropped is done")
        assert ran(desk) == [stopped]
