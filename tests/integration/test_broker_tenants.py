"""Two users: one tries every id of the other on every path, method and field, and gets nothing and changes nothing.

The calls are made from the OpenAPI, so that a new one cannot be forgotten: a parameter that this file does not know
fails the test.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
import pytest
from sqlalchemy import create_engine, text
from tests.broker_process import Account, BrokerProcess, broker, join, register
from tests.databases import database_of
from tests.openapi_walk import Operation, operations, sample

from agent_mailer.outside.signature import HEADER, sign

pytestmark = pytest.mark.usefixtures("each_database")
MARK = "bobs-own-words"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
NO_REQUEST = "7340051"
"""What is asked of a watcher is numbered; nothing is asked here, and of whom it would be the agent's id says."""
VOLATILE = {"last_seen", "last_used_at"}
WRITES_OF_HIS_OWN = (
    *("api_keys", "agents", "messages", "teams", "files", "users", "receipts", "approval_links"),
    *("threads", "trashed_messages", "team_memories", "file_reservations", "hooks"),
)


class Tenant(NamedTuple):
    """What a user owns, one of each kind."""

    account: Account
    user_id: str
    one: dict[str, Any]
    two: dict[str, Any]
    message: dict[str, Any]
    team_id: str
    key_id: str
    file_id: str
    operator: str
    trashed_id: str
    memory_id: str
    token: str
    hook_id: str
    delivery: str
    hook_name: str

    def names(self) -> dict[str, str]:
        """Path and query parameters and fields of bodies -> this tenant's value."""
        return {
            "agent_id": self.one["id"],
            "address": self.one["address"],
            "message_id": self.message["id"],
            "parent_id": self.message["id"],
            "thread_id": self.message["thread_id"],
            "key_id": self.key_id,
            "user_id": self.user_id,
            "team_id": self.team_id,
            "file_id": self.file_id,
            "from_agent": self.one["address"],
            "to_agent": self.two["address"],
            "token_sha256": token_hash(self.one),
            "trashed_id": self.trashed_id,
            "memory_id": self.memory_id,
            "token": self.token,
            "number": NO_REQUEST,
            "hook_id": self.hook_id,
            "delivery": self.delivery,
            "hook_name": self.hook_name,
        }


def token_hash(agent: Mapping[str, Any]) -> str:
    """Of the link that waits for the tenant."""
    return hashlib.sha256(agent["id"].encode()).hexdigest()


