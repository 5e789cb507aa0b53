"""Every rule of the engine that needs no hand: order, retry, session, the clocks of a turn. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from enum import Enum
from pathlib import Path

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.mailbox.port import URGENCY, Automatic, Envelope, Kind, Priority
from agent_mailer.names import is_session_id
from agent_mailer.outcomes import AutoReply, Outcome, StopReason
from agent_mailer.prompts import PromptKind
from agent_mailer.remote.access import RemoteAccess
from agent_mailer.schedules.due import Schedule
from agent_mailer.state.notices import Channel
from agent_mailer.state.records import Pause, RetryEntry, SessionEntry, Sitter
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.guards.rounds import GuardPolicy
from agent_mailer.watch.guards.who import WhoPolicy


class NotifyPolicy(msgspec.Struct, frozen=True):
    """Whom to tell, and how: by `command`, by Apprise's `urls` (both with the environment `env`), by mail to `address`,
    or not at all.

    `timeout`: of the command and of Apprise; `again_after`: until their second try, doubling from there.
    """

    command: tuple[str, ...] = ()
    address: str = ""
    urls: tuple[str, ...] = ()
    agent: str = ""
    env: Mapping[str, str] = {}
    trouble_after: float = 300.0
    timeout: float = 30.0
    again_after: float = 5.0

    @property
    def channels(self) -> tuple[Channel, ...]:
        ways = ((Channel.COMMAND, self.command), (Channel.MAIL, self.address), (Channel.APPRISE, self.urls))
        return tuple(channel for channel, way in ways if way)


class ApprovePolicy(msgspec.Struct, frozen=True):
    """What a person is asked before: calls that `rules` name, and with `refused` what the mode does not allow.

    `forbidden`: why nothing may be asked at all (plan mode). `expires`: seconds that a question waits for an answer.
    `tells_codes`: mail to the operator is out of the agent's reach, and may carry what answers a question; of a folder,
    `mail_hidden`: so is all its mail, and a person's name in it is his. `asks_sender`: so is who sent the message.
    """

    rules: tuple[str, ...] = ()
    refused: bool = False
    expires: float = 259200.0
    forbidden: str = ""
    tells_codes: bool = False
    mail_hidden: bool = False
    asks_sender: bool = False
    edits: bool = False
    """The program is told no before it edits what somebody else has reserved."""

    @property
    def asks(self) -> bool:
        return self.refused or self.edits or bool(self.rules)


class WatchPolicy(msgspec.Struct, frozen=True):
    """Durations are seconds unless the name says otherwise; None switches a clock off."""

    workdir: Path
    project_dir: Path | None = None
    max_retries: int = 3
    max_starts: int = 10
    max_parallel_turns: int = 1
    batch_low: bool = False
    retry_first: float = 10.0
    retry_longest: float = 600.0
    session_max_age_days: int = 7
    session_max_turns: int = 50
    session_max_bytes: int | None = 20_000_000
    auto_reply: AutoReply = AutoReply.IF_SILENT
    turn_timeout: float = 3600.0
    tool_timeout: float | None = None
    first_output_timeout: float | None = 60.0
    silence_timeout: float | None = 600.0
    finish_grace: float = 5.0
    stop_grace: float = 20.0
    global_note_fixed: bool = False
    """No turn changes the note of all threads."""
    turn_memory: int = 0
    """Bytes that all processes of a turn may use together; 0 = off."""
    keep_transcripts: int = 7
    trouble_first: float = 1.0
    trouble_longest: float = 120.0
    """The waits between two tries while disk or mailbox refuse."""
    notify: NotifyPolicy = NotifyPolicy()
    out_of_git: tuple[Path, ...] = ()
    """Folders that git leaves alone, should they lie in a tree of it."""
    who: WhoPolicy = WhoPolicy()
    guards: GuardPolicy = GuardPolicy()
    budget: BudgetPolicy = BudgetPolicy()
    schedules: tuple[Schedule, ...] = ()
    approve: ApprovePolicy = ApprovePolicy()
    remote: RemoteAccess = RemoteAccess.OPERATE
    live_wait: float = 60.0
    """How long a message waits for a live session that was told of it, and `live_time`: for one that has taken it."""
    live_time: float = 1800.0
    undeliverable_after: float = 86400.0
    """An item still not taken after this long, while other calls succeed, is refused for good."""


def may_start(pause: Pause | None, now: float, running: int, slots: int, urgent: int = 0) -> int:
    """How many turns may be started now, of which the first `urgent` are. A pause that has run out lets one probe
    through. Urgent mail takes one place beyond the `slots`: a full house does not keep it waiting.
    """
    if pause is None:
        free = max(0, slots - running)
        return free + 1 if urgent > free and running <= slots else free
    if pause.until is None or now < pause.until or running:
        return 0
    return 1


class Step(Enum):
    SETTLE = "settle"
    RETRY = "retry"
    GIVE_UP = "give up"


class RetryDecision(msgspec.Struct, frozen=True):
    """`attempts` is the new count; `not_before` the earliest next start, seconds since the epoch."""

    step: Step
    attempts: int
    not_before: float = 0.0
    why: str = ""


def decide_retry(
    outcome: Outcome, *, attempts: int, starts: int, now: float, policy: WatchPolicy, jitter: float
) -> RetryDecision:
    """`attempts` and `starts` as they were when the turn began, this start included; `jitter` in [0, 1): the wait is
    anywhere between nothing and the backoff, so that many watchers on one cause spread out.
    """
    if outcome.settles:
        return RetryDecision(Step.SETTLE, 0)
    if outcome.counts:
        attempts += 1
        if attempts > policy.max_retries:
            return RetryDecision(Step.GIVE_UP, attempts, why=f"{attempts} failed attempt{'s' * (attempts > 1)}")
    if starts >= policy.max_starts:
        return RetryDecision(Step.GIVE_UP, attempts, why=f"{starts} start{'s' * (starts > 1)} without an end")
    wait = backoff(attempts - 1, policy.retry_first, policy.retry_longest) * jitter if outcome.counts else 0.0
    return RetryDecision(Step.RETRY, attempts, not_before=now + wait)


def backoff(number: int, first: float, longest: float) -> float:
    """`first` doubled `number` times, at most `longest`."""
    return min(longest, first * 2.0 ** min(number, 40))


MOST_FETCHES = 6
"""Claims in a row that give no message, about half a minute; then it waits for a person."""

MOST_PUT_BACK = 5
"""So often what was given up runs again because its mailbox lists it."""


def fetch_again(
    known: RetryEntry | None, envelope: Envelope, now: float, policy: WatchPolicy, *, answered: bool
) -> RetryEntry:
    """The retry of a message that is listed and gave nothing to its claim: no attempt, and a wait that grows.

    `answered`: the mailbox says that there is no such message; where it fails instead, it may be ours already.
    """
    entry = known or RetryEntry(envelope, listed_only=True)
    wait = backoff(entry.fetches, policy.trouble_first, policy.trouble_longest)
    since = min(entry.fetching_since, now) if entry.fetches else now
    return msgspec.structs.replace(
        entry,
        fetches=entry.fetches + 1,
        fetching_since=since,
        not_before=now + wait,
        listed_only=entry.listed_only and answered,
    )


def cannot_be_fetched(entry: RetryEntry, now: float, policy: WatchPolicy, *, answered: bool) -> bool:
    """Where the mailbox fails instead of answering, it may be out of order: a day of that is waited for."""
    patience = 0.0 if answered else policy.undeliverable_after
    return entry.fetches >= MOST_FETCHES and now - entry.fetching_since >= patience


class Candidate(msgspec.Struct, frozen=True):
    """A message that is still to be done: listed by the mailbox, or ours already (`retry`). `taker` wants to do it."""

    envelope: Envelope
    retry: RetryEntry | None = None
    taker: Sitter | None = None

    @property
    def not_before(self) -> float:
        return self.retry.not_before if self.retry is not None else 0.0


_REPORTS = frozenset((Kind.STATUS, Kind.ANSWER, Kind.REVIEW_RESPONSE, Kind.DECISION))


def wants_answer(envelope: Envelope) -> bool:
    """Whether its sender waits for one: reports, answers, and what a watcher wrote by itself ask for nothing."""
    return envelope.automatic is Automatic.NO and envelope.kind not in _REPORTS


class Plan(msgspec.Struct, frozen=True):
    """`ready`: heads of threads that may start, most urgent first; `next_due`: when the next one may, if known.

    `urgent`: the ids of those in whose thread urgent mail waits.
    """

    ready: tuple[Candidate, ...]
    next_due: float | None
    urgent: frozenset[str] = frozenset()


def make_plan(candidates: Iterable[Candidate], busy_threads: Set[str], now: float) -> Plan:
    """Within a thread strictly oldest first: a thread whose oldest message waits, waits (I2).

    Among threads the most urgent message counts, then age: an urgent mail pulls the thread it waits in.
    """
    threads: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        threads.setdefault(candidate.envelope.thread, []).append(candidate)
    heads: list[tuple[int, str, Candidate]] = []
    next_due: float | None = None
    for thread, members in threads.items():
        if thread in busy_threads:
            continue
        head = min(members, key=lambda c: c.envelope.order)
        if head.not_before > now:
            next_due = head.not_before if next_due is None else min(next_due, head.not_before)
            continue
        urgency = min(URGENCY[c.envelope.priority] for c in members)
        heads.append((urgency, head.envelope.order, head))
    heads.sort(key=lambda item: item[:2])
    urgent = frozenset(head.envelope.id for urgency, _, head in heads if urgency == URGENCY[Priority.URGENT])
    return Plan(tuple(head for _, _, head in heads), next_due, urgent)


def urgent_beside(candidates: Iterable[Candidate], running: Mapping[str, str]) -> dict[str, tuple[Envelope, ...]]:
    """By turn, the urgent mail that waits in its thread, oldest first. `running`: the turn of each thread."""
    found: dict[str, list[Envelope]] = {}
    for candidate in candidates:
        envelope = candidate.envelope
        if envelope.priority is Priority.URGENT and envelope.thread in running:
            found.setdefault(running[envelope.thread], []).append(envelope)
    return {turn: tuple(sorted(those, key=lambda one: one.order)) for turn, those in found.items()}


class SessionChoice(msgspec.Struct, frozen=True):
    """`session_id` None = start fresh; `why_lost` completes "the session of that work ..."."""

    session_id: str | None
    prompt: PromptKind
    why_lost: str = ""


def choose_session(
    entry: SessionEntry | None,
    rerun: RetryEntry | None,
    *,
    runtime: str,
    resumes: bool,
    now: float,
    policy: WatchPolicy,
) -> SessionChoice:
    """I5: a rerun may go on in its own provisional session; else the thread's, if it is fit to be resumed."""
    is_rerun = rerun is not None and bool(rerun.history)
    if rerun is not None and is_rerun and resumes:
        # Where a session was lost before, this is the one that the turn after it began.
        provisional = rerun.provisional
        if provisional is not None and provisional.runtime == runtime and is_session_id(provisional.session_id):
            if not _same_fault_twice(rerun):
                return SessionChoice(provisional.session_id, PromptKind.RERUN)
            return SessionChoice(None, PromptKind.RERUN)
    fault = unfit(entry, runtime=runtime, now=now, policy=policy) if resumes else ""
    usable = resumes and entry is not None and bool(entry.session_id) and not fault
    if rerun is not None and rerun.session_lost:
        if rerun.last_outcome is Outcome.SESSION_LOST:
            return SessionChoice(None, PromptKind.LOST, "could not be resumed")
        return SessionChoice(None, PromptKind.RERUN)
    session_id = entry.session_id if usable and entry is not None else None
    if is_rerun:
        return SessionChoice(session_id, PromptKind.RERUN)
    if session_id:
        return SessionChoice(session_id, PromptKind.RESUMED)
    if resumes and entry is not None:
        return SessionChoice(None, PromptKind.LOST, fault or "was dropped")
    return SessionChoice(None, PromptKind.FRESH)


