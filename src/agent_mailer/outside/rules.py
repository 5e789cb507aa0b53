"""Which events an operator wants: a small table that no sender can write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from agent_mailer.outside.event import Event, Ignored, Reason

_HOOK_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
BAD_NAME = "A hook's name has 1 to 40 lower-case letters, digits and hyphens, none at its ends"
MOST = 50
LONGEST = 200


class Rules(msgspec.Struct, frozen=True):
    """Patterns as in a shell; an empty list wants all. What has no branch, or no labels, is not asked for them."""

    events: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def wanted(self, event: Event) -> Event | Ignored:
        """The event itself, or why it is ignored."""
        if not _fits(self.events, (event.name,)):
            return Ignored(Reason.EVENT_NOT_WANTED, event.name)
        if event.action and not _fits(self.actions, (event.action,)):
            return Ignored(Reason.ACTION_NOT_WANTED, event.name)
        if event.branch is not None and not _fits(self.branches, (event.branch,)):
            return Ignored(Reason.BRANCH_NOT_WANTED, event.name)
        if event.labels is not None and not _fits(self.labels, event.labels):
            return Ignored(Reason.LABEL_NOT_WANTED, event.name)
        return event


def is_hook_name(text: str) -> bool:
    return _HOOK_NAME.fullmatch(text) is not None


def bad_pattern(patterns: Iterable[str]) -> str:
    """What is wrong with one of them; empty where they are sound."""
    given = list(patterns)
    if len(given) > MOST:
        return f"at most {MOST} patterns"
    for one in given:
        if not one or len(one) > LONGEST or not one.isprintable():
            return f"{one[:40]!r} is no pattern: 1 to {LONGEST} characters on one line"
    return ""


def _fits(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
