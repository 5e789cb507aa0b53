"""The program of a turn that talks with an agent: prompt on stdin, our own JSON lines on stdout, the agent on pipes.

`python -m agent_mailer.runtimes.acp.bridge ORDERS` (`Orders` as JSON). A turn's streams are files, since it outlives
its watcher; an agent of the Agent Client Protocol wants someone to talk with. To whoever holds the turn this process
counts as the agent. SIGTERM: the agent is told to cancel, then it leaves, and the status is 143. Where the agent ends
before it has answered there is no result, and the status is the agent's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.outcomes import Outcome
from agent_mailer.process.talking import Talking
from agent_mailer.runtimes.acp import wire
from agent_mailer.runtimes.acp.conversation import Conversation, Decide, Say, Send
from agent_mailer.runtimes.acp.orders import Orders, Verdict
from agent_mailer.runtimes.acp.staged import staged_in
from agent_mailer.runtimes.acp.verdict import judge
from agent_mailer.turn_tools import anchor_turn

STOPPED = 128 + signal.SIGTERM
_CANCELLED_IN = 3.0
_LARGEST_PROMPT = 16 * 1024 * 1024


class Bridge:
    """One turn."""

    def __init__(self, orders: Orders, prompt: str) -> None:
        self._orders = orders
        self._talk = Conversation(orders, prompt)
        env = {name: value for name, value in os.environ.items() if name not in orders.drop}
        self._agent = Talking(orders.argv, env=env, cwd=Path(orders.workdir), longest=wire.LONGEST)
        self._stopping: float | None = None
        self._heard = time.monotonic()
        self._woken = _woken_by_signals(self._stop)

    def run(self) -> int:
        """Returns the exit status."""
        self._talk.begin()
        self._do()
        while not self._talk.over and self._agent.listening and not self._gives_up():
            for line in self._agent.wait(self._patience(), self._woken):
                message = wire.read(line)
                if message is not None:
                    self._heard = time.monotonic()
                    self._talk.hear(message, self._heard)
                    self._do()
            self._drain()
        verdict = self._verdict()
        if verdict is not None and self._stopping is None:
            result = {"type": "result", "outcome": verdict.outcome, "text": verdict.text, "detail": verdict.detail}
            _print(result)
        status = self._agent.end(self._orders.leaves_in)
        if self._stopping is not None:
            return STOPPED
        return 0 if verdict is not None else status or 1

    def _verdict(self) -> Verdict | None:
        """None where the agent has left in the middle of its work: how, tells its exit status."""
        talk, orders = self._talk, self._orders
        if talk.judged is not None:
            return talk.judged
        if talk.ended is not None:
            staged = staged_in(Path(orders.turn_dir))
            resumed = orders.session is not None
            return judge(talk.ended, staged, resumed=resumed, errors=orders.errors, answers=orders.answers)
        if self._agent.listening and self._stopping is None:
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
                    case Say(fields=fields):
                        _print(fields)
                    case Decide(params=params):
                        # Most turns ask for nothing, and each would pay for what knows of it.
                        from agent_mailer.runtimes.acp.permission import permit

                        permission = permit(self._orders, params)
                        talk.decided(step, permission.option, permission.tool, allowed=permission.allowed)

    def _stop(self) -> None:
        if self._stopping is None:
            self._stopping = time.monotonic() + _CANCELLED_IN

    def _drain(self) -> None:
        """A signal has come: the agent is told once."""
        with suppress(BlockingIOError):
            if os.read(self._woken, 64) and self._stopping is not None:
                self._talk.cancel()
                self._do()

    def _gives_up(self) -> bool:
        now = time.monotonic()
        if self._stopping is not None:
            return now >= self._stopping or not self._talk.prompted
        silent = now - self._heard >= self._orders.silent_for
        return silent and self._talk.prompted and not self._talk.in_a_tool

    def _patience(self) -> float:
        """Seconds until there is something to look at."""
        now = time.monotonic()
        if self._stopping is not None:
            return self._stopping - now
        return max(1.0, self._heard + self._orders.silent_for - now)


def _woken_by_signals(stop: object) -> int:
    """What can be read once we are to stop."""
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop())  # type: ignore[operator]
    return reading


def _print(fields: object) -> None:
    """Each line is there as a whole as soon as it is said."""
    os.write(sys.stdout.fileno(), msgspec.json.encode(fields) + b"\n")


def main() -> int:
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    anchor_turn(Path(orders.turn_dir))
    prompt = sys.stdin.buffer.read(_LARGEST_PROMPT).decode("utf-8", "replace")
    try:
        bridge = Bridge(orders, prompt)
    except OSError as error:
        text = f"{orders.argv[0]} cannot be started: {error.strerror or error}"
        _print({"type": "result", "outcome": Outcome.UNAVAILABLE, "detail": text})
        return 0
    return bridge.run()


if __name__ == "__main__":
    sys.exit(main())
