"""What a power failure once undid, each under the name of what must hold. Found by the harness of test_power_loss."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.crash.recording import QuickSystem, after_power_failures
from tests.crash.scenarios import STAGE, agent, at_rest, new_desk, recover, runs, settlements
from tests.desk import Desk

from agent_mailer.disk import Disk, Sync
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Envelope, Progress, Stage
from agent_mailer.outcomes import Outcome
from agent_mailer.state import State
from agent_mailer.state.records import ItemState
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch.requests import apply, apply_waiting

TOPS = ("mail", "coder")


def state_over(desk: Desk, disk: Disk) -> State:
    place = desk.place()
    place.disk.system = disk.system
    place.folder.hold()
    return place.state


def test_what_a_person_paused_stays_paused_and_resumed_stays_resumed(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "desk")
    at_rest(desk)
    for _ in after_power_failures(
        desk.base, TOPS, lambda disk: _ignore(apply(state_over(desk, disk), Request(Verb.PAUSE)))
    ):
        assert desk.place().state.pause.read() is not None
    apply(desk.place().state, Request(Verb.PAUSE))
    for _ in after_power_failures(
        desk.base, TOPS, lambda disk: _ignore(apply(state_over(desk, disk), Request(Verb.RESUME)))
    ):
        assert desk.place().state.pause.read() is None


def test_an_answered_request_does_not_come_back(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "desk")
    at_rest(desk)
    desk.place().state.requests.submit(Request(Verb.PAUSE))
    for _ in after_power_failures(desk.base, TOPS, lambda disk: _ignore(apply_waiting(state_over(desk, disk)))):
        assert desk.place().state.requests.waiting() == []


def test_a_message_given_up_does_not_come_back_as_new(tmp_path: Path) -> None:
    """Its name in new, undone by the crash, looked as if somebody had put the dead letter back."""
    desk = new_desk(tmp_path / "desk")
    agent(desk, "exit 1", max_retries=0)
    desk.send()
    [envelope] = asyncio.run(MaildirMailbox(desk.disk, desk.root, "coder").pending(10)).envelopes
    for _ in after_power_failures(desk.base, TOPS, lambda disk: asyncio.run(_claim_and_give_up(desk, disk, envelope))):
        assert not list((desk.root / "agents/coder/inbox/new").iterdir())
    (desk.root / "agents/coder/inbox/cur" / envelope.locator).rename(
        desk.root / "agents/coder/inbox/new" / envelope.locator
    )
    at_rest(desk)
    new = desk.root / "agents/coder/inbox/new" / envelope.locator
    (desk.state / "turns" / runs(desk)[0][1] / "settled").unlink()
    new.hardlink_to(desk.root / "agents/coder/inbox/cur" / envelope.locator)
    recover(desk)
    assert len(runs(desk)) == 1
    assert not new.exists()


@pytest.mark.parametrize(("end", "state"), [("", ItemState.REFUSED), ("exit 1", ItemState.KEPT)])
def test_what_did_not_leave_outlives_the_shortening_of_its_record(tmp_path: Path, end: str, state: ItemState) -> None:
    desk = new_desk(tmp_path / "desk")
    agent(desk, STAGE + end, auto_reply="never", max_retries=0)
    desk.send()
    at_rest(desk)
    [record] = settlements(desk).values()
    for _ in after_power_failures(desk.base, TOPS, lambda disk: state_over(desk, disk).retention.summarise(record)):
        [after] = settlements(desk).values()
        assert after.settlement is not None
        left = [entry.item.payload for entry in after.settlement.items if entry.state is state]
        assert len(left) == (1 if state is ItemState.REFUSED else 3)
        assert any("for stranger" in payload for payload in left)


def test_a_removed_turn_is_never_half_back(tmp_path: Path) -> None:
    """Its record without the marker that it was settled would be settled again, over all that happened since."""
    desk = new_desk(tmp_path / "desk")
    agent(desk, "true")
    desk.send()
    at_rest(desk)
    [turn_id] = desk.place().state.turns.ids()
    for _ in after_power_failures(desk.base, TOPS, lambda disk: state_over(desk, disk).turns.drop(turn_id)):
        turns = desk.place().state.turns
        assert turns.open_ids() == []
        assert turns.load(turn_id) is None


def test_a_purged_dead_letter_stays_purged(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "desk")
    agent(desk, "exit 1", max_retries=0)
    desk.send()

    def give_up_and_purge(disk: Disk) -> None:
        desk.once(system=disk.system)
        apply(state_over(desk, disk), Request(Verb.STUCK_DROP, reason=StuckKind.GIVEN_UP.value))

    for _ in after_power_failures(desk.base, TOPS, give_up_and_purge, most=15):
        recover(desk)
        assert desk.place().state.dead_letters.all() == []


def test_what_stands_beside_damage_outlives_its_setting_aside(tmp_path: Path) -> None:
    """So does the damage itself: in the file, or in the one beside."""
    desk = new_desk(tmp_path / "desk")
    at_rest(desk)
    good = {"stuck.jsonl": b'{"kind":"unreadable","key":"a","at":1.0}', "held.jsonl": b'{"message_id":"a"}'}
    folder = desk.place().folder.path
    for name, line in good.items():
        (folder / name).write_bytes(b"garbage\n" + line + b"\n")

    def look(disk: Disk) -> None:
        state = state_over(desk, disk)
        assert len(state.stuck.all()) + len(state.held.waiting) == 2

    for _ in after_power_failures(desk.base, TOPS, look):
        for name, line in good.items():
            assert line + b"\n" in (folder / name).read_bytes()
            assert any(b"garbage\n" in path.read_bytes() for path in folder.glob(f"{name}*"))


def test_an_earlier_answer_is_not_taken_for_this_one_where_the_copy_of_the_thread_is_lost(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "desk")
    agent(desk, 'rm "$AGENT_MAILER_TURN_DIR/mail.json"; echo "answer to $AGENT_MAILER_MESSAGE_ID"')
    sent = [desk.send(thread="red") for _ in range(2)]
    _in_one_moment(desk)
    assert sorted(message.body for message in desk.inbox()) == sorted(f"answer to {one}\n" for one in sent)


def test_nor_where_the_record_of_the_earlier_turn_is_lost_as_well(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "desk")
    lose = 'for turn in "$AGENT_MAILER_TURN_DIR"/../*; do [ ! -e "$turn/settled" ] || : >"$turn/turn.json"; done'
    agent(desk, f'{lose}; rm "$AGENT_MAILER_TURN_DIR/mail.json"; echo "answer to $AGENT_MAILER_MESSAGE_ID"')
    sent = [desk.send(thread="red") for _ in range(2)]
    _in_one_moment(desk)
    assert sorted(message.body for message in desk.inbox()) == sorted(f"answer to {one}\n" for one in sent)


def test_a_first_line_has_a_name_though_an_earlier_life_was_cut_short(tmp_path: Path) -> None:
    """Killed right after it had made the file: the next one must not take the name for durable."""
    desk = new_desk(tmp_path / "desk")
    path = desk.state / "lines"

    def killed_and_tried_again(disk: Disk) -> None:
        disk.system.close(disk.system.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
        disk.append_line(path, b"line", sync=Sync.FULL)

    for _ in after_power_failures(desk.base, TOPS, killed_and_tried_again):
        assert path.read_bytes() == b"line\n"


async def _claim_and_give_up(desk: Desk, disk: Disk, envelope: Envelope) -> None:
    mailbox = MaildirMailbox(disk, desk.root, "coder")
    await mailbox.claim(envelope)
    await mailbox.done(envelope, Progress("turn", Stage.SETTLED, Outcome.FAILED.value, "", final=True))


def _in_one_moment(desk: Desk) -> None:
    """The first answer is as old as the second turn, and nothing is lost where the moment is written down."""
    desk.once(FakeClock(float(int(time.time()) + 1)), QuickSystem())


def _ignore(_: object) -> None:
    return None
