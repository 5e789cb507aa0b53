"""A broker as a process: its socket, its server, its end."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import importlib.util
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import uvicorn

from agent_mailer.broker.connections import most_connections, patient
from agent_mailer.broker.logs import Form, log_to_stderr
from agent_mailer.broker.messages.direct import Direct
from agent_mailer.broker.users.rows import first_invite
from agent_mailer.errors import BusyFault, ConfigFault

if TYPE_CHECKING:
    from fastapi import FastAPI

DEAD_PEER_SECONDS = 60
"""How long sent bytes may stay unacknowledged: a watcher whose host is gone does not hold its agent for ever."""
STOP_SECONDS = 1
"""What a request that is under way when the broker is stopped has to come to its end."""
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
FIRST_GIVEN = 3
"""The descriptor of the first socket that a service manager gives."""
MANY_FILES = 65_536
LARGEST_KEPT = 1_048_576
"""Bytes of a block that is not given back to the system at once when it is freed."""
_M_MMAP_THRESHOLD = -3


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 takes a free one. Raises BusyFault, ConfigFault."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigFault("bad_host", f"there is no address for the host {host!r}", "--host 127.0.0.1") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(AttributeError, OSError):
            # Those that are accepted inherit it.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_SECONDS * 1000)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyFault(
                "port_busy", f"another program listens at {host}:{port}", f"give another port: --port {port + 1}"
            ) from None
        raise ConfigFault(
            "cannot_listen", f"cannot listen at {host}:{port}: {error.strerror}", "--host 127.0.0.1 --port 9800"
        ) from None
    bound.settimeout(0.0)
    return bound


def inherited(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that a service manager holds for us (LISTEN_FDS), taken out of `environ`: it stays open
    while we are started anew, so that whoever connects meanwhile waits. None where there is none.

    Raises ConfigFault where it is none that a broker can listen at.
    """
    many, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not many.isdecimal() or pid not in ("", str(os.getpid())) or int(many) < 1:
        return None
    try:
        given = socket.socket(fileno=FIRST_GIVEN)
        listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if int(many) != 1 or not listens or given.family not in (socket.AF_INET, socket.AF_INET6):
            raise OSError(errno.EINVAL, "not one socket of TCP that listens")
    except OSError as error:
        words = f"the service manager's socket cannot be used: {error.strerror}"
        raise ConfigFault("bad_socket", words, "one ListenStream=HOST:PORT in the socket unit") from None
    given.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_SECONDS * 1000)
    given.settimeout(0.0)
    return given


def url_of(bound: socket.socket) -> str:
    """How a client on this machine reaches it."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - a comparison
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: FastAPI,
    bound: socket.socket,
    ready: Callable[[str | None], None],
    *,
    log_form: Form,
    access_log: bool,
    request_seconds: float,
    proxies: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; `ready` is called once requests are answered, with the invite code of the
    first user while there is none. `request_seconds`: within which a request has to come whole. `proxies`: the
    addresses and networks whose word counts for who a client is.

    Raises what opening the database raises.
    """
    log_to_stderr(log_form, every_request=access_log)
    _allow_many_files()
    _give_memory_back()
    fast_loop = importlib.util.find_spec("uvloop") is not None
    config = uvicorn.Config(
        app,
        http=cast(
            type[asyncio.Protocol], patient(request_seconds, most_connections(), Direct(app, proxied=bool(proxies)))
        ),
        log_config=None,
        access_log=False,  # ours is in `logs`
        lifespan="off",  # entered below, so that its errors are ours to tell
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
        # Not from whoever comes: a new X-Forwarded-For each time would be a new client each time.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
    )

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            invite = await app.state.store.write(first_invite)
            await _Server(config, lambda: ready(invite), app.state.streams.close).serve([bound])

    with asyncio.Runner(loop_factory=_uvloop_factory() if fast_loop else None) as runner:
        runner.run(serve())


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], end_streams: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._end_streams = end_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is here by now stays: nobody has to look again and again whether it is garbage.
        gc.freeze()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._end_streams()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but to be asked to stop is no failure: the signal is not raised again at the end."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _allow_many_files() -> None:
    """Each stream is an open file, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _give_memory_back() -> None:
    """Hashing a password takes 19 MiB. Once that is freed glibc would keep blocks of its size for the next time."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
