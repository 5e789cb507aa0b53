"""Prompts from `templates/`, overridable per workdir.

Subject, body and attachments never enter a prompt; identifiers enter it mapped to one harmless word.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cache
from pathlib import Path
from string import Template

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import GLOBAL_NOTE, memory_file, one_line, prompt_word
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import TurnRecord

NO_PROJECT = "none"


class PromptKind(StrEnum):
    """Which template a turn's prompt is made from."""

    FRESH = "fresh"
    RESUMED = "resumed"
    LOST = "lost"
    RERUN = "rerun"


PLACEHOLDERS: dict[PromptKind, frozenset[str]] = {
    PromptKind.FRESH: frozenset({"agent", "memory_global", "memory_thread"}),
    PromptKind.RESUMED: frozenset({"agent", "memory_global", "memory_thread"}),
    PromptKind.LOST: frozenset({"agent", "memory_global", "memory_thread", "why_lost"}),
    PromptKind.RERUN: frozenset(
        {"agent", "memory_global", "memory_thread", "how_it_ended", "start", "session_note", "sent_note", "time_note"}
    ),
}

_HOW_IT_ENDED: dict[Outcome, str] = {
    Outcome.FAILED: "failed",
    Outcome.TIMED_OUT: "ran out of time and was stopped",
    Outcome.CRASHED: "crashed",
    Outcome.LIMITED: "was stopped by a usage limit",
    Outcome.SIGNED_OUT: "could not log in",
    Outcome.UNAVAILABLE: "could not reach what it needs",
    Outcome.INTERRUPTED: "was interrupted",
    Outcome.SESSION_LOST: "could not resume its session",
}


class Words(msgspec.Struct, frozen=True):
    """The four values at the top of every prompt, each one harmless word."""

    message: str
    thread: str
    sender: str
    project: str


def words_of(record: TurnRecord, project_dir: Path | None) -> Words:
    envelope = record.envelope
    return Words(
        prompt_word(envelope.id, "message"),
        prompt_word(envelope.thread, "thread"),
        prompt_word(envelope.sender, "sender"),
        one_line(str(project_dir)) if project_dir else NO_PROJECT,
    )


class PromptRoom:
    """Renders prompts for one workdir. `overrides` is a folder that may hold any of the templates."""

    def __init__(self, agent: str, overrides: Path, memory: Path, on_invalid: Callable[[str, str], None]) -> None:
        self._agent = prompt_word(agent, "agent")
        self._overrides = overrides
        self._memory = memory
        self._on_invalid = on_invalid

    def render(self, record: TurnRecord, words: Words, kind: PromptKind, *, why_lost: str = "") -> str:
        """The whole prompt of a turn, ending in a line end."""
        head = f"Message: {words.message}\nThread:  {words.thread}\nFrom: {words.sender}\nProject: {words.project}\n"
        values = {
            "agent": self._agent,
            "memory_global": str(self._memory / f"{GLOBAL_NOTE}.md"),
            "memory_thread": str(memory_file(self._memory, record.envelope.thread)),
            "why_lost": why_lost or "is no longer available",
            **_rerun_values(record),
        }
        return f"{head}\n{self._template(kind).substitute(values).rstrip()}\n"

    def _template(self, kind: PromptKind) -> Template:
        path = self._overrides / f"{kind}.md"
        try:
            template = Template(read_regular(path).decode("utf-8"))
        except FileNotFoundError:
            return Template(shipped_template(kind))
        except (OSError, UnicodeDecodeError) as error:
            self._on_invalid(path.name, str(error))
            return Template(shipped_template(kind))
        fault = template_fault(kind, template)
        if fault:
            self._on_invalid(path.name, fault)
            return Template(shipped_template(kind))
        return template


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
        plural = "s" if dropped > 1 else ""
        sent_note += f" {dropped} staged message{plural} did not leave: send anew what is still right."
    return {
        "how_it_ended": _HOW_IT_ENDED.get(last, "did not finish") if last else "did not finish",
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
