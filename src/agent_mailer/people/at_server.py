"""What a person's mail has in common at whatever server: it is asked, keeps its own times, and knows who is whose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from agent_mailer.errors import BusyFault, MailerError
from agent_mailer.mailbox.port import Gone
from agent_mailer.names import pick, printable
from agent_mailer.people.port import Found

if TYPE_CHECKING:
    from agent_mailer.mailbox.port import Delivered, Draft, Mailbox, Message, Route

M = TypeVar("M", bound="Mailbox")


class AtServer(Generic[M]):
    """Of `_address`, whose mail a watcher takes where it `_is_watched`."""

    answers_at_once = False
    mailbox: M
    _address: str
    _is_watched: bool

    async def picked(self, typed: str, listed: Sequence[Found]) -> Found:
        """The one of those listed whose id begins so, whole. Raises MailerError, UsageFault."""
        found = {one.message.envelope.id: one for one in listed}
        chosen = found[pick(typed, found, "message", "agent-mailer mail inbox --all")]
        message = await self.mailbox.read(chosen.message.envelope)
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(typed)}: {message.why}", "agent-mailer mail inbox --all")
        return Found(message, chosen.new)

    async def take(self, message: Message, *, awaited: bool = False) -> bool:
        del awaited
        if not self._is_watched:
            await self.mailbox.done(message.envelope)
        return not self._is_watched

    async def routed(self, draft: Draft, origin: Message | None) -> tuple[Draft, Sequence[Route]]:
        del origin
        return draft, ()

    async def moment_of(self, first: Delivered, recipients: Sequence[str], *, begins: bool) -> float:
        """By the server's clock, which decides what is an answer; nothing is older in a thread of its own."""
        del recipients
        if begins:
            return 0.0
        stored = await self.mailbox.thread(first.thread)
        return next((one.envelope.created for one in stored if one.envelope.id == first.id), 0.0)

    def require_unwatched(self) -> None:
        if self._is_watched:
            raise BusyFault(
                "watched",
                f"{printable(self._address)} is an agent, and its mail is its watcher's to take",
                f"agent-mailer mail inbox --as {printable(self._address)}",
            )

    async def sent_copy(self, typed: str) -> Message | None:
        del typed
        return None
