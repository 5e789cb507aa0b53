"""A model server on the loopback that speaks the Responses API and plays a script.

Each request to the model takes the next step of the script. What the client asked is kept, so that a test can see what
the agent program told its model. Codex gives its tools to models in two forms, and the fake answers in the one it was
asked in: JavaScript for one custom tool (`exec`), or a function call per tool.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CODE_MODEL = "gpt-6.1-sol"
"""A model that codex gives its tools as code; any name that it does not know gets functions."""
PLAIN_MODEL = "a-plain-model"

_TOKENS = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 40},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 120,
}


_TITLE = "Generate a concise, single-line task title"
"""A person's codex asks for one beside its first prompt, before or after it: whose step it took was left to chance."""


@dataclass(frozen=True)
class Say:
    """The model's answer; nothing follows, so the turn is over."""

    text: str


@dataclass(frozen=True)
class Think:
    """A summary of the model's thoughts, and a remark, before it calls a tool."""

    summary: str
    remark: str
    then: Shell | Mail


@dataclass(frozen=True)
class Shell:
    """A command; codex waits `yield_ms` for its end before it tells the model what it printed so far. `beyond`: why it
    is to run out of the sandbox.
    """

    command: str
    yield_ms: int = 30_000
    beyond: str = ""


@dataclass(frozen=True)
class Patch:
    """A change of files. Only models that get the tools as code have it."""

    text: str


@dataclass(frozen=True)
class Spawn:
    """A sub-agent. It asks the same model, beside the main one."""

    message: str


@dataclass(frozen=True)
class Together:
    """Several calls in one answer."""

    calls: tuple[Shell, ...]


@dataclass(frozen=True)
class Mail:
    """A call of one of the mail tools."""

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    server: str = "agent_mailer"


@dataclass(frozen=True)
class Refuse:
    """An HTTP error with this body."""

    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fail:
    """An error inside the stream."""

    code: str
    message: str


@dataclass(frozen=True)
class Cut:
    """The stream ends before the answer does."""


@dataclass(frozen=True)
class Incomplete:
    """The answer is cut off by the provider."""

    reason: str = "max_output_tokens"


@dataclass(frozen=True)
class Silence:
    """Nothing at all until the server is closed: before the headers, or after them."""

    headers_first: bool = False


Step = Say | Think | Shell | Patch | Spawn | Together | Mail | Refuse | Fail | Cut | Incomplete | Silence


def usage_limit(resets_at: float | None, *, percent: str = "100") -> Refuse:
    """What an account out of its quota is answered, with the headers that carry the exact moment."""
    error: dict[str, object] = {
        "type": "usage_limit_reached",
        "message": "The usage limit has been reached",
        "plan_type": "plus",
    }
    headers: dict[str, str] = {}
    if resets_at is not None:
        error["resets_at"] = int(resets_at)
        headers = {
            "x-codex-primary-used-percent": percent,
            "x-codex-primary-window-minutes": "300",
            "x-codex-primary-reset-at": str(int(resets_at)),
        }
    return Refuse(429, {"error": error}, headers)


def refusal(status: int, code: str, message: str, **headers: str) -> Refuse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refuse(status, {"error": {"code": code, "type": code, "message": message}}, named)


