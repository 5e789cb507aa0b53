"""The machine under the agent: room on its disks, and file events."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent_mailer.checks.result import CheckResult, failed, guarded, ok, warning
from agent_mailer.errors import ExitCode

_MEBIBYTE = 1024 * 1024
LOW = 1024 * _MEBIBYTE
TOO_LOW = 64 * _MEBIBYTE
"""A turn's transcript alone may take this much."""

FEW_INODES = 1000
FEW_INSTANCES = 128
_INOTIFY = Path("/proc/sys/fs/inotify")


def check_disk(paths: Sequence[Path]) -> list[CheckResult]:
    """Bytes and file names left where state and mail are written; one line for each file system."""
    devices: dict[int, Path] = {}
    for path in paths:
        with suppress(OSError):
            devices.setdefault(path.stat().st_dev, path)
    return [guarded("disk", path, partial(_disk, path)) for path in devices.values()]


def _disk(path: Path) -> CheckResult:
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    text = f"{free // _MEBIBYTE} MiB free"
    fix = f"make room: df -h {path}"
    if free < TOO_LOW:
        return failed("disk", path, f"only {text}; nothing is started on a full disk", fix, ExitCode.UNAVAILABLE)
    # Some file systems count no inodes.
    if found.f_files and found.f_favail < FEW_INODES:
        text = f"only {found.f_favail} file names (inodes) left"
        return failed("disk", path, text, f"df -i {path}", ExitCode.UNAVAILABLE)
    if free < LOW:
        return warning("disk", path, f"only {text}", fix)
    return ok("disk", path, text)


def check_file_events(path: Path) -> CheckResult:
    """Whether one more folder can be watched for arriving mail; without, it is looked at every few seconds."""

    def look() -> CheckResult:
        try:
            from asyncinotify import Inotify, Mask
        except (ImportError, RuntimeError, AttributeError, OSError):
            return ok("file_events", path, "this system has no inotify: mail is looked for every 2 seconds")
        try:
            with Inotify(sync_timeout=0) as events:
                events.add_watch(path, Mask.CREATE)
        except OSError as error:
            text = f"no more can be watched ({error.strerror}; {_limits()}): mail is looked for every 2 seconds"
            return warning("file_events", path, text, _RAISE)
        instances = _limit("max_user_instances")
        if instances is not None and instances < FEW_INSTANCES:
            return warning("file_events", path, f"work, but there can be few watchers ({_limits()})", _RAISE)
        return ok("file_events", path, f"work ({_limits()})")

    return guarded("file_events", path, look)


_RAISE = "sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288"


def _limits() -> str:
    names = ("max_user_instances", "max_user_watches")
    return ", ".join(f"{name} {limit}" for name in names if (limit := _limit(name)) is not None) or "no known limits"


def _limit(name: str) -> int | None:
    with suppress(OSError, ValueError):
        return int((_INOTIFY / name).read_text("ascii"))
    return None
