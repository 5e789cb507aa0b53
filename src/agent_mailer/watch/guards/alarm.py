"""`[alarm]`: silence that somebody should hear of. Told once, and again only after it was over. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from agent_mailer.state.records import Pause, PauseReason


class Silence(StrEnum):
    """What was not to be heard."""

    MAIL_WAITS = "mail_waits"
    NO_TURN = "no_turn"


class AlarmPolicy(msgspec.Struct, frozen=True):
    """Seconds; 0 = off."""

    mail_waits: float = 0.0
    no_turn: float = 0.0


class Heard(msgspec.Struct, frozen=True):
    """`silent`: what lasts too long, each with since when; `next_look`: the moment from which something may."""

    silent: tuple[tuple[Silence, float], ...] = ()
    next_look: float | None = None


WISHED = frozenset({PauseReason.BY_HAND, PauseReason.QUIET_HOURS})
"""Pauses that somebody wanted: nothing is amiss while they last."""


def is_wished(pause: Pause | None) -> bool:
    return pause is not None and pause.reason in WISHED


def listen(
    policy: AlarmPolicy,
    waiting: Iterable[float],
    last_turn: float,
    pause: Pause | None,
    now: float,
    rested: float,
) -> Heard:
    """`waiting`: when the mail was written that waits and is not in work; `last_turn`: when one was last begun; until
    `rested` nobody was to work.
    """
    oldest = min(waiting, default=None)
    if oldest is None or is_wished(pause):
        return Heard()
    # A sender's clock may be behind ours by anything, and ahead of it: what lies ahead counts from now.
    first = min(max(oldest, rested), now)
    since = {Silence.MAIL_WAITS: first, Silence.NO_TURN: max(first, last_turn)}
    silent: list[tuple[Silence, float]] = []
    moments: list[float] = []
    for what, longest in ((Silence.MAIL_WAITS, policy.mail_waits), (Silence.NO_TURN, policy.no_turn)):
        if longest and now - since[what] >= longest:
            silent.append((what, since[what]))
        elif longest:
            moments.append(since[what] + longest)
    return Heard(tuple(silent), min(moments, default=None))
