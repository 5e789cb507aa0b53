"""What the watcher hears from commands: that the loop is needed for, and what is answered beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene, scene_at

from agent_mailer.choices import CommandOutput
from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import LOGIN, Finding, Probe
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.requests import MAILBOX_WAITS, Request, Verb
from agent_mailer.watch import pulse
from agent_mailer.watch.program import Program
from agent_mailer.watch.pulse import Ear

NOW = 1_800_000_000.0


scene = scene_at(lambda: FakeClock(NOW))


def heed(ear: Ear) -> bool:
    async def heeded() -> bool:
        return ear.heed()

    return asyncio.run(heeded())


def test_a_ping_costs_no_look_and_leaves_what_was_asked_before_it_asked(scene: Scene) -> None:
    ear, requests = Ear(scene.room), scene.state.requests
    ear.apply_waiting()
    ear.loop_rests = True
    ping = requests.submit(Request(Verb.PING))
    assert (heed(ear), ear.asked) == (False, False)
    answer = requests.take_answer(ping)
    assert answer is not None
    assert requests.waiting() == []
    requests.submit(Request(Verb.PAUSE))
    assert (heed(ear), ear.asked) == (True, True)
    requests.submit(Request(Verb.PING))
    assert heed(ear)
    for name, _ in requests.waiting():
        requests.withdraw(name)
    assert (heed(ear), ear.asked) == (False, True), "the loop has not come to it"


@pytest.mark.parametrize("rests", [False, True])
def test_a_ping_takes_back_nothing_that_was_asked_from_afar(scene: Scene, rests: bool) -> None:
    """That lies in no folder: only this says that there is something to attend to."""
    ear = Ear(scene.room)
    ear.apply_waiting()
    ear.loop_rests = rests
    ear.listen_afar()
    scene.state.requests.submit(Request(Verb.PING))
    assert [(heed(ear), ear.asked) for _ in range(2)] == [(False, True)] * 2


@pytest.mark.parametrize("last", [Verb.STUCK_RETRY, Verb.PAUSE])
def test_what_is_to_be_sent_again_is_looked_for_whatever_else_is_asked_beside_it(scene: Scene, last: Verb) -> None:
    ear, requests = Ear(scene.room), scene.state.requests
    for verb in sorted((Verb.STUCK_RETRY, Verb.PAUSE), key=lambda verb: verb is last):
        requests.submit(Request(verb))
    assert ear.apply_waiting()
    assert not ear.apply_waiting()
    requests.submit(Request(Verb.RESUME))
    assert not ear.apply_waiting()


def test_what_came_while_the_loop_did_something_is_answered_when_it_rests(scene: Scene) -> None:
    ear, requests = Ear(scene.room), scene.state.requests
    ping = requests.submit(Request(Verb.PING))
    heed(ear)
    requests.submit(Request(Verb.PAUSE))
    heed(ear)
    assert (ear.pinged, requests.take_answer(ping)) == (True, None)
    ear.answer()
    assert requests.take_answer(ping) is not None
    assert not ear.pinged


def test_who_asks_a_loop_that_waits_for_its_mailbox_hears_that(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "MAILBOX_SECONDS", 0.0)
    ear, requests = Ear(scene.room), scene.state.requests
    ear.mailbox_since = scene.room.clock.monotonic()
    ping = requests.submit(Request(Verb.PING))

    async def heeded() -> None:
        assert not ear.heed()
        async with asyncio.timeout(20):
            while ear.pinged:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0)

    asyncio.run(heeded())
    answer = requests.take_answer(ping)
    assert answer is not None
    assert (answer.ok, answer.lines[-1]) == (False, MAILBOX_WAITS)


def test_where_nothing_can_be_read_or_the_workdir_is_gone_the_loop_is_to_look(scene: Scene) -> None:
    ear = Ear(scene.room)
    ear.apply_waiting()
    requests = scene.state.folder.requests
    requests.rename(requests.with_name("away"))
    requests.write_text("somebody's file")
    with pytest.raises(OSError, match="Not a directory"):
        heed(ear)
    assert ear.asked
    scene.desk.workdir.rename(scene.desk.workdir.with_name("moved"))
    with pytest.raises(ConfigFault):
        heed(ear)


class WithLogin(CommandRuntime):
    """A program that is asked for its login by a shell command."""

    def __init__(self, asks: str) -> None:
        super().__init__(("true",), CommandOutput.TEXT, os.environ)
        self.asks = asks

    def probes(self, workdir: Path) -> Sequence[Probe]:
        return (Probe(LOGIN, ("/bin/sh", "-c", self.asks), dict(os.environ), workdir),)

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        return Finding(ok=status == 0, text=output.strip(), fix=probe.name)


@pytest.mark.parametrize(
    ("asks", "paused", "known"),
    [
        ("echo none; exit 1", False, "none"),
        ("exit 0", False, None),
        ("exit 127", False, "before"),
        ("exit 126", False, "before"),
        ("exit 0", True, "before"),
    ],
)
def test_only_a_program_that_ran_has_said_whether_it_is_signed_in(
    scene: Scene, asks: str, paused: bool, known: str | None
) -> None:
    """Where a pause says so already, the turn that ends the pause tells."""
    scene.room.program = Program(WithLogin(asks))
    scene.state.login.learn(SignedOut(NOW, "before"))
    if paused:
        scene.state.pause.write(Pause(PauseReason.SIGNED_OUT, NOW, NOW + 60))
    asyncio.run(pulse.learn_login(scene.room))
    found = scene.state.login.read()
    assert (found.text if found is not None else None) == known
