"""What the watcher's loop and its room do where two things come together: trouble and a request, a stop and a claim."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from tests.desk import Desk, outcomes
from tests.inotify import all_are_closed
from tests.integration.test_engine_turn import Ahead
from tests.refusing import Died, On, Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.disk import SystemCalls
from agent_mailer.errors import ConfigFault
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Contact, MailboxRefused, MailboxUnavailable, Message, Route
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome, StopReason
from agent_mailer.process.handle import ProcessIdentity, identify
from agent_mailer.process.holder import Supervised
from agent_mailer.state.notices import TroubleWith
from agent_mailer.state.records import Batched, Phase, RetryEntry, Settlement, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch import housekeeping
from agent_mailer.watch.following import AtOnce, Follower
from agent_mailer.watch.recovery import recover
from agent_mailer.watch.room import Room, Stage, Work
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.start import _with_senders
from agent_mailer.watch.trouble import OWN, Troubles
from agent_mailer.watch.turn import give_back
from agent_mailer.watch.watcher import Watcher

NOW = 2_100_000_000.0
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/nowhere")


scene = scene_at(lambda: Ahead(NOW))


def running(scene: Scene, process: ProcessIdentity | None = None) -> TurnRecord:
    envelope = scene.mail()
    scene.run(scene.room.mailbox.claim(envelope))
    record = TurnRecord(new_turn_id(NOW), envelope, Phase.RUNNING, "command", NOW, process=process, started_at=NOW)
    scene.state.turns.create(record)
    return record


def test_while_nothing_is_started_for_trouble_a_person_is_heard(scene: Scene) -> None:
    watcher = Watcher(scene.room)
    watcher._hold_off(600.0)
    scene.state.requests.submit(Request(Verb.PAUSE))
    waits = scene.run(watcher._start_what_may())
    assert waits is not None
    assert waits > 500
    assert scene.state.pause.read() is not None
    assert scene.state.requests.waiting() == []
    assert watcher._look_for_open, "what trouble has left open is still looked for"


def test_one_that_failed_is_not_forgotten_over_the_next(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first = desk.send(thread="one")
    desk.send(thread="two")
    desk.shell(f'cat >/dev/null; [ "$AGENT_MAILER_MESSAGE_ID" != {first} ]')
    assert outcomes(desk.once()) == ["failed", "done"]
    assert desk.failed


def test_after_trouble_open_turns_are_looked_for_once_more(scene: Scene) -> None:
    watcher = Watcher(scene.room)

    async def away() -> None:
        scene.box.rename(scene.box.with_name("away"))
        await watcher._start_what_may()
        scene.box.with_name("away").rename(scene.box)

    scene.run(away())
    assert watcher._look_for_open


@pytest.mark.parametrize(("stage", "marked"), [(Stage.CLAIMING, True), (Stage.RUNNING, True), (None, False)])
def test_a_turn_that_is_just_being_claimed_is_stopped_with_its_watcher(
    scene: Scene, stage: Stage | None, marked: bool
) -> None:
    if stage is not None:
        envelope = scene.mail()
        scene.room.work["t"] = Work(envelope, stage, {envelope.id})
    scene.room.request_stop(1.0)
    assert scene.state.turns.stop_was_cut_off() is marked


def test_a_source_that_fails_wakes_the_loop_which_looks_for_itself(scene: Scene) -> None:
    room: Room = scene.room
    room.policy = msgspec.structs.replace(scene.policy, trouble_first=0.0)
    fails: list[Exception] = [FULL, MailboxUnavailable("gone", "gone")]
    woken: asyncio.Queue[str] = asyncio.Queue()
    failed: list[BaseException] = []

    async def wait() -> None:
        if not fails:
            await asyncio.Event().wait()
        raise fails.pop(0)

    async def pumped() -> None:
        told = asyncio.create_task(room.pump(wait, lambda: False, lambda: woken.put_nowait("look"), failed.append))
        async with asyncio.timeout(20):
            assert [await woken.get(), await woken.get()] == ["look", "look"]
        told.cancel()

    asyncio.run(pumped())
    assert failed == []


def test_trouble_of_another_kind_is_told_and_what_the_disk_refused_of_it_is_shown_later(scene: Scene) -> None:
    troubles, seen = Troubles(scene.state, scene.place.clock), list[str]()
    troubles.listen(lambda: seen.append("changed"))
    troubles.begin(OWN, MailboxUnavailable("gone", "gone"))
    troubles.begin(OWN, MailboxUnavailable("gone", "still gone"))
    scene.state.folder.disk.system = Refusing("trouble.json")
    troubles.begin(OWN, MailboxRefused("refused", "not this key"))
    assert [len(scene.told(one)) for one in (EventName.MAILBOX_TROUBLE, EventName.MAILBOX_REFUSED)] == [1, 1]
    shown = scene.state.trouble.read()
    assert shown is None or shown.what is TroubleWith.MAILBOX
    scene.state.folder.disk.system = SystemCalls()
    troubles.begin(OWN, MailboxRefused("refused", "not this key"))
    shown = scene.state.trouble.read()
    assert shown is not None
    assert (shown.what, shown.why) == (TroubleWith.CREDENTIALS, "not this key")
    # A turn's, which began later, is shown once the watcher's own is over.
    scene.place.clock.moment += 1  # type: ignore[attr-defined]
    troubles.begin("t", FULL)
    before = len(seen)
    assert troubles.over(OWN)
    shown = scene.state.trouble.read()
    assert shown is not None
    assert shown.what is TroubleWith.DISK
    assert len(seen) == before + 1
    assert troubles.over("t")
    assert not troubles.over("t")
    assert scene.state.trouble.read() is None


def test_an_agent_that_outlived_a_stop_that_was_cut_off_is_judged_as_ever(scene: Scene) -> None:
    """It carries its turn's id and lives: nothing has stopped it."""
    name = new_turn_id(NOW)
    child = subprocess.Popen(["sleep", "600"], env={**os.environ, "AGENT_MAILER_TURN_ID": name})
    try:
        envelope = scene.mail()
        scene.run(scene.room.mailbox.claim(envelope))
        holder = identify(child.pid)
        record = TurnRecord(name, envelope, Phase.RUNNING, "command", NOW, process=holder, started_at=NOW)
        scene.state.turns.create(record)
        scene.state.turns.stop_begins()
        [one] = scene.run(recover(scene.room))
        assert one.record.stopped is None
        kept = scene.state.turns.load(name)
        assert kept is not None
        assert kept.stopped is None
        assert not scene.state.turns.stop_was_cut_off()
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("code", [errno.ENOSPC, None])
def test_what_a_stop_that_was_cut_off_had_ended_is_excused_by_whoever_comes_to_it(
    scene: Scene, code: int | None
) -> None:
    """A start that is killed over it, or that the disk refuses, leaves the mark to the next."""
    record = running(scene, ProcessIdentity(1, 1, "another boot"))
    scene.state.turns.stop_begins()
    disk = scene.state.folder.disk
    disk.system = refuses = Refusing("turn.json", On.REPLACE, code=code, times=1)
    with pytest.raises((Died, OSError)):
        scene.run(recover(scene.room))
    assert refuses.refused == 1
    disk.system = SystemCalls()
    [work] = scene.run(recover(scene.room))
    assert work.record.stopped is StopReason.SHUTDOWN
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert kept.stopped is StopReason.SHUTDOWN
    assert not scene.state.turns.stop_was_cut_off()


