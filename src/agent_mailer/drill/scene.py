"""A drill's scratch folder: one agent whose program writes down each of its steps, its mailbox, its watcher."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from agent_mailer.demo.stage import BrokerStage, FolderStage, Stage
from agent_mailer.drill.verdict import Evidence, Sent, reply_to
from agent_mailer.errors import ExitCode, MailerError
from agent_mailer.process.commands import CommandApart
from agent_mailer.process.handle import ProcessIdentity, identify, send
from agent_mailer.process.tree import members, sweep
from agent_mailer.state.folder import STATE_DIRECTORY
from agent_mailer.state.records import TurnRecord

NAME = "worker"
PATIENCE = 120.0
"""Seconds without anything new after which a drill is over."""
POLL = 0.02
SEND_SECONDS = 60.0
_ZEROS = bytes(65536)

_SETTINGS = {
    "max_retries": "1000",
    "max_starts": "1000",
    "retry.first": "1",
    "retry.longest": "1",
    "auto_reply": "never",
    "guards.turns_per_hour": "0",
    "guards.pair_rounds": "0",
    "guards.ring_rounds": "0",
    "guards.rounds_per_day": "0",
}
"""Kills are no fault of a message's, however many; and there are more rounds than the guards let through."""

_AGENT = """\
#!/bin/sh
# The agent of a drill. It writes down what it does, durably, before and after its one answer.
set -eu
step() {{ printf '%s %s\\n' "$1" "$AGENT_MAILER_MESSAGE_ID" >> {witness}; sync {witness}; }}
cat > /dev/null
step start
sleep 0.1
agent-mailer mail reply --body "done"
step end
"""


class _Listed(msgspec.Struct):
    subject: str | None = None


class _Inbox(msgspec.Struct):
    messages: list[_Listed]


class _Answered(msgspec.Struct):
    id: str


class _Error(msgspec.Struct):
    message: str


class _Refused(msgspec.Struct):
    error: _Error


class DrillFailed(MailerError):
    """The drill could not be carried through; `code`, what, and where to look."""


class _OneAgent(Stage):
    """The drill's agent in the place of the demo's two."""

    names = (NAME,)
    witness = Path()

    def agents(self) -> Mapping[str, str]:
        return {NAME: _AGENT.format(witness=shlex.quote(str(self.witness)))}


class _FolderStage(_OneAgent, FolderStage):
    pass


class _BrokerStage(_OneAgent, BrokerStage):
    def restart(self) -> None:
        """Kill the broker, and start it again over what it has written, at the same port."""
        broker = self._beside.pop()
        if (identity := identify(broker.pid)) is not None:
            send(identity, signal.SIGKILL)
        broker.stop(5.0)
        self.serve(port=urlsplit(self.url).port or 0)


