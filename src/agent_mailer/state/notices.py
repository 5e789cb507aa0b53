"""`guards.json`, `questions.json`, `trouble.json`: what people are told and asked, and what keeps the watcher."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import StrEnum
from errno import EACCES
from pathlib import Path

import msgspec

from agent_mailer.beneath import is_there
from agent_mailer.disk import Sync
from agent_mailer.errors import mend, quoted, words_of
from agent_mailer.names import running_on
from agent_mailer.outcomes import Outcome
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import TurnRecord

REMEMBER_TURNS = 1024
"""A settlement may be applied again as long as its turn is kept; so many turns do not need a person in that time."""


class NoticeKind(StrEnum):
    """What a person is told of, once for each change."""

    BLOCKED = "blocked"
    APPROVAL = "approval"
    DEAD_LETTER = "dead_letter"
    STUCK = "stuck"
    HELD = "held"
    ALARM = "alarm"
    PAUSED = "paused"
    RESUMED = "resumed"
    TROUBLE = "trouble"
    TROUBLE_OVER = "trouble_over"
    UNTRUSTED = "untrusted"
    TRUST_UPGRADE = "trust_upgrade"
    INSTRUCTIONS = "instructions"
    RESERVED = "reserved"
    SCHEDULE = "schedule"
    GONE = "gone"
    TEST = "test"


_ONCE_BY_ID = (
    *(NoticeKind.APPROVAL, NoticeKind.STUCK, NoticeKind.HELD, NoticeKind.INSTRUCTIONS, NoticeKind.SCHEDULE),
    *(NoticeKind.UNTRUSTED, NoticeKind.TRUST_UPGRADE, NoticeKind.RESERVED),
)


class Channel(StrEnum):
    COMMAND = "command"
    MAIL = "mail"
    APPRISE = "apprise"
    SENDER = "sender"


class Apprised(msgspec.Struct, frozen=True, omit_defaults=True):
    """`urls`: those that have it, by their places in the configuration; `tries`: how often some have not taken it."""

    urls: tuple[int, ...] = ()
    tries: int = 0


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to be told. It holds names, moments and words of ours: nothing that a sender or an agent wrote.

    `reason` is an outcome, or what the pause or the trouble is; `at` and `until` are moments; `why` and `fix` belong to
    trouble, `stuck` is what to name to take it up, `schedule` what was to be sent, `question` names what a person is
    asked: itself, and the code that answers it, stand nowhere here. `left` are the channels by which it has not been
    told yet, `tries` how often the command has failed, `apprise` how far that way is.
    """

    id: str
    kind: NoticeKind
    at: float
    reason: str
    turn_id: str = ""
    message_id: str = ""
    thread: str = ""
    sender: str = ""
    attempts: int = 0
    until: float | None = None
    why: str = ""
    fix: str = ""
    stuck: str = ""
    schedule: str = ""
    question: str = ""
    left: tuple[Channel, ...] = ()
    tries: int = 0
    apprise: Apprised = Apprised()

    def without(self, channel: Channel) -> Notice:
        """Nothing is left to be told by that one."""
        return msgspec.structs.replace(self, left=tuple(one for one in self.left if one is not channel))

    @property
    def once(self) -> str:
        """By which it is known that it was told already; empty where that is known otherwise."""
        return self.id if self.kind in _ONCE_BY_ID else self.turn_id


class Untold(msgspec.Struct, frozen=True):
    """A way by which the last that was to be told was given up, and why."""

    by: Channel
    why: str


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """`turns`: those that were told of, what is stuck and what is held, the newest last; `pause`, `trouble`: what was
    told to last, empty = nothing; `held`: when senders of held mail were told of, `asked`: when questions were told one
    by one, the newest last; `silent`: which silence was told to last; `untold`: the operator's ways that do not work.
    """

    turns: tuple[str, ...] = ()
    pause: str = ""
    trouble: str = ""
    waiting: tuple[Notice, ...] = ()
    serial: int = 0
    held: tuple[float, ...] = ()
    silent: tuple[str, ...] = ()
    asked: tuple[float, ...] = ()
    untold: tuple[Untold, ...] = ()


class _Guards(msgspec.Struct, frozen=True, omit_defaults=True):
    notices: Told = Told()


