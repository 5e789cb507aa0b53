"""What counts, and why: pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent_mailer.trust.standing import Standing, stops_without

COMMAND = "agent-mailer config trust"
VARIABLE = "AGENT_MAILER_TRUST"


class Basis(StrEnum):
    """Why something counts."""

    RECORD = "record"
    GIVEN = "environment"
    FIRST = "first start"
    UPGRADE = "upgrade"
    MOVED = "moved"
    NOBODY = "nobody"


UNRECORDED = frozenset((Basis.FIRST, Basis.UPGRADE, Basis.MOVED))
"""What counts although no record says so; it is recorded when a watcher starts."""


class Known(msgspec.Struct, frozen=True):
    """What the user's state folder says of a workdir. `moved`: trusted in the same folder under another path.

    `replaced`: the record is of another folder that had this path. `fault`: why a record that is there does not count,
    and what mends that.
    """

    record: Standing | None = None
    replaced: bool = False
    moved: Standing | None = None
    fault: str = ""
    fix: str = ""


class Life(msgspec.Struct, frozen=True):
    """What the workdir itself tells, and an agent may have made it tell: so it only ever narrows.

    `begun`: turns have run here. `older`: only ever of a version that knew no trust. `owner`: whose the files
    are, where they are neither ours nor root's.
    """

    begun: bool = False
    older: bool = False
    owner: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """`there` is what stands in the workdir, `counts` what of it, or in its place, is acted on."""

    basis: Basis
    there: Standing
    counts: Standing
    why: str = ""
    fix: str = ""

    @property
    def changed(self) -> tuple[str, ...]:
        """What does not count as it is there."""
        return self.there.differs(self.counts)

    @property
    def gone(self) -> tuple[str, ...]:
        """The keys that are trusted to be there, and are not."""
        return tuple(name for name in self.changed if name in self.counts.values and name not in self.there.values)

    @property
    def stopping(self) -> tuple[str, ...]:
        """What nothing may start without: nobody has trusted it, and it has no narrow value."""
        return tuple(name for name in self.changed if self.basis is Basis.NOBODY and stops_without(name))


def judge(there: Standing, known: Known, life: Life, given: str) -> Verdict:
    """`given` is the hash that the environment says is trusted; empty = it says nothing."""
    if given and given == there.digest:
        return Verdict(Basis.GIVEN, there, there)
    other = f"{VARIABLE} is another hash than that of what is here ({COMMAND} --print)" if given else ""
    if known.record is not None and (life.begun or not known.replaced):
        return Verdict(Basis.RECORD, there, known.record, other)
    nothing = Standing()
    if known.fault:
        return Verdict(Basis.NOBODY, there, nothing, known.fault, known.fix)
    if known.moved is not None and known.moved.digest == there.digest:
        return Verdict(Basis.MOVED, there, there)
    if given:
        return Verdict(Basis.NOBODY, there, nothing, other)
    if not life.begun and life.owner is not None:
        return Verdict(Basis.NOBODY, there, nothing, f"it belongs to another user (uid {life.owner})")
    if not life.begun:
        return Verdict(Basis.FIRST, there, there)
    if life.older:
        return Verdict(Basis.UPGRADE, there, there)
    why = "it was trusted under another path, and has changed since" if known.moved is not None else ""
    return Verdict(Basis.NOBODY, there, nothing, why or "turns have run here, and nothing says that a person trusts it")
