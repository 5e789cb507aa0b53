"""What is done to a watcher under every fault: stories with the real engine, and what must hold when they are over.

The agents are shells that tell an outside witness of each run, so that no fault of the disk under test hides one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from tests.amq_tree import inbox, write
from tests.clocks import FakeClock
from tests.crash.recording import QuickSystem
from tests.desk import Desk
from tests.sizes import LONG

from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.layout import make_mailbox, make_root
from agent_mailer.mailbox.port import Automatic, Message, Priority
from agent_mailer.schedules.sending import run_now
from agent_mailer.state.approvals import Answer, By, Verdict
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.state.records import ItemState, PauseReason, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.state.turns import ids_of
from agent_mailer.watch.guards.holding import carry_out
from agent_mailer.watch.requests import apply, apply_waiting

ROTATION_SECONDS = 10.0
"""Longer than any wait before a retry in these stories."""

TELL = 'echo "$AGENT_MAILER_MESSAGE_ID $AGENT_MAILER_TURN_ID ${AGENT_MAILER_SESSION_ID-}" >>"$0"; '
READ = "cat >/dev/null; "
STAGE = """
cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
for to in user planner stranger; do
    printf '{"key":"k-%s","action":"send","created":1700000000,"to":["%s"],"thread":"%s","body":"for %s of %s"}' \\
        "$to" "$to" "$AGENT_MAILER_THREAD_ID" "$to" "$AGENT_MAILER_MESSAGE_ID" >".tmp.$to" && mv ".tmp.$to" "k-$to.json"