def test_a_turn_of_a_program_that_no_version_knows_is_judged_all_the_same(scene: Scene) -> None:
    """Its record names one that there is not, or no more."""
    record = running(scene, ProcessIdentity(1, 1, "another boot"))
    record.runtime = "unheard-of"
    scene.state.turns.save(record)
    for work in scene.run(recover(scene.room)):
        scene.run(asyncio.wait_for(work.finish(), 20))
    assert scene.state.turns.is_settled(record.turn_id)


def test_who_was_frozen_moves_every_clock_of_a_turn(scene: Scene) -> None:
    """Total, tool, silence and grace: none of them has run meanwhile."""
    record = running(scene, ProcessIdentity(1, 1, "another boot"))
    folder = scene.state.turns.folder(record.turn_id)
    supervised = Supervised(ProcessIdentity(1, 1, "another boot"), folder.path, record.turn_id, proved=False)
    news = AtOnce(scene.room, record, Message(record.envelope), folder)
    follower = Follower(scene.room, record, supervised, news, scene.room.program)
    now = scene.place.clock.monotonic()
    follower._started, follower._last_event, follower._result_at = now, now, None
    follower._tool_since = tools = {"a": now, "b": now - 9}
    follower._leave_out(1.0)
    assert (follower._started, follower._last_event, follower._tool_since) == (now, now, tools)
    clock = scene.place.clock
    assert isinstance(clock, Ahead)
    clock.ahead += 500
    follower._leave_out(500.0)
    assert (follower._started, follower._last_event, follower._result_at) == (now + 500, now + 500, None)
    assert follower._tool_since == {"a": now + 500, "b": now + 491}
    follower._last_event, follower._result_at = None, now
    follower._leave_out(500.0)
    assert (follower._last_event, follower._result_at) == (None, now + 500)
    # What ended well before a command ended its tree has ended well.
    (folder.path / "stop.json").write_text("{}")
    for status, stopped in (("0", None), ("1", StopReason.BY_HAND)):
        (folder.path / "exit").write_text(f"{status}\n")
        assert follower._stopped_by_another() is stopped
    (folder.path / "stop.json").unlink()
    # What an earlier watcher had begun to end goes to its end, whatever the clocks say now.
    assert follower._why_stop() is None
    record.stopped = StopReason.SHUTDOWN
    assert follower._why_stop() is StopReason.SHUTDOWN


