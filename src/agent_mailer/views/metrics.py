"""A user's workdirs as numbers in Prometheus' text format, for a collector of text files. Pure.

The names and labels are a promise (docs/reference/metrics.md). No label holds anything of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from agent_mailer.names import printable
from agent_mailer.views.values.status import AllView, FaultView, StatusView

PREFIX = "agent_mailer_"
GAUGE, COUNTER = "gauge", "counter"

Sample = tuple[dict[str, str], float]
"""Labels, and the value."""


Count = Callable[[StatusView], int]


class Family(msgspec.Struct, frozen=True):
    """One name with its kind, in a sentence what it says, and its samples."""

    name: str
    kind: str
    means: str
    samples: Sequence[Sample] = ()


def as_text(view: AllView, version: str, now: float) -> str:
    """What `view` says; `now` in seconds since the epoch."""
    return "".join(line for family in families(view, version, now) for line in _lines(family))


def families(view: AllView, version: str, now: float) -> Iterator[Family]:
    """Each name once, with a sample for each workdir of which it can be said."""
    every = [(_whose(one), one) for one in view.workdirs]
    known = [(who, one) for who, one in every if isinstance(one, StatusView)]
    yield Family("exported_timestamp_seconds", GAUGE, "When these numbers were taken", [({"version": version}, now)])
    about = [
        (who | {"mailbox": one.mailbox.kind, "runtime": one.runtime or "", "version": one.watcher.version or ""}, 1.0)
        for who, one in known
    ]
    yield Family("info", GAUGE, "An agent, and the version of its watcher that runs", about)
    yield Family("healthy", GAUGE, "Whether nothing needs a person", [(who, float(one.healthy)) for who, one in every])
    problems = [
        (who | {"code": code}, 1.0) for who, one in every for code in sorted({p.code.value for p in one.problems})
    ]
    yield Family("problem", GAUGE, "What needs a person", problems)
    up = [(who, float(one.watcher.running and not one.watcher.halted)) for who, one in known]
    yield Family("watcher_up", GAUGE, "Whether a watcher runs", up)
    waiting = [(who, float(one.mailbox.waiting)) for who, one in known if one.mailbox.waiting is not None]
    yield Family("messages_waiting", GAUGE, "Messages that no turn was begun for; of a folder mailbox", waiting)
    oldest = [
        (who, max((queued.seconds for queued in one.mailbox.queue), default=0.0))
        for who, one in known
        if one.mailbox.waiting is not None
    ]
    yield Family("oldest_waiting_seconds", GAUGE, "How long the oldest of them has waited; 0 where none does", oldest)
    yield _count("turns_running", "Turns in which a program runs", known, lambda one: len(one.running))
    yield _count("turns_settling", "Turns that ended and are not settled yet", known, lambda one: len(one.settling))
    yield _count("retries_waiting", "Messages that are tried again later", known, lambda one: len(one.retries))
    yield _count(
        "questions_open",
        "Questions to a person without an answer",
        known,
        lambda one: len(one.blocked) + len(one.asked),
    )
    paused = [
        (who | {"reason": one.pause.reason if one.pause else ""}, float(one.pause is not None)) for who, one in known
    ]
    yield Family("paused", GAUGE, "Whether no turn is begun, and why", paused)
    stuck = [(who | {"reason": each.reason}, float(each.count)) for who, one in known for each in one.stuck]
    yield Family("messages_stuck", GAUGE, "Messages that wait for a person to decide on them", stuck)
    held = [(who | {"guard": each.guard}, float(each.count)) for who, one in known for each in one.held]
    yield Family("messages_held", GAUGE, "Messages that a guard holds", held)
    yield from _spent(known)


def _spent(known: Sequence[tuple[dict[str, str], StatusView]]) -> Iterator[Family]:
    """They begin anew at 00:00 UTC, which a counter may."""
    means = "since 00:00 UTC"
    yield Family("turns_total", COUNTER, f"Turns {means}", [(who, float(one.today.turns)) for who, one in known])
    seconds = [(who, one.today.seconds) for who, one in known]
    yield Family("turn_seconds_total", COUNTER, f"What they took {means}", seconds)
    tokens = [
        (who | {"kind": kind}, float(many))
        for who, one in known
        for kind, many in (("input", one.today.input_tokens), ("output", one.today.output_tokens))
    ]
    yield Family("tokens_total", COUNTER, f"Tokens {means}, as the agent programs count them", tokens)
    dollars = [(who, one.today.cost_usd) for who, one in known]
    yield Family("cost_dollars_total", COUNTER, f"US dollars {means}, as the agent programs count them", dollars)


def _count(name: str, means: str, known: Iterable[tuple[dict[str, str], StatusView]], count: Count) -> Family:
    return Family(name, GAUGE, means, [(who, float(count(one))) for who, one in known])


def _whose(one: StatusView | FaultView) -> dict[str, str]:
    return {"agent": one.agent if isinstance(one, StatusView) else "", "workdir": one.workdir}


def _lines(family: Family) -> Iterator[str]:
    if not family.samples:
        return
    name = PREFIX + family.name
    yield f"# HELP {name} {family.means}\n# TYPE {name} {family.kind}\n"
    for labels, value in family.samples:
        named = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{named}}} {value:.17g}\n"


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
