"""Events of the watchers as one line of a story each. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent_mailer.events import EventName
from agent_mailer.names import printable

TROUBLE = frozenset(
    {
        EventName.DEAD_LETTER,
        EventName.ITEM_REFUSED,
        EventName.PAUSED,
        EventName.MESSAGE_UNREADABLE,
        EventName.WATCH_FAULT,
        EventName.RETRY_SCHEDULED,
    }
)
"""What never happens when all is well: the demo says so and points at the log."""


def tell(event: Mapping[str, object]) -> str:
    """What happened; empty for what a newcomer need not know."""
    match event.get("event"):
        case EventName.WATCH_STARTED:
            return f"watches its mailbox (process {_of(event, 'pid')})"
        case EventName.TURN_CLAIMED:
            return f"has mail from {_name(event, 'sender')}"
        case EventName.TURN_STARTED:
            return f"starts its agent on it (process {_of(event, 'pid')})"
        case EventName.TURN_ENDED:
            return f"agent has ended: {_of(event, 'outcome')} after {_of(event, 'seconds')} s"
        case EventName.ITEM_DELIVERED:
            return f"sends a message to {_name(event, 'to')}"
        case EventName.MESSAGE_DONE:
            return "settles the message"
        case EventName.WATCH_STOPPED:
            return "stops"
        case str() as name if name in TROUBLE:
            why = _of(event, "why") or _of(event, "detail") or _of(event, "outcome")
            return f"trouble: {name.replace('_', ' ')}: {why}"
    return ""


def is_trouble(event: Mapping[str, object]) -> bool:
    return event.get("event") in TROUBLE


def _name(event: Mapping[str, object], name: str) -> str:
    """An address as the demo calls its owner."""
    return _of(event, name).partition("@")[0]


def _of(event: Mapping[str, object], name: str) -> str:
    return printable(str(event.get(name, "")))
