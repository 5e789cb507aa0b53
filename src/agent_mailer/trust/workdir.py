"""One workdir's trust: what its files say, what of it counts, and how a person's word is remembered."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from agent_mailer.config import Config, Loaded, Source
from agent_mailer.config_values import load, read_file
from agent_mailer.disk import Sync
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.identity import read_identity
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.workdirs import known_workdirs, user_state
from agent_mailer.trust.keeping import Keeper
from agent_mailer.trust.standing import (
    BODIES,
    TEMPLATES,
    Standing,
    bodies_in,
    in_place,
    standing_in,
    templates_in,
)
from agent_mailer.trust.verdict import COMMAND, UNRECORDED, VARIABLE, Basis, Known, Life, Verdict, judge

IN_A_TURN = ("AGENT_MAILER_TURN_ID", "AGENT_MAILER_TURN_DIR")
_NO_WAITING_HELPS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)


def in_a_turn(environ: Mapping[str, str]) -> bool:
    """Whether an agent's turn called us. A hint and no wall: whoever wants to clears these."""
    return any(environ.get(name) for name in IN_A_TURN)


def refuse_in_a_turn(what: str, environ: Mapping[str, str]) -> None:
    """Raises ConfigFault. A person decides what an agent may do."""
    if in_a_turn(environ):
        raise ConfigFault("in_a_turn", f"{what} is not for an agent's turn", "a person says this command")


