"""When a used-up quota comes back: from the session's own record, else from the words of the message."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from agent_mailer.process.output import tail_text
from agent_mailer.runtimes.codex.events import is_thread_id

_LOOK = 256 * 1024
_USED_UP = 100.0
_MINUTE = 60.0
_SUFFIX = re.compile(r"(\d)(st|nd|rd|th),")
_MOMENT = re.compile(
    r"try again at (?P<date>[A-Z][a-z]{2} \d{1,2}(?:st|nd|rd|th), \d{4} )?(?P<time>\d{1,2}:\d\d [AP]M)", re.IGNORECASE
)


class _Window(msgspec.Struct, frozen=True):
    used_percent: float = 0.0
    resets_at: float | None = None


class _RateLimits(msgspec.Struct, frozen=True):
    primary: _Window | None = None
    secondary: _Window | None = None


class _Payload(msgspec.Struct, frozen=True):
    type: str = ""
    rate_limits: _RateLimits | None = None


class _Entry(msgspec.Struct, frozen=True):
    payload: _Payload


def reset_time(home: Path, thread_id: str | None, message: str, *, seen: float, zone: str | None) -> float | None:
    """Seconds since the epoch, or None where nobody says. `seen` is about when the message was printed.

    `zone` is the TZ of the agent: the message tells local time, to the minute.
    """
    exact = _from_rollout(home, thread_id, seen) if thread_id and is_thread_id(thread_id) else None
    return exact if exact is not None else _from_words(message, seen, _zone(zone))


def _from_rollout(home: Path, thread_id: str, seen: float) -> float | None:
    """The end of the windows that are used up, from the last rate limits that the session's file has."""
    try:
        found = sorted((home / "sessions").glob(f"*/*/*/rollout-*-{thread_id}.jsonl"))
    except OSError:
        return None
    for line in reversed(tail_text(found[-1], _LOOK).split("\n")) if found else ():
        if '"rate_limits"' not in line:
            continue
        limits = _limits(line)
        windows = [w for w in (limits.primary, limits.secondary) if w is not None] if limits else []
        if windows:
            ends = [w.resets_at for w in windows if w.used_percent >= _USED_UP and w.resets_at is not None]
            return max((end for end in ends if end > seen - _MINUTE), default=None)
    return None


def _limits(line: str) -> _RateLimits | None:
    try:
        payload = msgspec.json.decode(line, type=_Entry).payload
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return payload.rate_limits if payload.type == "token_count" else None


def _from_words(message: str, seen: float, zone: ZoneInfo | None) -> float | None:
    found = _MOMENT.search(message)
    if found is None:
        return None
    try:
        clock = datetime.strptime(found["time"].upper(), "%I:%M %p")  # noqa: DTZ007 - local by its nature
        if found["date"]:
            day = datetime.strptime(_SUFFIX.sub(r"\1,", found["date"].strip()), "%b %d, %Y")  # noqa: DTZ007
            named = day.replace(hour=clock.hour, minute=clock.minute)
            return named.replace(tzinfo=zone).timestamp() + _MINUTE
        today = datetime.fromtimestamp(seen, zone)
        named = today.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        if named.timestamp() < seen - _MINUTE:
            named += timedelta(days=1)
        return named.timestamp() + _MINUTE
    except (ValueError, OverflowError, OSError):
        return None


def _zone(name: str | None) -> ZoneInfo | None:
    """None = this machine's."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
