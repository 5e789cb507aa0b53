"""How does a person find mail again, and put away what is over?"""

from __future__ import annotations

import re
from collections.abc import Collection, Coroutine, Sequence
from contextlib import AbstractContextManager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Message
from agent_mailer.people.port import PersonalMail

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")
SNIPPET = 80
"""Characters on each side of the first word that was found."""
_WORDS = re.compile(r"\w+")
_WANTED = re.compile(r"\w+\*?")


class Hit(msgspec.Struct, frozen=True):
    """A message that was found; `snippet` is what stands around the words. `created` is in seconds since the epoch."""

    id: str
    thread: str
    sender: str
    to: tuple[str, ...]
    subject: str
    created: float
    snippet: str


class Shelf(StrEnum):
    ARCHIVE = "archive"
    TRASH = "trash"


class Away(msgspec.Struct, frozen=True):
    """What is put away: a thread with all its messages, or (`message`) one message of it by itself. `since` is in
    seconds since the epoch.
    """

    shelf: Shelf
    thread: str
    message: str = ""
    subject: str = ""
    messages: int = 1
    since: float = 0.0

    @property
    def id(self) -> str:
        return self.message or self.thread


class Keeping(Protocol):
    """What mailboxes do with mail that is over. Raises as `PersonalMail` does; UsageFault where there is none of it."""

    def faults(self) -> AbstractContextManager[None]:
        """Around whatever is done: failures in a person's words."""

    async def search(self, words: str, limit: int) -> tuple[Sequence[Hit], bool]:
        """The newest `limit` messages that have all of these words, newest first, and whether there are more."""

    async def put(self, typed: str, shelf: Shelf) -> Away:
        """A thread, or a message (the archive takes its thread), which leaves the inbox."""

    async def bring_back(self, typed: str) -> Away:
        """What is put away, as it was."""

    async def listed(self, shelf: Shelf) -> Sequence[Away]:
        """What is there, what was put there last first."""


def run(keeping: Keeping, work: Coroutine[object, object, T]) -> T:
    """Raises as `work` does, in a person's words."""
    import asyncio

    with keeping.faults():
        return asyncio.run(work)


class LookedThrough:
    """Mail of a mailbox that has no index, no archive and no trash: `where`, in words."""

    def __init__(self, mail: PersonalMail, where: str) -> None:
        self._mail, self._where = mail, where

    def faults(self) -> AbstractContextManager[None]:
        return self._mail.faults()

    async def search(self, words: str, limit: int) -> tuple[Sequence[Hit], bool]:
        """Every message is read, the newest first, until enough were found; what was sent, too."""
        wanted = wanted_words(words)
        heads = {one.message.envelope.id: one.message for one in await self._mail.listed(read_too=True)}
        with suppress(MailerError):
            heads = {one.envelope.id: one for one in await self._mail.sent(0)} | heads
        found: list[Hit] = []
        for head in sorted(heads.values(), key=lambda one: one.envelope.order, reverse=True):
            message = await self._mail.mailbox.read(head.envelope)
            if not isinstance(message, Message):
                message = await self._mail.sent_copy(head.envelope.id) or head
            text = f"{message.subject}\n{message.body}"
            if not _has_all(text, wanted):
                continue
            if len(found) == limit:
                return found, True
            envelope = message.envelope
            found.append(
                Hit(
                    *(envelope.id, envelope.thread, envelope.sender, tuple(envelope.to)),
                    *(message.subject, envelope.created, snippet(message.body, wanted)),
                )
            )
        return found, False

    async def put(self, typed: str, shelf: Shelf) -> Away:
        del typed
        raise self._nothing(shelf)

    async def bring_back(self, typed: str) -> Away:
        del typed
        raise self._nothing(Shelf.TRASH)

    async def listed(self, shelf: Shelf) -> Sequence[Away]:
        raise self._nothing(shelf)

    def _nothing(self, shelf: Shelf) -> UsageFault:
        fix = "agent-mailer mail read ID: what was read waits no more, and mail inbox lists it only with --all"
        return UsageFault("no_shelves", f"{self._where} has no {shelf}; what was read stays where it is", fix)


def wanted_words(text: str) -> frozenset[str]:
    """The words that are asked for; `work*` is what begins so. Raises UsageFault where there is none."""
    found = frozenset(_WANTED.findall(text.casefold()))
    if not found:
        raise UsageFault("no_words", "there is no word to look for", "agent-mailer mail search 'release notes'")
    return found


def _has_all(text: str, wanted: Iterable[str]) -> bool:
    words = set(_WORDS.findall(text.casefold()))
    return all(any(w.startswith(one[:-1]) for w in words) if one[-1] == "*" else one in words for one in wanted)


def snippet(body: str, wanted: Collection[str]) -> str:
    """What stands around the first of these words in it, in one line."""
    begins = tuple(one[:-1] for one in wanted if one[-1] == "*")
    whole = frozenset(one for one in wanted if one[-1] != "*")

    def is_wanted(text: str) -> bool:
        return any(word in whole or word.startswith(begins) for word in _WORDS.findall(text.casefold()))

    first = next((word for word in _WORDS.finditer(body) if is_wanted(word[0])), None)
    middle = first.start() if first else 0
    begin, end = max(0, middle - SNIPPET), middle + SNIPPET
    cut = " ".join(body[begin:end].split())
    return f"{'…' if begin else ''}{cut}{'…' if end < len(body) else ''}"
