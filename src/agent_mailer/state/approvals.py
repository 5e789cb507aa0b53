"""What is asked of a person, and what he has answered: one file a question, in his own state folder.

They lie there and not in the workdir, which an agent may write. `ID.json` is written by the holder of the workdir's
lock alone; `ID.answer` by whoever answers, made once and never replaced: of two answers the first counts, and time
running out is an answer like others.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from enum import StrEnum
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.approvals.calls import Call
from agent_mailer.approvals.turn import Told, Word
from agent_mailer.beneath import is_there, names_in
from agent_mailer.disk import TEMPORARY_PREFIX, Sync, of_the_moment, read_regular
from agent_mailer.names import path_name, sha256
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.workdirs import user_state

KEPT = 500
"""So many questions that are over are kept, to be looked at."""
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans("OIL", "011")
_CODE_LETTERS = 8
"""40 bits: nobody guesses a code that is looked up in files."""
CODE = re.compile(f"[{_ALPHABET}]{{{_CODE_LETTERS}}}")
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
MOST_PASSED = 10_000
_LARGEST = 16 * 1024 * 1024
_QUESTION, _ANSWER = ".json", ".answer"
UNREADABLE = "the file of its answer cannot be read"
_COMMAND_LASTS = 3600.0
"""Seconds after which no command that answers lives any more: what it had begun to write may go."""

_AHEAD = 86400.0
"""A question that was asked so much later than now came of a clock that was wrong: nobody waits for its answer."""
_TICK = 2.0
"""Seconds within which a folder's time may not tell that something came into it."""

T = TypeVar("T")
Due = Callable[[Iterable[str]], float]


