"""One step of the watcher's loop over a real folder and a real state; what it begins is ended before it has run."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.unit.test_watch_settling import DONE, FAILED, apply, changed, turn
from tests.watch_room import Scene, scene_at

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.amq import seen
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Envelope, Listing, MailboxUnavailable, Outgoing, Priority
from agent_mailer.process.handle import identify
from agent_mailer.state.pauses import AccountPause
from agent_mailer.state.presence import Presence
from agent_mailer.state.records import DeadLetter, ItemState, Pause, PauseReason, RetryEntry, SettledItem, Sitter
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch import backlog
from agent_mailer.watch.guards.alarm import AlarmPolicy
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.guards.calm import CalmPolicy
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.offering import Offers
from agent_mailer.watch.room import Stage, Work
from agent_mailer.watch.watcher import End, Watcher

NOW = 2_100_000_000.0


scene = scene_at(lambda: FakeClock(NOW), told=True)


def step(scene: Scene, watcher: Watcher) -> tuple[float | None, list[set[str]]]:
    """When it looks again, and the messages of each turn that it has begun."""

    async def stepped() -> tuple[float | None, list[set[str]]]:
        before = set(scene.room.work)
        wait = await watcher._start_what_may()
        begun = [work for name, work in scene.room.work.items() if name not in before]
        for work in begun:
            assert work.task is not None
            work.task.cancel()
        await asyncio.gather(*(work.task for work in begun if work.task is not None), return_exceptions=True)
        return wait, [set(work.message_ids) for work in begun]

    return scene.run(stepped())


def loop(scene: Scene, watcher: Watcher) -> End:
    return scene.run(asyncio.wait_for(watcher._loop(), 20))


def in_work(scene: Scene, stage: Stage, *envelopes: Envelope) -> None:
    scene.room.work["t"] = Work(envelopes[0], stage, {one.id for one in envelopes})


# How it ends.


def test_who_leaves_once_what_waits_for_a_mailbox_has_not_done_all(scene: Scene) -> None:
    watcher = Watcher(scene.room, once=True)
    in_work(scene, Stage.STUCK, scene.mail())
    assert (loop(scene, watcher), watcher.failed) == (End.DRAINED, True)


def test_who_is_stopped_over_a_look_has_not_drained_his_mailbox(scene: Scene) -> None:
    watcher = Watcher(scene.room, once=True)
    scene.room.state.requests.submit(Request(Verb.PAUSE))

    async def stopped() -> End:
        looks = asyncio.create_task(watcher._loop())
        await asyncio.sleep(0)
        watcher.stop(0.0)
        return await asyncio.wait_for(looks, 20)

    assert scene.run(stopped()) is End.STOPPED


def test_a_fault_of_ours_in_a_turn_ends_the_watcher(scene: Scene) -> None:
    """The next one begins from the files."""
    watcher = Watcher(scene.room, once=True)
    fault = RuntimeError("ours")

    async def breaks() -> None:
        raise fault

    async def spawned() -> End:
        watcher._spawn("t", Work(one, Stage.RUNNING, {one.id}), breaks())
        return await watcher._loop()

    one = scene.mail()
    assert scene.run(asyncio.wait_for(spawned(), 20)) is End.HANDED_OVER
    assert (watcher._fault, scene.room.work) == (fault, {})


def test_the_end_of_a_turn_wakes_the_loop(scene: Scene) -> None:
    watcher = Watcher(scene.room)

    async def ends() -> None:
        pass

    async def spawned() -> None:
        one = Envelope("m", "t", "user", NOW, "", "")
        watcher._spawn("t", Work(one, Stage.SETTLING, {one.id}), ends())
        await asyncio.wait_for(watcher._wake.wait(), 20)

    asyncio.run(spawned())
    assert scene.room.work == {}


def test_a_stop_that_leaves_turns_open_is_known_to_the_next_watcher(scene: Scene) -> None:
    watcher = Watcher(scene.room)
    envelope = scene.mail()

    async def stopped() -> End:
        watcher._spawn("t", Work(envelope, Stage.RUNNING, {envelope.id}), asyncio.Event().wait())  # type: ignore[arg-type]
        watcher.stop(-1e6)
        return await asyncio.wait_for(watcher._run(), 20)

    assert asyncio.run(stopped()) is End.STOPPED
    assert scene.state.turns.stop_was_cut_off()


def test_a_fault_is_told_and_raised_and_nobody_hears_that_the_watcher_was_stopped(scene: Scene) -> None:
    watcher, left = Watcher(scene.room), list[str]()
    scene.room.leaves = lambda: left.append("left")
    fault = RuntimeError("ours")
    watcher._fail(fault)
    watcher.stop(0.0)

    async def ended() -> End:
        return await asyncio.wait_for(watcher._run(), 20)

    with pytest.raises(RuntimeError) as raised:
        asyncio.run(ended())
    assert raised.value is fault
    assert [one["why"] for one in scene.told(EventName.WATCH_FAULT)] == ["RuntimeError: ours"]
    assert left == []


@pytest.mark.parametrize("hands_over", [False, True])
def test_a_stop_that_was_cut_off_is_over_with_a_whole_one_and_not_with_a_handover(
    scene: Scene, hands_over: bool
) -> None:
    watcher = Watcher(scene.room)

    def leave() -> None:
        scene.state.turns.stop_begins()
        watcher.hand_over() if hands_over else watcher.stop(0.0)

    async def ended() -> End:
        asyncio.get_running_loop().call_later(0.05, leave)
        return await asyncio.wait_for(watcher._run(), 20)

    asyncio.run(ended())
    assert scene.state.turns.stop_was_cut_off() is hands_over


def test_who_runs_once_takes_nothing_up_again_that_was_interrupted(scene: Scene) -> None:
    for once in (False, True):
        watcher = Watcher(scene.room, once=once)
        watcher._look_for_open = False
        watcher._interrupted(MailboxUnavailable("gone", "gone"))
        assert (watcher._look_for_open, watcher.failed) == (not once, True)


def test_an_earlier_watchers_turn_that_failed_is_one_that_failed(scene: Scene) -> None:
    record = turn(scene, None)
    watcher = Watcher(scene.room)

    async def taken_up() -> None:
        await watcher._take_up_open()
        await asyncio.gather(*(work.task for work in scene.room.work.values() if work.task is not None))

    scene.run(taken_up())
    assert scene.state.turns.is_settled(record.turn_id)
    assert watcher.failed


# What it takes up.


def test_what_is_only_to_be_settled_holds_no_place(scene: Scene) -> None:
    turn(scene, DONE)
    watcher, places = Watcher(scene.room), list[int]()

    async def taken_up() -> None:
        await watcher._take_up_open()
        places.append(watcher._at_work())
        await asyncio.gather(*(work.task for work in scene.room.work.values() if work.task is not None))

    scene.run(taken_up())
    assert places == [0]


def test_all_open_turns_are_taken_up_at_once(scene: Scene) -> None:
    for number in range(3):
        turn(scene, None, envelope=scene.mail(body=str(number)), moment=NOW + number)
    watcher = Watcher(scene.room)

    async def taken_up() -> int:
        await watcher._take_up_open()
        found = list(scene.room.work.values())
        for work in found:
            assert work.task is not None
            work.task.cancel()
        await asyncio.gather(*(work.task for work in found if work.task), return_exceptions=True)
        return len(found)

    assert scene.run(taken_up()) == 3


def test_what_a_session_has_in_work_holds_no_place_for_the_next_watcher_either(scene: Scene) -> None:
    us = identify(os.getpid())
    assert us is not None
    turn(scene, None, live=Sitter("claude-1", us))
    watcher, places = Watcher(scene.room), list[int]()

    async def taken_up() -> None:
        await watcher._take_up_open()
        places.extend([len(scene.room.work), watcher._at_work()])
        for work in scene.room.work.values():
            assert work.task is not None
            work.task.cancel()
        await asyncio.gather(*(work.task for work in scene.room.work.values() if work.task), return_exceptions=True)

    scene.run(taken_up())
    assert places == [1, 0]


@pytest.mark.parametrize(
    ("stages", "waits"),
    [
        ((Stage.STUCK,), False),
        ((Stage.STUCK, Stage.RUNNING), True),
        ((Stage.STUCK, Stage.SETTLING), True),
        ((Stage.RUNNING,), True),
        ((), False),
    ],
)
def test_who_leaves_waits_for_whatever_is_not_stuck(scene: Scene, stages: tuple[Stage, ...], waits: bool) -> None:
    for number, stage in enumerate(stages):
        one = Envelope(f"m{number}", "t", "user", NOW, "", "")
        scene.room.work[f"t{number}"] = Work(one, stage, {one.id})
    scene.room.stop_at = scene.room.clock.monotonic()
    assert (scene.room.stop_patience() > 0.0) is waits


def test_what_a_person_has_sent_again_leaves_in_the_same_look(scene: Scene) -> None:
    item = SettledItem(Outgoing("o-1", "user", "t", "payload"), ItemState.REFUSED, "no such agent")
    apply(scene, turn(scene, changed(DONE, items=(item,))))
    watcher = Watcher(scene.room)
    assert step(scene, watcher)[1] == []
    scene.state.requests.submit(Request(Verb.STUCK_RETRY))
    watcher._ear.listen_afar()
    [begun] = step(scene, watcher)[1]
    assert begun


def test_each_message_is_tried_but_once_where_the_watcher_runs_once(scene: Scene) -> None:
    one, watcher = scene.mail(), Watcher(scene.room, once=True)
    assert step(scene, watcher)[1] == [{one.id}]
    assert step(scene, watcher)[1] == []


def test_of_a_shared_turn_each_is_tried_but_once_too(scene: Scene) -> None:
    scene.room.policy = msgspec.structs.replace(scene.policy, batch_low=True)
    ids = {scene.mail(body=body, thread="th", priority=Priority.LOW).id for body in ("one", "two", "three")}
    watcher = Watcher(scene.room, once=True)
    assert step(scene, watcher)[1] == [ids]
    assert step(scene, watcher)[1] == []


def test_a_look_that_succeeds_ends_the_trouble_and_the_next_begins_from_the_first_wait(scene: Scene) -> None:
    watcher = Watcher(scene.room)
    for _ in range(9):
        watcher._in_trouble(MailboxUnavailable("gone", "gone"))
    step(scene, watcher)
    assert (scene.room.troubles.lasting, watcher._tries) == ({}, 0)
    assert len(scene.told(EventName.MAILBOX_BACK)) == 1


def test_only_who_was_paused_waits_a_moment_of_his_own_before_he_starts(scene: Scene) -> None:
    """Others on the account start again, too."""
    folder = scene.state.folder
    scene.state.pause.account = AccountPause(folder.path, "a", folder.disk, folder.clamp, folder.damaged)
    scene.room.jitter = lambda: 0.5  # type: ignore[method-assign]
    watcher = Watcher(scene.room)

    async def looked_at() -> float:
        watcher._pause()
        return watcher._hold_remaining()

    assert scene.run(looked_at()) == 0.0
    scene.state.pause.write(Pause(PauseReason.UNAVAILABLE, NOW, NOW + 600))
    assert scene.run(looked_at()) == 0.0
    scene.state.pause.clear()
    assert scene.run(looked_at()) > 1.0


@pytest.mark.parametrize("paused", [False, True])
def test_what_tries_whether_a_pause_is_over_is_one_message(scene: Scene, paused: bool) -> None:
    scene.room.policy = msgspec.structs.replace(scene.policy, batch_low=True)
    ids = {scene.mail(body=body, thread="th", priority=Priority.LOW).id for body in ("one", "two")}
    if paused:
        scene.state.pause.write(Pause(PauseReason.LIMITED, NOW - 60, NOW - 1))
    [begun] = step(scene, Watcher(scene.room))[1]
    assert len(begun) == (1 if paused else 2)
    assert begun <= ids


def test_while_it_is_paused_it_looks_again_when_the_pause_ends(scene: Scene) -> None:
    scene.mail()
    scene.state.pause.write(Pause(PauseReason.LIMITED, NOW - 60, NOW + 50))
    assert step(scene, Watcher(scene.room)) == (50.0, [])


def test_a_probe_that_waits_for_quiet_hours_is_made_when_they_end(scene: Scene) -> None:
    """Nobody else would wake it then."""
    scene.mail()
    local = time.localtime(NOW)
    minute = local.tm_hour * 60 + local.tm_min
    calm = CalmPolicy(quiet=(((minute - 1) % 1440, (minute + 2) % 1440),))
    guards = msgspec.structs.replace(scene.policy.guards, calm=calm)
    scene.room.policy = msgspec.structs.replace(scene.policy, guards=guards)
    scene.state.pause.write(Pause(PauseReason.LIMITED, NOW - 60, NOW - 1))
    assert step(scene, Watcher(scene.room)) == (120.0 - local.tm_sec, [])


@pytest.mark.parametrize(("retry", "wait"), [(None, 40.0), (10.0, 10.0), (90.0, 40.0)])
def test_it_looks_again_for_whatever_is_due_first(scene: Scene, retry: float | None, wait: float) -> None:
    """Mail that lies too long, though what is to be run again comes later, or nothing is."""
    busy, waits = scene.mail(thread="busy"), scene.mail(thread="waits")
    alarm = AlarmPolicy(mail_waits=NOW + 40.0 - waits.created)
    guards = msgspec.structs.replace(scene.policy.guards, alarm=alarm)
    scene.room.policy = msgspec.structs.replace(scene.policy, guards=guards, max_parallel_turns=1)
    in_work(scene, Stage.RUNNING, busy)
    watcher = Watcher(scene.room)
    if retry is not None:
        again = scene.mail(thread="again")
        scene.run(scene.room.mailbox.claim(again))
        scene.state.retries.put(RetryEntry(again, 1, 1, NOW + retry, revision=1))
    found, begun = step(scene, watcher)
    assert begun == []
    assert found is not None
    assert abs(found - wait) < 0.001


@pytest.mark.parametrize("once", [False, True])
def test_behind_what_a_guard_has_stopped_there_may_be_more(scene: Scene, once: bool) -> None:
    budget = BudgetPolicy(turns_per_sender=1)
    scene.room.policy = msgspec.structs.replace(scene.policy, budget=budget, max_parallel_turns=2)
    first, second = scene.mail(thread="one"), scene.mail(thread="two")
    assert step(scene, Watcher(scene.room, once=once)) == (0.0, [{first.id}])
    assert set(scene.state.held.waiting) == {second.id}


def test_a_session_gets_the_one_message_that_it_asked_for_though_every_place_is_taken(scene: Scene) -> None:
    """What it does takes nothing from the agent's own turns, nor is anything else of its thread handed to it."""
    scene.room.policy = msgspec.structs.replace(scene.policy, live_wait=600.0, batch_low=True, max_parallel_turns=1)
    us = identify(os.getpid())
    assert us is not None
    session, presence = Sitter("claude-1", us), Presence(scene.desk.workdir, scene.place.disk)
    seat = presence.sit(session)
    scene.room.offers = Offers(scene.state, presence, lambda: scene.room.policy, scene.room.work, lambda: None)
    watcher = Watcher(scene.room)
    one, *_ = (scene.mail(body=body, thread="th", priority=Priority.LOW) for body in ("one", "two", "three"))
    assert step(scene, watcher)[1] == [], "it is offered"
    in_work(scene, Stage.RUNNING, scene.mail(thread="other"))
    scene.state.requests.submit(Request(Verb.TAKE, (one.id,), by=session))
    assert step(scene, watcher)[1] == [{one.id}]
    presence.leave(seat)


