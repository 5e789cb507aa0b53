"""What is to be sent: the request of one sender, as a value."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from functools import lru_cache
from typing import Any

import msgspec

from agent_mailer.broker.data import Quota
from agent_mailer.broker.leases import Fence


def new_id() -> str:
    """A UUIDv7 (RFC 9562): those of one time stand side by side in an index, and a commit writes few of its pages."""
    made = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    return f"{made[:8]}-{made[8:12]}-7{made[12:15]}-{_VARIANTS[made[15]]}{made[16:19]}-{made[19:31]}"


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


_DEFAULTS = [field.default for field in msgspec.structs.fields(NewMessage)]
_NAMES = [field.name for field in msgspec.structs.fields(NewMessage)]


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
        said = zip(_NAMES, msgspec.structs.astuple(self.new), _DEFAULTS, strict=True)
        told = {name: value for name, value, default in said if value != default}
        return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()

    def named(self, what: str) -> str:
        """The id that follows from the sender and its key."""
        # As uuid.uuid5 makes it, which takes ten times as long.
        name = _namespace(self.agent_id) + f"{what}:{self.key}".encode()
        digits = hashlib.sha1(name, usedforsecurity=False).hexdigest()
        variant = _VARIANTS[digits[16]]
        return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


_VARIANTS = {f"{digit:x}": f"{8 + digit % 4:x}" for digit in range(16)}


@lru_cache(maxsize=1024)
def _namespace(agent_id: str) -> bytes:
    try:
        return uuid.UUID(agent_id).bytes
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_URL, agent_id).bytes
