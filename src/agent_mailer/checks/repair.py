"""`doctor --repair`: by hand what a watcher's start does for damaged state, and a little more.

Nothing is deleted but leftovers of interrupted writes: what is damaged is set aside, and what is not known is left
alone. A second run finds nothing to do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks import CheckResult, guarded
from agent_mailer.checks.mailbox import own_folder
from agent_mailer.checks.state import Left, Mended, clear_lock, mend_permissions
from agent_mailer.config import GitCare
from agent_mailer.disk import TEMPORARY_PREFIX, Disk
from agent_mailer.errors import BusyFault, ConfigFault, MailerError
from agent_mailer.events import EventName
from agent_mailer.git_tree import keep_out
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.dated import scan
from agent_mailer.mailbox.maildir.listing import read_envelope
from agent_mailer.mailbox.port import Automatic, Envelope
from agent_mailer.names import printable
from agent_mailer.progress import Step, Tell, counted, untold
from agent_mailer.state import State
from agent_mailer.state.records import RetryEntry
from agent_mailer.state.takeover import read_inflight
from agent_mailer.state.turns import ids_of
from agent_mailer.watch.recovery import salvage

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

OLD_ENOUGH = 60.0
"""Seconds after which an unfinished write is an interrupted one: a command may be writing its file now."""

BEFORE_CLAIM = 60.0
"""Seconds by which the file system's clock may be behind ours: what was taken before that is no lost turn's message."""

_PLAIN_FILES = ("log.jsonl", "watcher", "trouble.json", "inflight.json")


class Taken(msgspec.Struct, frozen=True):
    """A message that its mailbox counts as taken by this agent, and the moment at which it was."""

    envelope: Envelope
    at: float


class MailFolders:
    """The agent's own mailbox in a folder."""

    def __init__(self, root: Path, handle: str, paths: layout.Paths, disk: Disk) -> None:
        self._root = root
        self._handle = handle
        self._paths = paths
        self._disk = disk

    def make(self) -> Sequence[Path]:
        """Make what is missing; returns it, or the whole where only its modes were wrong."""
        missing = layout.missing_folders(self._root, self._handle)
        if not layout.check_mailbox(self._root, self._handle):
            return ()
        try:
            layout.make_mailbox(self._disk, self._root, self._handle)
        except ConfigFault as fault:
            # About the mailbox, not about the workdir's format: the rest goes on.
            raise MailerError(fault.code, fault.message, fault.fix) from fault
        return missing or (self._paths.home,)

    def taken(self) -> Sequence[Taken]:
        found = ((item, read_envelope(item)) for item in scan(self._paths.cur))
        return [Taken(e, item.found.st_ctime) for item, e in found if isinstance(e, Envelope)]


class RepairReport(msgspec.Struct, frozen=True):
    """What `doctor --repair --json` prints; `ok` means that nothing is left to be mended by a person."""

    workdir: str
    ok: bool
    repaired: tuple[Mended, ...]
    left: tuple[Left, ...]


def repair_workdir(place: Workplace, tell: Tell = untold) -> RepairReport:
    """Take the lock, and mend what can be mended.

    Raises BusyFault while a watcher runs, ConfigFault where there is no state folder or a newer one.
    """
    folder = place.folder
    if not folder.path.is_dir():
        folder.check()
    folder.check_format()
    mended, left = mend_permissions(folder)
    mended += clear_lock(folder)
    lock = place.lock()
    try:
        lock.acquire()
    except BusyFault as fault:
        message = f"{fault.message}; a running watcher repairs what it finds by itself"
        raise BusyFault(fault.code, message, fault.fix) from None
    _keep_out_of_git(place, mended, left)
    work = Repair(place.state, place.clock.now(), tell)
    try:
        work.run(_mail_folders(place, left))
    finally:
        lock.release()
    mended += work.mended
    left += work.left
    return RepairReport(str(place.workdir), not left, tuple(mended), tuple(left))


def _keep_out_of_git(place: Workplace, mended: list[Mended], left: list[Left]) -> None:
    try:
        folders = place.folders_in_git() if place.config.git is GitCare.KEEP_OUT else ()
    except MailerError:
        # The configuration is not readable; what mends it says so.
        folders = (place.folder.path,)
    for folder in folders:
        made, fault = keep_out(place.disk, folder)
        mended += [Mended(str(lack.path), f"keeps git out of {lack.folder}: {lack.part.value}") for lack in made]
        if fault is not None:
            left.append(Left(str(folder), f"git may take it along: {fault.message}", fault.fix))


