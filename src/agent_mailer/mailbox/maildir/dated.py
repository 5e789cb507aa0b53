"""What lies in a folder of messages, by the moments that its names begin with: no file is opened."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent_mailer.mailbox.maildir.listing import is_message_name

_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}\.[0-9]{3}Z")
_LAST_STAMP: Final = "9999"


def stamp(moment: float) -> str:
    """A moment as AMQ's names begin with it, so that it sorts among them."""
    try:
        found = datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):
        return _LAST_STAMP
    return found.strftime("%Y-%m-%dT%H-%M-%S") + f".{found.microsecond // 1000:03d}Z"


def dated_names(folder: Path) -> list[tuple[str, str]]:
    """Every message name in `folder` with its moment, oldest first; no file is opened.

    The moment is the one that AMQ's names begin with; of another name it is the file's. Raises OSError.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_message_name(entry.name):
                continue
            said = _STAMP.match(entry.name)
            with suppress(FileNotFoundError):
                moment = said[0] if said else stamp(entry.stat(follow_symlinks=False).st_mtime)
                found.append((moment, entry.name))
    return sorted(found)
