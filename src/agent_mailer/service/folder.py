"""The user's folder of units: the template, and a drop-in for each agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.service.unit import (
    DROP_IN,
    TEMPLATE,
    Instance,
    drop_in,
    gone_of,
    gone_unit,
    read_drop_in,
    shipped_template,
    unit_of,
)

_BEFORE, _AFTER = "agent-mailer@", ".service.d"
_WANTED_BY = "default.target.wants"
KEPT = f"{TEMPLATE}.old"


def units_folder(environ: Mapping[str, str]) -> Path:
    """Where systemd looks for the units of this user."""
    config = environ.get("XDG_CONFIG_HOME", "")
    home = Path(config) if config.startswith("/") else Path.home() / ".config"
    return home / "systemd" / "user"


class Units:
    """The agents installed in `folder`. Writing raises OSError."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self._disk = disk

    @property
    def template(self) -> Path:
        return self.folder / TEMPLATE

    def drop_in(self, name: str) -> Path:
        return self._drop_ins(name) / DROP_IN

    def gone(self, name: str) -> Path:
        return self.folder / gone_of(name)

    def all(self) -> list[Instance]:
        """Every agent installed by us, by name."""
        names = []
        with suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(self.folder)
        inner = [n[len(_BEFORE) : -len(_AFTER)] for n in names if n.startswith(_BEFORE) and n.endswith(_AFTER)]
        return [found for name in sorted(inner) if name and (found := self.named(name)) is not None]

    def named(self, name: str) -> Instance | None:
        try:
            text = read_regular(self.drop_in(name), follow=True).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return read_drop_in(name, text)

    def of(self, workdir: Path) -> Instance | None:
        """The agent of that folder, by whatever path it was installed."""
        return next((known for known in self.all() if _same(known.workdir, workdir)), None)

    def texts(self, name: str, own: str | None = None) -> list[str]:
        """What makes up the unit: the template and its drop-ins in systemd's order. `own` in place of ours."""
        files: dict[str, Path] = {}
        for folder in (self.folder / f"{TEMPLATE}.d", self._drop_ins(name)):
            with suppress(FileNotFoundError, NotADirectoryError):
                files |= {entry: folder / entry for entry in os.listdir(folder) if entry.endswith(".conf")}
        files[DROP_IN] = self.drop_in(name)
        found = [shipped_template()] if own is not None else [_read(self.template)]
        for entry in sorted(files):
            found.append(own if own is not None and entry == DROP_IN else _read(files[entry]))
        return found

    def write(self, instance: Instance) -> tuple[list[str], Callable[[], None]]:
        """Put the units in place; returns lines for people, and what takes it back."""
        lines: list[str] = []
        texts = {
            self.template: shipped_template(),
            self.drop_in(instance.name): drop_in(instance),
            self.gone(instance.name): gone_unit(instance),
        }
        before = {path: _bytes_of(path) for path in texts}

        def undo() -> None:
            for path, data in before.items():
                if data is None:
                    self._disk.remove(path)
                else:
                    self._disk.replace(path, data, sync=Sync.FULL)
            self._tidy(instance.name)

        try:
            self._disk.make_directory(self.folder, sync=Sync.FULL)
            self._disk.make_directory(self._drop_ins(instance.name), sync=Sync.FULL)
            for path, text in texts.items():
                known = before[path]
                if known == text.encode():
                    lines.append(f"unchanged {path}")
                    continue
                if path == self.template and known is not None:
                    self._disk.replace(self.folder / KEPT, known, sync=Sync.FULL)
                    lines.append(f"kept      the unit that was there as {self.folder / KEPT}")
                self._disk.replace(path, text.encode(), sync=Sync.FULL)
                lines.append(f"wrote     {path}")
        except BaseException:
            undo()
            raise
        return lines, undo

    def remove(self, name: str) -> list[str]:
        """Take out what is one agent's own, and with the last one the template."""
        self._disk.remove(self.drop_in(name))
        self._disk.remove(self.gone(name))
        lines = [f"removed   {self.drop_in(name)}", f"removed   {self.gone(name)}"]
        if not self._tidy(name):
            lines.append(f"left      your own files in {self._drop_ins(name)}")
        if not self.all() and _bytes_of(self.template) == shipped_template().encode():
            self._disk.remove(self.template)
            lines.append(f"removed   {self.template}")
        return lines

    def disable(self, unit: str) -> list[str]:
        """Remove the link that `enable` made, where no systemd does."""
        link = self.folder / _WANTED_BY / unit
        return [f"removed   {link}"] if self._disk.remove(link) else []

    def _tidy(self, name: str) -> bool:
        """Remove the folder of an agent's drop-ins where nothing is in it."""
        try:
            self._disk.system.rmdir(self._drop_ins(name))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _drop_ins(self, name: str) -> Path:
        return self.folder / f"{unit_of(name)}.d"


def _bytes_of(path: Path) -> bytes | None:
    try:
        return read_regular(path, follow=True)
    except FileNotFoundError:
        return None


def _read(path: Path) -> str:
    return (_bytes_of(path) or b"").decode("utf-8", "replace")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other
