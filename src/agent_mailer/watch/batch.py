"""Several messages, one turn (`batch_low`): which may go together, and how each is settled by itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Protocol

import msgspec

from agent_mailer.mailbox.port import Action, Automatic, Draft, Envelope, Message, Outgoing, Priority, Refused, Route
from agent_mailer.outcomes import AutoReply
from agent_mailer.state.records import Batched, SettledItem, Settlement
from agent_mailer.state.turns import ids_of, shares
from agent_mailer.turn_tools.folder import FinishKind
from agent_mailer.watch.deciding import TurnEnd, decide_settlement, mark_of
from agent_mailer.watch.rules import Candidate, WatchPolicy

MOST_BATCHED = 10
"""So many messages go into one turn."""


class Compose(Protocol):
    """The mailbox's own."""

    def __call__(
        self, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
    ) -> Sequence[Outgoing] | Refused: ...


def batch_of(head: Candidate, candidates: Iterable[Candidate], policy: WatchPolicy) -> tuple[Envelope, ...]:
    """What goes into the turn of a thread's `head` with it: its next `low` messages, where nothing but such mail waits.

    What has been tried before runs alone, and so does what comes after it. `candidates`: all that is to be done.
    """
    # A first start that is the last one would give all of them up at once.
    if not policy.batch_low or policy.approve.rules or policy.max_starts < 2 or not _may_share(head):
        return ()
    found: list[Candidate] = []
    for candidate in candidates:
        if candidate.envelope.priority is not Priority.LOW:
            return ()
        if candidate.envelope.thread == head.envelope.thread and candidate is not head:
            found.append(candidate)
    found.sort(key=lambda one: one.envelope.order)
    alone = next((number for number, one in enumerate(found) if not _may_share(one)), len(found))
    return tuple(one.envelope for one in found[: min(alone, MOST_BATCHED - 1)])


def _may_share(candidate: Candidate) -> bool:
    envelope = candidate.envelope
    return candidate.retry is None and envelope.priority is Priority.LOW and envelope.automatic is Automatic.NO


def settle_each(
    end: TurnEnd, messages: Mapping[str, Message], answered: Set[str], policy: WatchPolicy, compose: Compose
) -> tuple[Settlement, tuple[Batched, ...]]:
    """The turn's settlement, and its batch with that of each. `messages` are those of the batch, by id; `answered`: to
    which the thread shows an answer of ours since the claim.
    """
    items: list[SettledItem] = []
    decided: list[Settlement] = []
    for share in _ends(end, messages, policy):
        own = share.record
        routes = (own.route,) if own.route is not None else ()
        one = msgspec.structs.replace(share, answered=share.answered or own.envelope.id in answered)
        settlement = decide_settlement(one, policy, partial(compose, routes=routes))
        about = own.envelope.id if decided else ""
        items += (msgspec.structs.replace(item, about=about) for item in settlement.items)
        if decided:
            settlement = msgspec.structs.replace(
                settlement, items=(), usage=None, session=None, pause=None, notes=(), touched=()
            )
        decided.append(settlement)
    others = zip(end.record.batch, decided[1:], strict=True)
    return (
        msgspec.structs.replace(decided[0], items=tuple(items)),
        tuple(msgspec.structs.replace(one, settlement=settlement) for one, settlement in others),
    )


def _ends(end: TurnEnd, messages: Mapping[str, Message], policy: WatchPolicy) -> list[TurnEnd]:
    """What of the turn's end is each message's.

    A reply that names none is an answer to each that has none of its own. Other mail is the whole turn's: it leaves
    once, and where there is some, nobody gets the final words by themselves.
    """
    turns = shares(end.record)
    first = end.record.envelope.id
    drafts, note = end.sealed.drafts, end.sealed.finish
    replied = {draft.about for draft in drafts if draft.about and draft.action is Action.REPLY and not draft.at_once}
    for_all = [
        draft for draft in drafts if draft.action is Action.REPLY and not (draft.about or draft.at_once or draft.to)
    ]
    wrote = policy.auto_reply is not AutoReply.ALWAYS and any(
        draft.action is not Action.REPLY and not draft.at_once for draft in drafts
    )
    found: list[TurnEnd] = []
    for turn in turns:
        own = turn.envelope.id
        mine = [d for d in drafts if d.about == own or (own == first and d.about not in ids_of(end.record))]
        if own in replied:
            mine = [draft for draft in mine if draft not in for_all]
        mark = mark_of(own) if own != first else ""
        if own != first:
            copies = for_all if own not in replied else ()
            mine += (msgspec.structs.replace(draft, key=f"{draft.key}{mark}") for draft in copies)
        blocked = note is not None and note.kind is FinishKind.BLOCKED
        # The question is for those that have no answer yet, where there are any.
        done = blocked and own in replied and not replied >= ids_of(end.record)
        sealed = msgspec.structs.replace(end.sealed, drafts=tuple(mine), finish=None if done else note)
        found.append(
            msgspec.structs.replace(
                end,
                record=turn,
                origin=end.origin if own == first else messages[own],
                sealed=sealed,
                resumes=end.resumes and own == first,
                answered=wrote,
                shared=True,
                mark=mark,
            )
        )
    return found
