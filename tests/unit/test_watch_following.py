"""What a turn is stopped for, what its end is put down to, and what leaves meanwhile; none really runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import Died, Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Action, Delivery, Draft, MailboxUnavailable, Message, Outgoing
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import MOST_OPEN, Outcome, StopReason
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.process.holder import Supervised
from agent_mailer.process.output import READ_BUDGET
from agent_mailer.runtimes.claude.adapter import ClaudeOptions, ClaudeRuntime
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput, Doomed, PermissionMode, Usage
from agent_mailer.state.records import Batched, Phase, TurnRecord
from agent_mailer.turn_tools.folder import OUTBOX
from agent_mailer.watch.following import AtOnce, Follower
from agent_mailer.watch.program import Program

NOW = 2_100_000_000.0
GONE = ProcessIdentity(1, 1, "another boot")


scene = scene_at(lambda: FakeClock(NOW))


def followed(
    scene: Scene, started_at: float | None = NOW, program: Program | None = None
) -> tuple[TurnRecord, Follower]:
    envelope = scene.mail()
    scene.run(scene.room.mailbox.claim(envelope))
    record = TurnRecord(new_turn_id(NOW), envelope, Phase.RUNNING, "command", NOW, process=GONE, started_at=started_at)
    scene.state.turns.create(record)
    folder = scene.state.turns.folder(record.turn_id)
    (folder.path / OUTBOX).mkdir()
    supervised = Supervised(GONE, folder.path, record.turn_id, proved=False)
    news = AtOnce(scene.room, record, Message(envelope), folder)
    return record, Follower(scene.room, record, supervised, news, program or scene.room.program)


LINES = Program(CommandRuntime(["x"], CommandOutput.JSONL, {}))


def says(scene: Scene, record: TurnRecord, *lines: Mapping[str, object]) -> None:
    """What its agent has printed, without an end of the last line."""
    (scene.state.turns.path(record.turn_id) / "stdout").write_text("\n".join(map(json.dumps, lines)))


def test_a_stop_that_leaves_time_ends_the_turn_when_it_is_up(scene: Scene) -> None:
    _, follower = followed(scene)
    now = scene.place.clock.monotonic()
    for at, expected in ((None, None), (now + 1, None), (now, StopReason.SHUTDOWN), (now - 1, StopReason.SHUTDOWN)):
        scene.room.stop_at = at
        assert follower._why_stop() is expected


@pytest.mark.parametrize("for_good", [False, True])
def test_what_is_doomed_is_ended_but_for_a_result_that_counts(scene: Scene, for_good: bool) -> None:
    _, follower = followed(scene)
    follower._observation.doomed = Doomed(Outcome.FAILED, "nothing good can come", for_good=for_good)
    assert follower._why_stop() is StopReason.DOOMED
    follower._result_at = scene.place.clock.monotonic()
    assert follower._why_stop() is (StopReason.DOOMED if for_good else None)


@pytest.mark.parametrize("started_at", [None, NOW + 9999])
def test_a_turn_of_which_no_begin_is_known_begins_now(scene: Scene, started_at: float | None) -> None:
    _, follower = followed(scene, started_at)
    assert 0 <= scene.place.clock.monotonic() - follower._started < 300
    assert follower._why_stop() is None


def test_the_clock_of_a_turn_that_another_watcher_began_has_run_meanwhile(scene: Scene) -> None:
    timeout = scene.policy.turn_timeout
    _, follower = followed(scene, NOW - timeout + 60)
    assert follower._why_stop() is None
    _, follower = followed(scene, NOW - timeout - 1)
    assert follower._why_stop() is StopReason.TURN_TIMEOUT


def test_a_person_stops_no_turn_that_has_its_result(scene: Scene) -> None:
    record, follower = followed(scene)
    (scene.state.turns.path(record.turn_id) / "stop.json").write_text("{}")
    assert follower._why_stop() is StopReason.BY_HAND
    follower._result_at = scene.place.clock.monotonic()
    assert follower._why_stop() is None


def test_why_it_is_ended_is_written_down_before_the_first_signal(scene: Scene) -> None:
    record, follower = followed(scene)
    scene.run(follower._end(StopReason.TURN_TIMEOUT))
    scene.run(follower._end(StopReason.SHUTDOWN))
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert kept.stopped is StopReason.TURN_TIMEOUT, "the first reason stands"
    record.stopped = None
    scene.place.disk.system = Refusing("turn.json", code=None, times=1)
    with pytest.raises(Died):
        scene.run(follower._end(StopReason.TURN_TIMEOUT))
    assert len(scene.told(EventName.TURN_STOPPING)) == 2, "the third time nothing was begun"


@pytest.mark.parametrize(
    ("stopped", "asked", "stopping", "end", "found"),
    [
        (StopReason.TURN_TIMEOUT, True, True, "143", StopReason.TURN_TIMEOUT),
        (None, True, True, "143", StopReason.BY_HAND),
        (None, True, False, "0", None),
        (None, False, True, "143", StopReason.SHUTDOWN),
        (None, False, True, "1", None),
        (None, False, False, "143", None),
    ],
)
def test_what_its_end_is_put_down_to(
    scene: Scene,
    stopped: StopReason | None,
    asked: bool,
    stopping: bool,
    end: str,
    found: StopReason | None,
) -> None:
    record, follower = followed(scene)
    record.stopped = stopped
    folder = scene.state.turns.path(record.turn_id)
    (folder / "exit").write_text(f"{end}\n")
    if asked:
        (folder / "stop.json").write_text("{}")
    if stopping:
        scene.room.stopping.set()
    assert scene.run(follower._evidence()).stopped is found


def test_what_is_staged_while_something_leaves_leaves_after_it(scene: Scene) -> None:
    record, follower = followed(scene)
    outbox = scene.state.turns.path(record.turn_id) / OUTBOX

    def stage(key: str, **more: Any) -> None:
        draft = {"key": key, "action": "reply", "created": 1, "body": key, "at_once": True, **more}
        (outbox / f"{key}.json").write_text(json.dumps(draft))

    async def sent() -> None:
        for key in ("first", "second"):
            stage(key)
            follower._send_what_waits()
            under_way = follower._sending
            follower._send_what_waits()
            assert follower._sending is under_way, "one after the other"
            assert under_way is not None
            await asyncio.wait_for(under_way, 20)

    stage("later", at_once=False)
    scene.run(sent())
    assert {one.body for one in scene.desk.inbox()} == {"first\n", "second\n"}


def test_a_last_line_that_has_no_end_counts(scene: Scene) -> None:
    record, follower = followed(scene, program=LINES)
    says(scene, record, {"type": "session", "id": "s-1"}, {"type": "result", "text": "42"})
    found = scene.run(follower._evidence()).observation
    assert found.result is not None
    assert (found.session_id, found.result.text, found.lines_skipped) == ("s-1", "42", 0)


def test_what_it_said_is_read_to_its_end_however_much_of_it_nobody_has_read_yet(scene: Scene) -> None:
    """As of a turn that ended while no watcher ran."""
    record, follower = followed(scene, program=LINES)
    much = ({"type": "tool_start", "id": str(number), "name": "x" * 1000} for number in range(3 * READ_BUDGET // 1000))
    says(scene, record, *much, {"type": "result", "text": "42"})
    found = scene.run(follower._evidence()).observation
    assert found.result is not None
    assert found.result.text == "42"


def test_an_agent_that_opens_ever_more_tools_takes_no_more_memory(scene: Scene) -> None:
    record, follower = followed(scene, program=LINES)
    says(scene, record, *({"type": "tool_start", "id": str(n), "name": "Bash"} for n in range(MOST_OPEN + 9)), {})
    while follower._read():
        pass
    assert len(follower._tool_since) == MOST_OPEN


def test_all_that_one_line_tells_is_heard(scene: Scene) -> None:
    """Claude begins several tools with one line."""
    options = ClaudeOptions(PermissionMode.PLAN)
    record, follower = followed(scene, program=Program(ClaudeRuntime("claude", options, {}, is_root=False)))
    uses: list[dict[str, object]] = [
        {"type": "tool_use", "id": name, "name": name, "input": {}} for name in ("Bash", "Read")
    ]
    says(scene, record, {"type": "assistant", "message": {"role": "assistant", "content": uses}}, {})
    while follower._read():
        pass
    assert [*follower._tool_since] == ["Bash", "Read"]


def test_who_looks_sees_what_it_does_with_which_tool_since_when_and_what_it_has_used(scene: Scene) -> None:
    record, follower = followed(scene, program=LINES)
    begun = ({"type": "tool_start", "id": str(number), "name": name} for number, name in enumerate(("Bash", "Read")))
    says(scene, record, {"type": "progress", "text": "I look"}, {"type": "usage", "input_tokens": 7}, *begun, {})
    while follower._read():
        pass
    follower._tool_since["0"] -= 90.0
    follower._note_progress()
    seen = scene.state.turns.progress(record.turn_id)
    assert seen is not None
    assert (seen.doing, seen.tool, seen.usage) == ("I look", "Bash", Usage(7))
    assert seen.tool_since is not None
    assert 90.0 <= seen.at - seen.tool_since < 95.0, "of those that run the one that began first"


def test_what_leaves_at_once_is_about_its_own_message_and_goes_its_way(scene: Scene) -> None:
    record, _ = followed(scene)
    other = scene.mail(sender="planner", body="two")
    record.batch = (Batched(other),)
    first = Message(record.envelope, body="one")
    folder = scene.handed(record.turn_id, first, Message(other, body="two"))
    for about in ("", other.id):
        folder.stage(Draft("", Action.REPLY, NOW, body=f"of {about or 'the first'}", about=about, at_once=True))
    scene.run(AtOnce(scene.room, record, first, folder).send_what_waits())
    told = {name: [(one.body.strip(), one.refs) for one in scene.desk.inbox(name)] for name in ("user", "planner")}
    assert told == {
        "user": [("of the first", (record.envelope.id,))],
        "planner": [(f"of {other.id}", (other.id,))],
    }


@pytest.mark.parametrize("recognises", [False, True])
def test_what_may_have_left_is_looked_for_where_it_would_arrive_twice(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, recognises: bool
) -> None:
    """An earlier watcher has delivered it, and died before it said so."""
    record, _ = followed(scene)
    able = msgspec.structs.replace(scene.room.mailbox.capabilities, recognises_delivery=recognises)
    monkeypatch.setattr(MaildirMailbox, "capabilities", able)
    first = Message(record.envelope, body="one")
    folder = scene.handed(record.turn_id, first)
    folder.stage(Draft("", Action.REPLY, NOW, body="news", at_once=True))
    for _ in range(2):
        scene.run(AtOnce(scene.room, record, first, folder).send_what_waits())
    asked: list[str] = []
    deliver = MaildirMailbox.deliver

    async def noted(box: MaildirMailbox, item: Outgoing) -> Delivery:
        asked.append(item.id)
        return await deliver(box, item)

    monkeypatch.setattr(MaildirMailbox, "deliver", noted)
    scene.run(AtOnce(scene.room, record, first, folder).send_what_waits())
    assert len(asked) == int(recognises)
    assert len(scene.desk.inbox()) == 1


def test_what_a_mailbox_does_not_take_at_once_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = followed(scene)
    first = Message(record.envelope, body="one")
    folder = scene.handed(record.turn_id, first)
    folder.stage(Draft("", Action.REPLY, NOW, body="news", at_once=True))
    sending = AtOnce(scene.room, record, first, folder)

    async def down(*_: object) -> NoReturn:
        raise MailboxUnavailable("down", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(MaildirMailbox, "deliver", down)
        scene.run(sending.send_what_waits())
    scene.run(sending.send_what_waits())
    assert [one.body for one in scene.desk.inbox()] == ["news\n"]
