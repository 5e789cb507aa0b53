"""Several agents at one look: who works on what, the mail between them, what needs a person, what it cost."""

from __future__ import annotations

from enum import StrEnum

from agent_mailer.views.values import Part, View
from agent_mailer.views.values.status import FaultView, StatusView


class Need(StrEnum):
    """What a person is needed for."""

    PROBLEM = "problem"
    QUESTION = "question"
    PERMISSION = "permission"
    PAUSE = "pause"


class NeedView(Part, frozen=True):
    """`fix` is the command that ends it; empty where there is none. `thread` and `question` where there are any."""

    what: Need
    workdir: str
    agent: str
    text: str
    fix: str = ""
    thread: str = ""
    question: str = ""


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