class Verdict(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    EXPIRED = "expired"


class By(StrEnum):
    """How an answer came."""

    COMMAND = "command"
    MAIL = "mail"
    LINK = "link"
    REMOTE = "remote"
    CLOCK = "clock"
    STANDING = "standing"


class ApprovalState(StrEnum):
    """Where a question stands."""

    ASKED = "asked"
    ANSWERED = "answered"
    GRANTED = "granted"
    USED = "used"
    SETTLED = "settled"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`changed`: the JSON to run instead; `always`: not only this once; `who` and `message_id`: of one by mail."""

    verdict: Verdict
    at: float
    by: By
    reason: str = ""
    always: bool = False
    changed: str = ""
    who: str = ""
    message_id: str = ""

    @property
    def outruns(self) -> str:
        """Why another one, after it, counts for nothing."""
        late = self.verdict is Verdict.EXPIRED and not self.reason
        return "it came too late: nobody had answered" if late else f"it was answered before: {self.verdict.value}"


class Approval(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question. `code` is what a person answers with, `token` what opens a link to it; they stand nowhere else.
    `granted`: the turn that was told of the answer and has not ended yet, as far as is known; `used`: that used it up.
    """

    id: str
    code: str
    call: Call
    digest: str
    turn_id: str
    message_id: str
    thread: str
    sender: str
    folder: str
    asked_at: float
    expires_at: float
    granted: str = ""
    used: str = ""
    over: bool = False
    token: str = ""


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that a person has allowed for good: `digest` of this one, and of no other."""

    id: str
    call: Call
    digest: str
    since: float


def id_of(turn_id: str, call: Call) -> str:
    """The same however often the same settlement is applied."""
    text = f"{turn_id}\0{call.digest}\0{call.call_id}"
    return f"q-{sha256(text.encode()).hexdigest()[:12]}"


def read_code(typed: str) -> str:
    """A code as it was typed: without blanks and dashes, whatever its case, O for 0."""
    return "".join(typed.split()).replace("-", "").upper().translate(_READ_AS)


def shown_code(code: str) -> str:
    return f"{code[:4]}-{code[4:]}"


class _Names(msgspec.Struct, frozen=True):
    """Ids by what there is of them in the folder."""

    questions: frozenset[str] = frozenset()
    answered: frozenset[str] = frozenset()


class Approvals:
    """One workdir's. Nothing is read before somebody asks."""

    def __init__(self, folder: StateFolder) -> None:
        self._state, self._disk, self._clock = folder, folder.disk, folder.clock
        self._found = _Names()
        self._seen: tuple[int, float] | None = None
        self._until: dict[str, tuple[float, float]] = {}
        self.passed: set[str] = set()
        """Mail that was looked at and is no answer."""

    @cached_property
    def folder(self) -> Path:
        return user_state() / "approvals" / path_name(os.path.realpath(self._state.workdir))

    @property
    def _always(self) -> Path:
        """Beside the questions, of which there may be many: what stands is read at each turn."""
        return self.folder / "always"

    # The watcher's side: the caller holds the workdir's lock.

    def ask(self, approvals: Iterable[Approval]) -> None:
        """Durable when it returns; what is known stays as it is, its code too. Raises OSError."""
        import secrets  # loads OpenSSL, and whoever only looks asks for no code

        for one in approvals:
            if self._read(self.folder / f"{one.id}{_QUESTION}", Approval) is None:
                self._disk.make_directory(self.folder, sync=Sync.FULL)
                code = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LETTERS))
                self._put(msgspec.structs.replace(one, code=code, token=secrets.token_urlsafe(32)))

    def grant(self, approval_id: str, turn_id: str) -> Told | None:
        """The turn is to be told of this answer; durable when it returns, before the turn begins. Raises OSError.

        None where nobody knows the question any more. One that was used up, or told to another turn whose end nobody
        knows, is told as that: it is not to be done again.
        """
        known = self.get(approval_id)
        if known is None:
            return None
        too_late = Answer(Verdict.EXPIRED, self._clock.now(), By.CLOCK)
        answer = self.answer_to(approval_id) or self.answer(known, too_late)
        call = known.call
        told = Told(known.id, call.tool, call.input, known.digest, Word(answer.verdict.value), call.call_id)
        if answer.verdict is not Verdict.ALLOW:
            return msgspec.structs.replace(told, reason=answer.reason)
        if known.used or known.over or (known.granted and known.granted != turn_id):
            return msgspec.structs.replace(told, word=Word.UNKNOWN)
        if known.granted != turn_id:
            self._put(msgspec.structs.replace(known, granted=turn_id))
        return msgspec.structs.replace(told, changed=answer.changed)

    def ended(self, approval_ids: Iterable[str], turn_id: str, used: Collection[str], *, over: bool) -> None:
        """What became of them in a turn that has ended: `used` it has used up, the rest can be granted again, unless
        their message is `over`. Durable when it returns; done again it changes nothing. Raises OSError.
        """
        for one in approval_ids:
            known = self.get(one)
            if known is None:
                continue
            spent = known.used or (turn_id if one in used else "")
            granted = "" if known.granted == turn_id else known.granted
            changed = msgspec.structs.replace(known, used=spent, granted=granted, over=known.over or over)
            if changed != known:
                self._put(changed)

    def dues(self, now: float) -> Due:
        """By its questions the moment from which a message can go on: 0 where each is answered, or nobody knows it any
        more. All by one look at the folder, at the first call: however many wait, each costs next to nothing.
        """
        look = cache(self._look)

        def due(approval_ids: Iterable[str]) -> float:
            names = look()
            waiting = (one for one in approval_ids if one in names.questions and one not in names.answered)
            return max((moment for one in waiting if (moment := self._expires(one)) > now), default=0.0)

        return due

    def close(self, approval_ids: Iterable[str]) -> None:
        """Their message is done with, whatever became of it: nobody is asked any more. Raises OSError."""
        for one in approval_ids:
            known = self.get(one)
            if known is not None and not known.over:
                self._put(msgspec.structs.replace(known, over=True))

    def prune(self, needed: Collection[str]) -> None:
        """Of what no message needs any more the newest stay, and nothing of a command that was killed. Raises OSError.

        `needed`: the questions of all messages that are under way.
        """
        for one in self._all(self._look().questions.difference(needed))[:-KEPT]:
            for suffix in (_ANSWER, _QUESTION):
                self._disk.remove(self.folder / f"{one.id}{suffix}")
        long_ago = time.time() - _COMMAND_LASTS
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < long_ago:
                    self._disk.remove(path)

    def pass_over(self, message_id: str) -> None:
        """It need not be looked at again."""
        if len(self.passed) >= MOST_PASSED:
            self.passed.clear()
        self.passed.add(message_id)

    # Everybody's.

    def answered(self) -> frozenset[str]:
        """Ids of the questions that have an answer. Raises OSError."""
        return self._look().answered

    def get(self, approval_id: str) -> Approval | None:
        """Raises OSError where it cannot be read just now."""
        return self._read(self.folder / f"{path_name(approval_id)}{_QUESTION}", Approval)

    def answer_to(self, approval_id: str) -> Answer | None:
        """One that cannot be read is none that allows anything, and none that can be given again."""
        path = self.folder / f"{path_name(approval_id)}{_ANSWER}"
        found = self._read(path, Answer)
        if found is None and is_there(path):
            return Answer(Verdict.EXPIRED, 0.0, By.CLOCK, UNREADABLE)
        return found

    def all(self) -> list[Approval]:
        """Oldest first."""
        return self._all(self._look().questions)

    def open(self) -> list[Approval]:
        """What waits for a person, oldest first."""
        names, now = self._look(), self._clock.now()
        return [one for one in self._all(names.questions - names.answered) if not one.over and one.expires_at > now]

    def by_code(self, typed: str) -> Approval | None:
        from secrets import compare_digest

        return next((one for one in self.all() if compare_digest(one.code.encode(), read_code(typed).encode())), None)

    def remaining(self, one: Approval) -> float:
        """Seconds for which it can still be answered."""
        return one.expires_at - self._clock.now()

    def by_token(self, token: str) -> Approval | None:
        """A question without one is found by none."""
        import secrets

        return next((one for one in self.all() if one.token and secrets.compare_digest(one.token, token)), None)

    def state_of(self, one: Approval) -> ApprovalState:
        if one.over:
            return ApprovalState.SETTLED
        if one.used:
            return ApprovalState.USED
        if one.granted:
            return ApprovalState.GRANTED
        return ApprovalState.ANSWERED if one.id in self.answered() else ApprovalState.ASKED

    def answer(self, one: Approval, answer: Answer) -> Answer:
        """The answer that counts: this one, durable when it returns, or one that was there before. Raises OSError."""
        folder = self.folder
        draft = folder / f"{TEMPORARY_PREFIX}{one.id}.{os.urandom(6).hex()}"
        self._disk.create(draft, msgspec.json.encode(answer), sync=Sync.CONTENT)
        try:
            self._disk.move(draft, folder / f"{one.id}{_ANSWER}", sync=Sync.FULL)
        except FileExistsError:
            self._disk.remove(draft)
            if (known := self.answer_to(one.id)) is not None:
                return known
            raise FileNotFoundError(errno.ENOENT, "its answer has been removed", one.id) from None
        if answer.always and not answer.changed:
            self.allow_for_good(one, answer.at)
        return answer

    def allow_for_good(self, one: Approval, now: float) -> None:
        """From now on this very call needs no asking. Durable when it returns. Raises OSError."""
        self._disk.make_directory(self._always, sync=Sync.FULL)
        data = msgspec.json.encode(Standing(one.id, one.call, one.digest, now))
        self._disk.replace(self._always / f"{one.id}{_QUESTION}", data, sync=Sync.FULL)

    def standing(self) -> tuple[Standing, ...]:
        """What is allowed for good, oldest first."""
        names: list[str] = []
        with suppress(FileNotFoundError, NotADirectoryError):
            names = [name for name in names_in(self._always) if name.startswith("q-")]
        found = (self._read(self._always / name, Standing) for name in names)
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.since))

    def revoke(self, approval_id: str) -> bool:
        """Whether it stood. Durable when it returns."""
        path = self._always / f"{path_name(approval_id)}{_QUESTION}"
        stood = path.exists()
        self._disk.remove(path)
        if stood:
            self._disk.sync_directory(self._always)
        return stood

    def _expires(self, approval_id: str) -> float:
        """0 where the question cannot be read, or its moments came of a clock that was far ahead."""
        if approval_id not in self._until:
            known = self.get(approval_id)
            self._until[approval_id] = (known.asked_at, known.expires_at) if known is not None else (0.0, 0.0)
        asked, until = self._until[approval_id]
        return until if asked <= self._clock.now() + _AHEAD else 0.0

    def _put(self, one: Approval) -> None:
        path = self.folder / f"{one.id}{_QUESTION}"
        self._state.clear_way(path)
        self._disk.replace(path, msgspec.json.encode(one), sync=Sync.FULL)
        self._until[one.id] = one.asked_at, one.expires_at

    def _look(self) -> _Names:
        """The folder is gone through again only where something may have come into it. Raises OSError."""
        try:
            found = self.folder.stat()
        except (FileNotFoundError, NotADirectoryError):
            return _Names()
        now = time.time()
        if self._seen is None or self._seen[0] != found.st_mtime_ns or self._seen[1] < _TICK:
            ids: dict[str, set[str]] = {_QUESTION: set(), _ANSWER: set()}
            for name in names_in(self.folder):
                one, dot, suffix = name.partition(".")
                if one.startswith("q-") and dot + suffix in ids:
                    ids[dot + suffix].add(one)
            self._found = _Names(*map(frozenset, ids.values()))
            self._seen = found.st_mtime_ns, now - found.st_mtime
        return self._found

    def _all(self, approval_ids: Iterable[str]) -> list[Approval]:
        found = (self.get(one) for one in approval_ids)
        return sorted((one for one in found if one is not None), key=lambda one: (one.asked_at, one.id))

    def _read(self, path: Path, shape: type[T]) -> T | None:
        try:
            found = msgspec.json.decode(read_regular(path, _LARGEST), type=shape)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, *GARBLED) as error:
            if isinstance(error, OSError) and of_the_moment(error):
                raise
            self._state.damaged(path, str(error))
            return None
        if getattr(found, "id", path.stem) != path.stem:
            self._state.damaged(path, "the copy of another")
            return None
        return found
