"""`send --wait` says what is true of the message: it never says that somebody works where nobody does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import procfs
from tests.desk import SOON, Desk, until
from tests.e2e.throwaway import as_throwaway, is_nobody
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.clock import SystemClock
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Action, Draft, Priority
from agent_mailer.outcomes import Outcome
from agent_mailer.people import Person, new_key
from agent_mailer.people.folder import mail_in
from agent_mailer.people.port import Ending, MessageState
from agent_mailer.state.records import ItemState, Pause, PauseReason
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.workdirs import remember
from agent_mailer.views.standing import standing_in

LONG = "300"
"""Nobody waits that long: what is over ends the wait."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    remember(found.workdir)
    return found


def send(desk: Desk, wait: str = "0", *words: str) -> Typed:
    return type_in(
        desk.base, "send", "--maildir-root", desk.root, "--to", "coder", "--body", "x", "--wait", wait, *words
    )


def standing(done: Typed) -> tuple[int, str, str]:
    found = done.json
    return done.status, found["end"], found["standing"]["coder"]["state"]


@contextmanager
def waiting(desk: Desk, *words: str) -> Iterator[subprocess.Popen[str]]:
    argv = [COMMAND, "send", "--maildir-root", str(desk.root), "--to", "coder", "--body", "x", "--wait", LONG, *words]
    process = subprocess.Popen(argv, cwd=desk.base, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def heard(process: subprocess.Popen[str], word: str) -> None:
    """Reads what is told until `word` is."""
    assert process.stderr is not None
    told = ""
    while word not in told:
        line = process.stderr.readline()
        assert line, told
        told += line


def started(desk: Desk) -> None:
    until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")


@pytest.mark.long
def test_done_without_an_answer_ends_the_wait(desk: Desk) -> None:
    desk.configure(auto_reply="never")
    with desk.watching():
        began = time.monotonic()
        done = send(desk, LONG)
        assert time.monotonic() - began < SOON
        assert (done.status, done.out) == (4, ""), done
        assert "no answer will come: coder is done with it and has sent no answer" in done.err
        assert standing(send(desk, LONG, "--json")) == (4, "unanswered", "done")


def test_an_answer_that_was_read_before_is_printed_again_and_never_denied(desk: Desk) -> None:
    with desk.watching():
        first = send(desk, LONG, "--dedupe-key", "k")
        again = send(desk, LONG, "--dedupe-key", "k")
        assert (first.status, again.status, again.out) == (0, 0, first.out)
        for path in Paths(desk.root, "user").cur.iterdir():
            path.unlink()
        again = send(desk, "0", "--dedupe-key", "k")
    assert (again.status, "what it sent has left (agent-mailer turns show " in again.err) == (4, True), again


def test_an_answer_that_a_slower_clock_has_dated_ends_the_wait(desk: Desk) -> None:
    """That of another machine, or one that was set back meanwhile."""
    user, coder = (Person(mail_in(desk.place(), whose), SystemClock()) for whose in ("user", "coder"))
    ahead = SystemClock().now() + 120.0
    draft = Draft(new_key("k"), Action.SEND, ahead, to=("coder",), subject="s", body="b")
    sent = user.send(draft)
    answer = coder.reply(sent.id, "Done.")
    again = user.send(draft)
    assert (sent.already, again.already) == (False, True)
    for one in (sent, again):
        waited = user.wait_for_answer(one, 0.0)
        assert waited.ending is Ending.ANSWERED, "while it is new, and when it was read"
        assert waited.answer is not None
        assert waited.answer.envelope.id == answer


@pytest.mark.long
def test_who_has_asked_another_may_still_answer(desk: Desk) -> None:
    desk.shell(
        "cat >/dev/null; if agent-mailer mail read | grep -q '^From: user'; then"
        " agent-mailer mail send --to planner --thread asked --body 'what do you say?'; else"
        " agent-mailer mail send --to user --thread question --body 'blue, says the planner'; fi"
    )
    with desk.watching(), waiting(desk, "--thread", "question") as process:
        heard(process, "coder is done with it, and what it sent has left (agent-mailer turns show ")
        desk.send("blue", sender="planner", thread="asked")
        assert process.wait(SOON) == 0


def test_an_answer_that_was_refused_is_told(desk: Desk) -> None:
    sent = desk.send()
    desk.once()
    turns = desk.place().state.turns
    record = turns.load(turns.ids()[0])
    assert record is not None
    assert record.settlement is not None
    [item] = record.settlement.items
    refused = msgspec.structs.replace(item, state=ItemState.REFUSED, why="no mailbox for user")
    record.settlement = msgspec.structs.replace(record.settlement, items=(refused,))
    turns.save(record)
    report = standing_in(desk.workdir, sent, "x")
    assert report is not None
    assert (report.state, report.final, report.text) == (
        MessageState.DONE,
        True,
        "is done with it, but its answer was refused: no mailbox for user",
    )


@pytest.mark.parametrize("which", [0, 1])
def test_of_mail_that_shared_a_turn_each_is_told_only_what_it_got_itself(desk: Desk, which: int) -> None:
    """Else who waits for an answer waits to the end of the time, or hears of a refusal that is another's."""
    desk.configure(auto_reply="never", batch_low=True)
    answered = f'"${which + 1}"'
    desk.shell(f"cat >/dev/null; set -- $AGENT_MAILER_MESSAGE_IDS; agent-mailer mail reply {answered} --body yes >&2")
    sent = [desk.send(thread="t", priority=Priority.LOW) for _ in range(3)]
    desk.once()
    turns = desk.place().state.turns
    [turn] = turns.ids()
    record = turns.load(turn)
    assert record is not None
    assert record.settlement is not None

    def told() -> list[tuple[bool, str]]:
        reports = [standing_in(desk.workdir, one, "t") for one in sent]
        return [(one.final, one.text) for one in reports if one is not None and one.state is MessageState.DONE]

    ends = [(True, "is done with it and has sent no answer")] * 3
    ends[which] = (
        False,
        f"is done with it, and what it sent has left (agent-mailer turns show {turn} -C {desk.workdir})",
    )
    assert told() == ends
    refused = [msgspec.structs.replace(one, state=ItemState.REFUSED, why="full") for one in record.settlement.items]
    record.settlement = msgspec.structs.replace(record.settlement, items=tuple(refused))
    turns.save(record)
    ends[which] = (True, "is done with it, but its answer was refused: full")
    assert told() == ends


def test_an_earlier_try_says_nothing_of_what_the_last_one_sent(desk: Desk) -> None:
    """Whoever waits would be told that no answer will come, while the agent waits for one itself."""
    sent = desk.send()
    desk.once()
    turns = desk.place().state.turns
    record = turns.load(turns.ids()[0])
    assert record is not None
    assert record.settlement is not None
    tried = msgspec.structs.replace(record.settlement, outcome=Outcome.SESSION_LOST, finished=False, items=())
    turns.create(msgspec.structs.replace(record, turn_id=record.turn_id[:-8] + "ffffffff", settlement=tried))
    turns.mark_settled(record.turn_id[:-8] + "ffffffff")
    report = standing_in(desk.workdir, sent, "x")
    assert report is not None
    assert (report.state, report.final) == (MessageState.DONE, False), report


def test_nobody_is_at_work_where_no_watcher_runs(desk: Desk) -> None:
    done = send(desk)
    assert (done.status, "at work" in done.err) == (4, False), done
    assert f"coder has no watcher: agent-mailer watch -C {desk.workdir}" in done.err
    assert standing(send(desk, "0", "--json")) == (4, "timeout", "stopped")


@pytest.mark.long
def test_a_turn_whose_watcher_and_agent_are_gone_is_not_at_work(desk: Desk) -> None:
    desk.shell("cat >/dev/null; sleep 600")
    with desk.watching() as watcher, waiting(desk) as process:
        heard(process, "coder has taken it and is at work")
        procfs.halt(watcher.pid)
        assert standing(send(desk, "0", "--json"))[2] == "stopped"
        watcher.kill()
        watcher.wait()
        desk.end_turns()
        heard(process, "coder has no watcher")


def test_an_agent_that_outlives_its_watcher_is_at_work(desk: Desk) -> None:
    desk.shell("cat >/dev/null; sleep 600")
    try:
        with waiting(desk, "--json") as process:
            watcher = desk.start_watch()
            heard(process, "is at work")
            until(lambda: desk.log(EventName.TURN_STARTED), "the agent runs")
            watcher.kill()
            watcher.wait()
            sent = next((desk.root / "agents/coder/inbox/cur").iterdir()).stem
            report = standing_in(desk.workdir, sent, "x")
            assert report is not None
            assert (report.state.value, "waits for its watcher" in report.text) == ("working", True)
            desk.end_turns()
            gone = standing_in(desk.workdir, sent, "x")
            assert gone is not None
            assert (gone.state, "is left open and goes on then" in gone.text) == (MessageState.STOPPED, True), gone
    finally:
        desk.end_turns()


@pytest.mark.parametrize(
    ("pause", "words"),
    [
        (Pause(PauseReason.LIMITED, 0.0, 7200.0, "weekly limit"), ("is paused (limited) until ", ": weekly limit")),
        (Pause(PauseReason.SIGNED_OUT, 0.0, 600.0, "401"), ("is paused (signed out) until ", ": 401")),
        (Pause(PauseReason.UNAVAILABLE, 0.0, 600.0), ("is paused (unavailable) until ",)),
        (Pause(PauseReason.BY_HAND, 0.0), ("is paused (by hand) until agent-mailer resume -C ",)),
    ],
)
def test_a_pause_is_told_with_why_and_until_when(desk: Desk, pause: Pause, words: tuple[str, ...]) -> None:
    now = time.time()
    until_moment = None if pause.until is None else now + pause.until
    desk.place().state.pause.write(Pause(pause.reason, now, until_moment, pause.detail))
    with desk.watching():
        started(desk)
        done = send(desk)
        assert done.status == 4
        for word in words:
            assert word in done.err
        assert "at work" not in done.err
        assert standing(send(desk, "0", "--json")) == (4, "timeout", "paused")


def test_waiting_behind_another_is_told(desk: Desk) -> None:
    hold = desk.base / "hold"
    os.mkfifo(hold)
    desk.shell(f"cat >/dev/null; cat {hold}")
    with desk.watching():
        desk.send(thread="busy")
        until(lambda: desk.log(EventName.TURN_STARTED), "the first turn")
        assert "works on another message first" in send(desk, "0", "--thread", "other").err
        done = send(desk, "0", "--thread", "busy", "--json")
        assert standing(done) == (4, "timeout", "behind")
        assert "works on an older message of the thread first" in done.json["standing"]["coder"]["text"]
        desk.place().state.requests.submit(Request(Verb.PAUSE))
        until(lambda: desk.place().state.pause.read(), "the pause")
        # A running turn goes on during a pause: the one behind it waits for the pause as well.
        assert standing(send(desk, "0", "--thread", "busy", "--json"))[2] == "paused"


def test_a_message_that_is_held_is_told(desk: Desk) -> None:
    """It has been taken, and waits for the one who asks here."""
    desk.configure(deny_from=["user"])
    sent = desk.send("x", thread="t")
    desk.once()
    standing = standing_in(desk.workdir, sent, "t")
    assert standing is not None
    assert (standing.state, standing.final) == (MessageState.HELD, False)
    assert f"holds it until a person lets it go: who (agent-mailer held show {sent}" in standing.text
    assert type_in(desk.workdir, "held", "drop", sent).status == 0
    standing = standing_in(desk.workdir, sent, "t")
    assert standing is not None
    assert standing.state is MessageState.DONE


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        ("cat >/dev/null; echo ok", MessageState.DONE, "is done with it and has sent no answer"),
        ("echo broken >&2; exit 5", MessageState.GIVEN_UP, "has given it up: broken (agent-mailer dead-letter show "),
    ],
)
def test_where_no_answer_will_come_the_wait_is_over(desk: Desk, script: str, state: MessageState, words: str) -> None:
    desk.configure(auto_reply="never", max_retries=0)
    desk.shell(script)
    sent = desk.send(thread="t")
    desk.once()
    report = standing_in(desk.workdir, sent, "t")
    assert report is not None
    assert (report.state, report.final, report.text.startswith(words)) == (state, True, True), report


