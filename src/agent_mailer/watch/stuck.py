"""What cannot be worked on: written down, its sender told, put away; and taken up when somebody asks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import (
    Action,
    Automatic,
    Delivered,
    Draft,
    Envelope,
    Kind,
    Mailbox,
    MailboxUnavailable,
    Message,
    Outgoing,
    Refused,
    Unreadable,
    content_digest,
)
from agent_mailer.names import path_name, printable, prompt_word, text_digest
from agent_mailer.state import State
from agent_mailer.state.stuck import STILL_LISTED, StuckEntry, StuckKind
from agent_mailer.state.turns import shares
from agent_mailer.watch.given_up import forget, take_up_again
from agent_mailer.watch.unsent import drop_unsent, routes_back, send_again

TELL_WITHIN = 3600.0
"""So long its mail stays where it is while its sender cannot be told; then it is put away without a word to him."""

TELL_LISTED_WITHIN = 7 * 86400.0
"""What stays where it is anyway keeps nothing waiting."""

USED = "its id belongs to another message, which was here before"


class _Known(msgspec.Struct, frozen=True):
    """What is remembered of a message that was taken. Of the content an earlier version kept the text alone."""

    text: str
    content: str
    thread: str

    @classmethod
    def of(cls, message: Message) -> _Known:
        return cls(_text(message), content_digest(message), message.envelope.thread)

    def is_(self, message: Message) -> bool:
        if self.content:
            return self.content == content_digest(message)
        return (self.text, self.thread) == (_text(message), message.envelope.thread)


class StuckMail:
    """What the watcher does with mail that it cannot work on.

    The line is durable first, then its sender is told, then the mailbox moves the mail. Each is done once, however
    often it is begun again.
    """

    def __init__(self, mailbox: Mailbox, state: State) -> None:
        self._mailbox = mailbox
        self._state = state
        self._left: set[str] = set()
        """What cannot be put away: told once, and passed over."""
        self._told: set[tuple[StuckKind, str]] = set()
        self._known: dict[str, _Known] = {}
        self._seen_turns: set[str] = set()

    async def unreadable(self, item: Unreadable) -> None:
        """Raises OSError, and MailboxUnavailable where nothing can be told just now."""
        kind = StuckKind.TOO_LARGE if item.too_large else StuckKind.UNREADABLE
        entry = self._write_down(
            kind, f"{item.locator}~{item.digest[:12]}" if item.digest else item.locator, None, item.why, item
        )
        if not await self._tell_sender(entry, None):
            return
        why = item.why
        try:
            await self._mailbox.reject(item)
            self._left.discard(item.locator)
        except MailboxUnavailable as fault:
            if item.locator in self._left:
                return
            self._left.add(item.locator)
            why = f"{why}; it cannot be put away: {fault.message}"
        self._state.log.emit(EventName.MESSAGE_UNREADABLE, file=prompt_word(item.locator, "file"), why=why)

    async def listed_again(self, envelope: Envelope) -> None:
        """A message whose id is settled: the same is set aside, another one is stuck first."""
        if not await self.was_another(envelope):
            await self._set_aside(envelope)

    async def was_another(self, envelope: Envelope) -> bool:
        """Whether it is another message than that which was settled under its id: then it is stuck, unless a person has
        had it worked on.
        """
        other = await self.another(envelope)
        if other is not None:
            await self._put_away(other)
        return other is not None

    async def beside_held(self, envelope: Envelope, held: Message) -> None:
        """A message that is listed under the id of one that a guard holds. Who hears nothing of that, hears nothing."""
        message = await self._mailbox.read(envelope)
        if not isinstance(message, Message):
            return
        if _Known.of(held).is_(message):
            await self._set_aside(envelope)
        else:
            await self._put_away(message, tell=envelope.sender != held.envelope.sender)

    async def _put_away(self, other: Message, *, tell: bool = True) -> None:
        if await self.was_taken_up(other):
            await self._set_aside(other.envelope)
        elif await self.under_used_id(other, tell=tell):
            await self._set_aside(other.envelope, USED)

    async def was_taken_up(self, message: Message) -> bool:
        """Whether this very message was taken under the id that `stuck retry` gives it, or gave it in an earlier
        version. Writes nothing.
        """
        for digest in (content_digest(message), _text(message)):
            own = msgspec.structs.replace(message.envelope, id=_id_of_its_own(message.envelope.id, digest))
            known = await self._known_as(own)
            if known is not None and known.is_(message):
                return True
        return False

    async def _set_aside(self, envelope: Envelope, why: str = "") -> None:
        await self._mailbox.set_aside(envelope, why)
        self._state.log.emit(EventName.MESSAGE_SET_ASIDE, message_id=envelope.id, thread=envelope.thread)

    async def name_taken(self, envelope: Envelope) -> None:
        """Another message of its name was claimed before, by whomever: it can never be."""
        message = await self._mailbox.read(envelope)
        if not isinstance(message, Message):
            return
        if await self.was_taken_up(message):
            await self._set_aside(envelope)
        elif await self.under_used_id(message):
            await self._mailbox.set_aside(envelope, USED)

    def not_fetched(self, envelope: Envelope, why: str) -> None:
        """It stays where it is; its sender is told at the next look, by this watcher or another. Raises OSError."""
        self._write_down(StuckKind.NOT_FETCHED, envelope.id, envelope, why)

    async def tell_unheard(self) -> None:
        """The senders of what stays listed. Raises OSError."""
        for entry in self._state.stuck.unheard:
            if await self._tell_sender(entry, None, TELL_LISTED_WITHIN):
                self._state.stuck.heard(entry)

    async def ask_again(self) -> None:
        """What a person wants read once more, as it is by now. Raises OSError."""
        stuck = self._state.stuck
        for name in list(stuck.wanted):
            entry = stuck.get(*name)
            if entry is None:
                continue
            try:
                refused = await self._mailbox.ask_again(entry.locator)
            except MailboxUnavailable:
                # The look that comes now says what is wrong; at the next one once more.
                return
            if refused is None:
                # Listed before it is forgotten here: whoever is killed in between has it listed once more.
                stuck.remove([name])
            else:
                stuck.refused(entry, f"{refused.why}; before: {entry.why}")

    async def under_used_id(self, message: Message, *, tell: bool = True) -> bool:
        """Write it down and tell its sender; False where he cannot be told just now, and nothing is to be moved."""
        digest = content_digest(message)
        envelope = message.envelope
        key = f"{printable(envelope.id, 128)}~{digest[:12]}"
        entry = self._write_down(StuckKind.USED_ID, key, envelope, USED, digest=digest)
        return not tell or await self._tell_sender(entry, message)

    def no_way_back(self, envelope: Envelope, why: str) -> None:
        """No answer can go where it names; it stays listed. Its sender cannot be told. Raises OSError."""
        self._write_down(StuckKind.NO_WAY_BACK, envelope.id, envelope, why)

    async def another(self, envelope: Envelope) -> Message | None:
        """The message, where it is another than that which was settled; None also where nothing tells that.

        Writes nothing.
        """
        known = await self._known_as(envelope)
        if known is None:
            return None
        message = await self._mailbox.read(envelope)
        return message if isinstance(message, Message) and not known.is_(message) else None

    async def _known_as(self, envelope: Envelope) -> _Known | None:
        """What was taken under the id of `envelope` before, by the mailbox's word or a turn's."""
        settled = await self._mailbox.settled(envelope)
        return _Known.of(settled) if settled is not None else self._known_by_turn(envelope.id)

    def _known_by_turn(self, message_id: str) -> _Known | None:
        turns = self._state.turns
        for turn_id in turns.ids():
            if turn_id not in self._seen_turns and turns.is_settled(turn_id):
                self._seen_turns.add(turn_id)
                record = turns.load(turn_id)
                for one in shares(record) if record is not None else ():
                    if one.digest:
                        self._known[one.envelope.id] = _Known(one.digest, one.content, one.envelope.thread)
        return self._known.get(message_id)

    def _write_down(
        self,
        kind: StuckKind,
        key: str,
        envelope: Envelope | None,
        why: str,
        item: Unreadable | None = None,
        digest: str = "",
    ) -> StuckEntry:
        state = self._state
        new = state.stuck.add(
            kind,
            key,
            envelope,
            why,
            sender=item.sender if item else "",
            thread=item.thread if item else "",
            locator=item.locator if item else "",
            digest=item.digest if item else digest,
            reply_to=item.reply_to if item else "",
        )
        entry = state.stuck.get(kind, key) or StuckEntry(kind, key, state.folder.clock.now(), why)
        if new:
            state.log.emit(
                EventName.MESSAGE_STUCK,
                kind=kind.value,
                key=key,
                message_id=entry.message_id or None,
                thread=entry.thread or None,
                why=entry.why,
            )
        return entry

    async def _tell_sender(self, entry: StuckEntry, origin: Message | None, within: float = TELL_WITHIN) -> bool:
        """False: try again later."""
        back, own = entry.envelope.reply_to if entry.envelope else entry.reply_to, self._mailbox.address
        # Who is called as we are, but in another session or project, is somebody else.
        if (entry.kind, entry.key) in self._told or not entry.sender or {entry.sender, back or own} == {own}:
            return True
        if origin is not None and origin.envelope.automatic is Automatic.NOTICE:
            return True
        named = Envelope("", "", entry.sender, entry.at, "", "", reply_to=back)
        routes = await routes_back(self._mailbox, origin.envelope if origin else named) if origin or back else ()
        word = _word(entry, origin, back)
        composed = self._mailbox.compose(word, origin, f"stuck-{_short(entry.kind, entry.key)}", routes)
        for item in () if isinstance(composed, Refused) else composed:
            if not await self._deliver(item):
                late = self._state.folder.clock.now() - entry.at
                return not 0 <= late < within
        self._told.add((entry.kind, entry.key))
        return True

    async def _deliver(self, item: Outgoing) -> bool:
        mailbox = self._mailbox
        try:
            if not mailbox.capabilities.recognises_delivery and await mailbox.look(item):
                return True
            return isinstance(await mailbox.deliver(item), Delivered | Refused)
        except MailboxUnavailable:
            return False


def _word(entry: StuckEntry, origin: Message | None, back: str) -> Draft:
    """What its sender is told. The same entry gives the same draft, and so the same final id."""
    thread = entry.thread if entry.thread == entry.thread.strip() else ""
    name = printable(entry.message_id or entry.locator)
    mend = "Send it again under an id of its own." if entry.kind is StuckKind.USED_ID else "Send it again, corrected."
    body = (
        f"A message of yours was not worked on.\n\nMessage: {name}\nReason: {entry.why} ({entry.kind})\n\n"
        f"It is kept. {mend} On the agent's machine: agent-mailer stuck show {printable(entry.key)}"
    )
    return Draft(
        f"stuck-{_short(entry.kind, entry.key)}",
        Action.REPLY if origin is not None else Action.SEND,
        entry.at,
        to=() if origin is not None else (back or entry.sender,),
        subject="" if origin is not None else "Not worked on",
        body=body,
        thread="" if origin is not None else thread,
        kind=Kind.STATUS,
        automatic=Automatic.NOTICE,
    )


def _text(message: Message) -> str:
    return text_digest(message.envelope.sender, message.subject, message.body)


def _id_of_its_own(message_id: str, digest: str) -> str:
    return f"{path_name(message_id)[:120]}-{digest[:8]}"


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


# What a person asks.


def retry_stuck(state: State, kind: StuckKind, keys: Sequence[str], mailbox: Mailbox | None) -> list[tuple[bool, str]]:
    """Take up again, each by its key; whether it was, and a line for people."""
    if kind is StuckKind.GIVEN_UP:
        return take_up_again(state, keys)
    if kind is StuckKind.NOT_SENT:
        return send_again(state, keys)
    if kind is StuckKind.UNREADABLE and mailbox is not None and mailbox.capabilities.asks_again:
        return [_want(state, key) for key in keys]
    return _each(state, kind, keys, lambda entry: _take_up(entry, mailbox))


def drop_stuck(state: State, kind: StuckKind, keys: Sequence[str]) -> list[tuple[bool, str]]:
    """Nobody wants it any more. Mail stays where it was put; what the mailbox still lists counts as settled."""
    if kind is StuckKind.GIVEN_UP:
        return forget(state, keys)
    if kind is StuckKind.NOT_SENT:
        return drop_unsent(state, keys)

    def drop(entry: StuckEntry) -> str:
        if entry.kind in STILL_LISTED and entry.envelope is not None:
            # Before the line goes: without it the message would run.
            state.processed.add(entry.envelope.id)
            state.retries.remove(entry.envelope.id)
        return ""

    return _each(state, kind, keys, drop, done="dropped")


def _each(
    state: State,
    kind: StuckKind,
    keys: Iterable[str],
    act: Callable[[StuckEntry], str],
    done: str = "pending again",
) -> list[tuple[bool, str]]:
    """`act` returns why it could not, or nothing. The lines go last, all at once: after a crash it is done again."""
    found: list[tuple[bool, str]] = []
    gone: list[tuple[StuckKind, str]] = []
    for key in keys:
        entry = state.stuck.get(kind, key)
        why = act(entry) if entry is not None else "it is not stuck"
        if not why:
            gone.append((kind, key))
        found.append((not why, f"{printable(key)}: {why or done}"))
    state.stuck.remove(gone)
    return found


def _want(state: State, key: str) -> tuple[bool, str]:
    entry = state.stuck.get(StuckKind.UNREADABLE, key)
    if entry is None:
        return False, f"{printable(key)}: it is not stuck"
    state.stuck.want(entry)
    return True, f"{printable(key)}: its mailbox is asked for it again"


def _take_up(entry: StuckEntry, mailbox: Mailbox | None) -> str:
    if entry.kind in STILL_LISTED:
        return ""
    drop = f"to forget it: agent-mailer stuck drop {printable(entry.key)}"
    if entry.kind is StuckKind.TOO_LARGE:
        return f"it is larger than a message may be: ask its sender for a smaller one; {drop}"
    if mailbox is None:
        return "its mailbox cannot be reached"
    new_id = ""
    if entry.kind is StuckKind.USED_ID:
        # Its own id is settled: only under another one can it run.
        new_id = _id_of_its_own(entry.message_id, entry.digest)
    try:
        refused = mailbox.put_back(entry.locator, entry.digest, new_id)
    except MailboxUnavailable as fault:
        return fault.message
    return f"{refused.why}; {drop}" if refused is not None else ""
