"""What the guards cost before a turn starts: a look over many claims, and over long lists of senders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.watch.guards.gate import Gate
from agent_mailer.watch.guards.rounds import GuardPolicy
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import Candidate, WatchPolicy
from benchmarks.measuring import median_of, row

MANY = 100_000
LOOKS = 200
MOST = 0.2


def looks() -> None:
    """Each look as before a start: first without anything behind it, then over 100,000 claims of the last hour."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Workplace(Path(folder))
        who = WhoPolicy(deny=tuple(f"*.{n}@example.com" for n in range(100)), people=("boss", "*@people.example"))
        policy = WatchPolicy(Path(folder), who=who, guards=GuardPolicy(turns_per_hour=MANY * 2))
        gate = Gate(place.state, lambda: policy, place.clock, "coder")
        now = place.clock.now()
        one = Envelope("m", "t", "reviewer", now, "o", "l", visited=("reviewer", "coder") * 4, hops=8)
        few = _each(lambda: gate.admit((Candidate(one),), now))
        for number in range(MANY):
            sender, thread = f"a{number % 1000}", f"t{number % 5000}"
            envelope = msgspec.structs.replace(one, sender=sender, thread=thread, visited=("coder",) * (number % 8))
            record = TurnRecord("x", envelope, Phase.CLAIMED, "command", now - 3000.0 + number / MANY)
            record.counted = gate.counted(envelope, None)
            gate.claimed(record)
        many = _each(lambda: gate.admit((Candidate(one),), now))
        names = _each(lambda: who.why_held(one))
    row("guards: a look before a start", f"{few:.3f} ms", f"at most {MOST} ms", met=few <= MOST)
    row("guards: the same over 100,000 claims", f"{many:.3f} ms", f"at most {MOST} ms", met=many <= MOST)
    row("guards: a sender beside 100 patterns", f"{names:.3f} ms", f"at most {MOST} ms", met=names <= MOST)


def _each(work: Callable[[], object]) -> float:
    """Milliseconds."""
    return median_of(LOOKS, work) * 1e3