@pytest.mark.long
def test_a_message_that_is_tried_again_or_given_up_is_told(desk: Desk) -> None:
    desk.configure(max_retries=1, retry={"first": 3600, "longest": 3600})
    desk.shell("cat >/dev/null; echo broken >&2; exit 5")
    with desk.watching(), waiting(desk) as process:
        heard(process, "has tried it, its turn ended failed; again at ")
    desk.configure(max_retries=0)
    with desk.watching():
        until(lambda: len(desk.log(EventName.WATCH_STARTED)) == 2, "the watcher")
        done = send(desk, LONG, "--thread", "fresh")
        assert (done.status, "given up" in done.out) == (1, True), done
        first = send(desk, LONG, "--thread", "f2", "--dedupe-key", "d")
        again = send(desk, LONG, "--thread", "f2", "--dedupe-key", "d")
        assert (first.status, again.status, again.out) == (1, 1, first.out)
        # Where its notice is not to be had any more, the same question is answered from the workdir.
        for path in Paths(desk.root, "user").cur.iterdir():
            path.unlink()
        again = send(desk, LONG, "--thread", "f2", "--dedupe-key", "d")
        assert again.status == 1
        assert "coder has given it up: broken (agent-mailer dead-letter show " in again.err


def test_of_an_unknown_agent_only_the_mailbox_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    sent = json.loads(send(desk, "0", "--dedupe-key", "k", "--json").out)
    assert sent["standing"] == {}
    receipts = desk.root / "agents/coder/receipts"
    receipts.mkdir(exist_ok=True)
    (receipts / f"{sent['id']}__coder__drained.json").write_text("{}")
    done = send(desk, "0", "--dedupe-key", "k")
    assert "coder has taken it\n" in done.err
    assert "coder has taken it; what it does with it cannot be seen from here" in done.err
    assert "at work" not in done.err


