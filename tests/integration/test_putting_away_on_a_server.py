"""A server's list: what was given up or is held may stay listed there, and nobody has put it back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fake_relay import running
from tests.watch_room import Scene

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Envelope
from agent_mailer.mailbox.relay.adapter import RelayMailbox, Rhythm
from agent_mailer.mailbox.relay.session import Account
from agent_mailer.state.held import Guard
from agent_mailer.state.records import DeadLetter
from agent_mailer.watch.backlog import Look, SetAside, look
from agent_mailer.watch.guards.holding import HeldMail, Stop


def test_what_was_given_up_and_is_still_listed_nobody_has_put_back(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir(mode=0o755)
    scene = Scene(tmp_path / "scene")

    async def looks(box: RelayMailbox) -> tuple[Envelope, Look]:
        await box.open()
        try:
            [one] = (await box.pending(10)).envelopes
            scene.state.processed.add(one.id)
            letter = DeadLetter(one.id, one.thread, 4, "no luck", "2033-05-18T03:33:20Z", "turn-1", envelope=one)
            scene.state.dead_letters.add(letter, again=False)
            return one, await look(box, scene.state, scene.policy, ())
        finally:
            await box.close()

    try:
        with running(tmp_path / "base") as (url, fake):
            account = Account(url, "coder", "")
            box = RelayMailbox(account, tmp_path / "coder.json", Disk(), rhythm=Rhythm(0.2, 0.1), under_way=0.0)
            with fake.held():
                fake.write("other", "coder", body="work")
            one, found = asyncio.run(looks(box))
    finally:
        scene.close()
    assert found == Look((), (SetAside(one),))


def test_what_is_held_and_is_still_listed_stays_held(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir(mode=0o755)
    scene = Scene(tmp_path / "scene")
    room = scene.room

    async def held_twice(box: RelayMailbox) -> list[int]:
        await box.open()
        try:
            [one] = (await box.pending(10)).envelopes
            mail = HeldMail(box, scene.state, room.notices, room.stuck, room.clock)
            # The second time as a look says it of what is written down already.
            return [await mail.hold([Stop(one, Guard.WHO, why, "who\0other")]) for why in ("a stranger", "")]
        finally:
            await box.close()

    try:
        with running(tmp_path / "base") as (url, fake):
            box = RelayMailbox(
                Account(url, "coder", ""), tmp_path / "coder.json", Disk(), rhythm=Rhythm(0.2, 0.1), under_way=0.0
            )
            with fake.held():
                fake.write("other", "coder", body="work")
            taken = asyncio.run(held_twice(box))
        waiting = dict(scene.state.held.waiting)
    finally:
        scene.close()
    assert taken == [1, 1]
    assert list(waiting.values()) == [Guard.WHO]