class Trust:
    """`verdict` is of the last `load`, which reads all anew.

    `anew`: a person sets the folder up, so where nothing is here what was trusted in it before does not count.
    """

    def __init__(
        self, folder: StateFolder, environ: Mapping[str, str], flags: Mapping[str, object], *, anew: bool = False
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._flags = flags
        self._anew = anew and not in_a_turn(environ)
        self.keeper = Keeper(user_state() / "trust", folder.disk)
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        if self._verdict is None:
            with suppress(ConfigFault):
                self.load()
        if self._verdict is None:
            # A value that cannot be one is another than the trusted one; the rest of the file is as it is.
            with suppress(ConfigFault):
                self._counting(read_file(self._folder.config), read_identity(self._folder.workdir))
        return self._verdict or self._judge(standing_in({}, {}, templates_in(self._folder.templates)))

    def load(self) -> Loaded:
        """The configuration, of the files what counts. Raises as `config_values.load`."""
        identity = read_identity(self._folder.workdir)
        return load(self._folder.config, self._environ, self._flags, identity, self._counting)

    def as_it_is(self) -> Loaded:
        """What would count if all that is there were trusted. Raises as `load`."""
        return load(self._folder.config, self._environ, self._flags, read_identity(self._folder.workdir))

    def remembered(self) -> Loaded | None:
        """The configuration that a person trusts, whatever the files say; None where none is remembered.

        Raises ValidationError where it is of another version.
        """
        record = self.keeper.known(self._folder.workdir).record
        if record is None:
            return None
        raw: dict[str, object] = {}
        for name, value in record.values.items():
            raw = in_place(raw, name, value)
        return Loaded(msgspec.convert(raw, Config), dict.fromkeys(raw, Source.TRUSTED))

    def require(self) -> None:
        """Raises ConfigFault where nothing may start before a person has said what is trusted."""
        verdict = self.verdict
        stopping = [name for name in verdict.stopping if not self._is_given(name)]
        if stopping:
            raise ConfigFault(
                "untrusted",
                f"{self._folder.config}: nobody trusts what it says of {', '.join(stopping)}: {verdict.why}",
                self._mend(verdict),
            )

    def remember(self) -> None:
        """At a watcher's start, by who holds the lock: what counts and has no record gets one.

        Raises ConfigFault where it cannot be remembered: the next start could not tell who has written it.
        """
        verdict = self.verdict
        if verdict.basis in UNRECORDED:
            # What stands nowhere needs no memory, and a container may be given none.
            self._write(verdict.counts, verdict.basis.value, needed=not verdict.counts.is_empty)
        if verdict.basis is not Basis.NOBODY and not self._folder.knows_trust.exists():
            self._folder.clear_way(self._folder.knows_trust)
            self._folder.disk.replace(self._folder.knows_trust, f"{verdict.counts.digest}\n".encode(), sync=Sync.FULL)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While files and what is trusted of them are changed together: a watcher looks before or after it."""
        from agent_mailer.state.notes import note_lock  # who only reads does without

        with note_lock(self.keeper.folder):
            yield

    def give(self, counts: Standing, by: str) -> None:
        """A person trusts this and nothing else. Raises ConfigFault where it cannot be remembered."""
        self._write(counts, by, needed=True)
        self._verdict = None

    def reload(self) -> Verdict:
        """Of the files as they are now."""
        self._verdict = None
        return self.verdict

    def begins_anew(self) -> bool:
        """Whether nothing is here that could have been trusted."""
        return not (self._folder.config.exists() or self._folder.has_begun())

    def follow(self, before: Verdict, by: str, names: tuple[str, ...] | None = None) -> None:
        """After a person has written: what counted before, and now also `names`, or all that differs, as it is there.

        Raises ConfigFault where it cannot be remembered.
        """
        there = self.reload().there
        names = there.differs(before.there) if names is None else names
        if names or before.basis in UNRECORDED:
            self.give(before.counts.having(there, names), by)

    def _write(self, counts: Standing, by: str, *, needed: bool) -> None:
        try:
            older = [*known_workdirs(self._folder.disk).all(), *self._older_here()]
            self.keeper.begin(self._folder.workdir, older)
            self.keeper.write(self._folder.workdir, counts, by, self._folder.clock.now())
        except OSError as error:
            if not needed:
                return
            kind = ConfigFault if error.errno in (None, *_NO_WAITING_HELPS) else MailerError
            why = error.strerror or str(error)
            text = f"what is trusted cannot be remembered in {self.keeper.folder}: {why}"
            hash_ = counts.digest if counts == self.verdict.there else "…"
            raise kind("trust_unusable", text, f"make it yours and writable, or set {VARIABLE}={hash_}") from error

    def _older_here(self) -> list[Path]:
        return [self._folder.workdir] if self.verdict.basis is Basis.UPGRADE else []

    def _counting(
        self, raw: Mapping[str, object], identity: Mapping[str, str]
    ) -> tuple[dict[str, object], Mapping[str, str], frozenset[str]]:
        bodies = bodies_in(raw, self._folder.workdir)
        there = standing_in(raw, identity, templates_in(self._folder.templates), bodies)
        verdict = self._verdict = self._judge(there)
        counted, replaced = dict(raw), set[str]()
        for name in verdict.changed:
            if name.startswith((TEMPLATES, BODIES)):
                continue
            value = verdict.counts.values.get(name)
            counted = in_place(counted, name, value)
            identity = {key: said for key, said in identity.items() if key != name}
            replaced.add(name.partition(".")[0])
        return counted, identity, frozenset(replaced)

    def _judge(self, there: Standing) -> Verdict:
        known = Known() if self._anew and self.begins_anew() else self.keeper.known(self._folder.workdir)
        begun = self._folder.has_begun()
        older = begun and not self._folder.knows_trust.exists() and self.keeper.was_there(self._folder.workdir)
        return judge(there, known, Life(begun, older, self._owner()), self._environ.get(VARIABLE, "").strip().lower())

    def _owner(self) -> int | None:
        """Whose the configuration is; root may read everybody's."""
        for path in (self._folder.path, self._folder.config):
            with suppress(OSError):
                if (uid := path.stat().st_uid) not in (os.geteuid(), 0):
                    return uid
        return None

    def _is_given(self, name: str) -> bool:
        """A flag or the environment says it."""
        return self._flags.get(name) is not None or bool(self._environ.get(f"AGENT_MAILER_{name.upper()}"))

    def _mend(self, verdict: Verdict) -> str:
        there = "" if verdict.fix else f" (in a container: {VARIABLE}=HASH, or keep {self.keeper.folder.parent})"
        return (verdict.fix or self.command) + there

    @property
    def command(self) -> str:
        """By which a person trusts what is there."""
        return f"{COMMAND} -C {shlex.quote(str(self._folder.workdir))}"
