"""How many messages of an agent's another reader has taken: counted, and anew only where something has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.errors import MailerError
from agent_mailer.lying import Looks, at_rest

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

OPENED = 100
"""So many of the files that another reader may have taken."""

Count = Callable[["Workplace", Path, set[str]], int]
"""From a workplace, the folder `cur` of its inbox and the ids that are in work or to be retried, to how many."""


def taken_by_others(place: Workplace, folder: Path, ours: set[str]) -> int:
    """How many messages in `cur` this watcher never had: another reader took them, or a mail program moved them."""
    from agent_mailer.lying import Listed
    from agent_mailer.mailbox.maildir.format import is_message_name
    from agent_mailer.mailbox.maildir.listing import read_envelope
    from agent_mailer.mailbox.port import Envelope

    known = place.state.processed
    try:
        listed = os.listdir(os.fsencode(folder))
    except OSError:
        return 0
    not_ours = map(os.fsdecode, known.without_settled(listed, b".md"))
    # Other programs add flags to a name: `….md:2,S`.
    names = {name.partition(":2,")[0].removesuffix(".md"): name for name in not_ours if ".md" in name}
    ours = ours | place.state.held.waiting.keys()
    left = names.keys() - ours
    left -= known.among(left)
    renamed = 0
    for stem in sorted(left)[:OPENED]:
        path = folder / names[stem]
        with suppress(OSError, MailerError):
            # A name need not be the id.
            found = (
                read_envelope(Listed(str(path), f"{stem}.md", path.lstat())) if is_message_name(stem + ".md") else None
            )
            renamed += isinstance(found, Envelope) and (found.id in ours or found.id in known)
    return len(left) - renamed


class Taken:
    """The same for whoever looks again and again: nothing is listed while folder and settled ids are what they were."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[Looks, Looks | None, frozenset[str]], int]] = {}

    def __call__(self, place: Workplace, folder: Path, ours: set[str]) -> int:
        looks = at_rest(folder)
        settled = place.folder.path / "processed.txt"
        settled_looks = at_rest(settled)
        if looks is None or (settled_looks is None and settled.exists()):
            self._known.pop(folder, None)
            return taken_by_others(place, folder, ours)
        now = looks, settled_looks, frozenset(ours | place.state.held.waiting.keys())
        known = self._known.get(folder)
        if known is None or known[0] != now:
            self._known[folder] = known = now, taken_by_others(place, folder, ours)
        return known[1]
