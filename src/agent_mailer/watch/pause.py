"""The pause of this workdir and the one of its account, kept in step; who may probe."""

from __future__ import annotations

import msgspec

from agent_mailer.events import EventName
from agent_mailer.state import State
from agent_mailer.state.records import Pause, PauseReason, Settlement
from agent_mailer.watch.room import Room

OF_THE_ACCOUNT = frozenset({PauseReason.LIMITED, PauseReason.SIGNED_OUT})
SPREAD_SECONDS = 5.0
"""Watchers that waited for the same account start again within this long, each at a moment of its own."""


def current_pause(room: Room) -> Pause | None:
    """Why nothing may start. What another watcher on the account wrote or lifted is taken over; a hand's word stays."""
    state = room.state
    own = state.pause.read()
    if state.account is None or (own is not None and own.reason is PauseReason.BY_HAND):
        return own
    shared = state.account.read()
    if shared is None:
        if own is None or own.reason not in OF_THE_ACCOUNT:
            return own
        lift(state, own)
        return None
    met_here = own is not None and (shared.reason, shared.since) == (own.reason, own.since) and not own.elsewhere
    shared = msgspec.structs.replace(shared, elsewhere=not met_here)
    if own is None or (shared.reason, shared.since, shared.probes) != (own.reason, own.since, own.probes):
        _write(room, shared, shared=False)
    return shared


def apply_pause(room: Room, settlement: Settlement) -> None:
    """What a settled turn means for the pause."""
    known, pause = room.state.pause.read(), settlement.pause
    if pause == known or (known is not None and known.reason is PauseReason.BY_HAND):
        return
    if pause is not None:
        _write(room, pause, shared=pause.reason in OF_THE_ACCOUNT)
        return
    # Decided before a pause that came meanwhile from another thread: that one stands.
    if known is not None and known.since <= settlement.decided_at - settlement.seconds:
        lift(room.state, known)


def lift(state: State, known: Pause, *, by_hand: bool = False) -> None:
    """End a pause, for all watchers on the account where it is the account's; `by_hand`: durably."""
    if state.account is not None and known.reason in OF_THE_ACCOUNT:
        state.account.clear()
    state.pause.clear(durable=by_hand)
    state.log.emit(EventName.RESUMED, reason=known.reason.value)


def may_probe(room: Room, pause: Pause | None) -> bool:
    """Whether a start now is ours to make; while an account is paused only one watcher tries it."""
    account = room.state.account
    return account is None or pause is None or pause.reason not in OF_THE_ACCOUNT or account.may_probe()


def end_probe(room: Room) -> None:
    if room.state.account is not None:
        room.state.account.end_probe()


def _write(room: Room, pause: Pause, *, shared: bool) -> None:
    room.state.pause.write(pause)
    if shared and room.state.account is not None:
        room.state.account.write(pause)
    room.log.emit(
        EventName.PAUSED,
        reason=pause.reason.value,
        in_seconds=None if pause.until is None else round(pause.until - room.clock.now(), 1),
        detail=pause.detail,
    )
