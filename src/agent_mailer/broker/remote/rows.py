"""Reports and requests as rows: the last report of an agent, and what was asked of its watcher, numbered in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.audit import Act, Who, note
from agent_mailer.broker.leases import Fence, last_epochs
from agent_mailer.broker.protocol import CLOCK, Fault, now_text
from agent_mailer.broker.tables import agents
from agent_mailer.broker.watch_tables import remote_requests, reports
from agent_mailer.names import HOOK
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.port import Answered, Asked, Report
from agent_mailer.remote.watched import RemoteRequest, RequestState, Wanted

MOST_WAITING = 100
"""Requests to one agent that wait at a time."""

KEPT = 500
"""So many of an agent's last requests stay, to be looked at."""

SHORT_AWAY = 600.0
"""Seconds for which a watcher may be stopped, and nobody has to know."""

_r = reports.c
_q = remote_requests.c


class WatchedAgent(msgspec.Struct, frozen=True):
    """An agent and what its watcher reported last; without any report nothing is known of it. `waits`: how many
    requests its watcher has not answered; `well_since`: from when on its reports ask for nobody.
    """

    agent_id: str
    name: str
    address: str
    unread: int
    report: Report | None
    reported_at: str | None
    waits: int
    well_since: str | None


def beside(report: Report) -> dict[str, object]:
    """What of a report has columns of its own: what is looked at over all agents at once. Pure."""
    today = report.today
    return {
        "ended": bool(report.ended),
        "working": len(report.working),
        "waiting": report.waiting,
        "schedules": len(report.schedules),
        "turns": today.turns,
        "day": today.day,
        "cost_usd": today.cost_usd,
    }


_COLUMNS = (
    *(_q.number, _q.verb, _q.targets, _q.reason, _q.stopped_then, _q.person, _q.asked_at, _q.ends_ms),
    *(_q.state, _q.lines, _q.answered_at),
)
_BEFORE = select(_r.report, _r.reported_at, _r.well_since).where(_r.agent_id == bindparam("agent"))
_SEQ = select(_r.asked_seq).where(_r.agent_id == bindparam("agent")).with_for_update()
_BEGIN = insert(reports)
_NUMBER = update(reports).where(_r.agent_id == bindparam("agent")).values(asked_seq=bindparam("number"))
_KEEP = (
    update(reports)
    .where(_r.agent_id == bindparam("agent"))
    .values(
        report=bindparam("text"),
        reported_at=bindparam("moment"),
        asked_seq=bindparam("number"),
        well_since=bindparam("well"),
        **{name: bindparam(f"new_{name}") for name in beside(Report("", ""))},
    )
)
_BY_KEY = select(*_COLUMNS).where(_q.agent_id == bindparam("agent"), _q.idempotency_key == bindparam("key"))
_WAITS = (
    _q.state == RequestState.WAITING.value,
    _q.ends_ms > bindparam("now"),
)
_WAITING = select(*_COLUMNS).where(_q.agent_id == bindparam("agent"), *_WAITS).order_by(_q.number)
_COUNT = select(func.count()).where(_q.agent_id == bindparam("agent"), *_WAITS)
_NEWEST_WAITING = select(func.max(_q.number)).where(_q.agent_id == bindparam("agent"), *_WAITS)
_FORGET = delete(remote_requests).where(_q.agent_id == bindparam("agent"), _q.number <= bindparam("before"))
_ASK = insert(remote_requests)
_ANSWER = (
    update(remote_requests)
    .where(
        _q.agent_id == bindparam("agent"),
        _q.number == bindparam("which"),
        _q.state == RequestState.WAITING.value,
    )
    .values(state=bindparam("became"), lines=bindparam("said"), answered_at=bindparam("moment"))
)
_IS_KNOWN = select(_q.state).where(_q.agent_id == bindparam("agent"), _q.number == bindparam("which"))
_ANSWERS = (RemoteVerb.APPROVE, RemoteVerb.DENY)
_ANSWERED = (
    select(*_COLUMNS)
    .where(_q.agent_id == bindparam("agent"), _q.verb.in_([one.value for one in _ANSWERS]))
    .order_by(_q.number)
)
_LATEST = (
    select(*_COLUMNS)
    .where(_q.agent_id == bindparam("agent"), _q.user_id == bindparam("user"))
    .order_by(_q.number.desc())
    .limit(bindparam("most"))
)
_RECENT = (
    select(_q.agent_id, *_COLUMNS)
    .where(_q.user_id == bindparam("user"), _q.asked_at > bindparam("since"))
    .order_by(_q.number)
)
_WATCHED = (
    select(
        *(agents.c.id, agents.c.name, agents.c.address, agents.c.inbox_unread),
        *(_r.report, _r.reported_at, _r.well_since),
        select(func.count()).where(_q.agent_id == agents.c.id, *_WAITS).correlate(agents).scalar_subquery(),
    )
    .select_from(agents.outerjoin(reports, _r.agent_id == agents.c.id))
    .where(agents.c.status == "active", agents.c.id != bindparam("operator"))
    .where(~agents.c.address.startswith(HOOK, autoescape=True))
    .order_by(agents.c.created_at, agents.c.id)
)
_ALL = _WATCHED.where(agents.c.user_id == bindparam("user"))
# Found by their ids: by the user's index PostgreSQL would compare each of ten thousand with each of the ids.
_SOME = _WATCHED.where(
    agents.c.id.in_(bindparam("ids", expanding=True)), func.coalesce(agents.c.user_id, "") == bindparam("user")
)
_NEWEST = select(_r.agent_id, _r.asked_seq).where(_r.agent_id.in_(bindparam("ids", expanding=True)))
_OF_AGENT = select(agents.c.user_id, agents.c.status).where(agents.c.id == bindparam("agent"))


