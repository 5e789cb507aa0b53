"""What makes a workdir unhealthy, what comes first in a list of them, and when a watcher does something next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.config import RuntimeKind
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import PauseReason
from agent_mailer.views.health import Learned, next_wake, problems_of, urgency
from agent_mailer.views.values.history import SpentView
from agent_mailer.views.values.status import (
    BlockedView,
    FaultView,
    MailboxView,
    OfferedView,
    PauseView,
    Problem,
    ProblemView,
    RetryView,
    RunningView,
    ScheduleView,
    StatusView,
    TroubleView,
    Wake,
    WatcherView,
)

NOW = 1_000_000.0
OFFERED = OfferedView("m", ("claude-7",), NOW - 1, NOW + 30)
WELL = StatusView(
    workdir="/home/me/my coder",
    agent="coder",
    runtime="claude",
    healthy=True,
    problems=(),
    watcher=WatcherView(True, 7, "1", 5.0),
    mailbox=MailboxView("maildir", "coder", "/mail"),
    running=(),
    retries=(),
    blocked=(),
    dead_letters=0,
    pause=None,
    trouble=None,
    results=(),
    today=SpentView(0, 0.0, 0, 0, 0.0),
    next_wake=None,
    last_events=(),
)
BROKEN = MailboxView("maildir", "coder", "/mail", problem="it is gone")
QUESTION = BlockedView("t", "m", "turn", "user", NOW, "May I?")
TURN = RunningView("turn", "m", "t", "user", "running", 1.0)


def retry(due: float) -> RetryView:
    return RetryView("m", "t", 1, 1, due, "failed")


def sends(due: float | None) -> ScheduleView:
    return ScheduleView("nightly", "0 3 * * *", "UTC", "s", "/b", "", None if due is None else NOW + due)


def pause(reason: str, until: float | None) -> PauseView:
    return PauseView(reason, NOW, until, "")


def trouble(what: str) -> TroubleView:
    return TroubleView(what, NOW, "why", "fix")


def having(**changes: Any) -> StatusView:
    return msgspec.structs.replace(WELL, **changes)


def codes(view: StatusView, damaged: list[tuple[Path, str]] | None = None) -> list[str]:
    return [problem.code.value for problem in problems_of(view, damaged or [], RuntimeKind.CLAUDE)]


@pytest.mark.parametrize(
    ("view", "wanted"),
    [
        (WELL, []),
        (having(watcher=WatcherView(False)), ["no_watcher"]),
        (having(watcher=WatcherView(True, 7, halted=True)), ["watcher_halted"]),
        (having(mailbox=BROKEN), ["mailbox"]),
        (having(trouble=trouble("disk")), ["trouble"]),
        (having(trouble=trouble("mailbox"), mailbox=BROKEN), ["trouble"]),
        (having(trouble=trouble("disk"), mailbox=BROKEN), ["trouble", "mailbox"]),
        (having(pause=pause("signed_out", NOW + 60)), ["signed_out"]),
        (having(pause=pause("limited", NOW + 60)), []),
        (having(pause=pause("unavailable", NOW + 60)), []),
        (having(pause=pause("limited", None)), ["paused"]),
        (having(pause=pause("by_hand", None)), []),
        (having(dead_letters=2), ["dead_letters"]),
        (having(blocked=(QUESTION,), retries=(retry(1.0),), running=(TURN,)), []),
    ],
)
def test_what_needs_somebody_and_what_does_not(view: StatusView, wanted: list[str]) -> None:
    assert codes(view) == wanted


@pytest.mark.parametrize(
    ("reason", "guessed", "lasted", "stopped", "told"),
    [
        ("unavailable", False, 299.0, "", False),
        ("unavailable", False, 300.0, "", True),
        ("limited", True, 300.0, "", True),
        ("limited", False, 9e4, "", False),
        ("unavailable", False, 9e4, "amp up", False),
        ("limited", True, 9e4, "amp up", False),
    ],
)
def test_an_outage_that_lasts_is_told_and_not_of_who_is_stopped_or_knows_its_end(
    reason: str, guessed: bool, lasted: float, stopped: str, told: bool
) -> None:
    pause = PauseView(reason, NOW - lasted, NOW + 60, "", guessed)
    view = having(pause=pause, stopped=stopped, watcher=WatcherView(not stopped, 7))
    found = problems_of(view, [], RuntimeKind.CLAUDE, Learned(outage_after=300.0), NOW)
    assert [one.code for one in found] == ([Problem.OUTAGE] if told else [])


@pytest.mark.parametrize("reason", [None, *PauseReason])
def test_a_login_that_is_lost_is_told_whatever_else_the_agent_rests_for(reason: PauseReason | None) -> None:
    learned = Learned(signed_out=SignedOut(NOW, "its login has ended"))
    for until in (None, NOW + 60):
        rests = having(pause=pause(reason, until) if reason is not None else None)
        [found] = problems_of(rests, [], RuntimeKind.CLAUDE, learned, NOW)
        assert found.code is Problem.SIGNED_OUT
        assert found.fix.startswith("claude auth login, then agent-mailer resume")


def test_every_problem_has_words_and_a_command_for_that_very_folder() -> None:
    sick = having(watcher=WatcherView(False), mailbox=BROKEN, pause=pause("signed_out", None), dead_letters=1)
    problems = problems_of(sick, [(Path("/x/pause.json"), "torn")], RuntimeKind.CLAUDE)
    assert [problem.code.value for problem in problems] == [
        *("no_watcher", "mailbox", "signed_out", "dead_letters", "state_damaged")
    ]
    for problem in problems:
        assert problem.text
        assert "-C '/home/me/my coder'" in problem.fix
    assert problems[2].fix.startswith("claude auth login, then ")


def test_what_needs_a_person_comes_first() -> None:
    def sick(agent: str, code: Problem) -> StatusView:
        return having(agent=agent, healthy=False, problems=(ProblemView(code, "x"),))

    fault = FaultView("/x", ())
    lying, dead = sick("z", Problem.NO_WATCHER), sick("a", Problem.DEAD_LETTERS)
    asks, works, idle = having(agent="y", blocked=(QUESTION,)), having(agent="x", running=(TURN,)), having(agent="a")
    ordered: list[StatusView | FaultView] = [fault, lying, dead, asks, works, idle]
    assert sorted([ordered[n] for n in (3, 0, 5, 1, 4, 2)], key=urgency) == ordered


@pytest.mark.parametrize(
    ("view", "why", "at"),
    [
        (WELL, Wake.MAIL, None),
        (having(running=(TURN,)), Wake.TURN, None),
        (having(retries=(retry(30.0), retry(10.0))), Wake.RETRY, NOW + 10),
        (having(schedules=(sends(50.0), sends(None), sends(20.0))), Wake.SCHEDULE, NOW + 20),
        (having(schedules=(sends(20.0),), retries=(retry(30.0),)), Wake.SCHEDULE, NOW + 20),
        (having(schedules=(sends(20.0),), retries=(retry(10.0),)), Wake.RETRY, NOW + 10),
        (having(offered=(OFFERED,)), Wake.OFFER, NOW + 30),
        (having(offered=(OFFERED,), retries=(retry(40.0),)), Wake.OFFER, NOW + 30),
        (having(offered=(OFFERED,), schedules=(sends(20.0),)), Wake.SCHEDULE, NOW + 20),
        (having(schedules=(sends(20.0),), pause=pause("by_hand", None)), Wake.RESUME, None),
        (having(pause=pause("by_hand", None), retries=(retry(30.0),)), Wake.RESUME, None),
        (having(pause=pause("limited", NOW + 60)), Wake.MAIL, None),
        (having(pause=pause("limited", NOW + 60), retries=(retry(10.0),)), Wake.PROBE, NOW + 60),
        (having(pause=pause("limited", NOW + 60), retries=(retry(90.0),)), Wake.PROBE, NOW + 90),
        (
            having(pause=pause("limited", NOW + 60), mailbox=MailboxView("maildir", "coder", "/mail", 3)),
            Wake.PROBE,
            NOW + 60,
        ),
        (having(trouble=trouble("disk"), retries=(retry(10.0),)), Wake.TROUBLE, None),
    ],
)
def test_the_next_wake(view: StatusView, why: Wake, at: float | None) -> None:
    found = next_wake(view, NOW)
    assert found is not None
    assert (found.why, found.at) == (why, at)


@pytest.mark.parametrize("watcher", [WatcherView(False), WatcherView(True, 7, halted=True)])
def test_nobody_wakes_where_nobody_watches(watcher: WatcherView) -> None:
    assert next_wake(having(watcher=watcher, retries=(retry(10.0),)), NOW) is None
