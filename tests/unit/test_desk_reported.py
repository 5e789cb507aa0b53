"""Whatever is a problem is told with what mends it in `status`, and needs somebody on the pages of one's own agents."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.unit.test_status_health import BROKEN, NOW, having, pause, trouble

from agent_mailer.cli.status.one import screen
from agent_mailer.config import RuntimeKind
from agent_mailer.console.operating.needs import needs_of
from agent_mailer.desk.reported import Looked, problems_beside
from agent_mailer.state.pauses import SignedOut
from agent_mailer.views.configured import Configured
from agent_mailer.views.health import Learned, problems_of
from agent_mailer.views.pulse import Heard
from agent_mailer.views.values.needs import NeedKind
from agent_mailer.views.values.status import (
    FaultView,
    MailboxView,
    Problem,
    ProblemView,
    SettlingView,
    StatusView,
    StuckCountView,
    WatcherView,
)


class Wrong(NamedTuple):
    """A workdir that has one problem, and the kind of need that tells it. `None`: it cannot be looked at."""

    kind: NeedKind
    view: StatusView | None
    learned: Learned = Learned()
    damaged: tuple[tuple[Path, str], ...] = ()


WAITS = SettlingView("turn", "m", "t", "user", NOW - 900, "user", "the disk is full")
WRONG = {
    Problem.CONFIG: Wrong(NeedKind.TROUBLE, having(), Learned(config=Configured("no runtime", "config edit"))),
    # Who was stopped is missed as soon as mail waits.
    Problem.NO_WATCHER: Wrong(
        NeedKind.SILENT, having(watcher=WatcherView(False), mailbox=MailboxView("maildir", "coder", "/mail", 1))
    ),
    Problem.WATCHER_HALTED: Wrong(NeedKind.TROUBLE, having(watcher=WatcherView(True, 7, halted=True))),
    Problem.WATCHER_SILENT: Wrong(NeedKind.TROUBLE, having(), Learned(Heard(False))),
    Problem.TROUBLE: Wrong(NeedKind.TROUBLE, having(trouble=trouble("disk"))),
    Problem.MAILBOX: Wrong(NeedKind.TROUBLE, having(mailbox=BROKEN)),
    Problem.UNTRUSTED: Wrong(NeedKind.TROUBLE, having(untrusted=("command",))),
    Problem.PROGRAM: Wrong(NeedKind.TROUBLE, having(), Learned(Heard(True, "no claude", "install it"))),
    Problem.SIGNED_OUT: Wrong(NeedKind.SIGNED_OUT, having(), Learned(signed_out=SignedOut(NOW, "no login"))),
    Problem.OUTAGE: Wrong(NeedKind.OUTAGE, having(pause=pause("unavailable", NOW + 9)), Learned(outage_after=0.0)),
    Problem.PAUSED: Wrong(NeedKind.PAUSED, having(pause=pause("too_many_turns", None))),
    Problem.ANSWER_WAITS: Wrong(NeedKind.ANSWER_WAITS, having(settling=(WAITS,))),
    Problem.UNTOLD: Wrong(NeedKind.TROUBLE, having(), Learned(untold=("webhook: it says 404",))),
    Problem.DEAD_LETTERS: Wrong(NeedKind.STUCK, having(dead_letters=1, stuck=(StuckCountView("given-up", 1),))),
    Problem.STUCK: Wrong(NeedKind.STUCK, having(stuck=(StuckCountView("unreadable", 1),))),
    Problem.STATE_DAMAGED: Wrong(NeedKind.TROUBLE, having(), damaged=((Path("pause.json"), "no JSON"),)),
    Problem.UNREADABLE: Wrong(NeedKind.TROUBLE, None),
}


@pytest.mark.parametrize("code", Problem)
def test_every_problem_needs_somebody_once(code: Problem) -> None:
    wrong = WRONG[code]
    if wrong.view is None:
        beside = problems_beside(FaultView("/home/me/coder", (ProblemView(code, "it is gone"),)))
        assert [need.kind for need in beside] == [wrong.kind]
        return
    problems = tuple(problems_of(wrong.view, wrong.damaged, RuntimeKind.CLAUDE, wrong.learned, NOW))
    assert [problem.code for problem in problems] == [code]
    view = msgspec.structs.replace(wrong.view, problems=problems)
    login = wrong.learned.signed_out
    looked = Looked(view, NOW, NOW, signed_out=login.at if login is not None else None)
    needs = [*needs_of([looked.watched], NOW, silent_after=0.0), *problems_beside(view)]
    assert [need.kind for need in needs] == [wrong.kind]


@pytest.mark.parametrize("code", [code for code in Problem if code is not Problem.UNREADABLE])
def test_the_status_of_one_says_what_mends_it(code: Problem) -> None:
    wrong = WRONG[code]
    assert wrong.view is not None
    problems = problems_of(wrong.view, wrong.damaged, RuntimeKind.CLAUDE, wrong.learned, NOW)
    view = msgspec.structs.replace(wrong.view, problems=tuple(problems), healthy=False)
    shown = "\n".join(screen(view, NOW, None))
    [problem] = problems
    # Some rows leave out where: that is in the first.
    assert problem.fix in shown or problem.fix.partition(" -C ")[0] in shown.replace(problem.text, "")
