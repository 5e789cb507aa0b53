"""What a doorbell remembers of sessions, and does where one ends, dies, is resumed or cannot be rung."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from tests.desk import Desk, until
from tests.integration.test_doorbell import OTHER, SESSION, environ

from agent_mailer.disk import Disk
from agent_mailer.errors import UnavailableFault
from agent_mailer.live.doorbell import RUNG, Doorbell, Ring, quietly
from agent_mailer.live.heard import Heard, Moment, Program
from agent_mailer.live.sessions import KEPT_SECONDS, LiveSession, LiveSessions
from agent_mailer.live.telling import MOST_RINGS, Known, ring
from agent_mailer.people import Person, person_at
from agent_mailer.process.handle import ProcessIdentity, identify
from agent_mailer.state.presence import Offer, Presence
from agent_mailer.state.records import Sitter


class Bell:
    """The doorbell of `user` beside `coder`, in this process; what it says and rings is kept."""

    def __init__(self, base: Path) -> None:
        self.desk = Desk(base)
        self.sessions = LiveSessions(base / "live", Disk())
        self.presence = Presence(self.desk.workdir, Disk())
        self.said: list[str] = []
        self.rung: list[str] = []
        self.away = 0
        self.comes_while_away: Callable[[], object] = lambda: None

    def person(self) -> Person:
        if self.away:
            self.away -= 1
            self.comes_while_away()
            raise UnavailableFault("away", "its mailbox does not answer")
        return person_at(self.desk.place(), None, lambda line: None)

    def of(self, pid: int) -> Doorbell:
        return Doorbell(self.sessions, self.person, environ(pid), self.said.append, self.rung.append, self.presence)

    def begun(self, pid: int, name: str = SESSION, program: Program = Program.CLAUDE, **known: object) -> LiveSession:
        """A session that has looked into its mailbox."""
        found = LiveSession(program, name, process(pid), msgspec.convert({"before": (), **known}, Known))
        self.sessions.keep(found)
        return found

    def prompt(self, pid: int, name: str = SESSION, text: str = "hello") -> str:
        """What is said with it."""
        self.said.clear()
        assert self.of(pid).hear(Program.CLAUDE, Heard(name, Moment.PROMPT, text), os.getpid()) == 0
        return "\n".join(self.said)

    def told(self, session: LiveSession) -> tuple[str, ...]:
        known = self.sessions.known(session)
        assert known is not None
        return known.told

    def mail(self, body: str = "news") -> str:
        return self.desk.send(body, sender="coder", to="user")


def process(pid: int) -> ProcessIdentity:
    found = identify(pid)
    assert found is not None
    return found


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the program which has a session; `argv` in place of what it is called."""
    words = [*(argv or (sys.executable,)), "-c", "import sys; sys.stdin.read()"]
    found = subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE)
    try:
        yield found
    finally:
        found.kill()
        found.communicate()


@contextmanager
def listening(bell: Bell, session: LiveSession) -> Iterator[list[int]]:
    """A listener in a thread; in the end its status."""
    assert session.process is not None
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(bell.of(0).listen(session)))
    thread.start()
    try:
        yield ended
    finally:
        with suppress(ProcessLookupError):
            os.kill(session.process.pid, 9)
        thread.join()


@pytest.fixture
def bell(tmp_path: Path) -> Bell:
    return Bell(tmp_path)


def test_of_two_sessions_one_has_the_mail_until_it_dies(bell: Bell) -> None:
    with running() as first, running() as second:
        mine, other = bell.begun(first.pid), bell.begun(second.pid, OTHER)
        sent = bell.mail()
        assert bell.of(first.pid).listen(mine) == RUNG
        assert sent in bell.rung[0]
        # The other has heard of it as well, just before.
        assert bell.of(second.pid)._ring(other, [sent], ()) is Ring.LATER
        assert bell.prompt(second.pid, OTHER) == ""
        assert (bell.told(mine), bell.told(other)) == ((sent,), ())
        first.kill()
        first.wait()
        assert sent in bell.prompt(second.pid, OTHER)
        assert len(bell.rung) == 1


