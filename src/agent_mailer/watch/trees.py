"""A git tree that comes around state or mail while the watcher waits is kept from them at once, not at a turn only."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent_mailer.file_events import FileEvents
from agent_mailer.git_tree import tops_of, tree_at
from agent_mailer.watch.room import Room

AGAIN_SECONDS = 0.02
TRIES = 100
"""Whoever makes a repository makes its folder first, and is done within milliseconds."""


Pump = Callable[[FileEvents, Callable[[], bool]], Awaitable[None]]


async def keep_out_of_trees(room: Room, pump: Pump) -> None:
    """Until it is cancelled. `pump` has `heed` look after each event, and closes the events."""
    trees = _Trees(room)
    await pump(trees.events, trees.heed)


class _Trees:
    def __init__(self, room: Room) -> None:
        tops = dict.fromkeys(top for folder in room.policy.out_of_git for top in tops_of(folder))
        # Where everybody makes files all the time nobody keeps a project's tree.
        self._tops = [top for top in tops if not _is_everybodys(top)]
        self._room = room
        # What has come since the start looked is met by the first wait.
        self._known: frozenset[Path] = frozenset()
        self._tries = 0
        self.events = FileEvents(self._tops)

    def heed(self) -> bool:
        """The loop is never needed: what there is to do is done here."""
        there = self._there()
        if any(not _is_whole(top) for top in there - self._known) and self._tries < TRIES:
            self._tries += 1
            self.events.wake_after(AGAIN_SECONDS)
            return False
        self._tries = 0
        if there - self._known:
            self._room.keep_out_of_git()
        self._known = there
        return False

    def _there(self) -> frozenset[Path]:
        return frozenset(top for top in self._tops if os.path.lexists(top / ".git"))


def _is_whole(top: Path) -> bool:
    tree = tree_at(top)
    return tree is not None and not tree.broken


def _is_everybodys(top: Path) -> bool:
    try:
        return bool(top.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True
