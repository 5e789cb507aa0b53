"""Addresses that name several at once: `broadcast` is everybody whom one can write to but hooks, `tag:` who has that
tag, `cap:` who can do that, `label:` who is labelled so. Pure.

Each gets a message of his own, so that it reaches him once, and what counts mail counts each. `one-of:` before a group
is mail that the first of them takes, and no other: the message's label says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agent_mailer.errors import UsageFault
from agent_mailer.names import HOOK, printable

BROADCAST: Final = "broadcast"

TAG: Final = "tag:"

ONE_OF: Final = "one-of:"
"""Before a group, in an address and in the label of what only one may take."""

KINDS: Final = (TAG, "cap:", "label:")
"""Before the name of a group, as other programs write it."""


def names_group(address: str) -> bool:
    return address == BROADCAST or address.startswith((*KINDS, ONE_OF))


def taken_by_one(labels: Sequence[str]) -> str:
    """The group of which one takes the message that has these labels; empty where it is everybody's own."""
    return next((label.removeprefix(ONE_OF) for label in labels if label.startswith(ONE_OF)), "")


def for_one(to: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
    """`to` with the group itself, and the label that says that one of it takes the message.

    Raises UsageFault where others are named beside, or it is no group.
    """
    meant = [address for address in to if address.startswith(ONE_OF)]
    if not meant:
        return to, ()
    group = meant[0].removeprefix(ONE_OF)
    if len(to) > 1 or group.startswith(ONE_OF) or not names_group(group):
        raise UsageFault(
            "bad_group",
            f"{printable(meant[0], 80)} is for one of a group, and for nobody else",
            "name one group: one-of:cap:review",
        )
    return (group,), (meant[0],)


def spread(to: Sequence[str], contacts: Mapping[str, Sequence[str]], me: str) -> tuple[str, ...]:
    """`to` with the members in the place of a group, each once and never `me`; `contacts`: whom one can write to, each
    with his tags, what he can and his label among them as `cap:` and `label:`. Who is called so is meant himself.

    Raises UsageFault for a group that nobody is in.
    """
    found = dict[str, None]()
    for address in to:
        if address in contacts or not names_group(address):
            found[address] = None
            continue
        if address.startswith(ONE_OF):
            raise UsageFault("bad_group", "only a message of its own can be for one of a group", "agent-mailer send")
        members = [one for one, tags in contacts.items() if one != me and _is_in(one, tags, address)]
        if not members:
            raise UsageFault(
                "unknown_group",
                f"{printable(address, 80)} names a group, and nobody whom you can write to is in it",
                "name its members: agent-mailer mail contacts",
            )
        found.update(dict.fromkeys(members))
    return tuple(found)


def _is_in(address: str, tags: Sequence[str], group: str) -> bool:
    if group == BROADCAST:
        # Behind it is a program that reads no mail.
        return not address.startswith(HOOK)
    return group in tags or (group.startswith(TAG) and group.removeprefix(TAG) in tags)
