"""What needs a person: who waits, for what, since when, and the one act that ends it; and the board that shows it."""

from __future__ import annotations

from enum import StrEnum

from agent_mailer.views.values import Part, View
from agent_mailer.views.values.status import FaultView, StatusView


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
    """`since` and `until` are seconds since the epoch, 0 where nobody knows; `why` is a word of the watcher's, or what
    is known here of a problem or a question, `many` how much it is about, `asked` who has the question. `verb` with
    `targets` is what can be asked of the watcher to end it, and `may`: it does so where it is asked from afar; else
    `command`, typed in the agent's workdir, ends it. `thread`, `message_id`: of the mail that it is about; `tool`: what
    the agent asks to use, or the schedule that does not send.
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
    asked: str = ""


class MovedView(View, frozen=True, rename={"sender": "from"}):
    """A mail that has left, or that an agent has taken from somebody who is not on the board; `at` is ISO 8601."""

    ABOUT = "message_id"

    message_id: str
    at: str
    sender: str
    to: str
    thread: str = ""


class BoardView(Part, frozen=True):
    """`mail` is the newest of it, oldest first; `cost_usd` and `turns` are of today (UTC)."""

    healthy: bool
    workdirs: tuple[StatusView | FaultView, ...]
    needs: tuple[NeedView, ...]
    mail: tuple[MovedView, ...]
    cost_usd: float
    turns: int
