"""What a turn's program ran, and which files it edited: its hook's journal, in the turn's folder.

The hook writes into the outbox, which is all that an agent in a sandbox may write; an agent may write there, too, and
what is no line is none. When the turn has ended the journal is moved beside its record, where it says of this turn what
others want to know: what it did itself while they changed something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.beneath import is_there, names_in, status
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.names import path_name
from agent_mailer.path_patterns import names_path
from agent_mailer.reservations.port import How, Owner, Reservation
from agent_mailer.reservations.snapshots import Change, Snapshot, changes, taken

CALLS: Final = "calls.jsonl"
_FOLDERS: Final = ("", "outbox", "outbox.sealed")
_BEFORE: Final = "before-"
_BEFORE_NAME: Final = re.compile(r"before-[A-Za-z0-9._~-]{1,200}")
MOST_BYTES: Final = 8 * 1024 * 1024
MOST_SIGHTINGS: Final = 200
"""Of one look."""
_MOST_OPEN: Final = 100
_MOST_NAMES: Final = 100_000
_GARBLED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that somebody else had reserved changed between `since` and `until`, at `at` by its own word (0: unknown).

    `by_call`: in that time a shell command of the turn ran; else all that is known is that the turn did.
    """

    path: str
    how: How
    owner: Owner
    pattern: str
    since: float
    until: float
    at: float = 0.0
    by_call: bool = True


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the journal: a command began, or ended, or a file was about to be edited by name (`edit`)."""

    at: float
    call: str = ""
    ended: bool = False
    edit: str = ""
    seen: tuple[Sighting, ...] = ()


class Before(msgspec.Struct, frozen=True):
    """What others had reserved when a command began, and what lay there."""

    project: str
    others: tuple[Reservation, ...]
    snapshot: Snapshot


class Calls(msgspec.Struct, frozen=True):
    """What a turn did itself: from when to when each command ran, and which files it edited by name at what moment."""

    spans: tuple[tuple[float, float], ...] = ()
    edits: tuple[tuple[str, float], ...] = ()


def note(disk: Disk, directory: Path, line: Line) -> None:
    """Durable where it tells of a change. Raises OSError where the turn is over, or has written too much."""
    path = directory / "outbox" / CALLS
    if is_there(path) and status(path).st_size > MOST_BYTES:
        return
    disk.append_line(path, msgspec.json.encode(line), sync=Sync.FULL if line.seen else Sync.NONE)


def put_before(disk: Disk, directory: Path, call: str, before: Before) -> None:
    """Raises OSError."""
    disk.overwrite(_before_at(directory, call), msgspec.json.encode(before))


def take_before(disk: Disk, directory: Path, call: str) -> Before | None:
    """Raises OSError, ValueError."""
    path = _before_at(directory, call)
    with suppress(FileNotFoundError):
        before = msgspec.json.decode(read_regular(path, MOST_BYTES), type=Before)
        disk.remove(path)
        return before
    return None


def open_in(directory: Path) -> list[Before]:
    """Of a command after which the turn has done nothing more: it may have ended with the turn. One that was followed
    by others, and has no end, was not allowed to run.
    """
    last = max((line.at for line in _lines(directory)), default=0.0)
    found = []
    for folder in _FOLDERS[1:]:
        with suppress(OSError):
            names = sorted(name for name in names_in(directory / folder)[:_MOST_NAMES] if _BEFORE_NAME.fullmatch(name))
            for name in names[:_MOST_OPEN]:
                with suppress(OSError, *_GARBLED):
                    found.append(msgspec.json.decode(read_regular(directory / folder / name, MOST_BYTES), type=Before))
    return [before for before in found if before.snapshot.at >= last]


def seen_in(directory: Path) -> list[Sighting]:
    """Of a turn that runs, has ended or is settled."""
    return [one for line in _lines(directory) for one in line.seen]


def calls_in(directory: Path) -> Calls | None:
    """None where no hook tells of this turn's commands. One that has not ended runs."""
    spans: dict[str, tuple[float, float]] = {}
    edits: list[tuple[str, float]] = []
    lines = 0
    for line in _lines(directory):
        lines += 1
        if line.edit:
            edits.append((line.edit, line.at))
        elif line.call:
            began = spans[line.call][0] if line.call in spans else line.at
            spans[line.call] = (began, line.at if line.ended else float("inf"))
    return Calls(tuple(spans.values()), tuple(edits)) if lines else None


def keep(disk: Disk, directory: Path) -> None:
    """Once the turn has ended: before its mail goes, and its outbox with that. Raises OSError."""
    with suppress(FileNotFoundError, FileExistsError):
        disk.move(directory / "outbox" / CALLS, directory / CALLS, sync=Sync.NONE)


def compared(
    before: Before, now: float, others: Sequence[Reservation], *, by_call: bool = True
) -> tuple[Sighting, ...]:
    """What of `others` has changed from then to now, and whose it is."""
    if not others:
        return ()
    patterns = [one.pattern for one in before.others]
    after = taken(Path(before.project), patterns, now)
    found = changes(before.snapshot, after)
    since = before.snapshot.at
    return tuple(sighted(found, others, since, now, by_call=by_call))[:MOST_SIGHTINGS]


def sighted(
    found: Sequence[Change], others: Sequence[Reservation], since: float, until: float, *, by_call: bool
) -> list[Sighting]:
    """Pure: of each change whose it is; of what nobody of these holds nothing."""
    seen = []
    for change in found:
        whose = next((one for one in others if names_path(one.pattern, change.path)), None)
        if whose is not None:
            seen.append(Sighting(change.path, change.how, whose.owner, whose.pattern, since, until, change.at, by_call))
    return seen


def _lines(directory: Path) -> Iterator[Line]:
    for folder in _FOLDERS:
        with suppress(OSError):
            for text in read_regular(directory / folder / CALLS, 2 * MOST_BYTES).splitlines():
                with suppress(*_GARBLED):
                    yield msgspec.json.decode(text, type=Line)
            return


def _before_at(directory: Path, call: str) -> Path:
    return directory / "outbox" / f"{_BEFORE}{path_name(call)}"
