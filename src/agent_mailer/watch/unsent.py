"""What an agent wrote and did not leave: its sender is told, and it is sent again, or dropped, when somebody asks.

"Sent again" is a turn record without a process that begins in `settling`: there is no second redo log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent_mailer.mailbox.port import Action, Automatic, Draft, Envelope, Kind, Mailbox, Message, Refused, Route
from agent_mailer.names import new_turn_id, printable
from agent_mailer.state import State
from agent_mailer.state.records import UNSENT, ItemState, Phase, SettledItem, Settlement, TurnRecord
from agent_mailer.state.stuck import split_key
from agent_mailer.state.turns import share_of
from agent_mailer.watch.deciding import mark_of

COMPOSED = ("---json\n", '{"idempotency_key"')
"""How the bytes of an item begin that could be composed: records of earlier versions do not say."""


def word_to_sender(record: TurnRecord, one: TurnRecord, mailbox: Mailbox, origin: Message) -> tuple[SettledItem, ...]:
    """Who waits for this turn is told once that something of it did not leave, where there is a way to him. `one`: the
    turn as the message at hand, whose text is `origin`, sees it.
    """
    settlement = record.settlement
    if settlement is None or record.resends or one.settlement is None or not one.settlement.finished:
        return ()
    about = one.envelope.id if one is not record else ""
    if origin.envelope.automatic is Automatic.NOTICE or origin.envelope.sender in ("", mailbox.address):
        return ()
    refused = [
        (number, entry)
        for number, entry in enumerate(settlement.items)
        if entry.state is ItemState.REFUSED and not entry.own and entry.about == about
    ]
    if not refused:
        return ()
    lines = [f"To {printable(entry.item.recipient)}: {printable(entry.why, 300)}" for _, entry in refused]
    again = " ".join(f"{record.turn_id}.{number}" for number, _ in refused[:10])
    body = (
        "Something that the agent wrote for this message could not be sent.\n\n" + "\n".join(lines[:20]) + "\n\n"
        f"It is kept. To have it sent, on the agent's machine: agent-mailer stuck retry {again}"
    )
    draft = Draft(
        f"not-sent{mark_of(about)}",
        Action.REPLY,
        settlement.decided_at,
        body=body,
        kind=Kind.STATUS,
        automatic=Automatic.NOTICE,
    )
    routes = (one.route,) if one.route is not None else ()
    composed = mailbox.compose(draft, origin, record.turn_id, routes)
    if isinstance(composed, Refused):
        return ()
    known = {entry.item.id for entry in settlement.items if entry.own}
    unreachable = {entry.item.recipient for _, entry in refused if entry.draft is None}
    return tuple(
        SettledItem(item, own=True, about=about)
        for item in composed
        if item.id not in known and item.recipient not in unreachable
    )


async def routes_back(mailbox: Mailbox, envelope: Envelope) -> tuple[Route, ...]:
    """The ways of an answer as they are now. Raises MailboxUnavailable."""
    way = await mailbox.way_back(envelope)
    return (way,) if isinstance(way, Route) else ()


def composed_again(
    record: TurnRecord, mailbox: Mailbox, origin: Message, routes: Sequence[Route]
) -> tuple[SettledItem, ...] | None:
    """The items of a record that sends again what could not be composed, or what leaves by a way that was lost.

    `routes` are as they are now. None where nothing of the record has to be changed.
    """
    settlement, first = record.settlement, split_key(record.resends)
    if settlement is None or first is None:
        return None
    [entry, *others] = settlement.items
    if others or entry.state is not ItemState.PENDING:
        return None
    if entry.draft is None:
        return _by_the_way_that_is(entry, routes)
    composed = mailbox.compose(entry.draft, origin, first[0], routes)
    if isinstance(composed, Refused):
        return (msgspec.structs.replace(entry, state=ItemState.REFUSED, why=composed.why),)
    return tuple(SettledItem(item) for item in composed)


def _by_the_way_that_is(entry: SettledItem, routes: Sequence[Route]) -> tuple[SettledItem, ...] | None:
    """A person has said that it shall be sent: to the same address and place, whatever folder lies there by now."""
    was = entry.item.route
    for now in routes:
        if was is not None and now != was and (now.address, now.place) == (was.address, was.place):
            return (msgspec.structs.replace(entry, item=msgspec.structs.replace(entry.item, route=now)),)
    return None


def take_over_resent(state: State, record: TurnRecord) -> None:
    """What was sent again counts as delivered where it was refused first; its own record is of no more use."""
    turn_id, number = split_key(record.resends) or ("", 0)
    first, settlement = state.turns.load(turn_id) if turn_id else None, record.settlement
    assert settlement is not None
    still = first if first is not None and _item(first, number) is not None else None
    refused = [entry for entry in settlement.items if entry.state is ItemState.REFUSED]
    if still is not None and refused:
        _change(state, still, number, why=refused[0].why)
    elif still is not None:
        _change(state, still, number, state=ItemState.DELIVERED, draft=None)
    if not refused:
        # Whoever died between the two has left the index behind.
        state.unsent.remove([record.resends])
    state.turns.drop(record.turn_id)


def _item(record: TurnRecord, number: int) -> SettledItem | None:
    items = record.settlement.items if record.settlement is not None else ()
    return items[number] if number < len(items) and items[number].state in UNSENT else None


def _change(files: State, record: TurnRecord, number: int, **changes: object) -> None:
    """Durable when it returns."""
    settlement = record.settlement
    assert settlement is not None
    items = list(settlement.items)
    items[number] = msgspec.structs.replace(items[number], **changes)
    if items[number].state not in UNSENT:
        items[number] = msgspec.structs.replace(
            items[number], item=msgspec.structs.replace(items[number].item, payload="")
        )
    record.settlement = msgspec.structs.replace(settlement, items=tuple(items))
    files.turns.save(record)


def _draft_of(entry: SettledItem, decided_at: float) -> Draft | None:
    item = entry.item
    if entry.draft is not None or item.payload.startswith(COMPOSED):
        return entry.draft
    to = tuple(name.strip() for name in item.recipient.split(",") if name.strip())
    return Draft(item.id, Action.REPLY, decided_at, to=to, thread=item.thread, body=item.payload)


def send_again(state: State, keys: Iterable[str]) -> list[tuple[bool, str]]:
    """Each under its first key; whether it is, and a line for people. Asked twice it is sent once."""
    under_way = _under_way(state)
    return [_send_again(state, key, under_way) for key in keys]


def drop_unsent(state: State, keys: Iterable[str]) -> list[tuple[bool, str]]:
    under_way = _under_way(state)
    return [_drop_unsent(state, key, under_way) for key in keys]


def _under_way(state: State) -> set[str]:
    open_turns = (state.turns.load(turn_id) for turn_id in state.turns.open_ids())
    return {record.resends for record in open_turns if record is not None and record.resends}


def _refused_item(state: State, key: str) -> tuple[TurnRecord, Settlement, int] | None:
    turn_id, number = split_key(key) or ("", 0)
    record = state.turns.load(turn_id) if turn_id else None
    if record is None or record.settlement is None or _item(record, number) is None:
        # It has left meanwhile, or was dropped, and only the index does not know.
        state.unsent.remove([key])
        return None
    return record, record.settlement, number


def _send_again(state: State, key: str, under_way: set[str]) -> tuple[bool, str]:
    found = _refused_item(state, key)
    if found is None:
        return False, f"{printable(key)}: it is not stuck"
    first, settlement, number = found
    entry = settlement.items[number]
    to = printable(entry.item.recipient)
    if not state.turns.is_settled(first.turn_id):
        return False, f"{printable(key)}: its turn is still being settled"
    if key in under_way:
        return True, f"{printable(key)}: is being sent to {to}"
    under_way.add(key)
    now = state.folder.clock.now()
    again = SettledItem(entry.item, draft=_draft_of(entry, settlement.decided_at))
    state.turns.create(
        TurnRecord(
            turn_id=new_turn_id(now),
            envelope=share_of(first, entry.about).envelope,
            phase=Phase.SETTLING,
            runtime=first.runtime,
            claimed_at=now,
            settlement=Settlement(settlement.outcome, "sent again", now, 0.0, finished=False, items=(again,)),
            resends=key,
        )
    )
    return True, f"{printable(key)}: will be sent to {to}"


def _drop_unsent(state: State, key: str, under_way: set[str]) -> tuple[bool, str]:
    if key in under_way:
        return False, f"{printable(key)}: it is being sent"
    found = _refused_item(state, key)
    if found is None:
        return False, f"{printable(key)}: it is not stuck"
    first, _, number = found
    if not state.turns.is_settled(first.turn_id):
        return False, f"{printable(key)}: its turn is still being settled"
    _change(state, first, number, state=ItemState.DROPPED, draft=None)
    state.unsent.remove([key])
    return True, f"{printable(key)}: dropped"
