"""Plays a live session for the kill loop: `live_session.py WORKDIR sit PID` holds its seat, `serve` does as told.

What it is told stands on its standard input, a line a step: `take ID`, `stage ID TEXT`, `finish ID`, `all ID TEXT`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.live.taking import Taking
from agent_mailer.process.handle import identify
from agent_mailer.state.presence import Presence
from agent_mailer.state.records import Sitter
from agent_mailer.turn_tools.commands import AgentMail

TRIES = 3


def sitter(pid: int) -> Sitter:
    process = identify(pid)
    assert process is not None
    return Sitter(f"session-{pid}", process)


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def sit(workdir: Path, pid: int) -> None:
    lock = Presence(workdir, Disk()).sit(sitter(pid))
    tell("here")
    sys.stdin.read()
    lock.release()


class Session:
    def __init__(self, workdir: Path) -> None:
        self._place = Workplace(workdir)
        self._taking = Taking(self._place, sitter(os.getpid()))

    def do(self, verb: str, message: str, text: str) -> str:
        match verb:
            case "take":
                return self._taking.take(message).envelope.id
            case "stage":
                self._mail(message).reply(text)
            case "finish":
                self._mail(message).finish(reply_wanted=False)
            case "all":
                return self._all(message, text)
        return "well"

    def _all(self, message: str, text: str) -> str:
        for left in reversed(range(TRIES)):
            try:
                self._taking.take(message)
                return self._taking.answer(message, text)
            except MailerError:
                if not left:
                    raise
        raise AssertionError

    def _mail(self, message: str) -> AgentMail:
        state = self._place.state
        found = [one for one in map(state.turns.load, state.turns.open_ids()) if one and one.live]
        [turn] = [one.turn_id for one in found if one.envelope.id == message]
        return AgentMail(state.turns.folder(turn))


def serve(workdir: Path) -> None:
    session = Session(workdir)
    tell("here")
    for line in sys.stdin:
        verb, message, text = (*line.rstrip("\n").split(" ", 2), "", "")[:3]
        try:
            tell(session.do(verb, message, text))
        except (MailerError, ValueError, OSError) as fault:
            tell(f"refused: {fault}")


if __name__ == "__main__":
    if sys.argv[2] == "sit":
        sit(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        serve(Path(sys.argv[1]))
