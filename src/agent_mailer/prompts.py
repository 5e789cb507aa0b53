"""Prompts from `templates/`, overridable per workdir.

Subject, body and attachments never enter a prompt; identifiers enter it mapped to one harmless word.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.amounts import counted
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import GLOBAL_NOTE, memory_file, one_line, prompt_word
from agent_mailer.outcomes import Outcome

if TYPE_CHECKING:
    from agent_mailer.state.records import TurnRecord
    from agent_mailer.turn_tools.folder import NoteScope

NO_PROJECT = "none"
LARGEST_TEMPLATE = 256 * 1024


class PromptKind(StrEnum):
    """Which template a turn's prompt is made from."""

    FRESH = "fresh"
    RESUMED = "resumed"
    LOST = "lost"
    RERUN = "rerun"


_NOTES = frozenset({"agent", "memory_global", "memory_thread", "write_notes"})

PLACEHOLDERS: dict[PromptKind, frozenset[str]] = {
    PromptKind.FRESH: _NOTES,
    PromptKind.RESUMED: _NOTES,
    PromptKind.LOST: _NOTES | {"why_lost"},
    PromptKind.RERUN: _NOTES | {"how_it_ended", "start", "session_note", "sent_note", "time_note"},
}

_HOW_IT_ENDED: dict[Outcome, str] = {
    Outcome.ASKED: "ended with a question to a person",
    Outcome.FAILED: "failed",
    Outcome.TIMED_OUT: "ran out of time and was stopped",
    Outcome.CRASHED: "crashed",
    Outcome.LIMITED: "was stopped by a usage limit",
    Outcome.SIGNED_OUT: "could not log in",
    Outcome.UNAVAILABLE: "could not reach what it needs",
    Outcome.INTERRUPTED: "was interrupted",
    Outcome.SESSION_LOST: "could not resume its session",
}

_SEVERAL = """
More than one mail has come: this turn is for {count} messages of this thread, the one above and these:
{rest}
Read each of them (`agent-mailer mail read ID`, or the tool read_message), and answer each by itself
(`agent-mailer mail reply ID`, or the tool reply with `message`). Those without an answer of their own get your last
words.
"""


class Words(msgspec.Struct, frozen=True):
    """The four values at the top of every prompt, each one harmless word; `batch`: of the turn's further messages."""

    message: str
    thread: str
    sender: str
    project: str
    batch: tuple[str, ...] = ()


def words_of(record: TurnRecord, project_dir: Path | None) -> Words:
    envelope = record.envelope
    return Words(
        prompt_word(envelope.id, "message"),
        prompt_word(envelope.thread, "thread"),
        prompt_word(envelope.sender, "sender"),
        one_line(str(project_dir)) if project_dir else NO_PROJECT,
        tuple(prompt_word(one.envelope.id, "message") for one in record.batch),
    )


