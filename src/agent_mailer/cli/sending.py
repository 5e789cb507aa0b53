"""Sending as a person in a folder mailbox: composed, looked at once more where a dedupe key asks for it, delivered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.cli.sent import Sent
from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError, UnavailableFault, UsageFault
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, parse_message
from agent_mailer.mailbox.port import Delivered, Draft, Message, Outgoing, Refused
from agent_mailer.mailbox.wording import DEDUPE_KEY
from agent_mailer.names import printable


async def send(mailbox: MaildirMailbox, draft: Draft, origin: Message | None = None) -> Sent:
    """Deliver `draft` to every recipient. Raises UsageFault, MailerError or UnavailableFault.

    With a dedupe key: what was sent under it before is not sent again, and other content under it is an error.
    """
    composed = mailbox.compose(draft, origin, "")
    if isinstance(composed, Refused):
        raise UsageFault("refused", composed.why, "agent-mailer mail contacts")
    _require_known(mailbox.root, composed)
    first = composed[0]
    recipients = tuple(item.recipient for item in composed)
    sent = Sent(first.id, first.thread, recipients, draft.created)
    if not draft.key.startswith(DEDUPE_KEY):
        await _deliver_all(mailbox, composed)
        return sent
    before = _require_same(mailbox, first, recipients)
    there = [await mailbox.look(item) for item in composed]
    if before is not None:
        # The bytes that went out first are the message; ours differ in the moment at least.
        composed = [msgspec.structs.replace(item, payload=before[1]) for item in composed]
    await _deliver_all(mailbox, [item for item, known in zip(composed, there, strict=True) if not known])
    _require_same(mailbox, first, recipients)
    created = before[0].envelope.created if before is not None else draft.created
    return msgspec.structs.replace(sent, created=created, already=all(there))


def require_sender(root: Path, handle: str) -> None:
    """Raises UsageFault where nobody here is called `handle`, so that no answer could arrive."""
    layout.require_root(root)
    if not layout.is_handle(handle) or not layout.known(root, handle):
        known = ", ".join((layout.USER, *layout.mailboxes(root)))
        raise UsageFault(
            "unknown_sender", f"there is no mailbox for {printable(handle)!r} in {root}", f"known: {known}"
        )


def _require_known(root: Path, items: Sequence[Outgoing]) -> None:
    """All or nothing: one unknown recipient, and the message goes to none."""
    layout.require_root(root)
    unknown = [item.recipient for item in items if not layout.known(root, item.recipient)]
    if unknown:
        known = sorted({layout.USER, *layout.mailboxes(root), *layout.roster(root)})
        raise UsageFault(
            "unknown_recipient",
            f"nobody is called {', '.join(unknown)} in {root}",
            f"known are: {', '.join(printable(name, 40) for name in known)}",
        )


async def _deliver_all(mailbox: MaildirMailbox, items: Sequence[Outgoing]) -> None:
    for item in items:
        outcome = await mailbox.deliver(item)
        if isinstance(outcome, Delivered):
            continue
        if isinstance(outcome, Refused):
            raise MailerError("not_sent", f"not sent to {item.recipient}: {outcome.why}", "agent-mailer mail contacts")
        raise UnavailableFault(
            "unconfirmed",
            f"{item.id} to {item.recipient} may or may not have arrived: {outcome.why}",
            f"agent-mailer mail thread {item.thread}",
        )


def _require_same(mailbox: MaildirMailbox, item: Outgoing, recipients: Sequence[str]) -> tuple[Message, str] | None:
    """The message that lies under this id already, with its text. Raises MailerError if it says something else."""
    ours = parse_message(item.payload.encode("utf-8", "replace"), f"{item.id}.md")
    for path in _places(mailbox, item.id, recipients):
        try:
            data = read_regular(path, MAX_MESSAGE_BYTES)
        except OSError:
            continue
        found = parse_message(data, path.name)
        if not isinstance(found, Message) or not isinstance(ours, Message):
            continue
        if _content(found) != _content(ours):
            raise MailerError(
                "dedupe_conflict",
                f"another message was sent under this dedupe key before: {item.id}",
                f"use another --dedupe-key, or look at it: agent-mailer mail thread {printable(found.envelope.thread)}",
            )
        return found, data.decode("utf-8", "replace")
    return None


def _places(mailbox: MaildirMailbox, message_id: str, recipients: Sequence[str]) -> list[Path]:
    name = f"{message_id}.md"
    boxes = [layout.Paths(mailbox.root, recipient) for recipient in recipients]
    sender = layout.Paths(mailbox.root, mailbox.address)
    return [*(box.new / name for box in boxes), *(box.cur / name for box in boxes), sender.sent / name]


def _content(message: Message) -> tuple[object, ...]:
    """What makes two messages the same: all but the moment."""
    envelope = message.envelope
    return (
        envelope.sender,
        sorted(envelope.to),
        envelope.thread,
        message.subject,
        message.body,
        envelope.kind,
        envelope.priority,
        message.refs,
        message.labels,
    )