class NoticeBook:
    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "guards.json"
        self._told: Told | None = None

    @property
    def told(self) -> Told:
        """Raises OSError where the file cannot be read now."""
        if self._told is None:
            self._told = self._folder.read(self._path, _Guards, _Guards()).notices
        return self._told

    def add(
        self,
        notice: Notice,
        *,
        pause: str | None = None,
        trouble: str | None = None,
        held: tuple[float, ...] | None = None,
        silent: tuple[str, ...] | None = None,
        asked: tuple[float, ...] | None = None,
        even_if_refused: bool = False,
    ) -> None:
        """Remember that it is to be told; of a turn once. The others: as `Told` has them from here on.

        Raises OSError, and nothing is changed; with `even_if_refused` this watcher remembers what the disk refuses.
        """
        told = self.told
        if notice.once and notice.once in told.turns:
            return
        self._write(
            msgspec.structs.replace(
                told,
                turns=(*told.turns, notice.once)[-REMEMBER_TURNS:] if notice.once else told.turns,
                pause=told.pause if pause is None else pause,
                trouble=told.trouble if trouble is None else trouble,
                held=told.held if held is None else held,
                silent=told.silent if silent is None else silent,
                asked=told.asked if asked is None else asked,
                waiting=(*told.waiting, notice) if notice.left else told.waiting,
                serial=told.serial + 1,
            ),
            even_if_refused=even_if_refused,
        )

    def still_silent(self, silent: tuple[str, ...]) -> None:
        """Of what was told to last only this lasts. A disk that refuses changes nothing."""
        self._write(msgspec.structs.replace(self.told, silent=silent), even_if_refused=True)

    def put(self, notice: Notice) -> None:
        """The new state of one that waits; it is told where nothing is left. A disk that refuses changes nothing."""
        self._write(self._with(notice), even_if_refused=True)

    def done(self, notice: Notice, channel: Channel, why: str = "") -> None:
        """It was told by this channel; with `why` it was given up there. A disk that refuses changes nothing."""
        lost = (Untold(channel, why),) if why and channel is not Channel.SENDER else ()
        told = self._with(notice.without(channel))
        self._write(msgspec.structs.replace(told, untold=(*self._without(channel), *lost)), even_if_refused=True)

    def works(self, channel: Channel) -> None:
        """The operator was told by it, by hand. Raises OSError."""
        if len(left := self._without(channel)) < len(self.told.untold):
            self._write(msgspec.structs.replace(self.told, untold=left), even_if_refused=False)

    def _with(self, notice: Notice) -> Told:
        waiting = tuple(notice if known.id == notice.id else known for known in self.told.waiting)
        return msgspec.structs.replace(self.told, waiting=tuple(one for one in waiting if one.left))

    def _without(self, channel: Channel) -> tuple[Untold, ...]:
        return tuple(one for one in self.told.untold if one.by is not channel)

    def _write(self, told: Told, *, even_if_refused: bool) -> None:
        """Durable when it returns."""
        data = msgspec.json.format(msgspec.json.encode(_Guards(told)), indent=2) + b"\n"
        try:
            self._folder.clear_way(self._path)
            self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        except OSError:
            if not even_if_refused:
                raise
        self._told = told


MOST = 1000
LONGEST = 500
"""Characters of a question: enough to know it again. It is whole in the turn, and in the mail."""


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """`asked` is who got it, `at` the moment."""

    thread: str
    message_id: str
    turn_id: str
    asked: str
    at: float
    text: str = ""


class Questions:
    """Nothing relies on it: where it cannot be written, it is told less."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "questions.json"
        self._open: dict[str, Question] | None = None

    def all(self) -> list[Question]:
        """Oldest first."""
        return sorted(self._load().values(), key=lambda question: question.at)

    def settled(self, record: TurnRecord) -> None:
        """What a finished message means for its thread. An old settlement applied again takes no newer question."""
        settlement, envelope = record.settlement, record.envelope
        if settlement is None or not settlement.finished:
            return
        with suppress(OSError):
            known = self._load().get(envelope.thread)
            if known is not None and known.at > settlement.decided_at:
                return
            if settlement.outcome is not Outcome.BLOCKED and not settlement.question:
                self.drop(envelope.thread)
                return
            text = running_on(settlement.question or settlement.detail, LONGEST)
            asked = Question(envelope.thread, envelope.id, record.turn_id, envelope.sender, settlement.decided_at, text)
            if asked != known:
                self._write({**self._load(), envelope.thread: asked})

    def drop(self, thread: str) -> None:
        """The thread has moved on."""
        if thread in self._load():
            self._write({key: question for key, question in self._load().items() if key != thread})

    def _write(self, questions: dict[str, Question]) -> None:
        newest = sorted(questions.values(), key=lambda question: question.at)[-MOST:]
        self._open = {question.thread: question for question in newest}
        with suppress(OSError):
            data = msgspec.json.format(msgspec.json.encode(newest), indent=2) + b"\n"
            self._folder.disk.replace(self._path, data, sync=Sync.CONTENT)

    def _load(self) -> dict[str, Question]:
        if self._open is None:
            read: list[Question] = self._folder.read(self._path, list[Question], [])
            self._open = {question.thread: question for question in read}
        return self._open


class TroubleWith(StrEnum):
    MAILBOX = "mailbox"
    CREDENTIALS = "credentials"
    DISK = "disk"


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """`since`: seconds since the epoch. `fix`: what mends it, where a person has to."""

    what: TroubleWith
    why: str
    since: float
    fix: str = ""


def seen_from_outside(folder: Path, now: float) -> Trouble | None:
    """What keeps a watcher from writing, and with it from telling so; None where it seems able to."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return Trouble(TroubleWith.DISK, words_of(error), now, mend(error, folder))
    if found.f_flag & os.ST_RDONLY:
        return Trouble(TroubleWith.DISK, f"{folder} is on a read-only file system", now, f"findmnt -T {quoted(folder)}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Trouble(TroubleWith.DISK, f"{folder} cannot be written", now, mend(OSError(EACCES, ""), folder))
    if found.f_bavail == 0 and found.f_blocks:
        return Trouble(TroubleWith.DISK, f"the disk of {folder} is full", now, f"df -h {quoted(folder)}")
    return None


class TroubleFile:
    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "trouble.json"

    def read(self) -> Trouble | None:
        trouble: Trouble | None = self._folder.read(self._path, Trouble | None, None)  # type: ignore[arg-type]
        return trouble

    def write(self, trouble: Trouble) -> bool:
        """False where even this cannot be written; the log and the terminal tell it then."""
        try:
            self._folder.disk.replace(self._path, msgspec.json.encode(trouble) + b"\n", sync=Sync.NONE)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        with suppress(OSError):
            if is_there(self._path):
                self._folder.disk.remove(self._path)
