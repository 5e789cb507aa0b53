"""What is told of files that changed while others had reserved them: what was seen, and never who did it. Pure.

Of two agents in one tree the files do not say who wrote. So their holder's own doings are weighed: what it edited by
name itself is left out, and what may as well be its own is told as that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent_mailer.mailbox.port import Action, Automatic, Draft, Kind
from agent_mailer.names import printable, prompt_word, whole_digest
from agent_mailer.reservations.calls import Calls, Sighting
from agent_mailer.reservations.port import Doubt, Touched

MOST_TOLD: Final = 100
_NAMED: Final = 10

_NEAR: Final = 2.0
"""Seconds from a hook's word to what it speaks of, on a machine with much to do: so close is the same moment."""


def weighed(sightings: Sequence[Sighting], doings: Mapping[str, Calls]) -> tuple[Touched, ...]:
    """Each file once, with the least doubt there is. `doings`: what the holders' turns did, where that is known."""
    found: dict[tuple[str, str], Touched] = {}
    ranks = list(Doubt)
    for one in sightings:
        calls = doings.get(one.owner.turn) if one.owner.turn else None
        if calls is not None and _is_its_own_edit(one, calls):
            continue
        doubt = Doubt.UNKNOWN if calls is None else Doubt.BUSY if _runs(one, calls) else Doubt.IDLE
        touched = Touched(one.path, one.how, one.owner.address, one.pattern, doubt, one.by_call)
        known = found.get((one.path, one.owner.address))
        if known is None or (not known.by_call, ranks.index(known.doubt)) > (not one.by_call, ranks.index(doubt)):
            found[one.path, one.owner.address] = touched
    return tuple(sorted(found.values(), key=lambda touched: (touched.holder, touched.path)))[:MOST_TOLD]


def _is_its_own_edit(one: Sighting, calls: Calls) -> bool:
    """The file says itself when it was written last; one that is gone does not."""
    since, until = (one.at - _NEAR, one.at + _NEAR) if one.at else (one.since - _NEAR, one.until + _NEAR)
    return any(path == one.path and since <= at <= until for path, at in calls.edits)


def _runs(one: Sighting, calls: Calls) -> bool:
    """Whether a call of the holder's ran beside ours, or it edited that file as well: only the last write is dated."""
    beside = any(began - _NEAR <= one.until and ended + _NEAR >= one.since for began, ended in calls.spans)
    return beside or any(path == one.path and one.since - _NEAR <= at <= one.until + _NEAR for path, at in calls.edits)


def told(
    drafts: Sequence[Draft], touched: Sequence[Touched], address: str, turn_id: str, now: float, *, holders: bool
) -> list[Draft]:
    """A turn's mail with a line about it in the answer, and with `holders` a notice to each of them but ourselves."""
    found = list(drafts)
    for place in reversed(range(len(found))):
        draft = found[place]
        if (
            draft.action is Action.REPLY
            and not draft.to
            and not draft.at_once
            and draft.automatic is not Automatic.NOTICE
        ):
            found[place] = msgspec.structs.replace(draft, body=f"{draft.body.rstrip()}\n\n[{as_line(touched)}]")
            break
    others = dict.fromkeys(one.holder for one in touched if one.holder.casefold() != address.casefold())
    for holder in others if holders else ():
        theirs = [one for one in touched if one.holder == holder]
        key = f"touched-{whole_digest(holder)[:16]}"
        subject = f"What you have reserved changed while {printable(address, 80)} worked"
        draft = Draft(key, Action.SEND, now, (holder,), subject, _to_holder(theirs, address, turn_id), kind=Kind.STATUS)
        found.append(msgspec.structs.replace(draft, automatic=Automatic.NOTICE))
    return found


def as_line(touched: Sequence[Touched]) -> str:
    """One line for people: what changed, who has it, and what is known of him."""
    named = [
        f"{printable(one.path, 200)} ({printable(one.holder, 80)} has {printable(one.pattern, 80)}; {_doubt(one)})"
        for one in touched[:_NAMED]
    ]
    more = f"; and {len(touched) - _NAMED} more" if len(touched) > _NAMED else ""
    return f"{_when(touched)} files changed that others have reserved: {'; '.join(named)}{more}"


def _to_holder(theirs: Sequence[Touched], address: str, turn_id: str) -> str:
    lines = [f"- {printable(one.path, 200)} ({printable(one.pattern, 80)}): {one.how}; {_doubt(one)}" for one in theirs]
    return (
        f"{_when(theirs, prompt_word(address, 'agent'))} (turn {turn_id}) these files changed, "
        "which you have reserved:\n\n" + "\n".join(lines) + "\n\nNobody has put anything back."
    )


def _when(touched: Sequence[Touched], agent: str = "") -> str:
    """To others the `agent` is named."""
    if all(one.by_call for one in touched):
        return f"While shell commands of {agent or 'this turn'} ran"
    return f"While {f'a turn of {agent}' if agent else 'this turn'} ran"


def _doubt(one: Touched) -> str:
    who = printable(one.holder, 80)
    match one.doubt:
        case Doubt.IDLE:
            return f"no call of {who}'s ran then"
        case Doubt.BUSY:
            return f"a call of {who}'s own ran as well"
        case Doubt.UNKNOWN:
            return "who wrote it is not known"