done
printf '{"kind":"done"}' >.tmp.finish && mv .tmp.finish finish
"""


class Expected(msgspec.Struct, frozen=True):
    """What becomes of one message. `runs`: of its agent, where nothing was undone; `staged`: items beside its answer.

    `only_after`: it is done only if the story got as far as this mark; before it may or may not be.
    """

    id: str
    runs: int = 1
    dead: bool = False
    staged: bool = False
    answered: bool = True
    only_after: str = ""


class Stage(Protocol):
    """Where a story is played: over a disk that fails or is recorded."""

    desk: Desk
    disk: Disk
    marks: set[str]

    def watch(self, ahead: float = 0.0) -> None:
        """A watcher from its start until it has nothing more to do, `ahead` seconds from now."""

    def mark(self, name: str) -> None:
        """From here on what was asked for has been promised."""


class Scenario(msgspec.Struct, frozen=True):
    name: str
    prepare: Callable[[Desk], list[Expected]]
    act: Callable[[Stage], None]
    at_once: Callable[[Desk, set[str]], None] = lambda _desk, _marks: None
    """Asserted with the marks that were reached, before anything is resumed by hand."""
    holds: Callable[[Desk, set[str]], None] = lambda _desk, _marks: None
    """Asserted at the end, beside what holds of every message."""
    long: bool = False
    """Not for everybody each time."""


def told(desk: Desk) -> Path:
    return desk.base / "told"


def runs(desk: Desk) -> list[tuple[str, str, str]]:
    """Message, turn and session of every run, in order."""
    lines = told(desk).read_text().splitlines() if told(desk).exists() else []
    return [(words[0], words[1], words[2] if len(words) > 2 else "") for words in map(str.split, lines)]


def agent(desk: Desk, script: str, **settings: object) -> None:
    desk.configure(command=["/bin/sh", "-c", TELL + READ + script, str(told(desk))], **settings)


def new_desk(base: Path) -> Desk:
    desk = Desk(base)
    desk.disk.system = QuickSystem()
    return desk


def at_rest(desk: Desk, ahead: float = 0.0) -> None:
    desk.once(FakeClock(time.time() + ahead), QuickSystem())


def recover(desk: Desk) -> None:
    """Watchers on a sound disk until there is nothing more to do."""
    for number in range(10):
        _resume(desk)
        desk.once(FakeClock(time.time() + number * ROTATION_SECONDS), QuickSystem())
        if _nothing_left(desk):
            return
    raise AssertionError("there is always something more to do")


def _nothing_left(desk: Desk) -> bool:
    state = desk.place().state
    waits = any((desk.root / "agents/coder/inbox/new").iterdir())
    return not (waits or len(state.retries) or state.turns.open_ids() or (desk.state / "pause.json").exists())


def content(desk: Desk) -> dict[str, bytes]:
    """All that must not change any more. The log and the lock may."""
    volatile = ("log.jsonl", ".lock", "watcher.pid")
    return {
        str(path.relative_to(desk.base)): path.read_bytes()
        for path in sorted(desk.base.rglob("*"))
        if path.is_file() and not path.name.startswith(volatile)
    }


def verify(desk: Desk, expected: list[Expected], marks: set[str], undone: Counter[str], why: str) -> None:
    """I1 and I4. `undone`: runs of a message of which the crash left no settlement; each may be made up for once."""
    settled = (desk.state / "processed.txt").read_text(errors="replace").replace("\0", "").splitlines()
    letters = desk.place().state.dead_letters.all()
    dead = Counter(letter.msg_id for letter in letters)
    ran = Counter(message for message, _, _ in runs(desk))
    user, planner = desk.inbox(), desk.inbox("planner")
    for one in expected:
        if one.only_after and one.only_after not in marks and ran[one.id] < one.runs:
            one = Expected(one.id, runs=1, dead=True)
        assert settled.count(one.id) == 1, f"{why}: {one.id} is settled {settled.count(one.id)} times"
        assert dead[one.id] == int(one.dead), f"{why}: {one.id} is {dead[one.id]} dead letters"
        told_of = f"{one.id} ran {ran[one.id]} times, {undone[one.id]} undone: {runs(desk)}"
        assert one.runs <= ran[one.id] <= one.runs + undone[one.id], f"{why}: {told_of}"
        answers = [m for m in user if f"answer to {one.id}" in m.body]
        assert len(answers) == int(one.answered and not one.dead), f"{why}: {len(answers)} answers to {one.id}"
        notices = [m for m in user if m.envelope.automatic is Automatic.NOTICE and one.id in m.body]
        was_dead = one.dead or bool(one.only_after)
        assert len(notices) == int(was_dead), f"{why}: {len(notices)} notices about {one.id}"
        for name, box in (("user", user), ("planner", planner)):
            copies = [m for m in box if m.body.strip() == f"for {name} of {one.id}"]
            assert len(copies) == int(one.staged), f"{why}: {len(copies)} items of {one.id} at {name}"
        # A crash costs no attempt (I6): what was done was done at the first, what is dead has failed each time it may.
        attempts = {record.attempt for record in settlements(desk).values() if _is_done(record, one.id)}
        assert attempts <= {1}, f"{why}: {one.id} was done at attempt {attempts}"
        retries = [letter.retries for letter in letters if letter.msg_id == one.id]
        assert retries == ([one.runs - 1] if one.dead else []), f"{why}: {one.id} was retried {retries} times"
    assert not list((desk.root / "agents/coder/inbox/new").iterdir()), why
    assert not desk.place().state.turns.open_ids(), f"{why}: an open turn"
    entries = {entry.envelope.id for entry in desk.place().state.retries.all()}
    assert not entries, f"{why}: still to be retried: {entries}"
    _no_item_twice(user, why)
    _no_item_twice(planner, why)


def settlements(desk: Desk) -> dict[str, TurnRecord]:
    """The turns whose settlement is on the disk."""
    turns = desk.place().state.turns
    found = {turn_id: turns.load(turn_id) for turn_id in turns.ids()}
    return {
        turn_id: record for turn_id, record in found.items() if record is not None and record.settlement is not None
    }


def _is_done(record: TurnRecord, message: str) -> bool:
    return message in ids_of(record) and record.settlement is not None and record.settlement.outcome.settles


def _no_item_twice(messages: list[Message], why: str) -> None:
    ids = Counter(message.envelope.id for message in messages)
    assert not [name for name, count in ids.items() if count > 1], why


def _resume(desk: Desk) -> None:
    place = desk.place()
    place.disk.system = QuickSystem()
    apply(place.state, Request(Verb.RESUME))


def _watch_once(stage: Stage) -> None:
    stage.watch()


def _answering(desk: Desk, script: str = "", **settings: object) -> None:
    agent(desk, f'{script}\necho "answer to $AGENT_MAILER_MESSAGE_ID"', **settings)


# The stories


def _first_message(desk: Desk) -> list[Expected]:
    _answering(desk)
    return [Expected(desk.send())]


def _staged_replies(desk: Desk) -> list[Expected]:
    _answering(desk)
    first = desk.send(thread="red")
    at_rest(desk)
    _answering(desk, STAGE, auto_reply="always")
    new = [Expected(desk.send(thread=thread), staged=True) for thread in ("red", "green")]
    return [Expected(first), *new]


def _kept_what_was_refused(desk: Desk, marks: set[str]) -> None:
    del marks
    kept = [
        (record.envelope.id, entry.item.payload.strip().endswith(f"for stranger of {record.envelope.id}"))
        for record in settlements(desk).values()
        for entry in (record.settlement.items if record.settlement else ())
        if entry.state is ItemState.REFUSED
    ]
    assert len(kept) == 2, f"what nobody takes is kept for people to read: {kept}"
    assert all(whole for _, whole in kept)


def _new_sender(desk: Desk) -> list[Expected]:
    """Whoever wrote has no mailbox yet: it is made before the answer is delivered."""
    _answering(desk)
    return [Expected(write(desk.root, "coder", "newcomer"), answered=False)]


def _newcomer_answered_once(desk: Desk, marks: set[str]) -> None:
    del marks
    assert len(desk.inbox("newcomer")) == 1


def _to_the_dead_letters(desk: Desk) -> list[Expected]:
    agent(desk, f"{STAGE}\necho no luck >&2; exit 1", max_retries=1, notify={"address": "planner"})
    return [Expected(desk.send(), runs=2, dead=True)]


def _operator_told_once(desk: Desk, marks: set[str]) -> None:
    del marks
    told = [message.subject for message in desk.inbox("planner") if message.envelope.automatic is Automatic.NOTICE]
    # A disk that refuses everything for long enough pauses the agent, which is told as well.
    assert told.count("coder: dead letter") == 1, told
    kept = desk.place().state.unsent.all()
    assert len(kept) == 3, f"what it had staged is kept for people: {kept}"


def _retry_until_dead(stage: Stage) -> None:
    stage.watch()
    stage.watch(ahead=ROTATION_SECONDS)


SESSION = """
printf '{"type":"session","id":"%s"}\\n' "${AGENT_MAILER_SESSION_ID-s-$AGENT_MAILER_TURN_ID}"
printf '{"type":"result","text":"answer to %s"}\\n' "$AGENT_MAILER_MESSAGE_ID"
"""


def _two_of_a_thread(desk: Desk) -> list[Expected]:
    agent(desk, SESSION, command_output="jsonl")
    return [Expected(desk.send(thread="red")) for _ in range(2)]


def _one_session(desk: Desk, marks: set[str]) -> None:
    del marks
    entry = desk.place().state.sessions.get("red")
    assert entry is not None
    assert entry.turn_count == 2
    known = runs(desk)
    assert entry.session_id in [f"s-{turn}" for _, turn, _ in known]
    assert known[-1][2] == entry.session_id, "the second message resumes"


def _rotating(desk: Desk) -> list[Expected]:
    """A session a message, a journal that is full at the first, a log that rotates at each line."""
    agent(desk, SESSION, command_output="jsonl", session_max_turns=1)
    first = desk.send(thread="red")
    at_rest(desk)
    sessions = desk.state / "sessions.json"
    line = sessions.read_bytes()
    entry = msgspec.json.decode(line)["red"]
    rows = [{"thread": f"t{n}", "entry": entry} for n in range(63)]
    (desk.state / "sessions.journal").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    (desk.state / "log.jsonl").write_bytes(b"{}\n" * 2000)
    return [Expected(first), *(Expected(desk.send(thread="red")) for _ in range(2))]


def _rotated(desk: Desk, marks: set[str]) -> None:
    del marks
    known = runs(desk)
    sessions = dict(desk.place().state.sessions.all())
    assert len(sessions) == 64
    assert sessions["red"].session_id == f"s-{known[-1][1]}"
    assert len(list(desk.state.glob("log.jsonl.*"))) <= 3


def _asked_to_retry(desk: Desk) -> list[Expected]:
    agent(desk, "exit 1", max_retries=0)
    sent = desk.send()
    at_rest(desk)
    _answering(desk)
    return [Expected(sent, runs=2, only_after="asked")]


def _ask_to_retry(stage: Stage) -> None:
    _ask(stage, Request(Verb.STUCK_RETRY, reason=StuckKind.GIVEN_UP.value))
    stage.mark("asked")
    stage.watch()


def _told_to_pause(desk: Desk) -> list[Expected]:
    agent(desk, SESSION, command_output="jsonl")
    first = desk.send(thread="red")
    at_rest(desk)
    return [Expected(first), Expected(desk.send(thread="red"))]


def _pause_and_resume(stage: Stage) -> None:
    _ask(stage, Request(Verb.SESSIONS_INVALIDATE))
    stage.mark("invalidated")
    _ask(stage, Request(Verb.PAUSE))
    stage.mark("paused")
    stage.watch()
    place = stage.desk.place()
    place.disk.system = stage.disk.system
    stage.mark("resuming")
    apply_waiting(place.state)
    apply(place.state, Request(Verb.RESUME))
    stage.mark("resumed")
    stage.watch()


def _paused_or_not(desk: Desk, marks: set[str]) -> None:
    if "paused" not in marks:
        return
    before = runs(desk)
    at_rest(desk)
    if "resumed" in marks:
        # A disk that refused may have paused it again; that ends by itself.
        pause = desk.place().state.pause.read()
        assert pause is None or pause.reason is not PauseReason.BY_HAND, "resumed is resumed"
    elif "resuming" not in marks:
        assert runs(desk) == before, "nothing runs while a person's pause stands"


def _invalidated(desk: Desk, marks: set[str]) -> None:
    last = runs(desk)[-1]
    if "invalidated" in marks:
        assert last[2] == "", "a dropped session is not resumed"


def _old_turns(desk: Desk) -> list[Expected]:
    agent(desk, "exit 1", max_retries=0)
    desk.send()
    at_rest(desk)
    _purge(desk)
    _answering(desk, keep_transcripts=1)
    old = [Expected(desk.send(thread=f"t{n}")) for n in range(3)]
    at_rest(desk)
    return [*old, Expected(desk.send(thread="new"))]


MONTH = 30 * 86400.0


def _purge(desk: Desk) -> None:
    place = desk.place()
    place.disk.system = QuickSystem()
    apply(place.state, Request(Verb.STUCK_DROP, reason=StuckKind.GIVEN_UP.value))


def _still_purged(desk: Desk, marks: set[str]) -> None:
    del marks
    assert desk.place().state.dead_letters.all() == [], "an old settlement brings nothing back"


def _watch_a_month_later(stage: Stage) -> None:
    stage.watch(ahead=MONTH)


BLOCKED = """printf '{"type":"result","outcome":"blocked","text":"answer to %s"}\\n' "$AGENT_MAILER_MESSAGE_ID" """


def _needs_a_person(desk: Desk) -> list[Expected]:
    agent(desk, BLOCKED, command_output="jsonl", notify={"address": "planner"})
    return [Expected(desk.send())]


def _told_the_operator(desk: Desk, marks: set[str]) -> None:
    del marks
    notices = [m for m in desk.inbox("planner") if m.envelope.automatic is Automatic.NOTICE]
    assert len(notices) == 1, f"the operator is told once: {[m.body for m in notices]}"


def much_is_stuck(desk: Desk) -> list[Expected]:
    """An answer that did not leave and can now; a file that is no message, and another message under a used id."""
    _answering(desk)
    used = desk.send(sender="planner")
    at_rest(desk)
    _answering(desk, STAGE, auto_reply="always")
    wrote = desk.send()
    at_rest(desk)
    make_mailbox(desk.disk, desk.root, "stranger")
    new = desk.root / "agents/coder/inbox/new"
    header = {"schema": 1, "to": ["coder"], "thread": "t", "created": "2026-08-22T10:00:00Z"}
    other = header | {"id": used, "from": "planner"}
    (new / f"{used}.md").write_text(f"---json\n{json.dumps(other)}\n---\nanother text")
    unknown = header | {"id": "bad", "from": "user", "kind": "unknown"}
    (new / "bad.md").write_text(f"---json\n{json.dumps(unknown)}\n---\nkept")
    return [Expected(wrote, staged=True)]


SEND_AGAIN = Request(Verb.STUCK_RETRY, reason=StuckKind.NOT_SENT.value)


def _ask_to_send_again(stage: Stage) -> None:
    _ask(stage, SEND_AGAIN)
    stage.mark("asked")
    stage.watch()


def nothing_has_vanished(desk: Desk, marks: set[str]) -> None:
    state, box = desk.place().state, desk.root / "agents/coder"
    assert sorted(entry.kind for entry in state.stuck.all()) == [StuckKind.UNREADABLE, StuckKind.USED_ID]
    arrived = sum(message.body.startswith("for stranger") for message in desk.inbox("stranger"))
    assert arrived + len(state.unsent) == 1, f"sent {arrived} times, {len(state.unsent)} still to be sent"
    assert arrived or "asked" not in marks, "what was asked for is done"
    assert any(path.read_bytes().endswith(b"kept") for path in (box / "dlq/new").iterdir())
    assert any(path.read_bytes().endswith(b"another text") for path in (box / "dlq/new").iterdir())
    for handle, count in (("planner", 1), ("user", 1)):
        told = [m for m in desk.inbox(handle) if m.body.startswith("A message of yours was not worked on")]
        assert len(told) == count, f"{handle} was told {len(told)} times"


def strangers(desk: Desk) -> list[Expected]:
    _answering(desk, deny_from=["planner"], notify={"address": "boss"})
    make_mailbox(desk.disk, desk.root, "boss")
    for name in ("released", "kept", "dropped"):
        desk.send(name, sender="planner", thread="t", subject=name)
    return [Expected(desk.send(thread="t"))]


def _held_and_let_go(stage: Stage) -> None:
    stage.watch()
    place = stage.desk.place()
    place.disk.system = stage.disk.system
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        by_thread = list(place.state.held.waiting)
        # A disk that refused has let nothing be held: then nothing is promised.
        for verb, chosen, said in (
            (OrderVerb.RELEASE, by_thread[:1], "released"),
            (OrderVerb.DROP, by_thread[2:], "dropped"),
        ):
            if chosen:
                carry_out(place.state, Order(verb, tuple(chosen)))
                stage.mark(said)
    finally:
        lock.release()
    stage.watch()


def held_stays_held(desk: Desk, marks: set[str]) -> None:
    """Never run, never lost, told once; what was let go is answered once, what was dropped is done."""
    state, box = desk.place().state, desk.root / "agents/coder/inbox"
    subjects = {
        path.stem: json.loads(path.read_text().split("---")[1][4:])["subject"] for path in (box / "cur").iterdir()
    }
    held = {subjects[message_id] for message_id in state.held.waiting}
    answered = sorted(message.subject for message in desk.inbox("planner"))
    done = {subjects[message_id] for message_id in subjects if message_id in state.processed} - {"task"}
    assert held | done == {"released", "kept", "dropped"}, "nothing of it is lost"
    assert "kept" in held
    assert answered in (["Re: released"], []), "answered once, and nobody else"
    assert ("released" in held) == (answered == [])
    assert "released" not in marks or answered, "what was promised is done"
    assert "dropped" not in marks or "dropped" not in held
    told = [message for message in desk.inbox("boss") if "holds mail of planner" in message.body]
    assert len(told) == 1, f"told {len(told)} times"


# It acts where it was told yes and is the first to leave the mark, as `approvals use` does; it tells the witness of it.
ASKS = """
word=$(grep -o '"word":"[a-z]*"' "$AGENT_MAILER_APPROVALS" | cut -d'"' -f4)
told=$(grep -o '"id":"q-[0-9a-f]*"' "$AGENT_MAILER_APPROVALS" | cut -d'"' -f4)
[ "$word" ] || { printf '{"type":"result","outcome":"asked","tool":"Bash","input":{"command":"push"}}'; exit 0; }
if [ "$word" = allow ]; then
    (set -C; : >"$AGENT_MAILER_TURN_DIR/outbox/used-$told") || exit 1
    echo "act-$AGENT_MAILER_MESSAGE_ID $AGENT_MAILER_TURN_ID" >>"$0"
