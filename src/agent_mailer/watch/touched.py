"""What changed of others' reserved files while a turn ran: looked at around it where its program has no hooks, and
gathered at its end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent_mailer.beneath import is_there
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.meanwhile import meanwhile
from agent_mailer.names import is_turn_id
from agent_mailer.process.environment import find_tool, git_call
from agent_mailer.reservations.calls import CALLS, Before, Calls, Sighting, calls_in, compared, keep, open_in, seen_in
from agent_mailer.reservations.port import How, Reservation, Touched
from agent_mailer.reservations.snapshots import taken
from agent_mailer.reservations.touched import weighed
from agent_mailer.state.folder import STATE_DIRECTORY
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.watch.judging import ended_at

if TYPE_CHECKING:
    from agent_mailer.state import State

LOOKED: Final = "reserved.json"
_MOST_BYTES: Final = 64 * 1024 * 1024
_GIT_SECONDS: Final = 10.0
_MOST_ASKED: Final = 200
"""Files that git is asked about: their names fit into a pipe."""
_TICK: Final = 0.02
"""A file system's clock may stand still for so long."""
_LATE: Final = 2.0
"""So long after a turn's end what is gone may have been removed by others."""


class Looked(msgspec.Struct, frozen=True):
    """`reserved.json`: of a turn without hooks what lay at others' paths when they came to hold them, and what had
    changed there when they gave them back.
    """

    open: tuple[Before, ...] = ()
    seen: tuple[Sighting, ...] = ()


class Lookout:
    """Of one watcher's turns whose programs have no hooks."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._last: dict[str, float] = {}
        """By turn: when it was last seen who holds what."""

    async def look(self, state: State, turn_id: str, others: Sequence[Reservation], now: float) -> None:
        """While the turn runs. Files are looked at only when others begin or end to hold some. Raises OSError."""
        directory, disk = state.turns.path(turn_id), state.folder.disk
        looked = _looked(directory)
        last = self._last.get(turn_id)
        self._last[turn_id] = now
        wanted = {(one.owner, one.pattern): one for one in others}
        had = {(before.others[0].owner, before.others[0].pattern): before for before in looked.open}
        if wanted.keys() == had.keys():
            return

        def update() -> Looked:
            seen = list(looked.seen)
            for key, before in had.items():
                if key not in wanted and last is not None:
                    # What was touched after it was last seen to be held is nobody's business.
                    seen += _until(compared(before, last, before.others, by_call=False), last, gone=False)
            new = [
                Before(str(self._project), (one,), taken(self._project, [one.pattern], now))
                for key, one in wanted.items()
                if key not in had
            ]
            return Looked((*(before for key, before in had.items() if key in wanted), *new), tuple(seen))

        found = await meanwhile(update)
        disk.replace(directory / LOOKED, msgspec.json.encode(found), sync=Sync.NONE)

    def forget(self, turn_id: str) -> None:
        self._last.pop(turn_id, None)


async def touched_by(state: State, turn_id: str, project: Path, now: float) -> tuple[Touched, ...]:
    """Of a turn that has ended. It costs nothing where nobody else had anything reserved. What cannot be read or found
    out is not told of.
    """
    directory = state.turns.path(turn_id)
    with suppress(OSError):
        keep(state.folder.disk, directory)
    if not any(is_there(directory / name) for name in (CALLS, LOOKED)):
        return ()
    ended = ended_at(directory, now)
    seen = await meanwhile(lambda: _sightings(directory, ended, now))
    if not seen:
        return ()
    ignored = await _ignored(project, list(dict.fromkeys(one.path for one in seen)))
    left = [one for one in seen if one.path not in ignored]
    doings = await meanwhile(lambda: _doings({one.owner.turn for one in left if is_turn_id(one.owner.turn)}))
    return weighed(left, doings)


def _sightings(directory: Path, ended: float, now: float) -> list[Sighting]:
    """`ended`: the turn's end; what was touched after it is not of this turn."""
    looked = _looked(directory)
    found = [*seen_in(directory), *looked.seen]
    for before in (*open_in(directory), *looked.open):
        found += _until(compared(before, ended, before.others, by_call=False), ended, gone=now - ended < _LATE)
    return found


def _until(seen: Sequence[Sighting], end: float, *, gone: bool) -> list[Sighting]:
    """What was touched until then. `gone`: what is gone now was gone then."""
    return [one for one in seen if (gone if one.how is How.REMOVED else one.at <= end + _TICK)]


def _looked(directory: Path) -> Looked:
    with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(read_regular(directory / LOOKED, _MOST_BYTES), type=Looked)
    return Looked()


def _doings(turn_ids: Collection[str]) -> Mapping[str, Calls]:
    """Of turns of this user's agents on this machine; those of others are not known."""
    found: dict[str, Calls] = {}
    for workdir in known_workdirs(Disk()).all() if turn_ids else ():
        for turn_id in turn_ids:
            directory = workdir / STATE_DIRECTORY / "turns" / turn_id
            if turn_id not in found and is_there(directory) and (calls := calls_in(directory)) is not None:
                found[turn_id] = calls
    return found


async def _ignored(project: Path, paths: Sequence[str]) -> frozenset[str]:
    """Those that git is told to ignore; none where it cannot say."""
    from agent_mailer.process.commands import run_briefly_async  # only where something has changed

    program = find_tool("git", [project])
    if program is None:
        return frozenset()
    asked = paths[:_MOST_ASKED]
    argv, env = git_call(program, ("check-ignore", "-z", "--stdin"), [project])
    with suppress(OSError):
        stdin = "".join(f"{path}\0" for path in asked).encode()
        done = await run_briefly_async(
            argv, env=env, cwd=project, seconds=_GIT_SECONDS, stdin=stdin, most_bytes=len(stdin)
        )
        if done.status == 0:
            return frozenset(done.output.split("\0")) & frozenset(asked)
    return frozenset()
