"""What a turn leaves to be sent, sent: each item once, tried again until it is taken or refused."""

from __future__ import annotations

import msgspec

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Delivered, MailboxUnavailable, Refused
from agent_mailer.state.records import ItemState, SettledItem, TurnRecord
from agent_mailer.state.turns import shares
from agent_mailer.watch.claim import origin_of
from agent_mailer.watch.room import Room
from agent_mailer.watch.unsent import composed_again, routes_back, word_to_sender


async def send_items(room: Room, record: TurnRecord) -> None:
    """Get every item of `record.settlement` out, or its refusal into the record, however long that takes.

    Of what was refused its sender is told; that word is an item like others, and is in the record before it leaves.
    """
    assert record.settlement is not None
    if record.resends:
        routes = await room.until_mailbox_takes_it(record.turn_id, lambda: routes_back(room.mailbox, record.envelope))
        items = composed_again(record, room.mailbox, await origin_of(room, record), routes)
        if items is not None:
            await _keep(room, record, items)
    await _send_all(room, record)
    if any(entry.state is ItemState.REFUSED and not entry.own for entry in record.settlement.items):
        word: list[SettledItem] = []
        for one in shares(record):
            word += word_to_sender(record, one, room.mailbox, await origin_of(room, one))
        if word:
            sent = len(record.settlement.items)
            await _keep(room, record, (*record.settlement.items, *word))
            await _send_all(room, record, sent)


async def _send_all(room: Room, record: TurnRecord, first: int = 0) -> None:
    settlement = record.settlement
    assert settlement is not None
    items = list(settlement.items)
    for index, entry in enumerate(items[first:], first):
        if entry.state is not ItemState.PENDING:
            if entry.state is ItemState.REFUSED:
                _tell_refused(room, record, entry)
            continue
        items[index] = await _deliver(room, record, entry)
        settlement = msgspec.structs.replace(settlement, items=tuple(items))
        record.settlement = settlement
        if items[index].state is ItemState.REFUSED or not room.mailbox.capabilities.recognises_delivery:
            # Where the mailbox cannot tell what has arrived, our own record must.
            await room.until_disk_takes_it(record.turn_id, room.state.turns.save, record)


async def _keep(room: Room, record: TurnRecord, items: tuple[SettledItem, ...]) -> None:
    assert record.settlement is not None
    record.settlement = msgspec.structs.replace(record.settlement, items=items)
    await room.until_disk_takes_it(record.turn_id, room.state.turns.save, record)


async def _deliver(room: Room, record: TurnRecord, entry: SettledItem) -> SettledItem:
    item = entry.item
    tries = 0
    answers_since: float | None = None
    """So long the mailbox answers otherwise, and does not take this item."""
    # Where a second delivery is not recognised, an earlier life or the turn itself may have made the first.
    doubtful = not room.mailbox.capabilities.recognises_delivery
    while True:
        began = room.clock.monotonic()
        try:
            if doubtful and await room.mailbox.look(item):
                result: Delivered | Refused | None = Delivered()
            else:
                answer = await room.mailbox.deliver(item)
                doubtful = doubtful or not isinstance(answer, Delivered | Refused)
                result = answer if isinstance(answer, Delivered | Refused) else None
                why = "" if isinstance(answer, Delivered) else answer.why
            reached = True
        except MailboxUnavailable as fault:
            result, why, reached = None, fault.message, await _answers(room)
            if not reached:
                room.troubles.begin(record.turn_id, fault)
        match result:
            case Delivered():
                if tries:
                    room.troubles.over(record.turn_id)
                room.log.emit(EventName.ITEM_DELIVERED, turn_id=record.turn_id, message_id=item.id, to=item.recipient)
                return msgspec.structs.replace(entry, state=ItemState.DELIVERED)
            case Refused(why=reason):
                refused = msgspec.structs.replace(entry, state=ItemState.REFUSED, why=reason)
                _tell_refused(room, record, refused)
                return refused
            case None:
                answers_since = (began if answers_since is None else answers_since) if reached else None
                patience = room.policy.undeliverable_after
                if answers_since is not None and room.clock.monotonic() - answers_since > patience:
                    refused = msgspec.structs.replace(entry, state=ItemState.REFUSED, why=f"not taken for a day: {why}")
                    _tell_refused(room, record, refused)
                    return refused
                if tries == 0:
                    room.log.emit(
                        EventName.ITEM_POSTPONED, turn_id=record.turn_id, message_id=item.id, to=item.recipient, why=why
                    )
        await room.wait(record.turn_id, tries, why, item.recipient)
        tries += 1


async def _answers(room: Room) -> bool:
    """Whether the mailbox itself works: then it is this item that it does not take."""
    try:
        await room.mailbox.pending(1)
    except MailboxUnavailable:
        return False
    return True


def _tell_refused(room: Room, record: TurnRecord, entry: SettledItem) -> None:
    item = entry.item
    room.log.emit(EventName.ITEM_REFUSED, turn_id=record.turn_id, message_id=item.id, to=item.recipient, why=entry.why)
