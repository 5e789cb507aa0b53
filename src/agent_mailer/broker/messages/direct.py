"""Sending past the server's layers, too: what `quick` answers, where whoever sends is known already.

As there only the 200 of a request that is strictly what a send looks like. What is asked of every request is asked here
as well: host, size, key, agent, hold. All else goes on as it came, and nothing of it has happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, cast

from fastapi import FastAPI

from agent_mailer.broker.answers import encode
from agent_mailer.broker.callers import require_owned
from agent_mailer.broker.data import Settings
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import AgentCaller, Directory
from agent_mailer.broker.edge import GUARDS, is_ours
from agent_mailer.broker.leases import Fence
from agent_mailer.broker.logs import access, log_request, request_id
from agent_mailer.broker.messages.forms import IS_KEY
from agent_mailer.broker.messages.quick import LARGEST, PATH, Form, decode, is_odd
from agent_mailer.broker.messages.requested import submission_with
from agent_mailer.broker.messages.routes import FAILED
from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.messages.wire import INLINE_CHARACTERS, body_html
from agent_mailer.broker.numbers import Numbers
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import Streams
from agent_mailer.broker.watchers import IS_EPOCH

Answered = Callable[[bytes | None], None]
"""Told headers and body of the answer as they go out; None: the route says why there is none."""
Scope = Any
_ODD_HEADERS = (b"transfer-encoding", b"expect", b"upgrade")
_GUARDS = b"".join(b"%b: %b\r\n" % guard for guard in GUARDS)
_REPLAYED = b"idempotency-replayed: true\r\n"


class Direct:
    """Of one broker, whose application is `app`; `proxied`: who its clients are, others say."""

    def __init__(self, app: FastAPI, *, proxied: bool) -> None:
        self._state = app.state
        self._proxied = proxied

    def may_take(self, scope: Scope) -> bool:
        """By its head."""
        if scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
            return False
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or any(name in headers for name in _ODD_HEADERS):
            return False
        size = headers.get(b"content-length", b"")
        if not size.isdigit() or int(size) > LARGEST or headers.get(b"content-type") != b"application/json":
            return False
        hosts = cast(Settings, self._state.settings).hosts
        # Where each request is told of, whom a proxy names is told, and that is asked further within.
        return (not hosts or _is_ours(headers.get(b"host", b""), hosts)) and not (
            self._proxied and access.isEnabledFor(20)
        )

    def take(self, scope: Scope, raw: bytes, answered: Answered) -> bool:
        """Whether it will be answered. Where it is not, `scope` is as it was."""
        begun = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        submission = self._submission(headers, raw)
        if submission is None:
            return False

        def stored(result: Sent | Exception) -> None:
            answer = None
            try:
                if isinstance(result, Exception):
                    raise result
                answer = self._answer(scope, headers, result, begun)
            except Exception as failed:
                # It is not tried a second time: the route says what has happened.
                scope[FAILED] = failed
            answered(answer)

        cast(Store, self._state.store).submit(send_all, submission, stored)
        return True

    def _submission(self, headers: Mapping[bytes, bytes], raw: bytes) -> Submission | None:
        """None where it has to be looked at more closely, or where something would have to be asked for."""
        if is_odd(raw):
            return None
        directory = cast(Directory, self._state.directory)
        caller = directory.known_key(headers.get(b"x-api-key", b"").decode("latin-1"))
        if caller is None:
            return None
        try:
            form = decode(raw)
            if form.forward_scope is not None or len(form.body) * _many(form) > INLINE_CHARACTERS:
                return None
            submission = self._asked(caller, form, headers)
        except (ValueError, RecursionError, Fault):
            return None
        if submission is not None:
            directory.used(caller)
        return submission

    def _asked(self, caller: AgentCaller, form: Form, headers: Mapping[bytes, bytes]) -> Submission | None:
        """Raises Fault."""
        known = cast(Directory, self._state.directory).known_agent(form.agent_id)
        agent = require_owned(caller, known, form.agent_id, form.from_agent)
        key, epoch = (_text(headers.get(name)) for name in (b"idempotency-key", b"x-agent-mailer-epoch"))
        if (key is not None and not IS_KEY.fullmatch(key)) or (epoch is not None and not IS_EPOCH.fullmatch(epoch)):
            return None
        return submission_with(
            self._state.settings,
            form,
            sender=(caller.user_id, agent.id, agent.address),
            bound=caller.agent_id is not None,
            key=key,
            fence=None if epoch is None else Fence(int(epoch), cast(Streams, self._state.streams).epochs),
        )

    def _answer(self, scope: Scope, headers: Mapping[bytes, bytes], sent: Sent, begun: float) -> bytes:
        cast(Streams, self._state.streams).arrived(sent.arrivals)
        for message in sent.messages:
            message.body_html = body_html(message.body)
        body = encode(sent.messages[0] if len(sent.messages) == 1 else sent.messages)
        asked = request_id(headers.get(b"x-request-id", b""))
        seconds = time.perf_counter() - begun
        cast(Numbers, self._state.numbers).answered("POST", PATH, 200, seconds)
        if access.isEnabledFor(20):
            client = scope.get("client")
            log_request(asked, "POST", PATH, 200, seconds, client[0] if client else "")
        return b"%bcontent-length: %d\r\ncontent-type: application/json\r\n%bx-request-id: %b\r\n\r\n%b" % (
            _REPLAYED if sent.replayed else b"",
            len(body),
            _GUARDS,
            asked.encode(),
            body,
        )


def _many(form: Form) -> int:
    return 1 if isinstance(form.to_agent, str) else len(form.to_agent)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


@lru_cache(maxsize=64)
def _is_ours(host: bytes, hosts: Collection[str]) -> bool:
    return is_ours(host.decode("latin-1"), hosts)
