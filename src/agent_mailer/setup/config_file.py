"""Changing `config.toml` without losing a comment or a key that we do not know; written whole or not at all."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item

from agent_mailer.config import DOCS, SECRET_KEYS
from agent_mailer.config_values import check_value, load, read_file
from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import ConfigFault, UsageFault, quoted
from agent_mailer.names import printable

_HEAD = (
    "The configuration of one agent. `agent-mailer config show` prints every key and where its value comes from;",
    "`agent-mailer config set KEY VALUE` changes one. Whoever can write this file decides what the agent may do.",
)


class ConfigFile:
    """The file as it was when it was opened, and what is to change in it. Raises ConfigFault for what is not TOML."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        read_file(path)
        try:
            self._before = path.read_bytes()
        except FileNotFoundError:
            self._before = b""
        try:
            self._document = tomlkit.parse(self._before.decode("utf-8-sig"))
        except TOMLKitError as error:
            raise ConfigFault("bad_toml", f"{path} is not valid TOML: {error}", "agent-mailer config edit") from error
        if not self._before.strip():
            for line in _HEAD:
                self._document.add(tomlkit.comment(line))

    def get(self, key: str) -> object:
        """The value in the file; None if the key is not there."""
        value: object = self._document.unwrap()
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value if value != "" else None

    def set(self, key: str, value: object) -> None:
        """Set a key; a new one comes with a line that says what it is. Raises UsageFault for a wrong type."""
        check_value(key, value)
        item = _item(value)
        head, dot, name = key.partition(".")
        if dot:
            if head not in self._document:
                self._document.add(tomlkit.nl())
                self._document.add(tomlkit.comment(DOCS[head]))
                self._document.add(head, tomlkit.table())
            table = self._document[head]
            if not isinstance(table, MutableMapping):
                raise UsageFault("no_table", f"{head} is no table in {self.path}", "agent-mailer config edit")
            table[name] = item
            return
        if key in self._document:
            self._document[key] = item
            return
        fresh = tomlkit.document()
        fresh.add(tomlkit.nl())
        fresh.add(tomlkit.comment(DOCS[key]))
        fresh.add(key, item)
        # Whatever comes after a table's head belongs to the table: a new key goes before the first one.
        text = tomlkit.dumps(self._document)
        at = _first_table(text)
        head, tail = text[:at].rstrip("\n"), text[at:]
        joined = f"{head}\n{tomlkit.dumps(fresh)}" + (f"\n{tail}" if tail else "")
        self._document = tomlkit.parse(joined.lstrip("\n"))

    def unset(self, key: str) -> None:
        """Take a key out, and its table where that has no other; nothing where it is not there."""
        head, dot, name = key.partition(".")
        holder: object = self._document[head] if dot and head in self._document else self._document
        last = name if dot else head
        if isinstance(holder, MutableMapping) and last in holder and (not dot or holder is not self._document):
            del holder[last]
            if dot and not holder:
                del self._document[head]
        if head not in self._document:
            # The line that `set` writes above a key says nothing without it.
            lines = tomlkit.dumps(self._document).splitlines(keepends=True)
            self._document = tomlkit.parse("".join(line for line in lines if line.rstrip() != f"# {DOCS[head]}"))

    def save(self) -> bool:
        """Publish by rename in a 0700 folder, False if nothing changed; it is 0600 in any case.

        Raises OSError, ConfigFault.
        """
        data = tomlkit.dumps(self._document).encode()
        changed = data != self._before
        if changed:
            publish(self.path, data, self._before, self._disk)
        self._disk.system.chmod(self.path, 0o600)
        return changed


def publish(path: Path, data: bytes, expected: bytes, disk: Disk) -> None:
    """Replace the file, unless somebody else has changed it since `expected` was read. Raises ConfigFault, OSError."""
    disk.make_directory(path.parent, sync=Sync.FULL)
    try:
        now = path.read_bytes()
    except FileNotFoundError:
        now = b""
    if now != expected:
        raise ConfigFault("changed", f"{path} was changed by somebody else meanwhile; it was left so", "do it again")
    try:
        disk.replace(path, data, sync=Sync.FULL)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # A container's volume that is this one file: to write into it would not be whole or nothing.
        why = f"{path} is a mount of its own, which cannot be replaced"
        raise ConfigFault("config_mounted", why, f"change it where it comes from: findmnt -T {quoted(path)}") from None


def check_file(path: Path) -> None:
    """Raises ConfigFault naming what is wrong in the file, whatever environment and flags say."""
    load(path, {}, {})


def shown(key: str, value: object) -> str:
    """A value on one line of a terminal; a secret never."""
    if value is None or value in ("", (), []):
        return "-"
    if key in SECRET_KEYS:
        return "(set, not shown)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return printable(shlex.join(_word(one) for one in value), 300)
    if isinstance(value, Mapping):
        safe = {name: visible(f"{key}.{name}", inner) for name, inner in value.items()}
        return printable(", ".join(f"{name} = {inner}" for name, inner in safe.items() if inner is not None), 300)
    return printable(str(value), 300)


def visible(key: str, value: object) -> object:
    """A plain value, also of a table, without what is secret in it; a secret that is not set is None."""
    if key in SECRET_KEYS:
        return shown(key, value) if value else None
    if isinstance(value, Mapping):
        return {name: visible(f"{key}.{name}", inner) for name, inner in value.items()}
    return value


def _word(value: object) -> str:
    """Of a table in a list its values: they stand in the order of its keys."""
    return " ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)


def _item(value: object) -> Item:
    """A table on one line: what a person adds at the end of the file is not taken for its own."""
    if not isinstance(value, Mapping):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _first_table(text: str) -> int:
    position = 0
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("[") and _is_whole(text[:position]):
            return position
        position += len(line)
    return position


def _is_whole(text: str) -> bool:
    """Whether no value is left open: within one, a line that begins so is no table's head."""
    try:
        tomlkit.parse(text)
    except TOMLKitError:
        return False
    return True
