"""A watcher's world on a simulated clock: real state, real folder mailbox, real agents, a disk and a life that fail.

`World` does what the model test asks for, one step at a time, and keeps what an outside witness saw.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec
from tests.desk import Desk
from tests.refusing import Died

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Automatic, Envelope, Mailbox, Message, Priority
from agent_mailer.outcomes import Outcome
from agent_mailer.process.tree import sweep
from agent_mailer.state import State
from agent_mailer.state.approvals import Answer, By, Verdict
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.records import AfterStop, PauseReason, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.guards.budgets import midnight
from agent_mailer.watch.requests import apply
from agent_mailer.watch.watcher import Watcher

THREADS = ("red", "green")
MAX_RETRIES = 2
MAX_STARTS = 6
TURN_TIMEOUT = 30
PATIENCE = 12.0


class Ending(StrEnum):
    """How a run ends by itself; what the agent prints is in the script."""

    DONE = "done"
    SILENT = "silent"
    BLOCKED = "blocked"
    FAILED = "failed"
    NO_RESULT = "no_result"
    CRASHED = "crashed"
    SESSION_LOST = "session_lost"
    LIMITED = "limited"
    LIMITED_AT_WORK = "limited_at_work"
    SIGNED_OUT = "signed_out"
    UNAVAILABLE = "unavailable"
    ASKED = "asked"


OUTCOMES = {
    Ending.SILENT: Outcome.DONE,
    Ending.NO_RESULT: Outcome.FAILED,
    Ending.LIMITED_AT_WORK: Outcome.LIMITED,
}

WAIT = "wait"
"""A plan: the agent waits until the test tells it how to end, or ends it."""


class Meanwhile(StrEnum):
    """What befalls a turn whose agent waits."""

    HAND_OVER = "hand over"
    STOP = "stop"
    TIME_OUT = "time out"
    DIE = "the watcher dies"
    FINISH = "finish"


# The witness: "start TURN MESSAGE THREAD SESSION", and "end TURN ENDING" just before the last word; "acts" has each
# question whose yes was used up, as `approvals use` does it.
_AGENT = r"""
cat >/dev/null
base=$1 turn=$AGENT_MAILER_TURN_ID message=$AGENT_MAILER_MESSAGE_ID thread=$AGENT_MAILER_THREAD_ID
exec 9>"$base/threads-$thread"
flock -n 9 || echo "two turns at once in $thread: $turn" >>"$base/faults"
echo "start $turn $message $thread ${AGENT_MAILER_SESSION_ID:--}" >>"$base/witness"
say() { printf '{"type":%s}\n' "$1"; }
say "\"session\",\"id\":\"${AGENT_MAILER_SESSION_ID:-s-$turn}\""
[ ! "$AGENT_MAILER_APPROVALS" ] || tr , '\n' <"$AGENT_MAILER_APPROVALS" |
  sed -n 's/.*"id":"\(q-[0-9a-f]*\)".*/\1/p; s/.*"word":"\([a-z]*\)".*/\1/p' | paste -d' ' - - |
  while read -r id word; do
    [ "$word" = allow ] && (set -C; : >"$AGENT_MAILER_TURN_DIR/outbox/used-$id") && echo "$id" >>"$base/acts"
  done
[ ! -e "$base/stage-$message" ] || cp "$base/stage-$message" "$AGENT_MAILER_TURN_DIR/outbox/k1.json"
plan=done
[ ! -e "$base/plan-$message" ] || read -r plan <"$base/plan-$message"
if [ "$plan" = wait ]; then
  say '"progress","text":"waits"'
  mkfifo "$base/gate-$turn" && read -r plan <"$base/gate-$turn"
