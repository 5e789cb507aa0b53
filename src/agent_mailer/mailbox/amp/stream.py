"""The stream of arrivals: it wakes, it says who else listens, and it is kept alive in the background."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

import httpx
import httpx_sse
import msgspec

from agent_mailer.errors import BusyFault
from agent_mailer.mailbox.amp.answers import NO_JSON, Answer, NotSent, credentials_refused, detail_of, unavailable
from agent_mailer.mailbox.amp.transport import Transport, broken
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import printable

FIRST_WAIT: Final = 2.0
LONGEST_WAIT: Final = 120.0
LASTING: Final = 30.0
"""A stream that held so long is one that works: its loss is the first."""

HEARTBEATS_MISSED: Final = 3
LONGEST_LINE: Final = 256 * 1024


class Source(msgspec.Struct, frozen=True):
    """Where to listen, and as whom. Without a `watcher` the stream holds nothing, and disturbs none that does."""

    path: str
    agent_id: str
    watcher: str
    watcher_name: str
    heartbeat_seconds: float


class Stream:
    """Listens until it is closed; a lost connection is made again, with the last event's id.

    `woken` is called for every arrival and after every change of the connection, `asked` where somebody asks something
    of the watcher, `held` with the epoch by which we hold the agent from then on, where the broker tells one; `source`
    gives where to listen now, and None where the broker has no stream (any longer).
    """

    def __init__(
        self,
        transport: Callable[[], Transport],
        source: Callable[[], Awaitable[Source | None]],
        woken: Callable[[], None],
        held: Callable[[int | None], None] = lambda _: None,
        asked: Callable[[], None] = lambda: None,
        *,
        jitter: Callable[[], float] = random.random,
        longest_wait: float = LONGEST_WAIT,
    ) -> None:
        self._transport = transport
        self._source = source
        self._woken = woken
        self._held = held
        self._asked = asked
        self._jitter = jitter
        self._longest_wait = longest_wait
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._last_id = ""
        self.healthy = False
        """Whether arrivals would reach us now."""
        self.connections = 0
        """How often a stream has begun: after each, what waits must be looked at anew."""
        self.busy: BusyFault | None = None
        """Another watcher holds the agent."""

    async def start(self, seconds: float) -> None:
        """Begin, and wait up to `seconds` seconds for the broker's first word. Raises BusyFault."""
        if self._task is None or self._task.done():
            self._first.clear()
            self.busy = None
            self._task = asyncio.create_task(self._listen_on())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._first.wait()
        if self.busy is not None:
            raise self.busy

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.healthy = False

    async def _listen_on(self) -> None:
        tries = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                source = await self._source()
                if source is not None:
                    await self._listen(source)
            except MailboxUnavailable:
                pass  # told by the next listing, which has the same trouble
            except BusyFault as fault:
                self.busy = fault
                return
            finally:
                lost, self.healthy = self.healthy, False
                self._first.set()
                if lost or self.busy is not None:
                    self._woken()
            if asyncio.get_running_loop().time() - began >= LASTING:
                tries = 0
            wait = min(self._longest_wait, FIRST_WAIT * 2.0 ** min(tries, 20))
            tries += 1
            await asyncio.sleep(wait * self._jitter())

    async def _listen(self, source: Source) -> None:
        transport = self._transport()
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        if source.watcher:
            headers["X-Agent-Mailer-Watcher"] = source.watcher
            headers["X-Agent-Mailer-Watcher-Name"] = source.watcher_name
        silence = source.heartbeat_seconds * HEARTBEATS_MISSED
        where = transport.where("GET", source.path)
        query = {"agent_id": source.agent_id}
        try:
            # The silence that a heartbeat may have is counted from the first event on.
            async with (
                asyncio.timeout(transport.answer_seconds) as clock,
                transport.listen(source.path, query=query, headers=headers, silence=silence) as response,
            ):
                if response.status_code != 200:
                    raise _no_stream(await transport.refusal(where, response))
                assert isinstance(response.stream, httpx.AsyncByteStream)
                response.stream = _Bounded(response.stream)
                async for event in httpx_sse.EventSource(response).aiter_sse():
                    clock.reschedule(None)
                    self._note(event)
        except (httpx.HTTPError, httpx.InvalidURL, httpx_sse.SSEError, OSError) as error:
            transport.on_loss()
            raise broken(where, error) from None
        transport.on_loss()
        raise NotSent("stream_ended", f"{where}: the stream ended", "")

    def _note(self, event: httpx_sse.ServerSentEvent) -> None:
        if event.id.isascii() and event.id.isdigit() and len(event.id) < 20:
            self._last_id = event.id
        if event.event == "hello":
            self._held(_epoch_in(event.data))
        if not self.healthy:
            self.healthy = True
            self.connections += 1
            self._first.set()
            self._woken()
        elif event.event == "mail":
            self._woken()
        elif event.event == "asked":
            self._asked()
        elif event.event == "replaced":
            # This workdir runs twice, in a copy of it: whoever came last has the agent.
            raise _taken_by(event.data)


class _Bounded(httpx.AsyncByteStream):
    """A stream without endless lines."""

    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        open_line = 0
        async for part in self._inner:
            end = part.rfind(b"\n")
            open_line = open_line + len(part) if end < 0 else len(part) - end
            if open_line > LONGEST_LINE:
                raise httpx_sse.SSEError("a line that does not end")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Hello(msgspec.Struct, frozen=True):
    epoch: int | None = None


def _epoch_in(data: str) -> int | None:
    """None where the broker tells none."""
    with suppress(*NO_JSON):
        return msgspec.json.decode(data, type=_Hello).epoch
    return None


class _Watcher(msgspec.Struct, frozen=True):
    name: str = ""
    since: str = ""


class _Held(msgspec.Struct, frozen=True):
    detail: str = ""
    watcher: _Watcher = _Watcher()


def _no_stream(answer: Answer) -> MailboxUnavailable | BusyFault:
    if answer.status == 409:
        return held_by(answer)
    return credentials_refused(answer) or unavailable(answer)


def held_by(answer: Answer) -> BusyFault:
    """A 409 that names the watcher which holds the agent."""
    watcher = _Watcher()
    with suppress(*NO_JSON):
        watcher = msgspec.json.decode(answer.body, type=_Held).watcher
    return _busy(watcher, detail_of(answer) or "")


def _taken_by(data: str) -> BusyFault:
    watcher = _Watcher()
    with suppress(*NO_JSON):
        watcher = msgspec.json.decode(data, type=_Watcher)
    return _busy(watcher, "")


def _busy(watcher: _Watcher, said: str) -> BusyFault:
    name, since = printable(watcher.name, 200), printable(watcher.since, 40)
    who = f"{name or 'another watcher'}{f' since {since}' if since else ''}"
    return BusyFault(
        "mailbox_busy",
        f"this agent is watched already, by {who}" + (f" ({said})" if said and not name else ""),
        "stop that watcher, or give this workdir an agent of its own: agent-mailer init",
    )
