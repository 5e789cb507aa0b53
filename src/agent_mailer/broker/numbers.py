"""How much a process has done: kept as plain numbers, so that counting costs a request next to nothing."""

from __future__ import annotations

import time
from bisect import bisect_left

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_mailer.broker.logs import REQUEST, access, log_request, request_id

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)
"""Seconds; what took longer is beyond."""
ROUTE = "agent_mailer.route"
"""Of a scope: which route answers, where the framework is not asked."""
NO_ROUTE = "none"


class Times:
    """Of the requests to one route: how many took at most as long as each bucket, and beyond; and the sum, seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class Numbers:
    """One per process. `answers`: by method, route and status; `times`: by route."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str, int], int] = {}
        self.times: dict[str, Times] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        which = (method, route, status)
        self.answers[which] = self.answers.get(which, 0) + 1
        times = self.times.get(route)
        if times is None:
            times = self.times[route] = Times()
        times.counts[bisect_left(BUCKETS, seconds)] += 1
        times.total += seconds


class Counted:
    """Around everything: each request has an id, which its answer and its lines in the log carry, and is counted when
    its answer begins.
    """

    def __init__(self, app: ASGIApp, numbers: Numbers) -> None:
        self._app = app
        self._numbers = numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        asked = request_id(next((value for name, value in scope["headers"] if name == b"x-request-id"), b""))
        REQUEST.set(asked)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", asked.encode())]
                self._note(scope, asked, message["status"], time.perf_counter() - begun)
            await send(message)

        await self._app(scope, receive, noted)

    def _note(self, scope: Scope, asked: str, status: int, seconds: float) -> None:
        method = scope["method"]
        self._numbers.answered(method if method in _METHODS else "OTHER", route_of(scope), status, seconds)
        if access.isEnabledFor(20):
            client = scope.get("client")
            log_request(asked, method, scope["path"], status, seconds, client[0] if client else "")


_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))


def route_of(scope: Scope) -> str:
    """The path as the route declares it: no id of anybody's becomes a name of a number."""
    route = scope.get(ROUTE) or getattr(scope.get("route"), "path", None)
    return route if isinstance(route, str) else NO_ROUTE