class FakeOpenAI:
    """`script` is what is answered next, `asked` what was asked, as decoded bodies."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self._steps: list[Step] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def script(self, *steps: Step) -> None:
        with self._lock:
            self._steps = list(steps)

    def provider(self, *, retries: int = 0, key: str = "OPENAI_API_KEY") -> list[str]:
        """The arguments that make codex ask this server."""
        return provider_arguments(self.url, retries=retries, key=key)

    def take(self, body: dict[str, Any], key: str) -> Step:
        if not body.get("tools") and any(_TITLE in text for text in _texts(body.get("input", []))):
            return Fail("invalid_prompt", "a title is nobody's step")
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            return self._steps.pop(0) if self._steps else Fail("invalid_prompt", "the script is at its end")

    @property
    def left(self) -> int:
        return len(self._steps)

    def texts(self, request: int = -1) -> list[str]:
        """All that the model was told in one request, in order: prompts, answers and what its tools gave."""
        return list(_texts(self.asked[request].get("input", [])))

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def fake_openai() -> Iterator[FakeOpenAI]:
    fake = FakeOpenAI()
    try:
        yield fake
    finally:
        fake.close()


def provider_arguments(url: str, *, retries: int = 0, key: str = "OPENAI_API_KEY") -> list[str]:
    table = (
        f'{{name="fake",base_url="{url}",env_key="{key}",request_max_retries={retries},stream_max_retries={retries}}}'
    )
    return ["-c", "model_provider=fake", "-c", f"model_providers.fake={table}"]


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeOpenAI) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle of an answer is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        step = self.server.fake.take(body, self.headers.get("authorization", ""))
        self.close_connection = True
        match step:
            case Refuse():
                self._refuse(step)
            case Silence(headers_first=headers_first):
                if headers_first:
                    self._open_stream()
                self.server.fake.closing.wait()
            case _:
                self._open_stream()
                self._stream(step, in_code=_in_code(body))

    def do_GET(self) -> None:
        self._refuse(refusal(404, "not_found", "there is nothing here"))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _refuse(self, step: Refuse) -> None:
        content = step.body.encode() if isinstance(step.body, str) else json.dumps(step.body).encode()
        self.send_response(step.status)
        for name, value in {"content-type": "application/json", "connection": "close", **step.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _open_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.flush()

    def _stream(self, step: Step, *, in_code: bool) -> None:
        number = len(self.server.fake.asked)
        answer = {"id": f"resp_{number}", "usage": _TOKENS, "output": []}
        self._event("response.created", response={"id": f"resp_{number}"})
        match step:
            case Cut():
                return
            case Fail(code=code, message=message):
                self._event("response.failed", response={**answer, "error": {"code": code, "message": message}})
                return
            case Incomplete(reason=reason):
                self._event("response.incomplete", response={**answer, "incomplete_details": {"reason": reason}})
                return
            case _:
                for item in _items(step, number, in_code=in_code):
                    self._event("response.output_item.done", item=item)
        self._event("response.completed", response=answer)

    def _event(self, kind: str, **fields: object) -> None:
        line = json.dumps({"type": kind, **fields})
        self.wfile.write(f"event: {kind}\ndata: {line}\n\n".encode())
        self.wfile.flush()


def _items(step: Step, number: int | str, *, in_code: bool) -> Iterator[dict[str, object]]:
    match step:
        case Say(text=text):
            yield _message(text, number)
        case Think(summary=summary, remark=remark, then=then):
            yield {
                "type": "reasoning",
                "id": f"rs_{number}",
                "summary": [{"type": "summary_text", "text": summary}],
                "encrypted_content": None,
            }
            yield _message(remark, number)
            yield from _items(then, number, in_code=in_code)
        case Shell(command=command, yield_ms=yield_ms, beyond=beyond):
            arguments: dict[str, object] = {"cmd": command, "yield_time_ms": yield_ms}
            if beyond:
                arguments |= {"sandbox_permissions": "require_escalated", "justification": beyond}
            yield _call("exec_command", "", arguments, number, in_code=in_code)
        case Patch(text=text):
            yield _call("apply_patch", "", text, number, in_code=True)
        case Spawn(message=message):
            yield _call("spawn_agent", "multi_agent_v1", {"message": message}, number, in_code=in_code)
        case Together(calls=calls):
            for at, call in enumerate(calls):
                yield from _items(call, f"{number}_{at}", in_code=in_code)
        case Mail(tool=tool, arguments=given, server=server):
            yield _call(tool, f"mcp__{server}", dict(given), number, in_code=in_code)
        case _:
            raise AssertionError(f"{step} has no items")


def _message(text: str, number: int | str) -> dict[str, object]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": content}


def _call(
    name: str, namespace: str, arguments: Mapping[str, object] | str, number: int | str, *, in_code: bool
) -> dict[str, object]:
    if in_code:
        called = f"{namespace}__{name}" if namespace else name
        script = f"const r = await tools.{called}({json.dumps(arguments)}); text(r);"
        return {"type": "custom_tool_call", "call_id": f"call_{number}", "name": "exec", "input": script}
    where = {"namespace": namespace} if namespace else {}
    call = {"type": "function_call", "call_id": f"call_{number}", "name": name, "arguments": json.dumps(arguments)}
    return {**call, **where}


def _in_code(body: Mapping[str, Any]) -> bool:
    return any(item.get("type") == "additional_tools" for item in body.get("input", []))


def _texts(value: object) -> Iterator[str]:
    """Every text of the items but what describes the tools."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        if value.get("type") != "additional_tools":
            for key in ("content", "text", "output", "input", "arguments"):
                yield from _texts(value.get(key))
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)
