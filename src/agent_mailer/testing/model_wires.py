"""Two wires between agents and models, as far as a script of words and tool calls needs them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

Body = Mapping[str, Any]
Call = tuple[str, dict[str, object], str]
"""The tool, what it is told, and the call's id: the same never comes twice."""

TOKENS_IN, TOKENS_OUT = 100, 20
"""What each answer says that it took."""


class Wire(Protocol):
    def tools(self, body: Body) -> list[str]: ...

    def takes(self, body: Body, tool: str) -> frozenset[str] | None:
        """The names of what a tool is told, as it is offered; None where that is not said."""

    def texts(self, body: Body) -> Iterator[str]: ...

    def streams(self, path: str, body: Body) -> bool: ...

    def whole(self, text: str, call: Call | None) -> dict[str, object]: ...

    def pieces(self, text: str, call: Call | None) -> list[object]: ...

    def refusal(self, status: int, text: str, code: str) -> dict[str, object]: ...


def wire_of(path: str) -> Wire | None:
    plain = path.partition("?")[0]
    if plain.endswith("/chat/completions"):
        return OpenAiChat()
    return Gemini() if plain.endswith((":streamGenerateContent", ":generateContent")) else None


def _properties(schema: object) -> frozenset[str] | None:
    found = schema.get("properties") if isinstance(schema, dict) else None
    return frozenset(found) if isinstance(found, dict) else None


def _all_texts(value: object) -> Iterator[str]:
    """Every text in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _all_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_texts(inner)


class OpenAiChat:
    """https://platform.openai.com/docs/api-reference/chat, read in November 2026."""

    def tools(self, body: Body) -> list[str]:
        return [str(tool.get("function", {}).get("name", "")) for tool in body.get("tools") or ()]

    def takes(self, body: Body, tool: str) -> frozenset[str] | None:
        offered = (one.get("function", {}) for one in body.get("tools") or ())
        return next((_properties(one.get("parameters")) for one in offered if one.get("name") == tool), None)

    def texts(self, body: Body) -> Iterator[str]:
        return _all_texts(body.get("messages"))

    def streams(self, path: str, body: Body) -> bool:  # noqa: ARG002 - another wire's path tells
        return bool(body.get("stream"))

    def whole(self, text: str, call: Call | None) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": text or None}
        if call is not None:
            message["tool_calls"] = [_called(call)]
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop"}
        return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}

    def pieces(self, text: str, call: Call | None) -> list[object]:
        delta: dict[str, object] = {"role": "assistant", "content": text}
        if call is not None:
            delta = {"role": "assistant", "tool_calls": [{"index": 0, **_called(call)}]}
        reason = "tool_calls" if call else "stop"
        return [
            _chunk({"index": 0, "delta": delta, "finish_reason": None}),
            _chunk({"index": 0, "delta": {}, "finish_reason": reason}),
            {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
            "[DONE]",
        ]

    def refusal(self, status: int, text: str, code: str) -> dict[str, object]:
        return {"error": {"message": text, "type": code or f"error_{status}", "code": code or str(status)}}


_HEAD: dict[str, object] = {"id": "chatcmpl-1", "created": 1, "model": "loopback"}
_USAGE = {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT}


def _chunk(choice: dict[str, object]) -> dict[str, object]:
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}


def _called(call: Call) -> dict[str, object]:
    name, arguments, call_id = call
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


class Gemini:
    """https://ai.google.dev/api/generate-content, read in November 2026."""

    def tools(self, body: Body) -> list[str]:
        return [str(one.get("name", "")) for one in self._offered(body)]

    def takes(self, body: Body, tool: str) -> frozenset[str] | None:
        meant = [one for one in self._offered(body) if one.get("name") == tool]
        return next((_properties(one.get("parametersJsonSchema") or one.get("parameters")) for one in meant), None)

    def _offered(self, body: Body) -> list[Any]:
        return [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]

    def texts(self, body: Body) -> Iterator[str]:
        return _all_texts(body.get("contents"))

    def streams(self, path: str, body: Body) -> bool:  # noqa: ARG002 - another wire's body tells
        return ":streamGenerateContent" in path

    def whole(self, text: str, call: Call | None) -> dict[str, object]:
        part: dict[str, object] = {"text": text}
        if call is not None:
            part = {"functionCall": {"name": call[0], "args": call[1]}}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        return {"candidates": [candidate], "usageMetadata": _METADATA, "modelVersion": "loopback"}

    def pieces(self, text: str, call: Call | None) -> list[object]:
        whole = self.whole(text, call)
        begun = json.loads(json.dumps(whole))
        del begun["candidates"][0]["finishReason"], begun["usageMetadata"]
        end = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP", "index": 0}
        return [begun, {"candidates": [end], "usageMetadata": _METADATA, "modelVersion": "loopback"}]

    def refusal(self, status: int, text: str, code: str) -> dict[str, object]:
        return {"error": {"code": status, "message": text, "status": code or "ERROR"}}


_METADATA = {
    "promptTokenCount": TOKENS_IN,
    "candidatesTokenCount": TOKENS_OUT,
    "totalTokenCount": TOKENS_IN + TOKENS_OUT,
}
