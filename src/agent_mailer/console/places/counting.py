"""How much mail a user's agents had on each day, and how their turns ended: what is over is counted once in a while."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, case, func, literal_column, select

from agent_mailer.broker.tables import messages, receipts, threads

LIFE = 600.0
"""Seconds after which it is counted anew: something may have been deleted."""
SETTLED = timedelta(seconds=60)
"""What is so old is stored, also by other processes."""
MOST_USERS = 1_000

_m, _t, _r = messages.c, threads.c, receipts.c
# By the threads' own index first: of old mail nothing is read.
_RECENT = select(_t.thread_id).where(_t.user_id == bindparam("user"), _t.last_activity >= bindparam("since"))


def _day_of(moment: Any) -> Any:  # noqa: ANN401 - expressions
    return func.substr(moment, literal_column("1"), literal_column("10"))


_BY_DAY: Select[Any] = (
    select(
        _day_of(_m.created_at), func.count(), func.sum(case((_m.from_agent_id == bindparam("operator"), 1), else_=0))
    )
    .where(_m.user_id == bindparam("user"), _m.thread_id.in_(_RECENT))
    .where(_m.created_at >= bindparam("since"), _m.created_at < bindparam("until"))
    .group_by(_day_of(_m.created_at))
)
_ENDS: Select[Any] = (
    select(_day_of(_r.created_at), _r.outcome, func.count())
    .join(messages, _m.id == _r.message_id)
    .where(_r.stage == "settled", _r.created_at >= bindparam("since"))
    .group_by(_day_of(_r.created_at), _r.outcome)
)
_OLD_ENDS = _ENDS.where(_m.user_id == bindparam("user"), _m.thread_id.in_(_RECENT), _r.id <= bindparam("known"))
# Of few receipts the messages are looked up: not of all messages of the user the receipts.
_NEW_ENDS = _ENDS.where(_r.id > bindparam("known"), func.coalesce(_m.user_id, "") == bindparam("user"))
_KNOWN = select(_r.id).where(_r.created_at < bindparam("until")).order_by(_r.id.desc()).limit(1)


class Figures(msgspec.Struct, frozen=True):
    """By day (UTC, ISO 8601): how many messages, and of them the operator's; by day and outcome: how many turns."""

    mail: dict[str, int]
    own: dict[str, int]
    ends: dict[tuple[str, str], int]

    def outcomes(self, since: str) -> list[tuple[str, int]]:
        """Of turns that have ended on that day or later, the most frequent first."""
        found = Counter[str]()
        for (day, outcome), many in self.ends.items():
            if day >= since:
                found[outcome] += many
        return found.most_common()


class _Kept(msgspec.Struct, frozen=True):
    """What was counted at `at` (monotonic): messages before the moment `until`, receipts up to the number `known`."""

    at: float
    since: str
    until: str
    known: int
    figures: Figures


class Counting:
    """One a process. Several threads may ask at the same time: at worst it is counted twice."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def of(self, connection: Connection, user_id: str, operator: str, since: str) -> Figures:
        """From that day on."""
        kept = self._kept.get(user_id)
        if kept is None or kept.since > since or time.monotonic() - kept.at > LIFE:
            kept = _count(connection, user_id, operator, since)
            if len(self._kept) >= MOST_USERS:
                self._kept.clear()
            self._kept[user_id] = kept
        names = {"user": user_id, "operator": operator, "since": max(since, kept.until), "until": "9999"}
        newer = _figures(
            connection.execute(_BY_DAY, names).all(),
            connection.execute(_NEW_ENDS, {"user": user_id, "since": since, "known": kept.known}).all(),
        )
        before = kept.figures
        return Figures(
            Counter(before.mail) + Counter(newer.mail),
            Counter(before.own) + Counter(newer.own),
            Counter(before.ends) + Counter(newer.ends),
        )


def _count(connection: Connection, user_id: str, operator: str, since: str) -> _Kept:
    at, until = time.monotonic(), (datetime.now(UTC) - SETTLED).isoformat(timespec="microseconds")
    known = connection.execute(_KNOWN, {"until": until}).scalar() or 0
    names = {"user": user_id, "operator": operator, "since": since, "until": until, "known": known}
    found = _figures(connection.execute(_BY_DAY, names).all(), connection.execute(_OLD_ENDS, names).all())
    return _Kept(at, since, until, known, found)


def _figures(by_day: Any, ends: Any) -> Figures:  # noqa: ANN401 - rows
    mail, own, ended = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for day, many, by_operator in by_day:
        mail[day], own[day] = int(many), int(by_operator)
    for day, outcome, many in ends:
        ended[day, outcome or ""] += int(many)
    return Figures(mail, own, ended)
