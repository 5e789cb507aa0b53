"""What a turn's outbox shows of its work, from the names that lie in it; who fills it is `turn_tools`."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

import msgspec

from agent_mailer import beneath
from agent_mailer.disk import read_regular
from agent_mailer.runtimes.acp.orders import Staged

_OUTBOXES = ("outbox", "outbox.sealed")
"""While the turn runs, and since it was closed."""
_FINISH = "finish"
_MAIL = re.compile(r"[0-9a-f]{16}\.json")
_QUESTION = re.compile(r"ask-[0-9a-f]{32}")
_MOST_NAMES = 100_000
_LARGEST = 64 * 1024 * 1024


def staged_in(turn_dir: Path) -> Staged:
    """An outbox that cannot be read shows nothing: then the agent's words alone count."""
    paths = [turn_dir / outbox / name for outbox in _OUTBOXES for name in _names(turn_dir / outbox)]
    return Staged(
        mail=any(_MAIL.fullmatch(path.name) and not _leaves_at_once(path) for path in paths),
        finished=any(path.name == _FINISH for path in paths),
        asked=any(_QUESTION.fullmatch(path.name) for path in paths),
    )


class _Draft(msgspec.Struct):
    at_once: bool = False


def _leaves_at_once(path: Path) -> bool:
    """News of progress: it says nothing of how the turn ends. So does what cannot be read."""
    try:
        return msgspec.json.decode(read_regular(path, _LARGEST), type=_Draft).at_once
    except (OSError, ValueError, RecursionError):
        return True


def _names(folder: Path) -> list[str]:
    try:
        with beneath.opened(folder) as fd, os.scandir(fd) as entries:
            return [entry.name for entry in islice(entries, _MOST_NAMES)]
    except OSError:
        return []
