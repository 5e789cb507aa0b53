"""An agent as whoever operates it sees it: who watches it, what was reported, what was asked and what came of it."""

from __future__ import annotations

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
