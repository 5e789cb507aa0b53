"""What of reservations lies in a turn's folder: what others hold, what the agent wishes, and the answers.

The watcher writes `held.json` and the answers; the agent's tool leaves a wish in the outbox. No key, no network.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer import beneath
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import MailerError, UnavailableFault
from agent_mailer.path_patterns import names_path
from agent_mailer.reservations.port import MOST_PATTERNS, Reservation

HELD: Final = "held.json"
_OUTBOX: Final = "outbox"
_WISH = re.compile(r"reserve-([0-9a-f]{16})")
_MOST_WISHES: Final = 50
_MOST_NAMES: Final = 10_000
_MOST_BYTES: Final = 4 * 1024 * 1024
_GARBLED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


class Wish(msgspec.Struct, frozen=True):
    """Paths that the agent wants to have to itself, as it wrote them."""

    id: str
    paths: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True):
    """`why` is empty where all of `patterns` were granted."""

    id: str
    patterns: tuple[str, ...] = ()
    why: str = ""


class Held(msgspec.Struct, frozen=True):
    """`project`: the folder that the patterns count from. `own`: the turn has something itself, which others see."""

    project: str
    others: tuple[Reservation, ...] = ()
    own: bool = False

    def standing(self, now: float) -> list[Reservation]:
        return [one for one in self.others if one.until > now]


def put_held(disk: Disk, directory: Path, project: Path, others: Sequence[Reservation], *, own: bool = False) -> None:
    """The file is there where anybody holds anything: its hooks do nothing without. Raises OSError. Nothing of it is
    needed after a crash.
    """
    if not others and not own:
        disk.remove(directory / HELD)
        return
    data = msgspec.json.encode(Held(str(project), tuple(others), own))
    with suppress(OSError):
        if read_regular(directory / HELD, _MOST_BYTES) == data:
            return
    disk.replace(directory / HELD, data, sync=Sync.NONE)


def held_in(directory: Path) -> Held | None:
    """None where nobody holds anything. Raises OSError, ValueError where that cannot be told."""
    with suppress(FileNotFoundError):
        return msgspec.json.decode(read_regular(directory / HELD, _MOST_BYTES), type=Held)
    return None


def who_holds(directory: Path, path: Path) -> Reservation | None:
    """Whose a file is now, where it is somebody else's. Raises OSError, ValueError where that cannot be told."""
    held = held_in(directory)
    others = held.standing(time.time()) if held is not None else []
    for name in names_of(held.project, path) if held is not None else ():
        found = next((one for one in others if names_path(one.pattern, name)), None)
        if found is not None:
            return found
    return None


def names_of(project: str, path: Path) -> list[str]:
    """By which names, counted from the project, patterns may know a file: as it is called, and where links lead."""
    found = dict[str, None]()
    for place in (path, Path(os.path.realpath(path))):
        for top in (Path(project), Path(os.path.realpath(project))):
            if place.is_relative_to(top):
                found[place.relative_to(top).as_posix()] = None
    return list(found)


def ask(disk: Disk, directory: Path, paths: Sequence[str], seconds: float) -> Answer:
    """Leave a wish and wait for what becomes of it. Raises UnavailableFault where nobody answers in time, OSError."""
    if len(paths) > MOST_PATTERNS:
        raise MailerError("too_many_paths", f"{len(paths)} paths at once; at most {MOST_PATTERNS}", "reserve a folder")
    wish = Wish(secrets.token_hex(8), tuple(paths))
    disk.replace(directory / _OUTBOX / f"reserve-{wish.id}", msgspec.json.encode(wish), sync=Sync.NONE)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            return msgspec.json.decode(read_regular(_answer_at(directory, wish.id), _MOST_BYTES), type=Answer)
        time.sleep(0.05)
    raise UnavailableFault(
        "no_answer", "nobody has answered whether these paths are free", "edit nothing there yet, and ask again"
    )


def wishes_in(directory: Path) -> list[Wish]:
    """What the agent has left; it writes there as it likes, and what is no wish is none."""
    found = []
    with suppress(OSError), beneath.opened(directory / _OUTBOX) as fd, os.scandir(fd) as entries:
        names = sorted(entry.name for entry in islice(entries, _MOST_NAMES) if _WISH.fullmatch(entry.name))
        for name in names[:_MOST_WISHES]:
            with suppress(OSError, *_GARBLED):
                wish = msgspec.json.decode(read_regular(directory / _OUTBOX / name, _MOST_BYTES), type=Wish)
                if name == f"reserve-{wish.id}" and len(wish.paths) <= MOST_PATTERNS:
                    found.append(wish)
    return found


def put_answer(disk: Disk, directory: Path, answer: Answer) -> None:
    """Raises OSError."""
    disk.replace(_answer_at(directory, answer.id), msgspec.json.encode(answer), sync=Sync.NONE)


def _answer_at(directory: Path, wish_id: str) -> Path:
    return directory / f"reserved-{wish_id}.json"
