"""A git tree that comes around state or mail while the watcher waits is kept from them at once, not at a turn only.

One that goes as well: then the tree further out is around them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Coroutine
from contextlib import closing, suppress
from pathlib import Path

from agent_mailer.file_events import FileEvents
from agent_mailer.git_tree import tops_of, tree_at
from agent_mailer.watch.room import Pump, Room

GONE_SECONDS = 2.0
"""Whoever removes a tree may be about to remove us with it: what we made meanwhile would be in his way."""

AGAIN_SECONDS = 0.02
TRIES = 100
"""Whoever makes a repository makes its folder first, and is done within milliseconds."""

_Git = tuple[int, int, int]


def keep_out_of_trees(room: Room, pump: Pump) -> Coroutine[None, None, None]:
    """At once, and until it is cancelled. `pump` has `heed` look after each wait."""
    return _Trees(room).go_on(pump)


class _Trees:
    def __init__(self, room: Room) -> None:
        tops = dict.fromkeys(top for folder in room.policy.out_of_git for top in tops_of(folder))
        self._tops = [top for top in tops if _can_be_one(top)]
        self._room = room
        # What is being made just now is new to the first wait. What goes before that goes as any other does.
        self._known = {top: git for top, git in self._there().items() if _is_whole(top)}
        room.keep_out_of_git()
        self._tries = 0
        self._gone_since: float | None = None

    async def go_on(self, pump: Pump) -> None:
        with closing(FileEvents(self._tops, removals=True)) as self._events:
            await pump(self._events.wait, self._heed)

    def _heed(self) -> bool:
        """The loop is never needed: what there is to do is done here."""
        there = self._there()
        fresh = [top for top, git in there.items() if self._known.get(top) != git]
        if any(not _is_whole(top) for top in fresh) and self._tries < TRIES:
            self._tries += 1
            self._events.wake_after(AGAIN_SECONDS)
            return False
        self._tries = 0
        if self._known.keys() - there.keys() and (left := self._until_it_is_gone()) > 0:
            self._events.wake_after(left)
            return False
        self._gone_since = None
        if there != self._known:
            self._room.keep_out_of_git()
        self._known = there
        return False

    def _until_it_is_gone(self) -> float:
        now = self._room.clock.monotonic()
        if self._gone_since is None:
            self._gone_since = now
        return self._gone_since + GONE_SECONDS - now

    def _there(self) -> dict[Path, _Git]:
        return {top: git for top in self._tops if (git := _git_of(top)) is not None}


def _git_of(top: Path) -> _Git | None:
    dot = top / ".git"
    try:
        made = found = dot.lstat()
    except OSError:
        return None
    # One that was made anew may have the number of the old one. The folder itself each command of git changes.
    with suppress(OSError):
        made = (dot / "refs").lstat()
    return found.st_dev, found.st_ino, made.st_ctime_ns


def _is_whole(top: Path) -> bool:
    tree = tree_at(top)
    return tree is not None and not tree.broken


def _can_be_one(top: Path) -> bool:
    """Where everybody makes files all the time nobody keeps a project's tree, and what cannot be read not watched."""
    try:
        return not top.stat().st_mode & stat.S_IWOTH and os.access(top, os.R_OK, effective_ids=True)
    except OSError:
        return False
