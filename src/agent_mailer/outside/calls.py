"""A call of a hook as it came: whether it is right, and what is told by it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from agent_mailer.outside import generic, github
from agent_mailer.outside.event import BadEvent, Event, Ignored, Source
from agent_mailer.outside.rules import Rules
from agent_mailer.outside.signature import GITHUB_HEADER, HEADER, WINDOW, Verdict, check, check_github

Header = Callable[[str], str]
"""The value of the header of that name; empty where there is none."""

WRONG = "The signature is missing or wrong"
"""The same whether there is such a hook or not."""
STALE = f"The signature is of another time: its moment may be {WINDOW} seconds from this clock"
NOT_JSON = "Send application/json (at GitHub: the webhook's content type)"
OTHER_BODY = "This delivery id came with another body before"
KEY_HEADER = "Idempotency-Key"
LONGEST_ID = 200


class Call(msgspec.Struct, frozen=True):
    """`digest`: by which the same is known again; `once`: the same digest is the same delivery, whatever its id."""

    id: str
    digest: str
    once: bool
    event: Event | Ignored


def verdict_of(kind: Source, secret: str, header: Header, body: bytes, now: float) -> Verdict:
    """`now`: seconds since 1970."""
    if kind is Source.GITHUB:
        return check_github(secret, header(GITHUB_HEADER), body)
    return check(secret, header(HEADER), body, now)


def read_call(kind: Source, header: Header, body: bytes, path: str, rules: Rules, key: str | None) -> Call:
    """`path`: the hook's name, `key`: what `KEY_HEADER` says. Raises BadEvent."""
    event: Event | Ignored
    if kind is Source.GITHUB:
        delivery_id, name = header(github.DELIVERY_HEADER), header(github.EVENT_HEADER)
        if not is_id(delivery_id):
            raise BadEvent(f"{github.DELIVERY_HEADER} is missing, or no id")
        if not name or len(name) > 100 or not name.isprintable():
            raise BadEvent(f"{github.EVENT_HEADER} is missing, or no event")
        event = github.read(name, body)
        # Neither the id nor the event's name is signed: what was sent once is that body.
        digest, once = hashlib.sha256(body).hexdigest(), True
    else:
        delivery_id = key or hashlib.sha256(header(HEADER).encode() + body).hexdigest()
        event = generic.read(body, path)
        digest, once = hashlib.sha256(delivery_id.encode() + b"\0" + body).hexdigest(), False
    if isinstance(event, Event):
        event = rules.wanted(event)
    return Call(delivery_id, digest, once, event)


def is_id(text: str) -> bool:
    """Whether it can name a delivery."""
    return 0 < len(text) <= LONGEST_ID and text.isascii() and text.isprintable()
