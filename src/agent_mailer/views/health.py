"""What is wrong with a workdir, and when its watcher will do something next. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from agent_mailer.amounts import duration
from agent_mailer.config import RuntimeKind
from agent_mailer.errors import said_of
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import PauseReason
from agent_mailer.state.stuck import StuckKind
from agent_mailer.views.configured import Configured
from agent_mailer.views.pulse import Heard
from agent_mailer.views.values.status import (
    FaultView,
    PauseView,
    Problem,
    ProblemView,
    StatusView,
    Wake,
    WakeView,
)

LOGINS = {RuntimeKind.CLAUDE: "claude auth login", RuntimeKind.CODEX: "codex login"}
"""What logs each agent program in."""


class Learned(msgspec.Struct, frozen=True):
    """What is known beside the state's files: what the watcher said, and what it last learned of the login.

    `outage_after`: so many seconds a pause without a known end may last before somebody has to look. `untold`: the ways
    by which an operator was not told of the last, each with the reason.
    """

    heard: Heard = Heard()
    config: Configured = Configured()
    signed_out: SignedOut | None = None
    outage_after: float = 300.0
    untold: tuple[str, ...] = ()


def problems_of(
    view: StatusView,
    damaged: Sequence[tuple[Path, str]],
    runtime: RuntimeKind | None,
    learned: Learned = Learned(),  # noqa: B008 - it cannot change
    now: float = 0.0,
) -> list[ProblemView]:
    """Why somebody has to look at it, the most urgent first. A question that waits for a person is none."""
    return list(_problems(view, damaged, runtime, learned, now))


def _problems(
    view: StatusView,
    damaged: Sequence[tuple[Path, str]],
    runtime: RuntimeKind | None,
    learned: Learned,
    now: float,
) -> Iterator[ProblemView]:
    here = f" -C {shlex.quote(view.workdir)}"
    watcher, mailbox, pause, trouble = view.watcher, view.mailbox, view.pause, view.trouble
    if learned.config.wrong:
        # First: most of what follows may come of it.
        yield ProblemView(Problem.CONFIG, learned.config.wrong, said_of(learned.config.fix, view.workdir))
    if not watcher.running and not view.stopped:
        yield ProblemView(Problem.NO_WATCHER, "no watcher runs", f"agent-mailer watch{here}")
    elif watcher.halted:
        text = f"the watcher (process {watcher.pid}) was stopped by a signal"
        yield ProblemView(Problem.WATCHER_HALTED, text, f"kill -CONT {watcher.pid}")
    elif learned.heard.turns is False and (trouble is None or trouble.what != "disk"):
        # A disk that takes nothing takes no answer either.
        text = f"the watcher (process {watcher.pid}) does not answer: its loop stands still"
        yield ProblemView(Problem.WATCHER_SILENT, text, f"agent-mailer logs{here}, then start it again")
    if trouble is not None:
        text = f"{trouble.what}: {trouble.why}"
        yield ProblemView(Problem.TROUBLE, text, said_of(trouble.fix, view.workdir))
    if mailbox.problem is not None and (trouble is None or trouble.what == "disk"):
        yield ProblemView(
            Problem.MAILBOX, f"the mailbox cannot be read: {mailbox.problem}", f"agent-mailer doctor{here}"
        )
    elif learned.heard.waits and trouble is None:
        text = f"the watcher waits for its mailbox: {learned.heard.waits}"
        yield ProblemView(Problem.MAILBOX, text, f"agent-mailer doctor{here}")
    if untrusted := [name for name in view.untrusted if name not in learned.config.gone]:
        text = f"not as it was trusted, so it does not count: {', '.join(untrusted)}"
        yield ProblemView(Problem.UNTRUSTED, text, f"agent-mailer config trust{here}")
    unchosen = view.runtime is None and "runtime" in view.untrusted
    if learned.heard.missing and not (learned.config.stops or view.stopped or unchosen):
        text = f"no turn can be started: {learned.heard.missing}"
        yield ProblemView(Problem.PROGRAM, text, said_of(learned.heard.fix, view.workdir))
    resume = f"agent-mailer resume{here}"
    login = LOGINS.get(runtime) if runtime is not None else None
    if pause is not None and pause.reason == PauseReason.SIGNED_OUT:
        text = "the agent program is signed out"
        yield ProblemView(Problem.SIGNED_OUT, text, f"{login}, then {resume}" if login else resume)
    elif learned.signed_out is not None:
        text = f"the agent program is signed out: {learned.signed_out.text}"
        mend = learned.signed_out.fix or login
        yield ProblemView(Problem.SIGNED_OUT, text, f"{mend}, then {resume}" if mend else resume)
    elif pause is not None and pause.until is None and pause.reason != PauseReason.BY_HAND:
        text = f"paused until a person ends it: {pause.reason}"
        yield ProblemView(Problem.PAUSED, text, resume)
    elif pause is not None and _is_outage(pause) and now - pause.since >= learned.outage_after and not view.stopped:
        text = f"the agent program has not worked for {duration(now - pause.since)}: {pause.detail or pause.reason}"
        yield ProblemView(Problem.OUTAGE, text, f"agent-mailer doctor{here}")
    late = [one for one in view.settling if one.why and now - one.since >= learned.outage_after]
    if late:
        first = min(late, key=lambda one: one.since)
        what = f"an answer to {first.to}" if first.to else "the end of a turn"
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        text = f"{what} has waited to leave for {duration(now - first.since)}{more}: {first.why}"
        yield ProblemView(Problem.ANSWER_WAITS, text, f"agent-mailer turns show {first.turn_id}{here}")
    if learned.untold:
        text = f"what it tells you does not reach you: {'; '.join(learned.untold)}"
        yield ProblemView(Problem.UNTOLD, text, f"agent-mailer test-notify{here}")
    if view.dead_letters:
        text = f"{view.dead_letters} given up"
        yield ProblemView(Problem.DEAD_LETTERS, text, f"agent-mailer dead-letter list{here}")
    stuck = [one for one in view.stuck if one.reason != StuckKind.GIVEN_UP]
    if stuck:
        text = f"stuck: {', '.join(f'{one.count} {one.reason}' for one in stuck)}"
        yield ProblemView(Problem.STUCK, text, f"agent-mailer stuck list{here}")
    for path, why in damaged:
        text = f"{path.name} is damaged: {why}"
        yield ProblemView(Problem.STATE_DAMAGED, text, f"agent-mailer doctor{here} --repair")


def _is_outage(pause: PauseView) -> bool:
    """Its end is in nobody's hand; a limit whose end the provider has named is only waited for."""
    return pause.reason == PauseReason.UNAVAILABLE or (pause.reason == PauseReason.LIMITED and pause.guessed)


