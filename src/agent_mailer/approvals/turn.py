"""What of a person's yes lies in a turn's folder: what is to be asked, what was answered, what the turn used up.

The watcher writes `approvals.json` before the turn begins; the program's hook, or a command's own
`agent-mailer approvals use`, leaves marks in the outbox, each made once and durable before anything is done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path

import msgspec

from agent_mailer import beneath
from agent_mailer.approvals import APPROVALS
from agent_mailer.approvals.calls import MOST_INPUT, Call
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.names import path_name

SIGN = "agent-mailer: a person is asked first"
"""By this the hook shows, as a session begins, that it is heard."""

_OUTBOX = "outbox"
_ASK = "ask-"
_USED = "used-"
_LET = "let-"
_FIRST = "deferred"
MOST_ASKED = 10
"""Questions of one turn: an agent in a loop stops here."""

_ASK_NAME = re.compile(r"ask-[0-9a-f]{32}")
_MOST_NAMES = 100_000
_LARGEST = 64 * 1024 * 1024
_GARBLED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


class Word(StrEnum):
    """What a turn is told of a question."""

    ALLOW = "allow"
    DENY = "deny"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    """It was used up by a turn whose end nobody knows: it may have been done."""


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question's answer. `changed` is the input to run in place of the call's own; `call_id` names a pending call."""

    id: str
    tool: str
    input: str
    digest: str
    word: Word
    call_id: str = ""
    reason: str = ""
    changed: str = ""

    @property
    def chosen(self) -> str:
        """The digest of the call that `changed` makes of it; "" where nothing was changed."""
        return Call(self.tool, self.changed).digest if self.changed else ""


class TurnApprovals(msgspec.Struct, frozen=True, omit_defaults=True):
    """`approvals.json`. `rules` are asked about; with `refused` what the program's mode refuses as well, by mail.

    `always` are the digests that a person has allowed for good. `forbidden`: why nothing can be asked in this turn.
    `edits`: what somebody else has reserved is not edited.
    """

    rules: tuple[str, ...] = ()
    refused: bool = False
    always: tuple[str, ...] = ()
    told: tuple[Told, ...] = ()
    forbidden: str = ""
    edits: bool = False

    def pending(self, call_id: str) -> Told | None:
        return next((one for one in self.told if call_id and one.call_id == call_id), None)

    def about(self, digest: str) -> Told | None:
        """The newest answer about such a call: that was asked about, or that a person has chosen in its place."""
        return next((one for one in reversed(self.told) if digest in (one.digest, one.chosen)), None)

    def without_pending(self) -> TurnApprovals:
        """As for a session in which no call is pending any more: it is called again."""
        told = tuple(msgspec.structs.replace(one, call_id="") for one in self.told)
        return msgspec.structs.replace(self, told=told)


def write(disk: Disk, directory: Path, approvals: TurnApprovals) -> None:
    """Nothing of it is needed after a crash: the next turn's is made anew."""
    disk.overwrite(directory / APPROVALS, msgspec.json.encode(approvals))


def read(directory: Path) -> TurnApprovals:
    """Raises OSError where the turn is over, ValueError where it is damaged."""
    return msgspec.json.decode(read_regular(directory / APPROVALS, _LARGEST), type=TurnApprovals)


def use_up(disk: Disk, directory: Path, approval_id: str) -> bool:
    """Durable when it returns; False where it was used up before: whatever came of it, it is not to be done again.

    Raises OSError: the turn is over, or its mark could not be made durable, and nothing may be done.
    """
    return _mark(disk, directory, f"{_USED}{path_name(approval_id)}")


def let_through(disk: Disk, directory: Path, approval_id: str) -> bool:
    """The call that has used it up is asked about once more, as a program may do, and goes on; False for any after it.

    Raises OSError.
    """
    use_up(disk, directory, approval_id)
    return _mark(disk, directory, f"{_LET}{path_name(approval_id)}")


def defer_first(disk: Disk, directory: Path) -> bool:
    """Whether this call is the one of the turn that is left pending. Raises OSError."""
    return _mark(disk, directory, _FIRST)


def ask(disk: Disk, directory: Path, call: Call) -> bool:
    """Leave a question; False where the turn has left as many as it may. Raises OSError where the turn is over."""
    outbox = directory / _OUTBOX
    name = f"{_ASK}{call.digest[:32]}"
    known = _asked(outbox)
    if name not in known and len(known) >= MOST_ASKED:
        return False
    disk.replace(outbox / name, msgspec.json.encode(call), sync=Sync.FULL)
    return True


def asked_in(folder: Path) -> tuple[Call, ...]:
    """The questions in an outbox, open or sealed. An agent writes there as it likes: what is no call is none."""
    return tuple(_calls(folder))


def used_in(folder: Path, approval_ids: Iterable[str]) -> frozenset[str]:
    """Those of the answers that were used up by the turn of this outbox. Each is looked for by its name: whatever else
    an agent has put there hides none. Raises OSError.
    """
    return frozenset(one for one in approval_ids if beneath.is_there(folder / f"{_USED}{path_name(one)}"))


def _calls(folder: Path) -> Iterator[Call]:
    for name in _asked(folder)[:MOST_ASKED]:
        with suppress(OSError, *_GARBLED):
            call = msgspec.json.decode(read_regular(folder / name, 2 * MOST_INPUT), type=Call)
            if name == f"{_ASK}{call.digest[:32]}" and len(call.input) <= MOST_INPUT and len(call.tool) <= 200:
                yield msgspec.structs.replace(call, call_id="")


def _mark(disk: Disk, directory: Path, name: str) -> bool:
    """Whether it was not there. OSError where the outbox is sealed meanwhile: nobody knows if it was seen."""
    try:
        disk.create(directory / _OUTBOX / name, b"", sync=Sync.FULL)
    except FileExistsError:
        return False
    return True


def _asked(folder: Path) -> list[str]:
    """Names that a question may have, whatever else an agent has put there."""
    with suppress(FileNotFoundError, NotADirectoryError), beneath.opened(folder) as fd, os.scandir(fd) as entries:
        names = (entry.name for entry in islice(entries, _MOST_NAMES))
        return sorted(name for name in names if _ASK_NAME.fullmatch(name))
    return []
