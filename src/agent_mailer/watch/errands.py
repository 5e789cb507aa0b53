"""What is asked of the watcher from afar: each request is taken once, done as a command at a terminal would have it
done, or refused, and what came of it is told until somebody has heard it.

Taken is written down before anything is done, what came of it after. A watcher that dies in between does it again:
whatever is asked changes nothing the second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import is_turn_id, prompt_word, running_on
from agent_mailer.remote.access import RemoteVerb, may_be_asked, wrong_with
from agent_mailer.remote.port import (
    LONGEST_LINE,
    MOST_LINES,
    Answered,
    Asked,
    Became,
    Remote,
)
from agent_mailer.state import State
from agent_mailer.state.approvals import Answer as PersonsAnswer
from agent_mailer.state.approvals import By, Verdict
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.records import AfterStop
from agent_mailer.state.requests import Answer, Request, Verb
from agent_mailer.state.stuck import StuckKind, split_key
from agent_mailer.watch.answering import tell_answered
from agent_mailer.watch.guards.holding import carry_out
from agent_mailer.watch.guards.raising import limit_of, until_tomorrow
from agent_mailer.watch.requests import apply, told_of
from agent_mailer.watch.room import Room

AGAIN_SECONDS = 60.0


class Errands:
    """`wake` has the loop attend to what has come, where it applies what commands ask."""

    def __init__(self, room: Room, remote: Remote, wake: Callable[[], None]) -> None:
        self._room = room
        self._remote = remote
        self._book = room.state.remote
        self._wake = wake
        self._found: Sequence[Asked] = ()
        self._waiting: dict[int, tuple[Asked, float]] = {}
        """With the moment (monotonic) at which each counts no more."""
        self._to_tell = asyncio.Event()
        self._to_tell.set()

    async def hear(self) -> None:
        """Until something may have been asked. Raises MailboxUnavailable."""
        self._found = await self._remote.asked()

    def heed(self) -> bool:
        """Whether the loop is needed. Raises OSError."""
        now, book = self._room.clock.monotonic(), self._book
        under_way = {one.number for one in book.untold}
        for asked in self._found:
            if asked.number not in under_way and (book.doing is None or book.doing.number != asked.number):
                self._waiting[asked.number] = (asked, now + asked.seconds)
        if self._waiting:
            self._wake()
        return bool(self._waiting)

    def attend(self) -> bool:
        """Do all that waits, the oldest first; whether there may be open turns now. What the disk refuses waits on, and
        keeps no mail from being worked on.
        """
        try:
            return self._carry_out()
        except OSError as error:
            self._room.log.emit(EventName.REQUEST_REFUSED, request="remote", why=str(error))
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._again)
            return True

    def _again(self) -> None:
        self._wake()
        self._room.wake()

    def _carry_out(self) -> bool:
        opened = False
        if (begun := self._book.doing) is not None:
            opened = self._do(begun, again=True)
            # What the disk did not take to its end before, it waits for no longer.
            self._waiting.pop(begun.number, None)
        for number in sorted(self._waiting):
            asked, ends = self._waiting[number]
            if number <= self._book.seen:
                # Answered while it was on its way once more, or of a broker whose database was put back.
                self._refuse(asked, Became.REFUSED, "this number was asked for before: ask again")
            elif not may_be_asked(asked.verb, access := self._room.policy.remote):
                why = f'remote = "{access.value}" does not let anybody {asked.verb.value} from afar'
                self._refuse(asked, Became.REFUSED, f"{why}: agent-mailer config set remote all")
            elif self._room.clock.monotonic() >= ends:
                self._refuse(asked, Became.EXPIRED, "its time had run out when the watcher came to it")
            elif why := wrong_with(asked.verb, asked.targets) or _idle(self._room.state, asked):
                self._refuse(asked, Became.REFUSED, why)
            else:
                self._book.take(asked)
                opened = self._do(asked, again=False) or opened
            del self._waiting[number]
        return opened

    def _do(self, asked: Asked, *, again: bool) -> bool:
        answer = self._done(asked)
        lines = answer.lines
        if again and not answer.ok:
            # There was something to be done when it was taken.
            lines = ("done before the watcher was started again", *lines)
        became = Became.DONE if answer.ok or again else Became.REFUSED
        self._end(asked, became, lines)
        return asked.verb is RemoteVerb.RETRY

    def _refuse(self, asked: Asked, became: Became, why: str) -> None:
        targets = " ".join(prompt_word(target, "message") for target in asked.targets)
        self._room.log.emit(
            EventName.REQUEST_REFUSED,
            request=asked.verb.value,
            targets=targets or None,
            person=asked.person,
            why=why,
        )
        self._end(asked, became, (why,))

    def _end(self, asked: Asked, became: Became, lines: Sequence[str]) -> None:
        told = tuple(running_on(line, LONGEST_LINE) for line in lines[:MOST_LINES])
        self._book.end(Answered(asked.number, became, told))
        self._to_tell.set()

    async def tell_on(self) -> None:
        """Until it is cancelled: tell what came of what was asked."""
        tries = 0
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            try:
                for answered in self._book.untold:
                    await self._remote.answer(answered)
                    self._book.told(answered)
                tries = 0
            except (MailboxUnavailable, OSError):
                await asyncio.sleep(self._room.trouble_wait(tries))
                tries += 1
                self._to_tell.set()

    def _done(self, asked: Asked) -> Answer:
        """Raises OSError."""
        state, by = self._room.state, asked.person
        reason = f"{by}: {asked.reason}" if asked.reason else by
        match asked.verb:
            case RemoteVerb.PAUSE:
                return apply(state, Request(Verb.PAUSE, reason=reason), person=by)
            case RemoteVerb.RESUME:
                return apply(state, Request(Verb.RESUME), person=by)
            case RemoteVerb.RETRY:
                return apply(state, Request(Verb.STUCK_RETRY, asked.targets), self._room.mailbox, by)
            case RemoteVerb.STOP:
                stop = Request(Verb.TURNS_STOP, asked.targets, reason=reason, then=AfterStop(asked.then))
                return apply(state, stop, person=by)
            case RemoteVerb.DENY | RemoteVerb.APPROVE:
                return _answered(state, asked)
            case RemoteVerb.RAISE:
                return self._raised(asked)
            case RemoteVerb.RELEASE:
                return self._ordered(asked, Order(OrderVerb.RELEASE, asked.targets))

    def _raised(self, asked: Asked) -> Answer:
        results: list[str] = []
        for target in asked.targets:
            limit, _, value = target.partition("=")
            try:
                order = until_tomorrow(self._room.policy, limit_of(limit, value), self._room.clock.now())
            except MailerError as fault:
                return Answer(ok=False, lines=(*results, f"{fault.message}: {fault.fix}"))
            results += self._ordered(asked, order).lines
        return Answer(ok=True, lines=tuple(results))

    def _ordered(self, asked: Asked, order: Order) -> Answer:
        results, left = carry_out(self._room.state, order)
        answer = told_of(results, left)
        self._room.log.emit(
            EventName.REQUEST_APPLIED if answer.ok else EventName.REQUEST_REFUSED,
            request=asked.verb.value,
            targets=" ".join(prompt_word(target, "message") for target in order.targets),
            person=asked.person,
        )
        return answer


def _answered(state: State, asked: Asked) -> Answer:
    """Once, as by any other way: of two answers the first counts."""
    [name] = asked.targets
    book, now = state.approvals, state.folder.clock.now()
    known = book.get(name)
    if known is None:
        return Answer(ok=False, lines=("there is no such question",))
    verdict = Verdict.ALLOW if asked.verb is RemoteVerb.APPROVE else Verdict.DENY
    given = PersonsAnswer(verdict, now, By.REMOTE, reason=asked.reason, who=asked.person)
    counts = book.answer_to(name) or book.answer(known, given)
    if (counts.verdict, counts.by, counts.who) != (verdict, By.REMOTE, asked.person):
        return Answer(ok=False, lines=(counts.outruns,))
    tell_answered(state, known, counts)
    return Answer(ok=True, lines=("allowed, once" if verdict is Verdict.ALLOW else "denied",))


def _idle(state: State, asked: Asked) -> str:
    """Why there is nothing to be done; empty where there is. Raises OSError."""
    targets = asked.targets
    match asked.verb:
        case RemoteVerb.RETRY if targets and not any(_is_stuck(state, target) for target in targets):
            return "nothing of it is stuck"
        case RemoteVerb.STOP:
            records = (state.turns.load(target) for target in targets if is_turn_id(target))
            return "" if any(one is not None and one.settlement is None for one in records) else "no such turn runs"
        case RemoteVerb.RELEASE:
            return "" if state.held.waiting.keys() & set(targets) else "nothing of it is held"
        case RemoteVerb.DENY | RemoteVerb.APPROVE:
            known = state.approvals.get(targets[0])
            if known is None:
                return "there is no such question"
            answer = state.approvals.answer_to(known.id)
            if answer is not None:
                return answer.outruns
            late = known.over or state.approvals.remaining(known) <= 0
            return "it came too late, the agent goes on without it" if late else ""
        case _:
            return ""


def _is_stuck(state: State, target: str) -> bool:
    """A target is a reason and its key."""
    name, _, key = target.partition(" ")
    if name == StuckKind.GIVEN_UP.value:
        return state.dead_letters.find(key) is not None
    if name == StuckKind.NOT_SENT.value:
        return split_key(key) is not None and key in state.unsent.all()
    return any(entry.kind.value == name and entry.key == key for entry in state.stuck.all())
