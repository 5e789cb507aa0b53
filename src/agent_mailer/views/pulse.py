"""Would mail that came now be worked on? The watcher that runs is asked; where none does, we look as it would.

A ping is a request file and its answer: an idle watcher writes nothing unless it is asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.views.values.status import WatcherView

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace

SECONDS = 5.0
"""A loop that turns answers within milliseconds; a machine that is busy may take longer."""

LOOK_EVERY = 0.005
ASK_EVERY = 10.0
"""Of a screen that is drawn each second."""


class Heard(msgspec.Struct, frozen=True):
    """`turns`: whether the watcher's loop does; None = nobody could be asked. `missing`: why no turn can be started."""

    turns: bool | None = None
    missing: str = ""
    fix: str = ""
    waits: str = ""
    """What the loop says of its mailbox, for which it waits."""


Listen = Callable[["Workplace", WatcherView], Heard]
"""From a workplace, and who watches there."""


class Ping:
    """One question to a watcher, under way. Raises OSError where it cannot be put."""

    def __init__(self, place: Workplace) -> None:
        from agent_mailer.state.requests import Request, Verb

        self._requests = place.state.requests
        self._end = time.monotonic() + SECONDS
        self._name = self._requests.submit(Request(Verb.PING))

    def poll(self) -> Heard | None:
        """None as long as nothing is known."""
        from agent_mailer.state.requests import MAILBOX_WAITS

        answer = self._requests.take_answer(self._name)
        if answer is not None:
            # A watcher of another version knows no pings, and says so: its loop turns.
            if MAILBOX_WAITS in answer.lines[2:]:
                return Heard(turns=True, waits=answer.lines[0])
            told = not answer.ok and len(answer.lines) > 1
            return Heard(turns=True, missing=answer.lines[0], fix=answer.lines[1]) if told else Heard(turns=True)
        if time.monotonic() < self._end:
            return None
        self.end()
        return Heard(turns=False)

    def wait(self) -> Heard:
        while (heard := self.poll()) is None:
            time.sleep(LOOK_EVERY)
        return heard

    def end(self) -> None:
        with suppress(OSError):
            self._requests.withdraw(self._name, durable=False)


def could_answer(watcher: WatcherView) -> bool:
    """A watcher of ours, which says its version, and which runs."""
    return watcher.version is not None and not watcher.halted


def ping(place: Workplace) -> Ping | None:
    """None where the watcher could not read what we write, or we may not write there."""
    with suppress(OSError):
        if place.folder.requests.stat().st_uid == os.geteuid():
            return Ping(place)
    return None


def listen(place: Workplace, watcher: WatcherView) -> Heard:
    """Ask and wait, for at most `SECONDS`."""
    asked = ping(place) if could_answer(watcher) else None
    return asked.wait() if asked is not None else program_here(place)


def program_here(place: Workplace) -> Heard:
    """What a watcher that was started from here would find. Starts nothing."""
    try:
        place.runtime().probes(place.workdir)
    except MailerError as fault:
        return Heard(missing=fault.message, fix=fault.fix)
    except OSError:
        pass
    return Heard()


class Pulses:
    """What watchers have answered, each asked now and then; nobody is waited for. Where none can be asked, what one
    would find is looked for as seldom.
    """

    def __init__(self, every: float = ASK_EVERY) -> None:
        self._every = every
        self._under_way: dict[Path, Ping] = {}
        self._known: dict[Path, tuple[float, Heard]] = {}
        self._found: dict[Path, tuple[float, Heard]] = {}

    def listen(self, place: Workplace, watcher: WatcherView) -> Heard:
        where, now = place.workdir, time.monotonic()
        asked, known = self._under_way.get(where), self._known.get(where)
        if not could_answer(watcher):
            self._known.pop(where, None)
            return self._program(place, now)
        self._found.pop(where, None)
        if asked is None and (known is None or now >= known[0] + self._every):
            asked = ping(place)
            if asked is None:
                return self._program(place, now)
            self._under_way[where] = asked
        if asked is not None and (heard := asked.poll()) is not None:
            del self._under_way[where]
            self._known[where] = known = (now, heard)
        return known[1] if known is not None else Heard()

    def _program(self, place: Workplace, now: float) -> Heard:
        known = self._found.get(place.workdir)
        if known is None or now >= known[0] + self._every or known[1].missing:
            self._found[place.workdir] = known = now, program_here(place)
        return known[1]


def ask_all(places: Iterable[Workplace]) -> Listen:
    """All are asked at once, so that one that is silent costs the others nothing."""
    asked = {place.workdir: found for place in places if (found := ping(place)) is not None}

    def heard(place: Workplace, watcher: WatcherView) -> Heard:
        one = asked.get(place.workdir)
        return one.wait() if one is not None and could_answer(watcher) else program_here(place)

    return heard
