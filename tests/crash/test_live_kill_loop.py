"""kill -9 of session, listener, watcher and stand-in, at each point of a live turn: every message is answered once.

In a folder, and at our broker. At each point between which nothing durable happens: the mail is offered, taken, its
answer staged, its word left. Then at random moments, while a session takes and answers in one go.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.broker_desk import running_broker
from tests.crash.loop import SEED
from tests.desk import Desk, until
from tests.integration.test_amp_watch import AmpDesk
from tests.proved import Harness, proved
from tests.sizes import LONG, SOAK

from agent_mailer.errors import ExitCode
from agent_mailer.process.tree import members
from agent_mailer.state.presence import Presence

PLAYS = Path(__file__).with_name("live_session.py")


class Point(StrEnum):
    OFFERED = "offered"
    TAKEN = "taken"
    STAGED = "staged"
    FINISHED = "finished"


class Victim(StrEnum):
    SESSION = "session"
    LISTENER = "listener"
    WATCHER = "watcher"
    STAND_IN = "stand-in"


EVERY = tuple(
    (point, victim) for point, victim in product(Point, Victim) if (point, victim) != (Point.OFFERED, Victim.STAND_IN)
)
NEAR_THE_CLAIM = tuple((Point.TAKEN, victim) for victim in Victim)
SOME = ((Point.TAKEN, Victim.SESSION), (Point.FINISHED, Victim.WATCHER))


class Live:
    """A session and the process that holds its seat."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.session = self._start("serve")
        self.listener = self._start("sit", str(self.session.pid))

    def _start(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, str(PLAYS), str(self._desk.workdir), *words]
        found = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert found.stdout is not None
        assert found.stdout.readline() == "here\n"
        return found

    def tell(self, *words: str) -> None:
        assert self.session.stdin is not None
        with suppress(BrokenPipeError):
            self.session.stdin.write(f"{' '.join(words)}\n")
            self.session.stdin.flush()

    def hear(self) -> str:
        """What it says to what it was told; empty where it was killed."""
        assert self.session.stdout is not None
        return self.session.stdout.readline().rstrip("\n")

    def end(self) -> None:
        for process in (self.listener, self.session):
            process.kill()
            process.communicate()


class AtBroker(AmpDesk):
    """The same agent with its mail at our broker, where nobody is killed."""

    def send(self, body: str = "please", **how: Any) -> str:
        sent: str = self.mail(f"{body} {how['thread']}")["id"]
        return sent

    def answered(self) -> list[str]:
        return [str(one["body"]).strip() for one in self.answers()]


