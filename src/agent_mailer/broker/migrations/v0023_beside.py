"""Of each report what is looked at over all agents at once, so that not every report has to be read for it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

PORTION = 500


def upgrade() -> None:
    """They follow from the reports, which stay as they are."""
    op.add_column("reports", sa.Column("ended", sa.Boolean()))
    for name in ("working", "waiting", "schedules", "turns"):
        op.add_column("reports", sa.Column(name, sa.BigInteger()))
    op.add_column("reports", sa.Column("day", sa.Text()))
    op.add_column("reports", sa.Column("cost_usd", sa.Float()))
    rows = sa.table("reports", *(sa.column(name) for name in ("agent_id", "report", *_beside("{}"))))
    names: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in _beside("{}")}
    change = sa.update(rows).where(rows.c.agent_id == sa.bindparam("agent")).values(names)
    connection, last = op.get_bind(), ""
    while True:
        some = connection.execute(
            sa.select(rows.c.agent_id, rows.c.report)
            .where(rows.c.agent_id > last, rows.c.report.is_not(None))
            .order_by(rows.c.agent_id)
            .limit(PORTION)
        ).all()
        if not some:
            return
        last = some[-1][0]
        connection.execute(
            change,
            [{"agent": one, **{f"new_{name}": value for name, value in _beside(text).items()}} for one, text in some],
        )


def _beside(text: str) -> dict[str, Any]:
    report = json.loads(text)
    today = report.get("today", {})
    return {
        "ended": bool(report.get("ended", "")),
        "working": len(report.get("working", ())),
        "waiting": report.get("waiting", 0),
        "schedules": len(report.get("schedules", ())),
        "day": today.get("day", ""),
        "turns": today.get("turns", 0),
        "cost_usd": today.get("cost_usd", 0.0),
    }
