"""`watch --dry-run`: what would be done now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_mailer.cli.terminal.printing import say

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


async def show_plan(place: Workplace) -> None:
    """What would be done now. Takes no lock, claims and writes nothing."""
    from agent_mailer.mailbox.port import NoWay
    from agent_mailer.names import printable
    from agent_mailer.watch.backlog import (
        Answered,
        Hold,
        PassBy,
        PutAway,
        Revive,
        SetAside,
        Strand,
        is_owed_an_answer,
        look,
    )
    from agent_mailer.watch.batch import batch_of
    from agent_mailer.watch.guards.gate import Gate
    from agent_mailer.watch.stuck import StuckMail

    state = place.state
    running = state.turns.indexed()
    mailbox, policy = place.mailbox(), place.policy()
    found = await look(mailbox, state, policy, {envelope.id for turn in running for envelope in turn.envelopes})
    stuck = StuckMail(mailbox, state)
    known = [action.envelope for action in found.actions if isinstance(action, SetAside | Revive)]
    others = {envelope.id: other for envelope in known if (other := await stuck.another(envelope)) is not None}
    again = {name for name, other in others.items() if await stuck.was_taken_up(other)}
    found = found.without(others.keys())
    now = place.clock.now()
    plan = found.plan({turn.thread_id for turn in running}, now)
    admitted = Gate(state, lambda: policy, place.clock, mailbox.address, looks_only=True).admit(plan.ready, now)
    ready = len(admitted.go)
    for candidate in admitted.go:
        envelope = candidate.envelope
        way = await mailbox.way_back(envelope)
        if isinstance(way, NoWay) and is_owed_an_answer(candidate):
            say(f"would leave lying: {printable(envelope.id)}: no way back: {way.why}")
            ready -= 1
            continue
        say(f"would run: {printable(envelope.id)} from {printable(envelope.sender)} in {printable(envelope.thread)}")
        for further in batch_of(candidate, found.candidates, policy):
            say(f"would run with it: {printable(further.id)} from {printable(further.sender)}")
    stops = {stop.envelope.id: stop for stop in admitted.stops}
    for stop in (*stops.values(), *(action.stop for action in found.actions if isinstance(action, Hold))):
        # What is held already, and listed again, has no word here.
        if stop.why:
            say(f"would hold: {printable(stop.envelope.id)} from {printable(stop.envelope.sender)}: {stop.why}")
    if admitted.pause is not None:
        done = {one.envelope.id for one in admitted.go} | stops.keys()
        for envelope in (one.envelope for one in plan.ready if one.envelope.id not in done):
            why = f"{admitted.pause.reason.value.replace('_', ' ')}: {printable(admitted.pause.detail)}"
            say(f"would wait: {printable(envelope.id)} from {printable(envelope.sender)}: {why}")
    for action in found.actions:
        match action:
            case PutAway(item=item):
                say(f"would put away: {printable(item.locator)}: {item.why}")
            case PassBy(envelope=envelope):
                say(f"would pass by: {printable(envelope.id)} from {printable(envelope.sender)}: a notice")
            case Answered(envelope=envelope):
                say(f"would take: {printable(envelope.id)} from {printable(envelope.sender)}: an answer to a question")
            case SetAside(envelope=envelope) | Revive(envelope=envelope) if envelope.id in again:
                say(f"would put away: {printable(envelope.id)}: settled already, under an id of its own")
            case SetAside(envelope=envelope) | Revive(envelope=envelope) if envelope.id in others:
                say(f"would put away: {printable(envelope.id)}: another message under a used id")
            case SetAside(envelope=envelope):
                say(f"would put away: {printable(envelope.id)}: settled already")
            case Strand(envelope=envelope, why=why):
                say(f"would leave lying: {printable(envelope.id)}: no way back: {why}")
            case _:
                pass
    waiting = len(found.candidates) - len(plan.ready)
    pause = state.pause.read()
    say(
        f"{ready} ready, {waiting} waiting behind them, {len(running)} running"
        + (f"; paused: {pause.reason.value}" if pause else "")
    )