class Scene:
    """What is done to it, and what an outsider sees. Raises DrillFailed, OSError."""

    def __init__(self, folder: Path, *, broker: bool, witness: Path | None = None) -> None:
        """`witness`: a file on another disk than `folder`, for where that one gets full."""
        self._witness = witness or folder / "witness"
        self._stage: _OneAgent = _BrokerStage(folder) if broker else _FolderStage(folder)
        self._stage.witness = self._witness
        self.folder = folder
        self.workdir = folder / NAME
        self.evidence = Evidence()
        self._watcher: CommandApart | None = None
        self._let_go = {ExitCode.BUSY, ExitCode.UNAVAILABLE}
        self.restart_broker = self._stage.restart if isinstance(self._stage, _BrokerStage) else None
        """Kills the broker and starts it again; None without one."""

    def prepare(self) -> None:
        for _ in self._stage.prepare():
            pass
        for key, value in _SETTINGS.items():
            self._stage.run("config", "set", key, value, "--workdir", str(self.workdir))

    def send(self, thread: str) -> None:
        """One message, sent until the mailbox has taken it: a broker that is down is asked again under the same key."""
        number = len(self.evidence.sent) + 1
        subject = f"drill {number}"
        words = ["send", *self._stage.to_mailbox, "--to", NAME, "--thread", thread, "--subject", subject]
        words += ["--body", "please", "--dedupe-key", subject.replace(" ", "-"), "--json"]
        end = time.monotonic() + SEND_SECONDS
        while (done := self._stage.attempt(*words)).status:
            if done.status != ExitCode.UNAVAILABLE or time.monotonic() > end:
                raise DrillFailed("send_failed", f"agent-mailer send ended with {done.status}: {_said(done.output)}")
            time.sleep(POLL)
        taken = msgspec.json.decode(done.output[done.output.index("{") :], type=_Answered)
        self.evidence.sent.append(Sent(thread, taken.id, subject))

    @property
    def waiting(self) -> int:
        return len(self.evidence.sent) - len(self.settled())

    def settled(self) -> Sequence[str]:
        with suppress(OSError):
            return (self.workdir / STATE_DIRECTORY / "processed.txt").read_text("utf-8").splitlines()
        return ()

    def watch(self) -> None:
        """Start a watcher where none runs; one that found the workdir still held (75) is started again."""
        if self._watcher is not None and (status := self._watcher.status()) is not None:
            if status not in self._let_go:
                raise DrillFailed("watcher_ended", f"a watcher ended with {status} that nobody had stopped")
            self._watcher = None
        if self._watcher is None:
            self._watcher = self._stage.start_apart(NAME, "watch", "--no-interactive", "--workdir", str(self.workdir))

    def strike_watcher(self, number: signal.Signals) -> None:
        """Send the signal, and see the watcher end."""
        watcher = self._watcher
        if watcher is not None and (identity := identify(watcher.pid)) is not None:
            send(identity, number)
            self._until(lambda: watcher.status() is not None, f"the watcher ended after {number.name}")
        # Who is interrupted while it ends finds it again as all is ended.
        self._watcher = None

    def strike_turn(self, choose: Callable[[Sequence[ProcessIdentity]], ProcessIdentity], wait: float) -> bool:
        """Kill one process of a turn that runs, `wait` seconds after one was seen; False where none came."""
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            for record in self._open_turns():
                time.sleep(wait)
                if found := members(record.turn_id, record.process):
                    self.evidence.killed_in[record.envelope.id] += 1
                    return send(choose(found), signal.SIGKILL)
            time.sleep(POLL)
        return False

    def fill_disk(self, seconds: float) -> None:
        """Leave no room on the disk for that long, over a watcher with mail; every turn meanwhile may have failed."""
        # A watcher that starts just then says that there is no room, and ends.
        self._let_go.add(ExitCode.FAILED)
        before = len(self._lines())
        met = [record.envelope.id for record in self._open_turns()]
        filler = self.folder / "filler"
        with filler.open("wb") as stream, suppress(OSError):
            while True:
                os.write(stream.fileno(), _ZEROS)
        time.sleep(seconds)
        filler.unlink()
        met += [record.envelope.id for record in self._open_turns()]
        self.evidence.killed_in.update([*met, *_begun(self._lines()[before:])])

    def finish(self) -> None:
        """Wait until every message is settled and its answer has arrived, then stop the watcher and take stock."""
        self.watch()
        seen, since = -1, time.monotonic()
        while self.waiting > 0:
            if (now := len(self.settled()) + len(self._lines())) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                break
            self.watch()
            time.sleep(POLL)
        self.strike_watcher(signal.SIGTERM)
        self.evidence.runs = _begun(self._lines())
        self.evidence.answers = self._answers()
        for turn in self._turns():
            self.evidence.left += [f"process {left.pid} of turn {turn.name}" for left in members(turn.name, None)]

    def close(self) -> None:
        """End everything, whatever happened; may be called again."""
        self.strike_watcher(signal.SIGKILL)
        self._stage.close()
        for turn in self._turns():
            asyncio.run(sweep(turn.name, grace=0.0))

    def remove(self) -> None:
        self._stage.remove()

    def _answers(self) -> list[str]:
        words = ("mail", "inbox", *self._stage.to_mailbox, "--all", "--limit", "0", "--json")
        listed = msgspec.json.decode(self._stage.run(*words), type=_Inbox)
        wanted = {reply_to(one.subject) for one in self.evidence.sent}
        return [one.subject for one in listed.messages if one.subject in wanted]

    def _lines(self) -> list[str]:
        return self._witness.read_text("utf-8").splitlines() if self._witness.exists() else []

    def _turns(self) -> list[Path]:
        return sorted((self.workdir / STATE_DIRECTORY / "turns").glob("*-*"))

    def _open_turns(self) -> list[TurnRecord]:
        found = []
        for turn in self._turns():
            if not (turn / "settled").exists():
                with suppress(OSError, msgspec.DecodeError):
                    found.append(msgspec.json.decode((turn / "turn.json").read_bytes(), type=TurnRecord))
        return [record for record in found if record.process is not None]

    def _until(self, what: Callable[[], bool], name: str) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            if time.monotonic() > end:
                raise DrillFailed("drill_stuck", f"not within {PATIENCE:.0f} s: {name}")
            time.sleep(POLL)


def _said(output: str) -> str:
    """The fault's own words, where what a command printed is one."""
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(output, type=_Refused).error.message
    return output.strip()


def _begun(lines: Sequence[str]) -> list[str]:
    """The messages whose agent began, by the witness's lines."""
    return [words[1] for line in lines if (words := line.split())[0] == "start"]
