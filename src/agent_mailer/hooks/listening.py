"""The listener of one hook: HTTP/1.1 by the standard library, so that it needs nothing that is not installed.

One small request at a time is all that a hook gets: a thread each, a limited number of them, and a limited time to say
what it has to say. TLS is the business of a proxy in front.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from agent_mailer import __version__
from agent_mailer.clock import Clock
from agent_mailer.errors import MailerError
from agent_mailer.hooks.taking import OtherBody, Taking, Tell
from agent_mailer.names import printable
from agent_mailer.outside.calls import KEY_HEADER, NOT_JSON, OTHER_BODY, STALE, WRONG, is_id, read_call, verdict_of
from agent_mailer.outside.event import BadEvent, Source
from agent_mailer.outside.items import LOOK_EVERY
from agent_mailer.outside.rules import Rules
from agent_mailer.outside.signature import LARGEST, Verdict

log = logging.getLogger("agent_mailer.hooks")
SECONDS = 10.0
"""In which a caller has sent what it sends, however slowly; so long whoever is being answered may take at the end."""
MOST = 32
"""Callers at once."""
FORGET_EVERY = 120
"""Looks between two times that what is over is forgotten."""
QUIET = 60.0
"""Seconds in which refusals of one status are told once: who calls without the secret fills no screen."""


class Answer(msgspec.Struct, frozen=True):
    """`value` is JSON's; `detail` why it is refused."""

    status: int
    value: object
    detail: str = ""


class Hook(msgspec.Struct, frozen=True):
    """What is called at /hooks/NAME. `secret` is asked for each call."""

    name: str
    kind: Source
    rules: Rules
    secret: Callable[[], str]

    @property
    def path(self) -> str:
        return f"/hooks/{self.name}"


def answer(hook: Hook, taking: Taking, clock: Clock, header: Callable[[str], str], body: bytes) -> Answer:
    """What a caller is told; what is told is durable."""
    try:
        verdict = verdict_of(hook.kind, hook.secret(), header, body, clock.now())
        if verdict is not Verdict.GOOD:
            return _told(401, STALE if verdict is Verdict.STALE else WRONG)
        if header("Content-Type").partition(";")[0].strip().lower() != "application/json":
            return _told(415, NOT_JSON)
        key = header(KEY_HEADER)
        if key and not is_id(key):
            raise BadEvent(f"{KEY_HEADER} is no id: 1 to 200 printable characters")
        return Answer(200, taking.take(read_call(hook.kind, header, body, hook.name, hook.rules, key or None)))
    except BadEvent as error:
        return _told(400, str(error).encode("utf-8", "replace").decode()[:300])
    except OtherBody:
        return _told(409, OTHER_BODY)
    except (MailerError, OSError, sqlite3.Error) as error:
        log.warning("a delivery could not be taken: %s", error)
        return _told(503, "It could not be written down. Send it again")