fi
printf '{"type":"result","text":"answer to %s: %s"}' "$AGENT_MAILER_MESSAGE_ID" "$word"
"""


def _asking(desk: Desk) -> list[Expected]:
    """Whoever does not answer in time is not waited for."""
    settings = {"permission_mode": "acceptEdits", "approve": {"expires": 60}, "notify": {"address": "planner"}}
    agent(desk, ASKS, command_output="jsonl", **settings)
    return [Expected(desk.send(), runs=2)]


def _say_yes(stage: Stage) -> None:
    stage.watch()
    place = stage.desk.place()
    place.disk.system = stage.disk.system
    with suppress(OSError):
        # A disk that refuses promises nothing.
        for one in place.state.approvals.open():
            place.state.approvals.answer(one, Answer(Verdict.ALLOW, time.time(), By.COMMAND))
            stage.mark("answered")
    stage.watch()


def _not_done_unmarked(desk: Desk, marks: set[str]) -> None:
    """The mark is durable before anything is done: where it is not there, the act has not been, either.

    It goes with the turn's mail, once that is settled; of a record that is made short then nothing may be left.
    """
    del marks
    turns, known = desk.place().state.turns, settlements(desk)
    short = {turn for turn in turns.ids() if turns.load(turn) is None}
    marked = {path.parent.parent.name for path in desk.state.glob("turns/*/*/used-*")}
    lines = told(desk).read_text().splitlines(keepends=True) if told(desk).exists() else []
    kept = [line for line in lines if not line.startswith("act-") or line.split()[1] in {*known, *short, *marked}]
    told(desk).write_text("".join(kept))


def _asked_and_done_once(desk: Desk, marks: set[str]) -> None:
    [answer] = [message.body.strip().rpartition(" ")[2] for message in desk.inbox() if "answer to" in message.body]
    acts = [message for message, _, _ in runs(desk) if message.startswith("act-")]
    assert len(acts) <= 1, f"done {len(acts)} times"
    assert answer in (("allow", "unknown") if "answered" in marks else ("allow", "unknown", "expired")), answer
    assert answer != "allow" or acts, "it was told as done"
    assert answer != "expired" or not acts, "done without a yes"
    asked = [message for message in desk.inbox("planner") if message.subject.endswith("asks for a yes")]
    assert len(asked) == 1, f"the question left {len(asked)} times"
    state = desk.place().state
    # An earlier desk may have stood at the same place.
    known = [one for one in state.approvals.all() if one.turn_id in set(state.turns.ids())]
    assert [one.over for one in known] == [True], known


def _by_the_clock(desk: Desk) -> list[Expected]:
    (desk.base / "nightly.md").write_text("look at the night")
    night = {"name": "nightly", "cron": "0 0 29 2 *", "subject": "the night", "body": str(desk.base / "nightly.md")}
    _answering(desk, schedule=[night])
    return [Expected(desk.send())]


def _run_a_schedule(stage: Stage) -> None:
    place = stage.desk.place()
    place.disk.system = stage.disk.system
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        run_now(place.state, "nightly", "0 0 29 2 * UTC", float(int(time.time())))
        stage.mark("ordered")
    except OSError:
        """A disk that refuses promises nothing."""
    finally:
        lock.release()
    stage.watch()


def _sent_once(desk: Desk, marks: set[str]) -> None:
    answers = [message for message in desk.inbox() if message.subject == "Re: the night"]
    assert len(answers) <= 1, "it has left twice"
    assert answers or "ordered" not in marks, "what was ordered has not left"


def _ask(stage: Stage, request: Request) -> None:
    place = stage.desk.place()
    place.disk.system = stage.disk.system
    place.state.requests.submit(request)


EACH = """
for id in $AGENT_MAILER_MESSAGE_IDS; do
    [ "$id" = "$AGENT_MAILER_MESSAGE_ID" ] || echo "$id $AGENT_MAILER_TURN_ID" >>"$0"
