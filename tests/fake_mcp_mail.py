"""A server that speaks as mcp_agent_mail was seen to: the wire alone, by the facts that were measured of it.

`python -m tests.fake_mcp_mail PORT FILE` runs one whose database is FILE: it can be killed, and started again.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fake_process import FakeDatabase, FakeProcess

_TABLES = """
create table if not exists projects (id integer primary key, slug text unique, human_key text);
create table if not exists agents (id integer primary key, project integer, name text, token text, policy text,
    program text, retired integer default 0, unique (project, name));
create table if not exists messages (id integer primary key autoincrement, project integer, sender text, thread_id text,
    topic text, subject text, importance text, ack_required integer, created_ts text, body_md text);
create table if not exists recipients (message integer, agent text, kind text, read_ts text, ack_ts text);
create table if not exists reservations (id integer primary key autoincrement, project integer, agent text,
    path_pattern text, exclusive integer, reason text, expires_ts text, released_ts text);
"""

TOOLS = {
    "ensure_project": "human_key",
    "register_agent": "project_key program model name task_description attachments_policy registration_token",
    "unretire_agent": "project_key agent_name registration_token",
    "set_contact_policy": "project_key agent_name policy registration_token",
    "send_message": "project_key sender_name to subject body_md cc bcc importance ack_required thread_id topic"
    " broadcast auto_contact_if_blocked sender_token",
    "fetch_inbox": "project_key agent_name limit urgent_only include_bodies since_ts topic registration_token",
    "fetch_topic": "project_key topic_name limit include_bodies since_ts agent_name registration_token",
    "mark_message_read": "project_key agent_name message_id registration_token",
    "acknowledge_message": "project_key agent_name message_id registration_token",
    "file_reservation_paths": "project_key agent_name paths ttl_seconds exclusive reason registration_token",
    "release_file_reservations": "project_key agent_name paths file_reservation_ids registration_token",
    "renew_file_reservations": "project_key agent_name extend_seconds paths file_reservation_ids registration_token",
}


class No(Exception):
    """A tool's refusal, in the server's words."""


class FakeServer(FakeDatabase):
    """The answers. `fault` may give another body for a method and tool, or None; `signals` is the folder of signals;
    `tells_again`: whoever registers his name once more hears its token again.
    """

    def __init__(self, database: Path, signals: Path | None = None) -> None:
        super().__init__(database, _TABLES)
        self.signals = signals
        self.calls: list[str] = []
        self.fault: Callable[[str], tuple[int, bytes] | None] = lambda _: None
        self.after: Callable[[str], tuple[int, bytes] | None] = lambda _: None
        self.tells_again = True

    def answer(self, order: dict[str, Any]) -> tuple[int, bytes]:
        params = order.get("params", {})
        name = params.get("name") or params.get("uri", "").partition("?")[0] or order["method"]
        with self._lock:
            self.calls.append(name)
            if (other := self.fault(name)) is not None:
                return other
            found = self._answer(order["method"], params)
            if (other := self.after(name)) is not None:
                return other
        return 200, json.dumps({"jsonrpc": "2.0", "id": order.get("id"), **found}).encode()

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "tools/list":
            tools = [
                {"name": name, "inputSchema": {"properties": {one: {} for one in words.split()}}}
                for name, words in TOOLS.items()
            ]
            return {"result": {"tools": tools}}
        if method == "tools/call":
            tool, given = params["name"], params["arguments"]
            try:
                if extra := set(given) - set(TOOLS[tool].split()):
                    raise No(f"1 validation error for call[{tool}]: {extra}")
                with self._base:
                    made = getattr(self, f"_{tool}")(**given)
            except No as no:
                text = f"Error calling tool '{tool}': {no}"
                return {"result": {"content": [{"type": "text", "text": text}], "isError": True}}
            structured = {"result": made} if isinstance(made, list) else made
            content = [{"type": "text", "text": json.dumps(made)}] if made else []
            return {"result": {"content": content, "structuredContent": structured, "isError": False}}
        if method == "resources/read":
            uri = params["uri"]
            try:
                text = json.dumps(self._resource(uri))
            except No as no:
                return {"error": {"code": 0, "message": f"Error reading resource from template '{uri}': {no}"}}
            return {"result": {"contents": [{"uri": uri, "mimeType": "application/json", "text": text}]}}
        return {"error": {"code": -32601, "message": "Method not found"}}

    def _resource(self, uri: str) -> Any:
        path, _, query = uri.removeprefix("resource://").partition("?")
        kind, _, rest = path.partition("/")
        name, given = unquote(rest), dict(parse_qsl(query))
        if kind == "agents":
            project = self._project(name)
            rows = self._base.execute("select * from agents where project = ? and not retired", (project["id"],))
            agents = [{"name": row["name"], "program": row["program"], "task_description": ""} for row in rows]
            return {"project": {"slug": name}, "agents": agents, "retired_agents": []}
        if kind == "file_reservations":
            return self._reservations(self._project(name))
        project = self._project(given["project"])
        me = self._agent(project, given["agent"], given.get("agent_token", ""), "agent_token")
        if kind == "message":
            found = self._visible(project, me["name"], "m.id = ?", (int(name),))
            if not found:
                where = f"not found or not visible to agent '{me['name']}' in project '{project['human_key']}'"
                raise No(f"Message '{name}' {where}.")
            return self._told(found[0], bodies=True)
        if kind == "thread":
            number = int(name) if name.isdigit() else -1
            found = self._visible(project, me["name"], "(thread_id = ? or m.id = ?)", (name, number))
            return {"thread_id": name, "messages": [self._told(row, bodies=True) for row in found]}
        raise No("Unknown resource")

    def _visible(self, project: sqlite3.Row, me: str, what: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        return self._base.execute(
            f"select m.* from messages m where project = ? and {what} and (sender = ? or exists"
            " (select 1 from recipients r where r.message = m.id and r.agent = ?)) order by created_ts",
            (project["id"], *values, me, me),
        ).fetchall()

    def _told(self, row: sqlite3.Row, *, bodies: bool, **more: Any) -> dict[str, Any]:
        names = ("id", "thread_id", "topic", "subject", "importance", "created_ts", *(["body_md"] if bodies else []))
        told = {name: row[name] for name in names}
        return {**told, "ack_required": bool(row["ack_required"]), "attachments": [], "from": row["sender"], **more}

    def _project(self, key: str) -> sqlite3.Row:
        row = self._base.execute("select * from projects where human_key = ? or slug = ?", (key, key)).fetchone()
        if row is None:
            raise No(f"Project '{key}' not found. Use ensure_project to create a new project, or check spelling.")
        found: sqlite3.Row = row
        return found

    def _agent(self, project: sqlite3.Row, name: str, token: str, word: str = "registration_token") -> sqlite3.Row:
        row = self._base.execute(
            "select * from agents where project = ? and lower(name) = lower(?)", (project["id"], name)
        ).fetchone()
        if row is None:
            raise No(f"Agent '{name}' not found in project '{project['human_key']}'.")
        if not token:
            raise No(f"This call requires {word} for agent '{name}'.")
        if token != row["token"]:
            raise No(f"Invalid {word} for agent '{name}'.")
        found: sqlite3.Row = row
        return found

    def _ensure_project(self, human_key: str) -> dict[str, Any]:
        if not human_key.startswith("/"):
            raise No("human_key must be absolute")
        slug = re.sub(r"[^a-z0-9]+", "-", human_key.lower()).strip("-")
        self._base.execute("insert or ignore into projects (slug, human_key) values (?, ?)", (slug, human_key))
        row = self._base.execute("select * from projects where slug = ?", (slug,)).fetchone()
        return {**dict(row), "created_at": _now()}

    def _register_agent(
        self, project_key: str, program: str, model: str, name: str = "", **more: Any
    ) -> dict[str, Any]:
        project = self._project(project_key)
        if not re.search(r"[._-]", name) and not re.fullmatch(r"(Misty[0-9a-f]{6})|(Blue|Red)(Lake|Stone)", name):
            name = f"Misty{secrets.token_hex(3)}"
        row = self._base.execute(
            "select * from agents where project = ? and lower(name) = lower(?)", (project["id"], name)
        ).fetchone()
        if row is not None:
            if not more.get("registration_token"):
                raise No(f"register_agent for an existing identity requires registration_token for agent '{name}'.")
            row = self._agent(project, name, more["registration_token"])
        else:
            self._base.execute(
                "insert into agents (project, name, token, policy, program) values (?, ?, ?, 'auto', ?)",
                (project["id"], name, secrets.token_urlsafe(32), program),
            )
            row = self._base.execute("select * from agents where id = last_insert_rowid()").fetchone()
        told = {"name": row["name"], "model": model, "program": program}
        if self.tells_again or not more.get("registration_token"):
            told["registration_token"] = row["token"]
        return {**told, **({"retired_at": _now()} if row["retired"] else {})}

    def _unretire_agent(self, project_key: str, agent_name: str, registration_token: str) -> dict[str, Any]:
        agent = self._agent(self._project(project_key), agent_name, registration_token)
        self._base.execute("update agents set retired = 0 where id = ?", (agent["id"],))
        return {"name": agent["name"]}

    def _set_contact_policy(
        self, project_key: str, agent_name: str, policy: str, registration_token: str
    ) -> dict[str, Any]:
        agent = self._agent(self._project(project_key), agent_name, registration_token)
        self._base.execute("update agents set policy = ? where id = ?", (policy, agent["id"]))
        return {"agent": agent["name"], "policy": policy}

    def _send_message(self, project_key: str, sender_name: str, to: list[str], **more: Any) -> dict[str, Any]:
        project = self._project(project_key)
        sender = self._agent(project, sender_name, more.get("sender_token", ""), "sender_token")
        if not isinstance(to, list):
            raise No("1 validation error for call[send_message]")
        for name in to:
            row = self._base.execute(
                "select * from agents where project = ? and lower(name) = lower(?)", (project["id"], name)
            ).fetchone()
            if row is None:
                where = f"are not registered in project '{project['human_key']}'"
                raise No(f"Unable to send message — local recipients {name} {where}")
            if row["retired"]:
                raise No(f"Agent '{name}' is retired and no longer accepts new messages")
            if row["policy"] == "block_all":
                raise No("Recipient is not accepting messages.")
        number = self.write(project["id"], sender["name"], to, **more)
        row = self._base.execute("select * from messages where id = ?", (number,)).fetchone()
        payload = self._told(row, bodies=True, to=to, cc=[], bcc=[])
        return {"deliveries": [{"project": project["human_key"], "payload": payload}], "count": 1}

    def write(self, project: int, sender: str | None, to: list[str], **more: Any) -> int:
        """A row as it comes to lie in the database, past every check."""
        values = {
            "project": project,
            "sender": sender,
            "thread_id": more.get("thread_id"),
            "topic": more.get("topic"),
            "subject": more.get("subject", "")[:200],
            "importance": more.get("importance", "normal"),
            "ack_required": int(more.get("ack_required", False)),
            "created_ts": more.get("created_ts") or _now(),
            "body_md": more.get("body_md", ""),
        }
        marks = ", ".join("?" for _ in values)
        self._base.execute(f"insert into messages ({', '.join(values)}) values ({marks})", tuple(values.values()))
        number = int(self._base.execute("select last_insert_rowid()").fetchone()[0])
        for name in to:
            self._base.execute("insert into recipients (message, agent, kind) values (?, ?, 'to')", (number, name))
            if self.signals is not None:
                slug = self._base.execute("select slug from projects where id = ?", (project,)).fetchone()[0]
                folder = self.signals / "projects" / slug / "agents"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}.signal").write_text(json.dumps({"message": {"id": number}}))
        return number

    def _fetch_inbox(self, project_key: str, agent_name: str, **more: Any) -> list[dict[str, Any]]:
        project = self._project(project_key)
        me = self._agent(project, agent_name, more.get("registration_token", ""))
        if self.signals is not None:
            (self.signals / "projects" / project["slug"] / "agents" / f"{me['name']}.signal").unlink(missing_ok=True)
        since = more.get("since_ts") or "0001"
        rows = self._base.execute(
            "select m.*, r.kind from messages m join recipients r on r.message = m.id where project = ? and"
            " r.agent = ? and created_ts > ? order by created_ts desc limit ?",
            (project["id"], me["name"], since, min(1000, more.get("limit", 20))),
        )
        bodies = more.get("include_bodies", False)
        return [self._told(row, bodies=bodies, kind=row["kind"]) for row in rows]

    def _fetch_topic(self, project_key: str, topic_name: str, agent_name: str, **more: Any) -> list[dict[str, Any]]:
        project = self._project(project_key)
        me = self._agent(project, agent_name, more.get("registration_token", ""))
        found = self._visible(project, me["name"], "lower(topic) = lower(?)", (topic_name,))
        return [self._told(row, bodies=more.get("include_bodies", True)) for row in found][: more.get("limit", 50)]

    def _mark_message_read(
        self, project_key: str, agent_name: str, message_id: int, registration_token: str, column: str = "read_ts"
    ) -> dict[str, Any]:
        me = self._agent(self._project(project_key), agent_name, registration_token)
        changed = self._base.execute(
            f"update recipients set {column} = ? where message = ? and agent = ?", (_now(), message_id, me["name"])
        )
        if not changed.rowcount:
            raise No(f"Message '{message_id}' not found or not visible to agent '{me['name']}'")
        return {"message_id": message_id}

    def _acknowledge_message(self, **given: Any) -> dict[str, Any]:
        return self._mark_message_read(**given, column="ack_ts")

    def _reservations(self, project: sqlite3.Row) -> list[dict[str, Any]]:
        rows = self._base.execute(
            "select * from reservations where project = ? and released_ts is null and expires_ts > ?",
            (project["id"], _now()),
        )
        return [{**dict(row), "exclusive": bool(row["exclusive"])} for row in rows]

    def _file_reservation_paths(self, project_key: str, agent_name: str, paths: list[str], **more: Any) -> Any:
        project = self._project(project_key)
        me = self._agent(project, agent_name, more.get("registration_token", ""))
        if not paths:
            raise No("paths must not be empty")
        until_ = (datetime.now(UTC) + timedelta(seconds=more.get("ttl_seconds", 3600))).isoformat()
        granted, conflicts = [], []
        for path in paths:
            held = self._reservations(project)
            others = [one for one in held if one["agent"] != me["name"] and one["path_pattern"] == path]
            if others:
                conflicts.append({"path": path, "holders": others})
            mine = [one for one in held if one["agent"] == me["name"] and one["path_pattern"] == path]
            if mine:
                number = mine[0]["id"]
                self._base.execute("update reservations set expires_ts = ? where id = ?", (until_, number))
            else:
                self._base.execute(
                    "insert into reservations (project, agent, path_pattern, exclusive, reason, expires_ts)"
                    " values (?, ?, ?, ?, ?, ?)",
                    (project["id"], me["name"], path, int(more.get("exclusive", True)), more.get("reason", ""), until_),
                )
                number = self._base.execute("select last_insert_rowid()").fetchone()[0]
            granted.append({"id": number, "path_pattern": path, "expires_ts": until_})
        return {"granted": granted, "conflicts": conflicts}

    def _release_file_reservations(self, project_key: str, agent_name: str, **more: Any) -> Any:
        project = self._project(project_key)
        me = self._agent(project, agent_name, more.get("registration_token", ""))
        numbers = more.get("file_reservation_ids") or [
            one["id"] for one in self._reservations(project) if one["agent"] == me["name"]
        ]
        for number in numbers:
            self._base.execute("update reservations set released_ts = ? where id = ?", (_now(), number))
        return {"released": len(numbers), "released_at": _now()}

    def _renew_file_reservations(self, project_key: str, agent_name: str, **more: Any) -> Any:
        project = self._project(project_key)
        self._agent(project, agent_name, more.get("registration_token", ""))
        until_ = (datetime.now(UTC) + timedelta(seconds=more.get("extend_seconds", 1800))).isoformat()
        numbers = more.get("file_reservation_ids") or []
        for number in numbers:
            self._base.execute("update reservations set expires_ts = ? where id = ?", (until_, number))
        return {"renewed": len(numbers), "file_reservations": []}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._give(200, b'{"status":"ready"}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "json" not in self.headers.get("Content-Type", "") or urlsplit(self.path).path not in ("/api/", "/mcp/"):
            self._give(400, b"Invalid Content-Type header")
            return
        self._give(*self.fake.answer(json.loads(body)))

    def _give(self, status: int, body: bytes) -> None:
        # Whoever asked may have been killed.
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def serve(fake: FakeServer, port: int = 0) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    return server


@contextmanager
def running(database: Path, signals: Path | None = None) -> Iterator[tuple[str, FakeServer]]:
    """Its URL and the answers, in a thread of this process."""
    fake = FakeServer(database, signals)
    server = serve(fake)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api", fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        fake.close()


def in_process(database: Path) -> FakeProcess:
    """The same in a process of its own."""
    return FakeProcess("tests.fake_mcp_mail", database, root="/api", lives="/")


if __name__ == "__main__":
    with_port = serve(FakeServer(Path(sys.argv[2])), int(sys.argv[1]))
    print(with_port.server_port, flush=True)
    with_port.serve_forever()
