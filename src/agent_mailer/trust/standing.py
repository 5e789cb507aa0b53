"""What widens power and stands in a workdir's files: keys, templates in place of ours, texts sent by the clock."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.config import Leaf, expand, keys, leaves, leaves_of
from agent_mailer.config_tables import Widens
from agent_mailer.config_values import SCHEDULE, plain
from agent_mailer.errors import ConfigFault
from agent_mailer.names import sha256

T = TypeVar("T")

TEMPLATES = "templates/"
AGENTS = "agents"
"""In the folder of templates: descriptions of agent programs, which say what is started."""
_MOST_AGENTS = 100
BODIES = "body of "
"""Before a file, as the configuration names it, whose text a schedule sends."""


class Standing(msgspec.Struct, frozen=True):
    """`values` by the key's full name, plain and without defaults; `templates` by file name, their bytes; `bodies` by
    path as the configuration has it, the digest of what a schedule sends.
    """

    values: dict[str, object] = {}
    templates: dict[str, bytes] = {}
    bodies: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """The same on every machine: it says nothing of paths."""
        texts = {name: sha256(text).hexdigest() for name, text in self.templates.items()}
        parts: dict[str, object] = {"templates": texts, "values": self.values}
        if self.bodies:
            # Without any it is the digest that earlier versions have written.
            parts["bodies"] = self.bodies
        whole = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return sha256(whole.encode()).hexdigest()

    @property
    def is_empty(self) -> bool:
        return not (self.values or self.templates or self.bodies)

    def differs(self, other: Standing) -> tuple[str, ...]:
        """The names of what is another here than there: keys in the order of the file, `templates/NAME`, bodies."""
        if (self.values, self.templates, self.bodies) == (other.values, other.templates, other.bodies):
            return ()  # as mostly; to go through all keys costs a command more than to read its configuration
        values = [name for name in widening() if self.values.get(name) != other.values.get(name)]
        files = sorted({*self.templates, *other.templates})
        texts = [TEMPLATES + name for name in files if self.templates.get(name) != other.templates.get(name)]
        paths = sorted({*self.bodies, *other.bodies})
        bodies = [BODIES + path for path in paths if self.bodies.get(path) != other.bodies.get(path)]
        return (*values, *texts, *bodies)

    def having(self, other: Standing, names: tuple[str, ...]) -> Standing:
        """This one, but what is `names` as it is in the other."""
        values, templates, bodies = dict(self.values), dict(self.templates), dict(self.bodies)
        for name in names:
            if name.startswith(TEMPLATES):
                _set(templates, name.removeprefix(TEMPLATES), other.templates.get(name.removeprefix(TEMPLATES)))
            elif name.startswith(BODIES):
                _set(bodies, name.removeprefix(BODIES), other.bodies.get(name.removeprefix(BODIES)))
            else:
                _set(values, name, other.values.get(name))
        return Standing(values, templates, bodies)


@cache
def widening() -> Mapping[str, Leaf]:
    """The keys that widen power, in the order of the file."""
    return {leaf.name: leaf for leaf in leaves() if leaf.widens is not None}


def stops_without(name: str) -> bool:
    """Whether this has no narrow value, so that nothing may start while nobody trusts it."""
    return name in widening() and widening()[name].widens is Widens.STOPS


def standing_in(
    raw: Mapping[str, object],
    identity: Mapping[str, str],
    templates: Mapping[str, bytes],
    bodies: Mapping[str, str] | None = None,
) -> Standing:
    """`raw` is the file, `identity` what AGENT.md says where the file says nothing."""
    values: dict[str, object] = {}
    said = {name.partition(".")[0] for name in (*raw, *identity)}
    for leaf in (leaf for key in keys() if key in said for leaf in leaves_of(key) if leaf.widens is not None):
        name = leaf.name
        value = found_at(raw, name)
        if value is None or value == "":
            value = identity.get(name)
        if value is not None and value != "" and (shown := plain(name, value)) != plain(name, leaf.default):
            values[name] = shown
    return Standing(values, dict(templates), dict(bodies or {}))


def found_at(raw: Mapping[str, object], name: str) -> object:
    """The value of a key, or of a table's own as `notify.command`; None where there is none."""
    head, _, own = name.partition(".")
    value = raw.get(head)
    if not own:
        return value
    return value.get(own) if isinstance(value, Mapping) else None


def in_place(raw: Mapping[str, object], name: str, value: object) -> dict[str, object]:
    """The file with another value, None = without the key."""
    head, _, own = name.partition(".")
    table = raw.get(head)
    inner = dict(table) if isinstance(table, Mapping) else {}
    changed = dict(raw)
    if not own:
        _set(changed, head, value)
    elif inner or value is not None:
        _set(inner, own, value)
        changed[head] = inner
    return changed


def templates_in(folder: Path) -> dict[str, bytes]:
    """Those that stand in for ours; what cannot be read, or is too large to be one, does not."""
    found: dict[str, bytes] = {}
    if not os.path.isdir(folder):  # noqa: PTH112 - a folder that cannot be looked at has none
        return found
    from agent_mailer.prompts import PromptKind, read_template

    for kind in PromptKind:
        with suppress(OSError):
            text = read_template(folder / f"{kind}.md")
            if text is not None:
                found[f"{kind}.md"] = text
    for path in sorted((folder / AGENTS).glob("*.toml"))[:_MOST_AGENTS]:
        with suppress(OSError):
            text = read_template(path)
            if text is not None:
                found[f"{AGENTS}/{path.name}"] = text
    return found


def bodies_in(raw: Mapping[str, object], workdir: Path) -> dict[str, str]:
    """Of what is sent by the clock; a file that cannot be read, or is too large to be sent, has none."""
    found: dict[str, str] = {}
    tables = raw.get(SCHEDULE)
    for table in tables if isinstance(tables, list) else ():
        path = table.get("body") if isinstance(table, Mapping) else None
        if isinstance(path, str) and path:
            from agent_mailer.schedules.bodies import digest_of  # most agents send nothing by the clock

            with suppress(OSError, ConfigFault, ValueError):
                found[path] = digest_of(expand(path, workdir))
    return found


def _set(table: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value