done
cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
for id in ${AGENT_MAILER_MESSAGE_IDS:-$AGENT_MAILER_MESSAGE_ID}; do
    key=k-$(echo "$id" | sha256sum | cut -c1-8)
    printf '{"key":"%s","action":"reply","created":1700000000,"body":"answer to %s","about":"%s"}' \\
        "$key" "$id" "$id" >".tmp.$key" && mv ".tmp.$key" "$key.json"
done
"""


def _chores(desk: Desk) -> list[Expected]:
    agent(desk, f"{EACH}\necho unused", batch_low=True)
    return [Expected(desk.send(thread="chores", priority=Priority.LOW)) for _ in range(3)]


def _from_a_peer(desk: Desk) -> list[Expected]:
    """The peer's root is the folder above ours: it is the same one after a crash."""
    _answering(desk)
    make_root(desk.disk, desk.base, ["user"])
    amqrc = desk.base / ".amqrc"
    amqrc.write_text('{"root": "mail", "project": "home", "peers": {"away": "."}}')
    amqrc.chmod(0o600)
    return [Expected(write(desk.root, "coder", "user", reply_to="user", reply_project="away"), answered=False)]


def _answered_at_the_peer(desk: Desk, marks: set[str]) -> None:
    del marks
    [answer] = inbox(desk.base, "user")
    assert answer.body.startswith("answer to "), answer.body
    assert not desk.place().state.unsent.all(), "an answer did not leave"