class Loop:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.desk.shell('cat >/dev/null; echo "headless $AGENT_MAILER_MESSAGE_ID"')
        guards = {"turns_per_hour": 0, "rounds_per_day": 0, "pair_rounds": 0, "ring_rounds": 0, "new_threads": 0}
        self.desk.configure(delivery="live-first", live_wait=5, max_starts=1000, guards=guards)
        self._watcher: subprocess.Popen[bytes] | None = None
        self.sent: list[str] = []
        self.promised: set[str] = set()
        """Of these a session was told that its answer has left."""

    def watch(self) -> None:
        """Start one where none runs, also where the last met a command that held the workdir for a moment (75)."""
        if self._watcher is not None and (status := self._watcher.poll()) is not None:
            assert status in (-signal.SIGKILL, ExitCode.BUSY)
            self._watcher = None
        if self._watcher is None:
            self._watcher = self.desk.start_watch(stderr=subprocess.DEVNULL)

    def end(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
        self.desk.end_turns()

    def at(self, point: Point, victim: Victim) -> None:
        with self._offered() as (live, message):
            steps = {Point.TAKEN: ("take",), Point.STAGED: ("stage", f"live {message}"), Point.FINISHED: ("finish",)}
            for stage, words in steps.items():
                if list(Point).index(stage) <= list(Point).index(point):
                    live.tell(words[0], message, *words[1:])
                    assert not live.hear().startswith("refused"), (point, victim)
            self._kill(victim, live)
            self.watch()
            if live.session.poll() is None and point is not Point.FINISHED:
                self._goes_on(live, message)
            self._until_answered(message)

    def at_random(self, victim: Victim, chance: random.Random) -> None:
        with self._offered() as (live, message):
            live.tell("all", message, f"live {message}")
            time.sleep(chance.uniform(0.0, 0.15))  # the kill is to fall anywhere, not on something observable
            self._kill(victim, live)
            self.watch()
            self._hear_whether(live, message)
            self._until_answered(message)

    @contextmanager
    def _offered(self) -> Iterator[tuple[Live, str]]:
        self.watch()
        live = Live(self.desk)
        try:
            message = self.desk.send("please", thread=f"t{len(self.sent)}")
            self.sent.append(message)
            presence = Presence(self.desk.workdir, self.desk.disk)
            until(lambda: message in [one.message for one in presence.offers()], "the mail is offered")
            yield live, message
        finally:
            live.end()

    def _goes_on(self, live: Live, message: str) -> None:
        live.tell("all", message, f"live {message}")
        self._hear_whether(live, message)

    def _hear_whether(self, live: Live, message: str) -> None:
        if live.hear().startswith("answered"):
            self.promised.add(message)

    def _kill(self, victim: Victim, live: Live) -> None:
        match victim:
            case Victim.SESSION:
                live.session.kill()
                live.session.wait()
            case Victim.LISTENER:
                live.listener.kill()
                live.listener.wait()
            case Victim.WATCHER:
                assert self._watcher is not None
                self._watcher.kill()
                self._watcher.wait()
            case Victim.STAND_IN:
                for turn_id in self.desk.place().state.turns.open_ids():
                    for process in members(turn_id, None):
                        with suppress(ProcessLookupError):
                            os.kill(process.pid, 9)

    def _until_answered(self, message: str) -> None:
        def answered() -> bool:
            self.watch()
            return any(message in body for body in self.desk.answered())

        until(answered, f"an answer to {message}")

    def verdict(self) -> None:
        """Every message was answered once; by the session where it was told so; and nothing is left open."""
        state = self.desk.place().state
        until(lambda: not state.turns.open_ids(), "every turn is settled")
        answers = Counter(body.split()[-1] for body in self.desk.answered())
        assert answers == Counter(self.sent)
        by_session = {body.split()[-1] for body in self.desk.answered() if body.startswith("live ")}
        assert self.promised <= by_session
        assert set(self.sent) <= set((self.desk.state / "processed.txt").read_text().split())
        proved(Harness.KILL_LOOPS, kills=len(self.sent), messages=len(self.sent))


@pytest.mark.parametrize(
    ("points", "rounds"),
    [
        pytest.param(SOME, 0, id="quick"),
        pytest.param(EVERY, 4, id="long", marks=LONG),
        pytest.param(EVERY, 200, id="soak", marks=SOAK),
    ],
)
def test_whoever_is_killed_each_message_is_answered_once(
    tmp_path: Path, points: tuple[tuple[Point, Victim], ...], rounds: int
) -> None:
    play(Desk(tmp_path), points, rounds)


@pytest.mark.parametrize(
    ("points", "rounds"),
    [
        pytest.param(NEAR_THE_CLAIM, 2, id="long", marks=LONG),
        pytest.param(EVERY, 60, id="soak", marks=SOAK),
    ],
)
def test_the_same_holds_at_our_broker(tmp_path: Path, points: tuple[tuple[Point, Victim], ...], rounds: int) -> None:
    with running_broker(tmp_path) as broker:
        play(AtBroker(tmp_path / "here", broker, broker.person("ann")), points, rounds)


def play(desk: Desk, points: tuple[tuple[Point, Victim], ...], rounds: int) -> None:
    chance = random.Random(SEED + 11)
    loop = Loop(desk)
    try:
        for point, victim in points:
            loop.at(point, victim)
        for number in range(rounds):
            loop.at_random(list(Victim)[number % len(Victim)], chance)
        loop.verdict()
    finally:
        loop.end()
