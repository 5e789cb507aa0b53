"""What a drill found: from what was sent, killed, run and answered to the sentence that a person reads. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from agent_mailer.amounts import counted


class Sent(msgspec.Struct, frozen=True):
    """A message that the mailbox took: its thread, id, and the subject that no other has."""

    thread: str
    id: str
    subject: str


class Evidence(msgspec.Struct):
    """What an outsider saw.

    `runs`: messages in the order in which their agent began; `answers`: subjects of the answers that arrived;
    `killed_in`: how often something of a message's turn was killed; `kills`: victims by kind; `left`: what still ran.
    """

    sent: list[Sent] = []
    runs: list[str] = []
    answers: list[str] = []
    killed_in: Counter[str] = msgspec.field(default_factory=Counter)
    kills: Counter[str] = msgspec.field(default_factory=Counter)
    left: list[str] = []


class Verdict(msgspec.Struct, frozen=True):
    """Sentences, one for each thing that must not be; all empty = it held."""

    kills: int
    messages: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    order: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def held(self) -> bool:
        return not (self.lost or self.twice or self.order or self.left)

    @property
    def sentence(self) -> str:
        return (
            f"{counted(self.kills, 'kill')}, {counted(self.messages, 'message')}: "
            f"{len(self.lost)} lost, {len(self.twice)} twice, "
            f"{len(self.order)} out of order, {len(self.left)} left running"
        )


def judge(seen: Evidence) -> Verdict:
    """A message runs once, once more at most for each kill in its turns, and is answered once; threads in order."""
    runs, answers = Counter(seen.runs), Counter(seen.answers)
    lost = [f"{one.subject}: no answer" for one in seen.sent if not answers[reply_to(one.subject)]]
    twice = [f"{one.subject}: {count} answers" for one in seen.sent if (count := answers[reply_to(one.subject)]) > 1]
    for one in seen.sent:
        most = 1 + seen.killed_in[one.id]
        if runs[one.id] > most:
            twice.append(f"{one.subject}: {runs[one.id]} runs where {most - 1} kills explain {most}")
    return Verdict(
        kills=sum(seen.kills.values()),
        messages=len(seen.sent),
        lost=tuple(lost),
        twice=tuple(twice),
        order=tuple(_out_of_order(seen.sent, seen.runs)),
        left=tuple(seen.left),
    )


def reply_to(subject: str) -> str:
    return f"Re: {subject}"


def _out_of_order(sent: Sequence[Sent], runs: Sequence[str]) -> list[str]:
    first: Mapping[str, int] = {message: place for place, message in reversed(list(enumerate(runs)))}
    found = []
    for thread in dict.fromkeys(one.thread for one in sent):
        ran = [one for one in sent if one.thread == thread and one.id in first]
        for earlier, later in pairwise(ran):
            if first[later.id] < first[earlier.id]:
                found.append(f"{later.subject} ran before {earlier.subject}")
    return found
