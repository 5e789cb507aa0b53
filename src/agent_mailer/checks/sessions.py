"""Whether the sessions that threads are to go on in can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from agent_mailer.checks.result import CheckResult, guarded, ok, warning
from agent_mailer.names import printable
from agent_mailer.runtimes.port import Runtime
from agent_mailer.state.records import SessionEntry
from agent_mailer.watch.policy import WatchPolicy
from agent_mailer.watch.session_choice import unfit


def check_sessions(
    path: Path, entries: Callable[[], Mapping[str, SessionEntry]], runtime: Runtime, policy: WatchPolicy, now: float
) -> CheckResult:
    """What has grown too old is no fault: that thread starts fresh. What the agent program has lost is told."""

    def look() -> CheckResult:
        traits = runtime.traits
        live = {thread: entry for thread, entry in entries().items() if entry.session_id}
        if not traits.resumes:
            return ok("sessions", path, f"{traits.name} keeps no sessions: every message starts fresh")
        closed = {t: why for t, e in live.items() if (why := unfit(e, runtime=traits.name, now=now, policy=policy))}
        kept = runtime.kept_sessions()
        gone = [t for t, e in live.items() if t not in closed and kept is not None and e.session_id not in kept]
        if gone:
            more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
            text = f"{traits.name} no longer has the session of thread {printable(gone[0], 80)}{more}: it starts fresh"
            return warning("sessions", path, text, "agent-mailer sessions invalidate --all")
        some = f"; one that {next(iter(closed.values()))} starts fresh" if closed else ""
        return ok("sessions", path, f"{len(live) - len(closed)} of {len(live)} can be resumed{some}")

    return guarded("sessions", path, look)
