"""A server that speaks as Agent Relay's README and the start of its client's say it does, and no more than that.

`python -m tests.fake_relay PORT FILE` runs one whose database is FILE: it can be killed, and started again.
"""

from __future__ import annotations

import json
import queue
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fake_process import FakeDatabase, FakeProcess

_TABLES = """
create table if not exists agents (id text primary key, label text, machine text, tags text, capabilities text,
    channels text, status text, instance text, epoch integer default 0, body text);
create table if not exists messages (id integer primary key autoincrement, sender text, target text, kind text,
    channel text, subject text, body text, reply_to integer, claimable integer, claimed_by text, claimed_at integer,
    claim_expires_at integer, key text, payload text, read_by text default '[]', created_at integer);
create table if not exists tasks (id integer primary key autoincrement, source text, dedupe_key text, status text,
    result text, claimed_by text, occurrences integer default 1, message integer);
create table if not exists pairs (id integer primary key autoincrement, asker text, target text, status text);
"""

Answer = tuple[int, Any]


class No(Exception):
    """A refusal: a status, and words."""


class FakeServer(FakeDatabase):
    """The answers. `fault` may give another one for `METHOD /path`, before it is done, `after` once it is.

    `lease` are the seconds of a claim; `renews`: who has it may claim it again; `knows_keys`: the same key gives the
    first message; `marks_read`: the mark is heeded; `keeps_extras`: payload and idempotency key come back;
    `says_whose`: who has claimed a message.
    """

    def __init__(self, database: Path) -> None:
        super().__init__(database, _TABLES)
        self.calls: list[str] = []
        self.fault: Callable[[str], tuple[int, bytes] | None] = lambda _: None
        self.after: Callable[[str], tuple[int, bytes] | None] = lambda _: None
        self.lease, self.token, self.version = 600.0, "", "0.4.29"
        self.renews = self.knows_keys = self.marks_read = self.streams = self.says_whose = True
        self.clock_ahead = 0.0
        self.listeners: list[queue.Queue[bytes | None]] = []

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, bytes]:
        with self._lock:
            self.calls.append(f"{method} {path}")
            if (other := self.fault(f"{method} {path}")) is not None:
                return other
            try:
                with self._base:
                    status, found = self._route(method, path.strip("/").split("/"), query, body)
            except No as no:
                status, found = no.args[0], {"error": no.args[1]}
            if (other := self.after(f"{method} {path}")) is not None:
                return other
        return status, json.dumps(found).encode()

    def _route(self, method: str, path: list[str], query: dict[str, str], body: Any) -> Answer:
        match method, [unquote(one) for one in path]:
            case "GET", ["stats"]:
                return 200, {"version": self.version, "agents": 1}
            case "POST", ["agents"]:
                return 200, self._register(body)
            case "GET", ["agents"]:
                return 200, [self._card(row) for row in self._base.execute("select * from agents order by id")]
            case "GET", ["agents", name]:
                return 200, self._card(self._agent(name))
            case "POST", ["agents", name, "heartbeat"]:
                self._require_session(self._agent(name), body)
                return 200, {"ok": True}
            case "PATCH", ["agents", name, "status"]:
                self._require_session(self._agent(name), body)
                self._base.execute("update agents set status = ? where id = ?", (body["status"], name))
                return 200, {"ok": True}
            case "POST", ["messages"]:
                return 201, self._send(body)
            case "GET", ["messages"]:
                return 200, self._listed(query)
            case "GET", ["messages", "cursor"]:
                return 200, {"cursor": self._base.execute("select max(id) from messages").fetchone()[0] or 0}
            case "GET", ["messages", number]:
                return 200, self._told(self._message(number))
            case "GET", ["messages", number, "thread"]:
                return 200, self._thread(self._message(number))
            case "POST", ["messages", number, "claim"]:
                return self._claim(self._message(number), body)
            case "PATCH", ["messages", number]:
                return 200, self._read(self._message(number), body)
            case "PATCH", ["tasks", number, "status"]:
                done = self._base.execute(
                    "update tasks set status = ?, result = coalesce(?, result) where id = ?",
                    (body["status"], body.get("result"), number),
                )
                return (200, {"ok": True}) if done.rowcount else (404, {"error": "Task not found"})
            case "GET", ["pairs"]:
                rows = self._base.execute(
                    "select * from pairs where target = ? and status = ?", (query["agent"], query["status"])
                )
                return 200, [{"id": str(row["id"]), "from": row["asker"], "status": row["status"]} for row in rows]
            case "POST", ["pairs", number, "reject"]:
                self._base.execute("update pairs set status = 'rejected' where id = ?", (number,))
                return 200, {"ok": True}
        raise No(404, "Not found")

    def _register(self, body: Any) -> Any:
        values = {
            "id": body["id"],
            "label": body.get("label", ""),
            "machine": body.get("machine", ""),
            "tags": json.dumps(body.get("tags", [])),
            "capabilities": json.dumps(body.get("capabilities", [])),
            "channels": json.dumps(body.get("channels", [])),
            "status": "idle",
            "instance": body.get("instanceId", ""),
            "body": json.dumps(body),
        }
        names = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        sets = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
        again = "epoch = agents.epoch + (agents.instance != excluded.instance)"
        self._base.execute(
            f"insert into agents ({names}, epoch) values ({marks}, 1) on conflict (id) do update set {again}, {sets}",
            tuple(values.values()),
        )
        self.tell("agent.status", {"id": body["id"]})
        return self._card(self._agent(body["id"]))

    def _card(self, row: sqlite3.Row) -> dict[str, Any]:
        lists = {name: json.loads(row[name]) for name in ("tags", "capabilities", "channels")}
        return {"id": row["id"], "label": row["label"], "status": row["status"], "epoch": row["epoch"], **lists}

    def _agent(self, name: str) -> sqlite3.Row:
        row = self._base.execute("select * from agents where id = ?", (name,)).fetchone()
        if row is None:
            raise No(404, "Agent not found")
        found: sqlite3.Row = row
        return found

    def _require_session(self, row: sqlite3.Row, body: Any) -> None:
        if (body.get("instanceId"), body.get("epoch")) != (row["instance"], row["epoch"]):
            raise No(409, "Stale agent session: epoch has moved on")

    def _send(self, body: Any) -> Any:
        if not all(isinstance(body.get(name), str) for name in ("from", "to", "body")):
            raise No(400, "from, to and body are required")
        key = body.get("idempotencyKey")
        if key and self.knows_keys:
            row = self._base.execute("select * from messages where key = ?", (key,)).fetchone()
            if row is not None:
                return self._told(row)
        number = self.write(body["from"], body["to"], **{name: value for name, value in body.items() if name != "to"})
        return self._told(self._message(str(number)))

    def write(self, sender: str | None, to: str, **more: Any) -> int:
        """A row as it comes to lie in the database, past every check."""
        values = {
            "sender": sender,
            "target": to,
            "kind": more.get("kind", "chat"),
            "channel": more.get("channel"),
            "subject": more.get("subject"),
            "body": more.get("body", ""),
            "reply_to": more.get("replyTo"),
            "claimable": int(more.get("claimable", False)),
            "key": more.get("idempotencyKey"),
            "payload": json.dumps(more.get("payload", {})),
            "created_at": more.get("created_at") or self._now(),
        }
        marks = ", ".join("?" for _ in values)
        made = self._base.execute(
            f"insert into messages ({', '.join(values)}) values ({marks})", tuple(values.values())
        )
        self.tell("message.new", {"id": made.lastrowid})
        return int(made.lastrowid or 0)

    def task(self, target: str, body: str, key: str, severity: str = "critical") -> int:
        """What an integration posts: one task a key, and one claimable message."""
        with self._lock, self._base:
            row = self._base.execute("select * from tasks where dedupe_key = ? and status != 'done'", (key,)).fetchone()
            if row is not None:
                self._base.execute("update tasks set occurrences = occurrences + 1 where id = ?", (row["id"],))
                return int(row["id"])
            made = self._base.execute(
                "insert into tasks (source, dedupe_key, status) values ('ops-monitor', ?, 'open')", (key,)
            )
            payload = {"taskId": made.lastrowid, "severity": severity, "dedupeKey": key}
            self.write("ops-monitor", target, body=body, kind="task", claimable=True, payload=payload)
            return int(made.lastrowid or 0)

    def _message(self, number: str) -> sqlite3.Row:
        row = self._base.execute("select * from messages where id = ?", (number,)).fetchone()
        if row is None:
            raise No(404, "Message not found")
        if row["claimed_by"] and row["claim_expires_at"] <= self._now():
            # What the reaper does.
            self._base.execute(
                "update messages set claimed_by = null, claimed_at = null, claim_expires_at = null where id = ?",
                (number,),
            )
            return self._message(number)
        found: sqlite3.Row = row
        return found

    def _listed(self, query: dict[str, str]) -> list[Any]:
        me = query["for"]
        agent = self._base.execute("select * from agents where id = ?", (me,)).fetchone()
        names = {me, "broadcast"}
        if agent is not None:
            names |= {f"tag:{one}" for one in json.loads(agent["tags"])}
            names |= {f"cap:{one}" for one in json.loads(agent["capabilities"])}
            names |= {f"label:{agent['label']}"}
        marks = ", ".join("?" for _ in names)
        rows = self._base.execute(
            f"select id from messages where target in ({marks}) and id > ? order by id", (*names, query.get("since", 0))
        ).fetchall()
        found = [self._message(str(row["id"])) for row in rows]
        if query.get("unread") == "true":
            found = [row for row in found if me not in json.loads(row["read_by"])]
        return [self._told(row) for row in found]

    def _thread(self, row: sqlite3.Row) -> list[Any]:
        while row["reply_to"] is not None:
            row = self._message(str(row["reply_to"]))
        numbers, found = [row["id"]], []
        while numbers:
            number = numbers.pop(0)
            found.append(number)
            replies = self._base.execute("select id from messages where reply_to = ?", (number,))
            numbers += [one["id"] for one in replies]
        return [self._told(self._message(str(number))) for number in sorted(found)]

    def _claim(self, row: sqlite3.Row, body: Any) -> Answer:
        me = body["agentId"]
        self._require_session(self._agent(me), body)
        if row["claimed_by"] and not (row["claimed_by"] == me and self.renews):
            return 409, {"error": f"Message already claimed by {row['claimed_by']}"}
        now = self._now()
        self._base.execute(
            "update messages set claimed_by = ?, claimed_at = ?, claim_expires_at = ? where id = ?",
            (me, now, now + int(self.lease * 1000), row["id"]),
        )
        self.tell("message.claimed", {"id": row["id"]})
        return 200, self._told(self._message(str(row["id"])))

    def _read(self, row: sqlite3.Row, body: Any) -> Any:
        if self.marks_read:
            readers = {*json.loads(row["read_by"]), body["readBy"]}
            self._base.execute("update messages set read_by = ? where id = ?", (json.dumps(sorted(readers)), row["id"]))
        return {"ok": True}

    def _told(self, row: sqlite3.Row) -> dict[str, Any]:
        return {
            "id": row["id"],
            "from": row["sender"],
            "to": row["target"],
            "kind": row["kind"],
            "channel": row["channel"],
            "subject": row["subject"],
            "body": row["body"],
            "replyTo": row["reply_to"],
            "claimable": bool(row["claimable"]),
            **({"claimedBy": row["claimed_by"]} if self.says_whose else {}),
            "claimedAt": row["claimed_at"],
            "claimExpiresAt": row["claim_expires_at"],
            "idempotencyKey": row["key"],
            "payload": json.loads(row["payload"]),
            "readBy": json.loads(row["read_by"]),
            "createdAt": row["created_at"],
        }

    def tell(self, name: str, data: Any) -> None:
        for listener in self.listeners:
            listener.put(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def _now(self) -> int:
        return int((time.time() + self.clock_ahead) * 1000)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def log_message(self, *_: object) -> None:
        pass

    def _do(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        if self.fake.token and self.headers.get("Authorization") != f"Bearer {self.fake.token}":
            self._give(401, b'{"error": "Unauthorized"}')
        elif not re.match(r"/api(/|$)", parts.path):
            self._give(200, b"<html>dashboard</html>")
        elif parts.path == "/api/events" and self.fake.streams:
            self._stream()
        else:
            query = dict(parse_qsl(parts.query))
            self._give(*self.fake.answer(self.command, parts.path.removeprefix("/api"), query, body))

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_PATCH(self) -> None:
        self._do()

    def _stream(self) -> None:
        events: queue.Queue[bytes | None] = queue.Queue()
        self.fake.listeners.append(events)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            while (event := events.get()) is not None:
                self.wfile.write(event)
                self.wfile.flush()
        except OSError:
            pass
        finally:
            self.fake.listeners.remove(events)
            self.close_connection = True

    def _give(self, status: int, body: bytes) -> None:
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
def running(database: Path) -> Iterator[tuple[str, FakeServer]]:
    """Its URL and the answers, in a thread of this process."""
    fake = FakeServer(database)
    server = serve(fake)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fake
    finally:
        server.shutdown()
        for listener in list(fake.listeners):
            listener.put(None)
        server.server_close()
        thread.join()
        fake.close()


def in_process(database: Path) -> FakeProcess:
    """The same in a process of its own."""
    return FakeProcess("tests.fake_relay", database, root="", lives="/api/stats")


if __name__ == "__main__":
    with_port = serve(FakeServer(Path(sys.argv[2])), int(sys.argv[1]))
    print(with_port.server_port, flush=True)
    with_port.serve_forever()