def test_it_says_that_it_is_paused_and_that_it_is_no_more(scene: Scene) -> None:
    watcher = Watcher(scene.room)

    async def said(pause: Pause | None) -> tuple[str, str]:
        if pause is not None:
            scene.state.pause.write(pause)
        elif (before := scene.state.pause.read()) is not None:
            scene.state.pause.lift(before)
        watcher._pause()
        found = seen(Paths(scene.desk.root, "coder"))
        assert found is not None
        return found.status, found.note

    assert scene.run(said(Pause(PauseReason.BY_HAND, NOW))) == ("paused", "by_hand")
    assert scene.run(said(None)) == ("active", "")


def test_each_look_tells_the_operator_what_needs_him(scene: Scene) -> None:
    one = scene.mail()
    scene.state.stuck.add(StuckKind.NO_WAY_BACK, one.id, one, "no such place")
    step(scene, Watcher(scene.room))
    assert [notice.stuck for notice in scene.state.notices.told.waiting] == [one.id]


# What it finds.


def looked(scene: Scene) -> list[str]:
    return [one.envelope.id for one in scene.run(Watcher(scene.room)._look()).candidates]


def test_what_is_taken_off_the_list_makes_room_for_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LIST_LIMIT", 1)
    scene.room.policy = msgspec.structs.replace(scene.policy, who=WhoPolicy(deny=("planner",), address="coder"))
    scene.mail(sender="planner")
    one = scene.mail(body="more")
    assert looked(scene) == [one.id]


