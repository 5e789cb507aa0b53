"""`GET /metrics`: what a process has done, and what waits, for Prometheus."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection, case, func, select

from agent_mailer import __version__
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import settings_of, store_of
from agent_mailer.broker.data import is_loopback
from agent_mailer.broker.numbers import BUCKETS, Numbers
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.tables import agents, users, waiting_threads
from agent_mailer.installed import command_for

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

router = APIRouter(tags=["broker"])
FORWARDED = ("x-forwarded-for", "forwarded", "via", "x-real-ip")
"""What a proxy adds: then it is not this machine that asks."""
_AGENTS = select(
    func.sum(case((agents.c.status == "active", 1), else_=0)),
    func.sum(agents.c.inbox_total),
    func.sum(agents.c.inbox_unread),
)
_USERS = select(func.count()).where(users.c.standing == "active").select_from(users)
_THREADS = select(func.count()).select_from(waiting_threads)
P = "agent_mailer_broker_"


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format", "content": {"text/plain": {}}},
        **refusals(401, 404, 503),
    },
)
async def metrics(request: Request) -> Response:
    """For this machine, or with the token of AGENT_MAILER_METRICS_TOKEN as a Bearer."""
    _require_reader(request)
    if find_spec("prometheus_client") is None:
        raise Fault(404, f"Numbers need a package that is not installed: {command_for('metrics')}")
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    kept = await store_of(request).read(_kept)
    registry = CollectorRegistry()
    registry.register(_Found(request.app.state.numbers, streams_of(request).many(), kept))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _require_reader(request: Request) -> None:
    """Raises Fault 401."""
    token = settings_of(request).metrics_token
    if token:
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return
        raise Fault(401, "The numbers are for who has AGENT_MAILER_METRICS_TOKEN")
    here = request.client is not None and is_loopback(request.client.host)
    if not here or any(name in request.headers for name in FORWARDED):
        raise Fault(401, "The numbers are for this machine; elsewhere AGENT_MAILER_METRICS_TOKEN opens them")


def _kept(connection: Connection) -> dict[str, int]:
    active, total, unread = connection.execute(_AGENTS).one()
    return {
        "users": int(connection.execute(_USERS).scalar_one()),
        "agents": int(active or 0),
        "messages": int(total or 0),
        "messages_unread": int(unread or 0),
        "threads_waiting": int(connection.execute(_THREADS).scalar_one()),
    }


_MEANS = {
    "users": "Users that may log in",
    "agents": "Agents that are not deleted",
    "messages": "Messages in all inboxes",
    "messages_unread": "Messages that nobody has settled",
    "threads_waiting": "Threads of inboxes in which something waits for a watcher",
    "streams": "Open streams at this process",
    "watchers": "Agents that a watcher holds at this process",
}


class _Found:
    def __init__(self, numbers: Numbers, streams: tuple[int, int], kept: dict[str, int]) -> None:
        self._numbers = numbers
        self._gauges = {**kept, "streams": streams[0], "watchers": streams[1]}

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        about = GaugeMetricFamily(f"{P}info", "The version that serves", labels=["version"])
        about.add_metric([__version__], 1)
        yield about
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"{P}{name}", _MEANS[name], value=value)
        answers = CounterMetricFamily(
            f"{P}requests", "Requests that were answered", labels=["method", "route", "status"]
        )
        for (method, route, status), many in sorted(self._numbers.answers.items()):
            answers.add_metric([method, route, str(status)], many)
        yield answers
        took = HistogramMetricFamily(f"{P}request_seconds", "Until the answer began", labels=["route"])
        for route, times in sorted(self._numbers.times.items()):
            below: list[Any] = []
            so_far = 0
            for edge, count in zip((*map(str, BUCKETS), "+Inf"), times.counts, strict=True):
                so_far += count
                below.append((edge, so_far))
            took.add_metric([route], below, times.total)
        yield took
