"""What is to be told back, as rows: each answer to a hook's mail once, until it was taken or is given up.

The queue is the hook's own inbox: what came there after `callback_seq` becomes a row, and the number moves in the same
transaction. A row that is being posted is put off for a while first: of two processes one posts it, and one that is
killed leaves it to whoever looks next.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from agent_mailer.broker.hooks.rows import Standing, State, find_hook, path_name, secret_of
from agent_mailer.broker.hooks.tables import hook_callbacks, hook_deliveries, hook_items, hooks
from agent_mailer.broker.hooks.taking import KEY, in_ms
from agent_mailer.broker.protocol import now_text
from agent_mailer.broker.tables import agents, messages, users
from agent_mailer.outside.callbacks import LONGEST_RESULT, Result
from agent_mailer.outside.items import wait_ms

AT_ONCE = 50
LEASE_MS = 60_000
"""More than a post may take."""


class Callback(msgspec.Struct, frozen=True):
    """`why`: what kept it from being taken the last time. `waits`: it will be tried again by itself."""

    message_id: str
    at: str
    state: State
    tries: int
    why: str
    waits: bool


class Post(msgspec.Struct, frozen=True):
    """One to be posted now. `secret`: what its body is signed with."""

    message_id: str
    body: bytes
    url: str
    hosts: tuple[str, ...]
    secret: str
    tries: int


_h, _b, _m, _d, _i = hooks.c, hook_callbacks.c, messages.c, hook_deliveries.c, hook_items.c
_NEW = (
    select(_h.id, _h.user_id, _h.name, users.c.username, _h.sender_id, _h.callback_seq)
    .join(agents, agents.c.id == _h.sender_id)
    .join(users, users.c.id == _h.user_id)
    .where(_h.callback.is_not(None), _h.standing == Standing.ACTIVE, users.c.standing == "active")
    .where(agents.c.inbox_seq > _h.callback_seq)
)

_DUE = (
    select(_b.message_id)
    .join(hooks, _h.id == _b.hook_id)
    .join(users, users.c.id == _h.user_id)
    .where(_h.standing == Standing.ACTIVE, _h.callback.is_not(None), users.c.standing == "active")
)


def has_news(connection: Connection) -> bool:
    """Whether there is anything to do."""
    waits = _DUE.where(_b.due_ms <= in_ms(0)).limit(1)
    return connection.execute(_NEW.limit(1)).first() is not None or connection.execute(waits).first() is not None


def gather(connection: Connection, key: str) -> list[Post]:
    """What is to be posted now, each put off for as long as that may take. `key`: the broker's secret."""
    for hook in connection.execute(_NEW.limit(AT_ONCE).with_for_update(of=hooks)).all():
        _queue(connection, hook.id, hook.user_id, path_name(hook.name, hook.username), hook.sender_id)
    wanted = (
        _DUE.add_columns(_b.body, _h.callback, _h.callback_hosts, _h.id, _h.version, _b.tries)
        .where(_b.due_ms <= in_ms(0))
        # Each user's in turn: one whose receiver is slow keeps nobody else waiting behind all of his.
        .order_by(func.row_number().over(partition_by=_b.user_id, order_by=(_b.due_ms, _b.message_id)), _b.due_ms)
        .limit(AT_ONCE)
    )
    found: list[Post] = []
    for row in connection.execute(wanted).all():
        put_off = update(hook_callbacks).where(_b.message_id == row.message_id, _b.due_ms <= in_ms(0))
        if connection.execute(put_off.values(due_ms=in_ms(LEASE_MS))).rowcount:
            secret = secret_of(key, row.id, row.version)
            hosts = tuple(row.callback_hosts or ())
            found.append(Post(row.message_id, row.body.encode(), row.callback, hosts, secret, row.tries))
    return found


