"""What is due leaves once, whoever is killed where.

The instant is written down before anything leaves, and what leaves has its id from schedule and instant: whoever
comes after a crash looks for it before it is sent, and then writes down that the instant is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from agent_mailer.clock import Clock, iso
from agent_mailer.events import EventLog, EventName
from agent_mailer.mailbox.port import Action, Delivered, Delivery, Draft, Mailbox, Outgoing, Refused, Unknown
from agent_mailer.names import DEDUPE_KEY, printable
from agent_mailer.schedules.bodies import Withheld, body_of
from agent_mailer.schedules.due import Known, Plan, Schedule, begun, plan_of
from agent_mailer.state import State
from agent_mailer.state.notices import Notice, NoticeKind
from agent_mailer.state.schedules import Schedules

PATIENCE = 86400.0
"""What a mailbox that answers does not take for so long is refused."""

AGAIN_FIRST, AGAIN_LONGEST = 2.0, 120.0
MOST_SKIPPED = 50
REFUSED = "refused"
LOOK_AGAIN = 3600.0
"""A clock may be put forward meanwhile."""


class Sending:
    """`mailbox` is a person's end where a folder has one, else the agent's own; `address` is the agent."""

    def __init__(
        self,
        mailbox: Mailbox,
        address: str,
        book: Schedules,
        log: EventLog,
        clock: Clock,
        tell: Callable[[Notice], None],
    ) -> None:
        self._mailbox = mailbox
        self._address = address
        self._book = book
        self._log = log
        self._clock = clock
        self._tell = tell
        self._tries: dict[str, int] = {}
        self._again: dict[str, float] = {}
        """By schedule: monotonic, when what was not taken is tried again."""

    async def send_due(self, schedules: Sequence[Schedule]) -> float | None:
        """Seconds until there may be more; None where no instant comes any more.

        Raises MailboxUnavailable and OSError; what was begun is seen through at the next call.
        """
        self._book.keep({one.name for one in schedules})
        waits = [await self._one(one) for one in schedules]
        return min((wait for wait in waits if wait is not None), default=None)

    async def _one(self, schedule: Schedule) -> float | None:
        now, name = self._clock.now(), schedule.name
        if (fresh := begun(schedule, self._book.all.get(name), now)) is not None:
            self._book.put(name, fresh)
        known = self._book.all[name]
        plan = plan_of(schedule, known, now)
        if plan.due is None:
            return _until(plan, now)
        if (wait := self._again.get(name, 0.0) - self._clock.monotonic()) > 0:
            return wait
        # What has just been begun nobody can have sent.
        again = known.due != 0.0
        if not again:
            known = msgspec.structs.replace(known, due=plan.due, at=now)
            self._book.put(name, known)
        item = self._item(schedule, known)
        outcome = item if isinstance(item, Refused | Withheld) else await self._deliver(item, again=again)
        if isinstance(outcome, Unknown) and now - known.at <= PATIENCE:
            tries = self._tries[name] = self._tries.get(name, 0) + 1
            wait = min(AGAIN_LONGEST, AGAIN_FIRST * 2.0 ** min(tries, 10))
            self._again[name] = self._clock.monotonic() + wait
            return wait
        self._end(schedule, known, outcome if isinstance(outcome, Withheld) else _named(outcome))
        return _until(plan, now)

    def _item(self, schedule: Schedule, known: Known) -> Outgoing | Refused | Withheld:
        body = body_of(schedule.body, schedule.digest)
        if isinstance(body, Withheld):
            return body
        draft = Draft(
            f"{DEDUPE_KEY}schedule:{self._address}:{schedule.name}:{known.due:.3f}",
            Action.SEND,
            known.at,
            to=(self._address,),
            subject=schedule.subject,
            body=body,
            # Without a name two who write to each other have one thread in a folder.
            thread=schedule.thread or f"{schedule.name}-{datetime.fromtimestamp(known.due, UTC):%Y-%m-%dT%H%M%SZ}",
        )
        composed = self._mailbox.compose(draft, None, "")
        return composed if isinstance(composed, Refused) else composed[0]

    async def _deliver(self, item: Outgoing, *, again: bool) -> Delivery:
        if again and await self._mailbox.look(item):
            return Delivered(item.id)
        outcome = await self._mailbox.deliver(item)
        if isinstance(outcome, Delivered):
            return Delivered(outcome.id or item.id)
        return outcome

    def _end(self, schedule: Schedule, known: Known, outcome: Delivered | Withheld) -> None:
        """The instant is over. Who is to hear that nothing left is to be told before that is written down."""
        why = outcome.why if isinstance(outcome, Withheld) else ""
        if isinstance(outcome, Withheld):
            self._tell(
                Notice(
                    id=f"{NoticeKind.SCHEDULE}-{schedule.name}-{known.due:.3f}",
                    kind=NoticeKind.SCHEDULE,
                    at=known.at,
                    reason=outcome.code,
                    why=printable(why, 600),
                    schedule=schedule.name,
                )
            )
        sent = () if isinstance(outcome, Withheld) else (outcome.id,)
        last = max(known.last, known.due)
        ended = msgspec.structs.replace(
            known,
            last=last,
            due=0.0,
            at=0.0,
            skipped=tuple(one for one in known.skipped if one > last),
            sent=(*known.sent, *sent),
            sent_at=self._clock.now() if sent else known.sent_at,
            # What a text lacks shows as long as it lacks it: mended, nothing keeps the next from leaving.
            why=printable(why, 600) if isinstance(outcome, Withheld) and outcome.code == REFUSED else "",
        )
        self._book.put(schedule.name, ended)
        self._tries.pop(schedule.name, None)
        self._again.pop(schedule.name, None)
        if sent:
            self._log.emit(
                EventName.SCHEDULE_SENT, schedule=schedule.name, due=iso(known.due), message_id=sent[0] or None
            )
        else:
            self._log.emit(EventName.SCHEDULE_REFUSED, schedule=schedule.name, due=iso(known.due), why=why)


def _named(outcome: Delivery) -> Delivered | Withheld:
    return outcome if isinstance(outcome, Delivered) else Withheld(REFUSED, outcome.why)


def _until(plan: Plan, now: float) -> float | None:
    return None if plan.next_due is None else min(LOOK_AGAIN, max(0.0, plan.next_due - now))


# What a person orders.


def run_now(state: State, name: str, line: str, moment: float) -> tuple[bool, str]:
    """Have it sent as if it were due at `moment`; what was missed goes with it. Carried out twice it changes nothing.

    The caller holds the workdir's lock.
    """
    shown, known = printable(name), state.schedules.all.get(name) or Known(line, 0.0)
    if known.due not in (0.0, moment):
        return False, f"{shown}: it is being sent"
    if known.due == 0.0 and known.last != moment:
        state.schedules.put(name, msgspec.structs.replace(known, due=moment, at=moment))
    return True, f"{shown}: will be sent at once, or when a watcher runs and nothing pauses it"


def skip_once(state: State, name: str, line: str, moment: float) -> tuple[bool, str]:
    """Leave out the instant `moment` besides those that are. The caller holds the workdir's lock."""
    known = state.schedules.all.get(name) or Known(line, state.folder.clock.now())
    skipped = tuple(dict.fromkeys((*(one for one in known.skipped if one > known.last), moment)))
    if len(skipped) > MOST_SKIPPED:
        return False, f"{printable(name)}: {MOST_SKIPPED} are left out already"
    state.schedules.put(name, msgspec.structs.replace(known, skipped=skipped))
    return True, f"{printable(name)}: will not be sent at {iso(moment)}"
