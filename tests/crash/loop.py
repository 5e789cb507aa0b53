"""What every kill loop is made of: mail, watchers on both sides, kills, and what an outside witness must find after."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tests import procfs
from tests.containers import Container
from tests.crash.children import Children
from tests.crash.killed_agent import HOPELESS, PARTS
from tests.crash.replay import Line, replay, swapped, swaps
from tests.desk import Desk, until
from tests.proved import Harness, proved
from tests.typed import COMMAND

from agent_mailer.errors import ExitCode
from agent_mailer.outcomes import Outcome
from agent_mailer.process.tree import members, sweep
from agent_mailer.state.records import DeadLetter, TurnRecord

THREADS = ("red", "green")
SEED = int(os.environ.get("KILL_LOOP_SEED", "20261121"))
MANY = 100
"""Rounds of a loop that is long enough for turns side by side as well."""
RUNS_OF_THE_HOPELESS = 4
MOST_WAITING = 5
SWAPS = 20
"""So many times two lines of the log change places, and the replay has to tell."""
AGENT = Path(__file__).with_name("killed_agent.py")

_RECEIVES = """cat >/dev/null
printf '%s %s\\n' "$AGENT_MAILER_MESSAGE_ID" "$(tail -n 1 "$AGENT_MAILER_TURN_DIR/message.md")" >>"$0" && sync "$0"
"""


class Victim(StrEnum):
    """Whom a round kills; beside it, now and then, the watcher."""

    WATCHER = "watcher"
    HANDED_OVER = "watcher, by its hand-over"
    AGENT = "agent"
    HOLDER = "holder"
    TOOL = "tool"
    RECIPIENT = "recipient, at a claim"
    BROKER = "broker"
    CONTAINER = "container, with all it has"


OF_A_TURN = (Victim.AGENT, Victim.HOLDER, Victim.TOOL)


class Workdir:
    """One agent's workdir and its watcher."""

    def __init__(self, path: Path, children: Children) -> None:
        self.path = path
        self.state = path / ".agent-mailer"
        self.words = path.with_name(f"{path.name}.stderr")
        self._children = children
        self._pid = 0

    def watch(self) -> None:
        """Start a watcher where none runs, also where the last one has met what a killed one still held (75)."""
        if self._pid and procfs.state(self._pid) == "Z":
            status = self._children.wait(self._pid).status
            assert status == ExitCode.BUSY, f"{status}: {self.words.read_text()}"
            self._pid = 0
        if not self._pid:
            argv = ("watch", "--no-interactive", "--workdir", str(self.path))
            self._pid = self._children.start(*argv, stderr=self.words)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the signal that ends the watcher, and see it end."""
        if not self._pid:
            return
        pid, self._pid = self._pid, 0
        os.kill(pid, number)
        status = self._children.wait(pid).status
        # Before it obeys signals a watcher dies of any.
        assert status == -number or (number is not signal.SIGKILL and status == 0), (
            f"{status}: {self.words.read_text()}"
        )

    def settled(self) -> list[str]:
        path = self.state / "processed.txt"
        return path.read_text().splitlines() if path.exists() else []

    def turns(self) -> list[Path]:
        folder = self.state / "turns"
        return sorted(folder.iterdir()) if folder.exists() else []

    def records(self) -> list[TurnRecord]:
        found = [turn / "turn.json" for turn in self.turns()]
        return [msgspec.json.decode(path.read_bytes(), type=TurnRecord) for path in found if path.exists()]

    def log(self) -> list[Line]:
        """Whole lines: one that a kill has torn counts as none."""
        lines = (self.state / "log.jsonl").read_text().splitlines()
        return [msgspec.json.decode(line) for line in lines if line.endswith("}")]

    def at_rest(self) -> bool:
        return all((turn / "settled").exists() for turn in self.turns())


class ContainedWorkdir(Workdir):
    """One whose watcher is process 1 of a container: what kills it kills its turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / ".agent-mailer"
        self.words = path.with_name(f"{path.name}.stderr")
        self._container: Container | None = None
        self._known: set[str] = set()

    def watch(self) -> None:
        if self._container is None:
            words = [COMMAND, "watch", "--no-interactive", "--workdir", str(self.path)]
            with self.words.open("ab") as stderr:
                self._container = Container(words, self.path, stdout=subprocess.DEVNULL, stderr=stderr)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        container, self._container = self._container, None
        if container is None:
            return
        if number is signal.SIGKILL:
            container.kill()
        else:
            assert container.stop_at_any_moment() in (0, 128 + signal.SIGTERM), self.words.read_text()

    def cut_short(self) -> list[str]:
        """The messages of those turns that were ended, each turn once: what is open was killed, or settles as such."""
        found = [record for record in self.records() if record.turn_id not in self._known and _is_cut_short(record)]
        self._known |= {record.turn_id for record in found}
        return [record.envelope.id for record in found]


