"""Requests to one broker: time limits, a limit of size, quick retries, and the pause it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies

import httpx
import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from agent_mailer.clock import Clock, SystemClock
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.amp.answers import OUT_OF_REACH, Answer, InDoubt, Lost, NotSent, TooLarge, retry_after
from agent_mailer.mailbox.amp.wires import Most, Wires
from agent_mailer.mailbox.http import failure_of, is_http_url, loopback_of
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import printable, whole_characters

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
START_BYTES: Final = 4096
KEEPALIVE_SECONDS: Final = 4.0
"""Brokers drop a connection that is idle for 5 s."""

QUICK_TRIES: Final = 3


class Limits(msgspec.Struct, frozen=True):
    """Seconds and bytes. `whole` is the longest a request may take in all, however it trickles."""

    connect: float = 10.0
    read: float = 30.0
    whole: float = 120.0
    answer_bytes: int = MAX_ANSWER_BYTES


Query = Mapping[str, str | int]

NO_HTML: Final[Query] = {"html": "false"}
"""Spares the broker, where it knows the word, from rendering what nobody here looks at."""


class Transport:
    """HTTP with one broker under one key. Raises ConfigFault for a URL or key that can be none."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.url = _checked_url(url)
        self._shown = _without_credentials(self.url)
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._silent_until = 0.0
        self.on_loss: Callable[[], None] = _nobody_asks
        """Called when a connection has failed: what is at the other end may be another version since."""
        common = {"X-API-Key": _checked_key(key), "Accept-Encoding": "identity", "User-Agent": "agent-mailer"}
        self._prefix = urlsplit(self.url).path
        self._wires = _wires_to(self.url, common, self._limits)
        self._client = httpx.AsyncClient(
            headers=common,
            timeout=httpx.Timeout(self._limits.read, connect=self._limits.connect),
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
            # The certificates cost a plain http:// client memory for nothing.
            verify=self.url.startswith("https:") or bool(getproxies()),
            # Proxies as the environment says, but not to this machine itself.
            mounts={f"all://{host}": None for host in loopback_of(self.url)},
        )

    async def close(self) -> None:
        if self._wires is not None:
            self._wires.close()
        await self._client.aclose()

    @property
    def answer_seconds(self) -> float:
        """Seconds that an answer may take to begin."""
        return self._limits.read

    def where(self, method: str, path: str) -> str:
        return f"{method} {self._shown}{printable(path, 120)}"

    @property
    def public_url(self) -> str:
        """Without what may be a password in it."""
        return self._shown

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        tries: int = QUICK_TRIES,
    ) -> Answer:
        """The answer, whatever its status. `tries` above 1 only for what may be carried out twice.

        Raises NotSent, InDoubt, TooLarge, and MailboxUnavailable while the broker has asked for a pause.
        """
        self._keep_silence(method, path)
        answer: Answer | None = None
        async for attempt in quick_tries(tries):
            with attempt:
                answer = await self._once(method, path, query, content, headers)
        assert answer is not None
        return self._heeded(answer)

    async def refusal(self, where: str, response: httpx.Response) -> Answer:
        """What an answer that was to go on says instead."""
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) >= START_BYTES:
                break
        pause = response.headers.get("Retry-After")
        return self._heeded(self._answer(where, response.status_code, pause, bytes(body[:START_BYTES])))

    @asynccontextmanager
    async def listen(
        self, path: str, *, query: Query, headers: Mapping[str, str], silence: float
    ) -> AsyncIterator[httpx.Response]:
        """An answer that goes on; `silence` is the longest pause between two parts of it, in seconds.

        Raises as `ask`, also while it is read: use within `broken_as`.
        """
        self._keep_silence("GET", path)
        timeout = httpx.Timeout(self._limits.read, connect=self._limits.connect, read=silence)
        async with self._client.stream(
            "GET", self.url + path, params=dict(query), headers=dict(headers), timeout=timeout
        ) as response:
            yield response

    async def _once(
        self,
        method: str,
        path: str,
        query: Query | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        where = self.where(method, path)
        sent = {} if content is None else {"Content-Type": "application/json"}
        fields = {**sent, **(headers or {})}
        try:
            async with asyncio.timeout(self._limits.whole):
                if self._wires is not None:
                    return await self._by_wire(self._wires, where, method, path, query, fields, content)
                return await self._by_httpx(where, method, path, query, fields, content)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            self.on_loss()
            raise broken(where, error) from None

    async def _by_wire(
        self,
        wires: Wires,
        where: str,
        method: str,
        path: str,
        query: Query | None,
        fields: Mapping[str, str],
        content: bytes | None,
    ) -> Answer:
        limit = self._limits.answer_bytes
        target = f"{self._prefix}{path}?{urlencode(query)}" if query else f"{self._prefix}{path}"
        reply = await wires.ask(method, target, fields, content, Most(limit, START_BYTES))
        if not reply.whole:
            raise TooLarge(where, reply.status, reply.body[:START_BYTES], limit)
        return self._answer(where, reply.status, reply.fields.get("retry-after"), reply.body)

    async def _by_httpx(
        self,
        where: str,
        method: str,
        path: str,
        query: Query | None,
        fields: Mapping[str, str],
        content: bytes | None,
    ) -> Answer:
        request = self._client.build_request(
            method, self.url + path, params=dict(query) if query else None, content=content, headers=fields
        )
        response = await self._client.send(request, stream=True)
        try:
            body = await self._read(response, where)
        finally:
            with suppress(httpx.HTTPError):
                await response.aclose()
        return self._answer(where, response.status_code, response.headers.get("Retry-After"), body)

    def _answer(self, where: str, status: int, pause: str | None, body: bytes) -> Answer:
        return Answer(where, status, whole_characters(body), retry_after(pause, self._clock.now()))

    def _heeded(self, answer: Answer) -> Answer:
        if answer.status in (408, 429, 503) and answer.retry_after:
            self._silent_until = self._clock.monotonic() + answer.retry_after
        return answer

    async def _read(self, response: httpx.Response, where: str) -> bytes:
        limit = self._limits.answer_bytes
        told = response.headers.get("Content-Length", "")
        known_large = told.isascii() and told.isdigit() and int(told[:15]) > limit
        body = bytearray()
        # Unpacked by nobody: an answer that unfolds to a thousand times its size is none we asked for.
        async for part in response.aiter_raw():
            body += part
            if len(body) > limit or (known_large and len(body) >= START_BYTES):
                raise TooLarge(where, response.status_code, bytes(body[:START_BYTES]), limit)
        return bytes(body)

    def _keep_silence(self, method: str, path: str) -> None:
        left = self._silent_until - self._clock.monotonic()
        if left > 0:
            raise MailboxUnavailable(
                "broker_busy",
                f"{self.where(method, path)}: the broker asked for a pause, {left:.0f} s are left",
                "wait",
            )


def quick_tries(tries: int = QUICK_TRIES) -> AsyncRetrying:
    """Attempts at what a lost connection undid, within a second or so."""
    return AsyncRetrying(
        stop=stop_after_attempt(tries),
        wait=wait_random_exponential(multiplier=0.1, max=1),
        retry=retry_if_exception(_is_worth_a_try),
        sleep=asyncio.sleep,
        reraise=True,
    )


def _is_worth_a_try(error: BaseException) -> bool:
    return isinstance(error, Lost) and not error.late


def broken(where: str, error: Exception) -> Lost:
    """A failed connection as the error it is; it says whether the request may have been carried out."""
    failure = failure_of(error)
    kind = InDoubt if failure.in_doubt else NotSent
    fault = kind(OUT_OF_REACH, f"{where}: {failure.why}", "is the broker running? agent-mailer config show broker_url")
    fault.late = failure.late
    return fault


def path_of(*parts: str) -> str:
    """A path of untrusted words. Raises ValueError for one that would lead elsewhere."""
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("no name")
    return "".join(f"/{quote(part.encode('utf-8', 'replace'), safe='')}" for part in parts)


def _nobody_asks() -> None:
    pass


def _checked_url(url: str) -> str:
    if not is_http_url(url.strip()):
        raise ConfigFault(
            "bad_broker_url",
            f"broker_url is no http or https URL: {printable(_without_credentials(url))!r}",
            "agent-mailer config set broker_url http://127.0.0.1:9800",
        )
    return url.strip().rstrip("/")


def _wires_to(url: str, common: Mapping[str, str], limits: Limits) -> Wires | None:
    """None where httpx has to do it: with TLS, a proxy, a password in the URL, or a name that has to be translated."""
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url and "@" not in parts.netloc
    if parts.scheme != "http" or parts.hostname is None or not plain or (getproxies() and not loopback_of(url)):
        return None
    fields = {"Host": parts.netloc, "Accept": "*/*", "Connection": "keep-alive", **common}
    return Wires(
        parts.hostname, parts.port or 80, fields, connect=limits.connect, read=limits.read, idle=KEEPALIVE_SECONDS
    )


def _without_credentials(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else url.rpartition("@")[2]


def _checked_key(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigFault(
            "bad_api_key",
            "api_key is empty, or holds characters that no key has",
            "agent-mailer config set api_key KEY",
        )
    return key
