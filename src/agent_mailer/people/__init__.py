"""A person's mail: one port, in a folder or at a broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.cli.options import absolute, workplace

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.people.port import Person


def person_at(whose: str | None, workdir: Path | None, maildir_root: str | None) -> Person:
    """Whoever `whose` names: by default `user` in a folder mailbox, the operator at a broker.

    The mailbox is the one that the flag, the workdir or its surroundings name.
    """
    flags = {"mailbox": "maildir", "maildir_root": absolute(maildir_root)} if maildir_root else {}
    place = workplace(workdir, flags)
    if _at_broker(place):
        from agent_mailer.people.broker import broker_person

        return broker_person(place, whose)
    from agent_mailer.people.folder import folder_person

    return folder_person(place, whose)


def agent_of(place: Workplace) -> Person:
    """Who looks into the mailbox of the workdir's own agent."""
    if _at_broker(place):
        from agent_mailer.people.broker import broker_agent

        return broker_agent(place)
    from agent_mailer.people.folder import FolderPerson

    return FolderPerson(place.mailbox(place.handle), place.clock)


def _at_broker(place: Workplace) -> bool:
    from agent_mailer.config import MailboxKind

    return place.config.mailbox_kind is MailboxKind.AMP