SCENARIOS = (
    Scenario("first message", _first_message, _watch_once),
    Scenario("staged replies", _staged_replies, _watch_once, holds=_kept_what_was_refused),
    Scenario("new sender", _new_sender, _watch_once, holds=_newcomer_answered_once),
    Scenario("to the dead letters", _to_the_dead_letters, _retry_until_dead, holds=_operator_told_once),
    Scenario("resume", _two_of_a_thread, _watch_once, holds=_one_session),
    Scenario("rotation", _rotating, _watch_once, holds=_rotated),
    Scenario("asked to retry", _asked_to_retry, _ask_to_retry),
    Scenario("told to pause", _told_to_pause, _pause_and_resume, at_once=_paused_or_not, holds=_invalidated),
    Scenario("old turns", _old_turns, _watch_a_month_later, holds=_still_purged),
    Scenario("needs a person", _needs_a_person, _watch_once, holds=_told_the_operator),
    Scenario("held", strangers, _held_and_let_go, holds=held_stays_held),
    Scenario("a yes", _asking, _say_yes, at_once=_not_done_unmarked, holds=_asked_and_done_once),
    Scenario("by the clock", _by_the_clock, _run_a_schedule, holds=_sent_once),
    Scenario("chores", _chores, _watch_once, long=True),
    Scenario("to a peer", _from_a_peer, _watch_once, holds=_answered_at_the_peer, long=True),
    Scenario("stuck", much_is_stuck, _ask_to_send_again, holds=nothing_has_vanished),
)


def played() -> list[object]:
    """The stories as parameters of a test."""
    return [pytest.param(one, id=one.name, marks=LONG if one.long else ()) for one in SCENARIOS]