fi
echo "end $turn $plan" >>"$base/witness"
case $plan in
done) say "\"result\",\"text\":\"answer $message\"" ;;
silent) say '"result"' ;;
blocked) say "\"result\",\"outcome\":\"blocked\",\"text\":\"question $message\"" ;;
asked) say "\"result\",\"outcome\":\"asked\",\"tool\":\"Bash\",\"input\":{\"command\":\"push $turn\"}" ;;
crashed) kill -KILL $$ ;;
no_result) ;;
limited_at_work) say '"progress","text":"at it"'; say '"result","outcome":"limited"' ;;
*) say "\"result\",\"outcome\":\"$plan\"" ;;
esac
"""


class Weather(SystemCalls):
    """The disk: full or not, for a while or until told; and the life above it, which may end at a call.

    Nothing is synced: here only processes die, never the machine.
    """

    def __init__(self) -> None:
        self.full = False
        self.full_after = 0
        self.full_for = 0
        """How many calls that need room fail, after so many others."""
        self.dies_in: int | None = None
        self.dead = False
        self.has_failed = False

    def fair(self) -> None:
        self.full, self.full_after, self.full_for, self.dies_in, self.dead = False, 0, 0, None, False

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._live(path, needs_room=bool(flags & os.O_CREAT))
        return super().open(path, flags, mode)

    def write(self, fd: int, data: memoryview) -> int:
        try:
            self._live(needs_room=True)
        except OSError:
            super().write(fd, data[: len(data) // 2])
            raise
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._live()

    def truncate(self, fd: int, length: int) -> None:
        self._live()
        super().truncate(fd, length)

    def replace(self, source: Path, target: Path) -> None:
        self._live()
        super().replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        self._live()
        super().rename_noreplace(source, target)

    def unlink(self, path: Path) -> None:
        self._live()
        super().unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        self._live(path, needs_room=True)
        super().mkdir(path, mode)

    def chmod(self, path: Path, mode: int) -> None:
        self._live()
        super().chmod(path, mode)

    def rmdir(self, path: Path) -> None:
        self._live()
        super().rmdir(path)

    def _live(self, path: Path | None = None, *, needs_room: bool = False) -> None:
        if self.dies_in is not None:
            self.dies_in -= 1
            self.dead = self.dead or self.dies_in <= 0
        if self.dead:
            raise Died
        self.full_after -= 1
        if needs_room and (self.full or (self.full_after < 0 < self.full_for)):
            self.full_for -= 1
            self.has_failed = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path or ""))


class Sky:
    """A clock that stands still until it is moved; durations may be made to jump, too."""

    def __init__(self) -> None:
        self.moment = float(int(time.time()))
        self.ahead = 0.0

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Run(msgspec.Struct):
    """What the witness saw of one run. `ending` is None while it has not come to its last word."""

    turn: str
    message: str
    thread: str
    session: str
    ending: Ending | None = None


def counts(record: TurnRecord) -> bool:
    """Whether something ran, or is about to."""
    return record.settlement is None or record.process is not None


class World:
    """One agent, its state and its mailbox. No watcher runs between two calls; agents may."""

    def __init__(self, base: Path, parallel: int, turns_per_day: int = 0, **more: str) -> None:
        """`turns_per_day`: 0 is no limit. Mail of `planner` is held. `more`: further keys of the configuration."""
        self.base = base
        self.turns_per_day = turns_per_day
        self.desk = Desk(base)
        (base / "agent.sh").write_text(_AGENT)
        self.desk.configure(
            command=["/bin/sh", str(base / "agent.sh"), str(base)],
            command_output="jsonl",
            max_parallel_turns=parallel,
            max_retries=MAX_RETRIES,
            max_starts=MAX_STARTS,
            turn_timeout=TURN_TIMEOUT,
            retry={"first": 1, "longest": 5},
            stop_grace=0,
            deny_from=["planner"],
            limits={"turns_per_day": turns_per_day},
            **more,
        )
        self.weather = Weather()
        self.sky = Sky()
        self.sent: dict[str, Envelope] = {}
        self.payload: dict[str, bytes] = {}
        self.records: dict[str, TurnRecord] = {}
        """Every turn there ever was, as it was seen last: those that are pruned stay here."""
        self.seen: dict[str, int] = {}
        """Turn -> the step after which it was seen first."""
        self.killed: set[str] = set()
        """Turns whose agent the test has killed."""
        self.stopped: set[str] = set()
        """Turns that a person has stopped, or asked a watcher to."""
        self.under_a_stop: set[str] = set()
        """Turns that ran, or were taken up, while their watcher was being stopped."""
        self.strange: set[str] = set()
        """Messages that a guard holds until a person lets them go."""
        self.let_go: set[str] = set()
        self.dropped: set[str] = set()
        """What a person has ordered of them, carried out or not."""
        self.died = False
        """The last watcher died."""
        self.faults: list[str] = []
        self.answers: dict[str, Answer] = {}
        """The first that a person gave to each question."""
        self.codes: dict[str, str] = {}
        self.steps = itertools.count()

    # What arrives, and what hands do.

    def deliver(self, thread: str, priority: Priority | None, automatic: Automatic, *, strange: bool = False) -> str:
        sender = "planner" if strange else "user"
        sent = self.desk.send(thread=thread, priority=priority, automatic=automatic, sender=sender)
        if strange:
            self.strange.add(sent)
        self.payload[sent] = (self.new / f"{sent}.md").read_bytes()
        [self.sent[sent]] = [e for e in self._listed() if e.id == sent]
        return sent

    def plan(self, message: str, how: str) -> None:
        (self.base / f"plan-{message}").write_text(how + "\n")

    def duplicate(self, message: str, other_name: bool, other_body: bool) -> None:
        """The same id comes again, as another program may leave it."""
        if message not in self.payload:
            return
        name = f"again-{next(self.steps)}-{message}.md" if other_name else f"{message}.md"
        if not (self.new / name).exists():
            self._put(self.new / name, self.payload[message] + (b"more\n" if other_body else b""))

    def put_back(self, message: str) -> bool:
        """What AMQ's own tool does with a message that is to be delivered again."""
        source, target = self.cur / f"{message}.md", self.new / f"{message}.md"
        if not source.exists() or target.exists():
            return False
        source.rename(target)
        return True

    def user_reads(self) -> None:
        new = self.desk.root / "agents/user/inbox/new"
        for path in new.iterdir():
            path.rename(new.with_name("cur") / path.name)

    def ask(self, request: Request, *, leave_it: bool) -> None:
        """What a command does: apply it, or leave it for the watcher, which may be there."""
        state = self.desk.place(self.sky).state
        if leave_it:
            state.folder.disk.make_directory(state.folder.requests)
            state.requests.submit(request)
        else:
            state.folder.prepare()
            apply(state, request)

    def order(self, verb: OrderVerb, targets: tuple[str, ...], *, leave_it: bool) -> None:
        """A person's word on what is held, which only his own state folder can give."""
        held = self.strange if verb is OrderVerb.ALLOW else self.strange & set(targets)
        (self.dropped if verb is OrderVerb.DROP else self.let_go).update(held)
        name = self.desk.place(self.sky).state.lifts.give(Order(verb, targets))
        self.ask(Request(Verb.ORDER, (name,)), leave_it=leave_it)

    def answer(self, which: int, verdict: Verdict) -> None:
        """A person's word on one of the questions there ever were, late or again as it may be."""
        book = self.desk.place(self.sky).state.approvals
        if known := book.all():
            one = known[which % len(known)]
            counts = book.answer(one, Answer(verdict, self.sky.now(), By.COMMAND))
            if self.answers.setdefault(one.id, counts) != counts:
                self.faults.append(f"{one.id}: {counts} where {self.answers[one.id]} came first")

    def allow_all(self) -> None:
        book = self.desk.place(self.sky).state.approvals
        for one in book.open():
            self.answers[one.id] = book.answer(one, Answer(Verdict.ALLOW, self.sky.now(), By.COMMAND))

    def acts(self) -> list[str]:
        """The questions whose act was begun, as the witness saw it."""
        path = self.base / "acts"
        return path.read_text().split() if path.exists() else []

    def no_limits(self) -> None:
        self.turns_per_day = 0
        self.desk.configure(limits={})

    def stop(self, turn: str, then: AfterStop, *, leave_it: bool) -> None:
        """A person stops a turn whose agent waits."""
        self.stopped.add(turn)
        self.ask(Request(Verb.TURNS_STOP, (turn,), then=then), leave_it=leave_it)
        if not leave_it:
            self.kill_agent(turn)

    def waiting(self) -> list[str]:
        """Turns whose agent waits and lives."""
        return [run.turn for run in self.runs() if run.ending is None and self._lives(run.turn)]

    def finish(self, turn: str, ending: Ending) -> None:
        """Tell a waiting agent how to end, and see it end."""
        self._until(lambda: self.tell(turn, ending), f"{turn} waits")
        self._until(lambda: (self.desk.state / "turns" / turn / "exit").exists(), f"the end of {turn}")

    def kill_agent(self, turn: str) -> None:
        """Every process of the turn, its holder among them, is gone."""
        self.killed.add(turn)
        asyncio.run(sweep(turn, grace=0.0))

    # The watcher.

    def tick(self, meanwhile: Meanwhile = Meanwhile.FINISH, ending: Ending = Ending.DONE) -> None:
        """One watcher from its start to its end: each due message once. `meanwhile` befalls turns whose agents wait."""
        self.sky.moment += 0.001
        self.weather.has_failed = False
        place = self.desk.place(self.sky)
        place.disk.system = self.weather
        watcher: list[Watcher] = []
        mailboxes: list[Mailbox] = []
        told: set[str] = set()
        befalls: list[asyncio.Future[None]] = []

        def listen(event: LogRecord) -> None:
            message, turn = str(event.fields.get("message_id")), str(event.fields.get("turn_id"))
            if event.event is EventName.TURN_STARTED:
                self.check_start(place.state, message)
            if event.event in (EventName.TURN_STARTED, EventName.TURN_ADOPTED) and turn not in told:
                told.add(turn)
                if meanwhile is Meanwhile.STOP:
                    self.under_a_stop.add(turn)
                if event.event is EventName.TURN_ADOPTED or self._planned(message) == WAIT:
                    befalls.append(asyncio.ensure_future(self._befall(watcher[0], turn, meanwhile, ending)))

        place.log.listen(listen)
        lock = place.lock()
        lock.acquire()

        async def run() -> None:
            room = place.room(lock, msgspec.structs.replace(place.policy(), trouble_first=0.002, trouble_longest=0.004))
            mailboxes.append(room.mailbox)
            watcher.append(Watcher(room, once=True))
            await asyncio.wait_for(watcher[0].run(), 5 * PATIENCE)

        try:
            place.prepare()
            asyncio.run(run())
        except Died:
            assert self.weather.dead
        except (OSError, MailerError) as fault:
            if isinstance(fault, TimeoutError) or not self.weather.has_failed:
                raise
        finally:
            lock.release()
            self.died = self.weather.dead
            self.weather.dies_in, self.weather.dead = None, False
            for mailbox in mailboxes:
                asyncio.run(mailbox.close())  # whose process is dead holds no lock
        self.collect()

    async def _befall(self, watcher: Watcher, turn: str, meanwhile: Meanwhile, ending: Ending) -> None:
        """As soon as the agent waits. One that was adopted may have ended, or never have come so far."""
        turn_dir = self.desk.state / "turns" / turn
        gate = self.base / f"gate-{turn}"
        end = time.monotonic() + PATIENCE
        while not gate.exists() and not (turn_dir / "exit").exists() and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        match meanwhile:
            case Meanwhile.HAND_OVER:
                watcher.hand_over()
            case Meanwhile.STOP:
                watcher.stop(0.0)
            case Meanwhile.TIME_OUT:
                # One that was adopted may be followed only from a moment later on.
                while not (turn_dir / "exit").exists():
                    self.sky.ahead += TURN_TIMEOUT + 1
                    await asyncio.sleep(0.2)
            case Meanwhile.DIE:
                self.weather.dead = True
                watcher.hand_over()
            case Meanwhile.FINISH:
                while not (turn_dir / "exit").exists() and not self.tell(turn, ending):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)

    def check_start(self, state: State, message: str, *, paused: bool = True) -> None:
        """Within a thread strictly in order, but for what is held; nothing starts against a pause by hand, beyond the
        day's limit, or of whom nobody has let go. Not `paused`: it was let through before the pause that there may be.
        """
        own = self.sent[message]
        if message in self.strange - self.let_go:
            self.faults.append(f"{message} started, and nobody had let it go")
        loaded = [record for turn in state.turns.ids() if (record := state.turns.load(turn)) is not None]
        today = [one for one in loaded if one.claimed_at >= midnight(self.sky.now()) and counts(one)]
        if 0 < self.turns_per_day < len(today):
            self.faults.append(f"{message} started as the {len(today)}th turn of {self.turns_per_day} a day")
        for other in self.sent.values():
            older = other.thread == own.thread and other.order < own.order and other.id not in self.strange
            if older and other.automatic is not Automatic.NOTICE and other.id not in state.processed:
                self.faults.append(f"{message} started before {other.id}, which is older in its thread")
        pause = state.pause.read()
        if paused and pause is not None and pause.reason is PauseReason.BY_HAND:
            self.faults.append(f"{message} started against a pause by hand")

    # What is there.

    @property
    def new(self) -> Path:
        return self.desk.root / "agents/coder/inbox/new"

    @property
    def cur(self) -> Path:
        return self.desk.root / "agents/coder/inbox/cur"

    def collect(self) -> None:
        store, step = self.desk.place(self.sky).state.turns, next(self.steps)
        for turn_id in store.ids():
            record = store.load(turn_id)
            if record is not None:
                self.records[turn_id] = record
                self.seen.setdefault(turn_id, step)
        path = self.base / "faults"
        if path.exists():
            self.faults += path.read_text().splitlines()
            path.unlink()

    def runs(self) -> list[Run]:
        """What the witness saw, in order."""
        path = self.base / "witness"
        found: dict[str, Run] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            words = line.split()
            if words[0] == "start":
                if words[1] in found:
                    self.faults.append(f"turn {words[1]} ran twice")
                found[words[1]] = Run(words[1], words[2], words[3], words[4])
            else:
                found[words[1]].ending = Ending(words[2])
        return list(found.values())

    def mail_to_senders(self) -> Iterator[Message]:
        from agent_mailer.mailbox.maildir.format import parse_message

        homes = [self.desk.root / "agents" / name / "inbox" for name in ("user", "planner")]
        for path in itertools.chain(*((home / leaf).iterdir() for home in homes for leaf in ("new", "cur"))):
            message = parse_message(path.read_bytes(), path.name)
            assert isinstance(message, Message)
            yield message

    def end(self) -> None:
        for run in self.runs():
            if run.turn not in self.records or not (self.desk.state / "turns" / run.turn / "settled").exists():
                asyncio.run(sweep(run.turn, grace=0.0))
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _planned(self, message: str) -> str:
        with suppress(FileNotFoundError):
            return (self.base / f"plan-{message}").read_text().strip()
        return Ending.DONE

    def _lives(self, turn: str) -> bool:
        """Nobody has ended its agent, nor is about to."""
        record = self.records.get(turn)
        return record is not None and record.settlement is None and record.stopped is None and turn not in self.killed

    def tell(self, turn: str, ending: Ending) -> bool:
        """False where its agent does not wait (yet, or any more)."""
        try:
            fd = os.open(self.base / f"gate-{turn}", os.O_WRONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as fault:
            if fault.errno != errno.ENXIO:
                raise
            return False
        with os.fdopen(fd, "w") as gate:
            gate.write(ending + "\n")
        return True

    def _listed(self) -> tuple[Envelope, ...]:
        return asyncio.run(MaildirMailbox(Disk(), self.desk.root, "coder").pending(1000)).envelopes

    def _put(self, path: Path, data: bytes) -> None:
        temporary = path.parent.with_name("tmp") / path.name
        temporary.write_bytes(data)
        temporary.rename(path)

    def _until(self, what: Callable[[], object], why: str) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, why
            time.sleep(0.002)
