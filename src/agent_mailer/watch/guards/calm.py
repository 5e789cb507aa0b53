"""When nothing is to start although mail waits: quiet hours, and a machine that has enough to do.

Both are pauses with a reason and an end. What runs goes on.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from agent_mailer.state.records import Pause

LOOK_AGAIN = 60.0
"""Seconds after which a machine that was busy is asked again."""

_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:(?:([01][0-9]|2[0-3]):([0-5][0-9]))|24:00)")
_DAY = 24 * 60

Windows = tuple[tuple[int, int], ...]
"""Minutes of the local day: from, until; a window may go over midnight."""


class CalmPolicy(msgspec.Struct, frozen=True):
    """0 and empty = off; memory and disk are in bytes."""

    quiet: Windows = ()
    max_load: float = 0.0
    min_memory: int = 0
    min_disk: int = 0


def parse_hours(text: str) -> Windows:
    """`22:00-07:00, 12:00-13:00`. Raises ValueError for what is none, or leaves no minute of a day."""
    found: list[tuple[int, int]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _WINDOW.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no time of day: give it as 22:00-07:00")
        start = int(match[1]) * 60 + int(match[2])
        end = _DAY if match[3] is None else int(match[3]) * 60 + int(match[4])
        if start == end:
            raise ValueError(f"{part!r} has no end")
        found.append((start, end))
    if all(any(_within(minute, one) for one in found) for minute in range(_DAY)):
        raise ValueError("no minute of the day is left for work")
    return tuple(found)


def wanted_pause(policy: CalmPolicy, workdir: Path, now: float) -> Pause | None:
    """The pause that there should be at `now`."""
    from agent_mailer.state.records import Pause, PauseReason  # whoever only reads what is configured does without

    if (until := quiet_until(policy.quiet, now)) is not None:
        return Pause(PauseReason.QUIET_HOURS, now, until, "guards.quiet_hours")
    if why := _busy(policy, workdir):
        return Pause(PauseReason.MACHINE, now, now + LOOK_AGAIN, why)
    return None


def quiet_until(windows: Windows, now: float) -> float | None:
    """When the quiet ends that there is at `now`; None where there is none. Windows that touch are one."""
    moment = now
    for _ in range(2 * len(windows)):
        here = datetime.fromtimestamp(moment)  # noqa: DTZ006 - local time
        minute = here.hour * 60 + here.minute
        window = next((one for one in windows if _within(minute, one)), None)
        if window is None:
            break
        day = here.date() + timedelta(days=1 if window[1] <= minute else 0)
        end = datetime(day.year, day.month, day.day) + timedelta(minutes=window[1])  # noqa: DTZ001 - local time
        # A time that the clock has twice ends it twice; one that it skips, when the gap is over.
        moment = next((one for one in (end.timestamp(), end.replace(fold=1).timestamp()) if one > moment), moment)
    return moment if moment > now else None


def _within(minute: int, window: tuple[int, int]) -> bool:
    start, end = window
    return start <= minute < end if start < end else minute >= start or minute < end


def _busy(policy: CalmPolicy, workdir: Path) -> str:
    """What the machine lacks; empty where nothing that was asked for, or where it cannot be told."""
    with suppress(OSError):
        if policy.max_load and (load := os.getloadavg()[0]) > policy.max_load:
            return f"the load is {load:.1f} (guards.max_load {policy.max_load:g})"
    with suppress(OSError):
        found = os.statvfs(workdir)
        if policy.min_disk and (free := found.f_bavail * found.f_frsize) < policy.min_disk:
            return f"{_size(free)} of disk are free (guards.min_disk {_size(policy.min_disk)})"
    with suppress(OSError, ValueError, StopIteration):
        if policy.min_memory:
            lines = Path("/proc/meminfo").read_text("ascii").splitlines()
            free = int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
            if free < policy.min_memory:
                return f"{_size(free)} of memory are free (guards.min_memory {_size(policy.min_memory)})"
    return ""


def _size(size: int) -> str:
    return f"{size / 2**30:.1f}G" if size >= 2**30 else f"{size / 2**20:.0f}M"