class Repair:
    """One run over one workdir. `mended` and `left` grow in the order in which things were looked at."""

    def __init__(self, state: State, now: float, tell: Tell = untold) -> None:
        self.mended: list[Mended] = []
        self._tell = tell
        self.left: list[Left] = []
        self._state = state
        self._now = now
        state.folder.hold()

    def run(self, mail: MailFolders | None) -> None:
        """Everything that can be done now. Raises ConfigFault where a newer version wrote here."""

        def damaged(path: Path, why: str) -> None:
            tell(path, why)
            self._say(path, f"damaged ({printable(why, 200)}), kept as {path.name}.corrupt-<time>")

        with self._state.folder.telling(damaged) as tell:
            self._run(mail)

    def _run(self, mail: MailFolders | None) -> None:
        state = self._state
        self._step(state.folder.path, self._folders)
        self._step(state.folder.path, self._unfinished)
        self._step(state.folder.path, self._other_client)
        self._step(state.folder.path, self._files)
        nameless: list[str] = []
        self._step(state.folder.turns, lambda: nameless.extend(self._turns()))
        if mail is not None:
            self._step(state.folder.path, lambda: self._mailbox(mail, nameless))
        self._step(state.folder.path, self._index)

    def _folders(self) -> None:
        folder = self._state.folder
        for directory in folder.folders:
            if folder.make_folder(directory):
                self._say(directory, "was missing, made anew")
        if folder.write_format():
            self._say(folder.path / "format", "was missing, written anew")

    def _unfinished(self) -> None:
        """A start removes them whatever their age, but then no command writes."""
        folder = self._state.folder
        turns = [folder.turns / turn_id for turn_id in self._state.turns.ids()]
        for directory in (*folder.folders, *turns):
            for name in sorted(os.listdir(directory)):
                path = directory / name
                if name.startswith(TEMPORARY_PREFIX) and path.lstat().st_mtime < self._now - OLD_ENOUGH:
                    folder.disk.remove_tree(path)
                    self._say(path, "an interrupted write, removed")

    def _other_client(self) -> None:
        """What another client had in work becomes a retry, unless its agent still works on it."""
        folder = self._state.folder
        path = folder.path / "inflight.json"
        found = read_inflight(path)
        self._state.take_over()
        if found is not None:
            self._say(path, f"{printable(found.msg_id)}, in work when another client ended, is to be done again")

    def _files(self) -> None:
        state, path = self._state, self._state.folder.path
        for name in _PLAIN_FILES:
            self._step(path / name, lambda name=name: state.folder.clear_way(path / name))  # type: ignore[misc]
        readers: Mapping[str, Callable[[], object]] = {
            "processed.txt": lambda: len(state.processed),
            "cursor.txt": state.cursor.read,
            "dead_letter.jsonl": state.dead_letters.count,
            "stuck.jsonl": state.stuck.counts,
            "held.jsonl": lambda: len(state.held.waiting),
            "unsent.txt": lambda: len(state.unsent),
            "retries.json": lambda: len(state.retries),
            "sessions.json": lambda: list(state.sessions.all()),
            "pause.json": state.pause.read,
            "login.json": state.login.read,
            "usage.json": state.usage.today,
            "questions.json": state.questions.all,
            "requests": state.requests.waiting,
            "requests ": state.requests.tidy,
            "processed.txt ": self._last_line,
            "sessions.journal": self._journal,
            "trouble.json": self._stale_trouble,
        }
        for name, read in readers.items():
            self._step(path / name.strip(), read)

    def _last_line(self) -> None:
        if self._state.processed.end_last_line():
            self._say(self._state.folder.path / "processed.txt", "the last line had no end, and has one now")

    def _journal(self) -> None:
        if number := self._state.sessions.fold_journal():
            self._say(self._state.folder.path / "sessions.journal", f"{number} lines folded into sessions.json")

    def _stale_trouble(self) -> None:
        path = self._state.folder.path / "trouble.json"
        if os.path.lexists(path):
            self._state.folder.disk.remove(path)
            self._say(path, "of a watcher that no longer runs, removed")

    def _turns(self) -> Iterator[str]:
        """Salvage open turns without a record; yields the ids of turns of which nobody knows the message."""
        state = self._state
        for row in state.turns.vanished():
            for envelope in row.envelopes:
                if self._is_nobodys(envelope.id, set()):
                    state.retries.put(RetryEntry(envelope, starts=1))
                    self._say(state.turns.path(row.turn_id), f"is gone; {printable(envelope.id)} is to be done again")
        turn_ids = state.turns.ids()
        for turn_id in counted(turn_ids, "looks at turns", self._tell, len(turn_ids)):
            if state.turns.load(turn_id) is not None:
                continue
            if state.turns.is_settled(turn_id):
                yield turn_id
                continue
            found = asyncio.run(salvage(state, turn_id))
            names = ", ".join(printable(envelope.id) for envelope in found)
            known = f"{names} is to be done again" if names else "its message is not known"
            self._say(state.turns.path(turn_id), f"an open turn whose record cannot be read; {known}")
            if not found:
                yield turn_id

    def _mailbox(self, mail: MailFolders, nameless: Sequence[str]) -> None:
        for path in mail.make():
            self._say(path, "was missing or open to others, fixed")
        if not nameless:
            return
        state = self._state
        records = (state.turns.load(turn_id) for turn_id in state.turns.ids())
        ours = {message_id for record in records if record is not None for message_id in ids_of(record)}
        for envelope in lost_messages(mail.taken(), nameless, lambda found: self._is_nobodys(found, ours)):
            state.retries.put(RetryEntry(envelope, starts=1))
            state.log.emit(EventName.MESSAGE_REVIVED, message_id=envelope.id, thread=envelope.thread)
            self._say(state.folder.path / "retries.json", f"{printable(envelope.id)} was taken and lost: it is back")

    def _is_nobodys(self, message_id: str, ours: Set[str]) -> bool:
        state = self._state
        return (
            message_id not in ours
            and message_id not in state.processed
            and message_id not in state.held.waiting
            and state.retries.get(message_id) is None
            and state.dead_letters.find(message_id) is None
        )

    def _index(self) -> None:
        path = self._state.folder.path / "inflight.json"
        why = self._state.turns.index_is_damaged()
        if why:
            self._state.folder.set_aside(path, why)
        if self._state.turns.remake_index() or why:
            self._say(path, "made anew from the turns' folders")

    def _step(self, path: Path, work: Callable[[], object]) -> None:
        """One thing that fails leaves the others to be done. A newer format is nobody's to touch."""
        self._tell(Step(f"looks at {printable(path.name)}"))
        try:
            work()
        except ConfigFault:
            raise
        except MailerError as fault:
            self.left.append(Left(str(path), fault.message, fault.fix))
        except OSError as error:
            self._cannot(path, error)

    def _cannot(self, path: Path, error: OSError) -> None:
        def again() -> CheckResult:
            raise error

        found = guarded("repair", path, again)
        self.left.append(Left(str(error.filename or path), found.text, found.fix))

    def _say(self, path: Path, text: str) -> None:
        self.mended.append(Mended(str(path), text))


