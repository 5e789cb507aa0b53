"""JSON-RPC 2.0 and the part of MCP that a server with nothing but tools needs: a line in, a line or nothing out."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from agent_mailer import __version__
from agent_mailer.names import printable
from agent_mailer.turn_tools.mcp_toolbox import Tools

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
BATCHES = "2025-03-26"
"""The one version in which several messages may come as one array."""

MAX_BATCH = 100
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Above the largest message, however it is escaped; what is longer is passed over, not kept."""


class Code(IntEnum):
    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603


class _Fault(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str


class _Failure(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    id: str | int | None
    error: _Error


class _Success(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    id: str | int
    result: object


class Protocol:
    """One client's conversation. The only thing it remembers is the version agreed on."""

    def __init__(self, toolbox: Tools) -> None:
        self._toolbox = toolbox
        self._version = VERSIONS[-1]

    def answer(self, line: bytes | None) -> bytes | None:
        """The answer to one line (None: a line too long to be kept). Raises nothing, whatever the line holds."""
        if line is None:
            return _encode(_failure(None, Code.INVALID_REQUEST, f"a line has more than {MAX_LINE_BYTES} bytes"))
        if not line.strip():
            return None
        try:
            value = _decode(line)
        except (ValueError, RecursionError) as error:
            return _encode(_failure(None, Code.PARSE, f"not JSON: {printable(str(error))}"))
        if isinstance(value, list):
            return self._batch(value)
        one = self._one(value)
        return None if one is None else _encode(one)

    def _batch(self, values: list[object]) -> bytes | None:
        if self._version != BATCHES or not 0 < len(values) <= MAX_BATCH:
            why = f"an array is taken in version {BATCHES} only, of 1 to {MAX_BATCH} messages"
            return _encode(_failure(None, Code.INVALID_REQUEST, why))
        answers = [answer for value in values if (answer := self._one(value)) is not None]
        return _encode(answers) if answers else None

    def _one(self, value: object) -> _Success | _Failure | None:
        if not isinstance(value, dict):
            return _failure(None, Code.INVALID_REQUEST, "a message is an object")
        given, method = value.get("id"), value.get("method")
        request_id = given if isinstance(given, str | int) and not isinstance(given, bool) else None
        if "method" not in value and ("result" in value or "error" in value):
            return None  # an answer, and we never ask
        if value.get("jsonrpc") != "2.0" or not isinstance(method, str) or (request_id is None and "id" in value):
            return _failure(request_id, Code.INVALID_REQUEST, 'a message has "jsonrpc": "2.0", a method, and an id')
        if request_id is None:
            # A notification. A cancelled request needs nothing: it was answered before the next line was read.
            return None
        try:
            return _Success(request_id, self._result(method, value.get("params")))
        except _Fault as fault:
            return _failure(request_id, fault.code, fault.message)
        except Exception as error:
            # A fault of ours must not take the tools away from the agent.
            return _failure(request_id, Code.INTERNAL, f"{type(error).__name__}: {printable(str(error))}")

    def _result(self, method: str, params: object) -> object:
        if params is None:
            params = {}
        if not isinstance(params, dict):
            raise _Fault(Code.INVALID_PARAMS, "params is an object")
        match method:
            case "initialize":
                return self._initialize(params.get("protocolVersion"))
            case "ping":
                return {}
            case "tools/list":
                return {"tools": self._toolbox.tools}
            case "tools/call":
                return self._call(params.get("name"), params.get("arguments"))
        raise _Fault(Code.METHOD_NOT_FOUND, f"there is no method {printable(method)}")

    def _initialize(self, asked: object) -> object:
        self._version = asked if isinstance(asked, str) and asked in VERSIONS else VERSIONS[-1]
        return {
            "protocolVersion": self._version,
            "capabilities": {"tools": {"listChanged": False}},
            "serverInfo": {"name": "agent-mailer", "title": "agent-mailer", "version": __version__},
            "instructions": self._toolbox.instructions,
        }

    def _call(self, name: object, arguments: object) -> object:
        if not isinstance(name, str) or not self._toolbox.has(name):
            raise _Fault(Code.INVALID_PARAMS, f"there is no tool {printable(str(name))}")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise _Fault(Code.INVALID_PARAMS, "arguments is an object")
        answer = self._toolbox.call(name, arguments)
        # No structuredContent: a client that prefers it would show mail without the frame that says whose words it is.
        return {"content": [{"type": "text", "text": answer.text}], "isError": answer.failed}


def _failure(request_id: str | int | None, code: Code, message: str) -> _Failure:
    return _Failure(request_id, _Error(code.value, message))


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def _decode(line: bytes) -> object:
    """Raises ValueError or RecursionError."""
    try:
        return msgspec.json.decode(line)
    except ValueError:
        if b"\\u" not in line:
            raise
        return _decode_halves(line)


def _decode_halves(line: bytes) -> object:
    """JSON in which a text was cut within a character, as models do: the half becomes a question mark."""
    import json

    value = json.loads(line.decode("utf-8"))
    return msgspec.json.decode(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
