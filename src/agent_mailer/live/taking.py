"""A live session works on a message of its agent's: it takes it from the watcher, answers it, or gives it back.

The watcher alone claims. What is left here lies in the turn's outbox, and leaves when the watcher has settled the turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path, PurePath

from agent_mailer.assemble import Workplace, workdir_at
from agent_mailer.desk.asking import ask
from agent_mailer.errors import UnavailableFault, UsageFault
from agent_mailer.mailbox.port import Message
from agent_mailer.names import meant, printable
from agent_mailer.process.handle import identify
from agent_mailer.processes import callers
from agent_mailer.state.records import Sitter, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.turn_tools.commands import AgentMail

SETTLED_SECONDS = 20.0
LOOK_EVERY = 0.02
_NEAR = 12


def agents_folder(given: Path | None = None) -> Path:
    """The workdir of the agent that a session in this folder sits beside: this one, or the nearest above that is one.

    Raises ConfigFault.
    """
    here = workdir_at(given)
    above = (here, *here.parents) if given is None else (here,)
    return next((folder for folder in above if (folder / ".agent-mailer" / "config.toml").is_file()), here)


def sitter_of(environ: Mapping[str, str], own: int | None = None) -> Sitter:
    """The session that calls: the process `own`, which ends with it; without that claude's, codex's, or the terminal's.

    Raises UsageFault where nothing would outlive the call.
    """
    if own is not None:
        return _named(own, "session")
    claude = environ.get("CLAUDE_PID", "")
    if claude.isdecimal() and len(claude) < 10 and identify(int(claude)) is not None:
        return _named(int(claude), "claude")
    codex = next(
        (pid for pid, words in callers(os.getppid(), _NEAR) if PurePath(next(iter(words), "")).name == "codex"), None
    )
    return _named(os.getsid(0), "shell") if codex is None else _named(codex, "codex")


def _named(pid: int, what: str) -> Sitter:
    process = identify(pid) if pid else None
    if process is None:
        raise UsageFault("no_session", "no session outlives this command", "call it from a terminal, or use the tools")
    return Sitter(f"{what}-{pid}", process)


class Taking:
    """What a session, `sitter`, can do at the agent of `place`. Every method raises MailerError and OSError."""

    def __init__(self, place: Workplace, sitter: Sitter) -> None:
        self._place = place
        self._sitter = sitter

    def take(self, message: str) -> Message:
        """Have the message, alone, until it is answered or given back. Raises UsageFault where it is not to be had."""
        answer = ask(self._place, Request(Verb.TAKE, (message,), by=self._sitter))
        told, fix, *_ = (*answer.lines, "", "")
        if not answer.ok:
            raise UsageFault("not_taken", told, fix or "agent-mailer status")
        return self._place.state.turns.folder(told).message()

    def answer(self, message: str, body: str, subject: str = "") -> str:
        """Answer it, in the agent's name; without text it is done without one. Returns when the watcher has settled it.

        Raises UsageFault where the session has not taken it, UnavailableFault where it came too late.
        """
        turn = self._mine(message)
        mail = AgentMail(self._place.state.turns.folder(turn.turn_id))
        if body.strip():
            mail.reply(body, subject=subject)
        mail.finish(reply_wanted=False)
        settled = self._settled(turn)
        if settled.settlement is None:
            return f"left for the watcher, which settles it: {printable(turn.envelope.id)}"
        if not settled.settlement.outcome.settles:
            raise UnavailableFault(
                "too_late", f"it came too late: {settled.settlement.detail}", "the agent's own turn answers it"
            )
        return f"{'answered' if body.strip() else 'done'}: {printable(turn.envelope.id)}"

    def release(self, message: str, why: str = "") -> str:
        """Give it back: the agent's own turn works on it."""
        turn = self._mine(message)
        AgentMail(self._place.state.turns.folder(turn.turn_id)).release(why)
        self._settled(turn)
        return f"given back: {printable(turn.envelope.id)}"

    def _mine(self, message: str) -> TurnRecord:
        turns = self._place.state.turns
        found = [record for record in map(turns.load, turns.open_ids()) if record is not None and record.live]
        mine = {one.envelope.id: one for one in found if one.live == self._sitter}
        ids = meant(message, mine)
        if len(ids) != 1:
            what = (
                "more than one that it has taken is called so" if ids else "this session has not taken it, or no longer"
            )
            raise UsageFault("not_taken", f"{printable(message, 100)}: {what}", f"agent-mailer take {message}")
        return mine[ids[0]]

    def _settled(self, turn: TurnRecord) -> TurnRecord:
        """As it is once it has been decided; as it was where no watcher does so in time."""
        until = time.monotonic() + SETTLED_SECONDS
        while time.monotonic() < until:
            record = self._place.state.turns.load(turn.turn_id)
            if record is not None and record.settlement is not None:
                return record
            time.sleep(LOOK_EVERY)
        return turn