FUTURE_TRUSTED = 86400.0
"""Seconds that a session's date may lie ahead of us; of one beyond that nobody knows what it is."""


def unfit(entry: SessionEntry | None, *, runtime: str, now: float, policy: WatchPolicy) -> str:
    """Why a session is not resumed any more; completes "the session ...". Empty where it is, or there is none."""
    if entry is None or not entry.session_id:
        return ""
    if entry.runtime and entry.runtime != runtime:
        return f"belongs to another runtime ({entry.runtime})"
    if entry.turn_count >= policy.session_max_turns:
        return f"was closed after {entry.turn_count} turns"
    if policy.session_max_bytes is not None and entry.transcript_bytes >= policy.session_max_bytes:
        return f"was closed after {entry.transcript_bytes // 1_000_000} MB of output"
    try:
        age = now - from_iso(entry.last_used_at)
    except ValueError:
        age = 0.0
    if age < -FUTURE_TRUSTED:
        return f"carries a date in the future ({entry.last_used_at[:20]})"
    # One a little ahead is a clock that jumped: it counts as now.
    if age > policy.session_max_age_days * 86400:
        return f"has expired after {policy.session_max_age_days} days"
    return ""


def _same_fault_twice(rerun: RetryEntry) -> bool:
    """Out of time or crashed twice in a row: the session may be what is wrong. Limits and stops say nothing of it."""
    if len(rerun.history) < 2:
        return False
    last, before = rerun.history[-1].outcome, rerun.history[-2].outcome
    return last is before and last.counts


