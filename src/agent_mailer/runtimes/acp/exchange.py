"""The bridge's work once its agent has been started: it reads and writes, and says in the end what came of the turn."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from agent_mailer.outcomes import Outcome
from agent_mailer.process.talking import Stop, Talking
from agent_mailer.runtimes.acp.conversation import Conversation, Decide, HangUp, Say, Send, Step
from agent_mailer.runtimes.acp.descriptor import UsageOf
from agent_mailer.runtimes.acp.orders import Ended, Orders, Verdict
from agent_mailer.runtimes.acp.staged import staged_in
from agent_mailer.runtimes.acp.verdict import WAS_THAT_ALL, judge, of_a_second_word, rests_on_words
from agent_mailer.turn_tools import anchor_turn

Heard = TypeVar("Heard")

STOPPED = 143
"""As a shell says that SIGTERM has ended a program."""
_CANCELLED_IN = 3.0
_LARGEST_PROMPT = 16 * 1024 * 1024


class Talk(Protocol[Heard]):
    """What is said to an agent and what of its words counts: in the protocol, or in its headless mode."""

    cancels: bool
    steps: list[Step]
    judged: Verdict | None
    ended: Ended | None
    prompted: bool

    @property
    def over(self) -> bool: ...
    @property
    def in_a_tool(self) -> bool: ...
    def begin(self) -> None: ...
    def cancel(self) -> None: ...
    def ask_again(self, text: str, /) -> bool: ...
    def read(self, line: bytes) -> Heard | None: ...
    def hear(self, message: Heard, now: float) -> None: ...
    def decided(self, request: Decide, option: str | None, tool: str, *, allowed: bool) -> None: ...


class Exchange:
    """One turn with an agent that runs."""

    def __init__(self, orders: Orders, talk: Talk[Any], agent: Talking, stop: Stop) -> None:
        self._orders = orders
        self._talk = talk
        self._agent = agent
        self._stop = stop
        self._heard = time.monotonic()
        self._doubted: Ended | None = None

    def run(self) -> int:
        """Returns the exit status."""
        self._talk.begin()
        self._follow()
        if self._is_doubtful() and self._talk.ask_again(WAS_THAT_ALL):
            self._follow()
        verdict = self._verdict()
        if verdict is not None and self._stop.since is None:
            result = {"type": "result", "outcome": verdict.outcome, "text": verdict.text, "detail": verdict.detail}
            _print(result)
        status = self._agent.end(self._orders.leaves_in)
        if self._stop.since is not None:
            return STOPPED
        return 0 if verdict is not None else status or 1

    def _follow(self) -> None:
        """Until it has ended its prompt, has left, or is given up."""
        self._do()
        while not self._talk.over and self._agent.listening and not self._gives_up():
            for line in self._agent.wait(self._patience(), self._stop.woken):
                message = self._talk.read(line)
                if message is not None:
                    self._heard = time.monotonic()
                    self._talk.hear(message, self._heard)
                    self._do()
            self._drain()

    def _is_doubtful(self) -> bool:
        """Whether its words are all that speaks for it, of a model whose tokens nobody counts."""
        talk, orders = self._talk, self._orders
        if talk.ended is None or self._stop.since is not None or orders.usage is not UsageOf.NONE:
            return False
        if not rests_on_words(talk.ended, staged_in(Path(orders.turn_dir)), orders.answers):
            return False
        self._doubted = talk.ended
        return True

    def _verdict(self) -> Verdict | None:
        """None where the agent has left in the middle of its work: how, tells its exit status."""
        talk, orders = self._talk, self._orders
        if talk.judged is not None:
            return talk.judged
        if talk.ended is not None:
            staged = staged_in(Path(orders.turn_dir))
            resumed = orders.session is not None
            if self._doubted is not None and (known := of_a_second_word(self._doubted, talk.ended, staged)):
                return known
            return judge(talk.ended, staged, resumed=resumed, errors=orders.errors, answers=orders.answers)
        if self._agent.listening and self._stop.since is None:
            text = f"{orders.title} has said nothing for {orders.silent_for:.0f} seconds: its provider may be away"
            return Verdict(Outcome.UNAVAILABLE, text)
        if talk.prompted:
            return None
        return Verdict(Outcome.UNAVAILABLE, f"{orders.title} ended before it was told anything: see its stderr")

    def _do(self) -> None:
        """All steps there are."""
        talk = self._talk
        while talk.steps:
            steps, talk.steps = talk.steps, []
            for step in steps:
                match step:
                    case Send(line=line):
                        self._agent.say(line)
                    case HangUp():
                        self._agent.hang_up()
                    case Say(fields=fields):
                        _print(fields)
                    case Decide(params=params):
                        # Most turns ask for nothing, and each would pay for what knows of it.
                        from agent_mailer.runtimes.acp.permission import permit

                        permission = permit(self._orders, params)
                        talk.decided(step, permission.option, permission.tool, allowed=permission.allowed)

    def _drain(self) -> None:
        """A signal has come: the agent is told once."""
        with suppress(BlockingIOError):
            if os.read(self._stop.woken, 64) and self._stop.since is not None:
                self._talk.cancel()
                self._do()

    def _gives_up(self) -> bool:
        now = time.monotonic()
        if self._stop.since is not None:
            told = self._talk.prompted and self._talk.cancels
            return not told or now >= self._stop.since + _CANCELLED_IN
        silent = now - self._heard >= self._orders.silent_for
        return silent and self._talk.prompted and not self._talk.in_a_tool

    def _patience(self) -> float:
        """Seconds until there is something to look at."""
        now = time.monotonic()
        if self._stop.since is not None:
            return self._stop.since + _CANCELLED_IN - now
        return max(1.0, self._heard + self._orders.silent_for - now)


def _print(fields: object) -> None:
    """Each line is there as a whole as soon as it is said."""
    os.write(sys.stdout.fileno(), msgspec.json.encode(fields) + b"\n")


def exchange(said: str, agent: Talking | str, stop: Stop) -> int:
    """`said` are the orders as JSON, `agent` what came of its start. Returns the exit status."""
    orders = msgspec.json.decode(said, type=Orders)
    anchor_turn(Path(orders.turn_dir))
    if isinstance(agent, str):
        _print({"type": "result", "outcome": Outcome.UNAVAILABLE, "detail": agent})
        return 0
    prompt = sys.stdin.buffer.read(_LARGEST_PROMPT).decode("utf-8", "replace")
    return Exchange(orders, _talk(orders, prompt), agent, stop).run()


def _talk(orders: Orders, prompt: str) -> Talk[Any]:
    if orders.lines:
        from agent_mailer.runtimes.acp.lines import Listening

        return Listening(orders, prompt)
    return Conversation(orders, prompt)
