"""The lines that claude prints with `--output-format stream-json`, as events of ours.

One line is looked at alone. Unknown types pass, keys come in any order and any field may be missing or of another type.
What a subagent does (`parent_tool_use_id`) is progress of the tool that runs it and ends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from agent_mailer.approvals.calls import call_of, shown
from agent_mailer.approvals.turn import SIGN
from agent_mailer.names import is_session_id, printable
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.claude.failures import OLD_LIMIT, Failure, as_seconds, meaning_of, old_limit
from agent_mailer.runtimes.claude.fence import TOOLS, Fence, too_much
from agent_mailer.runtimes.port import (
    PROGRESS_LIMIT,
    Asks,
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
from agent_mailer.runtimes.programs import (
    Fields,
    amount_in,
    text_in,
    typed_line,
)

TASK_STOPPED = "a task in the background was stopped before its end"

SHOWN_DENIED = 300
"""Characters of a denied command in the question to its sender."""

NOT_ASKING = (
    "claude does not ask before it acts: its hooks are switched off, by settings of its own or of the machine "
    "(claude doctor; or agent-mailer config set approve.tools '' and approve.refused false)"
)

WAYS = (
    ". To allow it, on its machine: agent-mailer config set notify.command ... (and you are asked before it), "
    "or name the tool after --allowedTools in extra_args (agent-mailer config edit)"
)

_ID_LIMIT = 200
_DETAIL_LIMIT = 200

# What of a tool's input tells a person what it does: the first that is there, never what the tool is to write.
_TELLING = ("file_path", "notebook_path", "path", "pattern", "url", "query", "description", "command", "to", "name")


def events_of(line: bytes, fence: Fence) -> Sequence[Event]:
    """`fence` is what the turn may use. Never raises."""
    found = typed_line(line)
    if found is None:
        moment = old_limit(line.decode("utf-8", "replace"))
        return () if moment is None else (Trouble(Outcome.LIMITED, OLD_LIMIT, moment),)
    kind, fields = found
    if kind == "system" and fields.get("subtype") == "init":
        unheard = () if not fence.asks else (Doomed(Outcome.UNAVAILABLE, NOT_ASKING, for_good=True, unless_asks=True),)
        return (*_sign_of_life(fields), *unheard, *_beyond(fields, fence), *_tools_missing(fields))
    read = _READERS.get(kind)
    return () if read is None else tuple(read(fields))


def tools_of(line: bytes) -> list[str] | None:
    """The tools that this line names as all there are; None where it does not."""
    found = typed_line(line)
    if found is None or found[1].get("subtype") != "init":
        return None
    offered = found[1].get("tools")
    return [str(name) for name in offered] if isinstance(offered, list) else None


def _system(fields: Fields) -> Iterator[Event]:
    match fields.get("subtype"):
        case "api_retry":
            failure = Failure(kind=text_in(fields, "error"), status=_number(fields, "error_status"))
            meaning = meaning_of(failure)
            outcome = meaning.outcome if meaning is not None else Outcome.UNAVAILABLE
            status = "" if failure.status is None else f" {failure.status}"
            yield Trouble(outcome, printable(f"claude tries again after{status} {failure.kind}".strip(), _ID_LIMIT))
        case "permission_denied":
            yield Progress(printable(f"denied: {text_in(fields, 'tool_name')}", PROGRESS_LIMIT))
        case "hook_response" if fields.get("hook_event") == "SessionStart" and fields.get("exit_code") == 0:
            if SIGN in text_in(fields, "stdout"):
                yield Asks()
        case "status":
            yield from _sign_of_life(fields)
        case "task_notification" if fields.get("status") in ("stopped", "killed"):
            task = printable(text_in(fields, "summary") or text_in(fields, "task_id"), _DETAIL_LIMIT)
            yield Trouble(Outcome.FAILED, f"{TASK_STOPPED}: {task}")
        case _:
            pass


def _beyond(fields: Fields, fence: Fence) -> Iterator[Event]:
    """Tools that the turn may not have: proved by claude's own word, or refused."""
    offered = fields.get("tools")
    if not isinstance(offered, list):
        yield Doomed(Outcome.UNAVAILABLE, "claude does not say which tools it has (agent-mailer doctor)", for_good=True)
        return
    beyond = fence.beyond(name if isinstance(name, str) else "?" for name in offered)
    if beyond:
        yield Doomed(Outcome.UNAVAILABLE, too_much(beyond), for_good=True)


