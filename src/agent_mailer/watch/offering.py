"""Mail that a live session may have first: offered to those that are there, held for a while, given to who takes it.

The watcher is the only one who claims. A session asks; what it gets is a turn like others, whose process stands in for
it. What is held is held for a bounded time, and no longer than a session lives that was told of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Protocol

import msgspec

from agent_mailer.events import EventName
from agent_mailer.names import meant, printable
from agent_mailer.process.handle import is_alive, wait_gone
from agent_mailer.state import State
from agent_mailer.state.presence import Offer, Presence
from agent_mailer.state.records import Pause, Phase, Sitter, TurnProgress, TurnRecord
from agent_mailer.state.requests import Answer, Request, Verb
from agent_mailer.turn_tools import RELEASED
from agent_mailer.turn_tools.folder import OUTBOX
from agent_mailer.watch.rules import Candidate, WatchPolicy


class Choice(msgspec.Struct, frozen=True):
    """`headless` need wait for no session. `offers` stand, `due` is when the next of them ends."""

    headless: tuple[Candidate, ...]
    offers: tuple[Offer, ...]
    due: float | None = None


def choose(
    ready: Sequence[Candidate],
    offers: Mapping[str, Offer],
    sitters: Sequence[Sitter],
    lives: Callable[[Sitter], bool],
    now: float,
    wait: float,
) -> Choice:
    """What of `ready` is offered to `sitters`, once, and held until its time is up or they are gone. Pure."""
    headless: list[Candidate] = []
    stand: list[Offer] = []
    due: float | None = None
    for candidate in ready:
        known = offers.get(candidate.envelope.id)
        if known is None and sitters and is_new(candidate):
            known = Offer(candidate.envelope.id, now + wait, tuple(sitters), now)
        if known is None:
            headless.append(candidate)
            continue
        stand.append(known)
        # A clock that was set back must not make it wait for longer.
        if now < known.until <= now + wait and any(map(lives, known.sitters)):
            due = known.until if due is None else min(due, known.until)
        else:
            headless.append(candidate)
    return Choice(tuple(headless), tuple(stand), due)


def is_new(candidate: Candidate) -> bool:
    """Nothing has been tried yet: a rerun is not offered again."""
    return candidate.retry is None or not candidate.retry.history


def was_live(candidate: Candidate) -> bool:
    """A session had it already, and did not bring it to an end."""
    return candidate.retry is not None and any(attempt.live for attempt in candidate.retry.history)


def wanted(
    request: Request, candidates: Sequence[Candidate], ready: Sequence[Candidate], pause: Pause | None
) -> Candidate | str:
    """What a session that asks is given, or why nothing. Pure."""
    typed = request.targets[0] if request.targets else ""
    known = {one.envelope.id: one for one in candidates}
    found = meant(typed, known)
    if len(found) != 1 or request.by is None:
        many = "more than one mail that waits is called so" if found else "no such mail waits here"
        return f"{printable(typed, 100)}: {many}"
    candidate = known[found[0]]
    shown = printable(candidate.envelope.id)
    if was_live(candidate):
        return f"{shown}: a live session had it before; the agent's own turn works on it now"
    if pause is not None:
        return f"{shown}: the agent is paused ({pause.reason.value}); nothing is started"
    if candidate.envelope.id not in map(attrgetter("envelope.id"), ready):
        return f"{shown}: an older mail of its thread comes first, or it is not due yet"
    return msgspec.structs.replace(candidate, taker=request.by)


class AtWork(Protocol):
    """A turn that this watcher has in hand: `live` is the session that has taken it."""

    live: Sitter | None
    message_ids: Collection[str]


class Offers:
    """What stands between a watcher and the sessions of its workdir. `work`: by turn id; `wake` has the loop look."""

    def __init__(
        self,
        state: State,
        presence: Presence,
        policy: Callable[[], WatchPolicy],
        work: Mapping[str, AtWork],
        wake: Callable[[], None],
    ) -> None:
        self._state = state
        self._presence = presence
        self._policy = policy
        self._work = work
        self._wake = wake
        self._open = {offer.message: offer for offer in presence.offers()}
        self._later: asyncio.TimerHandle | None = None
        self._gone: asyncio.Task[None] | None = None

    def sift(
        self,
        candidates: Sequence[Candidate],
        ready: list[Candidate],
        pause: Pause | None,
        now: float,
        *,
        holds: bool = True,
    ) -> tuple[list[Candidate], list[Candidate]]:
        """What of `ready` may start without a session, and what sessions have asked for. Raises OSError.

        Not `holds`: whoever runs through once waits for nobody.
        """
        taken = self._taken(candidates, ready, pause)
        ids = {candidate.envelope.id for candidate in taken}
        ready = [candidate for candidate in ready if candidate.envelope.id not in ids]
        new = any(one.envelope.id not in self._open and is_new(one) for one in ready)
        sitters = self._presence.there() if new and pause is None and holds else ()
        choice = choose(ready, self._open, sitters, _lives, now, self._policy().live_wait if holds else 0.0)
        waiting = {candidate.envelope.id for candidate in candidates} - ids
        offers = {one: offer for one, offer in self._open.items() if one in waiting}
        offers |= {offer.message: offer for offer in choice.offers}
        if offers != self._open:
            try:
                self._tell(offers, now)
            except OSError:
                # Who cannot be told is not waited for.
                return ready, taken
            self._open = offers
        self._look_again(choice, now)
        return list(choice.headless), taken

    def started(self, record: TurnRecord) -> None:
        """Tell the session. One that has not waited so long gives it back. Raises nothing."""
        told = False
        with suppress(OSError):
            told = self._answer(record, Answer(ok=True, lines=(record.turn_id,)))
            if told and record.live is not None:
                doing = f"in the live session {record.live.who}"
                self._state.turns.note_progress(record.turn_id, TurnProgress(self._state.folder.clock.now(), doing))
            if not told:
                folder = self._state.turns.path(record.turn_id)
                self._state.folder.disk.overwrite(folder / OUTBOX / RELEASED, b"nobody waits for it")

    def not_begun(self, record: TurnRecord, why: str) -> None:
        """Nothing of it ran: the session has to ask anew, if it still wants to. Raises nothing."""
        with suppress(OSError):
            self._answer(record, Answer(ok=False, lines=(f"{printable(record.envelope.id)}: {why}",)))

    def _answer(self, record: TurnRecord, answer: Answer) -> bool:
        """Whether there was anybody to answer: who has asked for just this. Raises OSError."""
        requests = self._state.requests
        asked = [name for name, request in requests.waiting() if request is not None and _is_for(request, record)]
        for name in asked:
            requests.answer(name, answer)
        return bool(asked)

    def _taken(
        self, candidates: Sequence[Candidate], ready: Sequence[Candidate], pause: Pause | None
    ) -> list[Candidate]:
        requests, found = self._state.requests, list[Candidate]()
        for name, request in requests.waiting():
            if request is None or request.verb is not Verb.TAKE:
                continue
            at_work = self._at_work(request)
            if isinstance(at_work, Answer):
                requests.answer(name, at_work)
            elif at_work is None:
                left = [one for one in ready if one.envelope.id not in map(attrgetter("envelope.id"), found)]
                given = wanted(request, candidates, left, pause)
                if isinstance(given, Candidate) and given.taker is not None and not _lives(given.taker):
                    given = "the session that has asked is gone"
                if isinstance(given, Candidate):
                    found.append(given)
                else:
                    requests.answer(name, Answer(ok=False, lines=(given,)))
        return found

    def _at_work(self, request: Request) -> Answer | bool | None:
        """What is said of what is in work; True where it is being started for who asks, None where it is not."""
        typed = request.targets[0] if request.targets else ""
        for turn_id, work in self._work.items():
            if not meant(typed, work.message_ids):
                continue
            if work.live is None:
                return Answer(ok=False, lines=(f"{printable(typed)}: the agent's own turn {turn_id} works on it",))
            if work.live != request.by:
                return Answer(ok=False, lines=(f"{printable(typed)}: {work.live.who} has taken it",))
            record = self._state.turns.load(turn_id)
            # Before its record is durable it is being claimed.
            phase = record.phase if record is not None else Phase.CLAIMED
            if phase is Phase.SETTLING:
                return Answer(ok=False, lines=(f"{printable(typed)}: it is over",))
            return Answer(ok=True, lines=(turn_id,)) if phase is Phase.RUNNING else True
        return None

    def _tell(self, offers: Mapping[str, Offer], now: float) -> None:
        open_now = [offer for offer in offers.values() if now < offer.until]
        if open_now or self._presence.folder.is_dir():
            self._presence.offer(list(offers.values()))
        for one, offer in offers.items():
            if one not in self._open:
                names = " ".join(sitter.who for sitter in offer.sitters)
                self._state.log.emit(EventName.MESSAGE_OFFERED, message_id=one, to=names)

    def _look_again(self, choice: Choice, now: float) -> None:
        """When the next offer ends, or all those have gone to whom it was made."""
        if self._later is not None:
            self._later.cancel()
        if self._gone is not None:
            self._gone.cancel()
        self._later = self._gone = None
        if choice.due is None:
            return
        seconds = max(0.0, choice.due - now)
        self._later = asyncio.get_running_loop().call_later(seconds + 0.01, self._wake)
        held = [sitter for offer in choice.offers if now < offer.until for sitter in offer.sitters]
        self._gone = asyncio.create_task(self._until_gone(held, seconds))

    async def _until_gone(self, sitters: Sequence[Sitter], seconds: float) -> None:
        with suppress(OSError):
            if await wait_gone(list(dict.fromkeys(sitter.process for sitter in sitters)), seconds):
                self._wake()


def _is_for(request: Request, record: TurnRecord) -> bool:
    wants = request.verb is Verb.TAKE and request.by == record.live
    return wants and any(meant(one, [record.envelope.id]) for one in request.targets[:1])


def _lives(sitter: Sitter) -> bool:
    return is_alive(sitter.process)
