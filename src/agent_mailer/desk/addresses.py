"""Whom a person can write to from a page, over all folder mailboxes at once: by a handle where only one is called so,
else with the name of its folder behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.people.overseen import recipients_of

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


_BETWEEN = re.compile(r"[,;\s]")


class Address(msgspec.Struct, frozen=True):
    """`workdir` is empty where it is no agent of ours."""

    handle: str
    root: Path
    workdir: str = ""


def roots_of(places: Iterable[Workplace]) -> dict[Path, Workplace]:
    """Each folder mailbox once, with one of the workdirs that use it."""
    found: dict[Path, Workplace] = {}
    for place in places:
        if place.in_folder:
            with suppress(MailerError, OSError):
                found.setdefault(place.maildir_root().resolve(), place)
    return found


def addresses_of(places: Iterable[Workplace]) -> dict[str, Address]:
    """By what is shown and typed."""
    known = list(places)
    ours: dict[tuple[Path, str], str] = {}
    for place in known:
        if place.in_folder:
            with suppress(MailerError, OSError):
                ours[place.maildir_root().resolve(), place.handle] = str(place.workdir)
    found = dict.fromkeys(ours)
    for root in roots_of(known):
        with suppress(MailerError, OSError):
            found |= dict.fromkeys((root, handle) for handle in sorted(recipients_of(root)))
    many = Counter(handle for _, handle in found)
    return {
        _shown(root, handle, ours, many): Address(handle, root, ours.get((root, handle), "")) for root, handle in found
    }


def _shown(root: Path, handle: str, ours: Mapping[tuple[Path, str], str], many: Mapping[str, int]) -> str:
    if many[handle] == 1:
        return handle
    workdir = ours.get((root, handle))
    where = Path(workdir) if workdir is not None else root.parent
    twins = [path for (_, name), path in ours.items() if name == handle and Path(path).name == where.name]
    # Where several addresses stand in one field, these signs stand between them.
    return f"{handle}@{_BETWEEN.sub('_', where.name if len(twins) < 2 else str(where))}"
