"""The mail of this machine's folder mailboxes for pages: threads of everybody, and what the person writes and reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.clock import iso
from agent_mailer.console.mail.rows import Agent, ThreadRow, Turn
from agent_mailer.console.own.port import Letter, OwnMessage, OwnShown, ThreadsPage, mark_of
from agent_mailer.desk.addresses import Address, addresses_of, roots_of
from agent_mailer.desk.changes import IN_ANY_CASE
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Action, Draft, Priority
from agent_mailer.names import DEDUPE_KEY, printable
from agent_mailer.people import person_at
from agent_mailer.people.overseen import PERSON, Overseen, Seen, waiting, whole
from agent_mailer.state.turns import shares

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.desk.looking import Looking
    from agent_mailer.mailbox.port import Message
    from agent_mailer.people import Person

SNIPPET = 160
TURNS_READ = 300
"""So many of an agent's newest turns are looked at for those of a thread."""
STATES_READ = 30


class MailHere:
    """Implements `agent_mailer.console.own.port.Mail` but for turns. Threads may call it at the same time."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking
        self._lock = threading.Lock()
        self._overseen = Overseen()
        self._roots: tuple[Path, ...] = ()
        self._roots_at = -IN_ANY_CASE

    def unread(self) -> int:
        """Every page asks this: which mailboxes there are is looked at as seldom as `changes` does."""
        now = time.monotonic()
        if now - self._roots_at >= IN_ANY_CASE:
            self._roots, self._roots_at = tuple(roots_of(self._looking.places())), now
        return sum(waiting(root) for root in self._roots)

    def threads(self, *, unread: bool, mine: bool, agent: str, after: str, most: int) -> ThreadsPage:
        places = list(self._looking.places())
        addresses = addresses_of(places)
        wanted = next((one for one in addresses.values() if one.workdir == agent), None) if agent else None
        threads: dict[str, list[tuple[Path, Seen]]] = {}
        for root, seen in self._newest(places):
            threads.setdefault(seen.message.envelope.thread, []).append((root, seen))
        states = _states(places)
        rows: list[ThreadRow] = []
        marks = {
            thread: mark_of(iso(found[0][1].message.envelope.created), thread) for thread, found in threads.items()
        }
        for thread, found in sorted(threads.items(), key=lambda one: marks[one[0]], reverse=True):
            if len(rows) == most:
                break
            if after and marks[thread] >= after:
                continue
            new = sum(one.new for _, one in found)
            if (
                (unread and not new)
                or (mine and not any(PERSON in _people(one) for _, one in found))
                or (agent and not any(_is_with(root, one, wanted) for root, one in found))
            ):
                continue
            rows.append(_row(thread, [one for _, one in found], new, states.get(thread, "")))
        return ThreadsPage(rows, [_agent(shown, one) for shown, one in addresses.items() if one.workdir])

    def thread(self, thread: str) -> list[OwnShown]:
        places = list(self._looking.places())
        found = [seen for _, seen in self._newest(places) if seen.message.envelope.thread == thread]
        # Only who has got mail of it has had turns for it.
        takers = {handle for one in found for handle in one.message.envelope.to}
        turns = _turns_of([place for place in places if place.in_folder and place.handle in takers], thread)
        return [
            OwnShown(
                _message(one),
                turns.get(one.message.envelope.id, ()),
                PERSON in one.message.envelope.to,
                # What a mail of a folder names; nothing is attached to one.
                parts=whole(one).refs,
            )
            for one in sorted(found, key=lambda one: one.message.envelope.created)
        ]

    def message(self, message_id: str) -> OwnMessage | None:
        found = self._find(message_id)
        return _message(found[1]) if found is not None else None

    def search(
        self, head: Callable[[OwnMessage], bool], text: Callable[[OwnMessage], bool], most: int
    ) -> list[OwnMessage]:
        found: list[OwnMessage] = []
        for _, seen in self._newest(list(self._looking.places())):
            if head(_shown(seen, seen.message)) and text(shown := _message(seen)):
                found.append(shown)
                if len(found) == most:
                    break
        return found

    def addresses(self) -> list[Agent]:
        return [_agent(shown, one) for shown, one in sorted(addresses_of(self._looking.places()).items())]

    def send(self, letter: Letter) -> str:
        places = list(self._looking.places())
        roots = roots_of(places)
        found = self._find(letter.parent) if letter.parent else None
        if letter.parent and found is None:
            raise MailerError("gone", "what you answer is there no longer", "")
        to = _meant(letter.to, addresses_of(places), found[0] if found is not None else None)
        root = to[0].root if to else found[0] if found is not None else None
        if root is None or root not in roots:
            raise UsageFault("no_recipient", "there is no recipient", "")
        origin = whole(found[1]) if found is not None else None
        handles = tuple(one.handle for one in to)
        action = Action(letter.action)
        if action is Action.REPLY and origin is not None and handles == (origin.envelope.sender,):
            # The mailbox knows the way back, which may lead out of it.
            handles = ()
        draft = Draft(
            f"{DEDUPE_KEY}console-{letter.key}" if letter.key else "",
            action,
            roots[root].clock.now(),
            to=handles,
            subject=letter.subject,
            body=letter.body,
            thread=letter.thread,
            priority=Priority(letter.priority),
        )
        return _person(roots[root]).send(draft, origin).thread

    def read(self, message_ids: Sequence[str]) -> None:
        places = list(self._looking.places())
        roots, asked = roots_of(places), set(message_ids)
        for root, seen in self._newest(places):
            if seen.new and seen.message.envelope.id in asked:
                with suppress(MailerError):
                    _person(roots[root]).read(seen.message.envelope.id)

    def _find(self, message_id: str) -> tuple[Path, Seen] | None:
        newest = self._newest(list(self._looking.places()))
        return next((one for one in newest if one[1].message.envelope.id == message_id), None)

    def _newest(self, places: Sequence[Workplace]) -> list[tuple[Path, Seen]]:
        """Of all mailboxes, the newest first, each message once."""
        with self._lock:
            found = [(root, seen) for root in roots_of(places) for seen in self._overseen.newest(root)]
        found.sort(key=lambda one: one[1].message.envelope.created, reverse=True)
        return list({seen.message.envelope.id: (root, seen) for root, seen in reversed(found)}.values())[::-1]


def _person(place: Workplace) -> Person:
    return person_at(place, None, lambda _: None)


def _meant(typed: Sequence[str], known: dict[str, Address], root: Path | None) -> list[Address]:
    """`root`: of what is answered; there a bare handle is one of its own. Raises UsageFault."""
    found: list[Address] = []
    for word in typed:
        here = [one for one in known.values() if one.handle == word and one.root == root]
        named = known.get(word) or next((one for shown, one in known.items() if shown.lower() == word.lower()), None)
        if not here and named is None:
            if root is not None:
                # An address that leads elsewhere, as the message names it.
                found.append(Address(word, root))
                continue
            names = ", ".join(printable(one, 100) for one in sorted(known)[:50])
            fix = f"known are: {names}" if names else "give an agent a mailbox, in its folder: agent-mailer init"
            raise UsageFault("unknown_recipient", f"nobody is called {printable(word, 100)}", fix)
        found += here or ([named] if named is not None else [])
    if len({one.root for one in found}) > 1:
        names = ", ".join(printable(word, 100) for word in typed)
        raise UsageFault("several_mailboxes", f"{names} have no mailbox in common", "write to each by itself")
    return found


def _agent(shown: str, one: Address) -> Agent:
    return Agent(one.workdir, one.handle, shown, None)


def _people(seen: Seen) -> tuple[str, ...]:
    return (seen.message.envelope.sender, *seen.message.envelope.to)


def _is_with(root: Path, seen: Seen, wanted: Address | None) -> bool:
    return wanted is not None and wanted.root == root and wanted.handle in _people(seen)


def _row(thread: str, found: Sequence[Seen], new: int, state: str) -> ThreadRow:
    """`found` the newest first."""
    last, first = found[0], found[-1]
    people = dict.fromkeys(name for one in reversed(found) for name in _people(one))
    body = whole(last).body
    return ThreadRow(
        thread,
        iso(last.message.envelope.created),
        None,
        first.message.subject,
        " ".join(body[: 4 * SNIPPET].split())[:SNIPPET],
        last.message.envelope.sender,
        list(people)[:6],
        len(found),
        new,
        state,
    )


def _message(seen: Seen) -> OwnMessage:
    return _shown(seen, whole(seen))


def _shown(seen: Seen, message: Message) -> OwnMessage:
    envelope = message.envelope
    return OwnMessage(
        envelope.id,
        envelope.thread,
        envelope.sender,
        ", ".join(envelope.to),
        message.subject,
        message.body,
        iso(envelope.created),
        not seen.new,
        envelope.priority.value,
        envelope.kind.value if envelope.kind is not None else "",
        message.labels,
        envelope.automatic.value,
    )


def _turns_of(places: Iterable[Workplace], thread: str) -> dict[str, list[Turn]]:
    """By message, the oldest first."""
    found: dict[str, list[Turn]] = {}
    for place in places:
        turns = place.state.turns
        for turn_id in turns.ids()[-TURNS_READ:]:
            record = turns.load(turn_id)
            if record is None or record.envelope.thread != thread:
                continue
            ended = record.settlement
            turn = Turn(
                turn_id,
                iso(record.claimed_at),
                iso(ended.decided_at) if ended is not None else None,
                ended.outcome.value if ended is not None else "",
                (ended.question or ended.detail) if ended is not None else "",
                final=ended is not None,
            )
            for share in shares(record):
                found.setdefault(share.envelope.id, []).append(turn)
    return found


def _states(places: Iterable[Workplace]) -> dict[str, str]:
    """By thread how the last turn in it ended, or that one runs."""
    newest: dict[str, tuple[float, str]] = {}
    for place in places:
        turns = place.state.turns
        for turn_id in turns.ids()[-STATES_READ:]:
            record = turns.load(turn_id)
            if record is not None:
                state = record.settlement.outcome.value if record.settlement is not None else "working"
                one = (record.claimed_at, state)
                newest[record.envelope.thread] = max(newest.get(record.envelope.thread, one), one)
    return {thread: state for thread, (_, state) in newest.items()}
