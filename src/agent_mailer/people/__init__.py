"""How does a person read and write mail, wherever it is?"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, TypeVar

from agent_mailer.errors import MailerError
from agent_mailer.mailbox.port import Action, Draft
from agent_mailer.names import DEDUPE_KEY, printable
from agent_mailer.people.port import EVERYTHING, Search

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.clock import Clock
    from agent_mailer.mailbox.port import Contact, Kind, Message
    from agent_mailer.people.arrivals import Arrived, Choice, Drained, Fate
    from agent_mailer.people.keeping import Keeping
    from agent_mailer.people.port import Found, Look, PersonalMail, Sent, Standing, Tell, Told, Waited

T = TypeVar("T")

_NAMED = 10


def person_at(place: Workplace, whose: str | None, tell: Tell) -> Person:
    """Whoever `whose` names: by default `user` in a folder mailbox, the operator at a broker.

    Raises ConfigFault, UsageFault where there is nobody of that name.
    """
    if place.at_broker:
        from agent_mailer.people.broker import mail_of

        return Person(mail_of(place, whose), place.clock, tell)
    if not place.in_folder:
        from agent_mailer.people.server import mail_at

        return Person(mail_at(place, whose), place.clock, tell)
    from agent_mailer.people.folder import mail_in

    return Person(mail_in(place, whose), place.clock, tell)


def agent_of(place: Workplace) -> Person:
    """Who looks into the mailbox of the workdir's own agent."""
    if place.at_broker:
        from agent_mailer.people.broker import agents_mail

        return Person(agents_mail(place), place.clock)
    if not place.in_folder:
        from agent_mailer.people.server import mail_at

        return Person(mail_at(place, place.handle), place.clock)
    from agent_mailer.people.folder import FolderMail

    return Person(FolderMail(place.mailbox(place.handle)), place.clock)


def keeping_at(place: Workplace, whose: str | None) -> Keeping:
    """Where a person finds mail again and puts it away: at a broker of all the person's agents, unless `whose` names
    one. Raises ConfigFault, UsageFault.
    """
    if place.at_broker:
        from agent_mailer.people.shelves import at_broker

        return at_broker(place, whose)
    from agent_mailer.people.keeping import LookedThrough

    if place.in_folder:
        from agent_mailer.people.folder import mail_in

        return LookedThrough(mail_in(place, whose), "a folder mailbox")
    from agent_mailer.people.server import mail_at

    return LookedThrough(mail_at(place, whose), f"a server of kind {place.config.mailbox_kind}")


def new_key(dedupe: str | None = None) -> str:
    """The key of a person's draft: its own each time, unless a dedupe key names it."""
    return f"{DEDUPE_KEY}{dedupe}" if dedupe is not None else os.urandom(8).hex()


