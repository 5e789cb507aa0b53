"""Changing a workdir's state: by the watcher that runs there, or by whoever asks where none does."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agent_mailer.errors import BusyFault, MailerError, UnavailableFault, UsageFault
from agent_mailer.state.requests import Request, Verb

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Mailbox
    from agent_mailer.state.lifts import Order
    from agent_mailer.state.requests import Answer
    from agent_mailer.views.pulse import Heard

ANSWER_SECONDS = 10.0
TAKEN_SECONDS = 60.0
"""So much longer is waited for what the watcher has begun with."""
PING_AFTER = 3.0
"""Who is not answered by then asks what the loop does instead."""

AT_IT = "at_it"
"""The code of the fault where it was not at its end by then."""

LOOK_EVERY = 0.02
LOCK_EVERY = 0.5
TURN_DIR = "AGENT_MAILER_TURN_DIR"


def ask(place: Workplace, request: Request) -> Answer:
    """Have `request` applied. Raises UnavailableFault where the process that holds the workdir does not answer."""
    lock = place.lock()
    try:
        lock.acquire(briefly=True)
    except BusyFault:
        return _ask_watcher(place, request)
    try:
        return _apply(place, request)
    finally:
        lock.release()


def watched(place: Workplace) -> bool:
    """Whether some process holds the workdir."""
    lock = place.lock()
    try:
        lock.acquire(briefly=True)
    except BusyFault:
        return True
    lock.release()
    return False


def order(place: Workplace, ordered: Order) -> Answer:
    """Have carried out what only a person may order. Raises as `ask` does, UsageFault inside a turn: a hint to the
    agent, no wall.
    """
    require_person()
    name = place.state.lifts.give(ordered)
    begun = False
    try:
        return ask(place, Request(Verb.ORDER, (name,)))
    except UnavailableFault as fault:
        begun = fault.code == AT_IT
        raise
    finally:
        # What a watcher has begun with it ends, or the next one does: without the order it would be refused.
        if not begun:
            place.state.lifts.done(name)


def require_person() -> None:
    """Raises UsageFault inside a turn: a hint to the agent, no wall."""
    if TURN_DIR in os.environ:
        raise UsageFault(
            "a_person",
            "this is for a person to decide, not for the agent",
            "agent-mailer mail finish --blocked QUESTION",
        )


def _apply(place: Workplace, request: Request) -> Answer:
    """The caller holds the lock."""
    from agent_mailer.assemble import Workplace
    from agent_mailer.watch.requests import apply

    # What was read before we had the lock may have changed since.
    fresh = Workplace(place.workdir)
    fresh.prepare()
    with suppress(MailerError):
        # Without a runtime that can be made there is no account to speak of.
        fresh.share_pause(fresh.runtime())
    answer = apply(fresh.state, request, _mailbox(fresh) if request.verb is Verb.STUCK_RETRY else None)
    fresh.state.sessions.close()
    return answer


def _mailbox(place: Workplace) -> Mailbox | None:
    with suppress(MailerError):
        return place.mailbox()
    return None


def _ask_watcher(place: Workplace, request: Request) -> Answer:
    from agent_mailer.views.pulse import Ping

    requests = place.state.requests
    name = requests.submit(request)
    give_up = time.monotonic() + ANSWER_SECONDS
    next_lock = time.monotonic() + LOCK_EVERY
    pinged: Ping | None = None
    heard: Heard | None = None
    try:
        while time.monotonic() < give_up:
            answer = requests.take_answer(name)
            if answer is not None:
                return answer
            if pinged is None and time.monotonic() >= give_up - ANSWER_SECONDS + PING_AFTER:
                pinged = Ping(place)
            if pinged is not None and heard is None:
                heard = pinged.poll()
            if time.monotonic() >= next_lock:
                next_lock += LOCK_EVERY
                if (answer := _if_left(place, request, name)) is not None:
                    return answer
            time.sleep(LOOK_EVERY)
    finally:
        left = requests.withdraw(name)
        if pinged is not None:
            pinged.end()
    # An answer is there before what it answers goes: what was withdrawn may have been done.
    if (answer := requests.take_answer(name)) is not None:
        return answer
    if not left:
        return _begun(place, request, name)
    if heard is not None and heard.waits:
        raise UnavailableFault(
            "mailbox_waits",
            f"the watcher of {place.workdir} waits for its mailbox: {heard.waits}; nothing was changed",
            "agent-mailer status, and the same once more when it answers",
        )
    raise UnavailableFault(
        "watcher_silent",
        f"the watcher of {place.workdir} has not answered for {ANSWER_SECONDS:.0f} s; nothing was changed",
        "agent-mailer status",
    )


def _begun(place: Workplace, request: Request, name: str) -> Answer:
    """The answer to what the watcher has begun with: it can no longer be taken back."""
    give_up = time.monotonic() + TAKEN_SECONDS
    while True:
        answer = place.state.requests.take_answer(name) or _if_left(place, request, name)
        if answer is not None:
            return answer
        if time.monotonic() >= give_up:
            break
        time.sleep(LOCK_EVERY)
    raise UnavailableFault(
        AT_IT,
        f"the watcher of {place.workdir} is still at what was asked: it will be done",
        "agent-mailer status",
    )


def _if_left(place: Workplace, request: Request, name: str) -> Answer | None:
    """Whoever held the lock may have left without reading it, or died over it. None where somebody holds it."""
    lock = place.lock()
    try:
        lock.acquire(briefly=True)
    except BusyFault:
        return None
    try:
        if (answer := place.state.requests.take_answer(name)) is not None:
            return answer
        place.state.requests.withdraw(name, taken=True)
        return _apply(place, request)
    finally:
        lock.release()
