"""What becomes of a delivery: decided, sent and written down in one transaction, once for each id."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from agent_mailer.broker.data import Quota
from agent_mailer.broker.hooks.rows import Standing, recipients
from agent_mailer.broker.hooks.tables import hook_deliveries, hook_items, hooks
from agent_mailer.broker.messages.sending import send_all
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.broker.protocol import CLOCK, Fault, now_text
from agent_mailer.broker.tables import agents
from agent_mailer.broker.users.rows import new_id
from agent_mailer.outside.calls import OTHER_BODY, WRONG
from agent_mailer.outside.event import Event, Ignored, State, body_of, subject_of
from agent_mailer.outside.items import (
    BEGINS_FIRST,
    Item,
    NotSent,
    Outcome,
    Taken,
    ToSend,
    decide,
    thread_words,
    wait_ms,
)

KEY = "hook:"
"""How the key of a hook's mail begins; its digest follows."""


class Limits(msgspec.Struct, frozen=True):
    """`longest`: bytes of a mail's body."""

    longest: int
    quota: Quota = Quota()


class Delivery(msgspec.Struct, frozen=True):
    """What came. `digest`: by which the same is known again; `once`: the same digest is the same delivery, whatever its
    id.
    """

    hook_id: str
    path: str
    id: str
    digest: str
    once: bool
    event: Event | Ignored
    limits: Limits


class Result(msgspec.Struct, frozen=True):
    """`arrivals`: the inboxes that have something new; `after_ms`: when what has to come before is tried again."""

    taken: Taken
    arrivals: tuple[tuple[str, int], ...] = ()
    after_ms: int | None = None


class _Hook(msgspec.Struct, frozen=True):
    id: str
    user_id: str
    standing: str
    sender_id: str
    sender: str
    agent_id: str | None
    team_id: str | None


_h, _d, _i = hooks.c, hook_deliveries.c, hook_items.c
# Whoever else takes something by this hook waits: each sees what was written down before.
_LOCKED = (
    select(
        *(_h.id, _h.user_id, _h.standing, _h.sender_id, agents.c.address, _h.agent_id, _h.team_id),
    )
    .join(agents, agents.c.id == _h.sender_id)
    .with_for_update(of=hooks)
)


def take_all(connection: Connection, deliveries: Sequence[Delivery]) -> list[Result | Fault]:
    """Each of them, in order."""
    results: list[Result | Fault] = []
    for delivery in deliveries:
        try:
            results.append(_take(connection, delivery))
        except Fault as fault:
            results.append(fault)
    return results


def _take(connection: Connection, delivery: Delivery) -> Result:
    """Raises Fault 401 (gone meanwhile), 409 (its id came with something else)."""
    hook = _locked(connection, delivery.hook_id)
    earlier = connection.execute(
        select(_d.id, _d.delivery_id, _d.digest, _d.outcome, _d.reason, _d.message_ids, _d.occurrences)
        .where(_d.hook_id == hook.id)
        .where((_d.digest == delivery.digest) if delivery.once else (_d.delivery_id == delivery.id))
    ).first()
    if earlier is None and delivery.once:
        same = select(_d.digest).where(_d.hook_id == hook.id, _d.delivery_id == delivery.id)
        if connection.execute(same).first() is not None:
            raise Fault(409, OTHER_BODY)
    if earlier is not None:
        if earlier.digest != delivery.digest:
            raise Fault(409, OTHER_BODY)
        # Whoever sends it again wants it tried again.
        if earlier.outcome == Outcome.FAILED and (again := retry(connection, earlier.id, delivery.limits)) is not None:
            return again
        found = (earlier.delivery_id, Outcome(earlier.outcome), earlier.reason, tuple(earlier.message_ids))
        return Result(Taken(*found, earlier.occurrences, replayed=True))
    result = _place(connection, hook, delivery)
    _write(connection, hook, delivery, result)
    return result


def retry(connection: Connection, row_id: str, limits: Limits, due_ms: int | None = None) -> Result | None:
    """What failed, once more; None where it has come to its end meanwhile, or is not due by `due_ms` any more: another
    process has tried it.
    """
    kept = connection.execute(select(_d.hook_id).where(_d.id == row_id, _d.held.is_not(None))).first()
    if kept is None:
        return None
    try:
        hook = _locked(connection, kept.hook_id)
    except Fault:
        connection.execute(update(hook_deliveries).where(_d.id == row_id).values(due_ms=None))
        return None
    still = (_d.held.is_not(None), *(() if due_ms is None else (_d.due_ms <= due_ms,)))
    row = connection.execute(
        select(_d.delivery_id, _d.digest, _d.held, _d.tries, _d.at).where(_d.id == row_id, *still)
    ).first()
    if row is None:
        return None
    held = msgspec.json.decode(row.held, type=_Held)
    again = Delivery(hook.id, held.path, row.delivery_id, row.digest, once=False, event=held.event, limits=limits)
    result = _place(connection, hook, again, row.at)
    tries = row.tries + (result.after_ms is None)
    connection.execute(update(hook_deliveries).where(_d.id == row_id).values(**_values(again, result, tries)))
    return result


class _Held(msgspec.Struct, frozen=True):
    path: str
    event: Event


def _locked(connection: Connection, hook_id: str) -> _Hook:
    row = connection.execute(_LOCKED.where(_h.id == hook_id)).first()
    if row is None or row[2] == Standing.DELETED:
        raise Fault(401, WRONG)
    return _Hook(*row)


