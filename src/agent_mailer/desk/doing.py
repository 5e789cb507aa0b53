"""What a page of this machine asks for, done by the functions that the commands call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_mailer.desk.answering import answer, wake
from agent_mailer.desk.asking import ask, order, watched
from agent_mailer.errors import MailerError
from agent_mailer.names import running_on
from agent_mailer.remote.access import RemoteVerb, wrong_with
from agent_mailer.remote.port import LONGEST_REASON
from agent_mailer.state.records import AfterStop
from agent_mailer.state.requests import Answer, Request, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_mailer.assemble import Workplace


def do(place: Workplace, verb: RemoteVerb, targets: Sequence[str], reason: str = "", then: str = "retry") -> Answer:
    """`targets`: as `RemoteVerb` says. Raises MailerError where nothing could be asked."""
    if why := wrong_with(verb, targets):
        return Answer(ok=False, lines=(why,))
    named, reason = tuple(targets), running_on(reason, LONGEST_REASON)
    match verb:
        case RemoteVerb.PAUSE:
            return ask(place, Request(Verb.PAUSE, reason=reason))
        case RemoteVerb.RESUME:
            return ask(place, Request(Verb.RESUME))
        case RemoteVerb.RETRY:
            return ask(place, Request(Verb.STUCK_RETRY, named))
        case RemoteVerb.STOP:
            return _stopped(place, named, reason, then)
        case RemoteVerb.APPROVE | RemoteVerb.DENY:
            return _answered(place, verb, named[0], reason)
        case RemoteVerb.RAISE:
            return _raised(place, named)
        case RemoteVerb.RELEASE:
            from agent_mailer.state.lifts import Order, OrderVerb

            return order(place, Order(OrderVerb.RELEASE, named))


def _stopped(place: Workplace, turns: tuple[str, ...], reason: str, then: str) -> Answer:
    import asyncio

    from agent_mailer.names import is_turn_id
    from agent_mailer.process.tree import sweep

    if not all(map(is_turn_id, turns)):
        return Answer(ok=False, lines=("there is no such turn",))
    found = ask(place, Request(Verb.TURNS_STOP, turns, reason=reason, then=AfterStop(then)))
    if found.ok and not watched(place):
        for turn in turns:
            asyncio.run(sweep(turn))
    return found


def _answered(place: Workplace, verb: RemoteVerb, question: str, reason: str) -> Answer:
    from agent_mailer.state.approvals import Verdict

    found = place.state.approvals.get(question)
    if found is None:
        return Answer(ok=False, lines=("there is no such question",))
    verdict = Verdict.ALLOW if verb is RemoteVerb.APPROVE else Verdict.DENY
    try:
        given = answer(place, found, verdict, reason=reason)
    except MailerError as fault:
        return Answer(ok=False, lines=(fault.message,))
    if not given.first:
        return Answer(ok=False, lines=(given.counts.outruns,))
    why = wake(place, found.id)
    said = "allowed, once" if verdict is Verdict.ALLOW else "denied"
    return Answer(ok=True, lines=(said, why) if why else (said,))


def _raised(place: Workplace, targets: tuple[str, ...]) -> Answer:
    from agent_mailer.watch.guards.raising import limit_of, until_tomorrow

    policy, lines = place.policy(), list[str]()
    for target in targets:
        name, _, value = target.partition("=")
        found = order(place, until_tomorrow(policy, limit_of(name, value), place.clock.now()))
        lines += found.lines
        if not found.ok:
            return Answer(ok=False, lines=tuple(lines))
    return Answer(ok=True, lines=tuple(lines))
