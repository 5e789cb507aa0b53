"""Does the configuration of a workdir say what a turn needs, and what of it was mistyped? Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent_mailer.config_faults import EDIT, STARTS, gone_by_mistake, mend_missing, mistyped, told
from agent_mailer.names import did_you_mean
from agent_mailer.trust.verdict import COMMAND

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


class Configured(msgspec.Struct, frozen=True):
    """`wrong`: why it does not say what a watcher needs, or no longer says what is trusted; `fix` mends that.

    `gone` are the keys that are not as they were trusted because they were mistyped, `stops` whether no turn can start.
    """

    wrong: str = ""
    fix: str = ""
    gone: tuple[str, ...] = ()
    stops: bool = False


def configured(place: Workplace, *, watched: bool) -> Configured:
    """`watched`: a watcher runs, which may have been told more than the file says. Raises as `Workplace.loaded`."""
    loaded, trusted, path = place.loaded, place.trust.verdict, place.folder.config
    gone = trusted.gone
    lacking = [one for one in place.absent() if one[0] in STARTS]
    wrong = mistyped(loaded.unknown, [*gone, *(key for key, _ in lacking)])
    stops = bool(lacking) and not watched
    if trusted.fix not in ("", COMMAND):
        # Where it is kept comes first: until then nothing can be trusted anew.
        return Configured(trusted.why, trusted.fix, stops=stops)
    if wrong:
        # It is said of a workdir that stands beside it.
        text = told(path, wrong).replace(str(path), path.name)
        return Configured(text, EDIT, gone_by_mistake(loaded, gone), stops)
    if not stops:
        return Configured()
    mend = mend_missing(loaded.config, lacking)
    # A person can be asked: then nothing needs to be looked up.
    fix = "agent-mailer init" if mend.startswith("agent-mailer init ") else mend
    return Configured(f"{path.name} lacks {', '.join(key for key, _ in lacking)}", fix, stops=stops)


def doubtful(unknown: tuple[str, ...]) -> str:
    """`; did you mean max_retries?` behind keys that nothing knows; empty where none looks like one."""
    return did_you_mean(dict.fromkeys(name for one in mistyped(unknown) for name in one.meant))
