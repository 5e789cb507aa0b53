"""What may be asked from elsewhere: what the key `remote` allows, and what there is to ask."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from agent_mailer.choices import RemoteAccess as RemoteAccess  # noqa: PLC0414 - what is asked, and by whom, is told here


class RemoteVerb(StrEnum):
    """What is asked. `targets`: of `retry` what is stuck, `<kind> <key>`, none = all; of `stop` turns; of `deny` and
    `approve` one question; of `raise` `key=value`; of `release` messages that are held. The others have none.
    """

    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    STOP = "stop"
    DENY = "deny"
    APPROVE = "approve"
    RAISE = "raise"
    RELEASE = "release"


NEEDS_ALL: Final = frozenset({RemoteVerb.APPROVE, RemoteVerb.RAISE, RemoteVerb.RELEASE})
_WITHOUT_TARGETS: Final = frozenset({RemoteVerb.PAUSE, RemoteVerb.RESUME})


def may_be_asked(verb: RemoteVerb, access: RemoteAccess) -> bool:
    return access is RemoteAccess.ALL or (access is RemoteAccess.OPERATE and verb not in NEEDS_ALL)


def wrong_with(verb: RemoteVerb, targets: Sequence[str]) -> str:
    """Why nobody could do that; empty where it can be asked."""
    if verb in _WITHOUT_TARGETS:
        return f"{verb.value} is for the whole agent: it has no targets" if targets else ""
    if verb is RemoteVerb.RETRY:
        return ""
    if verb in (RemoteVerb.APPROVE, RemoteVerb.DENY):
        return "" if len(targets) == 1 else f"{verb.value} is for one question"
    return "" if targets else f"{verb.value} needs targets"