class Person:
    """Reads and writes mail. Raises what PersonalMail does within its `faults`."""

    def __init__(self, mail: PersonalMail, clock: Clock, tell: Tell = lambda _: None) -> None:
        self._mail = mail
        self._clock = clock
        self._tell = tell

    @property
    def address(self) -> str:
        return self._mail.mailbox.address

    def inbox(self, search: Search = EVERYTHING, *, read_too: bool) -> Sequence[Found]:
        """What waits and, if asked for, what was read, oldest first; bodies may be missing."""
        found = self._run(self._mail.listed(search, read_too=read_too))
        odd = self._mail.no_messages()
        for one in odd[:_NAMED]:
            self._tell(one)
        if len(odd) > _NAMED:
            self._tell(f"and {len(odd) - _NAMED} more that are no messages")
        return found

    def find(self, typed: str) -> Found:
        """The message whose id begins so."""
        return self._run(self._mail.find(typed))

    def read(self, typed: str) -> Message:
        """As `find`, or what was sent; an unread message counts as read then."""

        async def read() -> Message:
            try:
                found = await self._mail.find(typed)
            except MailerError as fault:
                mine = await self._mail.sent_copy(typed) if fault.code == "unknown" else None
                if mine is None:
                    raise
                return mine
            await self._take(found)
            return found.message

        return self._run(read())

    def thread(self, typed: str) -> Sequence[Message]:
        """A thread by its name, or by the id of a message in it. Raises MailerError where there is none."""

        async def read() -> Sequence[Message]:
            mailbox = self._mail.mailbox
            if named := await mailbox.thread(typed):
                return named
            try:
                found = await self._mail.find(typed)
            except MailerError as fault:
                if fault.code != "unknown":
                    raise
                raise MailerError(
                    "unknown", f"there is no thread and no message {printable(typed)!r}", fault.fix
                ) from None
            return await mailbox.thread(found.message.envelope.thread)

        return self._run(read())

    def contacts(self) -> Sequence[Contact]:
        return self._run(self._mail.mailbox.contacts())

    def send(self, draft: Draft, origin: Message | None = None) -> Sent:
        """Deliver it to every recipient; what went out under its dedupe key before is not sent again. `origin`: what it
        answers, or forwards.
        """
        from agent_mailer.people import send as sending  # who only reads does without

        return self._run(sending.send(self._mail, draft, origin, self._tell))

    def wait_for_answer(self, sent: Sent, seconds: float, look: Look = lambda *_: None) -> Waited:
        """Wait at most `seconds`; the answer counts as read. `look`: where a message stands, as far as can be seen."""
        from agent_mailer.people import send as sending

        return self._run(sending.wait_for_answer(self._mail, sent, seconds, self._tell, look), waits=True)

    def is_of(self, place: Workplace, recipient: str) -> bool:
        """Whether `recipient` is the agent of that workdir. Raises MailerError, OSError."""
        return self._mail.is_of(place, recipient)

    def watch(self, search: Search, arrived: Arrived, *, seconds: float | None = None, follow: bool = False) -> bool:
        """Tell of mail that waits or comes; see `arrivals.watch`."""
        from agent_mailer.people import arrivals

        return self._run(arrivals.watch(self._mail, search, arrived, seconds=seconds, follow=follow), waits=True)

    def await_news(self, choose: Choice, over: Callable[[], Awaitable[object]]) -> Sequence[str]:
        """Wait for mail that `choose` chooses, until `over` has ended; see `arrivals.await_news`."""
        from agent_mailer.people import arrivals

        return self._run(arrivals.await_news(self._mail, choose, over), waits=True)

    def drain(self, drained: Drained, limit: int = 0) -> None:
        """Take what waits; see `arrivals.drain`."""
        from agent_mailer.people import arrivals

        self._run(arrivals.drain(self._mail, limit, drained))

    def require_receipts(self, recipients: Sequence[str], wanted: Fate) -> None:
        """Raises UsageFault where no wait for that could end."""
        from agent_mailer.people.arrivals import Fate

        self._run(self._mail.require_receipts(recipients, dead_letters=wanted is Fate.DLQ))

    def wait_for_fate(self, sent: Sent, wanted: Fate, seconds: float) -> Fate | None:
        """Wait at most `seconds`; see `arrivals.wait_for_fate`."""
        from agent_mailer.people import arrivals

        return self._run(arrivals.wait_for_fate(self._mail, sent, wanted, seconds, self._tell), waits=True)

    def who(self) -> Sequence[Standing]:
        """Everybody here, and how they stand."""
        return self._run(self._mail.who())

    def told(self, typed: str | None, newest: int) -> Sequence[Told]:
        """How far a message is with each recipient, or the newest that were sent."""
        return self._run(self._mail.told(typed, newest))

    def sent(self, newest: int) -> Sequence[Message]:
        """The heads of the newest that were sent (0 = of all), the very newest last. Raises MailerError."""
        return self._run(self._mail.sent(newest))

    def reply(self, typed: str, body: str, *, subject: str = "", kind: Kind | None = None) -> str:
        """Answer, and count the message as read; returns the answer's id."""
        return self._send_about(typed, self._draft(Action.REPLY, (), subject, body, kind))

    def forward(self, typed: str, to: Sequence[str], body: str, *, subject: str = "", kind: Kind | None = None) -> str:
        return self._send_about(typed, self._draft(Action.FORWARD, to, subject, body, kind))

    def _draft(self, action: Action, to: Sequence[str], subject: str, body: str, kind: Kind | None) -> Draft:
        return Draft(new_key(), action, self._clock.now(), to=tuple(to), subject=subject, body=body, kind=kind)

    def _send_about(self, typed: str, draft: Draft) -> str:
        from agent_mailer.people import send as sending

        async def run() -> str:
            found = await self._mail.find(typed)
            sent = await sending.send(self._mail, draft, found.message, self._tell)
            try:
                await self._take(found)
            except (MailerError, OSError) as fault:
                # It has left: who took this for a failure would send it once more.
                self._tell(f"sent, but {printable(found.message.envelope.id)} stays unread: {fault}")
            return sent.id

        return self._run(run())

    async def _take(self, found: Found) -> None:
        if found.new and not await self._mail.take(found.message):
            self._tell(f"left unread: {self._mail.mailbox.address} is an agent, and its mail is its watcher's to take")

    def _run(self, work: Coroutine[object, object, T], *, waits: bool = False) -> T:
        """Where nothing `waits` and the mailbox answers at once there is no event loop: to load one costs more than all
        the rest of such a command.
        """
        with self._mail.faults():
            if self._mail.answers_at_once and not waits:
                return _straight_through(work)
            import asyncio

            return asyncio.run(work)


def _straight_through(work: Coroutine[object, object, T]) -> T:
    """What gives others their turn now and then gets it back at once: there are none."""
    try:
        while work.send(None) is None:
            pass
    except StopIteration as end:
        found: T = end.value
        return found
    work.close()
    raise AssertionError("a mailbox that answers at once has waited")
