"""A turn's end: the runtime's final word, then our own reasons, then the runtime's judgement of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Exit, Judgement, Outcome, StopReason
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.process.holder import EXIT_FILE, STDOUT_FILE
from agent_mailer.processes import boot_id, first_started
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.live.adapter import LiveRuntime
from agent_mailer.runtimes.port import CommandOutput, Doomed, Evidence, Observation, Result, Trouble
from agent_mailer.state.records import Phase, Sitter, TurnRecord
from agent_mailer.turn_tools import FINISHED, RELEASED
from agent_mailer.watch.judging import ended_at, ended_by_a_stop, judge, judge_end, judge_unstarted

CLOCKS = {
    StopReason.TURN_TIMEOUT: Outcome.TIMED_OUT,
    StopReason.TOOL_TIMEOUT: Outcome.TIMED_OUT,
    StopReason.FIRST_OUTPUT_TIMEOUT: Outcome.UNAVAILABLE,
    StopReason.SILENCE_TIMEOUT: Outcome.UNAVAILABLE,
    StopReason.SHUTDOWN: Outcome.INTERRUPTED,
}
EXITS = {"none": Exit(), "0": Exit(status=0), "1": Exit(status=1), "TERM": Exit(signal=15)}


def judged(
    tmp_path: Path,
    stopped: StopReason | None,
    end: Exit,
    *,
    result: Result | None = None,
    trouble: Trouble | None = None,
    restarted: bool = False,
) -> Judgement:
    evidence = Evidence(
        Observation(result=result, trouble=trouble),
        end,
        tmp_path / "out",
        tmp_path / "err",
        resume=None,
        stopped=stopped,
    )
    return judge(evidence, CommandRuntime(["x"], CommandOutput.JSONL, {}), restarted=restarted)


@pytest.mark.parametrize("end", list(EXITS))
@pytest.mark.parametrize("stopped", list(CLOCKS))
def test_what_we_ended_is_judged_by_why_we_did(tmp_path: Path, stopped: StopReason, end: str) -> None:
    assert judged(tmp_path, stopped, EXITS[end]).outcome is CLOCKS[stopped]


@pytest.mark.parametrize("end", list(EXITS))
@pytest.mark.parametrize("stopped", [None, *StopReason])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_final_result_counts_whatever_came_after_it(
    tmp_path: Path, stopped: StopReason | None, end: str, restarted: bool
) -> None:
    found = judged(tmp_path, stopped, EXITS[end], result=Result(Outcome.DONE, "words"), restarted=restarted)
    assert (found.outcome, found.final_text) == (Outcome.DONE, "words")


@pytest.mark.parametrize("stopped", list(CLOCKS))
def test_trouble_explains_a_silence_and_excuses_no_long_work(tmp_path: Path, stopped: StopReason) -> None:
    trouble = Trouble(Outcome.LIMITED, "quota", 5_000.0)
    found = judged(tmp_path, stopped, Exit(), trouble=trouble)
    if CLOCKS[stopped] is Outcome.UNAVAILABLE:
        assert found == Judgement(Outcome.LIMITED, "quota", retry_at=5_000.0)
    else:
        assert found.outcome is CLOCKS[stopped]


def test_gone_without_a_record_is_a_crash_unless_the_machine_was_restarted(tmp_path: Path) -> None:
    assert judged(tmp_path, None, Exit(), restarted=False).outcome is Outcome.CRASHED
    assert judged(tmp_path, None, Exit(), restarted=True).outcome is Outcome.INTERRUPTED


@pytest.mark.parametrize("output", list(CommandOutput))
@pytest.mark.parametrize("end", list(EXITS))
def test_after_a_restart_only_what_cannot_be_half_there_counts(tmp_path: Path, end: str, output: CommandOutput) -> None:
    """The record of an exit may outlive a power failure, and the answer or the final result beside it be torn."""
    (tmp_path / "out").write_text("half of the ans")
    (tmp_path / "err").touch()
    evidence = Evidence(Observation(), EXITS[end], tmp_path / "out", tmp_path / "err", resume=None, stopped=None)
    found = judge(evidence, CommandRuntime(["x"], output, {}), restarted=True)
    failed = output is CommandOutput.TEXT and end == "1"
    assert found.outcome is (Outcome.FAILED if failed else Outcome.INTERRUPTED)


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_nothing_ran_is_an_outage_only_where_we_opened_the_gate_of_the_agents_own_program(
    tmp_path: Path, live: bool, adopted: bool
) -> None:
    """What stands in for a live session ends at anybody's will."""
    process = ProcessIdentity(1, 1, boot_id())
    sitter = Sitter("claude-7", process) if live else None
    envelope = Envelope(id="a", thread="t", sender="user", created=1.0, order="a", locator="a")
    record = TurnRecord("turn-1", envelope, Phase.RUNNING, "command", 0.0, process=process, live=sitter)
    runtime = CommandRuntime(["x"], CommandOutput.TEXT, {}) if not live else LiveRuntime("claude-7", process, 60.0)
    out = tmp_path / "turn" / "out"
    evidence = Evidence(Observation(), Exit(), out, out, resume=None, stopped=None)
    found = judge_end(record, evidence, runtime, released=False, adopted=adopted)
    outage = not live and not adopted
    assert found.outcome is (Outcome.UNAVAILABLE if outage else Outcome.INTERRUPTED)
    assert record.process is None
    unstarted = judge_unstarted(record, OSError("no process to be had"))
    assert unstarted.outcome is (Outcome.INTERRUPTED if live else Outcome.UNAVAILABLE)
    assert "no process to be had" in unstarted.detail


