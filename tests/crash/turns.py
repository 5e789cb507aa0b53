"""Small turns that a crash test takes apart: what the agent does, and what must be true when all is over."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path
from shutil import rmtree

import msgspec
from tests.amq_tree import inbox, write
from tests.crash.children import Children
from tests.crash.points import Point
from tests.desk import Desk, until

from agent_mailer.mailbox.maildir.layout import make_root
from agent_mailer.mailbox.port import Message, Priority
from agent_mailer.outcomes import Outcome
from agent_mailer.process.tree import members
from agent_mailer.state.approvals import Answer, By, Verdict
from agent_mailer.state.turns import TurnStore, shares
from agent_mailer.state.workdirs import user_state

_BEGIN = r"""
prompt=$(cat)
ids=${AGENT_MAILER_MESSAGE_IDS:-$AGENT_MAILER_MESSAGE_ID}
for id in $ids; do echo "start $id $AGENT_MAILER_TURN_ID" >>"$AGENT_MAILER_WORKDIR/../witness"; done
end() { for id in $ids; do echo "end $id" >>"$AGENT_MAILER_WORKDIR/../witness"; done; }
say() { printf '%s\n' "$1"; }
"""
_ANSWER = r"""say '{"type":"session","id":"s-1"}'; say '{"type":"progress","text":"at it"}'
end; say '{"type":"result","text":"the answer"}'"""
_LIMITED_FIRST = (
    r"""[ -e "$AGENT_MAILER_WORKDIR/../been" ] || {
: >"$AGENT_MAILER_WORKDIR/../been"; end
say '{"type":"session","id":"s-1"}'; say '{"type":"progress","text":"at it"}'
say '{"type":"result","outcome":"limited","detail":"enough for today"}'; exit 0; }
"""
    + _ANSWER
)
_FAILS = r"""end; say '{"type":"result","outcome":"failed","detail":"no such luck"}'"""
_STAGES = r"""cd "$AGENT_MAILER_TURN_DIR/outbox"
stage() {
  printf '{"key":"%s","action":"reply","created":%s,"body":"%s","at_once":%s}' "$1" "$(date +%s)" "$2" "$3" >".$1"
  mv ".$1" "$1.json"
}
# What has left of an attempt that was broken off is not written again: it is told so.
case $prompt in *"Already sent from it"*) ;; *) stage k1 "half way" true ;; esac
stage k2 "the work" false; stage k3 "and more" false
end; say '{"type":"result","text":"not sent: it has written"}'"""
_STAGES_ONE = r"""cd "$AGENT_MAILER_TURN_DIR/outbox"
[ -e "$AGENT_MAILER_WORKDIR/../first" ] || {
: >"$AGENT_MAILER_WORKDIR/../first"
printf '{"key":"k1","action":"reply","created":%s,"body":"first","about":"%s"}' "$(date +%s)" "${ids%% *}" >.k1
mv .k1 k1.json; }
end; say '{"type":"session","id":"s-1"}'; say '{"type":"result","text":"the answer"}'"""
# It acts where it was told yes and is the first to say so; `set -C` makes a mark once, as `approvals use` does.
_ASKS = r"""told=$(cat "$AGENT_MAILER_APPROVALS" 2>/dev/null | grep -o '"id":"q-[0-9a-f]*"' | cut -d'"' -f4)
say '{"type":"session","id":"s-1"}'
[ "$told" ] || { end; say '{"type":"result","outcome":"asked","tool":"Bash","input":{"command":"push"}}'; exit 0; }
grep -q '"word":"allow"' "$AGENT_MAILER_APPROVALS" || { end; say '{"type":"result","text":"not done"}'; exit 0; }
(set -C; : >"$AGENT_MAILER_TURN_DIR/outbox/used-$told") || exit 1
echo "$told" >>"$AGENT_MAILER_WORKDIR/../acts"
end; say '{"type":"result","text":"the answer"}'"""

NOTICE = "This message was given up"


class Case(msgspec.Struct, frozen=True):
    """`runs`: how often the agent starts on a message if only watchers die; `answers`: how each that arrives begins."""

    name: str
    script: str
    runs: int = 1
    answers: tuple[str, ...] = ("the answer",)
    max_retries: int = 3
    pause: float = 0.0
    """Seconds for which the agent works."""
    routed: bool = False
    """The message comes from another project, and its answer goes there."""
    batch: int = 0
    """So many low messages of one thread instead of the one."""
    asks: bool = False
    """A person is asked, says yes once, and it is done."""

    def set_up(self, desk: Desk) -> list[str]:
        """Configure the agent and send it its mail; returns the ids."""
        desk.configure(command_output="jsonl", max_retries=self.max_retries, stop_grace=0, batch_low=bool(self.batch))
        if self.asks:
            desk.configure(permission_mode="acceptEdits")
            desk.tell()
        desk.shell(f"{_BEGIN}{f'sleep {self.pause}' if self.pause else ''}\n{self.script}")
        if self.batch:
            return [desk.send(f"chore {n}", thread="chores", priority=Priority.LOW) for n in range(self.batch)]
        return [self._from_away(desk) if self.routed else desk.send()]

    def inbox(self, desk: Desk) -> list[Message]:
        """What has reached the sender."""
        return inbox(desk.base / "away", "user") if self.routed else desk.inbox()

    def _from_away(self, desk: Desk) -> str:
        make_root(desk.disk, desk.base / "away", ["user"])
        amqrc = desk.base / ".amqrc"
        amqrc.write_text('{"root": "mail", "project": "home", "peers": {"away": "away"}}')
        amqrc.chmod(0o600)
        return write(desk.root, "coder", "user", reply_to="user", reply_project="away")


ANSWER = Case("answer", _ANSWER)
LIMITED = Case("limited, then answered", _LIMITED_FIRST, runs=2)
DEAD = Case("dead letter", _FAILS, answers=(NOTICE,), max_retries=0)
STAGED = Case("three staged replies", _STAGES, answers=("half way", "the work", "and more"))
BATCH = Case("three low messages as one", _STAGES_ONE, answers=("first", "the answer", "the answer"), batch=3)
ASKING = Case("a question and its yes", _ASKS, runs=2, asks=True)
ROUTED = Case("three replies to another project", _STAGES, answers=STAGED.answers, routed=True)


class Rig:
    """One desk with one message, and the real watchers that work on it."""

    def __init__(self, children: Children, base: Path, case: Case, desk: Desk | None = None) -> None:
        self.children = children
        self.case = case
        self.desk = desk or Desk(base)
        self.sent = case.set_up(self.desk)
        self.words = base / "stderr"
        self.codes: set[str] = set()
        """Every code under which a person was ever asked."""
        # An earlier desk at the same path may have asked, too; and each life is to begin as the first of its user did.
        rmtree(user_state(), ignore_errors=True)

    def argv(self, *more: str) -> tuple[str, ...]:
        return ("watch", "--no-interactive", "--workdir", str(self.desk.workdir), *more)

    def watch(self, point: Point | None = None, trace: Path | None = None) -> int:
        """One `watch --once`; returns its status. Where it was killed, its agent has had the time to begin."""
        status = self.children.run(*self.argv("--once"), stderr=self.words, point=point, trace=trace)
        if status < 0:
            for turn in self.turns():
                until(partial(self._has_begun_or_never_will, turn), f"the agent of {turn}")
        return status

    def answer(self) -> bool:
        """A person says yes to all that is asked; whether anything was."""
        book = self.desk.place().state.approvals
        self.codes |= {one.code for one in book.all()}
        asked = book.open()
        for one in asked:
            book.answer(one, Answer(Verdict.ALLOW, time.time(), By.COMMAND))
        return bool(asked)

    def trace(self) -> list[str]:
        """The calls of one `watch --once`, by name."""
        path = self.desk.base / "trace"
        self.watch(Point(), path)
        return path.read_text().splitlines()

    def recover(self) -> None:
        """Watchers on a whole disk until the message is settled."""
        for _ in range(6):
            self.desk.resume()
            status = self.watch()
            assert status in (0, 1), self.words.read_text()
            if self.case.asks:
                self.answer()
            if set(self.sent) <= set(self.processed()):
                return
        raise AssertionError(f"never settled: {self.words.read_text()}")

    def processed(self) -> list[str]:
        path = self.desk.state / "processed.txt"
        return path.read_text().splitlines() if path.exists() else []

    def turns(self) -> list[str]:
        folder = self.desk.state / "turns"
        return sorted(os.listdir(folder)) if folder.exists() else []

    def runs(self) -> int:
        return self._witness().count("start ")

    def _witness(self) -> str:
        path = self.desk.base / "witness"
        return path.read_text() if path.exists() else ""

    def _has_begun_or_never_will(self, turn: str) -> bool:
        """A holder whose gate was not opened leaves with its watcher."""
        return f" {turn}\n" in self._witness() or not members(turn, None)

    def check(self, why: str, *, most_runs: int | None = None) -> None:
        """Lost 0, twice 0; exactly the runs of the case, or at most `most_runs`, and no attempt beside the agent's own
        failures; recovering again changes nothing.
        """
        desk, case = self.desk, self.case
        lines = [line for line in self.processed() if line in self.sent]
        assert sorted(lines) == sorted(self.sent), f"{why}: settled exactly once"
        answers = sorted(message.body for message in case.inbox(desk))
        assert len(answers) == len(case.answers), f"{why}: no answer lost, none twice: {answers}"
        assert all(any(a.startswith(wanted) for a in answers) for wanted in case.answers), f"{why}: {answers}"
        dead = desk.state / "dead_letter.jsonl"
        letters = dead.read_text().count("\n") if dead.exists() else 0
        assert letters == (1 if case is DEAD else 0), f"{why}: dead letters"
        if most_runs is None:
            assert self.runs() == case.runs * len(self.sent), f"{why}: one run a message and no more"
        else:
            assert 1 <= self.runs() <= most_runs, f"{why}: at most {most_runs} runs"
        assert not list((desk.root / "agents/coder/inbox/new").iterdir()), f"{why}: nothing waits"
        retries = desk.state / "retries.json"
        left_over = retries.read_text() if retries.exists() else ""
        assert not any(sent in left_over for sent in self.sent), f"{why}: nothing is to be tried again"
        store = TurnStore(desk.place().folder)
        assert store.open_ids() == [], f"{why}: no turn is open"
        self._check_count(store, why, exact=most_runs is None)
        for turn in self.turns():
            assert members(turn, None) == [], f"{why}: no process left behind"
        left = [str(path.relative_to(desk.base)) for path in desk.state.rglob(".tmp.*")]
        assert left == [], f"{why}: an interrupted write was left: {left}"
        if case.asks:
            self._check_question(why)
        before = content(desk)
        self.watch()
        assert content(desk) == before, f"{why}: recovered twice"

    def _check_question(self, why: str) -> None:
        """It left once, under one code; the act was done once, and is told as done."""
        [asked] = self.desk.place().state.approvals.all()
        assert self.codes == {asked.code}, f"{why}: its code stays the same"
        assert (bool(asked.used), asked.granted, asked.over) == (True, "", True), f"{why}: {asked}"
        told = self.desk.notices()
        ids = {(one["id"], one["question"], one["code"].replace("-", "")) for one in told}
        assert ids == {(f"approval-{asked.id}", asked.id, asked.code)}, f"{why}: told of one question: {told}"
        assert (self.desk.base / "acts").read_text().split() == [asked.id], f"{why}: done exactly once"

    def _check_count(self, store: TurnStore, why: str, *, exact: bool) -> None:
        """A death or a stop of the watcher is no attempt; a start is counted where the gate was opened, and where a
        record that was torn cannot tell (I6).
        """
        turns = [record for turn in self.turns() if (record := store.load(turn)) is not None]
        records = [one for record in turns for one in shares(record)]
        ended = [record.settlement.outcome for record in records if record.settlement is not None]
        counted = [outcome for outcome in ended if outcome.counts]
        assert counted == ([Outcome.FAILED] if self.case is DEAD else []), f"{why}: {ended}"
        assert ended.count(Outcome.DONE) == (0 if self.case is DEAD else len(self.sent)), f"{why}: {ended}"
        assert {record.attempt for record in records} == {1}, f"{why}: attempts"
        if exact:
            torn = len(list(self.desk.state.glob("turns/*/turn.json.corrupt-*")))
            # A turn that asks is no start.
            starts, runs = max(record.starts for record in records), self.runs() // len(self.sent) - self.case.asks
            assert runs <= starts <= runs + torn, f"{why}: {starts} starts, {runs} runs"


def content(desk: Desk) -> dict[str, bytes]:
    """All that must not change any more. The log and the lock may."""
    volatile = ("log.jsonl", ".lock", "watcher.pid", "stderr")
    return {
        str(path.relative_to(desk.base)): path.read_bytes()
        for path in sorted(desk.base.rglob("*"))
        if path.is_file() and path.name not in volatile
    }


def end_turns(desk: Desk) -> None:
    """End what is left of the turns of a test that failed."""
    asyncio.run(_end(desk))


async def _end(desk: Desk) -> None:
    from agent_mailer.process.tree import sweep

    turns = desk.state / "turns"
    for turn in turns.iterdir() if turns.exists() else ():
        await sweep(turn.name, grace=0.0)
