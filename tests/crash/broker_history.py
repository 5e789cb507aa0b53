"""What clients of a broker saw, and what cannot be: a message lost, doubled, out of order, in two hands at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple


class Sent(NamedTuple):
    """One order that was answered: the `number`th of that sender, known by `key`. `id`: the message that it became.

    Times are seconds of one clock, before the first try and after the answer.
    """

    sender: str
    number: int
    key: str
    id: str
    begun: float
    ended: float


class Claim(NamedTuple):
    """A watcher asked for a message, and was told that it has it."""

    watcher: str
    id: str
    begun: float
    ended: float


class Settled(NamedTuple):
    """A watcher told the end of a message, and was told that this is kept."""

    watcher: str
    id: str
    begun: float
    ended: float


class History:
    """What several threads write down."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.sent: list[Sent] = []
        self.claims: list[Claim] = []
        self.settled: list[Settled] = []
        self.odd: list[str] = []
        """Answers that no client may see, whatever breaks."""

    def note(self, *what: Sent | Claim | Settled | str) -> None:
        with self._lock:
            for one in what:
                match one:
                    case Sent():
                        self.sent.append(one)
                    case Claim():
                        self.claims.append(one)
                    case Settled():
                        self.settled.append(one)
                    case str():
                        self.odd.append(one)


def faults(history: History, inbox: Sequence[str]) -> list[str]:
    """What cannot have been, a sentence each. `inbox`: the ids of all that is there in the end, in its order."""
    return [
        *(f"a client saw {odd}" for odd in history.odd),
        *_of_delivery(history.sent, inbox),
        *_of_order(history.sent, inbox),
        *_of_hands(history.claims, history.settled),
        *_unsettled(history.settled, inbox),
    ]


def _of_delivery(sent: Sequence[Sent], inbox: Sequence[str]) -> Iterator[str]:
    there = Counter(inbox)
    yield from (f"{one} is there {times} times" for one, times in there.items() if times > 1)
    yield from (f"{one.key} was accepted as {one.id}, and is lost" for one in sent if one.id not in there)
    of_keys = {one.id for one in sent}
    yield from (f"{one} is there, and nobody has sent it" for one in there if one not in of_keys)
    for counted, what in ((Counter(one.key for one in sent), "order"), (Counter(one.id for one in sent), "message")):
        yield from (f"{what} {name} was accepted {times} times" for name, times in counted.items() if times > 1)


def _of_order(sent: Sequence[Sent], inbox: Sequence[str]) -> Iterator[str]:
    """What was begun once another was accepted comes after it, whoever sent the two."""
    place = {one: number for number, one in enumerate(inbox)}
    known = sorted((one for one in sent if one.id in place), key=lambda one: one.begun)
    accepted = sorted(known, key=lambda one: one.ended)
    last, latest, at = -1, "", 0
    for one in known:
        while accepted[at].ended < one.begun:
            if place[accepted[at].id] > last:
                last, latest = place[accepted[at].id], accepted[at].key
            at += 1
        if place[one.id] < last:
            yield f"{one.key} was sent after {latest} had been accepted, and lies before it"


def _of_hands(claims: Sequence[Claim], settled: Sequence[Settled]) -> Iterator[str]:
    ends = {one.id: one for one in settled}
    for one, told in Counter((one.id, one.watcher) for one in settled).items():
        if told > 1:
            yield f"{one[0]} was settled {told} times"
    first: dict[str, Claim] = {}
    for claim in sorted(claims, key=lambda claim: claim.ended):
        holder = first.setdefault(claim.id, claim)
        end = ends.get(claim.id)
        if claim.watcher != holder.watcher:
            yield f"{claim.id} was claimed by {holder.watcher} and by {claim.watcher}"
        elif end is not None and end.ended < claim.begun:
            yield f"{claim.id} was settled, and claimed again"
    for end in settled:
        holder_of = first.get(end.id)
        if holder_of is None or holder_of.watcher != end.watcher:
            yield f"{end.id} was settled by {end.watcher}, who had not claimed it"


def _unsettled(settled: Iterable[Settled], inbox: Sequence[str]) -> Iterator[str]:
    ended = {one.id for one in settled}
    yield from (f"{one} was never settled" for one in inbox if one not in ended)