class Street:
    def __init__(self, process: BrokerProcess) -> None:
        self.process = process
        self.client = httpx.Client(base_url=process.url, trust_env=False, timeout=60)
        root = join(process.url, "root", process.invite)
        self.bob = self._tenant("bob", self._invite(root))
        self.eve = self._tenant("eve", self._invite(root))
        self.operations = list(operations(self.client.get("/openapi.json").json()))

    def _invite(self, root: Account) -> str:
        made = self.client.post("/superadmin/invite-codes", headers=root.as_person).raise_for_status()
        code: str = made.json()["code"]
        return code

    def _tenant(self, name: str, invite: str) -> Tenant:
        account = join(self.process.url, name, invite)
        mark = MARK if name == "bob" else name
        ask = httpx.Client(base_url=self.process.url, trust_env=False, timeout=60)
        people, agents = account.as_person, account.as_agent
        one, two = (register(self.process.url, account, f"{mark}-{n}") for n in "12")
        sending = {
            "agent_id": one["id"],
            "from_agent": one["address"],
            "to_agent": two["address"],
            "subject": mark,
            "body": mark,
        }
        message = ask.post("/messages/send", json=sending, headers=agents).raise_for_status().json()
        answer = {**sending, "action": "reply", "parent_id": message["id"], "body": mark}
        ask.post("/messages/send", json=answer, headers=agents).raise_for_status()
        away = ask.post("/messages/send", json=sending, headers=agents).raise_for_status().json()["id"]
        ask.post(f"/admin/messages/{away}/trash", headers=people).raise_for_status()
        team = ask.post("/admin/teams", json={"name": mark, "description": mark}, headers=people).raise_for_status()
        ask.post(f"/admin/teams/{team.json()['id']}/agents", json={"agent_id": one["id"]}, headers=people)
        note = {"title": mark, "content": mark}
        memory = ask.post(f"/admin/teams/{team.json()['id']}/memories", json=note, headers=people).raise_for_status()
        channel = ask.post("/channels", json={"agent_id": one["id"], "initial_prompt": mark}, headers=agents)
        token = channel.raise_for_status().json()["join_token"]
        # With both places taken: whoever knows the token of another one may join it, as the protocol says.
        ask.post(f"/channels/{token}/join", json={"agent_id": two["id"]}, headers=agents).raise_for_status()
        keys = ask.get("/users/api-keys", headers=people).raise_for_status().json()
        uploaded = ask.post("/files/upload", files={"file": (f"{mark}.png", PNG)}, headers=agents).raise_for_status()
        link = {"agent_id": one["id"], "token_sha256": token_hash(one), "seconds": 3600, "act": mark}
        ask.post("/approvals/links", json=link, headers=agents).raise_for_status()
        mine = {"project": mark, "patterns": [mark], "seconds": 3600}
        ask.post(f"/agents/{one['id']}/reservations", json=mine, headers=agents).raise_for_status()
        hook, delivery = _hook_that_failed(ask, people, mark)
        operator = ask.get("/admin/human-operator", headers=people).raise_for_status().json()
        me = ask.get("/users/me", headers=people).raise_for_status().json()
        ask.close()
        return Tenant(
            account,
            me["id"],
            one,
            two,
            message,
            team.json()["id"],
            keys[0]["id"],
            uploaded.json()["id"],
            operator["address"],
            away,
            memory.json()["id"],
            token,
            hook["id"],
            delivery,
            hook["path"].rpartition("/")[2],
        )

    def rows_of(self, tenant: Tenant) -> str:
        """Everything that is stored of a tenant, but when its agents were seen and its keys were used."""
        found: list[Any] = []
        engine = create_engine(database_of(self.process.data))
        with engine.connect() as database:
            for table in WRITES_OF_HIS_OWN:
                where = "id" if table == "users" else "user_id"
                query = f"SELECT * FROM {table} WHERE {where} = :user"
                if table == "receipts":
                    query = "SELECT r.* FROM receipts r JOIN messages m ON m.id = r.message_id WHERE m.user_id = :user"
                rows = database.execute(text(f"{query} ORDER BY 1"), {"user": tenant.user_id}).mappings()
                found += [(table, {name: row[name] for name in row if name not in VOLATILE}) for row in rows]
        engine.dispose()
        return json.dumps(found)


def _hook_that_failed(ask: httpx.Client, people: dict[str, str], mark: str) -> tuple[dict[str, Any], str]:
    """A hook to a team without agents, and what came by it."""
    team = ask.post("/admin/teams", json={"name": f"{mark}-empty"}, headers=people).raise_for_status().json()["id"]
    form = {"name": mark, "team_id": team}
    made = ask.post("/admin/hooks", json=form, headers=people).raise_for_status().json()
    body = json.dumps({"title": mark}).encode()
    headers = {HEADER: sign(made["secret"], body, int(time.time())), "Content-Type": "application/json"}
    assert ask.post(made["hook"]["path"], content=body, headers=headers).json()["outcome"] == "failed"
    came = ask.get(f"/admin/hooks/{made['hook']['id']}/deliveries", headers=people).raise_for_status().json()
    return made["hook"], came[0]["id"]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Street]:
    with broker(tmp_path_factory.mktemp("tenants") / "data") as process:
        street = Street(process)
        yield street
        street.client.close()


