"""What messages of an agent's are about, without opening more than their heads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.config import MailboxKind
from agent_mailer.errors import MailerError
from agent_mailer.lying import Listed
from agent_mailer.mailbox.maildir.format import is_message_name
from agent_mailer.mailbox.maildir.layout import Paths, check_handle
from agent_mailer.mailbox.maildir.listing import read_head
from agent_mailer.mailbox.port import Message

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def subjects(place: Workplace, message_ids: Iterable[str]) -> dict[str, str]:
    """By message the subject of each that lies in its folder mailbox under its name; nobody else is asked for the rest.

    A subject is as somebody wrote it: make it harmless before it is shown.
    """
    found: dict[str, str] = {}
    with suppress(MailerError, OSError):
        if place.config.mailbox_kind is not MailboxKind.MAILDIR:
            return found
        check_handle(place.handle)
        paths = Paths(place.maildir_root(), place.handle)
        for identifier in message_ids:
            head = _head_of(paths.cur, identifier) or _head_of(paths.new, identifier)
            if head is not None:
                found[identifier] = head.subject
    return found


def _head_of(folder: Path, identifier: str) -> Message | None:
    name = f"{identifier}.md"
    if "/" in name or not is_message_name(name):
        return None
    path = folder / name
    try:
        head = read_head(Listed(str(path), name, path.lstat()))
    except (OSError, MailerError):
        return None
    return head if isinstance(head, Message) and head.envelope.id == identifier else None
