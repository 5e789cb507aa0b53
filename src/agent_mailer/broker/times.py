"""Moments as the protocol writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def now_text() -> str:
    """Now in UTC as ISO 8601 with microseconds and `+00:00`: the order of such texts is the order in time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def age_seconds(moment: str) -> float:
    """Seconds since `moment`, an ISO 8601 text with a zone; infinite where it is no such text."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
