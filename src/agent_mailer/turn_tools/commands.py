"""The mail of an agent during its turn, over the turn's folder alone: no key, no network, no watcher needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from agent_mailer.beneath import is_there
from agent_mailer.clock import Clock, SystemClock
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.groups import for_one, spread
from agent_mailer.mailbox.port import Action, Contact, Draft, Kind, Message, Priority
from agent_mailer.names import meant, printable
from agent_mailer.turn_tools import RELEASED, anchor_turn
from agent_mailer.turn_tools.folder import (
    MAX_NOTE_BYTES,
    OUTBOX,
    TEAM,
    FinishKind,
    FinishNote,
    NoteScope,
    NoteWrite,
    Staged,
    TurnFolder,
)

TURN_DIR = "AGENT_MAILER_TURN_DIR"

PROGRESS = "progress"
"""Label of what leaves at once: news on the way, not the answer."""


def current_turn(environ: Mapping[str, str]) -> AgentMail | None:
    """The turn this process works in; None outside of one."""
    path = environ.get(TURN_DIR)
    return AgentMail(TurnFolder(Path(path), Disk())) if path else None


RESERVE_SECONDS = 20.0
"""So long the agent's tool waits for the watcher's word."""


class AgentMail:
    """What an agent can do with the mail that its turn is for. Every method may raise TurnOver."""

    def __init__(self, folder: TurnFolder, clock: Clock | None = None) -> None:
        # These tools run outside of a sandbox that the program's other tools are in.
        anchor_turn(folder.path)
        self._folder = folder
        self._clock = clock or SystemClock()

    def message(self, name: str | None = None) -> Message:
        """The turn's message, or the one of several that is meant; raises UsageFault where `name` names another."""
        messages = self._folder.messages()
        if not name:
            return messages[0]
        ids = [message.envelope.id for message in messages]
        found = meant(name, ids)
        if len(found) != 1:
            these = f"message {printable(ids[0])}" if len(ids) == 1 else f"messages {', '.join(map(printable, ids))}"
            which = "more than one of them is called so" if found else f"not {printable(name)}"
            raise UsageFault("other_message", f"this turn is for the {these}, {which}", "agent-mailer mail read")
        return messages[ids.index(found[0])]

    def messages(self) -> Sequence[Message]:
        """All that the turn was handed, oldest first."""
        return self._folder.messages()

    def _about(self, name: str | None) -> str:
        """Where the turn was handed several messages, the id of the one that is meant."""
        return self.message(name).envelope.id if name and len(self._folder.messages()) > 1 else ""

    def fate_of_question(self) -> str:
        """What becomes of the question of a blocked turn."""
        if self._folder.facts().no_way:
            return "the question cannot be delivered to the sender; your operator sees it"
        return "the question goes to the sender when this turn ends"

    def urgent(self, but: Set[str] = frozenset()) -> tuple[str, set[str]]:
        """A line about urgent mail that came into the thread meanwhile, without those of `but`; and which it names.

        It settles nothing: each of them gets its own turn next.
        """
        new = [one for one in self._folder.urgent() if one.message not in but]
        if not new:
            return "", set()
        told = ", ".join(f"{one.message} from {one.sender}" for one in new)
        then = "It is worked on in a turn of its own, right after this one"
        return f"[urgent mail has come into this thread: {told}. {then}]", {one.message for one in new}

    def thread(self) -> Sequence[Message]:
        return self._folder.thread()

    def contacts(self) -> Sequence[Contact]:
        return self._folder.contacts()

    def reply(
        self, body: str, *, subject: str = "", kind: Kind | None = None, now: bool = False, message: str | None = None
    ) -> Staged:
        """Stage an answer to the sender; `now`: it leaves while the turn still runs. In a turn that was handed several
        messages it answers `message`, or each that has no answer of its own.

        Raises UsageFault without text, for a message of no such name, and where no answer can be delivered.
        """
        _require_text(body)
        if why := self._folder.facts().no_way:
            raise UsageFault(
                "no_way_back",
                f"no answer to this mail can be delivered: {why}",
                "say so in your last words; to write to somebody else: agent-mailer mail contacts",
            )
        about = self._about(message)
        return self._stage(Draft("", Action.REPLY, 0.0, subject=subject, body=body, kind=kind, about=about), now=now)

    def forward(
        self,
        to: Sequence[str],
        body: str = "",
        *,
        subject: str = "",
        kind: Kind | None = None,
        now: bool = False,
        message: str | None = None,
    ) -> Staged:
        """Stage the turn's message (`message`, or the first) for somebody else, below `body`.

        Raises UsageFault for an unknown recipient.
        """
        recipients, about = self._known(to), self._about(message)
        draft = Draft("", Action.FORWARD, 0.0, to=recipients, subject=subject, body=body, kind=kind, about=about)
        return self._stage(draft, now=now)

    def send(
        self,
        to: Sequence[str],
        body: str,
        *,
        subject: str = "",
        thread: str = "",
        kind: Kind | None = None,
        priority: Priority | None = None,
        labels: tuple[str, ...] = (),
        refs: tuple[str, ...] = (),
        context: str = "",
        now: bool = False,
    ) -> Staged:
        """Stage a message of its own.

        Raises UsageFault for an unknown recipient, without text, or for labels, refs and a context that the mailbox
        cannot carry.
        """
        _require_text(body)
        to, of_one = for_one(to)
        recipients, facts = self._known(to), self._folder.facts()
        if (refs or context) and not facts.carries_context:
            raise UsageFault(
                "not_carried", "mail at a broker has no place for refs and context", "put it into the text"
            )
        if labels and not facts.carries_marks:
            raise UsageFault("not_carried", "this broker has no place for labels", "put them into the text")
        draft = Draft(
            "",
            Action.SEND,
            0.0,
            to=recipients,
            subject=subject,
            body=body,
            thread=thread,
            kind=kind,
            priority=priority,
            labels=(*labels, *of_one),
            refs=refs,
            context=context,
        )
        return self._stage(draft, now=now)

    def finish(self, *, reply_wanted: bool = True, question: str = "", kind: FinishKind | None = None) -> FinishNote:
        """Leave the agent's word on the turn: done, or with a question for a human blocked. Raises UsageFault."""
        question = question.strip()
        kind = kind or (FinishKind.BLOCKED if question else FinishKind.DONE)
        if kind is FinishKind.BLOCKED and not question:
            raise UsageFault("no_question", "a turn that is blocked asks a question, and there is none", "add it")
        if question and (kind is FinishKind.DONE or not reply_wanted):
            raise UsageFault(
                "two_ends",
                "a turn that is blocked is not done, and its question is sent",
                "say blocked with the question alone, or done without one",
            )
        self._folder.message()  # a turn that is over says so
        finished = FinishNote(kind, question, reply_wanted)
        self._folder.finish(finished)
        return finished

    def release(self, why: str) -> None:
        """Give the message of a live turn back, durably: the agent's own turn works on it. Raises TurnOver, OSError."""
        self._folder.message()  # a turn that is over says so
        path = self._folder.path / OUTBOX / RELEASED
        self._folder.disk.replace(path, why.encode("utf-8", "replace"), sync=Sync.FULL)

    def read_memory(self, scope: NoteScope) -> str:
        """The agent's note: as this turn wrote it, else as it was when the turn began. Empty where there is none.

        Of one that holds more than MAX_NOTE_BYTES only the beginning, with a line at the end that says so.
        """
        content = self._folder.note(scope)
        if len(content) <= MAX_NOTE_BYTES:
            return content.decode("utf-8", "replace")
        path = self._folder.facts().memory_global if scope is NoteScope.GLOBAL else self._folder.facts().memory_thread
        text = content[:MAX_NOTE_BYTES].decode("utf-8", "replace")
        return f"{text}\n\n[the note is larger than {MAX_NOTE_BYTES} bytes; all of it is in {path}]\n"

    def team_memory(self) -> str:
        """What the agent's team remembered when the turn began. Empty where that is nothing."""
        self._folder.message()  # a turn that is over says so
        try:
            return read_regular(self._folder.path / TEAM).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def write_memory(self, scope: NoteScope, text: str) -> None:
        """Stage the whole new text of a note; it takes effect when the turn settles its message. Raises UsageFault."""
        if not text.strip():
            raise UsageFault("empty_note", "a note without text would wipe what is known", "give the whole new note")
        self._folder.message()  # a turn that is over says so
        if scope is NoteScope.GLOBAL and self._folder.facts().global_note_fixed:
            raise UsageFault(
                "note_fixed",
                "the global note is not changed by turns here (memory_global)",
                "write the note of this thread, or ask for it in your answer",
            )
        self._folder.write_note(NoteWrite(scope, text))

    @property
    def reserves(self) -> bool:
        """Whether files are reserved in this turn."""
        from agent_mailer.reservations.turn import HELD

        return is_there(self._folder.path / HELD)

    def reserve(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Have these paths of the project to ourselves until the turn ends: as they are kept.

        Waits for the watcher's word. Raises UsageFault where nothing is reserved here, MailerError where somebody else
        has one of them, or nobody answers; OSError.
        """
        from agent_mailer.reservations.turn import ask

        self._folder.message()  # a turn that is over says so
        if not self.reserves:
            raise UsageFault(
                "no_reservations", "no files are reserved here", "agent-mailer config set reservations true"
            )
        answer = ask(self._folder.disk, self._folder.path, paths, RESERVE_SECONDS)
        if answer.why:
            raise MailerError(
                "reserved", answer.why, "do other work first, or say in your answer what you would change"
            )
        return answer.patterns

    def _stage(self, draft: Draft, *, now: bool) -> Staged:
        from msgspec.structs import replace

        labels = (*draft.labels, *((PROGRESS,) if now else ()))
        return self._folder.stage(replace(draft, created=self._clock.now(), at_once=now, labels=labels))

    def _known(self, to: Sequence[str]) -> tuple[str, ...]:
        """`to` as whole addresses, each once; what stands before an @ is enough where it means one of the contacts, and
        `broadcast` means all of them.

        Where the contacts could not be read at the claim, settlement judges.
        """
        if not to:
            raise UsageFault("no_recipient", "there is no recipient", "name at least one address")
        mail = self._folder.mail()
        contacts = [contact.address for contact in mail.contacts]
        to = spread(to, {one.address: one.tags for one in mail.contacts}, "")
        origins = (mail.message, *mail.batch)
        # Whoever writes from elsewhere is not the one who is called so here.
        answered = {origin.reply_to for origin in origins}
        answered |= {origin.envelope.sender for origin in origins if not origin.envelope.reply_to}
        fine = {*contacts, *(() if mail.facts.no_way else answered)} - {""}
        whole = [_whole(address, fine) for address in to]
        unknown = [address for address in whole if address not in fine]
        if unknown and contacts:
            raise UsageFault(
                "unknown_recipient",
                f"nobody here is called {', '.join(printable(address) for address in unknown)}",
                f"known are: {', '.join(printable(address) for address in contacts)}",
            )
        return tuple(dict.fromkeys(whole))


def _whole(address: str, known: Set[str]) -> str:
    if address in known:
        return address
    meant = [one for one in known if "@" in one and one.partition("@")[0] == address]
    return meant[0] if len(meant) == 1 else address


def _require_text(body: str) -> None:
    if not body.strip():
        raise UsageFault("empty_body", "the message's text is empty", "give the message a text")
