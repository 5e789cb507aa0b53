"""A Messages API on 127.0.0.1 that says what a test tells it to, and fails in every way the real one does."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KEY = "dummy-key-of-a-test"


@dataclass(frozen=True)
class Text:
    """The model's last words of a turn; they come in `pieces` within `seconds`."""

    text: str = "fine"
    stop: str = "end_turn"
    seconds: float = 0.0
    pieces: int = 1


@dataclass(frozen=True)
class Tool:
    """The model asks for a tool, and for those `beside` it in the same message."""

    name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    say: str = ""
    beside: tuple[Tool, ...] = ()


@dataclass(frozen=True)
class Failure:
    """An HTTP error."""

    status: int
    kind: str = "api_error"
    message: str = "an error"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hang:
    """The request is accepted and no byte ever comes; after `started` it falls silent in the middle of the stream."""

    started: bool = False


@dataclass(frozen=True)
class Drop:
    """The connection is closed: without an answer, or after the beginning of one."""

    started: bool = False


@dataclass(frozen=True)
class Overloaded:
    """An error event in a stream that had begun well."""


Answer = Text | Tool | Failure | Hang | Drop | Overloaded


def usage_limit(resets_at: float, window: str = "five_hour") -> Failure:
    """What a subscription gets when its window is used up."""
    short = {"five_hour": "5h", "seven_day": "7d"}[window]
    headers = {
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": str(int(resets_at)),
        "anthropic-ratelimit-unified-representative-claim": window,
        "anthropic-ratelimit-unified-overage-status": "rejected",
        "anthropic-ratelimit-unified-overage-disabled-reason": "org_level_disabled",
        f"anthropic-ratelimit-unified-{short}-status": "rejected",
        f"anthropic-ratelimit-unified-{short}-reset": str(int(resets_at)),
        f"anthropic-ratelimit-unified-{short}-utilization": "1.0",
        "retry-after": str(max(1, int(resets_at - time.time()))),
    }
    return Failure(429, "rate_limit_error", "This request would exceed your account's rate limit.", headers)


@dataclass(frozen=True)
class Request:
    """One call of the model: what stood in it, and when it came."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    at: float

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.body.get("tools", ())]

    @property
    def prompts(self) -> list[str]:
        """The last text of every user message: what was asked, oldest first."""
        found = []
        for message in self.body.get("messages", ()):
            if message["role"] == "user":
                texts = [block["text"] for block in _blocks(message) if block["type"] == "text"]
                found += texts[-1:]
        return found

    @property
    def tool_results(self) -> list[str]:
        """What the tools answered, oldest first."""
        return [
            _plain(block.get("content"))
            for message in self.body.get("messages", ())
            for block in _blocks(message)
            if block["type"] == "tool_result"
        ]


class FakeAnthropic:
    """Answers from `script` one by one, then `default` for ever."""

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.default: Answer = Text()
        self.requests: list[Request] = []
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._serial = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        """What makes claude talk to us with an API key."""
        return {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": KEY}

    @property
    def subscription(self) -> dict[str, str]:
        """The same with a subscription's token."""
        return {"ANTHROPIC_BASE_URL": self.url, "CLAUDE_CODE_OAUTH_TOKEN": KEY}

    def says(self, *answers: Answer) -> None:
        with self._lock:
            self.script.extend(answers)

    def next(self, request: Request) -> tuple[Answer, int]:
        with self._lock:
            self.requests.append(request)
            self._serial += 1
            return (self.script.popleft() if self.script else self.default), self._serial

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeAnthropic

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._send(200, {}, b"")

    def do_GET(self) -> None:
        self._send(404, {}, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        if path == "/v1/messages/count_tokens":
            self._json(200, {"input_tokens": 10})
        elif path == "/v1/messages":
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer, serial = self.server.fake.next(Request(body, headers, time.time()))
            self._answer(answer, serial, body)
        else:
            self._json(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})

    def _answer(self, answer: Answer, serial: int, body: Mapping[str, Any]) -> None:
        match answer:
            case Failure():
                error = {"type": "error", "error": {"type": answer.kind, "message": answer.message}}
                self._json(answer.status, error, {"request-id": f"req_{serial}", **answer.headers})
            case Hang(started=False):
                self.server.fake.over.wait()
                self.close_connection = True
            case Drop(started=False):
                self.close_connection = True
            case Text() | Tool() if not body.get("stream"):
                self._json(200, _whole(answer, serial, str(body.get("model"))))
            case Overloaded() if not body.get("stream"):
                self._answer(Failure(529, "overloaded_error", "Overloaded"), serial, body)
            case Hang() | Drop() if not body.get("stream"):
                self._answer(Hang() if isinstance(answer, Hang) else Drop(), serial, body)
            case _:
                self._stream(answer, serial, str(body.get("model")))

    def _stream(self, answer: Answer, serial: int, model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("request-id", f"req_{serial}")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in _events(answer, serial, model):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
            if event["type"] == "content_block_delta" and isinstance(answer, Text):
                self.server.fake.over.wait(answer.seconds / answer.pieces)
        if isinstance(answer, Hang):
            self.server.fake.over.wait()

    def _json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, {"content-type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _whole(answer: Text | Tool, serial: int, model: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    text = answer.text if isinstance(answer, Text) else answer.say
    if text:
        content.append({"type": "text", "text": text})
    for number, tool in enumerate((answer, *answer.beside) if isinstance(answer, Tool) else ()):
        name = f"toolu_{serial:04}{f'_{number}' if number else ''}"
        content.append({"type": "tool_use", "id": name, "name": tool.name, "input": dict(tool.input)})
    return {
        "id": f"msg_{serial:04}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": answer.stop if isinstance(answer, Text) else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


def _events(answer: Answer, serial: int, model: str) -> Iterator[dict[str, Any]]:
    whole = _whole(answer if isinstance(answer, Text | Tool) else Text(""), serial, model)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    if isinstance(answer, Overloaded):
        yield {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return
    if not isinstance(answer, Text | Tool):
        return
    empty: dict[str, Any]
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            empty = {"type": "text", "text": ""}
            pieces = answer.pieces if isinstance(answer, Text) else 1
            deltas = [{"type": "text_delta", "text": text} for text in _cut(block["text"], pieces)]
        else:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


def _cut(text: str, pieces: int) -> list[str]:
    size = -(-len(text) // pieces)
    return [text[at : at + size] for at in range(0, len(text), size)]


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content or () if isinstance(block, dict)]


def _plain(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return str(content)
