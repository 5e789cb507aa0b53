"""What `codex exec --json` prints, line by line, as events of the port. Pure.

Item ids begin anew with every process, so they name a tool within one turn. What is not known, or not of the shape we
know, is no event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.codex.failures import classify, classify_retry, is_thread_id
from agent_mailer.runtimes.port import (
    PROGRESS_LIMIT,
    Doomed,
    Event,
    Progress,
    Result,
    SessionStarted,
    ToolEnded,
    ToolStarted,
    Trouble,
    Usage,
)

_NAME_LIMIT = 200
_RETRY = re.compile(r"Reconnecting\.\.\. (?P<which>waiting for network|\d+/\d+)(?: \((?P<why>.*)\))?", re.DOTALL)

_T = TypeVar("_T")

Tokens = Annotated[int, Meta(ge=0, le=10**15)]


class _Line(msgspec.Struct, frozen=True):
    type: str
    thread_id: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()


class _Usage(msgspec.Struct, frozen=True):
    """The sum over the whole thread. Cached tokens are among the input's, reasoning among the output's."""

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Item(msgspec.Struct, frozen=True):
    type: str
    id: str = ""


class _Said(msgspec.Struct, frozen=True):
    text: str = ""


class _Command(msgspec.Struct, frozen=True):
    command: str = ""


class _Change(msgspec.Struct, frozen=True):
    path: str = ""


class _FileChange(msgspec.Struct, frozen=True):
    changes: tuple[_Change, ...] = ()


class _ToolCall(msgspec.Struct, frozen=True):
    server: str = ""
    tool: str = ""


class _Todo(msgspec.Struct, frozen=True):
    text: str = ""
    completed: bool = False


class _TodoList(msgspec.Struct, frozen=True):
    items: tuple[_Todo, ...] = ()


class _Search(msgspec.Struct, frozen=True):
    query: str = ""


def events_of(line: bytes, model: str = "") -> Sequence[Event]:
    """The events of one line of stdout; never raises. `model` is the one that was asked for: codex names none."""
    head = _decode(line, _Line)
    read = _READERS.get(head.type) if head is not None else None
    if head is None or read is None:
        return ()
    found = tuple(read(head))
    return tuple(SessionStarted(one.session_id, model) if isinstance(one, SessionStarted) else one for one in found)


def agent_message(line: bytes) -> str | None:
    """What the agent says in this line; None if it says nothing in it. The last one of a turn is its answer."""
    head = _decode(line, _Line)
    if head is None or head.type != "item.completed":
        return None
    item = _decode(head.item, _Item)
    said = _decode(head.item, _Said) if item is not None and item.type == "agent_message" else None
    return None if said is None else said.text


def _thread_started(line: _Line) -> Sequence[Event]:
    thread_id = _text(line.thread_id)
    return (SessionStarted(thread_id),) if is_thread_id(thread_id) else ()


def _item_started(line: _Line) -> Sequence[Event]:
    item = _decode(line.item, _Item)
    if item is None:
        return ()
    tool = _TOOLS.get(item.type)
    if tool is not None and item.id:
        name, detail = tool(line.item)
        return (ToolStarted(item.id[:_NAME_LIMIT], name[:_NAME_LIMIT], detail[:PROGRESS_LIMIT]),)
    return _remark(item, line.item)


def _item_updated(line: _Line) -> Sequence[Event]:
    item = _decode(line.item, _Item)
    return () if item is None else _remark(item, line.item)


def _item_completed(line: _Line) -> Sequence[Event]:
    item = _decode(line.item, _Item)
    if item is None:
        return ()
    if item.type in _TOOLS:
        return (ToolEnded(item.id[:_NAME_LIMIT]),) if item.id else ()
    return _remark(item, line.item)


def _remark(item: _Item, raw: msgspec.Raw) -> Sequence[Event]:
    """An `error` item is a warning of codex's own (it may come before the turn): the agent did nothing by it."""
    text = ""
    match item.type:
        case "agent_message" | "reasoning":
            said = _decode(raw, _Said)
            text = said.text if said else ""
        case "todo_list":
            todo = _decode(raw, _TodoList)
            text = _todo(todo.items) if todo else ""
        case "web_search":
            # The provider searches: while it does, silence is the provider's.
            search = _decode(raw, _Search)
            text = f"web search: {search.query}" if search else ""
        case _:
            pass
    return (Progress(text[:PROGRESS_LIMIT]),) if text.strip() else ()


def _turn_completed(line: _Line) -> Sequence[Event]:
    usage = _decode(line.usage, _Usage)
    result = Result(Outcome.DONE)
    if usage is None:
        return (result,)
    return (Usage(usage.input_tokens, usage.output_tokens, of_session=True), result)


def _turn_failed(line: _Line) -> Sequence[Event]:
    error = _decode(line.error, _Error)
    failure = classify(error.message if error else "")
    return (Result(failure.outcome, detail=failure.detail),)


def _error(line: _Line) -> Sequence[Event]:
    """A retry that codex makes by itself; or the final word, which `turn.failed` repeats."""
    message = _text(line.message)
    retry = _RETRY.fullmatch(message)
    if retry is None:
        failure = classify(message)
        return (Trouble(failure.outcome, failure.detail),)
    if retry["which"] == "waiting for network":
        # It would wait for ever. We switch this loop off; a version that has it in spite of that is ended here.
        return (Doomed(Outcome.UNAVAILABLE, printable(retry["why"] or message, 300)),)
    failure = classify_retry(retry["why"] or "")
    return (Trouble(failure.outcome, failure.detail),)


def _command(raw: msgspec.Raw) -> tuple[str, str]:
    command = _decode(raw, _Command)
    return "shell", command.command if command else ""


def _file_change(raw: msgspec.Raw) -> tuple[str, str]:
    change = _decode(raw, _FileChange)
    return "edit", " ".join(one.path for one in change.changes) if change else ""


def _tool_call(raw: msgspec.Raw) -> tuple[str, str]:
    call = _decode(raw, _ToolCall)
    return (".".join(part for part in (call.server, call.tool) if part) if call else "") or "tool", ""


def _todo(items: Sequence[_Todo]) -> str:
    done = sum(item.completed for item in items)
    current = next((item.text for item in items if not item.completed), "")
    return f"plan: {done} of {len(items)} done" + (f"; now: {current}" if current else "")


_TOOLS: Mapping[str, Callable[[msgspec.Raw], tuple[str, str]]] = {
    "command_execution": _command,
    "file_change": _file_change,
    "mcp_tool_call": _tool_call,
    "collab_tool_call": _tool_call,
}

_READERS: Mapping[str, Callable[[_Line], Sequence[Event]]] = {
    "thread.started": _thread_started,
    "item.started": _item_started,
    "item.updated": _item_updated,
    "item.completed": _item_completed,
    "turn.completed": _turn_completed,
    "turn.failed": _turn_failed,
    "error": _error,
}


def _decode(raw: bytes | msgspec.Raw, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _text(raw: msgspec.Raw) -> str:
    return _decode(raw, str) or ""
