"""What a person asks of the search: words, and beside them `from:` and others; and the mail that is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from markupsafe import Markup, escape
from sqlalchemy import Connection, text

from agent_mailer.broker.search.rows import MOST_FOUND, asked_of
from agent_mailer.broker.search.words import Wanted, snippet, wanted_by

SHELVES = ("open", "archive", "trash")
_PART = re.compile(r'(?:(from|to|subject|tag|team|after|before|is):)?(?:"([^"]*)"|(\S+))', re.I)
_DAY = re.compile(r"\d{4}(-\d{2}){0,2}")


class Asked(msgspec.Struct, frozen=True):
    """`words`: what the text or the subject must hold; the others by their names, of each the last that was said."""

    words: str = ""
    sender: str = ""
    to: str = ""
    subject: str = ""
    tag: str = ""
    team: str = ""
    after: str = ""
    before: str = ""
    unread: bool = False

    @property
    def anything(self) -> bool:
        return self != Asked()


class Hit(msgspec.Struct, frozen=True):
    """A message that was found. `snippet`: with the words marked; `shelf`: where its thread is."""

    message_id: str
    thread_id: str
    subject: str
    snippet: Markup
    from_agent: str
    to_agent: str
    created_at: str
    shelf: str


_NAMES = {"from": "sender", "to": "to", "subject": "subject", "tag": "tag", "team": "team"}


def read(query: str) -> Asked:
    """Never fails: what is not understood is a word."""
    said: dict[str, str] = {}
    words = []
    unread = False
    for found in _PART.finditer(query):
        name, value = (found[1] or "").lower(), found[2] if found[2] is not None else found[3]
        if name in _NAMES and value:
            said[_NAMES[name]] = value
        elif name in ("after", "before") and _DAY.fullmatch(value):
            said[name] = value
        elif name == "is" and value.lower() == "unread":
            unread = True
        elif value:
            words.append(value if not name else f"{name} {value}")
    return Asked(words=" ".join(words), unread=unread, **said)


def find(
    connection: Connection, user_id: str, operator: str, asked: Asked, skip: int, most: int
) -> tuple[list[Hit], int]:
    """At most `most`, the newest first, and how many there are, up to `MOST_FOUND`."""
    wanted = wanted_by(f"{asked.words} {asked.subject}")
    names: dict[str, object] = {"user": user_id}
    those = _OF_USER
    if wanted:
        # In this order: a database that began with the messages would ask the index of words anew for each of them.
        matching, names["asked"] = asked_of(connection, user_id, wanted)
        those = _OF_WORDS.format(matching=matching)
    where = " AND ".join([those, *_only(asked, names, operator)])
    total = connection.execute(text(_TOTAL.format(where=where)), {**names, "limit": MOST_FOUND}).scalar_one()
    hits = _HITS.format(where=where, number="found.number" if wanted else "s.number")
    rows = connection.execute(text(hits), {**names, "most": most, "skip": skip}).all()
    return [_hit(row, wanted) for row in rows], int(total)


_OF_WORDS = (
    "FROM ({matching}) AS found CROSS JOIN searchable AS s CROSS JOIN messages AS m"
    " WHERE s.number = found.number AND m.id = s.message_id AND m.user_id = :user AND m.thread_id <> ''"
)
_OF_USER = (
    "FROM messages AS m JOIN searchable AS s ON s.message_id = m.id WHERE m.user_id = :user AND m.thread_id <> ''"
)
_TOTAL = "SELECT count(*) FROM (SELECT 1 {where} LIMIT :limit) AS counted"
_HITS = (
    "SELECT m.id, m.thread_id, m.subject, m.body, m.from_agent, m.to_agent, m.created_at,"
    " (SELECT t.shelf FROM threads AS t WHERE t.user_id = m.user_id AND t.thread_id = m.thread_id)"
    " {where} ORDER BY {number} DESC LIMIT :most OFFSET :skip"
)
_ENDS = "(m.from_agent_id IN ({0}) OR m.to_agent_id IN ({0}))"
_OF_TEAM = (
    "SELECT id FROM agents WHERE user_id = :user AND team_id IN"
    " (SELECT id FROM teams WHERE user_id = :user AND lower(name) = :team)"
)
_TAGGED = "SELECT id FROM agents WHERE user_id = :user AND CAST(tags AS TEXT) LIKE :tag ESCAPE '!'"


def _only(asked: Asked, names: dict[str, object], operator: str) -> Iterator[str]:
    """Conditions of constants; what a person typed goes into `names`."""
    for column, value in (("from_agent", asked.sender), ("to_agent", asked.to), ("subject", asked.subject)):
        if value:
            names[column] = f"%{_literal(value.lower())}%"
            yield f"lower(m.{column}) LIKE :{column} ESCAPE '!'"
    if asked.team:
        names["team"] = asked.team.lower()
        yield _ENDS.format(_OF_TEAM)
    if asked.tag:
        # As lists of words are stored.
        names["tag"] = f"%{_literal(json.dumps(asked.tag))}%"
        yield f"(CAST(m.labels AS TEXT) LIKE :tag ESCAPE '!' OR {_ENDS.format(_TAGGED)})"
    for name, sign in (("after", ">="), ("before", "<")):
        if getattr(asked, name):
            names[name] = getattr(asked, name)
            yield f"m.created_at {sign} :{name}"
    if asked.unread:
        names["operator"] = operator
        yield "m.to_agent_id = :operator AND NOT m.is_read"


def _literal(value: str) -> str:
    return re.sub(r"([!%_])", r"!\1", value)


def _hit(row: Sequence[Any], wanted: Wanted) -> Hit:
    name, thread, subject, body, sender, to, moment, shelf = row
    return Hit(name, thread, subject, marked(snippet(body, wanted), wanted), sender, to, moment, shelf or "open")


def marked(shown: str, wanted: Wanted) -> Markup:
    """The words of the search, marked."""
    beginnings = sorted({*wanted.words, *wanted.beginnings}, key=len, reverse=True)
    if not beginnings:
        return escape(shown)
    pattern = re.compile("|".join(re.escape(word) for word in beginnings), re.I)
    parts, end = [], 0
    for found in pattern.finditer(shown):
        parts += [escape(shown[end : found.start()]), Markup("<mark>{}</mark>").format(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(shown[end:])])
