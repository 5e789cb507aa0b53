"""An event of any program: a monitor, a job, a script.

The fields are those of Agent Relay's ingress (its README, 0.4): `type`, `severity`, `dedupeKey`, `title`, `body`,
`status`; with `source`, `at`, `url`, `branch` and `labels` beside them.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from agent_mailer.outside.event import BadEvent, Event, State

LONGEST_NAME = 200
_ENDED = frozenset(("resolved", "closed", "ok"))
_BEGUN = frozenset(("", "open", "firing", "active"))


class _Said(msgspec.Struct, frozen=True, rename="camel"):
    title: str
    type: str = "event"
    severity: str = ""
    dedupe_key: str = ""
    body: str = ""
    source: str = ""
    status: str = ""
    at: str = ""
    url: str = ""
    branch: str | None = None
    labels: tuple[str, ...] | None = None


_decode = msgspec.json.Decoder(_Said).decode


def read(body: bytes, source: str) -> Event:
    """`source`: whose it is where it says nothing. Raises BadEvent."""
    try:
        said = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvent(str(error)) from None
    if not said.title.strip():
        raise BadEvent("`title` is empty")
    for name, text in (("type", said.type), ("dedupeKey", said.dedupe_key), ("source", said.source)):
        if len(text) > LONGEST_NAME or (text and not text.isprintable()):
            raise BadEvent(f"`{name}` is one line of at most {LONGEST_NAME} characters")
    status = said.status.lower()
    if status not in _ENDED | _BEGUN:
        raise BadEvent("`status` is open or resolved")
    if status in _ENDED and not said.dedupe_key:
        raise BadEvent("what is resolved is named by `dedupeKey`")
    state = State.RESOLVED if status in _ENDED else State.OPEN if said.dedupe_key else State.NEWS
    return Event(
        name=said.type or "event",
        title=f"{'Resolved: ' if state is State.RESOLVED else ''}{said.title}",
        origin=said.source or source,
        key=said.dedupe_key,
        state=state,
        at_ms=moment_ms(said.at, "at"),
        branch=said.branch,
        labels=said.labels,
        facts=(("severity", said.severity), ("about", said.url), ("branch", said.branch or "")),
        text=said.body,
    )


def moment_ms(text: str, name: str) -> int | None:
    """ISO 8601 as milliseconds since 1970; without a zone it is UTC; None for nothing. Raises BadEvent."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadEvent(f"`{name}` is no moment as in 2026-11-28T09:30:00Z") from None
