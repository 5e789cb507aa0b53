"""What the pages of this machine are fed by: values to show, and what may be asked for. The room `desk` gives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from agent_mailer.console.mail.rows import Agent, ThreadRow, Turn
from agent_mailer.console.operating.pages import AgentPage, AgentsPage, NeedsPage
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.watched import Watched
from agent_mailer.views.values.history import LimitView, NoteView, SessionView, WholeTurnView


class OwnAgentPage(msgspec.Struct, frozen=True):
    """One agent, and what its workdir alone knows of it: sessions, the newest first, and notes."""

    shown: AgentPage
    workdir: str
    sandbox: str
    sessions: Sequence[SessionView]
    notes: Sequence[tuple[NoteView, str]]
    """Each with the beginning of its text."""
    limits: Sequence[LimitView]


class OwnMessage(msgspec.Struct, frozen=True):
    """A message, by the names that the pages of a thread have for what it holds; `is_read` counts where it is ours."""

    id: str
    thread_id: str
    from_agent: str
    to_agent: str
    subject: str
    body: str
    created_at: str
    is_read: bool
    priority: str
    kind: str
    labels: Sequence[str]
    automatic: str


class OwnShown(msgspec.Struct, frozen=True):
    """A message on the page of its thread, with the turns that it caused."""

    message: OwnMessage
    turns: Sequence[Turn]
    to_operator: bool
    trashed: bool = False
    pictures: Sequence[tuple[str, str]] = ()
    parts: Sequence[str] = ()


class ThreadsPage(msgspec.Struct, frozen=True):
    """Threads, the one with the newest mail first, and whom they can be filtered by."""

    rows: Sequence[ThreadRow]
    agents: Sequence[Agent]


def mark_of(last_activity: str, thread: str) -> str:
    """Where a thread stands in the list."""
    return f"{last_activity} {thread}"


class TurnPage(msgspec.Struct, frozen=True):
    """A turn, and the end of what its program has printed."""

    agent: Watched
    turn: WholeTurnView
    subject: str
    lines: Sequence[str]
    hidden: int


class Letter(msgspec.Struct, frozen=True):
    """What the person writes. `parent`: what is answered or forwarded; under `key` it leaves once."""

    to: Sequence[str]
    subject: str
    body: str
    action: str
    parent: str = ""
    thread: str = ""
    priority: str = "normal"
    key: str = ""


class Agents(Protocol):
    """Every call looks anew, and may take a while. Raises MailerError and OSError."""

    def needs(self) -> NeedsPage: ...

    def agents(self, page: int) -> AgentsPage:
        """The first page is 1."""

    def every(self) -> Sequence[Watched]:
        """All agents."""

    def agent(self, agent_id: str) -> OwnAgentPage | None:
        """None where there is no agent of that id."""

    def turn(self, agent_id: str, turn_id: str) -> TurnPage | None:
        """None where there is no such turn."""

    def ask(self, agent_id: str, verb: RemoteVerb, targets: Sequence[str], reason: str, then: str) -> Sequence[str]:
        """As a command at a terminal does; returns why it was refused, nothing where it was done. What came of it is on
        the agent's page from then on, too.
        """

    def changes(self) -> AsyncIterator[None]:
        """Yields when something may have changed, at most once a second, and every 15 seconds in any case."""


class Mail(Protocol):
    """The mail of the folder mailboxes, as the person sees it: looking takes nothing from an agent. Every call may take
    a while. Raises MailerError and OSError.
    """

    def unread(self) -> int:
        """How much waits for the person."""

    def threads(self, *, unread: bool, mine: bool, agent: str, after: str, most: int) -> ThreadsPage:
        """At most `most` of those that are so; `agent`: its id, empty = everybody's; `after`: the mark of the last that
        was shown, empty = from the newest on.
        """

    def thread(self, thread: str) -> Sequence[OwnShown]:
        """Oldest first; empty where there is none."""

    def message(self, message_id: str) -> OwnMessage | None: ...

    def search(
        self, head: Callable[[OwnMessage], bool], text: Callable[[OwnMessage], bool], most: int
    ) -> Sequence[OwnMessage]:
        """At most `most` of those of which both are true, the newest first; `head` is asked without the text."""

    def addresses(self) -> Sequence[Agent]:
        """Whom the person can write to."""

    def send(self, letter: Letter) -> str:
        """Its thread."""

    def read(self, message_ids: Sequence[str]) -> None:
        """They count as read, those of them that are the person's own."""
