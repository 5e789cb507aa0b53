"""From the evidence of an ended turn to its outcome: what is ours to say, before the runtime is asked."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

from agent_mailer.beneath import status
from agent_mailer.errors import words_of
from agent_mailer.outcomes import Exit, Judgement, Outcome, StopReason
from agent_mailer.process.holder import EXIT_FILE, STDOUT_FILE
from agent_mailer.processes import boot_id
from agent_mailer.runtimes.port import Evidence, Runtime, RuntimeMissing
from agent_mailer.state.records import TurnRecord

NO_BEGIN = "the turn's holder could not start the agent: is the workdir there, the disk full, no process to be had?"
NOTHING_RAN = "the watcher ended before anything was started"

_OF_A_STOP = (None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)

_CLOCKS = {
    StopReason.TURN_TIMEOUT: (Outcome.TIMED_OUT, "the turn took longer than turn_timeout"),
    StopReason.TOOL_TIMEOUT: (Outcome.TIMED_OUT, "a tool took longer than tool_timeout"),
    StopReason.FIRST_OUTPUT_TIMEOUT: (Outcome.UNAVAILABLE, "no sign of life within first_output_timeout"),
    StopReason.SILENCE_TIMEOUT: (Outcome.UNAVAILABLE, "silent for longer than silence_timeout"),
    StopReason.SHUTDOWN: (Outcome.INTERRUPTED, "the watcher was stopped"),
    StopReason.BY_HAND: (Outcome.INTERRUPTED, "stopped by hand"),
}


def ended_by_a_stop(end: Exit) -> bool:
    """Whether an agent that ended so, while its watcher was being stopped, may have been stopped with it."""
    return end.status is None and end.signal in _OF_A_STOP


def ended_at(turn_dir: Path, now: float, *, unseen: bool = False) -> float:
    """When a turn ended, which may be long before somebody looks: as its holder has it, or, where nothing of it ran any
    more when it was looked at first (`unseen`), when it last printed.
    """
    for name in (EXIT_FILE, STDOUT_FILE)[: 2 if unseen else 1]:
        with suppress(OSError):
            return min(now, status(turn_dir / name).st_mtime_ns / 1e9)
    return now


def judge_end(record: TurnRecord, evidence: Evidence, runtime: Runtime, *, released: bool, adopted: bool) -> Judgement:
    """How a followed turn ended. Of one whose gate never opened the record names no process any more: nothing ran."""
    process = record.process
    same_boot = process is not None and process.boot == boot_id()
    if same_boot and not released:
        record.process = None
        if adopted:
            # An earlier watcher died before it opened the gate.
            return Judgement(Outcome.INTERRUPTED, NOTHING_RAN)
        # It was open, and the holder could not begin; what stands in for a session ends at anybody's will.
        return Judgement(Outcome.UNAVAILABLE, NO_BEGIN) if record.live is None else runtime.judge(evidence)
    # A container that is killed takes holder and agent with it, and no file.
    ended_before = same_boot and evidence.exit.status is not None
    restarted = process is None or not (ended_before or process.of_this_life)
    return judge(evidence, runtime, restarted=restarted)


def judge_unstarted(record: TurnRecord, fault: RuntimeMissing | OSError) -> Judgement:
    """Nothing ran: whatever is missing, the message is innocent. A live session that was not to be had is no outage:
    the agent's own turn comes next, and shows whether there is one.
    """
    why = f"{fault.message} ({fault.fix})" if isinstance(fault, RuntimeMissing) else f"cannot start: {words_of(fault)}"
    if record.live is None:
        return Judgement(Outcome.UNAVAILABLE, why)
    return Judgement(Outcome.INTERRUPTED, f"nothing could stand in for the live session {record.live.who}: {why}")


def judge(evidence: Evidence, runtime: Runtime, *, restarted: bool) -> Judgement:
    """A final result counts whatever came after it; then our own reasons; then the runtime's judgement."""
    doomed = evidence.observation.doomed
    if doomed is not None and doomed.for_good:
        return Judgement(doomed.outcome, doomed.detail)
    if evidence.observation.result is None:
        if doomed is not None:
            return Judgement(doomed.outcome, doomed.detail)
        if evidence.stopped is not None and evidence.stopped in _CLOCKS:
            outcome, detail = _CLOCKS[evidence.stopped]
            trouble = evidence.observation.trouble
            if outcome is Outcome.UNAVAILABLE and trouble is not None:
                return Judgement(trouble.outcome, trouble.detail, retry_at=trouble.retry_at)
            return Judgement(outcome, detail)
        if restarted and not _tells_the_whole(evidence, runtime):
            return Judgement(Outcome.INTERRUPTED, "the machine or its container was restarted")
    return runtime.judge(evidence)


def _tells_the_whole(evidence: Evidence, runtime: Runtime) -> bool:
    """Whether what outlived a restart shows how the turn ended. Output is not synced: a power failure may leave the
    record of an exit and half of the answer, or no final result; only a failure of a plain command needs no words.
    """
    return not runtime.traits.has_events and bool(evidence.exit.status)