class Listener(ThreadingHTTPServer):
    """Serves `hook` until `stop`. Raises OSError where the address cannot be had."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], hook: Hook, taking: Taking, clock: Clock, tell: Tell) -> None:
        self.hook, self.taking, self.clock = hook, taking, clock
        self._callers = threading.BoundedSemaphore(MOST)
        self._stopping = threading.Event()
        self._tell = tell
        self._refused: dict[int, float] = {}
        """When each status was told last."""
        self._reading: dict[socket.socket, float] = {}
        """Until when each caller has sent what it sends."""
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking what this machine is called, which can take as long as a resolver that does not answer."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def service_actions(self) -> None:
        """Whoever sends byte after byte has no place for longer than others."""
        self._cut_late()

    def is_reading(self, connection: socket.socket) -> None:
        self._reading[connection] = self.clock.monotonic() + SECONDS

    def has_read(self, connection: socket.socket) -> None:
        self._reading.pop(connection, None)

    def refuses(self, told: Answer, caller: str) -> None:
        """Tell whoever reads along; each status for the first time in a while."""
        now = self.clock.monotonic()
        if now - self._refused.get(told.status, -QUIET) >= QUIET:
            self._refused[told.status] = now
            with suppress(OSError):
                self._tell(printable(f"refused, from {caller}: {told.status} {told.detail}", 400))

    def _has_place(self, end: float) -> bool:
        """Once one of the callers has gone; False where none has by then."""
        while not self._callers.acquire(timeout=0.1):
            self._cut_late()
            if self.clock.monotonic() >= end:
                return False
        return True

    def _cut_late(self) -> None:
        now = self.clock.monotonic()
        for connection, until in list(self._reading.items()):
            if until < now:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Until `stop`; what was begun before is seen through first."""
        self._look()
        sweeper = threading.Thread(target=self._sweep_on, name="sweep", daemon=True)
        sweeper.start()
        try:
            self.serve_forever(poll_interval=0.1)
        finally:
            self._stopping.set()
            sweeper.join()
            # Who is being answered has the answer; a delivery that is cut off was not told to be taken.
            end = self.clock.monotonic() + SECONDS
            for _ in range(MOST):
                self._has_place(end)
            self.server_close()

    def stop(self) -> None:
        """From any thread but the one that is in `run`."""
        self._stopping.set()
        self.shutdown()

    def process_request(self, request: object, client_address: object) -> None:
        if not self._has_place(self.clock.monotonic() + SECONDS):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]
        except BaseException:
            # No thread was to be had: whoever would give the place back has not begun.
            self._callers.release()
            raise

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._callers.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that goes away is nothing to tell; anything else is a fault of ours."""
        del request, client_address
        if not isinstance(error := sys.exception(), OSError):
            log.warning("a call could not be answered: %s: %s", type(error).__name__, error)

    def _sweep_on(self) -> None:
        looks = 0
        while not self._stopping.wait(LOOK_EVERY):
            looks += 1
            self._look(forget=looks % FORGET_EVERY == 0)

    def _look(self, *, forget: bool = True) -> None:
        try:
            self.taking.sweep()
            if forget:
                self.taking.forget()
        except (OSError, sqlite3.Error) as error:
            log.warning("what failed could not be looked at: %s", error)


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    protocol_version = "HTTP/1.1"
    server_version = f"agent-mailer/{__version__}"
    sys_version = ""
    timeout = SECONDS
    error_message_format = '{"detail":"%(message)s"}'
    error_content_type = "application/json"

    def setup(self) -> None:
        super().setup()
        self.server.is_reading(self.connection)

    def finish(self) -> None:
        self.server.has_read(self.connection)
        super().finish()

    def do_GET(self) -> None:
        if self.path == "/health":
            self._say(Answer(200, {"status": "ok"}))
        else:
            self._say(_told(405 if self.path == self.server.hook.path else 404, "Not Found"))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            self._refuse(_told(411, "Content-Length is missing"))
        elif int(length) > LARGEST:
            self._refuse(_told(413, f"The request is larger than {LARGEST} bytes"))
        else:
            body = self.rfile.read(int(length))
            self.server.has_read(self.connection)
            if len(body) < int(length):
                return
            if self.path != self.server.hook.path:
                self._refuse(_told(401, WRONG))
                return
            server = self.server
            told = answer(server.hook, server.taking, server.clock, self._header, body)
            (self._refuse if told.detail else self._say)(told)

    def log_message(self, format: str, *args: object) -> None:
        """What was taken is told by whoever takes it."""

    def _header(self, name: str) -> str:
        return self.headers.get(name, "")

    def _refuse(self, told: Answer) -> None:
        self.server.refuses(told, self.client_address[0])
        self._say(told)

    def _say(self, told: Answer) -> None:
        data = msgspec.json.encode(told.value)
        # One request a connection: nothing that was sent behind it can be taken for another.
        self.close_connection = True
        self.send_response(told.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


def _told(status: int, detail: str) -> Answer:
    return Answer(status, {"detail": detail}, detail)
