"""What a hook of a live session does: it waits for mail beside the session, says a line, or takes its leave.

Claude has the wait in the hook itself, which runs beside the idle session; its end with `RUNG` begins a turn. At the
end of its time claude ends a hook without a word and without a turn (seen with 2.1.332), so the plugin gives it a week,
and every turn's end puts up a new one. Codex has no such hook: there a process beside it puts a message into the
thread's queue, which its app server takes up; without an app server (`codex exec`, `--no-daemon`) nobody would.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import MailerError, UnavailableFault
from agent_mailer.file_events import FileEvents
from agent_mailer.live.heard import Heard, Moment, Program, somebody_sits_there
from agent_mailer.live.sessions import LiveSession, LiveSessions
from agent_mailer.live.telling import (
    Known,
    after_look,
    after_prompt,
    after_ring,
    due,
    due_to_ring,
    is_ring,
    line,
    may_ring,
    offered,
    ring,
    untold,
)
from agent_mailer.process.commands import run_briefly, start_apart
from agent_mailer.process.handle import ProcessIdentity, identify, wait_gone
from agent_mailer.processes import callers, command_line
from agent_mailer.state.records import Sitter
from agent_mailer.turn_tools import ISOLATED

if TYPE_CHECKING:
    from agent_mailer.people import Person
    from agent_mailer.state.presence import Presence

RUNG = 10
"""The exit status that means a ring; of all others none may begin a turn, not even that of a wrong word."""

AGAIN_AFTER, AGAIN_AT_MOST = 30.0, 600.0
"""Seconds until a mailbox that could not be reached is asked again."""
QUEUE_SECONDS = 30.0
QUEUE_AGAIN = 2.0
"""Seconds until a ring that did not come through is tried again; each time twice as long."""
PROBE_SECONDS = 0.5
"""So long who would listen waits for who only looks whether somebody does."""
_NEAR = 5


class Ring(Enum):
    """What became of one."""

    HEARD = 0
    LATER = 1
    """Nothing of it is to be told any more: another session was meanwhile, or this one has ended."""
    FAILED = 2
    """It is to be tried again."""


FindPerson = Callable[[], "Person"]


class Doorbell:
    """`person`: whose mail it is, asked for anew each time. `say` gives the program a line, `wake` the ring; `presence`
    is where a session says that it is there for the agent of its folder.
    """

    def __init__(
        self,
        sessions: LiveSessions,
        person: FindPerson,
        environ: Mapping[str, str],
        say: Callable[[str], None],
        wake: Callable[[str], None],
        presence: Presence,
    ) -> None:
        self._sessions = sessions
        self._person = person
        self._environ = environ
        self._say = say
        self._wake = wake
        self._presence = presence

    def hear(self, program: Program, heard: Heard, caller: int) -> int:
        """Do what belongs to that moment; `caller` is the process that has called the hook. Returns an exit status."""
        if not somebody_sits_there(program, self._environ) or (program is Program.CODEX and _is_headless(caller)):
            return 0
        session = LiveSession(program, heard.session, _process_of(program, self._environ, caller))
        if heard.moment is Moment.ENDS:
            self._sessions.end(session)
            return 0
        if session.process is None:
            if heard.moment is Moment.PROMPT:
                self._tell(session, heard.prompt)
            return 0
        if heard.moment is Moment.PROMPT:
            with suppress(UnavailableFault):
                self._tell(session, heard.prompt)
            if program is Program.CODEX:
                self._listen_apart(session)
            return 0
        self._sessions.forget_old()
        return self.listen(self._begun(session))

    def listen(self, session: LiveSession) -> int:
        """Wait until there is news for a session, and ring; of a session that has ended, or has a listener, nothing."""
        lock = self._sessions.lock(session)
        if not lock.acquire(PROBE_SECONDS):
            return 0
        seat = None
        try:
            if session.process is not None:
                name = f"{session.program.value}-{session.session[:8]}"
                seat = self._presence.sit(Sitter(name, session.process))
            pause = QUEUE_AGAIN
            while True:
                news = self._news(session)
                offers = self._offered(session)
                if not (news or offers):
                    return 0
                try:
                    rung = self._ring(session, news, offers)
                except UnavailableFault:
                    rung = Ring.FAILED
                if rung is Ring.HEARD:
                    if session.program is Program.CLAUDE:
                        return RUNG
                    pause = QUEUE_AGAIN
                elif rung is Ring.FAILED:
                    # Codex's server does not answer each call of a machine under load, and a mailbox may go away
                    # between the news and the ring.
                    if session.process is None or asyncio.run(wait_gone([session.process], pause)):
                        return 0
                    pause = min(2 * pause, AGAIN_AT_MOST)
        finally:
            if seat is not None:
                self._presence.leave(seat)
            lock.release()

    def _tell(self, session: LiveSession, prompt: str) -> None:
        known = self._begun(session).known
        if not untold(known) and self._sessions.is_listened_for(session):
            # Whatever comes rings: no prompt has to wait for a look into a mailbox that may be far away.
            if known.rings and not is_ring(prompt):
                self._sessions.keep(msgspec.structs.replace(session, known=after_prompt(known, known.told, (), prompt)))
            return
        person = self._person()
        waiting = [found.message.envelope.id for found in person.inbox(read_too=False)]
        news = () if is_ring(prompt) else due(waiting, known, self._sessions.told_elsewhere(session))
        if news:
            self._say(line(news, person.address))
        self._sessions.keep(
            msgspec.structs.replace(session, known=after_prompt(known, [*waiting, *self._on_offer()], news, prompt))
        )

    def _begun(self, session: LiveSession) -> LiveSession:
        """As it is known. Raises MailerError where it is new, and nobody has mail here; a broker may be away."""
        if self._sessions.known(session) is None:
            with suppress(UnavailableFault):
                self._person()
        return self._sessions.begun(session)

    def _waiting(self) -> Sequence[str]:
        return [found.message.envelope.id for found in self._person().inbox(read_too=False)]

    def _news(self, session: LiveSession) -> Sequence[str]:
        """What the session is to be told; nothing once it has ended, or has been woken often enough."""
        pause = AGAIN_AFTER
        while True:
            try:
                return self._person().await_news(
                    lambda waiting: self._due(session, waiting), lambda: self._over(session)
                )
            except UnavailableFault:
                # Of what is found once it is back nobody knows whether it has come meanwhile.
                self._looked(session, ())
                if asyncio.run(self._over(session, pause)):
                    return ()
                pause = min(2 * pause, AGAIN_AT_MOST)

    def _due(self, session: LiveSession, waiting: Sequence[str]) -> Sequence[str]:
        known = self._looked(session, waiting)
        return () if known is None else due_to_ring(waiting, known, self._sessions.told_elsewhere(session))

    def _looked(self, session: LiveSession, waiting: Sequence[str]) -> Known | None:
        """What the session was told by now; None once it has ended."""
        known = self._sessions.known(session)
        if known is not None and known.before is None:
            known = after_look(known, waiting)
            self._sessions.keep(msgspec.structs.replace(session, known=known))
        return known

    def _offered(self, session: LiveSession) -> Sequence[str]:
        """What waits for the agent, and this session may take; not what another was told of that lives."""
        known, now = self._sessions.known(session), time.time()
        mine = [one for one in self._presence.offers() if now < one.until]
        here = [one.message for one in mine if session.process in [sitter.process for sitter in one.sitters]]
        if known is None or not here:
            return ()
        return due_to_ring(here, known, self._sessions.told_elsewhere(session))

    async def _over(self, session: LiveSession, seconds: float | None = None) -> bool:
        """Wait until the session has ended, may be woken no more or is offered something, at most `seconds`; whether
        that is so.
        """
        folders = [folder for folder in (self._sessions.folder, self._presence.folder) if folder.is_dir()]
        events = FileEvents(folders, removals=True)
        process = session.process
        gone = asyncio.ensure_future(wait_gone([process] if process else [], seconds))
        try:
            while not gone.done():
                known = self._sessions.known(session)
                if known is None or not may_ring(known) or self._offered(session):
                    return True
                changed = asyncio.ensure_future(events.wait())
                await asyncio.wait({gone, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            return gone.result()
        finally:
            gone.cancel()
            events.close()

    def _ring(self, session: LiveSession, news: Sequence[str], offers: Sequence[str]) -> Ring:
        """What was not told stays news."""
        person = self._person()
        waiting = [*self._waiting(), *self._on_offer()]
        with self._sessions.telling(2 * QUEUE_SECONDS):
            known = self._sessions.known(session)
            if known is None:
                return Ring.LATER
            elsewhere = self._sessions.told_elsewhere(session)
            news, offers = due_to_ring(news, known, elsewhere), due_to_ring(offers, known, elsewhere)
            texts = ([ring(news, person.address)] if news else []) + ([offered(offers, "the agent")] if offers else [])
            if not texts:
                return Ring.LATER
            text = "\n".join(texts)
            # Told twice is better than never: whoever dies in between has told nobody.
            if session.program is Program.CLAUDE:
                self._wake(text)
            elif not self._queue(session, text):
                return Ring.FAILED
            self._sessions.keep(msgspec.structs.replace(session, known=after_ring(known, waiting, [*news, *offers])))
        return Ring.HEARD

    def _on_offer(self) -> Sequence[str]:
        return [one.message for one in self._presence.offers()]

    def _queue(self, session: LiveSession, text: str) -> bool:
        assert session.process is not None
        program = next(iter(command_line(session.process.pid)), "")
        argv = (program if os.access(program, os.X_OK) else "codex", "queue", "--thread", session.session)
        with suppress(OSError):
            words = (*argv, "--message", text)
            return run_briefly(words, env=self._environ, cwd=Path.cwd(), seconds=QUEUE_SECONDS).status == 0
        return False

    def _listen_apart(self, session: LiveSession) -> None:
        if self._sessions.is_listened_for(session):
            return
        # Isolated: the folder of the project is not one to take modules from.
        argv = (sys.executable, ISOLATED, "-m", "agent_mailer.cli.app", "plugin", "listen", session.program.value)
        with suppress(OSError):
            start_apart((*argv, session.session), env=self._environ, cwd=Path.cwd(), errors=Path(os.devnull))


def _process_of(program: Program, environ: Mapping[str, str], caller: int) -> ProcessIdentity | None:
    """The program that has the session; None where nothing could ring it."""
    if program is Program.CLAUDE:
        pid = environ.get("CLAUDE_PID", "")
        return identify(int(pid)) if pid.isdecimal() and len(pid) < 10 else None
    found = next((pid for pid, words in callers(caller, _NEAR) if "app-server" in words[1:]), None)
    return None if found is None else identify(found)


def _is_headless(caller: int) -> bool:
    """Whether `codex exec` has called the hook: nothing else tells it from a session without an app server."""
    return any(
        "codex" in [PurePath(word).name for word in words[:2]] and not {"exec", "review"}.isdisjoint(words[1:])
        for _, words in callers(caller, _NEAR)
    )


def quietly(work: Callable[[], int]) -> int:
    """Its status, and 0 for whatever goes wrong: a session works on without a doorbell, and a hook's word wakes it."""
    try:
        return work()
    except (MailerError, OSError):
        return 0