def test_codex_is_told_once_it_takes_a_ring_and_its_listener_goes_with_it(
    bell: Bell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server does not answer each call of a machine under load."""
    monkeypatch.setattr("agent_mailer.live.doorbell.QUEUE_AGAIN", 0.0)
    codex, tries, rung = tmp_path / "codex", tmp_path / "tries", tmp_path / "rung"
    codex.write_text(
        f'#!/bin/sh\necho x >>{tries}\n[ "$(wc -l <{tries})" -gt 1 ] || exit 1\nprintf "%s\\n" "$@" >{rung}\n'
    )
    codex.chmod(0o755)
    with running(str(codex)) as server:
        session = bell.begun(server.pid, program=Program.CODEX)
        sent = bell.mail()
        assert bell.of(0)._ring(session, [sent], ()) is Ring.FAILED
        assert bell.told(session) == ()
        tries.unlink()
        with listening(bell, session) as ended:
            until(lambda: bell.told(session), "it is told")
            assert len(tries.read_text().splitlines()) == 2
            text = rung.read_text()
            assert (text.startswith(f"queue\n--thread\n{SESSION}\n--message\n"), sent in text) == (True, True)
            [seat] = bell.presence.there()
            assert seat == Sitter(f"codex-{SESSION[:8]}", process(server.pid))
            # A second listener leaves, and it is still there.
            assert bell.of(0).listen(session) == 0
            assert bell.sessions.is_listened_for(session)
        assert ended == [0]
    assert (bell.presence.there(), [*bell.presence.folder.glob("*.lock")]) == ((), [])
    assert not bell.sessions.is_listened_for(session)


def test_a_session_that_has_ended_is_rung_no_more(bell: Bell) -> None:
    with running() as held:
        session = bell.begun(held.pid)
        with listening(bell, session) as ended:
            until(bell.presence.there, "the listener has its seat")
            assert bell.of(held.pid).hear(Program.CLAUDE, Heard(SESSION, Moment.ENDS), os.getpid()) == 0
            until(lambda: ended, "it leaves, though the program lives")
        assert (ended, bell.rung, [*bell.sessions.folder.glob("claude-*")]) == ([0], [], [])
        bell.mail()
        assert bell.of(held.pid).listen(session) == 0
        assert bell.rung == []


def test_a_session_that_is_resumed_in_another_process_knows_what_it_was_told(bell: Bell) -> None:
    with running() as before, running() as after:
        first = bell.begun(before.pid, told=("a",), rings=3)
        assert bell.sessions.begun(first).known == Known(("a",), 3, ())
        again = msgspec.structs.replace(first, process=process(after.pid), known=Known())
        # What waits now waited when it began: nobody wants it to talk before he does.
        assert bell.sessions.begun(again) == msgspec.structs.replace(again, known=Known(("a",), 3, None))
        assert bell.sessions.find(Program.CLAUDE, SESSION) == bell.sessions.begun(again)


def test_only_the_person_has_it_ring_again(bell: Bell) -> None:
    with running() as held:
        session = bell.begun(held.pid, rings=MOST_RINGS)
        sent = bell.mail()
        assert bell.of(held.pid).listen(session) == 0
        bell.prompt(held.pid, text=ring([sent], "user"))
        assert bell.sessions.known(session) == Known((), MOST_RINGS, ())
        assert sent in bell.prompt(held.pid)
        assert bell.sessions.known(session) == Known((sent,), 0, ())
        # Where it is listened for, no prompt has to wait for a look into the mailbox.
        bell.begun(held.pid, told=(sent,), rings=MOST_RINGS)
        lock = bell.sessions.lock(session)
        assert lock.acquire()
        bell.away = 1
        assert bell.prompt(held.pid) == ""
        assert bell.sessions.known(session) == Known((sent,), 0, ())
        lock.release()


def test_an_old_file_goes_with_its_lock_where_its_session_does_not_live(bell: Bell) -> None:
    old = time.time() - KEPT_SECONDS - 60
    with running() as alive, running() as dead, running() as young:
        sessions = [bell.begun(one.pid, f"0a-{n}") for n, one in enumerate((alive, dead, young))]
        for one in sessions:
            bell.sessions.is_listened_for(one)
        for ended in (dead, young):
            ended.kill()
            ended.wait()
        for path in bell.sessions.folder.iterdir():
            if "0a-2" not in path.name:
                os.utime(path, (old, old))
        bell.sessions.forget_old()
    left = sorted(path.name for path in bell.sessions.folder.iterdir())
    assert left == [f"claude-0a-{n}{end}" for n in (0, 2) for end in (".json", ".lock")]


def test_it_hears_of_what_is_offered_to_it_now_and_of_nothing_else(bell: Bell) -> None:
    with running() as mine, running() as other:
        session = bell.begun(mine.pid)
        seats = [Sitter(name, process(one.pid)) for name, one in (("mine", mine), ("other", other))]
        now = time.time()
        bell.presence.offer(
            [
                Offer("over", now - 1, tuple(seats[:1])),
                Offer("others", now + 600, tuple(seats[1:])),
                Offer("mine", now + 600, tuple(seats)),
            ]
        )
        assert bell.of(mine.pid).listen(session) == RUNG
        assert bell.told(session) == ("mine",)
        [text] = bell.rung
        assert ("for the agent: mine." in text, "take it" in text) == (True, True)
        assert not list(bell.of(mine.pid)._offered(session)), "told once"


def test_what_is_offered_still_rings_once_whatever_prompts_come_after_it(bell: Bell) -> None:
    """The ring's own turn is one of them."""
    with running() as mine:
        session, until_when = bell.begun(mine.pid), time.time() + 600
        first, second = (Offer(name, until_when, (Sitter("mine", process(mine.pid)),)) for name in ("first", "second"))
        bell.presence.offer([first])
        assert bell.of(mine.pid).listen(session) == RUNG
        for text in (bell.rung[0], "hello", "and now?"):
            bell.prompt(mine.pid, text=text)
            assert bell.told(session) == ("first",), text
        bell.presence.offer([first, second])
        assert bell.of(mine.pid).listen(session) == RUNG
        assert "for the agent: second." in bell.rung[1]
        bell.presence.offer([])
        bell.prompt(mine.pid)
        assert bell.told(session) == (), "what is over is not remembered"


def test_a_ring_that_did_not_get_out_is_none(bell: Bell) -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError(text)

    with running() as held:
        session = bell.begun(held.pid)
        sent = bell.mail()
        deaf = Doorbell(bell.sessions, bell.person, environ(held.pid), bell.said.append, gone, bell.presence)
        assert quietly(lambda: deaf.listen(session)) == 0
        assert bell.told(session) == ()
        assert bell.of(held.pid).listen(session) == RUNG
        assert sent in bell.rung[0]


def test_what_goes_wrong_wakes_no_session() -> None:
    def fails() -> int:
        raise OSError(28, "No space left on device")

    assert (quietly(fails), quietly(lambda: RUNG)) == (0, RUNG)


def test_a_mailbox_that_is_away_as_a_session_begins_is_asked_again_and_what_has_come_meanwhile_rings(
    bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.live.doorbell.AGAIN_AFTER", 0.01)
    with running() as held:
        session = LiveSession(Program.CLAUDE, SESSION, process(held.pid))
        bell.sessions.keep(session)
        bell.away, sent = 2, list[str]()
        bell.comes_while_away = lambda: sent.append(bell.mail())
        with listening(bell, session) as ended:
            until(lambda: ended, "it rings")
        assert (ended, len(sent)) == ([RUNG], 2)
        assert all(one in bell.rung[0] for one in sent)
