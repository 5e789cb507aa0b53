"""An agent as whoever operates it sees it: who watches it, what was reported, what was asked and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.port import Became, Report, Standing


class Watcher(msgspec.Struct, frozen=True):
    """Who holds the agent, and since when."""

    name: str
    since: str


class Watched(msgspec.Struct, frozen=True):
    """An agent, whether somebody watches it now, and what its watcher reported last: of before, where nobody does.

    `standing` is the report in a word; `lost`: the watcher is away and has not said that it leaves; `well_since`: from
    when on (ISO 8601) its reports ask for nobody, None where they do or nobody knows.
    """

    agent_id: str
    name: str
    address: str
    unread: int
    watcher: Watcher | None
    lost: bool
    standing: Standing | None
    reported_at: str | None
    requests_waiting: int
    report: Report | None
    well_since: str | None = None

    @property
    def reported(self) -> bool:
        return self.report is not None


class Sums(msgspec.Struct, frozen=True):
    """Over all agents that reported: how many they are, how many work now, how much mail waits, and what their turns of
    today were and cost. `well_since`: from when on (ISO 8601) no report asks for anybody; empty where one does, or
    nobody knows.
    """

    reported: int = 0
    working: int = 0
    waiting: int = 0
    turns: int = 0
    cost_usd: float = 0.0
    well_since: str = ""


def sums_of(agents: Iterable[Watched], day: str) -> Sums:
    """`day` (UTC) is today."""
    known = [(one, one.report) for one in agents if one.report is not None]
    today = [report.today for _, report in known if report.today.day == day]
    well = [one.well_since for one, _ in known]
    return Sums(
        len(known),
        sum(one.watcher is not None and bool(report.working) for one, report in known),
        sum(report.waiting for _, report in known),
        sum(spent.turns for spent in today),
        sum(spent.cost_usd for spent in today),
        max((moment for moment in well if moment is not None), default="") if None not in well else "",
    )


class RequestState(StrEnum):
    """What came of a request; the last three as its watcher told, or its time has run out before that."""

    WAITING = "waiting"
    DONE = Became.DONE.value
    REFUSED = Became.REFUSED.value
    EXPIRED = Became.EXPIRED.value


class RemoteRequest(msgspec.Struct, frozen=True):
    """What somebody asks of a watcher, until `ends_at`, and what came of it: `lines` are the watcher's, for people."""

    number: int
    verb: RemoteVerb
    targets: tuple[str, ...]
    reason: str
    then: str
    person: str
    asked_at: str
    ends_at: str
    state: RequestState
    lines: tuple[str, ...]
    answered_at: str | None


class Wanted(msgspec.Struct, frozen=True):
    """What is to be asked of an agent's watcher, for `seconds`; the same `key` asks once."""

    verb: RemoteVerb
    seconds: int
    targets: tuple[str, ...] = ()
    reason: str = ""
    then: str = "retry"
    key: str | None = None
