"""What every adapter writes the same way: the subject of an answer, its kind, the key of what goes out once."""

from __future__ import annotations

from typing import Final

from agent_mailer.mailbox.port import Action, Draft, Kind, Message

DEDUPE_KEY: Final = "dedupe:"
"""A draft whose key begins so goes out once, whichever turn or command sends it."""

_ANSWERS: Final = {Kind.REVIEW_REQUEST: Kind.REVIEW_RESPONSE, Kind.QUESTION: Kind.ANSWER}


def subject_of(draft: Draft, origin: Message | None) -> str:
    """One line: the draft's own, else that of the message it answers or passes on."""
    if draft.subject or draft.action is Action.SEND or origin is None:
        return one_line(draft.subject)
    prefix = "Re:" if draft.action is Action.REPLY else "Fwd:"
    subject = one_line(origin.subject)
    if subject.lower().startswith(prefix.lower()):
        return subject
    return f"{prefix} {subject or '(no subject)'}"


def kind_of(draft: Draft, origin: Message | None) -> Kind | None:
    """The draft's own, else the one that answers the origin's."""
    if draft.kind is not None or draft.action is not Action.REPLY or origin is None or origin.envelope.kind is None:
        return draft.kind
    return _ANSWERS.get(origin.envelope.kind, origin.envelope.kind)


def one_line(text: str) -> str:
    return " ".join(text.split())
