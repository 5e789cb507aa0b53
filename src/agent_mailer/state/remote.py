"""What was asked from afar, and how far that is: kept where no agent writes, so that each request is done once.

A request is taken with its number, and from then on is ours to do; what came of it is written down together with the
end of that, and forgotten once it was told. Only the holder of the workdir's lock writes.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from agent_mailer.disk import Sync, of_the_moment, read_regular
from agent_mailer.names import path_name
from agent_mailer.remote.port import Answered, Asked
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.workdirs import user_state

LARGEST = 16 * 1024 * 1024


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    seen: int = 0
    doing: Asked | None = None
    untold: tuple[Answered, ...] = ()


class RemoteBook:
    """One workdir's. Nothing is read before somebody asks; a damaged one begins anew."""

    def __init__(self, folder: StateFolder) -> None:
        self._state = folder
        self._disk = folder.disk
        self._kept: _Kept | None = None

    @property
    def seen(self) -> int:
        """The number of the last request that was taken; none of an earlier one is taken again."""
        return self._load().seen

    @property
    def doing(self) -> Asked | None:
        """What was taken, and may have been done or not."""
        return self._load().doing

    @property
    def untold(self) -> tuple[Answered, ...]:
        """What came of requests, as far as that was not told; oldest first."""
        return self._load().untold

    def take(self, asked: Asked) -> None:
        """It is ours to do, whatever happens. Durable when it returns. Raises OSError."""
        self._write(msgspec.structs.replace(self._load(), seen=asked.number, doing=asked))

    def end(self, answered: Answered) -> None:
        """That came of it, of what was taken or of what is not done. Durable when it returns. Raises OSError."""
        kept = self._load()
        seen = max(kept.seen, answered.number)
        self._write(_Kept(seen, untold=(*kept.untold, answered)))

    def told(self, answered: Answered) -> None:
        """It need not be told again; a lost word of that has it told once more, and loses no other. Raises OSError."""
        kept = self._load()
        left = tuple(one for one in kept.untold if one.number != answered.number)
        self._write(msgspec.structs.replace(kept, untold=left), Sync.CONTENT)

    def _load(self) -> _Kept:
        """Raises OSError where it cannot be read just now."""
        if self._kept is None:
            self._kept = self._read()
        return self._kept

    def _read(self) -> _Kept:
        try:
            return msgspec.json.decode(read_regular(self._path, LARGEST), type=_Kept)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, *GARBLED) as error:
            if isinstance(error, OSError) and of_the_moment(error):
                raise
            if self._state.ours:
                self._state.set_aside(self._path, str(error))
            else:
                self._state.damaged(self._path, str(error))
        return _Kept()

    def _write(self, kept: _Kept, sync: Sync = Sync.FULL) -> None:
        self._disk.make_directory(self._path.parent, sync=Sync.FULL)
        self._state.clear_way(self._path)
        self._disk.replace(self._path, msgspec.json.encode(kept) + b"\n", sync=sync)
        self._kept = kept

    @property
    def _path(self) -> Path:
        return user_state() / "remote" / f"{path_name(os.path.realpath(self._state.workdir))}.json"
