"""One-time links as rows: offered, looked at, used once. Of a token only its hash is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.broker.protocol import CLOCK, Fault
from agent_mailer.broker.tables import agents
from agent_mailer.broker.watch_tables import approval_links

MOST_OPEN = 1000
"""Links of one agent that wait at a time; questions beyond are asked without one."""

KEPT_MS = 7 * 86_400_000
"""Milliseconds after its end for which a link's row stays."""


class Shown(msgspec.Struct, frozen=True):
    """What the page says of a question; all of it is untrusted. `for_mail_of`: whose mail it is about. `question`: its
    id, as the watcher's report has it.
    """

    act: str
    said: str = ""
    folder: str = ""
    host: str = ""
    for_mail_of: str = ""
    question: str = ""


class OpenLink(msgspec.Struct, frozen=True):
    """A link that waits: of which user, for which agent, until when (milliseconds since 1970)."""

    user_id: str
    agent_id: str
    address: str
    shown: Shown
    ends_ms: int


_l = approval_links.c
_OPEN = (
    select(_l.user_id, _l.agent_id, agents.c.address, _l.shown, _l.ends_ms)
    .join(agents, agents.c.id == _l.agent_id)
    .where(
        _l.token_hash == bindparam("hash"),
        _l.verdict.is_(None),
        _l.ends_ms > bindparam("now"),
        agents.c.status != "deleted",
    )
)
_OPEN_LOCKED = _OPEN.with_for_update(of=approval_links)
_KNOWN = select(_l.agent_id).where(_l.token_hash == bindparam("hash"))
_OF_USER = select(_l.agent_id, _l.shown).where(
    _l.user_id == bindparam("user"), _l.verdict.is_(None), _l.ends_ms > bindparam("now")
)
_COUNT = select(func.count()).where(
    _l.agent_id == bindparam("agent"), _l.verdict.is_(None), _l.ends_ms > bindparam("now")
)
_OFFER = insert(approval_links)
_USE = update(approval_links).where(_l.token_hash == bindparam("hash")).values(verdict=bindparam("word"))
_PRUNE = delete(approval_links).where(_l.ends_ms < bindparam("before"))


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def now_ms() -> int:
    return int(CLOCK.now().timestamp() * 1000)


def offer(connection: Connection, link: OpenLink, token_hash: str) -> None:
    """From now on it waits; twice is once. Raises Fault 409 (another agent's), 429 (there are too many)."""
    known = connection.execute(_KNOWN, {"hash": token_hash}).scalar()
    if known is not None:
        if known != link.agent_id:
            raise Fault(409, "This link is another agent's")
        return
    now = now_ms()
    if int(connection.execute(_COUNT, {"agent": link.agent_id, "now": now}).scalar_one()) >= MOST_OPEN:
        raise Fault(429, f"This agent has {MOST_OPEN} links that wait, and may have no more")
    connection.execute(_PRUNE, {"before": now - KEPT_MS})
    row = {"token_hash": token_hash, "user_id": link.user_id, "agent_id": link.agent_id, "ends_ms": link.ends_ms}
    connection.execute(_OFFER, {**row, "shown": msgspec.structs.asdict(link.shown), "verdict": None})


def find_open(connection: Connection, token_hash: str) -> OpenLink | None:
    """None for one that was used, is over, or never was: they are not told apart."""
    row = connection.execute(_OPEN, {"hash": token_hash, "now": now_ms()}).first()
    return None if row is None else _link(row)


def open_questions(connection: Connection, user_id: str) -> dict[tuple[str, str], Shown]:
    """By agent and question what is asked of the user, where its watcher has told it with a link that still waits."""
    found: dict[tuple[str, str], Shown] = {}
    for agent_id, shown in connection.execute(_OF_USER, {"user": user_id, "now": now_ms()}):
        asked = msgspec.convert(shown, Shown)
        if asked.question:
            found[agent_id, asked.question] = asked
    return found


def use(connection: Connection, token: str, sender: tuple[str, str], verdict: str, reason: str) -> Sent | None:
    """Act on it, once: the agent gets the answer as its operator's mail, which only who knows the token can have made.

    `sender` is the operator's id and address. None where it does not wait any more. Raises Fault before any write.
    """
    found = connection.execute(_OPEN_LOCKED, {"hash": hash_of(token), "now": now_ms()}).first()
    if found is None:
        return None
    link = _link(found)
    agent_id, address = sender
    body = f"{verdict} link {token}{f' {reason}' if reason else ''}\n"
    new = NewMessage(from_agent=address, to=(link.address,), subject="An answer by link", body=body)
    submission = Submission(new, link.user_id, agent_id, bound=False, key=None, longest=len(body.encode()))
    [sent] = send_all(connection, [submission])
    if isinstance(sent, Fault):
        raise sent
    connection.execute(_USE, {"hash": hash_of(token), "word": verdict})
    return sent


def _link(row: Sequence[Any]) -> OpenLink:
    user_id, agent_id, address, shown, ends_ms = row
    return OpenLink(user_id, agent_id, address, msgspec.convert(shown, Shown), ends_ms)