def _tools_missing(fields: Fields) -> Iterator[Event]:
    servers = fields.get("mcp_servers")
    if not isinstance(servers, list):
        return
    ours = [server for server in servers if isinstance(server, dict) and server.get("name") == TOOLS]
    status = text_in(ours[0], "status") if ours else "not among its servers"
    # Older versions go on while a server is still starting.
    if status not in ("connected", "pending"):
        said = printable(status, _ID_LIMIT)
        yield Doomed(Outcome.UNAVAILABLE, f"the mail tools did not start in claude: {said} (agent-mailer doctor)")


def _assistant(fields: Fields) -> Iterator[Event]:
    message = _inner(fields, "message")
    if fields.get("is_api_error_message") is True or isinstance(fields.get("error"), str):
        if fields.get("parent_tool_use_id") is None:
            yield from _complaint(fields, message)
        return
    if message.get("model") == "<synthetic>":
        return
    for block in _blocks(message):
        match block.get("type"):
            case "text":
                if text := text_in(block, "text").strip():
                    yield Progress(text[:PROGRESS_LIMIT])
            case "thinking" | "redacted_thinking":
                yield Progress("thinking")
            case "tool_use":
                yield from _tool_use(fields, block)
            case _:
                pass


def _tool_use(fields: Fields, block: Fields) -> Iterator[Event]:
    tool_id, name = text_in(block, "id")[:_ID_LIMIT], text_in(block, "name")[:_ID_LIMIT]
    given = _inner(block, "input")
    told = next((text_in(given, key) for key in _TELLING if text_in(given, key)), "")
    detail = printable(told.partition("\n")[0], _DETAIL_LIMIT)
    if fields.get("parent_tool_use_id") is not None:
        yield Progress(f"{name} {detail}".strip())
    elif tool_id:
        yield ToolStarted(tool_id, name, detail)


def _complaint(fields: Fields, message: Fields) -> Iterator[Event]:
    """A message in which claude itself, not the model, tells of a failure; a result follows that says less."""
    words = "\n".join(text_in(block, "text") for block in _blocks(message))
    failure = Failure(
        kind=text_in(fields, "error"),
        api_error=text_in(fields, "api_error"),
        status=_number(fields, "api_error_status"),
        words=words,
    )
    meaning = meaning_of(failure)
    outcome = meaning.outcome if meaning is not None else Outcome.FAILED
    resets_at = _resets_at(_inner(_inner(fields, "api_error_params"), "rate_limit_info")) or old_limit(words)
    if outcome is Outcome.LIMITED and resets_at is None:
        return  # the result says so too, and must not hide the time that a rate_limit_event has told
    yield Trouble(outcome, meaning.detail(words) if meaning is not None else printable(words, _ID_LIMIT), resets_at)


def _user(fields: Fields) -> Iterator[Event]:
    if fields.get("parent_tool_use_id") is not None:
        yield from _sign_of_life(fields)
        return
    for block in _blocks(_inner(fields, "message")):
        tool_id = text_in(block, "tool_use_id")[:_ID_LIMIT]
        if block.get("type") == "tool_result" and tool_id:
            yield ToolEnded(tool_id)


def _rate_limit(fields: Fields) -> Iterator[Event]:
    """Comes with allowed requests, too, as an early warning."""
    info = _inner(fields, "rate_limit_info")
    if info.get("status") == "rejected" and info.get("isUsingOverage") is not True:
        window = printable(text_in(info, "rateLimitType").replace("_", " "), _ID_LIMIT)
        yield Trouble(Outcome.LIMITED, f"usage limit reached ({window})" if window else "rate limit", _resets_at(info))


