"""Does somebody work on what waits?"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from agent_mailer.checks import CheckResult, failed, guarded, ok
from agent_mailer.errors import ExitCode

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def check_watched(place: Workplace) -> CheckResult:
    """A watcher runs; or none does, and there is nothing for one to do.

    Mail that waits while nobody watches is a failure: it lies for ever. So is a turn that only the next watcher takes
    up. What is to be tried again waits, too.
    A broker is not asked: what waits there is not known then.
    """

    def look() -> CheckResult:
        from agent_mailer.views.local import look, look_without_asking
        from agent_mailer.views.pulse import Heard

        view = look(place, look_without_asking, lambda *_: Heard(), past=False)
        here = f"-C {shlex.quote(view.workdir)}"
        waiting = (view.mailbox.waiting or 0) + len(view.retries)
        left = len(view.running) + len(view.settling)
        mail = "1 message waits" if waiting == 1 else f"{waiting} messages wait"
        if not view.watcher.running and (waiting or left):
            what = mail if waiting else "a turn is left open"
            mend = view.stopped or f"agent-mailer watch {here}"
            return failed("watched", place.workdir, f"{what}, and no watcher runs", mend, ExitCode.UNAVAILABLE)
        if not view.watcher.running:
            return ok("watched", place.workdir, "no watcher runs, and nothing is known to wait")
        return ok("watched", place.workdir, f"by process {view.watcher.pid}")

    return guarded("watched", place.workdir, look)