def _place(connection: Connection, hook: _Hook, delivery: Delivery, came: str | None = None) -> Result:
    """`came`: when, where that was before now."""
    event = delivery.event
    if isinstance(event, Event) and hook.standing == Standing.DISABLED:
        return Result(Taken(delivery.id, Outcome.IGNORED, "hook_disabled"))
    if (due := _due_before(connection, hook, event, came)) is not None:
        return msgspec.structs.replace(_failed(delivery, BEGINS_FIRST), after_ms=due)
    thread, item = "", None
    if isinstance(event, Event):
        thread = str(uuid.uuid5(uuid.UUID(hook.sender_id), "\0".join(thread_words(event, delivery.id))))
        item = None if event.state is State.NEWS else _item(connection, hook, event)
    plan = decide(event, item, thread)
    if isinstance(plan, ToSend) and isinstance(event, Event):
        result = _send(connection, hook, delivery, event, plan.thread)
        if result.taken.outcome is Outcome.FAILED:
            return result
        taken = msgspec.structs.replace(result.taken, outcome=plan.outcome, occurrence_count=plan.occurrences)
        result = msgspec.structs.replace(result, taken=taken)
    else:
        reason = plan.reason if isinstance(plan, NotSent) else ""
        result = Result(Taken(delivery.id, plan.outcome, reason, (), plan.occurrences))
    if plan.after is not None and isinstance(event, Event):
        _note(connection, hook, event, plan.after)
    return result


def _due_before(connection: Connection, hook: _Hook, event: Event | Ignored, came: str | None) -> int | None:
    """Of an end, when what came earlier of its item, and failed, is tried again; None where nothing of it waits."""
    if not isinstance(event, Event) or event.state is not State.RESOLVED:
        return None
    same = (_d.hook_id == hook.id, _d.origin == event.origin, _d.item == event.key, _d.due_ms.is_not(None))
    earlier = () if came is None else (_d.at < came,)
    due: int | None = connection.execute(select(func.max(_d.due_ms)).where(*same, *earlier)).scalar()
    return due


def _item(connection: Connection, hook: _Hook, event: Event) -> Item | None:
    where = (_i.hook_id == hook.id, _i.origin == event.origin, _i.item == event.key)
    row = connection.execute(select(_i.is_open, _i.occurrences, _i.thread_id, _i.moment_ms).where(*where)).first()
    return None if row is None else Item(*row)


def _note(connection: Connection, hook: _Hook, event: Event, after: Item) -> None:
    names = {"hook_id": hook.id, "origin": event.origin, "item": event.key}
    now = now_text()
    values = {"is_open": after.is_open, "occurrences": after.occurrences, "thread_id": after.thread}
    values |= {"moment_ms": after.moment_ms, "last_at": now}
    begun = {"first_at": now} if after.begins else {}
    changed = update(hook_items).where(*(hook_items.c[name] == value for name, value in names.items()))
    if not connection.execute(changed.values(**values, **begun)).rowcount:
        connection.execute(insert(hook_items).values(**names, user_id=hook.user_id, **values, first_at=now))


def _send(connection: Connection, hook: _Hook, delivery: Delivery, event: Event, thread: str) -> Result:
    to = recipients(connection, hook.user_id, hook.agent_id, hook.team_id)
    if not to:
        return _failed(delivery, "agent_gone" if hook.agent_id is not None else "team_empty")
    body = body_of(event, delivery.path)
    if len(body.encode()) > delivery.limits.longest:
        return _failed(delivery, "too_large")
    new = NewMessage(
        from_agent=hook.sender,
        to=to,
        subject=subject_of(event),
        body=body,
        thread_id=thread,
        labels=("hook",),
    )
    # The key outlives what is written down of the delivery.
    key = f"{KEY}{delivery.digest}"
    submission = Submission(
        new,
        hook.user_id,
        hook.sender_id,
        bound=True,
        key=key,
        longest=delivery.limits.longest,
        quota=delivery.limits.quota,
    )
    sent = send_all(connection, [submission])[0]
    if isinstance(sent, Fault):
        return _failed(delivery, "quota" if sent.status == 429 else "refused")
    ids = tuple(message.id for message in sent.messages)
    return Result(Taken(delivery.id, Outcome.SENT, "", ids), sent.arrivals)


def _failed(delivery: Delivery, reason: str) -> Result:
    return Result(Taken(delivery.id, Outcome.FAILED, reason))


def _write(connection: Connection, hook: _Hook, delivery: Delivery, result: Result) -> None:
    names = {"id": new_id(), "hook_id": hook.id, "user_id": hook.user_id, "delivery_id": delivery.id}
    event = delivery.event
    about = {"event": event.name, "origin": "", "item": ""}
    if isinstance(event, Event):
        about |= {"origin": event.origin, "item": event.key}
    told = {"digest": delivery.digest, "at": now_text(), **about}
    connection.execute(insert(hook_deliveries).values(**names, **told, **_values(delivery, result, 0)))


def _values(delivery: Delivery, result: Result, tries: int) -> dict[str, Any]:
    taken, held, due = result.taken, None, result.after_ms
    if taken.outcome is Outcome.FAILED and isinstance(delivery.event, Event):
        held = msgspec.json.encode(_Held(delivery.path, delivery.event)).decode()
        if due is None and (wait := wait_ms(tries)) is not None:
            due = in_ms(wait)
    return {
        "outcome": taken.outcome.value,
        "reason": taken.reason,
        "occurrences": taken.occurrence_count,
        "message_ids": list(taken.message_ids),
        "held": held,
        "tries": tries,
        "due_ms": due,
    }


def in_ms(wait: int) -> int:
    """So many milliseconds from now, as milliseconds since 1970."""
    return int((CLOCK.now() + timedelta(milliseconds=wait)).timestamp() * 1000)