def test_what_the_disk_refuses_to_the_house_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "SOON", 0.0)
    monkeypatch.setattr(housekeeping, "EVERY", 0.0)
    record = running(scene)
    folder = scene.state.turns.path(record.turn_id)
    scene.state.processed.add(record.envelope.id)
    scene.state.turns.mark_settled(record.turn_id)
    os.utime(folder / "settled", (1.0, 1.0))
    scene.state.folder.disk.system = system = Refusing("turns/.gone.*", On.COME, times=2)

    async def kept() -> None:
        keeper = asyncio.create_task(housekeeping.keep_house(scene.room))
        async with asyncio.timeout(20):
            while folder.exists() and not keeper.done():  # noqa: ASYNC110 - the disk sets no event
                await asyncio.sleep(0)
        assert not keeper.done()
        keeper.cancel()

    asyncio.run(kept())
    assert system.refused == 2
    assert not folder.exists()


@pytest.mark.parametrize("since", [False, True])
def test_an_old_turn_stays_where_its_message_is_to_be_worked_on_again_since_the_house_was_kept(
    scene: Scene, since: bool
) -> None:
    long_ago = scene.place.clock.now() - 30 * 86400
    ended = Settlement(Outcome.FAILED, "", long_ago, 1.0, finished=False)
    record = TurnRecord(new_turn_id(long_ago), scene.mail(), Phase.SETTLING, "command", long_ago, settlement=ended)
    scene.state.turns.create(record)
    scene.state.turns.mark_settled(record.turn_id)
    os.utime(scene.state.turns.path(record.turn_id) / "settled", (long_ago, long_ago))

    async def kept() -> None:
        keeping = asyncio.create_task(housekeeping.prune(scene.room))
        await asyncio.sleep(0)
        if since:
            scene.state.retries.put(RetryEntry(record.envelope))
        await keeping

    scene.run(kept())
    assert (record.turn_id in scene.state.turns.ids()) is since


def test_a_turn_that_gave_its_claim_back_is_none_of_its_hour(scene: Scene) -> None:
    """Nothing ran: the next one need not wait for it."""
    guards = msgspec.structs.replace(scene.policy.guards, turns_per_hour=1)
    scene.room.policy = msgspec.structs.replace(scene.policy, guards=guards)
    gate, waits = scene.room.gate, [Candidate(scene.mail(body="another"))]
    assert len(gate.admit(waits, NOW).go) == 1
    record = running(scene)
    gate.claimed(record)
    assert gate.admit(waits, NOW).go == ()
    scene.run(give_back(scene.room, record))
    assert len(gate.admit(waits, NOW).go) == 1


def test_who_wrote_from_elsewhere_is_known_beside_others_and_is_not_the_only_one(scene: Scene) -> None:
    """Where a mailbox lists nobody everybody can be written to."""
    record = running(scene)
    there, too = (Route(name, "/mail/agents", 1, 2, name) for name in ("bob@there", "eve@there"))
    record.route, record.batch = there, (Batched(record.envelope, route=too),)
    assert _with_senders((), record) == ()
    known = [one.address for one in _with_senders([Contact("ann"), Contact("bob@there")], record)]
    assert known == ["ann", "bob@there", "eve@there"]


def test_what_goes_on_beside_the_loop_leaves_nothing_open_where_the_mailbox_refuses_at_once(scene: Scene) -> None:
    """It has been begun by then, and has done nothing."""
    scene.desk.root.rename(scene.desk.root.with_name("elsewhere"))
    all_are_closed()
    with pytest.raises(ConfigFault, match="is no mailbox root"):
        asyncio.run(Watcher(scene.room).run())
    all_are_closed()


@pytest.mark.parametrize("once", [True, False])
def test_a_start_that_fails_half_way_leaves_nothing_behind_that_had_been_begun(scene: Scene, *, once: bool) -> None:
    (scene.state.folder.path / ".gitignore").unlink(missing_ok=True)
    scene.state.folder.disk.system = system = Refusing(".gitignore", code=None)
    all_are_closed()
    with pytest.raises(Died):
        asyncio.run(Watcher(scene.room, once=once).run())
    assert system.refused
    all_are_closed()
