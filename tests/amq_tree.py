"""A project as `amq coop init` and `amq session create` leave it, and mail as `amq send` writes it, byte for byte."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path

from agent_mailer.mailbox.maildir.format import parse_message
from agent_mailer.mailbox.port import Message

LEAVES = ("inbox/tmp", "inbox/new", "inbox/cur", "outbox/sent", "dlq/tmp", "dlq/new", "dlq/cur", "receipts")
_FIELDS = ("id", "from", "to", "thread", "subject", "created", "refs", "priority", "kind", "labels", "context")
_WAY_BACK = ("reply_to", "reply_project", "from_project")
_serial = itertools.count(1)


def folder(path: Path) -> Path:
    """A folder and those above it that are missing, 0700 whatever the umask."""
    if not path.parent.exists():
        folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o700)
    return path


def mailbox(root: Path, handle: str) -> Path:
    for leaf in LEAVES:
        folder(root / "agents" / handle / leaf)
    return root / "agents" / handle


class Project:
    """`<top>/.agent-mail` with the sessions `collab` and `web`; `.amqrc` names the peers."""

    def __init__(self, top: Path, *handles: str, name: str = "", peers: Mapping[str, str] | None = None) -> None:
        self.top = folder(top)
        self.base = self._root(top / ".agent-mail", ("user", *handles))
        config = {"version": 1, "created_utc": "2026-08-22T14:12:12Z", "agents": sorted({"user", *handles})}
        (self.base / "meta" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.collab = self.session("collab", "user", *handles)
        self.web = self.session("web", "user", *handles)
        self.amqrc(name, peers or {})

    def session(self, name: str, *handles: str) -> Path:
        """A nested root, whose meta is empty: the base's roster rules."""
        return self._root(self.base / name, handles)

    def amqrc(self, name: str, peers: Mapping[str, str]) -> None:
        content: dict[str, object] = {"root": ".agent-mail"}
        content |= {"project": name} if name else {}
        content |= {"peers": dict(peers)} if peers else {}
        path = self.top / ".amqrc"
        path.write_text(json.dumps(content, indent=2) + "\n")
        path.chmod(0o600)

    def _root(self, root: Path, handles: tuple[str, ...]) -> Path:
        for name in ("agents", "meta", "threads"):
            folder(root / name)
        for handle in handles:
            mailbox(root, handle)
        return root


def write(root: Path, to: str, sender: str = "bob", body: str = "Which one?", **fields: object) -> str:
    """A message into `new` of `to`, as amq's writer lays it out; returns its id."""
    number = next(_serial)
    identifier = str(fields.pop("id", f"2026-08-22T14-12-{number % 60:02d}.{number % 1000:03d}Z_pid4711_{number:08x}"))
    values: dict[str, object] = {
        "id": identifier,
        "from": sender,
        "to": [to],
        "thread": f"p2p/{sender}__{to}__{number}",
        "subject": "Plan",
        "created": f"2026-08-22T14:12:{number % 60:02d}.{number % 1000 + 1000:04d}Z",
        **fields,
    }
    header = {"schema": 1} | {name: values[name] for name in (*_FIELDS, *_WAY_BACK) if values.get(name)}
    text = json.dumps(header, indent=2, ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    name = f"{identifier}.md"
    staged = root / "agents" / to / "inbox" / "tmp" / name
    staged.write_bytes(f"---json\n{text}\n---\n{body}\n".encode())
    staged.chmod(0o600)
    os.rename(staged, root / "agents" / to / "inbox" / "new" / name)
    return identifier


def inbox(root: Path, handle: str) -> list[Message]:
    """What waits for `handle`, oldest first."""
    found = [parse_message(path.read_bytes(), path.name) for path in sorted(new(root, handle).iterdir())]
    return [message for message in found if isinstance(message, Message)]


def header(root: Path, handle: str) -> dict[str, object]:
    """The header of the one message that waits for `handle`."""
    [path] = new(root, handle).iterdir()
    found: dict[str, object] = json.loads(path.read_text().split("\n---\n")[0].removeprefix("---json\n"))
    return found


def new(root: Path, handle: str) -> Path:
    return root / "agents" / handle / "inbox" / "new"