class PromptRoom:
    """Renders prompts for one workdir. `overrides` is a folder that may hold any of the templates.

    `counted` are the texts of those that count, by file name.
    """

    def __init__(
        self,
        agent: str,
        overrides: Path,
        memory: Path,
        on_invalid: Callable[[str, str], None],
        counted: Mapping[str, bytes],
    ) -> None:
        self._agent = prompt_word(agent, "agent")
        self._overrides = overrides
        self._counted = counted
        self._memory = memory
        self._on_invalid = on_invalid

    def render(
        self,
        record: TurnRecord,
        words: Words,
        kind: PromptKind,
        *,
        why_lost: str = "",
        answers: str = "",
        copies: Callable[[NoteScope], Path] | None = None,
    ) -> str:
        """The whole prompt of a turn, ending in a line end. `copies`: of notes that are out of reach; `answers`: to
        what a person was asked.
        """
        head = f"Message: {words.message}\nThread:  {words.thread}\nFrom: {words.sender}\nProject: {words.project}\n"
        values = {
            "agent": self._agent,
            **self._notes(record, copies),
            "why_lost": why_lost or "is no longer available",
            **_rerun_values(record),
        }
        more = _SEVERAL.format(count=len(words.batch) + 1, rest="\n".join(words.batch)) if words.batch else ""
        return f"{head}\n{self._template(kind).substitute(values).rstrip()}\n{more}{answers}"

    def _notes(self, record: TurnRecord, copies: Callable[[NoteScope], Path] | None) -> dict[str, str]:
        if copies is not None:
            from agent_mailer.turn_tools.folder import NoteScope

            general, own = str(copies(NoteScope.GLOBAL)), str(copies(NoteScope.THREAD))
            write = "write_memory (the files can only be read in this turn)"
        else:
            general = str(self._memory / f"{GLOBAL_NOTE}.md")
            own = str(memory_file(self._memory, record.envelope.thread))
            write = "write_memory, or edit these files"
        return {"memory_global": general, "memory_thread": own, "write_notes": write}

    def _template(self, kind: PromptKind) -> Template:
        path = self._overrides / f"{kind}.md"
        try:
            text = self._counted.get(path.name)
            if text is None:
                # One that nobody trusts is no fault; one that cannot be read is.
                read_template(path)
                return Template(shipped_template(kind))
            template = Template(text.decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            self._on_invalid(path.name, str(error))
            return Template(shipped_template(kind))
        fault = template_fault(kind, template)
        if fault:
            self._on_invalid(path.name, fault)
            return Template(shipped_template(kind))
        return template


def read_template(path: Path) -> bytes | None:
    """None where there is none. Raises OSError for what cannot be read, and for what is too large."""
    try:
        text = read_regular(path, LARGEST_TEMPLATE, follow=True)
    except FileNotFoundError:
        return None
    if len(text) > LARGEST_TEMPLATE:
        raise OSError(errno.EFBIG, f"more than {LARGEST_TEMPLATE} bytes", str(path))
    return text


def template_fault(kind: PromptKind, template: Template) -> str:
    """Why an override cannot be used; empty if it can."""
    if not template.is_valid():
        return "a $ that starts no placeholder (write $$ for a dollar sign)"
    unknown = sorted(set(template.get_identifiers()) - PLACEHOLDERS[kind])
    return f"unknown placeholder {', '.join('$' + name for name in unknown)}" if unknown else ""


@cache
def shipped_template(name: str) -> str:
    """A template as shipped: beside the package in a wheel, at the top of the tree in an editable install."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "templates", here.parents[2] / "templates"):
        path = folder / f"{name}.md"
        if path.is_file():
            return path.read_text("utf-8")
    raise ConfigFault("no_template", f"{name}.md is missing from this installation", "reinstall agent-mailer")


def _rerun_values(record: TurnRecord) -> dict[str, str]:
    rerun = record.rerun
    last = rerun.last_outcome if rerun else None
    sent = rerun.sent if rerun else ()
    dropped = rerun.dropped if rerun else 0
    sent_note = f"Already sent from it, do not send again: {'; '.join(sent)}." if sent else "Nothing was sent from it."
    if dropped:
        sent_note += f" {counted(dropped, 'staged message')} did not leave: send anew what is still right."
    ended = _HOW_IT_ENDED.get(last, "did not finish") if last else "did not finish"
    if rerun is not None and rerun.history and rerun.history[-1].live:
        ended = "was a person's own session, which had this mail and did not finish it: part may be done"
    return {
        "how_it_ended": ended,
        "start": str(record.starts),
        "session_note": (
            "You are in the session of that turn: this prompt comes again, your work up to there is in it."
            if record.resume
            else "You start without the memory of that turn."
        ),
        "sent_note": sent_note,
        "time_note": (
            "Time ran out before: finish what is nearly done and report what is not."
            if last is Outcome.TIMED_OUT
            else "Work as usual."
        ),
    }
