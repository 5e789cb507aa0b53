"""`logs` beside a watcher at work: what it chooses, what it never misses, and what must not be in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import procfs
from tests.desk import Desk, until
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.events import KEEP_ROTATED, EventName
from agent_mailer.views.log import LogReader


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def logs(desk: Desk, *words: str) -> Typed:
    return type_in(desk.workdir, "logs", *words)


def rows(typed: Typed) -> list[dict[str, Any]]:
    assert typed.status == 0, typed
    return [json.loads(line) for line in typed.out.splitlines()]


class Follower:
    """`agent-mailer logs --follow` in a process of its own."""

    def __init__(self, desk: Desk, *words: str) -> None:
        self._seen = desk.base / "seen"
        with self._seen.open("wb") as stream:
            self.process = subprocess.Popen(
                [COMMAND, "logs", "--follow", *words], cwd=desk.workdir, stdin=subprocess.DEVNULL, stdout=stream
            )

    def lines(self) -> list[str]:
        return self._seen.read_text().splitlines()

    def wakes(self) -> int:
        """How often it has been woken or has woken by itself."""
        status = procfs.said(self.process.pid, "status")
        return int(status.partition("voluntary_ctxt_switches:\t")[2].partition("\n")[0])


@contextmanager
def following(desk: Desk, *words: str) -> Iterator[Follower]:
    found = Follower(desk, *words)
    try:
        yield found
    finally:
        found.process.send_signal(signal.SIGINT)
        assert found.process.wait(timeout=60) == 130


def append(desk: Desk, *numbers: int) -> None:
    with (desk.state / "log.jsonl").open("a") as log:
        for number in numbers:
            log.write(f'{{"ts":"2026-01-01T00:00:00.000Z","event":"x","n":{number}}}\n')


def rotate(desk: Desk) -> None:
    log = desk.state / "log.jsonl"
    for number in range(KEEP_ROTATED, 0, -1):
        source = log.with_name(f"log.jsonl.{number - 1}") if number > 1 else log
        if source.exists():
            source.rename(log.with_name(f"log.jsonl.{number}"))


def test_a_thread_and_a_turn_are_chosen_by_a_part_of_their_names(desk: Desk) -> None:
    desk.configure(max_retries=0)
    sent = {thread: desk.send(thread=thread) for thread in ("alpha/one", "beta/two")}
    desk.once()
    everything = [json.loads(line) for line in (desk.state / "log.jsonl").read_text().splitlines()]
    turns = {row["thread"]: row["turn_id"] for row in everything if row["event"] == "turn_claimed"}
    for thread, message_id in sent.items():
        chosen = rows(logs(desk, "--thread", thread[:4], "--json"))
        assert chosen == [
            row for row in everything if {thread, turns[thread], message_id} & set(map(str, row.values()))
        ]
        named = [row["event"] for row in chosen]
        assert named[0] == "turn_claimed"
        assert {"turn_started", "turn_ended", "item_delivered", "message_done", "turn_settled"} <= set(named)
        assert rows(logs(desk, "--turn", turns[thread][-6:], "--json")) == chosen
        assert "turn settled" in logs(desk, "--turn", turns[thread]).out
    assert (
        rows(logs(desk, "--thread", "alpha", "--grep", "turn_s", "--tail", "1", "--json"))[0]["event"] == "turn_settled"
    )
    assert logs(desk, "--thread", "gamma", "--json").json["error"]["code"] == "unknown"
    assert logs(desk, "--turn", "2", "--json").json["error"]["code"] == "ambiguous"


ODD = "\x1b[2J\x9b31m\u202e"


@pytest.mark.parametrize(
    "line",
    [
        *(json.dumps({"ts": 1, "event": "x", name: f"{ODD}\n"}) for name in ("ts", "event", "n")),
        json.dumps({"ts": 1, "event": "x", f"{ODD}\n": 1}),
        f"no JSON {ODD}",
    ],
    ids=["stamp", "event", "value", "name", "line"],
)
def test_what_somebody_else_wrote_into_the_log_does_nothing_to_a_terminal(desk: Desk, line: str) -> None:
    """An agent may write there; whichever part of a line it is."""
    (desk.state / "log.jsonl").write_text(f"{line}\n")
    shown = logs(desk)
    assert (shown.status, shown.err) == (0, ""), shown
    [told] = shown.out.splitlines()
    assert (told.isprintable(), "\\x1b" in told) == (True, True), told


def test_a_thread_is_known_by_its_session_when_the_log_is_gone(desk: Desk) -> None:
    desk.configure(command_output="jsonl")
    desk.shell("""cat >/dev/null; echo '{"type":"session","id":"s"}'; echo '{"type":"result","text":"x"}'""")
    desk.send(thread="old")
    desk.once()
    (desk.state / "log.jsonl").unlink()
    assert logs(desk, "--thread", "ol") == Typed(0, "", "")


def test_following_misses_nothing_and_shows_nothing_twice_over_rotation(desk: Desk) -> None:
    append(desk, 1, 2, 3)
    with following(desk, "--tail", "2", "--json") as follower:

        def shown() -> list[int]:
            return [json.loads(line)["n"] for line in follower.lines()]

        until(lambda: shown() == [2, 3], "the tail")
        append(desk, 4)
        until(lambda: shown()[-1] == 4, "a line")
        rotate(desk)
        append(desk, 5)
        rotate(desk)
        append(desk, 6)
        rotate(desk)
        append(desk, 7)
        until(lambda: shown()[-1] == 7, "what came after three rotations at once")
        with (desk.state / "log.jsonl").open("a") as log:
            log.write('{"event":"x",')
            log.flush()
            log.write('"n":8}\n')
        until(lambda: shown()[-1] == 8, "a line in two pieces")
        assert shown() == [2, 3, 4, 5, 6, 7, 8]
        (desk.state / "log.jsonl").unlink()
        append(desk, 9)
        until(lambda: shown()[-1] == 9, "a log that was removed and begun anew")


@pytest.mark.parametrize("times", range(1, KEEP_ROTATED + 1))
def test_what_was_rotated_between_two_looks_comes_in_order_and_once(desk: Desk, times: int) -> None:
    append(desk, 0)
    with LogReader(desk.state / "log.jsonl") as reader:
        append(desk, 1)
        assert [line.record["n"] for line in reader.new()] == [1]
        append(desk, 2)
        for number in range(times):
            rotate(desk)
            append(desk, 3 + number)
        assert [line.record["n"] for line in reader.new()] == [*range(2, 3 + times)]
        assert [*reader.new()] == []
        append(desk, 99)
        assert [line.record["n"] for line in reader.new()] == [99]


@pytest.mark.parametrize("before", [True, False])
def test_a_line_that_is_half_written_when_it_is_looked_comes_whole_and_once(desk: Desk, before: bool) -> None:
    """`before`: it was already when the reader was made."""
    log = desk.state / "log.jsonl"
    append(desk, 0)

    def half() -> None:
        with log.open("a") as stream:
            stream.write('{"event":"x",')

    if before:
        half()
    with LogReader(log) as reader:
        if not before:
            half()
        assert [line.record["n"] for line in reader.tail(9)] == [0]
        for _ in range(2):
            assert [*reader.new()] == []
        with log.open("a") as stream:
            stream.write('"n":1}\n{"ev')
        assert [line.record for line in reader.new()] == [{"event": "x", "n": 1}]
        with log.open("a") as stream:
            stream.write('ent":"x","n":2}\n')
        append(desk, 3)
        assert [line.record["n"] for line in reader.new()] == [2, 3]


def test_following_a_thread_that_is_to_come_beside_a_real_watcher(desk: Desk) -> None:
    with following(desk, "--thread", "new", "--json") as follower, desk.watching():
        desk.send(thread="other")
        until(lambda: desk.log(EventName.TURN_SETTLED), "the other thread")
        sent = desk.send(thread="new")
        until(lambda: [line for line in follower.lines() if '"turn_settled"' in line], "its end")
        shown = [json.loads(line) for line in follower.lines()]
        assert shown[0]["event"] == "turn_claimed"
        assert {row["thread"] for row in shown if "thread" in row} == {"new"}
        assert [row["message_id"] for row in shown if row["event"] == "message_done"] == [sent]


def test_following_sleeps_until_something_is_written(desk: Desk) -> None:
    append(desk, 0)
    with following(desk, "--json") as follower:
        until(follower.lines, "the tail")
        append(desk, 1)
        until(lambda: '"n":1' in follower.lines()[-1], "a line")
        until(lambda: procfs.state(follower.process.pid) == "S", "sleep")
        before = follower.wakes()
        # Another process is awake for long enough.
        assert logs(desk, "--tail", "1", "--json").status == 0
        assert follower.wakes() - before <= 2


SECRET = "sesame-4711"


def test_no_mail_no_words_of_the_agent_and_no_key_reach_the_log_or_the_journal(desk: Desk, tmp_path: Path) -> None:
    told = tmp_path / "told"
    desk.configure(
        api_key=f"amk_{SECRET}",
        command_output="jsonl",
        max_retries=0,
        notify={"command": ["/bin/sh", "-c", f"cat >>{told}; env >>{told}"]},
    )
    desk.script(
        {"emit": {"type": "progress", "text": SECRET}},
        {"emit": {"type": "tool_start", "id": "1", "name": "Bash", "detail": f"curl -H key:{SECRET}"}},
        {"emit": {"type": "tool_end", "id": "1"}},
        {"run": ["agent-mailer", "mail", "send", "--to", "planner", "--subject", SECRET, "--body", SECRET, "--now"]},
        {"emit": {"type": "result", "outcome": "blocked", "text": f"may I say {SECRET}?"}},
    )
    desk.send(f"the word is {SECRET}", subject=SECRET, thread="secrets")
    printed = tmp_path / "printed"
    with printed.open("wb") as stream:
        watcher = subprocess.Popen(
            [COMMAND, "watch", "--no-interactive"],
            cwd=desk.workdir,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            env={**os.environ, "AGENT_MAILER_API_KEY": f"amk_{SECRET}"},
        )
    try:
        until(lambda: desk.log(EventName.NOTICE_SENT), "the notice")
    finally:
        watcher.terminate()
        assert watcher.wait(timeout=60) == 0
    assert SECRET in desk.inbox()[0].body, "the question has left"
    assert SECRET in desk.inbox("planner")[0].subject, "and the news"
    written = (desk.state / "log.jsonl").read_text()
    assert SECRET not in written
    assert SECRET not in told.read_text()
    # What journald gets is what the log has.
    assert printed.read_text() == written
