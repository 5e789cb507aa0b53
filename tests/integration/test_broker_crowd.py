"""What pages over all agents of a user are made of, by columns: the same as by every report, read whole."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, create_engine, insert, select, update
from tests.broker_desk import running_broker

from agent_mailer.broker.leases import Lease
from agent_mailer.broker.remote.crowd import briefs, scheduled, sums, these, who_may_need
from agent_mailer.broker.remote.rows import keep_report
from agent_mailer.broker.remote.watched import watched_by
from agent_mailer.broker.tables import agents
from agent_mailer.console.operating.clock import schedule_rows
from agent_mailer.console.operating.needs import needs_of
from agent_mailer.console.operating.pages import trouble_first
from agent_mailer.remote.port import Counted, Question, Report, Resting, Scheduled, Spent, Stuck, Trouble, Working
from agent_mailer.remote.watched import sums_of

pytestmark = pytest.mark.usefixtures("each_database")

MANY = 60
TODAY = datetime.now(UTC).date().isoformat()


class Held:
    """Implements `Holders`: some are watched."""

    def __init__(self, leases: Mapping[str, Lease]) -> None:
        self.leases = leases

    def holders(self, connection: Connection, agent_ids: Sequence[str]) -> Mapping[str, Lease]:
        del connection
        return {one: self.leases[one] for one in agent_ids if one in self.leases}

    def held(self, connection: Connection, user_id: str) -> Mapping[str, Lease]:
        del connection, user_id
        return self.leases


def some_report(lot: random.Random) -> Report:
    def maybe(value: object, chance: float = 0.15) -> object:
        return value if lot.random() < chance else None

    said = {
        "working": maybe((Working("t", "m", "th", 5.0, waits=lot.random() < 0.3),), 0.4),
        "pause": maybe(Resting("by_hand", 5.0)),
        "trouble": maybe(Trouble("disk", 5.0), 0.05),
        "signed_out": maybe(5.0, 0.05),
        "questions": maybe((Question("q", "th", "m", 5.0),)),
        "stuck": (stuck := maybe((Stuck("given_up", "k", 5.0),))),
        "stuck_counts": (Counted("given_up", 1),) if stuck else None,
        "schedules": maybe((Scheduled("nightly", "0 3 * * * UTC", 9.0, why=lot.choice(("", "", "no file"))),), 0.3),
        "today": maybe(Spent(lot.choice((TODAY, "2026-01-01")), 3, 5.0, cost_usd=0.25), 0.6),
        "ended": maybe("stopped", 0.3),
        "waiting": lot.randrange(4),
    }
    return Report("1", "operate", **{name: value for name, value in said.items() if value is not None})  # type: ignore[arg-type]


def test_by_columns_is_found_what_every_report_tells(tmp_path: Path) -> None:
    lot = random.Random(7)
    with running_broker(tmp_path) as desk:
        person = desk.person("alice")
        first = desk.agent(person, "first")
        engine = create_engine(desk.settings.database)
        with engine.begin() as connection:
            like = dict(connection.execute(select(agents).where(agents.c.id == first["id"])).mappings().one())
            user = like["user_id"]
            made = [
                {**like, "id": f"a{n}", "name": f"a{n}", "address": f"a{lot.random()}@x", "inbox_unread": n % 3 // 2}
                | {"tags": lot.choice(([], ["day"], ["night", "'"]))}
                for n in range(MANY)
            ]
            connection.execute(insert(agents), made)
            connection.execute(update(agents).where(agents.c.id == "a3").values(status="deleted"))
            for number in range(MANY):
                for _ in range(lot.randrange(3)):
                    keep_report(connection, (f"a{number}", ""), some_report(lot), None)
            held = Held({f"a{n}": Lease("w", "w", TODAY) for n in range(MANY) if lot.random() < 0.7})
            now = datetime.now(UTC).timestamp() + 3600
            every = watched_by(connection, held, user)
            needs = needs_of(every, now)
            assert len(needs) > 10
            assert needs_of(who_may_need(connection, held, user), now) == needs
            assert len(who_may_need(connection, held, user)) < len(every)
            summed = sums(connection, held.leases, user, TODAY)
            assert summed == sums_of(every, TODAY)
            assert min(summed.working, summed.waiting, summed.turns, summed.cost_usd) > 0
            assert schedule_rows(scheduled(connection, held, user)) == schedule_rows(every) != []
            known = briefs(connection, user)
            order = [one.agent_id for one in trouble_first(every, needs)]
            assert [one.agent_id for one in trouble_first(known, needs)] == order
            tags = {one.agent_id: list(one.tags) for one in known}
            assert all(tags.get(one["id"]) == (None if one["id"] == "a3" else one["tags"]) for one in made)
            assert [one.agent_id for one in these(connection, held, user, ["a9", "a1", "a3", "nobody"])] == ["a9", "a1"]
            # All is well: since when is known by both.
            well = msgspec.structs.replace(Report("1", "operate"), since=1.0)
            for one in every:
                keep_report(connection, (one.agent_id, ""), well, None)
            assert (
                sums(connection, {}, user, TODAY).well_since
                == sums_of(watched_by(connection, held, user), TODAY).well_since
                != ""
            )
        engine.dispose()