def _is_cut_short(record: TurnRecord) -> bool:
    return record.settlement is None or record.settlement.outcome is Outcome.INTERRUPTED


class Load(msgspec.Struct):
    """What was asked for. `hopeless`: messages whose agent fails whatever happens."""

    sent: list[tuple[str, str]] = []
    """Thread and id, in the order of sending."""
    hopeless: set[str] = set()
    kills: Counter[Victim] = msgspec.field(default_factory=Counter)
    killed: Counter[str] = msgspec.field(default_factory=Counter)
    """By message: how often its agent or holder was killed."""


class KillLoop:
    """`desk` answers in two parts (`killed_agent`); `recipient` gets them, and its watcher is killed as well."""

    def __init__(
        self,
        desk: Desk,
        children: Children,
        chance: random.Random,
        *,
        parallel: int,
        sender: str,
        recipient: Mapping[str, Any],
        kill_broker: Callable[[], None] = lambda: None,
        contained: bool = False,
    ) -> None:
        """`sender`: how `desk.send` calls the recipient; `recipient`: its settings where they are not the desk's."""
        self.desk = desk
        self.chance = chance
        self.load = Load()
        self._sender = sender
        self._kill_broker = kill_broker
        # More turns and rounds than the guards let through.
        guards = {"turns_per_hour": 0, "pair_rounds": 0, "ring_rounds": 0, "rounds_per_day": 0, "new_threads": 0}
        common = {"max_parallel_turns": parallel, "auto_reply": "never", "guards": guards}
        desk.configure(
            command=[sys.executable, "-S", "-E", str(AGENT), str(desk.base)],
            max_retries=RUNS_OF_THE_HOPELESS - 1,
            max_starts=1000,
            **common,
        )
        self.coder = ContainedWorkdir(desk.workdir) if contained else Workdir(desk.workdir, children)
        self.recipient = Workdir(desk.base / "recipient", children)
        self.received = desk.base / "received"
        self.recipient.state.mkdir(parents=True, mode=0o700)
        command = ["/bin/sh", "-c", _RECEIVES, str(self.received)]
        config = self.recipient.state / "config.toml"
        config.write_text(tomlkit.dumps({**desk.settings, "command": command, **common, **recipient}))
        config.chmod(0o600)

    def run(self, rounds: int, victims: tuple[Victim, ...]) -> None:
        """A kill a round, everybody in turn, by lot; then all comes to its end."""
        order: list[Victim] = []
        for _ in range(rounds):
            order = order or self.chance.sample(victims, len(victims))
            victim = order.pop()
            until(partial(self._round, victim), f"a {victim} to kill")
            self.load.kills[victim] += 1
        self._settle()

    def end(self) -> None:
        """End what is left of watchers and turns."""
        for side in (self.coder, self.recipient):
            with suppress(AssertionError):
                side.end()
            for turn in side.turns():
                asyncio.run(sweep(turn.name, grace=0.0))

    def _round(self, victim: Victim) -> bool:
        """Mail, both watchers, and a kill; False where nobody was to be killed just now."""
        self._send()
        self.coder.watch()
        self.recipient.watch()
        if victim in OF_A_TURN:
            return self._kill_in_a_turn(victim)
        if victim is Victim.RECIPIENT:
            before = len(self.recipient.turns())
            if not _soon(lambda: len(self.recipient.turns()) > before):
                return False
            time.sleep(self.chance.choice((0.0, 0.01, 0.03)))
            self.recipient.end()
            return True
        time.sleep(self.chance.uniform(0.0, 0.5))  # the kill is to fall anywhere, not on something observable
        if victim is Victim.BROKER:
            self._kill_broker()
        elif isinstance(self.coder, ContainedWorkdir):
            self.coder.end(self.chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            self.load.killed.update(self.coder.cut_short())
        else:
            self.coder.end(signal.SIGUSR1 if victim is Victim.HANDED_OVER else signal.SIGKILL)
        return True

    def _send(self) -> None:
        for thread in THREADS:
            waiting = len(self.load.sent) - len(self.coder.settled())
            if waiting < MOST_WAITING and (not waiting or self.chance.random() < 0.7):
                body = HOPELESS if self.chance.random() < 0.1 else "please"
                sent = self.desk.send(body, thread=thread, sender=self._sender)
                self.load.sent.append((thread, sent))
                if body == HOPELESS:
                    self.load.hopeless.add(sent)

    def _kill_in_a_turn(self, victim: Victim) -> bool:
        wanted = "tool" if victim is Victim.TOOL else "start"
        seen = len(self.desk.marks())
        if not _soon(lambda: any(mark["mark"] == wanted for mark in self.desk.marks()[seen:])):
            return False
        mark = next(mark for mark in self.desk.marks()[seen:] if mark["mark"] == wanted)
        time.sleep(self.chance.uniform(0.0, 0.15))
        try:
            pid = os.getsid(mark["pid"]) if victim is Victim.HOLDER else mark["pid"]
            if pid not in {process.pid for process in members(mark["turn"], None)}:
                return False
            if victim is not Victim.TOOL:
                self.load.killed[mark["message"]] += 1
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        if self.chance.random() < 0.3:
            self.coder.end()
        return True

    def _settle(self) -> None:
        # Also the other: what a killed one had reserved it gives back when it watches again.
        self.coder.watch()
        self.recipient.watch()
        until(lambda: len(self.coder.settled()) >= len(self.load.sent) and self.coder.at_rest(), "the messages settled")
        letters = self.desk.state / "dead_letter.jsonl"
        dead = letters.read_bytes().count(b"\n") if letters.exists() else 0
        count = dead + len(PARTS) * (len(self.load.sent) - dead)
        until(
            lambda: len(self.recipient.settled()) >= count and self.recipient.at_rest(),
            f"{count} answers and notices received",
        )
        self.coder.end(signal.SIGTERM)
        self.recipient.end(signal.SIGTERM)

    def check(self) -> None:
        """Lost 0, twice 0; runs as many as kills explain; threads in their order; nobody left behind."""
        load, marks = self.load, self.desk.marks()
        ids = [message for _, message in load.sent]
        assert sorted(self.coder.settled()) == sorted(ids), "every message is settled exactly once"
        runs = Counter(mark["message"] for mark in marks if mark["mark"] == "start")
        cut_short = {record.turn_id for record in self.coder.records() if _is_cut_short(record)}
        # A turn that the end of its container has cut short is no attempt.
        attempts = Counter(
            mark["message"] for mark in marks if mark["mark"] == "start" and mark["turn"] not in cut_short
        )
        dead = self._dead()
        assert load.hopeless <= set(dead), "the hopeless are dead"
        for message in ids:
            mended = load.killed[message]
            if message in dead:
                assert dead[message] == 1, f"{message} is dead once"
                assert attempts[message] == RUNS_OF_THE_HOPELESS, f"{message}: dead after {attempts[message]} attempts"
                assert message in load.hopeless or mended >= RUNS_OF_THE_HOPELESS, f"{message} is dead for no reason"
            else:
                assert 1 <= runs[message] <= 1 + mended, f"{message}: {runs[message]} runs, {mended} kills"
        for record in self.coder.records():
            most = RUNS_OF_THE_HOPELESS if record.envelope.id in dead else 1 + load.killed[record.envelope.id]
            assert record.attempt <= most, f"{record.envelope.id}: attempt {record.attempt} of {most}"
        received = [line.split(" ", 1) for line in self.received.read_text().splitlines()]
        answers = [f"{part} {message}" for message in ids if message not in dead for part in PARTS]
        assert sorted(body for _, body in received) == sorted(answers), "no answer is lost, none comes twice"
        taken = Counter(self.recipient.settled())
        assert set(taken.values()) == {1}
        assert len(taken) == len(answers) + len(dead), "one notice for each that was given up"
        assert {message for message, _ in received} <= set(taken)
        assert not [mark for mark in marks if mark["mark"] == "overlap"], "turns of one thread overlap"
        for thread in THREADS:
            order = [message for name, message in load.sent if name == thread]
            ran = [mark["message"] for mark in marks if mark["mark"] == "start" and mark["message"] in order]
            assert [message for message, _ in groupby(ran)] == order, "a thread in its order"
        for side in (self.coder, self.recipient):
            for turn in side.turns():
                assert members(turn.name, None) == [], "no process left behind"
            self._replay(side.log())
        proved(Harness.KILL_LOOPS, kills=load.kills.total(), messages=len(ids), answers=len(answers))

    def _replay(self, lines: list[Line]) -> None:
        """Each line may come where it stands; in another order it may not."""
        faults = replay(lines)
        of_them = [line for line in lines if any(str(line.get("turn_id")) in fault for fault in faults)]
        assert not faults, "\n".join([*faults, *map(str, of_them)])
        places = swaps(lines)
        chosen = self.chance.sample(places, min(SWAPS, len(places)))
        for place in chosen:
            assert replay(swapped(lines, place)), f"lines {place + 1} and {place + 2} may be in any order"
        proved(Harness.REPLAY, lines_of_logs=len(lines), swapped_lines_found=len(chosen))

    def report(self) -> str:
        kills = ", ".join(f"{victim} {count}" for victim, count in sorted(self.load.kills.items()))
        starts = sum(mark["mark"] == "start" for mark in self.desk.marks())
        return f"{len(self.load.sent)} messages, {starts} runs, {len(self._dead())} dead; killed: {kills}"

    def _dead(self) -> Counter[str]:
        path = self.desk.state / "dead_letter.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return Counter(msgspec.json.decode(line, type=DeadLetter).msg_id for line in lines)


def _soon(what: Callable[[], object], patience: float = 2.0) -> bool:
    with suppress(AssertionError):
        until(what, "", patience)
        return True
    return False
