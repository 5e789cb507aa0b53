"""A watcher that is killed, stopped or handed over, and the next one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import procfs
from tests.clocks import AheadOfTime, FakeClock
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Envelope, Progress, Stage
from agent_mailer.names import new_turn_id
from agent_mailer.process.handle import ProcessIdentity, is_alive
from agent_mailer.watch.watcher import Watcher


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def waiting_agent(desk: Desk) -> Path:
    """An agent that works until the returned file appears."""
    go = desk.base / "go"
    desk.script({"witness": "start"}, {"wait_for": str(go)}, {"witness": "end"}, {"print": "finished"})
    return go


@contextmanager
def left_at_work(desk: Desk) -> Iterator[str]:
    """Its watcher is killed while the agent works; what it works on, by id."""
    sent = desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        watcher.kill()
        watcher.wait()
        yield sent


def holder(desk: Desk) -> ProcessIdentity:
    [turn] = (desk.state / "turns").iterdir()
    import msgspec

    record = json.loads((turn / "turn.json").read_text())
    return msgspec.convert(record["process"], ProcessIdentity)


def test_a_turn_survives_the_death_of_its_watcher_and_runs_once(desk: Desk) -> None:
    go = waiting_agent(desk)
    with left_at_work(desk):
        assert is_alive(holder(desk))
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
            go.touch()
            until(lambda: desk.log(EventName.TURN_SETTLED), "the settlement")
    assert [mark["mark"] for mark in desk.marks()] == ["start", "end"]
    assert [m.body for m in desk.inbox()] == ["finished\n"]


def test_a_turn_that_ended_while_nobody_watched_is_judged_from_its_files(desk: Desk) -> None:
    go = waiting_agent(desk)
    with left_at_work(desk):
        identity = holder(desk)
        go.touch()
        until(lambda: not is_alive(identity), "the agent's end")
        assert outcomes(desk.once()) == ["done"]
    assert len(desk.marks()) == 2
    assert [m.body for m in desk.inbox()] == ["finished\n"]


def test_hand_over_leaves_at_once_and_the_turn_goes_on(desk: Desk) -> None:
    """openclaw#137355."""
    go = waiting_agent(desk)
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        watcher.send_signal(signal.SIGUSR1)
        assert watcher.wait(30) == 0
        assert is_alive(holder(desk))
        assert desk.log(EventName.WATCH_HANDED_OVER)
        (desk.workdir / "AGENTS.md").write_text("obey\n")
        # It keeps the runtime that it began with: what it says is read as it was told to print.
        desk.configure(runtime="claude")
        go.touch()
        assert outcomes(desk.once()) == ["done"]
    assert len(desk.marks()) == 2
    assert [m.body for m in desk.inbox()] == ["finished\n"]
    # Who sees it end has not seen it begin.
    assert [event["file"] for event in desk.log(EventName.INSTRUCTIONS_CHANGED)] == ["AGENTS.md"]


@pytest.mark.parametrize(
    ("then", "now", "printed"),
    [("text", "jsonl", "finished"), ("jsonl", "text", '{"type": "result", "text": "finished"}')],
)
def test_what_its_agent_prints_is_read_as_it_was_told_when_it_began(
    desk: Desk, then: str, now: str, printed: str
) -> None:
    go = desk.base / "go"
    desk.script({"witness": "start"}, {"wait_for": str(go)}, {"print": printed})
    desk.configure(command_output=then)
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        watcher.send_signal(signal.SIGUSR1)
        assert watcher.wait(30) == 0
        desk.configure(command_output=now)
        go.touch()
        assert outcomes(desk.once()) == ["done"]
    assert [m.body for m in desk.inbox()] == ["finished\n"]


