"""A model server on the loopback that follows a script: no account, no network, and what an agent asks of it is kept.

It speaks what agents of many makes can be pointed at: OpenAI's chat completions and Google's generateContent, whole
and in pieces. Each request that offers tools takes the next step of the script, the last step again and again; one
without tools (a title, a summary) gets a few words, or what the step has of a failure. As an agent's model it can say
something, call a tool, refuse, stay silent and break off.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import msgspec

from agent_mailer.testing import model_wires

_LONGEST_SILENCE = 600.0


class Say(msgspec.Struct, frozen=True):
    """The model's words; nothing follows."""

    text: str


class Call(msgspec.Struct, frozen=True):
    """A tool, by the end of the name that the agent offers it under (of several, as `a|b`), and what it is told: of
    that what its schema names, since some agents refuse a call that says more.
    """

    tool: str
    arguments: Mapping[str, object] = {}


class Fail(msgspec.Struct, frozen=True):
    """A refusal of the provider: its status, its text and its code."""

    status: int
    text: str = "the model server refuses"
    code: str = ""


class Silence(msgspec.Struct, frozen=True):
    """The request is taken and never answered."""


class Cut(msgspec.Struct, frozen=True):
    """The answer begins, and the connection ends in the middle of it."""

    text: str = "half of an"


Step = Say | Call | Fail | Silence | Cut


class Asked(msgspec.Struct, frozen=True):
    """One request: the tools that were offered to the model, and all that it was told."""

    path: str
    tools: tuple[str, ...]
    text: str


class ModelServer:
    """As a context manager it listens on 127.0.0.1, at a port of its own."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self._taken = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.asked: list[Asked] = []
        server = self

        class Handler(_Handler):
            models = server

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def follow(self, steps: Sequence[Step]) -> None:
        """From now on another script."""
        with self._lock:
            self._steps, self._taken = list(steps), 0

    def take(self, asked: Asked) -> Step:
        with self._lock:
            self.asked.append(asked)
            step = self._steps[min(self._taken, len(self._steps) - 1)]
            if not asked.tools:
                return Say("A few words") if isinstance(step, Say | Call) else step
            self._taken += 1
            return step

    def wait_for_the_end(self) -> None:
        """As long as nobody closes the server."""
        self._closing.wait(_LONGEST_SILENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """An agent that is ended in the middle of a request is none; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    models: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._whole(200, {"object": "list", "data": [{"id": "loopback", "object": "model"}]})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        try:
            body = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            body = {}
        wire = model_wires.wire_of(self.path)
        if wire is None or not isinstance(body, dict):
            self._whole(404, {"error": {"message": f"nothing is known of {self.path}", "type": "not_found"}})
            return
        step = self.models.take(Asked(self.path, tuple(wire.tools(body)), "\n".join(wire.texts(body))))
        streams = wire.streams(self.path, body)
        match step:
            case Fail(status=status, text=text, code=code):
                self._whole(status, wire.refusal(status, text, code))
            case Silence():
                self.models.wait_for_the_end()
                self.close_connection = True
            case Cut(text=text):
                self._begin()
                self._piece(wire.pieces(text, None)[0])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
            case Say(text=text):
                self._answer(wire, text, None, streams=streams)
            case Call():
                ends = tuple(step.tool.split("|"))
                name = next((name for name in wire.tools(body) if name.lower().endswith(ends)), ends[0])
                takes = wire.takes(body, name)
                told = {key: value for key, value in step.arguments.items() if takes is None or key in takes}
                call = (name, told, f"call_{len(self.models.asked)}")
                self._answer(wire, "", call, streams=streams)

    def _answer(self, wire: model_wires.Wire, text: str, call: model_wires.Call | None, *, streams: bool) -> None:
        if not streams:
            self._whole(200, wire.whole(text, call))
            return
        self._begin()
        for piece in wire.pieces(text, call):
            self._piece(piece)
        self._piece_of(b"")

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self._piece_of(f"data: {text}\n\n".encode())

    def _piece_of(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _whole(self, status: int, body: Mapping[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
