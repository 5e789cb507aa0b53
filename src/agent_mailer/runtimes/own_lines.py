"""The JSON lines of our own by which a program tells of its turn: a `command`, and the bridge to an agent of ACP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from agent_mailer.approvals.calls import call_of
from agent_mailer.clock import from_iso
from agent_mailer.names import is_session_id, printable
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.port import (
    PROGRESS_LIMIT,
    Event,
    Progress,
    Result,
    SessionStarted,
    ToolEnded,
    ToolStarted,
    Usage,
)
from agent_mailer.runtimes.programs import Fields, amount_in, text_in, typed_line

_DETAIL_LIMIT = 300
_TOOL_ID_LIMIT = 200

_RESULT_OUTCOMES = frozenset(
    {
        Outcome.DONE,
        Outcome.BLOCKED,
        Outcome.FAILED,
        Outcome.LIMITED,
        Outcome.SIGNED_OUT,
        Outcome.UNAVAILABLE,
        Outcome.SESSION_LOST,
        Outcome.ASKED,
    }
)


def events_of(line: bytes) -> Sequence[Event]:
    """Nothing for what is no line of ours. Never raises."""
    found = typed_line(line)
    if found is None:
        return ()
    kind, fields = found
    read = _READERS.get(kind)
    event = None if read is None else read(fields)
    return () if event is None else (event,)


def _progress(fields: Fields) -> Event | None:
    text, tool = text_in(fields, "text"), text_in(fields, "tool")
    said = f"{tool}: {text}" if tool and text else text or tool
    return Progress(said[:PROGRESS_LIMIT]) if said else None


def _tool_start(fields: Fields) -> Event | None:
    tool_id = text_in(fields, "id")[:_TOOL_ID_LIMIT]
    if not tool_id:
        return None
    return ToolStarted(tool_id, text_in(fields, "name")[:_TOOL_ID_LIMIT], text_in(fields, "detail")[:PROGRESS_LIMIT])


def _tool_end(fields: Fields) -> Event | None:
    tool_id = text_in(fields, "id")[:_TOOL_ID_LIMIT]
    return ToolEnded(tool_id) if tool_id else None


def _session(fields: Fields) -> Event | None:
    session_id = text_in(fields, "id")
    model = printable(text_in(fields, "model"), _TOOL_ID_LIMIT)
    return SessionStarted(session_id, model) if is_session_id(session_id) else None


def _usage(fields: Fields) -> Event:
    return Usage(
        input_tokens=int(amount_in(fields, "input_tokens")),
        output_tokens=int(amount_in(fields, "output_tokens")),
        cost_usd=float(amount_in(fields, "cost_usd")),
        of_session=fields.get("of") == "session",
    )


def _result(fields: Fields) -> Event:
    """A result that names no outcome is `done`; one whose outcome is none of ours is a failure, not a success."""
    said = fields.get("outcome")
    detail = text_in(fields, "detail")
    outcome = Outcome.DONE
    if said is not None:
        if isinstance(said, str) and said in _RESULT_OUTCOMES:
            outcome = Outcome(said)
        else:
            outcome = Outcome.FAILED
            detail = detail or f"a result with the unknown outcome {said!r}"
    asked = None
    if outcome is Outcome.ASKED:
        asked = call_of(text_in(fields, "tool"), fields.get("input"), why=text_in(fields, "why"))
        if asked is None:
            outcome, detail = (
                Outcome.FAILED,
                "a result with the outcome 'asked' that names no tool and input to ask about",
            )
    return Result(outcome, _answer(fields), printable(detail, _DETAIL_LIMIT), _moment(fields), asked)


def _answer(fields: Fields) -> str:
    """Its words; what is no text leaves as it stands there, rather than not at all."""
    text = fields.get("text")
    return "" if text is None else text.rstrip() if isinstance(text, str) else msgspec.json.encode(text).decode()


def _moment(fields: Fields) -> float | None:
    """`retry_at` as seconds since the epoch; given so, or as ISO 8601."""
    value = fields.get("retry_at")
    try:
        moment = from_iso(value) if isinstance(value, str) else float(amount_in(fields, "retry_at"))
    except (ValueError, OverflowError):
        return None
    return moment if 0 < moment < math.inf else None


_READERS: Mapping[str, Callable[[Fields], Event | None]] = {
    "progress": _progress,
    "tool_start": _tool_start,
    "tool_end": _tool_end,
    "session": _session,
    "usage": _usage,
    "result": _result,
}
