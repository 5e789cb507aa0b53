"""A file of what was taken, for a mailbox whose server keeps no claims: read once, durable after each change."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, mend, put_aside, words_of

T = TypeVar("T", bound=msgspec.Struct)


class SeenFile(Generic[T]):
    """What the file at `path` holds; `kind()` where there is none. Raises ConfigFault, OSError."""

    def __init__(self, path: Path, disk: Disk, kind: type[T]) -> None:
        self.path = path
        self._disk = disk
        self._kind = kind
        self._read: T | None = None

    @property
    def content(self) -> T:
        if self._read is None:
            try:
                self._read = msgspec.json.decode(read_regular(self.path), type=self._kind)
            except FileNotFoundError:
                self._read = self._kind()
            except OSError as error:
                raise ConfigFault("bad_seen", words_of(error), mend(error, self.path)) from None
            except (msgspec.DecodeError, RecursionError) as error:
                # Without it all is listed once more; what the watcher has settled it knows itself.
                raise ConfigFault("bad_seen", f"{self.path}: {words_of(error)}", put_aside(self.path)) from None
        return self._read

    def write(self, content: T) -> None:
        """Durable when it returns."""
        self._disk.make_directory(self.path.parent, sync=Sync.FULL)
        self._disk.replace(self.path, msgspec.json.encode(content) + b"\n", sync=Sync.FULL)
        self._read = content

    def forget(self) -> None:
        """Read the file again when it is next needed."""
        self._read = None
