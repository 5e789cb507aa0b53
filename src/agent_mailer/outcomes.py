"""How a turn can end, as closed sets. SPEC section 6 says what follows from each."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from agent_mailer.choices import AutoReply as AutoReply  # noqa: PLC0414 - what is answered at an end

FINAL_TEXT_LIMIT: Final = 256 * 1024
"""Bytes of an agent's final words."""
PROGRESS_LIMIT: Final = 1000
"""Characters of a line that is for people."""
MOST_OPEN: Final = 1000
"""Tools that are known to be open at a time: an agent that opens ever more has no more of our memory."""

NOT_EXECUTED = (126, 127)
"""Exit statuses by which a shell, and our holder, say that a program could not be started."""


class Outcome(StrEnum):
    DONE = "done"
    BLOCKED = "blocked"
    ASKED = "asked"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    SESSION_LOST = "session_lost"
    LIMITED = "limited"
    SIGNED_OUT = "signed_out"
    UNAVAILABLE = "unavailable"
    INTERRUPTED = "interrupted"

    @property
    def settles(self) -> bool:
        """The message is finished by this outcome."""
        return self in (Outcome.DONE, Outcome.BLOCKED)

    @property
    def counts(self) -> bool:
        """The message's own fault: it costs an attempt (I6)."""
        return self in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED)

    @property
    def pauses(self) -> bool:
        """Nothing else on this account would fare better: start no more turns for now."""
        return self in (Outcome.LIMITED, Outcome.SIGNED_OUT, Outcome.UNAVAILABLE)

    @property
    def keeps_session(self) -> bool:
        """The rerun may go on in the session of the turn that ended so (I5)."""
        return self in (
            Outcome.ASKED,
            Outcome.LIMITED,
            Outcome.INTERRUPTED,
            Outcome.UNAVAILABLE,
            Outcome.TIMED_OUT,
            Outcome.CRASHED,
        )


class StopReason(StrEnum):
    """Why we ended a turn's processes ourselves; written down before the first signal is sent."""

    FINISHED = "finished"
    DOOMED = "doomed"
    TURN_TIMEOUT = "turn_timeout"
    TOOL_TIMEOUT = "tool_timeout"
    FIRST_OUTPUT_TIMEOUT = "first_output_timeout"
    SILENCE_TIMEOUT = "silence_timeout"
    SHUTDOWN = "shutdown"
    BY_HAND = "by_hand"


class Exit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the agent's process ended: an exit status, or the signal that killed it; neither = it left no record."""

    status: int | None = None
    signal: int | None = None


class Judgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one turn with what a person and the next turn need to know of it.

    `final_text` is the agent's answer (empty where it gave none), `retry_at` seconds since the epoch where the provider
    named a moment, `detail` one line for people.
    """

    outcome: Outcome
    detail: str = ""
    final_text: str = ""
    retry_at: float | None = None
