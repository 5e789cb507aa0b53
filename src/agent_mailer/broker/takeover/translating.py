"""What each row of the public broker is here; and of which rows, or parts of rows, there can be nothing. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agent_mailer.broker.channels.rows import Status
from agent_mailer.broker.messages.files import EXTENSIONS
from agent_mailer.broker.takeover.source import Old, key_of
from agent_mailer.broker.threads.rows import Shelf
from agent_mailer.broker.users.login import is_old

New = dict[str, Any]
"""A row of a table of ours."""
ACTIONS = ("send", "reply", "forward")
SHELVES = {"archived_threads": Shelf.ARCHIVE, "trashed_threads": Shelf.TRASH}
"""By the tables of threads that are put away: which are what here."""
_OF_AGENT = "agent:"
"""How a key is named that was made for one agent; its id follows."""
_IN_A_PATH = re.compile(r"[0-9a-zA-Z-]{1,64}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Broken(Exception):
    """There can be no such row here, and why."""


class Loss(msgspec.Struct, frozen=True):
    """A row that is left out, or (`column`) a part of one that is not taken over as it was."""

    table: str
    key: str
    why: str
    column: str = ""


class Rules(msgspec.Struct, frozen=True):
    """`superadmins`: they stay what they are. `bound_keys`: a key that was made for an agent acts for that one alone.
    `shelves`: the threads that are put away, where, and since when; `trashed`: the same of single messages.
    """

    superadmins: bool
    bound_keys: bool
    shelves: Mapping[str, tuple[Shelf, str]]
    trashed: Mapping[str, str]


class _Owned(msgspec.Struct, frozen=True):
    id: str
    user_id: str


class Translator:
    """Fed table by table, in the order of `source.SHAPE`: what it was given before decides what a row may name."""

    def __init__(self, rules: Rules) -> None:
        self.losses: list[Loss] = []
        self.sent: Counter[tuple[str, str]] = Counter()
        """Messages, by the id of who sent them and by action."""
        self.shelved: dict[tuple[str, str], tuple[Shelf, str]] = {}
        """What is put away, by user and thread."""
        self.in_trash: list[New] = []
        """Rows of `trashed_messages`, once the messages were given."""
        self.domains: Counter[str] = Counter()
        """In what the addresses of agents end."""
        self.to_reset: list[str] = []
        """Names of users whose password cannot be checked here."""
        self._rules = rules
        self._users: dict[str, str] = {}
        self._teams: dict[str, str] = {}
        self._addresses: dict[str, _Owned] = {}
        self._owners: dict[str, str] = {}
        self._channels: dict[str, str] = {}
        """When each was opened."""
        self._seqs: Counter[str] = Counter()
        self._later_parents: list[tuple[str, str]] = []
        self._left_out: set[str] = set()
        self._how: dict[str, Callable[[Old], New]] = {
            "users": self._user,
            "invite_codes": _as_it_is,
            "teams": self._team,
            "team_memories": self._memory,
            "agents": self._agent,
            "api_keys": self._key,
            "messages": self._message,
            "files": self._file,
            "channels": self._channel,
            "channel_members": self._member,
            "channel_messages": self._said,
        }

    def row(self, table: str, old: Old) -> New | None:
        """What it is here; None, and a loss is noted, where it can be nothing."""
        try:
            for name, value in old.items():
                if isinstance(value, bytes) or (isinstance(value, str) and "\0" in value):
                    raise Broken(f"{name} is no text")
            return self._how[table](old)
        except Broken as broken:
            self.note_lost(table, key_of(table, old), str(broken))
            if table == "messages":
                self._left_out.add(old["id"])
            return None

    def parents(self) -> list[tuple[str, str]]:
        """Messages that stand before the one that they answer, and that one; after all messages were given."""
        for message, parent in self._later_parents:
            if parent in self._left_out:
                self.note_lost("messages", message, f"the message {parent} is not there", "parent_id")
        return [one for one in self._later_parents if one[1] not in self._left_out]

    def note_lost(self, table: str, key: str, why: str, column: str = "") -> None:
        self.losses.append(Loss(table, key, why, column))

    def _user(self, old: Old) -> New:
        self._users[old["id"]] = old["username"]
        if not is_old(old["password_hash"]):
            self.to_reset.append(old["username"])
        superadmin = bool(old["is_superadmin"]) and self._rules.superadmins
        if superadmin != bool(old["is_superadmin"]):
            self.note_lost("users", old["id"], "this broker has a superadmin of its own", "is_superadmin")
        return {
            **_only(old, "id", "username", "password_hash", "created_at"),
            "is_superadmin": superadmin,
            "filter_tags": self._list("users", old, "filter_tags"),
            "token_version": 1,
        }

    def _team(self, old: Old) -> New:
        self._require_user(old["user_id"])
        self._teams[old["id"]] = old["user_id"]
        return dict(old)

    def _memory(self, old: Old) -> New:
        if old["team_id"] not in self._teams:
            raise Broken(f"its team {old['team_id']} is not there")
        owner = self._teams[old["team_id"]]
        if owner != old["user_id"]:
            self.note_lost("team_memories", old["id"], "it belongs to the team's user now", "user_id")
        return {**old, "user_id": owner}

    def _agent(self, old: Old) -> New:
        self._require_user(old["user_id"])
        if old["status"] not in ("active", "deleted"):
            raise Broken(f"its status {old['status']!r} is none that there is")
        team_id = old["team_id"]
        if team_id is not None and self._teams.get(team_id) != old["user_id"]:
            self.note_lost("agents", old["id"], f"its team {team_id} is not there", "team_id")
            team_id = None
        self._addresses[old["address"]] = _Owned(old["id"], old["user_id"])
        self._owners[old["id"]] = old["user_id"]
        ending = f"@{self._users[old['user_id']]}."
        if ending in old["address"]:
            self.domains[old["address"].partition(ending)[2]] += 1
        return {
            **_only(old, "id", "name", "address", "role", "description", "system_prompt", "created_at", "user_id"),
            **_only(old, "last_seen", "status"),
            "tags": self._list("agents", old, "tags"),
            "team_id": team_id,
            "api_key_suffix": old["api_key_suffix"] or None,
            "inbox_seq": 0,
        }

    def _key(self, old: Old) -> New:
        self._require_user(old["user_id"])
        agent_id = old["name"].removeprefix(_OF_AGENT) if old["name"].startswith(_OF_AGENT) else None
        own = agent_id is not None and self._rules.bound_keys and self._owners.get(agent_id) == old["user_id"]
        return {**old, "is_active": bool(old["is_active"]), "agent_id": agent_id if own else None}

    def _message(self, old: Old) -> New:
        sender, to = (self._addresses.get(old[end]) for end in ("from_agent", "to_agent"))
        if sender is None or to is None:
            raise Broken(f"no agent has the address {old['from_agent' if sender is None else 'to_agent']}")
        if old["action"] not in ACTIONS or not old["thread_id"]:
            raise Broken(f"its action {old['action']!r} is none that there is, or it has no thread")
        parent, place = old["parent_id"], (to.user_id, old["thread_id"])
        if parent is not None and (old["parent_at"] is None or parent in self._left_out):
            self.note_lost("messages", old["id"], f"the message {parent} is not there", "parent_id")
            parent = None
        elif parent is not None and (old["parent_at"], parent) >= (old["created_at"], old["id"]):
            self._later_parents.append((old["id"], parent))
            parent = None
        self._seqs[to.id] += 1
        away = old["thread_id"] in self._rules.shelves
        if away:
            self.shelved[place] = self._rules.shelves[old["thread_id"]]
        if old["id"] in self._rules.trashed:
            moment = self._rules.trashed[old["id"]]
            self.in_trash.append({"message_id": old["id"], "user_id": to.user_id, "trashed_at": moment})
            away = True
        self.sent[sender.id, old["action"]] += 1
        return {
            **_only(old, "id", "thread_id", "from_agent", "to_agent", "action", "subject", "body", "created_at"),
            "user_id": to.user_id,
            "from_agent_id": sender.id,
            "to_agent_id": to.id,
            "attachments": self._list("messages", old, "attachments"),
            "is_read": bool(old["is_read"]),
            "parent_id": parent,
            # What is put away keeps its place as a negative number.
            "seq": -self._seqs[to.id] if away else self._seqs[to.id],
            "hops": 0,
            "automatic": "no",
            "priority": "normal",
            "kind": None,
            "labels": [],
            "claimed_by": None,
            "claimed_at": None,
            "idempotency_key": None,
            "request_hash": None,
            "ordinal": 0,
            "visited": None,
        }

    def _file(self, old: Old) -> New:
        self._require_user(old["user_id"])
        ending, day = EXTENSIONS.get(old["mime_type"]), old["created_at"][:10]
        if ending is None or not _IN_A_PATH.fullmatch(old["id"]) or not _DAY.fullmatch(day):
            raise Broken("its id, its day or its kind is none that a picture has")
        return {**old, "stored_path": f"{day}/{old['id']}{ending}"}

    def _channel(self, old: Old) -> New:
        if old["status"] not in {*Status}:
            raise Broken(f"its status {old['status']!r} is none that there is")
        self._channels[old["id"]] = old["created_at"]
        return dict(old)

    def _member(self, old: Old) -> New:
        if old["channel_id"] not in self._channels or old["agent_id"] not in self._owners:
            raise Broken("its channel or its agent is not there")
        places = {"user_id": self._owners[old["agent_id"]], "opened_at": self._channels[old["channel_id"]]}
        return {**old, **places}

    def _said(self, old: Old) -> New:
        if old["channel_id"] not in self._channels:
            raise Broken(f"its channel {old['channel_id']} is not there")
        return dict(old)

    def _require_user(self, user_id: str | None) -> None:
        if user_id not in self._users:
            raise Broken(f"its user {user_id} is not there" if user_id else "it belongs to no user")

    def _list(self, table: str, old: Old, column: str) -> list[Any]:
        try:
            found = msgspec.json.decode(old[column] or "[]", type=list[Any])
        except (msgspec.DecodeError, TypeError, RecursionError):
            self.note_lost(table, key_of(table, old), f"{column} is no list in JSON", column)
            return []
        return found


def _as_it_is(old: Old) -> New:
    return dict(old)


def _only(old: Old, *names: str) -> New:
    return {name: old[name] for name in names}
