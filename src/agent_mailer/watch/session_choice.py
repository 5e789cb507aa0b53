"""Which session a turn goes on in, and which prompt that calls for. Pure."""

from __future__ import annotations

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.outcomes import Outcome
from agent_mailer.prompts import PromptKind
from agent_mailer.state.records import RetryEntry, SessionEntry
from agent_mailer.watch.policy import WatchPolicy


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
        if provisional is not None and provisional.runtime == runtime:
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
    # A moment in the future is a clock that jumped: it counts as now.
    if age > policy.session_max_age_days * 86400:
        return f"has expired after {policy.session_max_age_days} days"
    return ""


def _same_fault_twice(rerun: RetryEntry) -> bool:
    """Out of time or crashed twice in a row: the session may be what is wrong. Limits and stops say nothing of it."""
    if len(rerun.history) < 2:
        return False
    last, before = rerun.history[-1].outcome, rerun.history[-2].outcome
    return last is before and last.counts
