"""A workdir's configuration read again while its watcher runs: what changed, and what of it may count already."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.config import Config, Loaded, leaves
from agent_mailer.config_faults import mistyped, told
from agent_mailer.config_tables import Takes
from agent_mailer.prompts import PromptKind
from agent_mailer.trust.standing import found_at, in_place
from agent_mailer.trust.verdict import UNRECORDED, Verdict
from agent_mailer.watch.settings import REST, Taken, Trusted

Signature = tuple[tuple[int, int, int, int] | None, ...]


class ConfigFiles:
    """Those of `place`, whose watcher was made from what they said. `started` is what counted then."""

    def __init__(self, place: Workplace, started: Verdict) -> None:
        self._place = place
        self._started = started
        folder, keeper = place.folder, place.trust.keeper
        self._files = (
            *(folder.config, keeper.path(place.workdir)),
            *(folder.templates / f"{kind}.md" for kind in PromptKind),
        )
        # One that is missing would be looked for again and again.
        self.folders = (folder.path, *(one for one in (keeper.folder,) if one.is_dir()))
        # Who made the place may have read them before they changed.
        self._seen: Signature = ()
        self._last = plain_of(place.config)

    def changed(self) -> bool:
        return _signature(self._files) != self._seen

    def being_written(self) -> bool:
        now = _signature(self._files)
        for before, found in zip(self._seen, now, strict=False):
            if before is not None and found is not None and before[0] == found[0] and before != found:
                # A file that came by rename is whole; what stands in the future was not written just now.
                return 0 <= time.time() - found[2] / 1e9 < REST
        return False

    def take(self) -> Taken:
        """Raises ConfigFault, and nothing has changed."""
        with self._place.trust.changing():
            self._seen = _signature(self._files)
            loaded = self._place.trust.load()
        running, found = plain_of(self._place.config), plain_of(loaded.config)
        policy, runtime = self._place.retake(_with_what_stays(loaded, running, found))
        changed = {leaf.name: leaf.takes for leaf in leaves() if _differ(self._last, found, leaf.name)}
        self._last = found
        return Taken(
            policy=policy,
            runtime=runtime,
            prompts=self._place.prompts(),
            trusted=self.trusted(),
            now=tuple(name for name, takes in changed.items() if takes is Takes.LIVE),
            next_turn=tuple(name for name, takes in changed.items() if takes is Takes.TURN),
            restart=tuple(name for name, takes in changed.items() if takes is Takes.RESTART),
        )

    def trusted(self) -> Trusted:
        verdict = self._place.trust.verdict
        names, counts = " ".join(verdict.changed), verdict.counts.digest
        wrong = mistyped(self._place.loaded.unknown, verdict.gone) if verdict.gone else []
        return Trusted(
            basis=verdict.basis.value,
            recorded=verdict is self._started and verdict.basis in UNRECORDED,
            others=verdict.changed,
            digest=_hash(f"{verdict.there.digest} {counts}"),
            subject=_hash(f"{names} {counts}"),
            mistyped=told(self._place.folder.config, wrong) if wrong else "",
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def plain_of(config: Config) -> dict[str, object]:
    """Its values as they stand in JSON, tables as tables."""
    found: dict[str, object] = msgspec.to_builtins(config)
    return found


def _with_what_stays(loaded: Loaded, running: dict[str, object], found: dict[str, object]) -> Loaded:
    """What was read, but what is taken at a start only as it is now."""
    values = found
    for leaf in leaves():
        if leaf.takes is Takes.RESTART:
            values = in_place(values, leaf.name, found_at(running, leaf.name))
    return msgspec.structs.replace(loaded, config=msgspec.convert(values, Config))


def _differ(one: dict[str, object], other: dict[str, object], name: str) -> bool:
    return found_at(one, name) != found_at(other, name)


def _signature(paths: Iterable[Path]) -> Signature:
    found: list[tuple[int, int, int, int] | None] = []
    for path in paths:
        entry = None
        with suppress(OSError):
            seen = path.stat()
            entry = (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        found.append(entry)
    return tuple(found)
