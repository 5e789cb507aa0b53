"""Mail that waits for files: its turn reserves them before it starts, and somebody else has them now.

Neither the mail nor the agent is in trouble, and nothing is to be done, if the holder is at work; but whoever looks
has to see why nothing happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_mailer.errors import MailerError
from agent_mailer.views.values.status import InTheWayView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def in_the_way(place: Workplace) -> tuple[InTheWayView, ...]:
    """What others hold of what the agent's turns reserve; what is held longest comes first, since all of it has to go
    before a turn may start. Nothing where it cannot be read.
    """
    if not _waits_for_files(place):
        return ()
    from agent_mailer.at_server import in_the_way as held_by_others

    try:
        found = held_by_others(place, place.handle)
    except MailerError:
        return ()
    views = [InTheWayView(one.pattern, one.owner.address, one.until) for one in found]
    return tuple(sorted(views, key=lambda one: (-one.until, one.path)))


def _waits_for_files(place: Workplace) -> bool:
    """A server would have to be asked; and where mail fails for want of its files, it waits for none."""
    config = place.config
    if not (config.reserve and place.in_folder):
        return False
    from agent_mailer.reservations.port import OnConflict

    return config.on_conflict is OnConflict.WAIT