def mixtures(places: list[str], eve: Mapping[str, str], bob: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Every choice of whose value stands where, but the one in which all are eve's own."""
    for whose in itertools.product((eve, bob), repeat=len(places)):
        if bob in whose:
            yield {place: owner[place] for place, owner in zip(places, whose, strict=True)}


def places_of(operation: Operation, known: Mapping[str, str]) -> list[str]:
    unknown = set(operation.path_params) - set(known)
    assert not unknown, f"{operation.name}: whose is {unknown}? Say it in this file"
    # A thread that one sends in is one's own, whatever its name: see the test of the same name below.
    fields = set((operation.body or {}).get("properties", {})) - {"thread_id"}
    named = [name for name in (*operation.path_params, *operation.query, *sorted(fields)) if name in known]
    return list(dict.fromkeys(named))


def requests_of(operation: Operation, values: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The call with those values; one that sends also as a reply and a forward."""
    query = {
        name: values.get(name) or sample(schema)
        for name, schema in operation.query.items()
        if name in values or name in operation.required_query
    }
    request: dict[str, Any] = {"url": operation.fill(values), "params": query}
    if operation.uploads:
        yield {**request, "files": {"file": ("a.png", PNG)}}
        return
    if operation.body is None:
        yield request
        return
    body = sample(operation.body, values)
    body = {name: value for name, value in body.items() if value is not None and name != "thread_id"}
    if "forward_scope" not in operation.body.get("properties", {}):
        yield {**request, "json": body}
        return
    for action in ("send", "reply", "forward"):
        for scope in (None, "message", "thread") if action == "forward" else (None,):
            yield {**request, "json": {**body, "action": action, "forward_scope": scope}}


def test_nothing_of_another_user_is_read_or_changed_by_any_call(street: Street) -> None:
    eve, bob = street.eve, street.bob
    before = street.rows_of(bob)
    tried, got_through = 0, []
    foreign = set(bob.names().values()) | {MARK, bob.operator}
    for operation in street.operations:
        if operation.path.endswith("/stream") or "/users/logout" in operation.path:
            continue
        places = places_of(operation, bob.names())
        for values in mixtures(places, eve.names(), bob.names()):
            for request in requests_of(operation, values):
                for login in (
                    eve.account.as_agent,
                    eve.account.as_person,
                    {**eve.account.as_agent, **eve.account.as_person},
                ):
                    headers = {**login, "X-Agent-Mailer-Watcher": "eve"}
                    answer = street.client.request(operation.method, **request, headers=headers)
                    told = f"{operation.name} with {request}: {answer.status_code} {answer.text[:500]}"
                    assert answer.status_code < 500, told
                    tried += 1
                    if answer.status_code < 300:
                        got_through.append(told)
                    given = json.dumps(request.get("json")) + unquote(request["url"]) + json.dumps(request["params"])
                    leaked = [word for word in foreign if word in answer.text and word not in given]
                    assert not leaked, f"{told} tells {leaked}"
                    assert MARK not in answer.text or MARK in given, told
        assert street.rows_of(bob) == before, f"{operation.name} changed what is bob's"
    assert tried > 200
    assert not [told for told in got_through if not allowed(told)], "\n".join(got_through)


def allowed(told: str) -> bool:
    """Calls that may succeed although one of bob's values stands in them."""
    # The address of a file is what its reader was given: whoever has it may read it, as the protocol says.
    return told.startswith("GET /files/{")


def test_every_call_of_his_own_works_so_that_the_refusals_mean_something(street: Street) -> None:
    """The same requests with bob's login: what was refused to eve for whose it is, is not refused to him."""
    reached = set()
    for operation in street.operations:
        if operation.method != "GET" or operation.public or operation.path.endswith("/stream"):
            continue
        values = street.bob.names()
        for request in requests_of(operation, values):
            login = {**street.bob.account.as_agent, **street.bob.account.as_person}
            answer = street.client.request(operation.method, **request, headers=login)
            if answer.status_code == 200:
                reached.add(operation.path)
            else:
                assert "/superadmin/" in operation.path, f"{operation.name}: {answer.status_code} {answer.text}"
    assert len(reached) > 12, reached


def test_no_call_but_the_public_ones_works_without_a_login(street: Street) -> None:
    public = set()
    for operation in street.operations:
        for request in requests_of(operation, street.bob.names()):
            if operation.path.endswith("/stream"):
                request["headers"] = {"X-Agent-Mailer-Watcher": "eve"}
            answer = street.client.request(operation.method, **request)
            if answer.status_code != 401:  # which to a login means a wrong password
                public.add(operation.name)
                assert MARK not in answer.text.replace(request["url"], "") or "/files/" in operation.path, answer.text
    assert public == {
        "GET /health",
        "GET /ready",
        "GET /metrics",
        "GET /.well-known/agent-mailer",
        "GET /setup.md",
        "GET /users/registration-config",
        "POST /users/register",
        "POST /users/logout",
        "GET /files/{file_id}",
    }


def test_a_stream_of_anothers_inbox_is_refused(street: Street) -> None:
    eve, bob = street.eve, street.bob
    for agent in (eve.one, bob.one):
        asked = {"agent_id": agent["id"]}
        path = f"/messages/inbox/{bob.one['address']}/stream"
        answer = street.client.get(path, params=asked, headers={**eve.account.as_agent, "X-Agent-Mailer-Watcher": "e"})
        assert answer.status_code in (403, 404), answer.text
    path = f"/messages/inbox/{eve.one['address']}/stream"
    answer = street.client.get(path, params={"agent_id": bob.one["id"]}, headers=eve.account.as_agent)
    assert answer.status_code in (403, 404), answer.text


def test_a_thread_of_the_same_name_is_another_thread(street: Street) -> None:
    eve, bob = street.eve, street.bob
    for tenant in (bob, eve):
        sending = {
            "agent_id": tenant.one["id"],
            "from_agent": tenant.one["address"],
            "to_agent": tenant.two["address"],
            "body": f"of {tenant.account.name}",
            "thread_id": "the-same-name",
        }
        street.client.post("/messages/send", json=sending, headers=tenant.account.as_agent).raise_for_status()
    for tenant in (bob, eve):
        found = street.client.get("/messages/thread/the-same-name", headers=tenant.account.as_agent).json()
        assert [message["body"] for message in found] == [f"of {tenant.account.name}"]


def test_a_key_of_one_agent_gets_nothing_of_another_of_the_same_user(street: Street) -> None:
    """But the names: the agents of a user know each other."""
    bob = street.bob
    made = street.client.post(
        "/users/api-keys", json={"name": "bound", "agent_id": bob.two["id"]}, headers=bob.account.as_person
    ).raise_for_status()
    key = {"X-API-Key": made.json()["raw_key"], "X-Agent-Mailer-Watcher": "two"}
    values = {**bob.names(), "message_id": _to_one(street)}
    before = street.rows_of(bob)
    readable = {
        "GET /agents",
        "GET /agents/{agent_id}",
        "GET /agents/{agent_id}/setup",
        "GET /messages/{message_id}",
        "GET /messages/thread/{thread_id}",
    }
    both = {"GET /messages/{message_id}/receipts", "GET /files/{file_id}"}  # it got that message
    for operation in street.operations:
        if operation.public or operation.path.endswith("/stream") or operation.name in readable | both:
            continue
        for request in requests_of(operation, values):
            if "agent_id" not in (
                *operation.path_params,
                *operation.query,
                *(operation.body or {}).get("properties", {}),
            ):
                continue
            answer = street.client.request(operation.method, **request, headers=key)
            assert answer.status_code in (401, 403, 404), f"{operation.name}: {answer.status_code} {answer.text}"
    assert street.rows_of(bob) == before


def _to_one(street: Street) -> str:
    """A message to bob's first agent, that the second one has no part in."""
    bob = street.bob
    sending = {
        "agent_id": bob.one["id"],
        "from_agent": bob.one["address"],
        "to_agent": bob.one["address"],
        "body": MARK,
    }
    made = street.client.post("/messages/send", json=sending, headers=bob.account.as_agent)
    message_id: str = made.raise_for_status().json()["id"]
    return message_id