def test_all_messages_of_a_shared_turn_are_in_work(scene: Scene) -> None:
    first, second, third = (scene.mail(body=body) for body in ("one", "two", "three"))
    in_work(scene, Stage.RUNNING, first, second)
    assert looked(scene) == [third.id]


def test_in_the_thread_of_each_turn_that_runs_mail_waits_and_in_others_it_does_not(scene: Scene) -> None:
    scene.room.policy = msgspec.structs.replace(scene.policy, max_parallel_turns=3)
    for number, thread in enumerate(("one", "two", "three")):
        has = scene.mail(thread=thread)
        scene.room.work[f"t{number}"] = Work(has, Stage.RUNNING, {has.id})
    more = [scene.mail(body="more", thread=thread) for thread in ("one", "two", "three", "four")]
    assert looked(scene) == [one.id for one in more], "and what each of them has is in work"
    *_, other = more
    assert step(scene, Watcher(scene.room))[1] == [], "every place is taken"
    scene.room.policy = msgspec.structs.replace(scene.policy, max_parallel_turns=4)
    assert step(scene, Watcher(scene.room))[1] == [{other.id}]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_a_turn_that_ends_while_it_looks_has_its_message_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """It may be the head of its thread, before which none other runs."""
    first, second = scene.mail(body="one", thread="th"), scene.mail(body="two", thread="th")
    in_work(scene, Stage.SETTLING, first)
    if beside:
        other = scene.mail(body="three")
        scene.room.work["u"] = Work(other, Stage.RUNNING, {other.id})
    pending = scene.room.mailbox.pending

    async def answers_late(*args: Any, **more: Any) -> Listing:
        found = await pending(*args, **more)
        scene.room.work.pop("t", None)
        return found

    monkeypatch.setattr(scene.room.mailbox, "pending", answers_late)
    assert looked(scene) == [first.id, second.id]


