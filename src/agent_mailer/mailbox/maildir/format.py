"""AMQ's message file: bytes to values and back. Pure; liberal in what is read, strict in what is written.

---json\\n
{JSON object, indented by two blanks}\\n
---\\n
body
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec

from agent_mailer.clock import in_utc
from agent_mailer.mailbox.maildir.layout import is_handle
from agent_mailer.mailbox.port import MOST_VISITED, Automatic, Envelope, Kind, Message, Priority
from agent_mailer.names import compiled

MAX_MESSAGE_BYTES: Final = 10 * 1024 * 1024
MAX_DEPTH: Final = 400
CONTEXT_KEY: Final = "agent_mailer"
PROJECT_MARK: Final = ":"

_RAW_NAME: Final = "bytes:"
START: Final = "---json\n"
CLOSE: Final = "---\n"
_CREATED = (
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})"  # a day and a time
    r"(?:[.,]([0-9]+))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_SURROGATE = "[\ud800-\udfff]"
_STRING = r'(?s)"(?:[^"\\]|\\.)*"'
_BLANKS = r"[ \t\r\n]*"
_YEAR_ONE: Final = datetime(1, 1, 1, tzinfo=UTC)
_EPOCH_FROM_YEAR_ONE: Final = 62_135_596_800
_BILLION: Final = 1_000_000_000
_MAX_HOPS: Final = 1_000_000
WAY_BACK: Final = ("reply_to", "reply_project", "from_project")
_MAX_NAMED: Final = 1000
"""Longer names lead nowhere, and an envelope is kept in many places."""
_HEAD_BYTES: Final = 64 * 1024
TOO_LARGE: Final = "message exceeds maximum size"
"""Why a file is none, in AMQ's words."""


class Reason(StrEnum):
    """Why a file is no message, in AMQ's words."""

    PARSE_ERROR = "parse_error"
    INVALID_HEADER = "invalid_header"
    USED_ID = "used_id"
    """Ours: the file is a message, and another one had its id."""


class Malformed(msgspec.Struct, frozen=True):
    """A file that is no message; the rest is what could be made out, else empty."""

    reason: Reason
    why: str
    id: str = ""
    thread: str = ""
    sender: str = ""
    reply_to: str = ""


class _Fault(Exception):
    def __init__(self, malformed: Malformed) -> None:
        super().__init__(malformed.why)
        self.malformed = malformed


def parse_message(data: bytes, locator: str) -> Message | Malformed:
    """The whole file as a message, by the rules of AMQ's full reader."""
    if len(data) > MAX_MESSAGE_BYTES:
        return too_large(parse_envelope(data[:_HEAD_BYTES], locator))
    try:
        raw, body = _split(_text(data))
        return _message(raw, body, locator)
    except _Fault as fault:
        return fault.malformed


def too_large(known: Envelope | Malformed) -> Malformed:
    """A file beyond AMQ's limit, with what its beginning tells of it."""
    return Malformed(Reason.PARSE_ERROR, TOO_LARGE, known.id, known.thread, known.sender, known.reply_to)


def parse_head(data: bytes, locator: str) -> Message | Malformed:
    """The message without its body, from as much as `parse_envelope` needs."""
    try:
        raw, _ = _split(_text(data))
        return _message(raw, "", locator)
    except _Fault as fault:
        return fault.malformed


def parse_envelope(data: bytes, locator: str) -> Envelope | Malformed:
    """The envelope alone, from the whole file or any beginning of it that holds the header and its closing line."""
    try:
        raw, _ = _split(_text(data))
        return _envelope(raw, locator)
    except _Fault as fault:
        return fault.malformed


def under_other_id(data: bytes, identifier: str) -> bytes:
    """The same message with another id. Raises ValueError for what is none."""
    try:
        raw, body = _split(_text(data))
    except _Fault as fault:
        raise ValueError(fault.malformed.why) from None
    return (START + go_json({**raw, "id": identifier}) + "\n" + CLOSE + body).encode("utf-8", "replace")


def go_json(value: object) -> str:
    """JSON as Go's MarshalIndent writes it with two blanks: `<`, `>`, `&` and the two line separators escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def rfc3339(moment: float) -> str:
    """Seconds since the epoch in UTC, to the microsecond, trailing zeros cut, as Go's RFC3339Nano."""
    text = in_utc(moment).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def is_message_id(text: str) -> bool:
    """Whether AMQ takes `text` as a message's id."""
    return (
        bool(text.strip()) and not text.startswith(".") and not text.endswith(".md") and not re.search(r"[/\\]", text)
    )