def next_wake(view: StatusView, now: float) -> WakeView | None:
    """What the watcher waits for; mail wakes it whatever else it waits for. None where there is no watcher."""
    if not view.watcher.running or view.watcher.halted:
        return None
    if view.trouble is not None:
        return WakeView(Wake.TROUBLE)
    pause, due = view.pause, [now + entry.due_in_seconds for entry in view.retries]
    if pause is not None:
        if pause.until is None:
            return WakeView(Wake.RESUME)
        if view.mailbox.waiting or due:
            first = now if view.mailbox.waiting else min(due)
            return WakeView(Wake.PROBE, max(pause.until, first))
    else:
        moments = [WakeView(Wake.RETRY, moment) for moment in due]
        moments += [WakeView(Wake.SCHEDULE, one.next_at) for one in view.schedules if one.next_at is not None]
        moments += [WakeView(Wake.OFFER, one.until) for one in view.offered]
        if moments:
            # Of two at the same moment the first.
            return min(moments, key=lambda wake: wake.at or 0.0)
    if view.running or view.settling:
        return WakeView(Wake.TURN)
    return WakeView(Wake.FILES if view.in_the_way else Wake.MAIL)


def urgency(view: StatusView | FaultView) -> tuple[int, int, str]:
    """Sorts what needs a person first, then what waits for an answer, then what works, then the rest, by name."""
    if isinstance(view, FaultView):
        return (0, 0, view.workdir)
    if view.problems:
        return (0, min(_ORDER[problem.code] for problem in view.problems), view.agent)
    if view.blocked:
        return (1, 0, view.agent)
    return (2 if view.running or view.settling else 3, 0, view.agent)


_ORDER = {code: number for number, code in enumerate(Problem)}