def test_another_message_under_a_used_id_is_none_to_run(scene: Scene) -> None:
    one = scene.mail()
    letter = DeadLetter(one.id, one.thread, 4, "no luck", "2033-05-18T03:33:20Z", "turn-1", envelope=one)
    apply(scene, turn(scene, changed(FAILED, finished=True, dead=letter), envelope=one))
    [kept] = (scene.box / "cur").iterdir()
    (scene.box / "new" / kept.name).write_bytes(kept.read_bytes().replace(b"please", b"perish"))
    assert looked(scene) == []
    assert [entry.kind for entry in scene.state.stuck.all()] == [StuckKind.USED_ID]


def test_what_a_person_wants_read_again_is_asked_for_before_it_looks(scene: Scene) -> None:
    state = scene.state
    (scene.box / "new/cut.md").write_text("no header at all")
    scene.do(*scene.look().actions)
    [entry] = state.stuck.all()
    state.stuck.want(entry)
    looked(scene)
    assert list(state.stuck.wanted) == []


def test_a_mailbox_is_not_back_while_a_claim_may_tell_otherwise(scene: Scene) -> None:
    watcher = Watcher(scene.room)
    watcher._in_trouble(MailboxUnavailable("gone", "gone"))
    in_work(scene, Stage.CLAIMING, scene.mail())
    watcher._out_of_trouble()
    assert scene.told(EventName.MAILBOX_BACK) == []
    assert scene.room.troubles.lasting
    scene.room.work.clear()
    watcher._out_of_trouble()
    assert len(scene.told(EventName.MAILBOX_BACK)) == 1
