"""Mail whose agent asks a person before it acts, under kills of the watcher, of the agent, and of who answers.

Each message asks about one act of its own. Whatever is killed: it is asked about once, an allowed act is done at most
once, a denied one never, and its sender hears one answer that says which.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import CLI, Desk, until
from tests.pages import PROJECT
from tests.proved import Harness, proved
from tests.sizes import sizes

from agent_mailer.process.tree import members
from agent_mailer.state.approvals import Approval

SEED = int(os.environ.get("KILL_LOOP_SEED", "20261127"))
THREADS = 4
MOST_WAITING = 6


class Victim(StrEnum):
    WATCHER = "watcher"
    HANDED_OVER = "watcher, by its hand-over"
    AGENT = "agent"
    WHO_ANSWERS = "who answers"


class AskingLoop:
    def __init__(self, base: Path, chance: random.Random) -> None:
        self.desk = desk = Desk(base)
        self.chance = chance
        self.done = base / "done"
        (base / "plan.json").write_text(json.dumps({"done": str(self.done), "use": [*CLI, "approvals", "use"]}))
        desk.configure(
            command=[sys.executable, "-m", "tests.asking_agent", str(base / "plan.json")],
            command_output="jsonl",
            permission_mode="acceptEdits",
            max_parallel_turns=2,
            max_retries=1000,
            max_starts=1000,
            env={"set": {"PYTHONPATH": str(PROJECT)}},
            guards={"turns_per_hour": 0, "pair_rounds": 0, "ring_rounds": 0, "rounds_per_day": 0, "new_threads": 0},
        )
        desk.tell()
        self.sent: list[str] = []
        self.meant: dict[str, str] = {}
        """By message what a person has wanted first; whether that counts, who killed his command knows."""
        self.kills: Counter[Victim] = Counter()
        self.killed: set[str] = set()
        """Messages of which an agent was killed."""
        self.watcher: subprocess.Popen[bytes] | None = None

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self._send()
            self._watch()
            victim = self.chance.choice(list(Victim))
            time.sleep(self.chance.uniform(0.0, 0.5))  # the kill is to fall anywhere, not on something observable
            if victim is Victim.AGENT:
                self._answer()
                time.sleep(self.chance.uniform(0.0, 0.6))
                self._kill_an_agent()
            elif victim is Victim.WHO_ANSWERS:
                self._answer(kill_after=self.chance.uniform(0.05, 0.4))
            else:
                self._answer()
                self._end(signal.SIGUSR1 if victim is Victim.HANDED_OVER else signal.SIGKILL)
            self.kills[victim] += 1
        until(self._has_settled, "all is answered and settled", 120)

    def _has_settled(self) -> bool:
        self._watch()
        for one in self._open():
            self._answer_to(one)
        return len(self.settled()) >= len(self.sent) and self._at_rest()

    def end(self) -> None:
        self._end(signal.SIGKILL)
        self.desk.end_turns()

    def settled(self) -> list[str]:
        path = self.desk.state / "processed.txt"
        return path.read_text().splitlines() if path.exists() else []

    def questions(self) -> list[Approval]:
        return self.desk.place().state.approvals.all()

    def _open(self) -> list[Approval]:
        return self.desk.place().state.approvals.open()

    def _at_rest(self) -> bool:
        return all((turn / "settled").exists() for turn in self._turns())

    def _turns(self) -> list[Path]:
        folder = self.desk.state / "turns"
        return list(folder.iterdir()) if folder.exists() else []

    def _send(self) -> None:
        while len(self.sent) - len(self.settled()) < MOST_WAITING:
            self.sent.append(self.desk.send(thread=f"t{len(self.sent) % THREADS}"))

    def _watch(self) -> None:
        if self.watcher is None or self.watcher.poll() is not None:
            self.watcher = self.desk.start_watch(stderr=subprocess.DEVNULL)

    def _end(self, number: signal.Signals) -> None:
        if self.watcher is not None:
            with suppress(ProcessLookupError):
                self.watcher.send_signal(number)
            self.watcher.wait()
            self.watcher = None

    def _kill_an_agent(self) -> None:
        turns = [turn for turn in self._turns() if not (turn / "exit").exists()]
        for turn in turns:
            record = turn / "turn.json"
            message = json.loads(record.read_text())["envelope"]["id"] if record.exists() else ""
            for process in members(turn.name, None):
                with suppress(ProcessLookupError, OSError):
                    if "asking_agent" in procfs.said(process.pid, "cmdline"):
                        self.killed.add(message)
                        os.kill(process.pid, signal.SIGKILL)

    def _answer(self, kill_after: float | None = None) -> None:
        if waiting := self._open():
            self._answer_to(self.chance.choice(waiting), kill_after)

    def _answer_to(self, one: Approval, kill_after: float | None = None) -> None:
        verb = self.chance.choice(("approve", "approve", "deny"))
        words = [*CLI, verb, one.code, "-C", str(self.desk.workdir)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
            if kill_after is not None:
                time.sleep(kill_after)
                command.kill()
            command.wait()

    def check(self) -> None:
        state = self.desk.place().state
        assert sorted(self.settled()) == sorted(self.sent), "every message is settled exactly once"
        questions = Counter(one.message_id for one in self.questions())
        assert set(questions) == set(self.sent)
        notices = self.desk.notices()
        assert {one["kind"] for one in notices} == {"approval"}, notices
        told = Counter(message for _, message in {(one["id"], one.get("message_id", "")) for one in notices})
        # Beyond so many a day they are told of all together.
        many = told.pop("", 0)
        assert told == questions if not many else told <= questions, "each question is told under one id"
        acts = Counter(self.done.read_text().split()) if self.done.exists() else Counter()
        answers = {one.refs[0]: one.body.strip() for one in self.desk.inbox()}
        assert len(self.desk.inbox()) == len(self.sent), "one answer each"
        for one in self.questions():
            answer = state.approvals.answer_to(one.id)
            assert answer is not None
            assert one.over
            message = one.message_id
            if answer.verdict == "deny":
                assert answers[message].startswith("deny:"), answers[message]
        for message in self.sent:
            said = answers[message]
            assert acts[message] <= 1, f"{message}: done {acts[message]} times"
            if said.startswith("deny:"):
                assert acts[message] == 0
            elif said.startswith(("unknown:", "not to be done:")):
                assert message in self.killed, f"{message}: {said}, and nobody has killed its agent"
            else:
                assert said == "done"
                assert acts[message] == 1
        proved(Harness.KILL_LOOPS, kills=self.kills.total(), messages=len(self.sent), answers=len(answers))

    def report(self) -> str:
        said = Counter(message.body.strip().partition(":")[0] for message in self.desk.inbox())
        kills = ", ".join(f"{victim} {count}" for victim, count in sorted(self.kills.items()))
        return f"{len(self.sent)} messages, {dict(said)}; killed: {kills}"


@pytest.mark.parametrize("rounds", sizes(quick=3, long=25, soak=400)[1:])
def test_whatever_is_killed_an_allowed_act_is_done_once(tmp_path: Path, rounds: int) -> None:
    loop = AskingLoop(tmp_path, random.Random(SEED))
    try:
        loop.run(rounds)
        loop.end()
        loop.check()
    finally:
        loop.end()
    sys.stdout.write(loop.report() + "\n")
