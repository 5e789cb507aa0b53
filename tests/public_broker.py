"""A database as the protocol's public broker leaves it, for tests: its tables, and rows of every kind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bcrypt
from sqlalchemy import create_engine, text

PASSWORD = "correct horse battery"
KEY, OWN_KEY = (f"amk_{digit * 64}" for digit in "12")
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
MOMENT = "2026-11-21T08:15:{:02}.000001+00:00"
TABLES: Mapping[str, str] = {
    "users": "id TEXT PRIMARY KEY, username TEXT UNIQUE, password_hash TEXT, is_superadmin INTEGER, created_at TEXT,"
    " filter_tags TEXT",
    "invite_codes": "code TEXT PRIMARY KEY, created_by TEXT, used_by TEXT, used_at TEXT, created_at TEXT",
    "system_settings": "key TEXT PRIMARY KEY, value TEXT, updated_at TEXT",
    "teams": "id TEXT PRIMARY KEY, name TEXT, description TEXT, user_id TEXT, created_at TEXT",
    "team_memories": "id TEXT PRIMARY KEY, team_id TEXT, title TEXT, content TEXT, user_id TEXT, created_at TEXT,"
    " updated_at TEXT, updated_by TEXT",
    "agents": "id TEXT PRIMARY KEY, name TEXT, address TEXT UNIQUE, role TEXT, description TEXT, system_prompt TEXT,"
    " created_at TEXT, tags TEXT, user_id TEXT, last_seen TEXT, status TEXT, api_key_suffix TEXT, team_id TEXT",
    "api_keys": "id TEXT PRIMARY KEY, user_id TEXT, key_hash TEXT UNIQUE, name TEXT, created_at TEXT,"
    " last_used_at TEXT, is_active INTEGER",
    "messages": "id TEXT PRIMARY KEY, thread_id TEXT, from_agent TEXT, to_agent TEXT, action TEXT, subject TEXT,"
    " body TEXT, attachments TEXT, is_read INTEGER, parent_id TEXT, created_at TEXT",
    "archived_threads": "thread_id TEXT PRIMARY KEY, archived_at TEXT",
    "trashed_threads": "thread_id TEXT PRIMARY KEY, trashed_at TEXT",
    "trashed_messages": "message_id TEXT PRIMARY KEY, trashed_at TEXT",
    "files": "id TEXT PRIMARY KEY, filename TEXT, mime_type TEXT, size INTEGER, stored_path TEXT, user_id TEXT,"
    " created_at TEXT",
    "channels": "id TEXT PRIMARY KEY, join_token TEXT, creator_agent TEXT, initial_prompt TEXT, status TEXT,"
    " max_turns INTEGER, turn_count INTEGER, ttl_expires_at TEXT, created_at TEXT, closed_at TEXT, close_reason TEXT",
    "channel_members": "channel_id TEXT, agent_id TEXT, agent_address TEXT, role TEXT, joined_at TEXT",
    "channel_messages": "id TEXT PRIMARY KEY, channel_id TEXT, seq INTEGER, from_agent TEXT, body TEXT,"
    " created_at TEXT",
}


def address(name: str, user: str = "ann") -> str:
    return f"{name}@{user}.amp.example"


class PublicBroker:
    """Its database at `url`. Ids are `<kind>-<name>`: of users, agents, messages …"""

    def __init__(self, url: str, uploads: Path) -> None:
        self.url, self.uploads = url, uploads
        self._engine = create_engine(url)
        for name, columns in TABLES.items():
            self.run(f"CREATE TABLE {name} ({columns})")
        self._ticks = 0

    def run(self, statement: str, **names: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(statement), names)

    def close(self) -> None:
        self._engine.dispose()

    def add(self, table: str, **values: Any) -> None:
        names = ", ".join(values)
        self.run(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values)

    def moment(self) -> str:
        self._ticks += 1
        return MOMENT.format(self._ticks % 60)

    def user(self, name: str, *, superadmin: bool = False, key: str = "") -> None:
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        self.add(
            "users",
            id=f"user-{name}",
            username=name,
            password_hash=hashed,
            is_superadmin=int(superadmin),
            created_at=self.moment(),
            filter_tags='["x"]',
        )
        if key:
            self.key(name, key, "all")

    def key(self, user: str, raw: str, name: str) -> None:
        self.add(
            "api_keys",
            id=f"key-{raw[4]}",
            user_id=f"user-{user}",
            key_hash=hashlib.sha256(raw.encode()).hexdigest(),
            name=name,
            created_at=self.moment(),
            last_used_at=None,
            is_active=1,
        )

    def agent(self, name: str, user: str = "ann", **other: Any) -> None:
        values: dict[str, Any] = {"id": f"agent-{name}", "name": name, "address": address(name, user), "role": "tester"}
        values |= {"description": "", "system_prompt": "p", "created_at": self.moment(), "tags": '["a"]'}
        values |= {"user_id": f"user-{user}", "status": "active", "api_key_suffix": "", **other}
        self.add("agents", **values)

    def message(self, name: str, sender: str, to: str, user: str = "ann", **other: Any) -> None:
        values: dict[str, Any] = {
            "id": f"message-{name}",
            "thread_id": f"thread-{name}",
            "action": "send",
            "subject": f"about {name}",
        }
        values |= {"from_agent": address(sender, user), "to_agent": address(to, user), "body": f"words of {name}"}
        values |= {"attachments": "[]", "is_read": 0, "parent_id": None, "created_at": self.moment(), **other}
        self.add("messages", **values)

    def fill(self) -> PublicBroker:
        """Two users, one with mail of every kind."""
        self.user("ann", superadmin=True, key=KEY)
        self.user("bob")
        self.add("invite_codes", code="abcdefgh", created_by="user-ann", created_at=self.moment())
        self.add("system_settings", key="invite_required", value="0", updated_at=self.moment())
        self.add("teams", id="team-1", name="crew", description="", user_id="user-ann", created_at=self.moment())
        self.add(
            "team_memories",
            id="memory-1",
            team_id="team-1",
            title="style",
            content="tabs",
            user_id="user-ann",
            created_at=self.moment(),
            updated_at=self.moment(),
            updated_by="ann",
        )
        self.agent("coder", team_id="team-1")
        self.agent("tester")
        self.agent("gone", status="deleted")
        self.agent("other", "bob")
        self.key("ann", OWN_KEY, "agent:agent-tester")
        self.message(
            "first", "coder", "tester", is_read=1, body="na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve \N{SNOWMAN}"
        )
        answer = {"action": "reply", "parent_id": "message-first", "thread_id": "thread-first"}
        self.message("answer", "tester", "coder", **answer, attachments='["a.txt", {"x": [1, null]}]')
        self.message("put-away", "coder", "tester")
        self.message("binned", "coder", "tester")
        self.message("one-binned", "coder", "tester")
        # A clock that was set back: it answers what was written after it.
        self.message(
            "early",
            "coder",
            "tester",
            action="reply",
            parent_id="message-answer",
            created_at="2026-11-20T00:00:00+00:00",
        )
        self.message("own", "other", "other", "bob")
        self.add("archived_threads", thread_id="thread-put-away", archived_at=self.moment())
        self.add("archived_threads", thread_id="thread-nowhere", archived_at=self.moment())
        self.add("trashed_threads", thread_id="thread-binned", trashed_at=self.moment())
        self.add("trashed_messages", message_id="message-one-binned", trashed_at=self.moment())
        path = self.uploads / "2026-11-21" / "cat.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(PICTURE)
        stored = {"stored_path": "/srv/old/uploads/2026-11-21/cat.png", "size": len(PICTURE), "user_id": "user-ann"}
        self.add("files", id="file-1", filename="cat.png", mime_type="image/png", created_at=self.moment(), **stored)
        turns = {"max_turns": 10, "turn_count": 1, "ttl_expires_at": self.moment(), "created_at": self.moment()}
        self.add(
            "channels", id="channel-1", join_token="t0k3n", creator_agent=address("coder"), initial_prompt="hi",
            status="closed", closed_at=self.moment(), close_reason="done", **turns,
        )  # fmt: skip
        member = {"channel_id": "channel-1", "joined_at": self.moment()}
        self.add("channel_members", agent_id="agent-coder", agent_address=address("coder"), role="creator", **member)
        said = {"channel_id": "channel-1", "seq": 1, "from_agent": address("coder"), "created_at": self.moment()}
        self.add("channel_messages", id="said-1", body="hello", **said)
        return self
