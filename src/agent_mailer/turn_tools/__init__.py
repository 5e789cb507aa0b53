"""What the agent uses during a turn, over the turn's folder only: no key, no network, no watcher needed."""

import site
from pathlib import Path

from agent_mailer.beneath import anchor

# What is started in the workdir takes no module that an agent has put there, where its HOME is, or where its variables
# say. An installation in the user's own site needs that one.
ISOLATED = "-EP" if site.ENABLE_USER_SITE and __file__.startswith(site.getusersitepackages()) else "-I"


FINISHED, RELEASED = "finish", "released"
"""In the outbox: the word that ends a turn, and that of a live session which gives its message back."""


def anchor_turn(directory: Path) -> None:
    """From now on nothing below the workdir of this turn's folder is reached through a link. A process of the agent's
    has no other word of where that is.
    """
    turns = directory.parent
    anchor(turns.parent.parent if turns.name == "turns" else directory)