def test_two_workdirs_of_one_name_are_told_apart_by_their_mailbox(tmp_path: Path) -> None:
    here, there = Desk(tmp_path / "here"), Desk(tmp_path / "there")
    for desk in (here, there):
        remember(desk.workdir)
    with there.watching():
        started(there)
        found: dict[str, Any] = send(here, "0", "--json").json["standing"]["coder"]
    assert found["state"] == "stopped"
    assert str(here.workdir) in found["text"]


@pytest.mark.skipif(not is_nobody(), reason="root may read everything")
def test_an_inbox_that_cannot_be_read_is_no_failure_of_the_message(desk: Desk) -> None:
    new = Paths(desk.root, "user").new
    new.mkdir(parents=True, exist_ok=True)
    words = ("send", "--maildir-root", str(desk.root), "--to", "coder", "--body", "x", "--wait", "0")
    new.chmod(0)
    try:
        done = subprocess.run(
            as_throwaway([COMMAND, *words]), cwd=desk.base, stdin=-3, capture_output=True, text=True, check=False
        )
    finally:
        new.chmod(0o700)
    assert (done.returncode, len(desk.inbox("coder"))) == (69, 1), done
    assert f"fix: chmod u+rwX {new}" in done.stderr
    assert "sent as " in done.stderr


def test_the_last_word_has_one_mark_at_its_end(desk: Desk) -> None:
    elsewhere = desk.base / "elsewhere"  # a root in which nobody is known to be whose
    shutil.copytree(desk.root, elsewhere)
    done = type_in(desk.base, "send", "--maildir-root", elsewhere, "--to", "coder", "--body", "x", "--wait", "0")
    assert done.status == 4, done
    assert "coder has not taken it: does its watcher run? Later: agent-mailer mail inbox" in done.err
