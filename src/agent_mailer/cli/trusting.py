"""A person is shown what nobody trusts yet, and asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from agent_mailer.cli.terminal.printing import note, say

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.trust.verdict import Verdict
    from agent_mailer.views.values.status import TrustView

NO_WALL = (
    "note: without a sandbox that was proved, an agent may write this itself, and the files that say what is trusted"
)


def tell(found: TrustView) -> None:
    """What differs, a line each; more of templates and tables below theirs."""
    for one in found.differences:
        say(f"{one.name}: {one.trusted} -> {one.there}")
        for line in one.lines:
            say(f"    {line}")


def ask_whether_trusted(place: Workplace) -> Workplace:
    """At a terminal, before something is started: the workplace as it is after the answer.

    Raises ConfigFault where nothing could start with what is there.
    """
    from agent_mailer.assemble import Workplace
    from agent_mailer.trust.workdir import in_a_turn
    from agent_mailer.views.trusted import trust_view

    verdict = place.trust.verdict
    if not verdict.changed or in_a_turn(os.environ):
        return place
    require_trustable(place, verdict)
    note(f"{place.folder.path}: not as it was trusted{f': {verdict.why}' if verdict.why else ''}")
    tell(trust_view(str(place.workdir), verdict))
    if not typer.confirm("Do you trust what is there?", default=False):
        return place
    give(place, verdict)
    return Workplace(place.workdir, place.flags)


def require_trustable(place: Workplace, verdict: Verdict) -> None:
    """Raises ConfigFault where no turn could start with what is there: a typing error is mended, not trusted."""
    from agent_mailer.config_faults import STARTS, incomplete, is_mistyped, missing_in

    config, there = place.folder.config, place.trust.as_it_is()
    if (fault := is_mistyped(config, there, verdict.gone)) is not None:
        raise fault
    lacking = [one for one in missing_in(there.config, place.handle) if one[0] in STARTS]
    if lacking:
        raise incomplete(config, there, lacking)


def give(place: Workplace, verdict: Verdict) -> None:
    """What was shown is trusted, whatever the files say by now."""
    place.trust.give(verdict.there, "config trust")