def parse_context(text: str) -> dict[str, object] | None:
    """The object that a message's context is; None for what can be none."""
    try:
        value = _DECODER.decode(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _depth(text) < MAX_DEPTH else None


def clean(text: str) -> str:
    """`text` without what UTF-8 cannot hold: a lone surrogate becomes U+FFFD."""
    return text if text.isascii() else re.sub(_SURROGATE, "\ufffd", text)


def _text(data: bytes) -> str:
    return data.replace(b"\r\n", b"\n").decode("utf-8", "replace")


class _Object(dict[str, object]):
    """A JSON object that still knows its duplicate keys: Go matches keys in any case, and the last one wins."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_constant=_no_constant)


def _split(text: str) -> tuple[dict[str, object], str]:
    """The header's fields under their lower-case names, and the body."""
    if not text.startswith(START):
        raise _unparsable("missing ---json at the start")
    start = _skip_blanks(text, len(START))
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise _unparsable("header is nested too deeply") from None
    except ValueError as fault:
        raise _unparsable(f"header is no JSON: {fault}") from None
    # The decoder's own limit depends on how deep the caller is; this one does not.
    if text.count("{", start, end) + text.count("[", start, end) > MAX_DEPTH and _depth(text[start:end]) > MAX_DEPTH:
        raise _unparsable("header is nested too deeply")
    close = _skip_blanks(text, end)
    if not text.startswith(CLOSE, close):
        raise _unparsable("missing --- line after the header")
    if value is None:
        return {}, text[close + len(CLOSE) :]
    if not isinstance(value, _Object):
        raise _unparsable("header is no JSON object")
    return _fold(value.pairs), text[close + len(CLOSE) :]


def _fold(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    wrong = ""
    for key, value in pairs:
        name = key.casefold()
        if not (isinstance(value, str) and name in _TEXTS) and not _has_its_type(name, value):
            wrong = wrong or name
        elif value is not None:
            fields[name] = value
        elif name in ("to", "refs", "labels", "context"):
            fields.pop(name, None)
    if wrong:
        # Whose it is can be told all the same, where that is right.
        identifier, thread, sender = (_string(fields, name) for name in ("id", "thread", "from"))
        why = f"header field {wrong!r} has the wrong type"
        raise _Fault(Malformed(Reason.PARSE_ERROR, why, identifier, thread, sender, _way_back(fields, sender)))
    return fields


_TEXTS = frozenset(
    ("id", "from", "thread", "subject", "created", "priority", "kind", "reply_to", "reply_project", "from_project")
)
_LISTS = frozenset(("to", "refs", "labels"))


def _has_its_type(name: str, value: object) -> bool:
    """A known field of the wrong type is refused by Go's decoder."""
    if value is None:
        return True
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _LISTS:
        return isinstance(value, list) and all(item is None or isinstance(item, str) for item in value)
    if name == "schema":
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return name != "context" or isinstance(value, dict)


def _envelope(raw: dict[str, object], locator: str) -> Envelope:
    """Validated in AMQ's order: id, from, to, thread, created, priority, kind."""
    identifier, sender, thread = _string(raw, "id"), _string(raw, "from"), _string(raw, "thread")

    def invalid(why: str) -> _Fault:
        return _Fault(Malformed(Reason.INVALID_HEADER, why, identifier, thread, sender, _way_back(raw, sender)))

    to = _strings(raw, "to")
    if not is_message_id(identifier):
        raise invalid("bad id")
    if not is_handle(sender):
        raise invalid("bad from")
    if not to or not all(is_handle(handle) for handle in to):
        raise invalid("bad to")
    if not thread or thread != thread.strip():
        raise invalid("bad thread")
    nanoseconds = _nanoseconds(_string(raw, "created"))
    if nanoseconds is None:
        raise invalid("bad created")
    priority, kind = _string(raw, "priority"), _string(raw, "kind")
    if priority and priority not in _PRIORITIES:
        raise invalid("unknown priority")
    if kind and kind not in _KINDS:
        raise invalid("unknown kind")
    automatic, hops, visited = _marks(raw.get("context"))
    return Envelope(
        id=identifier,
        thread=thread,
        sender=sender,
        created=(nanoseconds - _EPOCH_FROM_YEAR_ONE * _BILLION) / _BILLION,
        order=f"{nanoseconds:021d} {identifier}",
        locator=locator,
        to=to,
        priority=Priority(priority or "normal"),
        kind=Kind(kind) if kind else None,
        automatic=automatic,
        hops=hops,
        reply_to=_way_back(raw, sender),
        visited=visited,
        answers=bool(raw.get("refs")),
    )


def _way_back(raw: dict[str, object], sender: str) -> str:
    """`[project:]handle[@session]`, or whatever stands there; empty where it is simply the sender."""
    reply_to, project = _string(raw, "reply_to"), _string(raw, "reply_project").strip()
    named = f"{project}{PROJECT_MARK}{reply_to or sender}" if project else reply_to
    return "" if named == sender else named[:_MAX_NAMED]


def _message(raw: dict[str, object], body: str, locator: str) -> Message:
    envelope = _envelope(raw, locator)
    return Message(
        envelope=envelope,
        subject=_string(raw, "subject"),
        body=body,
        refs=_strings(raw, "refs"),
        labels=_strings(raw, "labels"),
        reply_to=envelope.reply_to or envelope.sender,
        named=tuple((name, value) for name in WAY_BACK if (value := _string(raw, name)[:_MAX_NAMED])),
        context=_others_context(raw.get("context")),
    )


def _others_context(context: object) -> str:
    """All that is not ours in it."""
    kept = {k: v for k, v in context.items() if k != CONTEXT_KEY} if isinstance(context, dict) else {}
    try:
        return clean(json.dumps(kept, ensure_ascii=False, allow_nan=False)) if kept else ""
    except ValueError:
        return ""


def _marks(context: object) -> tuple[Automatic, int, tuple[str, ...]]:
    """Our own marks. Whatever else stands there is no reason to refuse a message."""
    marks = context.get(CONTEXT_KEY) if isinstance(context, dict) else None
    if not isinstance(marks, dict):
        return Automatic.NO, 0, ()
    hops, automatic = marks.get("hops"), marks.get("automatic")
    counted = min(hops, _MAX_HOPS) if isinstance(hops, int) and not isinstance(hops, bool) and hops > 0 else 0
    visited = marks.get("visited")
    names = [name for name in visited if isinstance(name, str) and is_handle(name)] if isinstance(visited, list) else []
    mark = Automatic(automatic) if automatic in ("notice", "auto-reply") else Automatic.NO
    return mark, counted, tuple(names[-MOST_VISITED:])


def _string(raw: dict[str, object], name: str) -> str:
    value = raw.get(name)
    return clean(value) if isinstance(value, str) else ""


def _strings(raw: dict[str, object], name: str) -> tuple[str, ...]:
    value = raw.get(name)
    return tuple(clean(item or "") for item in value) if isinstance(value, list) else ()


def _nanoseconds(created: str) -> int | None:
    """RFC 3339 as nanoseconds since the year 1, or None."""
    found = compiled(_CREATED).fullmatch(created)
    if found is None:
        return None
    *numbers, fraction, sign, hours, minutes = found.groups()
    try:
        moment = datetime(*map(int, numbers), tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    seconds = int((moment - _YEAR_ONE).total_seconds())
    if sign:
        if int(hours) > 24 or int(minutes) > 59:
            return None
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += -offset if sign == "+" else offset
    return max(0, seconds) * _BILLION + int((fraction or "0")[:9].ljust(9, "0"))


def _skip_blanks(text: str, start: int) -> int:
    found = compiled(_BLANKS).match(text, start)
    return found.end() if found else start


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in re.sub(_STRING, "", text):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


def _unparsable(why: str) -> _Fault:
    return _Fault(Malformed(Reason.PARSE_ERROR, why))


_PRIORITIES = frozenset(Priority)
_KINDS = frozenset(Kind)


def is_message_name(name: str) -> bool:
    """Whether AMQ takes a file of this name for a message."""
    return name.endswith(".md") and name[0] != "." and "/" not in name and "\\" not in name and "\0" not in name


def to_locator(name: str) -> str:
    """A file name as text that any file can hold; `from_locator` gives the name back."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return _RAW_NAME + os.fsencode(name).hex()
    return name


def from_locator(locator: str) -> str:
    """The file name; raises ValueError for what is none, so that no path is ever built of it."""
    raw = locator.startswith(_RAW_NAME) and not locator.endswith(".md")
    name = os.fsdecode(bytes.fromhex(locator.removeprefix(_RAW_NAME))) if raw else locator
    if not is_message_name(name):
        raise ValueError(f"no message file: {locator!r}")
    return name
