"""What the watcher says of itself: that its loop turns, whether its program is there, whether that has a login.

`status` asks for the first two by a ping, and finds the third in `login.json`; it never starts a program.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from agent_mailer.errors import BusyFault, MailerError
from agent_mailer.outcomes import NOT_EXECUTED
from agent_mailer.process.commands import run_briefly_async
from agent_mailer.runtimes.port import LOGIN
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import PauseReason
from agent_mailer.state.requests import MAILBOX_WAITS, Answer, Request, Verb
from agent_mailer.watch.requests import apply_waiting
from agent_mailer.watch.room import Room

if TYPE_CHECKING:
    from agent_mailer.watch.errands import Errands

LOGIN_SECONDS = 20.0
MAILBOX_SECONDS = 2.0
"""So late, and well before it is taken for standing still, who asks the loop hears that it waits for its mailbox."""


class Ear:
    """Hears what commands ask of the loop. A ping is answered where the loop rests, and costs it no look."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.asked = True
        """There may be requests that nobody has applied."""
        self.pinged = False
        self.loop_rests = False
        """The loop waits for a wake: what it does in between it has brought to an end."""
        self.errands: Errands | None = None
        """What is asked from afar, where somebody can."""
        self.mailbox_since: float | None = None
        """The moment since which the loop waits for its mailbox; None where it does not."""

    def heed(self) -> bool:
        """Whether the loop is needed. Raises OSError, and then it is; ConfigFault where the workdir is gone."""
        # Who waits for nothing else learns of it by its folder of requests, which goes with it.
        with suppress(BusyFault):
            self._room.guard()
        before, self.asked = self.asked, True
        waiting = self._room.state.requests.waiting()
        pings = sum(_is_ping(request) for _, request in waiting)
        self.pinged = self.pinged or pings > 0
        if self.pinged and self.loop_rests:
            self.answer()
        elif pings:
            asyncio.get_running_loop().call_later(MAILBOX_SECONDS, self._answer_in_between)
        others = len(waiting) > pings
        self.asked = before or others
        return others

    def apply_waiting(self) -> bool:
        """Whether there may be open turns now. Raises OSError where the disk refuses."""
        opened = apply_waiting(self._room.state, self._room.mailbox, takes=self._room.offers is not None)
        self.asked = False
        return (self.errands is not None and self.errands.attend()) or opened

    def listen_afar(self) -> None:
        """There may be something that nobody has attended to."""
        self.asked = True

    def answer(self) -> None:
        """The loop rests, or waits for its mailbox. What the disk refuses is no answer."""
        self.pinged = False
        requests = self._room.state.requests
        since = self.mailbox_since
        with suppress(OSError):
            for name, request in requests.waiting():
                if _is_ping(request):
                    told = _able(self._room) if since is None else _waits(self._room.clock.monotonic() - since)
                    requests.answer(name, told, durable=False)

    def _answer_in_between(self) -> None:
        """A mailbox that lets the loop wait does not make it stand still."""
        since = self.mailbox_since
        if self.pinged and since is not None and self._room.clock.monotonic() - since >= MAILBOX_SECONDS / 2:
            self.answer()


def _is_ping(request: Request | None) -> bool:
    return request is not None and request.verb is Verb.PING


def _able(room: Room) -> Answer:
    """Whether a turn could be started now. Where not: why, and what mends it."""
    try:
        room.runtime.probes(room.policy.workdir)
    except MailerError as fault:
        return Answer(ok=False, lines=(fault.message, fault.fix))
    return Answer(ok=True, lines=())


def _waits(seconds: float) -> Answer:
    return Answer(ok=False, lines=(f"it has not answered for {seconds:.0f} s", "agent-mailer doctor", MAILBOX_WAITS))


async def learn_login(room: Room) -> None:
    """Once, at the start: what the program itself says. Turns tell from then on, and a pause that knows it stays."""
    pause = room.state.pause.read()
    if pause is not None and pause.reason is PauseReason.SIGNED_OUT:
        return
    try:
        probes = room.runtime.probes(room.policy.workdir)
        for probe in probes:
            if probe.name != LOGIN:
                continue
            began = room.clock.now()
            # The mark: what outlives a killed watcher, as what should end it was killed as well, the next one ends.
            done = await run_briefly_async(
                probe.argv,
                env=probe.env,
                cwd=probe.cwd,
                seconds=LOGIN_SECONDS,
                mark=f"login-{room.state.folder.path}",
            )
            if done.status is None or done.status in NOT_EXECUTED:
                # What did not run has said nothing of a login.
                return
            finding = room.runtime.read_probe(probe, done.status, done.output)
            if finding.ok:
                room.state.login.forget()
            else:
                room.state.login.learn(SignedOut(began, finding.text, finding.fix))
    except (MailerError, OSError):
        # What cannot be asked just now is not known: the ping, or the first turn, tells what is wrong.
        return
