"""`pause.json`: why nothing is started now; and the pause that all watchers on one provider account share.

One file an account in the user's state folder; who may probe it holds the lock beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, of_the_moment
from agent_mailer.events import EventLog, EventName
from agent_mailer.names import path_name
from agent_mailer.outcomes import Outcome
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.records import Pause, PauseReason, Settlement

LONGEST_PAUSE = 8 * 86400.0
"""A weekly limit is the longest a provider names; a moment further ahead is a clock that jumped."""


class SignedOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """The agent program said itself that it has no login. `at`: seconds since the epoch."""

    at: float
    text: str
    fix: str = ""


class LoginFile:
    """`login.json`: there as long as the watcher has last learned that the program has no login.

    A lost one is learned again by the next start, or by the next turn.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "login.json"
        self._refuted = False

    def read(self) -> SignedOut | None:
        found: SignedOut | None = self._folder.read(self._path, SignedOut | None, None)  # type: ignore[arg-type]
        return found

    def learn(self, found: SignedOut) -> None:
        """Where it cannot be written, the first turn tells the same; one that went well meanwhile knows better."""
        if self._refuted:
            return
        with suppress(OSError):
            self._folder.disk.replace(self._path, msgspec.json.encode(found) + b"\n", sync=Sync.NONE)

    def forget(self) -> None:
        self._refuted = True
        with suppress(OSError):
            if self._path.exists():
                self._folder.disk.remove(self._path)


OF_THE_ACCOUNT = frozenset({PauseReason.LIMITED, PauseReason.SIGNED_OUT})


class Pauses:
    """The pause of this workdir, kept in step with its account's, where there is one."""

    def __init__(self, folder: StateFolder, log: EventLog, account: AccountPause | None) -> None:
        self._folder = folder
        self._log = log
        self.account = account
        self.login = LoginFile(folder)
        self._path = folder.path / "pause.json"

    def read(self) -> Pause | None:
        pause = self._folder.read(self._path, Pause | None, None)  # type: ignore[arg-type]
        if pause is None or pause.until is None:
            return pause
        return msgspec.structs.replace(pause, until=self._folder.clamp(pause.until, LONGEST_PAUSE))

    def write(self, pause: Pause) -> None:
        data = msgspec.json.format(msgspec.json.encode(pause), indent=2) + b"\n"
        # Lost in a power failure, the next turn meets the same limit and pauses again; not so a person's word.
        by_hand = pause.reason is PauseReason.BY_HAND
        self._folder.disk.replace(self._path, data, sync=Sync.FULL if by_hand else Sync.CONTENT)

    def clear(self, *, durable: bool = False) -> None:
        """`durable`: a crash does not bring it back. Otherwise the next turn that goes well ends it once more."""
        self._folder.disk.remove(self._path)
        if durable:
            self._folder.disk.sync_directory(self._folder.path)

    def current(self) -> Pause | None:
        """Why nothing may start. What another on the account wrote or lifted is taken over; a hand's word stays."""
        own = self.read()
        if self.account is None or (own is not None and own.reason is PauseReason.BY_HAND):
            return own
        shared = self.account.read()
        if shared is None:
            if own is None or own.reason not in OF_THE_ACCOUNT:
                return own
            self.lift(own)
            return None
        met_here = own is not None and (shared.reason, shared.since) == (own.reason, own.since) and not own.elsewhere
        shared = msgspec.structs.replace(shared, elsewhere=not met_here)
        if own is None or (shared.reason, shared.since, shared.probes) != (own.reason, own.since, own.probes):
            self._begin(shared, share=False)
        return shared

    def settled(self, settlement: Settlement, began: float) -> None:
        """What a settled turn that `began` then means for the pause."""
        if not settlement.outcome.pauses and settlement.outcome is not Outcome.INTERRUPTED:
            self.login.forget()
        known, pause = self.read(), settlement.pause
        if known is not None and known.reason is PauseReason.BY_HAND:
            return
        if pause is not None:
            # One that the turn did not meet it only left standing: who has ended it meanwhile has.
            if settlement.outcome.pauses and pause.reason is not PauseReason.BY_HAND:
                self._begin(pause, share=pause.reason in OF_THE_ACCOUNT)
            return
        # Decided before a pause that came meanwhile from another thread: that one stands.
        if known is not None and known.since <= min(began, settlement.decided_at):
            self.lift(known)

    def begin(self, pause: Pause) -> None:
        """One that is of this workdir alone."""
        self._begin(pause, share=False)

    def lift(self, known: Pause, *, by_hand: bool = False) -> None:
        """End a pause, for all watchers on the account where it is the account's; `by_hand`: durably."""
        if self.account is not None and known.reason in OF_THE_ACCOUNT:
            self.account.clear()
        self.clear(durable=by_hand)
        self.login.forget()
        self._log.emit(EventName.RESUMED, reason=known.reason.value)

    def may_probe(self, pause: Pause | None) -> bool:
        """Whether a start now is ours to make; while an account is paused only one watcher tries it."""
        return self.account is None or pause is None or pause.reason not in OF_THE_ACCOUNT or self.account.may_probe()

    def end_probe(self) -> None:
        if self.account is not None:
            self.account.end_probe()

    def _begin(self, pause: Pause, *, share: bool) -> None:
        self.write(pause)
        if share and self.account is not None:
            self.account.write(pause)
        self._log.emit(
            EventName.PAUSED,
            reason=pause.reason.value,
            in_seconds=None if pause.until is None else round(pause.until - self._folder.clock.now(), 1),
            detail=pause.detail,
        )


class AccountPause:
    """The pause of one account. `damaged` is told of a file that could not be read; it counts as no pause."""

    def __init__(
        self,
        folder: Path,
        account: str,
        disk: Disk,
        clamp: Callable[[float, float], float],
        damaged: Callable[[Path, str], None],
    ) -> None:
        from filelock import FileLock  # what only reads the state does without

        self.folder = folder
        self._path = folder / f"{path_name(account)}.json"
        self._probe = FileLock(folder / f"{path_name(account)}.probe", timeout=0, mode=0o600, fallback_to_soft=False)
        self._disk = disk
        self._clamp = clamp
        self._damaged = damaged
        disk.make_directory(folder)

    def read(self) -> Pause | None:
        try:
            pause = msgspec.json.decode(self._path.read_bytes(), type=Pause)
        except FileNotFoundError:
            return None
        except (OSError, *GARBLED) as error:
            if isinstance(error, OSError) and of_the_moment(error):
                raise
            self._damaged(self._path, str(error))
            return None
        if pause.until is None:
            return pause
        return msgspec.structs.replace(pause, until=self._clamp(pause.until, LONGEST_PAUSE))

    def write(self, pause: Pause) -> None:
        """Every watcher on the account sees it at once. A loss costs one more look at the limit."""
        self._disk.replace(self._path, msgspec.json.encode(pause) + b"\n", sync=Sync.NONE)

    def clear(self) -> None:
        self._disk.remove(self._path)

    def may_probe(self) -> bool:
        """Become the one that probes, or be it already; False while another watcher of this user is."""
        from filelock import Timeout

        if self._probe.is_locked:
            return True
        try:
            self._probe.acquire()
        except Timeout:
            return False
        return True

    def end_probe(self) -> None:
        if self._probe.is_locked:
            self._probe.release()
