"""Sending as a person, and waiting for the answer: the same whatever the mailbox is."""

from __future__ import annotations

import time
from shlex import quote
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agent_mailer.errors import MailerError, UnavailableFault, UsageFault
from agent_mailer.groups import for_one, names_group, spread
from agent_mailer.mailbox.port import Automatic, Delivered, Kind, MailboxRefused, MailboxUnavailable, Refused
from agent_mailer.names import DEDUPE_KEY, printable
from agent_mailer.people.port import Ending, MessageState, Sent, Waited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agent_mailer.mailbox.port import Draft, Message, Outgoing
    from agent_mailer.people.port import Look, PersonalMail, Receipt, Report, Rest, Tell

T = TypeVar("T")

ASK_AGAIN: Final = 1.0
"""Seconds until a mailbox that did not answer is asked once more."""


_HEADER_ROOM = 64 * 1024
"""Bytes that a message may have beside its text."""


async def send(mail: PersonalMail, draft: Draft, origin: Message | None = None, tell: Tell = lambda _: None) -> Sent:
    """Deliver `draft` to every recipient, or to none where one is not known. Raises UsageFault, MailerError.

    What the mailbox cannot carry is refused where somebody may look for it, and told where it is a hint.
    With a dedupe key: what was sent under it before is not sent again, and other content under it is an error.
    """
    if any(map(names_group, draft.to)):
        contacts = {one.address: one.tags for one in await mail.mailbox.contacts()}
        to, of_one = for_one(draft.to) if origin is None else (draft.to, ())
        members = spread(to, contacts, mail.mailbox.address)
        draft = msgspec.structs.replace(draft, to=members, labels=(*draft.labels, *of_one))
    draft, routes = await mail.routed(draft, origin)
    lost = await mail.not_carried(draft)
    if "labels" in lost:
        raise UsageFault("not_carried", "this broker has no place for labels", "put them into the text")
    # What is sent by hand is a person's decision: with it the chain of those who caused it begins anew.
    composed = mail.mailbox.compose(draft, origin and _alone(origin), "", routes)
    if isinstance(composed, Refused):
        raise UsageFault("refused", composed.why, _mend(mail, draft.body))
    recipients = tuple(item.recipient for item in composed)
    await mail.require_known([item.recipient for item in composed if item.route is None])
    once = draft.key.startswith(DEDUPE_KEY)
    if once:
        composed = await mail.as_first_sent(composed)
    there = [once and await mail.mailbox.look(item) for item in composed]
    names = [await _deliver(mail, item) for item in composed]
    if once:
        # Somebody else may have sent under it at this very moment.
        await mail.as_first_sent(composed)
    if lost:
        tell(f"this broker has no place for {' and '.join(lost)}: it was sent without")
    first, already = names[0], all(there)
    begins = not draft.thread and origin is None and not already
    try:
        since = await mail.moment_of(first, recipients, begins=begins)
    except MailboxUnavailable:
        # It has left: who took this for a failure would send it once more.
        since = draft.created
    return Sent(first.id, first.thread, recipients, since, already)


async def wait_for_answer(mail: PersonalMail, sent: Sent, seconds: float, tell: Tell, look: Look) -> Waited:
    """Wait at most `seconds`, and no longer than an answer can come; it counts as read.

    `tell` gets a line for each step on the way.
    """
    seen, taken, told = {sent.id}, set[str](), dict[str, MessageState]()
    reports: dict[str, Report] = {}
    whole_refs = mail.mailbox.capabilities.carries_context

    async def look_once() -> Waited | None:
        # Before the answers: whoever answered had taken the message before, and what is settled has left.
        receipts = await mail.receipts(sent, taken)
        found = {name: look(sent, name) or await mail.standing(sent, name) for name in sent.recipients}
        reports.clear()
        reports.update({name: report for name, report in found.items() if report is not None})
        _tell_taken(receipts, reports, taken, told, tell)
        found_now = await mail.arrived(sent, seen)
        # What was sent before may have several by now: the last one is how it stands.
        for message in reversed(found_now) if sent.already else found_now:
            if (ending := _ending_of(message, sent, tell, whole_refs=whole_refs)) is not None:
                await mail.take(message, awaited=True)
                return Waited(ending, message, frozenset(taken), reports)
            seen.add(message.envelope.id)
        _tell_news(reports, taken, told, tell)
        if (no_answer := end_without_answer(receipts, reports, sent)) is not None:
            return Waited(no_answer, None, frozenset(taken), reports)
        return None

    async with mail.listening(sent) as rest:
        waited = await patiently(look_once, rest, seconds, tell)
    return waited or Waited(Ending.TIMEOUT, None, frozenset(taken), reports)


