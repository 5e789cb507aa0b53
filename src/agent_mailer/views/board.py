"""The board: several workdirs looked at again and again; of their logs only what is new is read."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from agent_mailer.beneath import status
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.views.local import everywhere, place_at
from agent_mailer.views.log import LogReader
from agent_mailer.views.pulse import Pulses
from agent_mailer.views.values.history import LineView
from agent_mailer.views.values.needs import BoardView, MovedView, NeedKind, NeedView
from agent_mailer.views.values.status import AllView, FaultView, Problem, ProblemView, StatusView

MAIL_KEPT = 200
LINES_READ = 400
"""Of each log, at the first look."""

_MARKS = (b'"item_delivered"', b'"turn_claimed"')


class Board:
    """`workdirs` None = every one of this user, also those that are made meanwhile."""

    def __init__(self, workdirs: Sequence[Path] | None = None) -> None:
        self._workdirs = workdirs
        self._pulses = Pulses()
        self._logs: dict[str, LogReader] = {}
        self._threads: dict[str, str] = {}
        """Turn -> its thread, while it runs."""
        self._mail: deque[MovedView] = deque(maxlen=MAIL_KEPT)

    def look(self) -> BoardView:
        """As it is now. No broker is asked, no watcher waited for."""
        every = everywhere(self._pulses, self._workdirs)
        self._take_in(every)
        sound = [view for view in every.workdirs if isinstance(view, StatusView)]
        return BoardView(
            every.healthy,
            every.workdirs,
            tuple(chain.from_iterable(needs_of(view) for view in every.workdirs)),
            tuple(self._mail),
            sum(view.today.cost_usd for view in sound),
            sum(view.today.turns for view in sound),
        )

    def close(self) -> None:
        for reader in self._logs.values():
            reader.__exit__()
        self._logs.clear()

    def _take_in(self, every: AllView) -> None:
        """What has moved since, of all logs in the order of time."""
        agents = {address for view in every.workdirs if isinstance(view, StatusView) for address in _names(view)}
        new: list[MovedView] = []
        for view in every.workdirs:
            if isinstance(view, StatusView):
                address = view.mailbox.address or view.agent
                new += self._moved(address, self._lines(view.workdir), agents)
        known = {one.message_id for one in self._mail}
        self._mail.extend(sorted((one for one in new if one.message_id not in known), key=lambda one: one.at))

    def _lines(self, workdir: str) -> list[LineView]:
        reader = self._logs.get(workdir)
        if reader is not None:
            return list(reader.new(_is_mail))
        with suppress(MailerError, OSError):
            log = place_at(Path(workdir)).folder.log
            status(log)  # where there is none yet, another look finds it
            self._logs[workdir] = LogReader(log)
            return self._logs[workdir].tail(LINES_READ, _is_mail)
        return []

    def _moved(self, address: str, lines: Sequence[LineView], agents: set[str]) -> Iterator[MovedView]:
        for line in lines:
            record = line.record
            turn, at, message = (_text(record, name) for name in ("turn_id", "ts", "message_id"))
            if record.get("event") == EventName.TURN_CLAIMED.value:
                sender, self._threads[turn] = _text(record, "sender"), _text(record, "thread")
                # What one of the agents has sent was told as it left.
                if sender not in agents and record.get("attempt") in (1, None):
                    yield MovedView(message, at, sender, address, self._threads[turn])
            elif record.get("event") == EventName.ITEM_DELIVERED.value:
                yield MovedView(message, at, address, _text(record, "to"), self._threads.get(turn, ""))
        if len(self._threads) > 10 * MAIL_KEPT:
            self._threads = dict(list(self._threads.items())[-MAIL_KEPT:])


def needs_of(view: StatusView | FaultView) -> Iterator[NeedView]:
    """What of a workdir needs a person, the most urgent first; its agent's id is its path. Pure."""
    workdir, where = view.workdir, f"-C {shlex.quote(view.workdir)}"
    if isinstance(view, FaultView):
        name = workdir.rpartition("/")[2]
        yield from (troubled(workdir, name, problem) for problem in view.problems)
        return
    address = view.mailbox.address or view.agent
    for asked in view.asked:
        yield NeedView(
            f"{NeedKind.APPROVAL.value}:{workdir}:{asked.question}",
            NeedKind.APPROVAL,
            workdir,
            address,
            asked.at,
            asked.until,
            tool=asked.tool,
            thread=asked.thread,
            message_id=asked.message_id,
            targets=(asked.question,),
            command=f"agent-mailer approvals show {asked.question} {where}",
        )
    for one in view.blocked:
        yield NeedView(
            f"{NeedKind.QUESTION.value}:{workdir}:{one.turn_id}",
            NeedKind.QUESTION,
            workdir,
            address,
            one.since,
            why=one.question,
            thread=one.thread,
            message_id=one.message_id,
            command=f"agent-mailer send {where} --to {address} --thread {shlex.quote(one.thread)} --body TEXT",
            asked=one.asked,
        )
    yield from (troubled(workdir, address, problem) for problem in view.problems)
    pause, told = view.pause, any(problem.code is Problem.PAUSED for problem in view.problems)
    if pause is not None and pause.until is None and not told:
        kind, command = NeedKind.PAUSED, f"agent-mailer resume {where}"
        yield NeedView(
            f"{kind.value}:{workdir}:", kind, workdir, address, pause.since, why=pause.reason, command=command
        )


def troubled(workdir: str, address: str, problem: ProblemView) -> NeedView:
    """Since when is not known."""
    name = f"{problem.code.value}:{workdir}"
    return NeedView(name, NeedKind.TROUBLE, workdir, address, 0.0, why=problem.text, command=problem.fix)


def _names(view: StatusView) -> tuple[str, str]:
    return view.agent, view.mailbox.address


def _is_mail(raw: bytes) -> bool:
    return any(mark in raw for mark in _MARKS)


def _text(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""
