"""Installing the plugin of a program by that program's own commands, from files of ours, without a network."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, UnavailableFault, UsageFault
from agent_mailer.live.placing import Place
from agent_mailer.live.shipped import MARKET, PLUGIN, Target, files_of
from agent_mailer.names import printable, shown_path
from agent_mailer.process.commands import run_briefly

OLDEST: Mapping[Target, tuple[int, ...]] = {Target.CLAUDE: (2, 1, 332), Target.CODEX: (0, 171, 0)}
"""The versions that the plugins were tried with; what older ones do with a hook that waits nobody has seen."""

T = TypeVar("T")

SECONDS = 60.0
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)")
_UPGRADE = {Target.CLAUDE: "claude update", Target.CODEX: "npm install --global @openai/codex"}
_ADD: Mapping[Target, tuple[str, ...]] = {Target.CLAUDE: ("install",), Target.CODEX: ("add",)}
_REMOVE: Mapping[Target, tuple[str, ...]] = {Target.CLAUDE: ("uninstall",), Target.CODEX: ("remove",)}


class _Market(msgspec.Struct):
    name: str
    path: str = ""
    root: str = ""

    @property
    def folder(self) -> str:
        return self.path or self.root


class _Markets(msgspec.Struct):
    marketplaces: list[_Market]


class _Plugin(msgspec.Struct):
    id: str = ""
    plugin_id: str = msgspec.field(default="", name="pluginId")
    enabled: bool = False


class _Plugins(msgspec.Struct):
    installed: list[_Plugin]


class Plugins:
    """`program` is the command of this installation, which the plugins call; `data` the user's folder for our data."""

    def __init__(self, program: Path, version: str, data: Path, environ: Mapping[str, str], disk: Disk) -> None:
        self._program = program
        self._version = version
        self._data = data
        self._environ = environ
        self._disk = disk

    def install(self, target: Target) -> Iterator[str]:
        """Yields a line for each step that is done; done already, it is done again. Raises MailerError, OSError."""
        command = None if target is Target.SKILL else self._found(target)
        if command is not None:
            self._require_version(target, command)
            self._require_our_market(target, command)
        place = self._place(target)
        place.put(files_of(target, self._program, self._version), self._version)
        yield f"wrote     {place.folder}"
        if command is None:
            return
        self._ask(command, "plugin", "marketplace", "add", str(place.folder))
        self._ask(command, "plugin", *_ADD[target], PLUGIN)
        yield f"installed {PLUGIN} {self._version} in {target.value}: it is there in the next session"

    def uninstall(self, target: Target) -> Iterator[str]:
        """The same back again, also where it was there in part. Raises MailerError, OSError."""
        place = self._place(target)
        there = place.installed() is not None
        if target is not Target.SKILL and (command := self._command(target)) is not None:
            self._require_our_market(target, command)
            if self._has(target, command) is not None:
                self._ask(command, "plugin", *_REMOVE[target], PLUGIN)
                yield f"removed   {PLUGIN} from {target.value}"
                there = True
            if self._market(target, command) is not None:
                self._ask(command, "plugin", "marketplace", "remove", MARKET)
        elif target is not Target.SKILL and there:
            yield f"skipped   {target.value}: it is not in PATH; the plugin stands in its settings still"
        left = place.take_away()
        if not there:
            yield f"nothing   of {target.value} was installed"
            return
        yield f"removed   the files in {place.folder}"
        if left:
            yield f"kept      {', '.join(printable(one) for one in left)} there: not from this command"

    def standing(self, target: Target) -> tuple[bool, str]:
        """Whether it is in order, and in words. Raises ConfigFault, OSError."""
        try:
            return self._standing(target)
        except UnavailableFault as fault:
            return False, fault.message

    def _standing(self, target: Target) -> tuple[bool, str]:
        again = f"agent-mailer plugin install {target.value}"
        place = self._place(target)
        installed = place.installed()
        if installed is None:
            return False, f"not installed: {again}"
        if installed.version != self._version:
            return False, f"of version {printable(installed.version)}, not {self._version}: {again}"
        if not place.holds(files_of(target, self._program, self._version)):
            return False, f"{place.folder} is not as it was put there: {again}"
        if target is Target.SKILL:
            return True, f"{self._version} in {place.folder}"
        command = self._command(target)
        if command is None:
            return False, f"{target.value} is not in PATH"
        plugin = self._has(target, command)
        if plugin is None:
            return False, f"{target.value} does not have it: {again}"
        if not plugin.enabled:
            return False, f"switched off in {target.value}"
        return True, f"{PLUGIN} {self._version}, on"

    def _place(self, target: Target) -> Place:
        if target is Target.SKILL:
            return Place(Path.home(), ".agents/skills/agent-mailer", self._disk)
        return Place(self._data.parent, f"{self._data.name}/plugins/{target.value}", self._disk)

    def _command(self, target: Target) -> str | None:
        return shutil.which(target.value, path=self._environ.get("PATH", os.defpath))

    def _found(self, target: Target) -> str:
        command = self._command(target)
        if command is None:
            path = self._environ.get("PATH", os.defpath)
            what = f"{target.value} is not in PATH ({shown_path(path)})"
            raise UnavailableFault("no_program", what, f"install {target.value}")
        return command

    def _require_version(self, target: Target, command: str) -> None:
        said = self._ask(command, "--version")
        match = _VERSION.search(said)
        oldest = ".".join(map(str, OLDEST[target]))
        if match is None:
            why = f"{command} does not tell its version: {printable(said.strip()) or 'nothing'}"
            raise ConfigFault("no_version", why, _UPGRADE[target])
        if tuple(map(int, match.groups())) < OLDEST[target]:
            why = f"{target.value} is {match[0]}; the plugin needs {oldest}, the oldest that it was tried with"
            raise ConfigFault("too_old", why, _UPGRADE[target])

    def _require_our_market(self, target: Target, command: str) -> None:
        """Raises UsageFault where another source has our name: it is somebody's, and not ours to replace."""
        market = self._market(target, command)
        ours = str(self._place(target).folder)
        if market is not None and os.path.realpath(market.folder) != os.path.realpath(ours):
            raise UsageFault(
                "other_market",
                f"{target.value} has a marketplace {MARKET} from {printable(market.folder) or 'elsewhere'}, not {ours}",
                f"{target.value} plugin marketplace remove {MARKET}",
            )

    def _market(self, target: Target, command: str) -> _Market | None:
        said = self._ask(command, "plugin", "marketplace", "list", "--json")
        found = _json(said, list[_Market]) if target is Target.CLAUDE else _json(said, _Markets).marketplaces
        return next((one for one in found if one.name == MARKET), None)

    def _has(self, target: Target, command: str) -> _Plugin | None:
        said = self._ask(command, "plugin", "list", "--json")
        found = _json(said, list[_Plugin]) if target is Target.CLAUDE else _json(said, _Plugins).installed
        return next((one for one in found if PLUGIN in (one.id, one.plugin_id)), None)

    def _ask(self, *argv: str) -> str:
        """What the command says. Raises UnavailableFault where it fails."""
        shown = printable(" ".join((Path(argv[0]).name, *argv[1:])))
        try:
            # In the home: what a project's settings say is not asked for.
            done = run_briefly(argv, env=self._environ, cwd=Path.home(), seconds=SECONDS)
        except OSError as error:
            raise UnavailableFault("not_started", f"{shown}: {error.strerror or error}", shown) from None
        if done.status != 0:
            how = "did not end" if done.status is None else f"ended with {done.status}"
            said = printable(" ".join(done.output.split()), 400)
            raise UnavailableFault("not_done", f"{shown} {how}: {said or 'it says nothing'}", shown)
        return done.output


def _json(text: str, shape: type[T]) -> T:
    """The document behind whatever warnings stand before it. Raises UnavailableFault where there is none."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(("{", "[")):
            with suppress(msgspec.DecodeError):
                return msgspec.json.decode("".join(lines[number:]), type=shape)
    raise UnavailableFault("odd_answer", f"an answer of another shape: {printable(text, 400)}", "update the program")