def _mail_folders(place: Workplace, left: list[Left]) -> MailFolders | None:
    """The folder mailbox, where this agent has one of its own; what keeps us from it is added to `left`."""
    try:
        if not place.in_folder or not place.handle:
            return None
        root, paths = own_folder(place)
    except MailerError as fault:
        left.append(Left(str(place.folder.config), fault.message, fault.fix or "agent-mailer config edit"))
        return None
    return MailFolders(root, place.handle, paths, place.disk)


def lost_messages(taken: Iterable[Taken], nameless: Sequence[str], nobodys: Callable[[str], bool]) -> list[Envelope]:
    """The messages of turns that left no name: known nowhere, and taken next to when the turn began. Pure.

    A folder mailbox keeps for ever what was taken, and other readers take mail too: without a turn that lost its name
    nothing is lost, what was taken before it is not its message, and no turn had more than one.
    """
    rest = [found for found in taken if found.envelope.automatic is not Automatic.NOTICE and nobodys(found.envelope.id)]
    lost: list[Envelope] = []
    for began in sorted(map(_began, nameless)):
        since = [found for found in rest if found.at >= began - BEFORE_CLAIM]
        if since:
            nearest = min(since, key=lambda found: abs(found.at - began))
            rest.remove(nearest)
            lost.append(nearest.envelope)
    return lost


def _began(turn_id: str) -> float:
    return datetime.strptime(turn_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
