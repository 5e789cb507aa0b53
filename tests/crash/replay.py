"""The log of a watcher that was killed again and again, held against the model: may each event come where it stands?

A log explains and decides nothing, so a death may have kept a line from being written: what a turn went through in an
earlier life may be missing. Within one life nothing may, and nothing comes in another order or twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

from tests.crash.test_model import OWN_FAILURES

from agent_mailer.events import EventName
from agent_mailer.outcomes import Outcome

Line = dict[str, Any]


class Step(IntEnum):
    """How far a turn is, as this life or the last that spoke of it has told. Within one life it only goes on."""

    NONE = 0
    CLAIMED = 1
    RUNNING = 2
    STOPPING = 3
    ENDED = 4
    SENT = 5
    APPLIED = 6
    FINISHED = 7
    SETTLED = 8


STEPS = {
    EventName.TURN_CLAIMED: Step.CLAIMED,
    EventName.TURN_STARTED: Step.RUNNING,
    EventName.TURN_ADOPTED: Step.RUNNING,
    EventName.TURN_STOPPING: Step.STOPPING,
    EventName.TURN_ENDED: Step.ENDED,
    EventName.ITEM_DELIVERED: Step.SENT,
    EventName.SESSION_BOUND: Step.APPLIED,
    EventName.SESSION_DROPPED: Step.APPLIED,
    EventName.RETRY_SCHEDULED: Step.APPLIED,
    EventName.DEAD_LETTER: Step.APPLIED,
    EventName.MESSAGE_DONE: Step.FINISHED,
    EventName.TURN_SETTLED: Step.SETTLED,
}
NEVER_RAN = {Outcome.INTERRUPTED, Outcome.UNAVAILABLE}
AGAIN = {EventName.ITEM_DELIVERED, EventName.TURN_STOPPING}
"""What a turn may have several of in one life."""


class Turn:
    """What the log has told of one turn so far."""

    def __init__(self) -> None:
        self.message = ""
        self.thread = ""
        self.step = Step.NONE
        self.life = 0
        self.known_from = 0
        """The life in which its end was told: from there on nothing of it is missing in that life."""
        self.seen: set[EventName] = set()
        """In this life."""
        self.outcome = ""
        self.counted = False
        """Whether its end is among the failures of its message."""
        self.delivered: set[str] = set()


class Replay:
    """Takes the lines in their order; `faults` are those that the model does not allow where they stand."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._life = 0
        self._turns: dict[str, Turn] = {}
        self._done: dict[str, str] = {}
        """Message -> the turn that finished it."""
        self._failures: dict[str, int] = {}
        self._unsure: set[str] = set()
        """Messages of whose turns one may have failed unheard."""

    def take(self, number: int, line: Line) -> None:
        event = EventName(line["event"])
        if event is EventName.WATCH_STARTED:
            self._life += 1
        if event not in STEPS:
            return
        name = str(line["turn_id"])
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = Turn()
        if event is not EventName.ITEM_DELIVERED:
            # There the id is the item's.
            turn.message, turn.thread = line.get("message_id", turn.message), line.get("thread", turn.thread)
        for why in self._wrong(name, turn, event, line):
            self.faults.append(f"line {number}, {event} of {name}: {why}")
        self._note(name, turn, event, line)

    def end(self) -> list[str]:
        """All faults, once the log is at its end and all that was to be done is."""
        open_turns = [name for name, turn in self._turns.items() if not self._may_be_over(turn)]
        return [*self.faults, *(f"{name} was never settled" for name in open_turns)]

    def _wrong(self, name: str, turn: Turn, event: EventName, line: Line) -> list[str]:
        step, fresh = STEPS[event], turn.life != self._life
        found: list[str] = []
        if turn.step is Step.SETTLED:
            found.append("it was settled")
        if fresh:
            found += self._wrong_of_a_life(turn, event, line)
        else:
            if step < turn.step or (event in turn.seen and event not in AGAIN):
                found.append(f"it was {turn.step.name.lower()}")
            if step is Step.RUNNING and turn.step is not Step.CLAIMED:
                found.append("nobody had claimed it")
            if step > Step.ENDED and turn.step < Step.ENDED and turn.known_from != self._life:
                found.append("it had not ended")
        if event is EventName.TURN_CLAIMED:
            found += self._wrong_of_a_claim(name, line)
        if event is EventName.ITEM_DELIVERED and line["message_id"] in turn.delivered and not fresh:
            found.append("it was delivered")
        if event is EventName.MESSAGE_DONE:
            by = self._done.get(str(line["message_id"]), name)
            found += [f"{by} had done it"] if by != name else []
        if event is EventName.RETRY_SCHEDULED and line["message_id"] not in self._unsure:
            unheard = not turn.counted and Outcome(line["outcome"]) in OWN_FAILURES
            counted = self._failures.get(str(line["message_id"]), 0) + unheard
            if line["attempts"] != counted:
                found.append(f"{line['attempts']} attempts, {counted} failures")
        if event in (EventName.TURN_SETTLED, EventName.RETRY_SCHEDULED) and turn.outcome not in ("", line["outcome"]):
            found.append(f"it had ended as {turn.outcome}")
        return found

    def _wrong_of_a_life(self, turn: Turn, event: EventName, line: Line) -> list[str]:
        """The first word of a turn in this life."""
        step = STEPS[event]
        if event is EventName.TURN_CLAIMED:
            return [] if turn.step is Step.NONE else ["it was claimed before"]
        if event is EventName.TURN_ENDED:
            ran = turn.step >= Step.RUNNING or Outcome(line["outcome"]) not in NEVER_RAN
            return ["nobody had taken it up"] if ran else []
        if self._life < 2:
            return ["it is of nobody's life"]
        if event is EventName.TURN_ADOPTED:
            return ["it had ended"] if turn.step >= Step.ENDED else []
        return [] if step > Step.ENDED else ["nobody had taken it up"]

    def _wrong_of_a_claim(self, name: str, line: Line) -> list[str]:
        message, thread = str(line["message_id"]), str(line["thread"])
        found = [f"{message} was done by {self._done[message]}"] if message in self._done else []
        for other, turn in self._turns.items():
            if other != name and turn.thread == thread and not self._may_be_over(turn):
                found.append(f"{other} of its thread is open")
        counted = self._failures.get(message, 0)
        if message not in self._unsure and line["attempt"] != counted + 1:
            found.append(f"attempt {line['attempt']} after {counted} failures")
        return found

    def _may_be_over(self, turn: Turn) -> bool:
        """Settled, or so far in an earlier life that only the word of it may be missing."""
        told = turn.step >= Step.ENDED and turn.life != self._life
        return turn.step is Step.SETTLED or told

    def _note(self, name: str, turn: Turn, event: EventName, line: Line) -> None:
        if turn.life != self._life:
            # What an earlier watcher had applied of a settlement is applied again.
            turn.life, turn.seen, turn.delivered, turn.step = self._life, set(), set(), Step.NONE
        turn.seen.add(event)
        turn.step = max(turn.step, STEPS[event])
        message = turn.message
        if event is EventName.TURN_ENDED:
            turn.outcome, turn.known_from, turn.counted = str(line["outcome"]), self._life, True
            if Outcome(turn.outcome) in OWN_FAILURES:
                self._failures[message] = self._failures.get(message, 0) + 1
        elif event is EventName.ITEM_DELIVERED:
            turn.delivered.add(str(line["message_id"]))
        elif event is EventName.RETRY_SCHEDULED:
            self._failures[str(line["message_id"])], turn.counted = int(line["attempts"]), True
            self._unsure.discard(str(line["message_id"]))
        elif event in (EventName.MESSAGE_DONE, EventName.DEAD_LETTER):
            self._done[str(line["message_id"])] = name
        if STEPS[event] > Step.ENDED and not turn.counted and message not in self._done:
            self._unsure.add(message)


def replay(lines: Sequence[Line]) -> list[str]:
    """What of a whole log the model does not allow."""
    play = Replay()
    for number, line in enumerate(lines, 1):
        play.take(number, line)
    return play.end()


def swaps(lines: Sequence[Line]) -> list[int]:
    """Where a line and the next are of one turn, each of a step of its own: in the other order they lie."""
    return [
        number
        for number, (first, second) in enumerate(pairwise(lines))
        if first.get("turn_id") == second.get("turn_id") and Step.NONE < _step_of(first) < _step_of(second)
    ]


def _step_of(line: Line) -> Step:
    return STEPS.get(EventName(line["event"]), Step.NONE)


def swapped(lines: Sequence[Line], number: int) -> list[Line]:
    return [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
