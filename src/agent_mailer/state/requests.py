"""`requests/`: what commands ask of a running watcher, one file each, and its answers."""

from __future__ import annotations

import secrets
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from agent_mailer.beneath import is_there, names_in, status
from agent_mailer.disk import TEMPORARY_PREFIX, Sync, read_regular
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.records import AfterStop, Sitter

ASKED_SUFFIX = ".json"
TAKEN_SUFFIX = ".taken"
"""Being applied: whoever asked can no longer take it back."""
ANSWER_SUFFIX = ".answer"
KEEP_ANSWER_SECONDS = 300
MAILBOX_WAITS = "mailbox"
"""Third line of the answer to a ping: the loop turns, and waits for its mailbox; the first says since when."""


class Verb(StrEnum):
    STUCK_RETRY = "stuck retry"
    STUCK_DROP = "stuck drop"
    SESSIONS_INVALIDATE = "sessions invalidate"
    SESSIONS_PRUNE = "sessions prune"
    TURNS_STOP = "turns stop"
    PAUSE = "pause"
    RESUME = "resume"
    ORDER = "order"
    """Names an order that a person has left in the user's state folder."""
    ANSWERED = "answered"
    """Names a question that a person has answered, in the user's state folder."""
    TAKE = "take"
    """A live session, `by`, wants to work on a message that waits."""
    HEARD = "heard"
    """The operator was told by these channels, by hand."""
    PING = "ping"
    """Asks whether the loop turns and could start a turn. Nothing relies on it: no write of it is synced."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """`targets` are message ids, turns, threads, or what is stuck; empty means all where the verb allows it. `seconds`
    is an age; `then` belongs to a turn that is stopped.
    """

    verb: Verb
    targets: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    then: AfterStop = AfterStop.RETRY
    by: Sitter | None = None


class Answer(msgspec.Struct, frozen=True):
    """`lines` are for people, one a target; `ok` is false where nothing was done."""

    ok: bool
    lines: tuple[str, ...]


class RequestBox:
    """The folder through which commands and the watcher speak."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder

    def submit(self, request: Request) -> str:
        """Hand a request to the watcher, durably unless it is a ping. Returns its name."""
        name = f"{self._folder.clock.now():017.6f}-{secrets.token_hex(4)}"
        path = self._folder.requests / f"{name}{ASKED_SUFFIX}"
        sync = Sync.NONE if request.verb is Verb.PING else Sync.FULL
        # A watcher that holds the workdir's lock may not have come so far yet.
        self._folder.disk.make_directory(path.parent, sync=sync)
        self._folder.disk.replace(path, msgspec.json.encode(request), sync=sync)
        return name

    def waiting(self) -> list[tuple[str, Request | None]]:
        """Requests not yet applied, oldest first; None where the file is no request.

        One that was taken is among them: whoever took it may have died over it.
        """
        found: list[tuple[str, Request | None]] = []
        paths = [self._folder.requests / name for name in self._names(ASKED_SUFFIX, TAKEN_SUFFIX)]
        # Where a file system cannot rename without replacing, a crash leaves one under both names.
        for path in {path.stem: path for path in paths}.values():
            data = self._folder.bytes_of(path)
            if data is None:
                continue
            try:
                request = msgspec.json.decode(data, type=Request)
            except GARBLED:
                found.append((path.stem, None))
            else:
                found.append((path.stem, request))
        return found

    def take(self, name: str) -> bool:
        """Before it is applied: whoever asked is never told that nothing was changed. False if it was taken back."""
        try:
            self._folder.disk.move(self._path(name, ASKED_SUFFIX), self._path(name, TAKEN_SUFFIX), sync=Sync.NONE)
        except (FileNotFoundError, FileExistsError):
            return is_there(self._path(name, TAKEN_SUFFIX))
        return True

    def answer(self, name: str, answer: Answer, *, durable: bool = True) -> None:
        """Answer first, then remove: a crash between the two applies the request again, which changes nothing.

        Later it would, over what was asked for since: so the removal is durable, but for a ping's.
        """
        self._folder.disk.replace(self._path(name, ANSWER_SUFFIX), msgspec.json.encode(answer), sync=Sync.NONE)
        self._forget(name)
        if durable:
            self._folder.disk.sync_directory(self._folder.requests)

    def take_answer(self, name: str) -> Answer | None:
        """What was answered is done: nothing of it is left to be applied again."""
        path = self._path(name, ANSWER_SUFFIX)
        with suppress(OSError, *GARBLED):
            answer = msgspec.json.decode(read_regular(path), type=Answer)
            self.withdraw(name, taken=True)
            self._folder.disk.remove(path)
            return answer
        return None

    def withdraw(self, name: str, *, durable: bool = True, taken: bool = False) -> bool:
        """Take back a request nobody has applied. False if it was applied meanwhile, or is just now.

        `taken`: whoever took it is gone; the caller holds the workdir's lock.
        """
        existed = self._forget(name) if taken else self._folder.disk.remove(self._path(name, ASKED_SUFFIX))
        if existed and durable:
            self._folder.disk.sync_directory(self._folder.requests)
        return existed

    def _forget(self, name: str) -> bool:
        taken, asked = (self._folder.disk.remove(self._path(name, suffix)) for suffix in (TAKEN_SUFFIX, ASKED_SUFFIX))
        return taken or asked

    def tidy(self) -> None:
        """Remove answers nobody fetched and leftovers of interrupted writes."""
        limit = self._folder.clock.now() - KEEP_ANSWER_SECONDS
        for name in [*self._names(ANSWER_SUFFIX), *self._names(prefix=TEMPORARY_PREFIX)]:
            path = self._folder.requests / name
            with suppress(OSError):
                if status(path).st_mtime < limit:
                    self._folder.disk.remove(path)

    def _names(self, *suffixes: str, prefix: str = "") -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(
                n
                for n in names_in(self._folder.requests)
                if n.endswith(suffixes or "") and n.startswith(prefix) and (prefix or not n.startswith("."))
            )
        return []

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder.requests / f"{name}{suffix}"
