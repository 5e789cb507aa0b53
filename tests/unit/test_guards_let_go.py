"""What a guard stops is written down, told and taken, each once; what a person orders about it; what he raises."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.disk import SystemCalls
from agent_mailer.errors import UsageFault
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.held import Guard, HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb, Raised
from agent_mailer.state.records import GUARDS, Pause, PauseReason, RetryEntry
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch.guards import holding
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.guards.holding import HeldMail, Stop, carry_out, question_of
from agent_mailer.watch.guards.raising import HOURLY, LARGEST, Limit, limit_of, until_tomorrow
from agent_mailer.watch.guards.rounds import GuardPolicy
from agent_mailer.watch.requests import apply
from agent_mailer.watch.rules import WatchPolicy

NOON = datetime(2036, 6, 10, 12).astimezone().timestamp()


scene = scene_at(lambda: FakeClock(NOON), told=True)


def hold(scene: Scene, *stops: Stop) -> int:
    return scene.run(scene.room.held.hold(stops))


def round_of(envelope: Envelope, about: str = "pair\0a") -> Stop:
    return Stop(envelope, Guard.PAIR, "too often", about)


def known(scene: Scene) -> dict[str, HeldEntry]:
    return {entry.message_id: entry for entry in scene.state.held.all()}


def notices(scene: Scene) -> list[str]:
    return [*scene.state.notices.told.turns]


# Held.


def test_what_is_held_is_written_down_told_and_taken_once(scene: Scene) -> None:
    one = scene.mail()
    stop = Stop(one, Guard.WHO, "deny_from has user", "who\0user")
    assert hold(scene, stop) == 1
    assert known(scene) == {one.id: HeldEntry(one.id, NOON, Guard.WHO, stop.why, stop.question, one)}
    assert (scene.names("new"), scene.names("cur")) == (0, 1)
    [said] = scene.told(EventName.MESSAGE_HELD)
    assert {key: said[key] for key in ("message_id", "thread", "sender", "guard", "why")} == {
        "message_id": one.id,
        "thread": one.thread,
        "sender": "user",
        "guard": "who",
        "why": "deny_from has user",
    }
    assert len(notices(scene)) == 1
    # Another of his is held, and nobody is asked about him again.
    two = scene.mail(body="two")
    assert hold(scene, Stop(two, Guard.WHO, "deny_from has user", "who\0user")) == 1
    assert [said["message_id"] for said in scene.told(EventName.MESSAGE_HELD)] == [one.id, two.id]
    assert len(notices(scene)) == 1
    assert scene.desk.inbox() == [], "its sender hears nothing"
    assert [*(scene.desk.root / "agents/coder/receipts").iterdir()] == [], "nor that it was taken"


def test_what_is_ours_already_is_held_and_nothing_is_taken(scene: Scene) -> None:
    one = scene.mail()
    assert hold(scene, msgspec.structs.replace(round_of(one), ours=True)) == 0
    assert (set(known(scene)), scene.names("new")) == ({one.id}, 1)


def test_who_goes_round_is_asked_about_once_while_something_of_it_waits(scene: Scene) -> None:
    first, between, second, third = (scene.mail(body=body) for body in ("one", "between", "two", "three"))
    hold(scene, round_of(first))
    # Another watcher knows it from what is written down, whether strangers' mail waits, too, or not.
    room = scene.room
    scene.run(HeldMail(room.mailbox, scene.state, room.notices, room.stuck, room.clock).hold([round_of(between)]))
    hold(scene, round_of(second), Stop(third, Guard.WHO, "who", "who\0user"))
    asked = {name: entry.question for name, entry in known(scene).items()}
    assert asked == dict.fromkeys((first.id, between.id, second.id), f"pair\0a\0{first.id}") | {third.id: "who\0user"}
    later = HeldMail(room.mailbox, scene.state, room.notices, room.stuck, room.clock)
    fourth, other = scene.mail(body="four"), scene.mail(body="five")
    scene.run(later.hold([round_of(fourth), round_of(other, "pair\0b")]))
    assert known(scene)[fourth.id].question == f"pair\0a\0{first.id}"
    assert known(scene)[other.id].question == f"pair\0b\0{other.id}"
    carry_out(scene.state, Order(OrderVerb.RELEASE, (first.id, between.id, second.id, fourth.id)))
    again = scene.mail(body="six")
    scene.run(later.hold([round_of(again)]))
    assert known(scene)[again.id].question == f"pair\0a\0{again.id}"


def test_the_operator_is_to_be_told_before_the_mailbox_hands_it_over(scene: Scene) -> None:
    """What is in `cur` is listed no more: whoever is killed after that comes back to nothing."""
    one, moved = scene.mail(), list[int]()

    class Watched(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            moved.append(len(notices(scene)))
            super().rename_noreplace(source, target)

    scene.state.folder.disk.system = Watched()
    hold(scene, round_of(one))
    assert (moved, scene.names("cur")) == ([1], 1)


def test_what_an_earlier_watcher_did_not_come_to_is_told_and_taken(scene: Scene) -> None:
    one = scene.mail()
    entry = HeldEntry(one.id, NOON - 5, Guard.PAIR, "too often", "pair\0a\0x", one)
    scene.state.held.add([entry])
    assert hold(scene, Stop(one, Guard.WHO, "", "")) == 1
    assert known(scene) == {one.id: entry}
    assert len(notices(scene)) == 1
    assert scene.names("new") == 0
    assert scene.told(EventName.MESSAGE_HELD) == []


@pytest.mark.parametrize("same", [True, False])
def test_what_is_listed_under_the_id_of_what_is_held_is_the_same_or_another(scene: Scene, same: bool) -> None:
    one = scene.mail()
    hold(scene, round_of(one))
    [kept] = (scene.box / "cur").iterdir()
    body = kept.read_bytes()
    (scene.box / "new" / kept.name).write_bytes(body if same else body.replace(b"please", b"perish"))
    assert hold(scene, Stop(one, Guard.WHO, "", "")) == 1
    assert scene.names("new") == 0
    assert [entry.kind for entry in scene.state.stuck.all()] == ([] if same else [StuckKind.USED_ID])
    assert set(known(scene)) == {one.id}


def test_what_was_never_ours_nobody_has_to_decide_about(scene: Scene) -> None:
    one = scene.mail()
    (scene.box / "new" / one.locator).unlink()
    assert hold(scene, round_of(one)) == 0
    assert known(scene) == {}
    assert json.loads((scene.desk.state / "held.jsonl").read_text().splitlines()[-1])["ended"] == "dropped"
    two = scene.mail(body="two")
    (scene.box / "new" / two.locator).write_text("no header any more")
    assert hold(scene, round_of(two)) == 0
    assert [entry.kind for entry in scene.state.stuck.all()] == [StuckKind.UNREADABLE]
    # Another of its name was claimed before.
    three = scene.mail(body="three")
    (scene.box / "cur" / three.locator).write_bytes((scene.box / "new" / three.locator).read_bytes() + b"more\n")
    assert hold(scene, round_of(three)) == 0
    assert [entry.kind for entry in scene.state.stuck.all()] == [StuckKind.UNREADABLE, StuckKind.USED_ID]
    assert known(scene) == {}


def test_what_is_not_handed_over_just_now_stays_held_and_is_told_once(scene: Scene) -> None:
    one = scene.mail()
    current = scene.box / "cur"
    current.rmdir()
    current.write_text("somebody's file")
    held = scene.room.held
    for _ in range(2):
        assert asyncio.run(held.hold([round_of(one)])) == 0
    assert set(known(scene)) == {one.id}
    [trouble] = scene.told(EventName.MAILBOX_TROUBLE)
    assert "cur" in trouble["why"]
    assert trouble["fix"].startswith("ls -ld ")


# Let go.


def held_already(scene: Scene, *names: str, sender: str = "mallory", guard: Guard = Guard.WHO) -> list[Envelope]:
    found = [Envelope(name, f"t-{name}", sender, NOON, name, f"{name}.md") for name in names]
    scene.state.held.add(HeldEntry(one.id, NOON, guard, "why", "q", one) for one in found)
    return found


def order(scene: Scene, verb: OrderVerb, *targets: str, until: float = 0.0) -> tuple[list[tuple[bool, str]], int]:
    return carry_out(scene.state, Order(verb, targets, until))


def test_what_is_released_will_be_worked_on_whatever_was_known_of_it(scene: Scene) -> None:
    one, two, _ = held_already(scene, "one", "two", "done")
    scene.state.retries.put(RetryEntry(two, 3, 2, NOON + 60, listed_only=True, revision=7))
    scene.state.processed.add("done")
    told, left = order(scene, OrderVerb.RELEASE, "one", "two", "done", "none")
    assert sorted(told[:3]) == [(True, f"{name}: will be worked on") for name in ("done", "one", "two")]
    assert (told[3:], left) == ([(False, "none: it is not held")], 0)
    assert scene.state.retries.get("one") == RetryEntry(one, released=True)
    known_before = scene.state.retries.get("two")
    assert known_before is not None
    assert (known_before.attempts, known_before.released) == (3, True)
    assert (known_before.listed_only, known_before.not_before) == (False, 0.0)
    assert scene.state.retries.get("done") is None
    assert scene.state.held.waiting == {}
    said = [(one["message_id"], one["guard"], one["how"]) for one in scene.told(EventName.MESSAGE_RELEASED)]
    assert sorted(said) == [(name, "who", "released") for name in ("done", "one", "two")]
    last = (scene.desk.state / "held.jsonl").read_text().splitlines()[-3:]
    assert {json.loads(line)["ended"] for line in last} == {"released"}
    assert order(scene, OrderVerb.RELEASE, "one") == ([(False, "one: it is not held")], 0)


@pytest.mark.parametrize(("verb", "refused"), [(OrderVerb.RELEASE, "retries.json"), (OrderVerb.DROP, "processed.txt")])
def test_what_the_disk_does_not_let_us_release_or_drop_stays_held(scene: Scene, verb: OrderVerb, refused: str) -> None:
    """It is in `cur`, and listed by nobody: held no more and pending nowhere, it would be lost."""

    held_already(scene, "one")
    scene.state.folder.disk.system = Refusing(refused)
    with pytest.raises(OSError, match="No space"):
        order(scene, verb, "one")
    assert set(scene.desk.place().state.held.waiting) == {"one"}


def test_what_is_dropped_counts_as_settled(scene: Scene) -> None:
    one, _ = held_already(scene, "one", "two", guard=Guard.PAIR)
    scene.state.retries.put(RetryEntry(one, 1, 1, revision=1))
    assert order(scene, OrderVerb.DROP, "one", "none") == (
        [(True, "one: dropped"), (False, "none: it is not held")],
        0,
    )
    assert "one" in scene.state.processed
    assert scene.state.retries.get("one") is None
    assert scene.state.held.waiting == {"two": Guard.PAIR}
    [said] = scene.told(EventName.MESSAGE_RELEASED)
    assert (said["message_id"], said["guard"], said["how"]) == ("one", "pair", "dropped")
    assert json.loads((scene.desk.state / "held.jsonl").read_text().splitlines()[-1])["ended"] == "dropped"


def test_of_very_many_some_are_let_go_at_once_and_the_rest_is_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holding.MOST_AT_ONCE == 1000
    monkeypatch.setattr(holding, "MOST_AT_ONCE", 2)
    names = ["a", "b", "c", "d", "e"]
    held_already(scene, *names)
    told, left = order(scene, OrderVerb.DROP, *names)
    assert (len(told), left) == (2, 3)
    assert list(scene.state.held.waiting) == ["c", "d", "e"]
    more = "agent-mailer held release --from mallory"
    assert order(scene, OrderVerb.ALLOW, "mallory") == (
        [(True, f"mallory: allowed; 2 held messages will be worked on, 1 more after: {more}")],
        0,
    )
    assert list(scene.state.held.waiting) == ["e"]
    held_already(scene, *"vwx", sender="of many words")
    [(_, told_of)], _ = order(scene, OrderVerb.ALLOW, "of many words")
    assert "1 more after: agent-mailer held release --from sender-" in told_of


def test_whom_a_person_allows_all_his_mail_is_released_and_nobody_elses(scene: Scene) -> None:
    held_already(scene, "one", "two")
    held_already(scene, "other", sender="ann")
    held_already(scene, "round", guard=Guard.PAIR)
    assert order(scene, OrderVerb.ALLOW, "mallory", "new") == (
        [
            (True, "mallory: allowed; 2 held messages will be worked on"),
            (True, "new: allowed; 0 held messages will be worked on"),
        ],
        0,
    )
    assert set(scene.state.held.waiting) == {"other", "round"}
    assert list(scene.state.lifts.standing.allowed) == ["mallory", "new"]
    assert order(scene, OrderVerb.DISALLOW, "mallory", "eve") == (
        [
            (True, "mallory: allow_from and deny_from decide again"),
            (False, "eve: nobody had allowed it"),
        ],
        0,
    )
    assert list(scene.state.lifts.standing.allowed) == ["new"]


def test_an_order_is_carried_out_once_however_often_a_request_names_it(scene: Scene) -> None:
    """An agent can read the request, and repeat it when the person has thought better of it."""
    request = Request(Verb.ORDER, (scene.state.lifts.give(Order(OrderVerb.ALLOW, ("mallory",))),))
    assert apply(scene.state, request).ok
    assert "mallory" in scene.state.lifts.standing.allowed
    order(scene, OrderVerb.DISALLOW, "mallory")
    assert not apply(scene.state, request).ok
    assert scene.state.lifts.standing.allowed == ()


def test_an_order_that_the_disk_refuses_is_given_still(scene: Scene) -> None:
    """The request is applied once more, and is worth nothing without it."""
    held_already(scene, "one")
    given = Order(OrderVerb.ALLOW, ("mallory",))
    request = Request(Verb.ORDER, (scene.state.lifts.give(given),))
    scene.state.folder.disk.system = Refusing("standing.json")
    with pytest.raises(OSError, match="No space"):
        apply(scene.state, request)
    state = scene.desk.place().state
    assert state.lifts.order(request.targets[0]) == given
    assert set(state.held.waiting) == {"one"}, "let go it is allowed, too: what comes next is not held"
    scene.state.folder.disk.system = SystemCalls()
    assert apply(scene.state, request).ok
    assert (scene.state.lifts.standing.allowed, scene.state.held.waiting) == (("mallory",), {})


def test_what_is_raised_counts_until_the_day_ends_and_ends_the_pause_of_a_guard(scene: Scene) -> None:
    held_already(scene, "one", "two", guard=Guard.BUDGET)
    held_already(scene, "three")
    disk, paused = scene.place.disk, Pause(PauseReason.BUDGET, NOON - 5, NOON + 60)
    flushed = [disk.syncs]
    for pause in (None, None, paused):
        if pause is not None:
            scene.state.pause.write(pause)
        flushed.append(disk.syncs)
        order(scene, OrderVerb.RAISE, "dollars_per_day=2", until=NOON + 90)
        flushed.append(disk.syncs)
    assert flushed[6] - flushed[5] > flushed[4] - flushed[3], "no power failure brings the pause back"
    scene.state.pause.write(paused)
    more = "2 held for a budget: agent-mailer held list --guard budget"
    assert order(scene, OrderVerb.RAISE, "dollars_per_day=2.5", "turns_per_hour=70", until=NOON + 90) == (
        [
            (True, f"dollars_per_day is 2.5 until the day ends; {more}"),
            (True, f"turns_per_hour is 70 until the day ends; {more}"),
        ],
        0,
    )
    assert scene.state.lifts.standing.raised == {
        "dollars_per_day": Raised(2.5, NOON + 90),
        "turns_per_hour": Raised(70.0, NOON + 90),
    }
    assert scene.state.lifts.raised("turns_per_hour") == 70
    scene.state.lifts.set_aside({"turns_per_hour": Raised(70.0, NOON + 26 * 3600 + 1)})
    assert scene.state.lifts.raised("turns_per_hour") is None, "no day ends so late: the clock was set back"
    assert scene.state.pause.read() is None
    order(scene, OrderVerb.DROP, "one", "two")
    told = [(True, "turns_per_hour is 3 until the day ends")]
    for reason in set(PauseReason) - GUARDS:
        for until in (None, NOON + 60):
            scene.state.pause.write(stays := Pause(reason, NOON - 5, until))
            assert order(scene, OrderVerb.RAISE, "turns_per_hour=3", until=NOON + 90) == (told, 0)
            assert scene.state.pause.read() == stays, "no guard has begun it"


def test_a_question_is_named_by_its_guard_and_what_it_is_about() -> None:
    assert question_of(Guard.WHO, "ann") == "who\0ann"
    assert question_of(Guard.PAIR, "ann", "ben") == "pair\0ann\0ben"


# Raised.


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("turns_per_hour", "guards.turns_per_hour"),
        ("guards.turns_per_hour", "guards.turns_per_hour"),
        ("dollars_per_day", "limits.dollars_per_day"),
        ("limits.dollars_per_day", "limits.dollars_per_day"),
    ],
)
def test_a_limit_is_named_with_or_without_its_table(typed: str, key: str) -> None:
    name = key.rpartition(".")[2]
    assert limit_of(typed, "70.5") == Limit(name, key, 70.5)
    assert limit_of(typed, "0.5").value == 0.5
    assert limit_of(typed, "1e12") == Limit(name, key, LARGEST)
    assert limit_of(typed, "70").for_good == f"agent-mailer config set {key} 70"


@pytest.mark.parametrize(
    "typed",
    ["dollars", "guards.dollars_per_day", "limits.turns_per_hour", "x.turns_per_hour", "a.limits.dollars_per_day"],
)
def test_what_is_no_limit_is_refused_with_those_there_are(typed: str) -> None:
    with pytest.raises(UsageFault) as fault:
        limit_of(typed, "3")
    assert (fault.value.code, fault.value.message) == ("unknown_limit", f"there is no limit '{typed}'")
    assert fault.value.fix == f"one of: {', '.join((HOURLY, *BudgetPolicy().names()))}"


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "nan", "inf", "1000000000000.5"])
def test_what_is_no_value_for_a_limit_is_refused_with_its_bounds(value: str) -> None:
    with pytest.raises(UsageFault) as fault:
        limit_of("turns_per_hour", value)
    assert (fault.value.code, fault.value.message) == ("bad_value", f"'{value}' is no limit")
    assert fault.value.fix == "give a number above 0, up to 1000000000000"


def test_a_limit_that_is_set_is_raised_until_the_local_day_ends_and_no_other(tmp_path: Path) -> None:
    policy = WatchPolicy(tmp_path, guards=GuardPolicy(turns_per_hour=5), budget=BudgetPolicy(dollars_per_day=3.0))
    midnight = datetime(2036, 6, 11).astimezone().timestamp()
    for typed, target in (("turns_per_hour", "turns_per_hour=70.0"), ("dollars_per_day", "dollars_per_day=70.0")):
        found = until_tomorrow(policy, limit_of(typed, "70"), NOON)
        assert found == Order(OrderVerb.RAISE, (target,), midnight)
    bare = msgspec.structs.replace(policy, guards=GuardPolicy(turns_per_hour=0), budget=BudgetPolicy())
    for typed, key in (("turns_per_hour", "guards.turns_per_hour"), ("dollars_per_day", "limits.dollars_per_day")):
        with pytest.raises(UsageFault) as fault:
            until_tomorrow(bare, limit_of(typed, "70"), NOON)
        assert (fault.value.code, fault.value.message, fault.value.fix) == (
            "not_set",
            f"{key} is not set: nothing keeps turns from going beyond it",
            f"agent-mailer config set {key} 70",
        )
