"""The agents of this machine's user for pages: what there is to see of them, and what is asked of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.clock import iso
from agent_mailer.config import MailboxKind
from agent_mailer.console.operating.needs import in_order, needs_of
from agent_mailer.console.operating.pages import (
    A_PAGE,
    SHOWN_SECONDS,
    AgentPage,
    AgentsPage,
    NeedsPage,
    Said,
    TurnRow,
    first_of,
    stamp,
    trouble_first,
)
from agent_mailer.console.own.port import OwnAgentPage, TurnPage
from agent_mailer.desk.changes import changes
from agent_mailer.desk.doing import do
from agent_mailer.desk.looking import Looking, asked
from agent_mailer.desk.reported import Looked, problems_beside, unreadable
from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError
from agent_mailer.names import is_turn_id
from agent_mailer.people.about import subjects
from agent_mailer.remote.watched import RemoteRequest, RequestState, Watched, sums_of
from agent_mailer.state.requests import Answer
from agent_mailer.views.kept import limits, notes, sessions
from agent_mailer.views.local import place_at
from agent_mailer.views.output import output_lines
from agent_mailer.views.turns import newest_turns, whole_turn
from agent_mailer.views.values.needs import NeedKind, NeedView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.remote.access import RemoteVerb
    from agent_mailer.views.values.history import NoteView, TurnView
    from agent_mailer.views.values.status import FaultView

REQUESTS_KEPT = 500
TURNS = 25
SESSIONS = 25
NOTES = 50
NOTE_SHOWN = 20_000
"""Bytes."""
LINES = 400
"""Of what a turn has printed: the last."""
PERSON = "here"


class AgentsHere:
    """Implements `agent_mailer.console.own.port.Agents`. Threads may call it at the same time."""

    def __init__(self, workdirs: Sequence[Path] | None = None) -> None:
        self.looking = Looking(workdirs)
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        """When each thing that tells no moment itself was first seen, by the id of its need."""
        self._requests: deque[tuple[str, RemoteRequest]] = deque(maxlen=REQUESTS_KEPT)
        self._number = 0

    def needs(self) -> NeedsPage:
        found = self._look()
        agents, needs = self._told(found)
        said, acts = self._said([one for one in found if isinstance(one, Looked)])
        return NeedsPage(sums_of(agents, stamp(time.time())[:10]), needs, said, self._lately(), acts=acts)

    def agents(self, page: int) -> AgentsPage:
        agents, needs = self._told(self._look())
        first = first_of(page, len(agents))
        shown = trouble_first(agents, needs)[first : first + A_PAGE]
        watched = sum(one.watcher is not None for one in agents)
        return AgentsPage(shown, self._lately(), len(agents), watched, first)

    def every(self) -> list[Watched]:
        return self._told(self._look())[0]

    def agent(self, agent_id: str) -> OwnAgentPage | None:
        place = self.looking.place(agent_id)
        if place is None:
            return None
        with self._lock:
            found = self.looking.one(place.workdir)
        [agent], needs = self._told([found])
        if not isinstance(found, Looked):
            return OwnAgentPage(AgentPage(agent, needs, {}, self._lately(), (), ()), agent_id, "", (), (), ())
        said, acts = self._said([found])
        requests = [one for who, one in self._requests if who == agent_id]
        shown = AgentPage(agent, needs, said, self._lately(), requests[:-21:-1], _turns(place), acts=acts)
        newest = list(sessions(place.state, SESSIONS).values())[::-1]
        return OwnAgentPage(shown, agent_id, found.view.sandbox, newest, _notes(place), limits(place))

    def turn(self, agent_id: str, turn_id: str) -> TurnPage | None:
        place = self.looking.place(agent_id)
        if place is None or not is_turn_id(turn_id) or place.state.turns.load(turn_id) is None:
            return None
        with self._lock:
            found = self.looking.one(place.workdir)
        if not isinstance(found, Looked):
            return None
        turn = whole_turn(place.state, turn_id)
        lines: deque[str] = deque(maxlen=LINES)
        hidden = 0
        for line in output_lines(place, turn):
            hidden += len(lines) == LINES
            lines.append(line)
        subject = subjects(place, [turn.message_id]).get(turn.message_id, "")
        return TurnPage(found.watched, turn, subject, lines, hidden)

    def ask(self, agent_id: str, verb: RemoteVerb, targets: Sequence[str], reason: str, then: str) -> Sequence[str]:
        place = self.looking.place(agent_id)
        began = time.time()
        if place is None:
            answer = Answer(ok=False, lines=("there is no such agent here",))
        else:
            try:
                answer = do(place, verb, targets, reason, then)
            except MailerError as fault:
                answer = Answer(ok=False, lines=tuple(filter(None, (fault.message, fault.fix))))
        state = RequestState.DONE if answer.ok else RequestState.REFUSED
        with self._lock:
            self._number += 1
            request = RemoteRequest(
                self._number,
                verb,
                tuple(targets),
                reason,
                then,
                PERSON,
                iso(began),
                iso(began),
                state,
                answer.lines,
                iso(time.time()),
            )
            self._requests.append((agent_id, request))
        return () if answer.ok else answer.lines

    def changes(self) -> AsyncIterator[None]:
        return changes(self.looking)

    def _look(self) -> list[Looked | FaultView]:
        with self._lock:
            return self.looking.all()

    def _told(self, found: Sequence[Looked | FaultView]) -> tuple[list[Watched], list[NeedView]]:
        """Every agent, and what of them needs a person: the most urgent first."""
        now = time.time()
        agents = [one.watched if isinstance(one, Looked) else unreadable(one) for one in found]
        needs = needs_of(agents, now, silent_after=0.0)
        beside = [need for one in found for need in problems_beside(one.view if isinstance(one, Looked) else one)]
        with self._lock:
            since = {need.id: self._since.get(need.id, now) for need in beside}
            # What is over and comes again is new.
            names = {one.view.workdir if isinstance(one, Looked) else one.workdir for one in found}
            others = {name: at for name, at in self._since.items() if name.partition(":")[2] not in names}
            self._since = others | since
        return agents, in_order([*needs, *(msgspec.structs.replace(need, since=since[need.id]) for need in beside)])

    def _lately(self) -> dict[str, list[RemoteRequest]]:
        after = iso(time.time() - SHOWN_SECONDS)
        found: dict[str, list[RemoteRequest]] = {}
        for agent_id, request in list(self._requests):
            if request.asked_at > after:
                found.setdefault(agent_id, []).append(request)
        return found

    def _said(self, found: Sequence[Looked]) -> tuple[dict[str, Said], dict[str, str]]:
        """What agents ask by mail, and the calls that they ask a yes for, by need."""
        said: dict[str, Said] = {}
        acts: dict[str, str] = {}
        for one in found:
            view = one.view
            for blocked in view.blocked:
                subject = subjects(place_at(Path(view.workdir)), [blocked.message_id]).get(blocked.message_id, "")
                name = f"{NeedKind.QUESTION.value}:{view.workdir}:{blocked.turn_id}"
                elsewhere = view.mailbox.kind != MailboxKind.MAILDIR
                said[name] = Said(blocked.message_id, subject, blocked.question, answered=False, elsewhere=elsewhere)
            if view.asked:
                for question, whole in asked(place_at(Path(view.workdir))).items():
                    beside = f"{whole.beside}\n" if whole.beside else ""
                    acts[f"{NeedKind.APPROVAL.value}:{view.workdir}:{question}"] = f"{beside}{whole.act}"
        return said, acts


def _notes(place: Workplace) -> list[tuple[NoteView, str]]:
    found = []
    for note in notes(place.folder.memory)[:NOTES]:
        with suppress(OSError):
            # A link is never followed: the agent may write in this folder.
            data = read_regular(place.folder.memory / f"{note.name}.md", NOTE_SHOWN)
            found.append((note, data.decode("utf-8", "replace")))
    return found


def _turns(place: Workplace) -> list[TurnRow]:
    found = newest_turns(place.state, TURNS, None, None)[::-1]
    about = subjects(place, [turn.message_id for turn in found])
    return [_row(turn, about.get(turn.message_id, "")) for turn in found]


def _row(turn: TurnView, subject: str) -> TurnRow:
    outcome = (turn.outcome or "") if turn.settled else ""
    return TurnRow(turn.turn_id, turn.message_id, turn.thread, subject, turn.sender, outcome, iso(turn.claimed_at))
