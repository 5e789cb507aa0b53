"""What the agent uses during a turn, over the turn's folder only: no key, no network, no watcher needed."""

from pathlib import Path

from agent_mailer.beneath import anchor


def anchor_turn(directory: Path) -> None:
    """From now on nothing below the workdir of this turn's folder is reached through a link. A process of the agent's
    has no other word of where that is.
    """
    turns = directory.parent
    anchor(turns.parent.parent if turns.name == "turns" else directory)
