"""`questions.json`: what blocked agents have asked and nobody has answered yet, a question a thread; for people.

A question goes when its thread has moved on: another message of it was settled, or its session was dropped.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import TurnRecord

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
            if settlement.outcome is not Outcome.BLOCKED:
                self.drop(envelope.thread)
                return
            text = printable(settlement.question or settlement.detail, LONGEST)
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
