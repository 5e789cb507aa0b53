"""What stands around the turns of one watcher: made for each turn, and proved before the first and after an upgrade."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.confine.bounds import TEMPORARY, Places, bounds_of, written_trees
from agent_mailer.confine.port import Bounds, Kind, Promise, Sandbox, TurnPlaces, Unconfined
from agent_mailer.confine.proof import Proof, prove
from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.git_guard import put_in_place, take_away
from agent_mailer.meanwhile import meanwhile
from agent_mailer.runtimes.port import Launch, RuntimeTraits

_EMPTY_JSON = b"{}\n"


class Confinement:
    """The sandbox of one workdir, as its configuration has it."""

    def __init__(self, sandbox: Sandbox, find: Callable[[], Places], traits: RuntimeTraits, disk: Disk) -> None:
        """`find` looks anew for each turn: other agents come and go."""
        self._sandbox = sandbox
        self._find = find
        self._traits = traits
        self._disk = disk
        self._proved: tuple[object, ...] | None = None
        self._in_place = asyncio.Lock()
        self._held: list[int] = []
        """Descriptors of what stands in people's git folders, for this watcher's turns."""

    @property
    def kind(self) -> Kind:
        return self._sandbox.kind

    @property
    def leaves_own_sandbox(self) -> bool:
        """Whether the agent program's own sandbox can start within.

        Landlock forbids every mount, and root without its privileges may not be root of another user namespace.
        """
        by_namespaces = self.kind in (Kind.BWRAP, Kind.SRT)
        return self.kind is not Kind.LANDLOCK and not (by_namespaces and os.geteuid() == 0)

    async def prove(self, launch: Launch) -> Proof:
        """As for a turn that starts `launch`."""
        before = self._now(launch)
        try:
            places = self._find()
            self._make_missing(places)
            proof = await prove(self._sandbox, places, self._traits, _with_caches(launch, places))
        except MailerError as fault:
            proof = Proof(self.kind, wrong=(fault.message,), fix=fault.fix)
        self._proved = before if proof.holds else None
        return proof

    async def around(self, launch: Launch, turn: TurnPlaces) -> Launch:
        """The same process within. Raises Unconfined or OSError: then nothing may be started."""
        if self._proved != self._now(launch):
            proof = await self.prove(launch)
            if not proof.holds:
                raise Unconfined("sandbox_not_proved", f"the sandbox does not hold: {proof.text}", proof.fix)
        # As long as it takes to look at what agents have made there: other turns go on meanwhile.
        async with self._in_place:
            return await meanwhile(lambda: self._within(launch, turn))

    def _within(self, launch: Launch, turn: TurnPlaces) -> Launch:
        try:
            places = self._find()
            self._make_missing(places)
            self._disk.make_directory(turn.tmp)
            within = _with_caches(launch, places)
            bounds = bounds_of(places, turn, Path(launch.argv[0]), self._traits.home, within.env)
            if Promise.FIRM in self._sandbox.promises(bounds):
                earlier, self._held = self._held, put_in_place(self._disk, written_trees(places))
                for fd in earlier:
                    os.close(fd)
            return self._with_tmp(self._sandbox.around(within, bounds), bounds)
        except ConfigFault as fault:
            raise Unconfined(fault.code, fault.message, fault.fix) from fault

    async def let_go(self, nobody: Callable[[], bool]) -> None:
        """Once `nobody` runs a turn: what stood in people's git folders for its time is taken away.

        Asked where no turn can begin meanwhile: one that does waits, and puts it there again.
        """
        async with self._in_place:
            if nobody():
                await meanwhile(self._take_away)

    def _take_away(self) -> None:
        held, self._held = self._held, []
        with suppress(ConfigFault):
            take_away(self._disk, written_trees(self._find()), held)

    def _with_tmp(self, launch: Launch, bounds: Bounds) -> Launch:
        home = self._traits.home
        if home is None or not home.temporary:
            return launch
        tmp = TEMPORARY[0] if self.kind is Kind.BWRAP else bounds.tmp
        return msgspec.structs.replace(launch, env={**launch.env, home.temporary: str(tmp)})

    def _make_missing(self, places: Places) -> None:
        """Folders that must be there, and an empty file for what a turn must not be the first to write."""
        self._disk.make_directory(places.cache)
        home = self._traits.home
        if home is None:
            return
        for folder in home.folders:
            self._disk.make_directory(folder)
        for name in (*home.settings, *home.fresh):
            path = home.path / name
            if os.path.lexists(path):
                continue
            if path.suffix:
                self._disk.create(path, _EMPTY_JSON if path.suffix == ".json" else b"", sync=Sync.NONE)
            else:
                self._disk.make_directory(path)

    def _now(self, launch: Launch) -> tuple[object, ...]:
        """What a proof is good for: these very programs on this kernel."""
        files = [*self._sandbox.programs(), Path(launch.argv[0]).resolve()]
        return (os.uname().release, os.uname().version, *(_stamp(path) for path in files))


def _stamp(path: Path) -> tuple[object, ...]:
    with suppress(OSError):
        found = path.stat()
        return (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return (path,)


def _with_caches(launch: Launch, places: Places) -> Launch:
    """Package managers keep their caches in a folder of the agent's own: yours would take its poison to you."""
    cache = places.cache
    folders = {
        "XDG_CACHE_HOME": cache,
        "npm_config_cache": cache / "npm",
        "CARGO_HOME": cache / "cargo",
        "GOMODCACHE": cache / "go-mod",
    }
    chosen = {name: str(folder) for name, folder in folders.items() if name not in places.own_variables}
    return msgspec.structs.replace(launch, env={**launch.env, **chosen})