def now_ms() -> int:
    return int(CLOCK.now().timestamp() * 1000)


def keep_report(connection: Connection, agent: tuple[str, str], report: Report, fence: Fence | None) -> int:
    """Of the agent (id, address), in place of any before. The number of the newest request that waits, or 0.

    Raises Fault 409 where the agent has been held anew since `fence`. A watcher that has had more requests than we know
    of tells of a database that was put back: numbers go on from there.
    """
    agent_id, _ = agent
    _require_last(connection, agent, fence)
    known = _seq(connection, agent_id)
    now = now_text()
    text, reported_at, well = connection.execute(_BEFORE, {"agent": agent_id}).one()
    before = None if text is None else msgspec.json.decode(text, type=Report)
    row = {"text": msgspec.json.encode(report).decode(), "moment": now, "number": max(known, report.seen)}
    row["well"] = well_since(report, before, reported_at or now, well, now)
    row |= {f"new_{name}": value for name, value in beside(report).items()}
    connection.execute(_KEEP, {"agent": agent_id, **row})
    newest = connection.execute(_NEWEST_WAITING, {"agent": agent_id, "now": now_ms()}).scalar()
    return int(newest or 0)


def well_since(report: Report, before: Report | None, reported_at: str, well: str | None, now: str) -> str | None:
    """From when on nobody was needed, once that report has come; `well` is that of before, moments are ISO 8601. Pure.

    Of a watcher that began anew nobody knows how long it was missing: it counts from now, but where the one before said
    that it leaves, and that was not long ago.
    """
    if report.needs_somebody:
        return None
    if before is None or before.needs_somebody or well is None:
        return now
    if report.since == before.since:
        return well
    away = (datetime.fromisoformat(now) - datetime.fromisoformat(reported_at)).total_seconds()
    return well if before.ended and away < SHORT_AWAY else now


def _require_last(connection: Connection, agent: tuple[str, str], fence: Fence | None) -> None:
    """Raises Fault 409 where the agent (id, address) has been held anew since `fence`."""
    agent_id, address = agent
    if fence is not None:
        fence.require_last(agent_id, address, last_epochs(connection, [(agent_id, fence)]))


def _seq(connection: Connection, agent_id: str) -> int:
    """The number of the last request; from now on nobody else gives one until the transaction ends."""
    known = connection.execute(_SEQ, {"agent": agent_id}).scalar()
    if known is None:
        _begin(connection, agent_id)
    return int(known or 0)


def _begin(connection: Connection, agent_id: str) -> None:
    """The row of an agent that has not reported, nor was asked anything."""
    connection.execute(_BEGIN, {"agent_id": agent_id, "report": None, "reported_at": None, "asked_seq": 0})


def ask(
    connection: Connection, user_id: str, agent_id: str, wanted: Wanted, person: str, who: Who
) -> tuple[RemoteRequest, bool]:
    """The request, and whether it is new. Raises Fault before any write: 404 (unknown, or of another user), 409 (the
    agent is deleted; the key was used for something else; another has answered the question), 429.
    """
    if _status_of(connection, user_id, agent_id) == "deleted":
        raise Fault(409, f"Agent '{agent_id}' is deleted: nobody watches it")
    known = connection.execute(_SEQ, {"agent": agent_id}).scalar()
    if wanted.key is not None:
        row = connection.execute(_BY_KEY, {"agent": agent_id, "key": wanted.key}).first()
        if row is not None:
            before = _request(row)
            if (before.verb, before.targets, before.reason, before.then) != _content(wanted):
                raise Fault(409, "This Idempotency-Key was used for another request")
            return before, False
    if wanted.verb in _ANSWERS:
        _require_first(connection, agent_id, wanted)
    now = now_ms()
    if int(connection.execute(_COUNT, {"agent": agent_id, "now": now}).scalar_one()) >= MOST_WAITING:
        raise Fault(429, f"{MOST_WAITING} requests to this agent wait, and there may be no more")
    if known is None:
        _begin(connection, agent_id)
    number = int(known or 0) + 1
    connection.execute(_NUMBER, {"agent": agent_id, "number": number})
    connection.execute(_FORGET, {"agent": agent_id, "before": number - KEPT})
    new: dict[str, Any] = {
        "agent_id": agent_id,
        "number": number,
        "user_id": user_id,
        "person": person,
        "verb": wanted.verb.value,
        "targets": list(wanted.targets),
        "reason": wanted.reason,
        "stopped_then": wanted.then,
        "asked_at": now_text(),
        "ends_ms": now + wanted.seconds * 1000,
        "state": RequestState.WAITING.value,
        "lines": [],
        "answered_at": None,
        "idempotency_key": wanted.key,
    }
    connection.execute(_ASK, [new])
    note(
        connection, who, Act.REMOTE_ASKED, f"{agent_id} {number} {wanted.verb.value} {' '.join(wanted.targets)}".strip()
    )
    return _request([new[column.name] for column in _COLUMNS]), True