def ended(connection: Connection, post: Post, why: str) -> None:
    """It was taken where `why` is empty; else it is tried again, or given up."""
    wait = wait_ms(post.tries)
    state, due = (
        (State.POSTED, None) if not why else (State.FAILED, None) if wait is None else (State.WAITS, in_ms(wait))
    )
    values = {"state": state.value, "why": why[:300], "tries": post.tries + 1, "due_ms": due}
    # What was given up meanwhile, with its hook, stays so.
    still = (_b.message_id == post.message_id, _b.due_ms.is_not(None))
    connection.execute(update(hook_callbacks).where(*still).values(**values))


def callbacks_of(connection: Connection, user_id: str, hook_id: str, most: int) -> list[Callback]:
    """The newest first. Raises Fault 404."""
    find_hook(connection, user_id, hook_id)
    wanted = select(_b.message_id, _b.at, _b.state, _b.tries, _b.why, _b.due_ms).where(_b.hook_id == hook_id)
    rows = connection.execute(wanted.order_by(_b.at.desc(), _b.message_id).limit(most))
    return [Callback(name, at, State(state), tries, why, due is not None) for name, at, state, tries, why, due in rows]


def forget(connection: Connection, before: str) -> None:
    """What came earlier and is over."""
    connection.execute(delete(hook_callbacks).where(_b.at < before, _b.due_ms.is_(None)))


def _queue(connection: Connection, hook_id: str, user_id: str, path: str, sender_id: str) -> None:
    # Another process may have been here while we waited for the row.
    seq, made_at = connection.execute(select(_h.callback_seq, _h.created_at).where(_h.id == hook_id)).one()
    newest = connection.execute(select(agents.c.inbox_seq).where(agents.c.id == sender_id)).scalar_one()
    new = (
        select(_m.id, _m.seq, _m.thread_id, _m.from_agent, _m.subject, _m.body, _m.created_at, _m.parent_id)
        .where(_m.to_agent_id == sender_id, _m.seq > seq)
        .order_by(_m.seq)
        .limit(AT_ONCE)
    )
    rows = connection.execute(new).all()
    for row in rows:
        seq = row.seq
        # What was marked unread comes a second time.
        if connection.execute(select(_b.message_id).where(_b.message_id == row.id)).first() is not None:
            continue
        said = (path, row.thread_id, row.id, row.from_agent, row.subject, row.body[:LONGEST_RESULT], row.created_at)
        result = _about(connection, hook_id, row.parent_id, Result(*said))
        # What a deleted hook of that name got comes again where it is marked unread, or taken out of the trash.
        older = row.created_at < made_at
        what = {"message_id": row.id, "hook_id": hook_id, "user_id": user_id, "at": now_text()}
        told = {"state": (State.FAILED if older else State.WAITS).value, "tries": 0, "due_ms": None if older else 0}
        why, body = "it is older than the hook" if older else "", msgspec.json.encode(result).decode()
        connection.execute(insert(hook_callbacks).values(**what, **told, why=why, body=body))
    if len(rows) < AT_ONCE:
        # The last of them may be deleted since: it is passed over, or it would be looked for again and again.
        seq = max(seq, newest)
    connection.execute(update(hooks).where(_h.id == hook_id).values(callback_seq=seq))


def _about(connection: Connection, hook_id: str, parent_id: str | None, result: Result) -> Result:
    """With what it is an answer to: the parent's key names the delivery."""
    sent = (
        None if parent_id is None else connection.execute(select(_m.idempotency_key).where(_m.id == parent_id)).scalar()
    )
    if sent is None or not sent.startswith(KEY):
        return result
    came = connection.execute(
        select(_d.delivery_id, _d.origin, _d.item, _d.message_ids, _d.occurrences).where(
            _d.hook_id == hook_id, _d.digest == sent.removeprefix(KEY)
        )
    ).first()
    if came is None:
        return result
    item = connection.execute(
        select(_i.is_open, _i.occurrences).where(_i.hook_id == hook_id, _i.origin == came.origin, _i.item == came.item)
    ).first()
    return msgspec.structs.replace(
        result,
        delivery=came.delivery_id,
        source=came.origin,
        dedupe_key=came.item,
        message_ids=tuple(came.message_ids),
        status="news" if item is None else "open" if item.is_open else "resolved",
        occurrence_count=came.occurrences if item is None else item.occurrences,
    )