@pytest.mark.parametrize("box", ["outbox", "outbox.sealed"])
def test_what_a_session_has_answered_is_done_though_it_gave_it_back_as_well(tmp_path: Path, box: str) -> None:
    def judged(*words: str) -> Outcome:
        for word in words:
            (tmp_path / box).mkdir(exist_ok=True)
            (tmp_path / box / word).touch()
        evidence = Evidence(Observation(), Exit(), tmp_path / "out", tmp_path / "out", resume=None, stopped=None)
        return LiveRuntime("claude-7", ProcessIdentity(1, 1, boot_id()), 60.0).judge(evidence).outcome

    assert judged() is Outcome.INTERRUPTED
    assert judged(RELEASED) is Outcome.INTERRUPTED
    assert judged(FINISHED) is Outcome.DONE


HERE = ProcessIdentity(1, 1, boot_id())
ELSEWHERE = {
    "here": HERE,
    "another container": msgspec.structs.replace(HERE, first=first_started() + 1),
    "another boot": msgspec.structs.replace(HERE, boot="another"),
    "nowhere": None,
}


@pytest.mark.skipif(not first_started(), reason="process 1 may not be looked at")
@pytest.mark.parametrize(
    ("life", "outcomes"),
    [
        ("here", [Outcome.CRASHED, Outcome.DONE, Outcome.FAILED, Outcome.CRASHED]),
        # What was recorded before the container ended is whole; who left no record was killed with it.
        ("another container", [Outcome.INTERRUPTED, Outcome.DONE, Outcome.FAILED, Outcome.INTERRUPTED]),
        ("another boot", [Outcome.INTERRUPTED, Outcome.INTERRUPTED, Outcome.FAILED, Outcome.INTERRUPTED]),
        ("nowhere", [Outcome.INTERRUPTED, Outcome.INTERRUPTED, Outcome.FAILED, Outcome.INTERRUPTED]),
    ],
)
def test_what_ended_in_another_life_counts_as_far_as_it_is_known(
    tmp_path: Path, life: str, outcomes: list[Outcome]
) -> None:
    (tmp_path / "out").write_text("It is 42.")
    (tmp_path / "err").touch()
    envelope = Envelope(id="a", thread="t", sender="user", created=1.0, order="a", locator="a")
    runtime, process = CommandRuntime(["x"], CommandOutput.TEXT, {}), ELSEWHERE[life]
    for end, outcome in zip(EXITS.values(), outcomes, strict=True):
        record = TurnRecord("turn-1", envelope, Phase.RUNNING, "command", 0.0, process=process)
        evidence = Evidence(Observation(), end, tmp_path / "out", tmp_path / "err", resume=None, stopped=None)
        # Whether its gate was opened only the boot of its start can tell.
        released = life in ("here", "another container")
        found = judge_end(record, evidence, runtime, released=released, adopted=True)
        assert (found.outcome, record.process) == (outcome, process), end


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("result", [Result(Outcome.DONE, "words"), None])
def test_what_nothing_good_could_come_of_is_ended_as_that(
    tmp_path: Path, result: Result | None, for_good: bool
) -> None:
    doomed = Doomed(Outcome.UNAVAILABLE, "no model", for_good=for_good)
    observation = Observation(result=result, doomed=doomed)
    evidence = Evidence(
        observation, Exit(status=0), tmp_path / "out", tmp_path / "err", resume=None, stopped=StopReason.TURN_TIMEOUT
    )
    found = judge(evidence, CommandRuntime(["x"], CommandOutput.JSONL, {}), restarted=False)
    assert found.outcome is (Outcome.DONE if result is not None and not for_good else Outcome.UNAVAILABLE)


def test_whom_a_stop_may_have_ended() -> None:
    assert all(ended_by_a_stop(Exit(signal=number)) for number in (None, 1, 2, 9, 15))
    assert not any(ended_by_a_stop(end) for end in (Exit(status=0), Exit(status=143), Exit(signal=11), Exit(signal=6)))


@pytest.mark.parametrize(
    ("files", "unseen", "ended"),
    [
        ({"exit": 20.0, "stdout": 10.0}, False, 20.0),
        ({"exit": 20.0, "stdout": 10.0}, True, 20.0),
        ({"exit": 120.0}, False, 100.0),
        ({"stdout": 10.0}, True, 10.0),
        # Somebody has seen it run until now, however silent it was.
        ({"stdout": 10.0}, False, 100.0),
        ({}, True, 100.0),
    ],
)
def test_a_turn_ended_when_its_files_say_and_not_when_somebody_looks(
    tmp_path: Path, files: dict[str, float], unseen: bool, ended: float
) -> None:
    for name, moment in files.items():
        path = tmp_path / {"exit": EXIT_FILE, "stdout": STDOUT_FILE}[name]
        path.touch()
        os.utime(path, (moment, moment))
    assert ended_at(tmp_path, 100.0, unseen=unseen) == ended