async def patiently(look: Callable[[], Awaitable[T | None]], rest: Rest, seconds: float, tell: Tell) -> T | None:
    """Look until there is something, or None when the time is up.

    A mailbox that does not answer meanwhile is asked again: what was sent is there all the same. Raises
    MailboxUnavailable where it does not answer in the end, and at once where it refuses us.
    """
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            if (found := await look()) is not None:
                return found
            left, told = end - time.monotonic(), False
            if left <= 0:
                return None
            await rest(left)
        except MailboxRefused:
            raise
        except MailboxUnavailable as fault:
            left = end - time.monotonic()
            if left <= 0:
                raise
            if not told:
                tell(f"{fault.message}; the wait goes on")
            told = True
            import asyncio  # only this, and what looks again and again, waits

            await asyncio.sleep(min(ASK_AGAIN, left))


def _tell_taken(
    receipts: Sequence[Receipt],
    reports: Mapping[str, Report],
    taken: set[str],
    told: dict[str, MessageState],
    tell: Tell,
) -> None:
    for receipt in receipts:
        if receipt.unreadable:
            tell(f"{receipt.recipient} could not read it")
        elif receipt.recipient not in taken:
            taken.add(receipt.recipient)
            report = reports.get(receipt.recipient)
            works = report is not None and report.state is MessageState.WORKING
            tell(f"{receipt.recipient} has taken it{' and is at work' if works else ''}")
            if works:
                told[receipt.recipient] = MessageState.WORKING


def _tell_news(reports: Mapping[str, Report], taken: set[str], told: dict[str, MessageState], tell: Tell) -> None:
    """Each change once; what the last word tells anyway is left to it."""
    for name, report in reports.items():
        if report.state not in (told.get(name), MessageState.WAITING) and not report.final:
            told[name] = report.state
            first = report.state is MessageState.WORKING and name not in taken
            # Seen at work before its receipt was: one line for both, whichever comes first.
            tell(f"{name} {'has taken it and ' if first else ''}{report.text.removesuffix(' on it')}")
            taken.update([name] if first else [])


def end_without_answer(receipts: Sequence[Receipt], reports: Mapping[str, Report], sent: Sent) -> Ending | None:
    """How the wait ends because nobody will answer any more; None while somebody may."""
    if any(receipt.unreadable for receipt in receipts):
        return Ending.DEAD
    final = [reports[name].state for name in sent.recipients if name in reports and reports[name].final]
    if len(final) < len(sent.recipients):
        return None
    return Ending.UNANSWERED if set(final) == {MessageState.DONE} else Ending.DEAD


def _mend(mail: PersonalMail, text: str) -> str:
    if len(text.encode("utf-8", "replace")) + _HEADER_ROOM > mail.mailbox.capabilities.max_message_bytes:
        return "shorten it, or put it into a file and send the name of that"
    return "agent-mailer mail contacts"


async def _deliver(mail: PersonalMail, item: Outgoing) -> Delivered:
    """Returns the names that message and thread have there."""
    outcome = await mail.deliver(item)
    if isinstance(outcome, Delivered):
        return Delivered(outcome.id or item.id, outcome.thread or item.thread)
    if isinstance(outcome, Refused):
        raise MailerError("not_sent", f"not sent to {item.recipient}: {outcome.why}", _mend(mail, item.payload))
    raise UnavailableFault(
        "unconfirmed",
        f"{item.id} to {item.recipient} may or may not have arrived: {outcome.why}",
        f"agent-mailer mail thread {quote(printable(item.thread))}",
    )


def _alone(origin: Message) -> Message:
    return msgspec.structs.replace(origin, envelope=msgspec.structs.replace(origin.envelope, visited=(), hops=0))


def _ending_of(message: Message, sent: Sent, tell: Tell, *, whole_refs: bool) -> Ending | None:
    """What `message` means for the one that was sent; None if it is no answer to it. `whole_refs`: it names all that it
    came of; at a broker only the last, which may be another agent's.
    """
    envelope = message.envelope
    in_thread = envelope.thread == sent.thread and envelope.sender in sent.recipients and envelope.created >= sent.since
    # What answers others, and not this one, is somebody else's answer, though it comes in the thread that all share.
    if sent.id not in message.refs and ((message.refs and whole_refs) or not in_thread):
        return None
    if envelope.automatic is Automatic.NOTICE:
        return Ending.DEAD
    from agent_mailer.turn_tools.commands import PROGRESS  # whoever sends and does not wait does without

    if PROGRESS in message.labels:
        tell(f"{envelope.sender} reports progress: agent-mailer mail read {envelope.id}")
        return None
    return Ending.BLOCKED if envelope.kind is Kind.QUESTION else Ending.ANSWERED