class Limits(msgspec.Struct, frozen=True):
    """Seconds each clock may run; None = that clock is off.

    The tool clock measures one open tool, the first-output clock a runtime that has not said anything yet, the silence
    clock one that has stopped; `finish_grace` is what the processes have to leave after the result.
    """

    turn_timeout: float
    tool_timeout: float | None
    first_output_timeout: float | None
    silence_timeout: float | None
    finish_grace: float


class Activity(msgspec.Struct, frozen=True):
    """What the clocks start from. `open_tool_since` is the start of the oldest tool that is open."""

    started: float
    last_event: float | None = None
    result_at: float | None = None
    open_tool_since: float | None = None


def verdict(limits: Limits, activity: Activity, now: float) -> StopReason | None:
    """Why the turn has to be ended at `now`: the clock that ran out first; None while it may go on."""
    moment, reason = min(_deadlines(limits, activity), key=_moment)
    return reason if now >= moment else None


def next_check(limits: Limits, activity: Activity, now: float) -> float:
    """The earliest moment at which a clock can run out if nothing happens; never before `now`."""
    return max(now, min(moment for moment, _ in _deadlines(limits, activity)))


def _deadlines(limits: Limits, activity: Activity) -> list[tuple[float, StopReason]]:
    if activity.result_at is not None:
        return [(activity.result_at + limits.finish_grace, StopReason.FINISHED)]
    running = [(activity.started + limits.turn_timeout, StopReason.TURN_TIMEOUT)]
    if activity.open_tool_since is not None:
        # Silence counts only while the model is waited for: an open tool may work quietly for as long as it is allowed.
        if limits.tool_timeout is not None:
            running.append((activity.open_tool_since + limits.tool_timeout, StopReason.TOOL_TIMEOUT))
    elif activity.last_event is None and limits.first_output_timeout is not None:
        running.append((activity.started + limits.first_output_timeout, StopReason.FIRST_OUTPUT_TIMEOUT))
    elif limits.silence_timeout is not None:
        silent_since = activity.started if activity.last_event is None else activity.last_event
        running.append((silent_since + limits.silence_timeout, StopReason.SILENCE_TIMEOUT))
    return running


def _moment(deadline: tuple[float, StopReason]) -> float:
    return deadline[0]
