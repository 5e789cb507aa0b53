"""Which lines of the log are meant: those of a thread, of a turn, or that match a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from agent_mailer.cli.choosing import pick
from agent_mailer.cli.log_lines import Wanted
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import printable


class _Ids(msgspec.Struct, frozen=True):
    """What a line is about. Any JSON may stand there: another program may have written it."""

    thread: object = None
    turn_id: object = None
    message_id: object = None
    targets: object = None


class Names:
    """The threads and turns that the log names, and which belong together."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.threads: dict[str, None] = {}
        self.turns: dict[str, None] = {}
        self.of_thread: dict[str, set[str]] = {}
        """Thread -> its turns and messages."""
        for raw in lines:
            self.learn(ids_of(raw))

    def learn(self, ids: _Ids) -> None:
        if isinstance(ids.turn_id, str):
            self.turns[ids.turn_id] = None
        if isinstance(ids.thread, str):
            self.threads[ids.thread] = None
            known = self.of_thread.setdefault(ids.thread, set())
            known.update(name for name in (ids.turn_id, ids.message_id) if isinstance(name, str))


def ids_of(raw: bytes) -> _Ids:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(raw, type=_Ids)
    return _Ids()


def of_pattern(pattern: str) -> Wanted:
    """Raises UsageFault where it is no regular expression."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageFault("bad_pattern", f"--grep: {error} in {printable(pattern)!r}", "") from None
    return lambda raw: compiled.search(raw.decode("utf-8", "replace")) is not None


def of_turn(turn_id: str) -> Wanted:
    return lambda raw: ids_of(raw).turn_id == turn_id


def of_thread(thread: str, names: Names) -> Wanted:
    """Lines that name the thread, one of its turns or messages, or a request about it; learns as it goes."""
    known = names.of_thread.setdefault(thread, set())

    def wanted(raw: bytes) -> bool:
        ids = ids_of(raw)
        if ids.thread is not None:
            if ids.thread == thread:
                names.learn(ids)
            return ids.thread == thread
        if isinstance(ids.targets, str):
            return bool({ids.targets, *ids.targets.split(" ")} & {thread, *known})
        about = ids.turn_id if ids.turn_id is not None else ids.message_id
        return isinstance(about, str) and about in known

    return wanted


def meant(typed: str, known: Iterable[str], what: str, fix: str, *, to_come: bool) -> str:
    """As `pick`; what nobody knows is taken as typed where it may be `to_come`."""
    try:
        return pick(typed, known, what, fix)
    except MailerError as fault:
        if to_come and fault.code == "unknown" and typed:
            return typed
        raise


def all_of(wanted: Iterable[Wanted]) -> Wanted:
    """Asked in this order, until one says no."""
    parts = list(wanted)
    return lambda raw: all(part(raw) for part in parts)
