"""What adapters that speak HTTP share: one request, its limits of time and size, and how it fails."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import msgspec

from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable, Unknown
from agent_mailer.names import printable, shown_url, whole_characters

# httpx imports a command line of its own where it can, whose packages would cost a watcher 5 MiB for nothing.
_HIDDEN = "httpx._main"
if "httpx" not in sys.modules:
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]
    try:
        import httpx
    finally:
        del sys.modules[_HIDDEN]
else:
    import httpx

MOST_BYTES: Final = 16 * 1024 * 1024

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer, whole."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def glimpse(self) -> str:
        """Its beginning, for people."""
        text = " ".join(self.body[:400].decode("utf-8", "replace").split())
        return printable(text, 120) or "an empty answer"


class Lost(MailboxUnavailable):
    """The connection failed. `in_doubt`: the request may have been carried out."""

    in_doubt = False


class TooLarge(MailboxUnavailable):
    """An answer larger than we read."""


def doubt_of(fault: MailboxUnavailable) -> Unknown:
    """What is known of an item whose request failed so. Raises the fault where it was surely not carried out."""
    if isinstance(fault, MailboxRefused) or (isinstance(fault, Lost) and not fault.in_doubt):
        raise fault
    return Unknown(fault.message)


class Peer:
    """One server, asked over a connection of its own each time: servers drop idle ones, and a poll is rare.

    Raises ConfigFault for a URL or header that can be none.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, most_bytes: int = MOST_BYTES) -> None:
        self.url = _checked(url)
        self.shown = shown_url(self.url)
        for name, value in headers.items():
            if not value.isascii() or not value.isprintable():
                raise ConfigFault("bad_key", f"the {name} holds characters that none has", "agent-mailer config edit")
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "agent-mailer", **headers}
        self._most_bytes = most_bytes
        self._tls: ssl.SSLContext | None = None

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine, as far as its name tells."""
        return bool(loopback_of(self.url))

    def client(self, seconds: float) -> httpx.AsyncClient:
        """`seconds` of silence end a request. To be closed by the caller."""
        secure = self.url.startswith("https:") or bool(getproxies())
        if secure and self._tls is None:
            self._tls = httpx.create_ssl_context()
        return httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(seconds, connect=min(10.0, seconds)),
            verify=self._tls if secure and self._tls is not None else False,
            mounts={f"all://{host}": None for host in loopback_of(self.url)},
        )

    async def ask(
        self,
        method: str,
        path: str = "",
        *,
        content: bytes | None = None,
        query: Mapping[str, str | int] | None = None,
        seconds: float,
    ) -> Answer:
        """The answer, whatever its status, within `seconds` in all. Raises Lost, TooLarge."""
        sent = {} if content is None else {"Content-Type": "application/json"}
        body = bytearray()
        try:
            async with asyncio.timeout(seconds), self.client(seconds) as client:
                params = dict(query) if query else None
                async with client.stream(
                    method, self.url + path, params=params, content=content, headers=sent
                ) as response:
                    async for part in response.aiter_raw():
                        body += part
                        if len(body) > self._most_bytes:
                            limit = self._most_bytes // (1024 * 1024)
                            raise TooLarge("answer_too_large", f"{self.shown} answers with more than {limit} MiB", "")
                    return Answer(response.status_code, whole_characters(bytes(body)))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise self.lost(error) from None

    def lost(self, error: Exception) -> Lost:
        """A failed connection as the error it is."""
        failure = failure_of(error)
        fix = "is the server running? agent-mailer config show broker_url"
        fault = Lost("mailbox_unreachable", f"{self.shown}: {failure.why}", fix)
        fault.in_doubt = failure.in_doubt
        return fault


class Failure(msgspec.Struct, frozen=True):
    """How a connection failed. `in_doubt`: the request may have been carried out; `late`: time was up; `why` is for
    people.
    """

    in_doubt: bool
    late: bool
    why: str


def failure_of(error: Exception) -> Failure:
    in_doubt = not isinstance(error, _NOT_SENT)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return Failure(in_doubt=in_doubt, late=True, why="no answer in time" if in_doubt else "no connection in time")
    return Failure(in_doubt=in_doubt, late=False, why=printable(str(error) or type(error).__name__, 200))


def is_http_url(text: str) -> bool:
    """Whether it can name a server: http or https, a host, neither query nor fragment."""
    try:
        parts = urlsplit(text)
        _ = parts.port
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment


def _checked(url: str) -> str:
    text = url.strip()
    if not is_http_url(text):
        raise ConfigFault(
            "bad_url",
            f"no http or https URL: {printable(shown_url(url))!r}",
            "agent-mailer config set broker_url http://127.0.0.1:PORT",
        )
    return text.rstrip("/")


def loopback_of(url: str) -> tuple[str, ...]:
    """The URL's host where that is this machine, as a pattern for httpx."""
    host = urlsplit(url).hostname or ""
    try:
        ours = host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        ours = False
    return (f"[{host}]" if ":" in host else host,) if ours else ()