def _require_first(connection: Connection, agent_id: str, wanted: Wanted) -> None:
    """Raises Fault 409 where somebody has answered that question, and it counts. Under the lock of the agent's row: of
    two in the same instant the second is told.
    """
    for row in connection.execute(_ANSWERED, {"agent": agent_id}):
        given = _request(row)
        if given.targets == wanted.targets and given.state in (RequestState.WAITING, RequestState.DONE):
            word = "allowed" if given.verb is RemoteVerb.APPROVE else "denied"
            raise Fault(409, f"{given.person} has {word} this meanwhile; your answer was not taken")


def _status_of(connection: Connection, user_id: str, agent_id: str) -> str:
    """The user's own agent's. Raises Fault 404."""
    owner = connection.execute(_OF_AGENT, {"agent": agent_id}).first()
    if owner is None or owner[0] != user_id:
        raise Fault(404, "Agent not found")
    return str(owner[1])


def _content(wanted: Wanted) -> tuple[RemoteVerb, tuple[str, ...], str, str]:
    return wanted.verb, wanted.targets, wanted.reason, wanted.then


def waiting_for(connection: Connection, agent_id: str) -> list[Asked]:
    """What the agent's watcher has not answered and what still counts, the oldest first."""
    now = now_ms()
    rows = connection.execute(_WAITING, {"agent": agent_id, "now": now})
    return [
        Asked(row[0], RemoteVerb(row[1]), row[5], max(0.0, (row[7] - now) / 1000), tuple(row[2]), row[3], row[4])
        for row in rows
    ]


def answer(connection: Connection, agent: tuple[str, str], told: Answered, fence: Fence | None, who: Who) -> None:
    """What the watcher says came of it, once; its word counts over the clock's. Raises Fault 404, 409."""
    agent_id, _ = agent
    _require_last(connection, agent, fence)
    if connection.execute(_IS_KNOWN, {"agent": agent_id, "which": told.number}).first() is None:
        raise Fault(404, "Request not found")
    row = {"became": told.became.value, "said": list(told.lines), "moment": now_text()}
    if connection.execute(_ANSWER, {"agent": agent_id, "which": told.number, **row}).rowcount:
        note(connection, who, Act.REMOTE_ANSWERED, f"{agent_id} {told.number} {told.became.value}")


def requests_of(connection: Connection, user_id: str, agent_id: str, most: int) -> list[RemoteRequest]:
    """To that agent, the newest first. Raises Fault 404."""
    _status_of(connection, user_id, agent_id)
    return [_request(row) for row in connection.execute(_LATEST, {"agent": agent_id, "user": user_id, "most": most})]


def recent_requests(connection: Connection, user_id: str, since: float) -> dict[str, list[RemoteRequest]]:
    """By agent what the user has asked since that moment (seconds since 1970), the oldest first."""
    found: dict[str, list[RemoteRequest]] = {}
    for row in connection.execute(_RECENT, {"user": user_id, "since": _text(since)}):
        found.setdefault(row[0], []).append(_request(row[1:]))
    return found


def watched_agents(connection: Connection, user_id: str, agent_ids: Sequence[str] | None = None) -> list[WatchedAgent]:
    """All of the user's that are not deleted, or of these ids, the oldest first; the person is none, nor a hook: nobody
    watches it.
    """
    names: dict[str, Any] = {"user": user_id, "now": now_ms(), "operator": operator_id(user_id)}
    query = _ALL
    if agent_ids is not None:
        query, names["ids"] = _SOME, list(agent_ids)
    found = []
    for row in connection.execute(query, names):
        agent_id, name, address, unread, text, reported_at, well, waits = row
        report = None if text is None else msgspec.json.decode(text, type=Report)
        found.append(WatchedAgent(agent_id, name, address, unread, report, reported_at, waits, well))
    return found


def newest_requests(connection: Connection, agent_ids: Sequence[str]) -> list[tuple[str, int]]:
    """The numbers of the last request to each of these that was ever asked something."""
    return [(row[0], row[1]) for row in connection.execute(_NEWEST, {"ids": agent_ids})]


def _text(moment: float) -> str:
    """Seconds since 1970, as rows hold a moment."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


def _request(row: Sequence[Any]) -> RemoteRequest:
    number, verb, targets, reason, then, person, asked_at, ends_ms, state, lines, answered_at = row
    became = RequestState(state)
    if became is RequestState.WAITING and ends_ms <= now_ms():
        became = RequestState.EXPIRED
    told = (tuple(lines), answered_at)
    return RemoteRequest(
        number, RemoteVerb(verb), tuple(targets), reason, then, person, asked_at, _text(ends_ms / 1000), became, *told
    )
