"""Addresses that name several at once: `broadcast` is everybody whom one can write to. Pure.

Each gets a message of his own, so that it reaches him once, and what counts mail counts each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

BROADCAST: Final = "broadcast"

_KINDS: Final = ("cap:", "tag:", "label:")
"""Before the name of a group, as other programs write it."""


def names_group(address: str) -> bool:
    return address == BROADCAST or address.startswith(_KINDS)


def spread(to: Sequence[str], contacts: Collection[str], me: str) -> tuple[str, ...]:
    """`to` with all `contacts` but `me` where it says `broadcast`, each once. Who is called so is meant himself.

    Raises UsageFault for a group of another kind, and where nobody is there to be written to.
    """
    found = dict[str, None]()
    for address in to:
        if address in contacts or not names_group(address):
            found[address] = None
            continue
        if address != BROADCAST:
            raise UsageFault(
                "unknown_group",
                f"{printable(address, 80)} names a group, and here is none but {BROADCAST}",
                "name its members: agent-mailer mail contacts",
            )
        others = [one for one in contacts if one != me]
        if not others:
            raise UsageFault(
                "nobody", f"{BROADCAST} reaches nobody: there are no contacts", "agent-mailer mail contacts"
            )
        found.update(dict.fromkeys(others))
    return tuple(found)
