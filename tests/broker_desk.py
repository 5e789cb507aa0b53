"""A broker for tests: the real server in a thread, over a database of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import msgspec
import uvicorn
from sqlalchemy import create_engine, text
from starlette.types import ASGIApp
from tests.databases import database_of
from tests.desk import until

from agent_mailer.broker.app import create_app
from agent_mailer.broker.connections import patient
from agent_mailer.broker.data import Settings
from agent_mailer.broker.messages.direct import Direct

PASSWORD = "correct horse battery"
DOMAIN = "amp.localhost"


class Person(NamedTuple):
    """A user. `key` acts for all of the user's agents."""

    id: str
    name: str
    token: str
    key: str

    @property
    def login(self) -> dict[str, str]:
        """The header of people's calls."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def header(self) -> dict[str, str]:
        """The header of agents' calls."""
        return {"X-API-Key": self.key}


class _NothingDirect:
    """Every request goes to the application, and to what stands before it."""

    def may_take(self, scope: Any) -> bool:
        return False

    def take(self, scope: Any, raw: bytes, answered: Callable[[bytes | None], None]) -> bool:
        return False


class BrokerDesk:
    """A running broker. `http` has no credentials of its own: give `headers`."""

    def __init__(self, base: Path, room: int = 10_000, **settings: Any) -> None:
        """`settings`: what differs from the usual Settings; `room`: for so many connections."""
        self.database = base / "broker.db"
        self.settings = msgspec.structs.replace(
            Settings(database_of(base), base / "uploads", "s" * 32, DOMAIN), **settings
        )
        self.app = create_app(self.settings)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._room = room
        self.direct = Direct(self.app, proxied=False)
        config = uvicorn.Config(
            self.app,
            http=cast(Any, patient(self.settings.request_seconds, room, self.direct)),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="broker")
        # A cookie of one person's login must not go with the calls of another.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False, cookies=no_cookies)
        self._invited: Person | None = None

    def put_before(self, behind: Callable[[ASGIApp], ASGIApp]) -> None:
        """Until it starts: what sees every request first."""
        self._server.config.app = behind(self.app)
        nothing = patient(self.settings.request_seconds, self._room, _NothingDirect())
        self._server.config.http = cast(Any, nothing)

    def start(self) -> None:
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive(), "the broker's start", 20)
        assert self._server.started, "the broker did not start"

    def stop(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the broker did not end"
        self._socket.close()

    def call(self, method: str, path: str, expected: int = 200, **request: Any) -> Any:
        """The JSON of the answer, whose status must be `expected`; None where it has no content."""
        answer = self.http.request(method, path, **request)
        assert answer.status_code == expected, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def sql(self, statement: str, **names: Any) -> list[Any]:
        """Run it in the broker's database, past the broker; its rows."""
        engine = create_engine(self.settings.database)
        try:
            with engine.begin() as connection:
                done = connection.execute(text(statement), names)
                return list(done.all()) if done.returns_rows else []
        finally:
            engine.dispose()

    def bootstrap_code(self) -> str:
        """The invite code of the first user, as the command line gets it."""
        import asyncio

        from agent_mailer.broker.database import Store
        from agent_mailer.broker.users.rows import first_invite

        async def ask() -> str | None:
            store = Store(self.settings.database)
            await store.open()
            try:
                return await store.write(first_invite)
            finally:
                await store.close()

        code = asyncio.run(ask())
        assert code is not None
        return code

    def person(self, name: str) -> Person:
        """A new user, logged in, with a key for all its agents. The first one is superadmin."""
        if self._invited is None:
            code = self.bootstrap_code()
        else:
            code = self.call("POST", "/superadmin/invite-codes", 201, headers=self._invited.login)["code"]
        credentials = {"username": name, "password": PASSWORD}
        user = self.call("POST", "/users/register", 201, json={**credentials, "invite_code": code})
        token = self.call("POST", "/users/login", json=credentials)["token"]
        login = {"Authorization": f"Bearer {token}"}
        key = self.call("POST", "/users/api-keys", 201, json={"name": "all"}, headers=login)["raw_key"]
        person = Person(user["id"], name, token, key)
        self._invited = self._invited or person
        return person

    def agent(self, person: Person, name: str) -> dict[str, Any]:
        """A new agent of that user, registered by key: `<name>@<user>.<DOMAIN>`."""
        form = {"name": name, "role": "tester", "system_prompt": f"You are {name}."}
        made: dict[str, Any] = self.call("POST", "/agents/register", json=form, headers=person.header)
        return made

    def own_agent(self, person: Person, name: str) -> dict[str, Any]:
        """A new agent with `api_key_plaintext`, a key that acts for it only."""
        made: dict[str, Any] = self.call("POST", "/users/me/agents", 201, json={"name": name}, headers=person.login)
        return made

    def send(self, person: Person, sender: dict[str, Any], to: str | list[str], **fields: Any) -> Any:
        """Send a message by key; the JSON of the answer."""
        form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": to, **fields}
        return self.call("POST", "/messages/send", json=form, headers=person.header)


@contextmanager
def running_broker(
    base: Path, *, behind: Callable[[ASGIApp], ASGIApp] | None = None, **settings: Any
) -> Iterator[BrokerDesk]:
    """A broker over the folder `base`, ended at the end of the block; `behind`: what stands before it."""
    desk = BrokerDesk(base, **settings)
    if behind is not None:
        desk.put_before(behind)
    desk.start()
    try:
        yield desk
    finally:
        desk.stop()