def _result(fields: Fields) -> Iterator[Event]:
    """Whether it failed is `is_error`, never the subtype."""
    yield from _usage(fields)
    text = text_in(fields, "result").rstrip()
    ends = old_limit(text)
    if ends is not None:
        # With and without `is_error`.
        yield Result(Outcome.LIMITED, detail=OLD_LIMIT, retry_at=ends)
        return
    if fields.get("is_error") is False:
        denied = _denied(fields)
        deferred = _inner(fields, "deferred_tool_use")
        if deferred or fields.get("stop_reason") == "tool_deferred":
            # It looks like success.
            call = call_of(text_in(deferred, "name"), deferred.get("input"), call_id=text_in(deferred, "id"))
            yield Result(Outcome.ASKED, detail="waits for a person", asked=call)
        elif denied and not text:
            yield Result(Outcome.BLOCKED, detail=f"claude was not permitted to run {denied}{WAYS}")
        else:
            yield Result(Outcome.DONE, text)
        return
    errors = fields.get("errors")
    said = [error for error in errors if isinstance(error, str)] if isinstance(errors, list) else []
    words = text or "\n".join(said)
    failure = Failure(
        subtype=text_in(fields, "subtype"),
        reason=text_in(fields, "terminal_reason"),
        api_error=text_in(fields, "api_error"),
        status=_number(fields, "api_error_status"),
        words=words,
    )
    meaning = meaning_of(failure)
    detail = meaning.detail(words) if meaning is not None else printable(words, _ID_LIMIT)
    if meaning is not None and meaning.outcome is Outcome.FAILED:
        # A result that says just `failed` means whatever the last complaint meant; this one is sure.
        yield Trouble(Outcome.FAILED, detail)
    yield Result(meaning.outcome if meaning is not None else Outcome.FAILED, detail=detail)


def _usage(fields: Fields) -> Iterator[Event]:
    """Dollars and the sums per model are of the whole session where results are numbered, in older versions of this
    run; `usage` is always of this run.
    """
    of_session = "result_index" in fields
    models = [model for model in _inner(fields, "modelUsage").values() if isinstance(model, dict)]
    if not models:
        return
    taken = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
    yield Usage(
        input_tokens=sum(int(amount_in(model, name)) for model in models for name in taken),
        output_tokens=sum(int(amount_in(model, "outputTokens")) for model in models),
        cost_usd=float(amount_in(fields, "total_cost_usd")),
        of_session=of_session,
    )


def _denied(fields: Fields) -> str:
    """What was denied, each once, word for word."""
    denials = fields.get("permission_denials")
    entries = [entry for entry in denials if isinstance(entry, dict)] if isinstance(denials, list) else []
    calls = [
        (text_in(entry, "tool_name"), call_of(text_in(entry, "tool_name"), entry.get("tool_input")))
        for entry in entries
    ]
    told = (shown(call, SHOWN_DENIED) if call is not None else printable(name, 60) or "a tool" for name, call in calls)
    return "; ".join(list(dict.fromkeys(told))[:5])


def _sign_of_life(fields: Fields) -> Iterator[Event]:
    """Every line tells the session again; that alone keeps the silence clock from running."""
    session_id = text_in(fields, "session_id")
    if is_session_id(session_id):
        yield SessionStarted(session_id, printable(text_in(fields, "model"), _ID_LIMIT))


def _resets_at(info: Fields) -> float | None:
    return as_seconds(float(amount_in(info, "resetsAt"))) or None


def _inner(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _blocks(message: Fields) -> list[Fields]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _number(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_READERS: Mapping[str, Callable[[Fields], Iterator[Event]]] = {
    "system": _system,
    "assistant": _assistant,
    "user": _user,
    "rate_limit_event": _rate_limit,
    "stream_event": _sign_of_life,
    "result": _result,
}
