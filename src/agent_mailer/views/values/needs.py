"""What needs a person: who waits, for what, since when, and the one act that ends it."""

from __future__ import annotations

from enum import StrEnum

from agent_mailer.views.values import View


class NeedKind(StrEnum):
    """Why somebody waits, the most urgent first."""

    LOST = "lost"
    SIGNED_OUT = "signed_out"
    TROUBLE = "trouble"
    APPROVAL = "approval"
    QUESTION = "question"
    OUTAGE = "outage"
    BUDGET = "budget"
    ANSWER_WAITS = "answer_waits"
    STUCK = "stuck"
    HELD = "held"
    SCHEDULE = "schedule"
    SILENT = "silent"
    LIMITED = "limited"
    PAUSED = "paused"


class NeedView(View, frozen=True):
    """`since` and `until` are seconds since the epoch, 0 where nobody knows; `why` is a word of the watcher's, `many`
    how much it is about. `verb` with `targets` is what can be asked of the watcher to end it, and `may`: it does so
    where it is asked from afar; else `command`, typed in the agent's workdir, ends it. `thread`, `message_id`: of the
    mail that it is about; `tool`: what the agent asks to use, or the schedule that does not send.
    """

    ABOUT = "id"

    id: str
    kind: NeedKind
    agent_id: str
    address: str
    since: float
    until: float = 0.0
    why: str = ""
    many: int = 1
    tool: str = ""
    thread: str = ""
    message_id: str = ""
    verb: str = ""
    targets: tuple[str, ...] = ()
    may: bool = False
    command: str = ""