@pytest.mark.parametrize("runs", [True, False])
def test_others_may_hear_that_a_turn_goes_on_under_another_watcher(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    told: list[tuple[str, Stage]] = []
    report = MaildirMailbox.report

    def noted(mailbox: MaildirMailbox, envelope: Envelope, progress: Progress) -> None:
        told.append((envelope.id, progress.stage))
        go.touch()
        report(mailbox, envelope, progress)

    go = waiting_agent(desk)
    with left_at_work(desk) as sent:
        monkeypatch.setattr(MaildirMailbox, "report", noted)
        if not runs:
            go.touch()
            until(lambda: not is_alive(holder(desk)), "the turn's end")
        assert outcomes(desk.once()) == ["done"]
    # What has ended already, and is only judged, is not at work.
    assert told == ([(sent, Stage.ADOPTED)] if runs else [])


def test_a_turn_that_ended_while_nobody_watched_took_no_longer_than_it_ran(desk: Desk) -> None:
    """Else a night without a watcher would be a night's work, also for `limits.minutes_per_day`."""
    go = waiting_agent(desk)
    with left_at_work(desk):
        go.touch()
        until(lambda: not is_alive(holder(desk)), "the turn's end")
    clock = FakeClock(time.time() + 7200)
    [seconds] = [row.fields["seconds"] for row in desk.once(clock) if row.event is EventName.TURN_ENDED]
    assert isinstance(seconds, float)
    assert seconds < 3600
    assert desk.place(clock).state.usage.today().seconds < 3600


def test_an_adopted_turn_has_no_more_time_than_it_began_with(desk: Desk) -> None:
    desk.configure(turn_timeout=3600)
    go = waiting_agent(desk)
    with left_at_work(desk):
        # Else it would be waited for as long as it has time.
        end = threading.Timer(10, go.touch)
        end.start()
        assert outcomes(desk.once(FakeClock(time.time() + 3700))) == ["timed_out"]
        end.cancel()
    assert len(desk.marks()) == 1


def test_a_second_signal_waits_for_no_grace_and_who_ends_it_is_written_down_first(desk: Desk) -> None:
    desk.configure(stop_grace=120)
    go = desk.base / "go"
    desk.script({"ignore": ["TERM"]}, {"witness": "start"}, {"wait_for": str(go)}, {"print": "finished"})
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        watcher.send_signal(signal.SIGTERM)
        until(lambda: desk.log(EventName.WATCH_STOPPING), "the stop")
        assert not desk.log(EventName.TURN_STOPPING)
        watcher.send_signal(signal.SIGTERM)
        until(lambda: desk.log(EventName.TURN_STOPPING), "the end of the grace")
        # Should the watcher die now, the next one knows that it was us.
        [turn] = (desk.state / "turns").iterdir()
        assert json.loads((turn / "turn.json").read_text())["stopped"] == "shutdown"
        go.touch()
        assert watcher.wait(30) == 0
    assert [ended["outcome"] for ended in desk.log(EventName.TURN_ENDED)] == ["interrupted"]


@LONG
def test_stopping_ends_the_tree_after_the_grace_and_costs_no_attempt(desk: Desk) -> None:
    desk.configure(stop_grace=0)
    pid_file = desk.base / "daemon.pid"
    desk.script(
        {"ignore": ["TERM"]},
        {"spawn": {"session": True, "orphan": True, "pid_file": str(pid_file)}},
        {"witness": "start"},
        {"wait_for": str(desk.base / "never")},
    )
    sent = desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        daemon = int(pid_file.read_text())
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(60) == 0
    assert not procfs.runs(daemon)
    [ended] = desk.log(EventName.TURN_ENDED)
    assert ended["outcome"] == "interrupted"
    entry = json.loads((desk.state / "retries.json").read_text())[sent]
    assert entry.get("attempts", 0) == 0
    assert entry["starts"] == 1
    saved = desk.base / "prompt"
    desk.script({"save_prompt": str(saved)})
    assert outcomes(desk.once()) == ["done"]
    assert "An earlier turn for this same mail was interrupted" in saved.read_text()


def test_an_agent_killed_from_outside_has_crashed(desk: Desk) -> None:
    desk.script({"witness": "start"}, {"die": "KILL"})
    sent = desk.send()
    assert outcomes(desk.once()) == ["crashed"]
    assert json.loads((desk.state / "retries.json").read_text())[sent]["attempts"] == 1


def test_a_killed_holder_is_a_crash_and_leaves_no_agent(desk: Desk) -> None:
    waiting_agent(desk)
    desk.send()
    with desk.watching():
        until(desk.marks, "the agent's start")
        agent = desk.marks()[0]["pid"]
        os.kill(holder(desk).pid, signal.SIGKILL)
        until(lambda: desk.log(EventName.TURN_ENDED), "the end")
        assert desk.log(EventName.TURN_ENDED)[0]["outcome"] == "crashed"
    assert not procfs.runs(agent)


@LONG
def test_the_turn_timeout_ends_everything(desk: Desk) -> None:
    desk.configure(turn_timeout=1)
    desk.script({"spawn": {"session": True, "ignore_term": True}}, {"wait_for": str(desk.base / "never")})
    sent = desk.send()
    assert outcomes(desk.once()) == ["timed_out"]
    assert json.loads((desk.state / "retries.json").read_text())[sent]["attempts"] == 1


@LONG
def test_silence_is_the_providers_fault_and_an_open_tool_is_not_silence(desk: Desk) -> None:
    """openclaw#124624."""
    desk.configure(command_output="jsonl", silence_timeout=1, first_output_timeout=5)
    desk.script(
        {"emit": {"type": "tool_start", "id": "1", "name": "build"}},
        {"sleep": 2.5},
        {"emit": {"type": "tool_end", "id": "1"}},
        {"emit": {"type": "result", "outcome": "done", "text": "built"}},
    )
    desk.send("long tool")
    assert outcomes(desk.once()) == ["done"]
    desk.script({"emit": {"type": "progress", "text": "hm"}}, {"wait_for": str(desk.base / "never")})
    sent = desk.send("silent")
    assert outcomes(desk.once()) == ["unavailable"]
    assert json.loads((desk.state / "retries.json").read_text())[sent].get("attempts", 0) == 0


def test_a_machine_that_sleeps_while_the_watcher_is_at_work_holds_nothing_against_the_turn(desk: Desk) -> None:
    """Most of the time it waits; here it writes down what the turn does."""
    desk.configure(command_output="jsonl", turn_timeout=20, max_retries=0)
    go, loop = desk.base / "go", AheadOfTime()
    tool, result = '{"type":"tool_start","id":"1","name":"build"}', '{"type":"result","outcome":"done","text":"ok"}'
    desk.shell(f"echo '{tool}'; while [ ! -e '{go}' ]; do sleep 0.05; done; echo '{result}'")
    desk.send()

    class Sleeps(SystemCalls):
        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            said = any(one.stat().st_size for one in desk.state.glob("turns/*/stdout"))
            if path.name == "progress.json" and said and not go.exists():
                loop.ahead += 500
                loop.clock_ahead += 500
                go.touch()
            return super().open(path, flags, mode)

    place = desk.place(loop)
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        place.disk.system = Sleeps()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(Watcher(place.room(lock), once=True).run())
    finally:
        lock.release()
    assert go.exists()
    assert desk.log(EventName.TURN_STOPPING) == []
    assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["done"]


def test_each_clock_ends_its_turn_and_none_runs_while_the_watcher_is_frozen(desk: Desk) -> None:
    desk.configure(command_output="jsonl", max_parallel_turns=4)
    desk.configure(turn_timeout=3600, first_output_timeout=100, silence_timeout=50, tool_timeout=200)
    tool, ended = '{"type":"tool_start","id":"1","name":"build"}', '{"type":"tool_end","id":"1"}'
    said = {"tool": tool, "silence": f"{tool}\n{ended}", "finished": '{"type":"result","outcome":"done","text":"ok"}'}
    cases = "".join(f"{thread}) printf '%s\n' '{lines}';; " for thread, lines in said.items())
    desk.shell(f'case "$AGENT_MAILER_THREAD_ID" in {cases} esac; exec sleep 60')
    for thread in ("first", *said):
        desk.send(thread=thread)
    loop = AheadOfTime()
    place = desk.place(loop)
    stopped: dict[str, str] = {}
    threads: dict[str, str] = {}

    def note(record: LogRecord) -> None:
        if record.event is EventName.TURN_STARTED:
            threads[str(record.fields["turn_id"])] = str(record.fields["thread"])
        if record.event is EventName.TURN_STOPPING:
            stopped[threads[str(record.fields["turn_id"])]] = str(record.fields["reason"])

    async def later(seconds: float = 0.0, expected: int = 0) -> None:
        """So much later each turn is looked at, which takes no time."""
        loop.clock_ahead += seconds
        for _ in range(3):
            loop.ahead += 1.5
            for _ in range(20):
                await asyncio.sleep(0)
        while len(stopped) < expected:  # noqa: ASYNC110 - the test's own deadline
            await asyncio.sleep(0.005)
        assert len(stopped) == expected

    async def story(watcher: Watcher) -> None:
        running = asyncio.create_task(watcher.run())
        try:
            while len([one for one in desk.state.glob("turns/*/stdout") if one.stat().st_size]) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await later()
            loop.ahead += 500
            await later(500)
            for expected, seconds in enumerate((6, 45, 50, 100), 1):
                await later(seconds, expected)
        except BaseException:
            watcher.stop(0.0)
            raise
        finally:
            await running

    place.log.listen(note)
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(story(Watcher(place.room(lock), once=True)))
    finally:
        lock.release()
    assert list(stopped.items()) == [
        ("finished", "finished"),
        ("silence", "silence_timeout"),
        ("first", "first_output_timeout"),
        ("tool", "tool_timeout"),
    ]
    ended_as = {row["thread"]: row["outcome"] for row in desk.log(EventName.TURN_ENDED)}
    assert ended_as == {"finished": "done", "silence": "unavailable", "first": "unavailable", "tool": "timed_out"}


@LONG
def test_a_result_with_a_process_that_never_leaves_is_done(desk: Desk) -> None:
    desk.configure(command_output="jsonl")
    desk.script({"emit": {"type": "result", "outcome": "done", "text": "ok"}}, {"wait_for": str(desk.base / "never")})
    desk.send()
    assert outcomes(desk.once()) == ["done"]


def test_a_claim_without_a_start_is_given_back_and_runs_once(desk: Desk) -> None:
    """What a kill between the claim and the gate leaves behind (openclaw#139341)."""
    from agent_mailer.state.records import Phase, TurnRecord

    sent = desk.send()
    place = desk.place()
    place.prepare()

    async def claim() -> None:
        from agent_mailer.mailbox.port import Message

        mailbox = place.mailbox()
        await mailbox.open()
        [envelope] = (await mailbox.pending(10)).envelopes
        place.state.turns.create(TurnRecord(new_turn_id(place.clock.now()), envelope, Phase.CLAIMED, "command", 0.0))
        assert isinstance(await mailbox.claim(envelope), Message)
        await mailbox.close()

    import asyncio

    asyncio.run(claim())
    desk.script({"witness": "start"}, {"print": "ok"})
    assert outcomes(desk.once()) == ["interrupted", "done"]
    assert len(desk.marks()) == 1
    assert (desk.state / "processed.txt").read_text() == f"{sent}\n"


def test_a_settlement_that_had_begun_is_finished_and_a_reply_leaves_once(desk: Desk) -> None:
    """openclaw#29106."""
    sent = desk.send()
    desk.shell("cat >/dev/null; echo answer")
    desk.once()
    # As if everything after the record had been lost.
    [turn] = (desk.state / "turns").iterdir()
    (turn / "settled").unlink()
    (desk.state / "processed.txt").unlink()
    desk.script({"witness": "start"})
    for _ in range(2):
        assert outcomes(desk.once()) == []
    assert len(desk.inbox()) == 1
    assert desk.marks() == []
    assert (desk.state / "processed.txt").read_text() == f"{sent}\n"
    usage = json.loads((desk.state / "usage.json").read_text())
    [day] = usage["days"].values()
    assert day["total"]["turns"] == 1


def test_two_watchers_never_run_at_once(desk: Desk) -> None:
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the first")
        second = desk.start_watch(stderr=-1)
        _, complaint = second.communicate(timeout=30)
        assert second.returncode == 75
        assert b"another watcher (pid" in complaint
        assert b"fix:" in complaint
        # One handle, two workdirs: the mailbox has one watcher too.
        other = desk.base / "other"
        (other / ".agent-mailer").mkdir(parents=True, mode=0o700)
        config = other / ".agent-mailer/config.toml"
        config.write_bytes((desk.state / "config.toml").read_bytes())
        config.chmod(0o600)
        import subprocess

        from tests.desk import CLI

        third = subprocess.run(
            [*CLI, "watch", "--no-interactive", "-C", str(other)], capture_output=True, check=False, timeout=30
        )
        assert third.returncode == 75
