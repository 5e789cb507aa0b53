"""Waiting for the answer in a folder mailbox: what happens to it on the way, and how the wait ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from agent_mailer.cli.sent import Ending, Sent, Tell, Waited, ending_of
from agent_mailer.disk import Disk
from agent_mailer.file_events import FileEvents
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.records import Stage, receipt_name
from agent_mailer.mailbox.port import Message

LISTED = 10_000
RESCAN_SECONDS = 2.0


async def wait_for_answer(mailbox: MaildirMailbox, sent: Sent, seconds: float, tell: Tell) -> Waited:
    """Wait at most `seconds`; the answer is taken out of `new`. `tell` gets a line for each step on the way."""
    if layout.missing_folders(mailbox.root, mailbox.address):
        layout.make_mailbox(Disk(), mailbox.root, mailbox.address)
    watch = _Watch(mailbox, sent, tell)
    receipts = [layout.Paths(mailbox.root, recipient).receipts for recipient in sent.recipients]
    events = FileEvents([layout.Paths(mailbox.root, mailbox.address).new, *receipts], rescan_seconds=RESCAN_SECONDS)
    end = time.monotonic() + seconds
    try:
        while True:
            found = await watch.look()
            if found is not None:
                return found
            left = end - time.monotonic()
            if left <= 0:
                return Waited(Ending.TIMEOUT, taken=watch.taken)
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await events.wait()
    finally:
        events.close()


class _Watch:
    def __init__(self, mailbox: MaildirMailbox, sent: Sent, tell: Tell) -> None:
        self._mailbox = mailbox
        self._sent = sent
        self._tell = tell
        self._seen: set[str] = set()
        self._claimed: set[str] = set()

    @property
    def taken(self) -> bool:
        return bool(self._claimed)

    async def look(self) -> Waited | None:
        # Receipts first: whoever answered had taken the message before.
        unreadable = self._look_at_receipts()
        for envelope in (await self._mailbox.pending(LISTED)).envelopes:
            if envelope.id in self._seen:
                continue
            self._seen.add(envelope.id)
            message = await self._mailbox.read(envelope)
            if isinstance(message, Message) and (ending := ending_of(message, self._sent, self._tell)) is not None:
                await self._mailbox.claim(envelope)
                return Waited(ending, message, taken=True)
        return Waited(Ending.DEAD, taken=True) if unreadable else None

    def _look_at_receipts(self) -> bool:
        """Tell of every claim once; True where a recipient could not read the message."""
        unreadable = False
        for recipient in self._sent.recipients:
            receipts = layout.Paths(self._mailbox.root, recipient).receipts
            if recipient not in self._claimed and _there(receipts, self._sent.id, recipient, Stage.DRAINED):
                self._claimed.add(recipient)
                self._tell(f"{recipient} has taken it and is at work")
            if _there(receipts, self._sent.id, recipient, Stage.DLQ):
                self._tell(f"{recipient} could not read it")
                unreadable = True
        return unreadable


def _there(receipts: Path, message_id: str, recipient: str, stage: Stage) -> bool:
    return (receipts / receipt_name(message_id, recipient, stage)).is_file()
