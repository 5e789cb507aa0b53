"""What is to be sent: the request of one sender, as a value."""

from __future__ import annotations

import hashlib
import uuid
from functools import lru_cache
from typing import Any

import msgspec

from agent_mailer.broker.data import Quota
from agent_mailer.broker.leases import Fence


class NewMessage(msgspec.Struct, frozen=True):
    """What is to be sent, as the request says it."""

    from_agent: str
    to: tuple[str, ...]
    action: str = "send"
    subject: str = ""
    body: str = ""
    attachments: tuple[Any, ...] = ()
    parent_id: str | None = None
    forward_scope: str | None = None
    thread_id: str | None = None
    hops: int = 0
    automatic: str = "no"
    priority: str = "normal"
    kind: str | None = None
    labels: tuple[str, ...] = ()
    visited: tuple[str, ...] = ()
    one_of: str = ""
    """The same of all copies of what one of a group takes."""


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(NewMessage)}


class Submission(msgspec.Struct, frozen=True):
    """A new message, who sends it, under which idempotency key, and by which hold of the agent (`fence`).

    `bound`: the sender reads only threads in which it takes part. `longest` is the most bytes a body may come to.
    """

    new: NewMessage
    user_id: str
    agent_id: str
    bound: bool
    key: str | None
    longest: int
    quota: Quota = Quota()
    fence: Fence | None = None

    def request_hash(self) -> str:
        """The same for the same request, also in a later version that knows of more fields."""
        said = ((name, getattr(self.new, name)) for name in _DEFAULTS)
        told = {name: value for name, value in said if value != _DEFAULTS[name]}
        return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()

    def named(self, what: str) -> str:
        """The id that follows from the sender and its key."""
        return str(uuid.uuid5(_namespace(self.agent_id), f"{what}:{self.key}"))


@lru_cache(maxsize=1024)
def _namespace(agent_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(agent_id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_URL, agent_id)
