"""A turn that a live session has taken. Its process stands in for the session, and ends with it.

The session's own program is nothing that a watcher may signal: whoever sits there works on, whatever becomes of the
turn. What the session has left in the turn's outbox decides, not how the process ended.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.beneath import is_there
from agent_mailer.disk import read_regular
from agent_mailer.names import printable
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.runtimes.port import Event, Evidence, Finding, Launch, Probe, RuntimeTraits, TurnRequest
from agent_mailer.turn_tools import FINISHED, ISOLATED, RELEASED

NAME = "live"
OUTBOX, SEALED = "outbox", "outbox.sealed"
MOST_REASON = 1000
GONE, EXPIRED, GIVEN_BACK = 3, 4, 5
"""Exit statuses of the stand-in; 0 is an answer."""


class Orders(msgspec.Struct, frozen=True):
    """What the stand-in waits for: a word in the turn's outbox, the end of the session's process, or `seconds`."""

    turn_dir: str
    process: ProcessIdentity
    seconds: float


class LiveRuntime:
    """`who` is the session, as people know it; `process` its own. It may have the message for `seconds`."""

    traits = RuntimeTraits(name=NAME, has_events=False, resumes=False)

    def __init__(self, who: str, process: ProcessIdentity, seconds: float) -> None:
        self._who = who
        self._process = process
        self._seconds = seconds

    def command(self, request: TurnRequest) -> Launch:
        orders = msgspec.json.encode(Orders(str(request.turn_dir), self._process, self._seconds)).decode()
        argv = (sys.executable, ISOLATED, "-m", "agent_mailer.runtimes.live.stand_in", orders)
        return Launch(argv=argv, env={}, cwd=request.workdir)

    def parse(self, line: bytes) -> Sequence[Event]:
        del line
        return ()

    def probes(self, workdir: Path) -> Sequence[Probe]:
        del workdir
        return ()

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        raise NotImplementedError(f"a live session has no probe {probe.name} ({status}, {output})")

    def kept_sessions(self) -> frozenset[str] | None:
        return None

    def judge(self, evidence: Evidence) -> Judgement:
        if word_in(evidence.stdout.parent) == FINISHED:
            return Judgement(Outcome.DONE, f"by the live session {self._who}")
        status = evidence.exit.status
        reason = _reason_in(evidence.stdout.parent) if status == GIVEN_BACK else ""
        why = {
            GIVEN_BACK: f"the live session {self._who} gave it back{reason}",
            GONE: f"the live session {self._who} ended before it had answered",
            EXPIRED: f"the live session {self._who} did not answer in time",
        }.get(status if status is not None else -1, f"what stood in for the live session {self._who} was ended")
        return Judgement(Outcome.INTERRUPTED, why)


def word_in(turn_dir: Path) -> str:
    """How the session has ended the turn; empty where it has not. An answer counts, whatever else lies there."""
    for word in (FINISHED, RELEASED):
        if any(is_there(turn_dir / box / word) for box in (OUTBOX, SEALED)):
            return word
    return ""


def _reason_in(turn_dir: Path) -> str:
    with suppress(OSError):
        said = read_regular(turn_dir / OUTBOX / RELEASED, MOST_REASON).decode("utf-8", "replace")
        return f": {printable(said)}" if said.strip() else ""
    return ""
