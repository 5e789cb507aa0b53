"""What a command has done to a workdir, and what it prints of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from agent_mailer.cli.terminal.printing import say_prose
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.desk.asking import ask, order
from agent_mailer.errors import ExitCode

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.lifts import Order
    from agent_mailer.state.requests import Answer, Request


def ask_and_tell(place: Workplace, request: Request) -> None:
    """Have `request` applied and print its answer; leaves with status 1 where nothing was done."""
    with shown("has it carried out"):
        answer = ask(place, request)
    _tell(answer)


def order_and_tell(place: Workplace, ordered: Order) -> None:
    """The same of what only a person may order. Raises UsageFault inside a turn: a hint to the agent, no wall."""
    with shown("has it carried out"):
        answer = order(place, ordered)
    _tell(answer)


def _tell(answer: Answer) -> None:
    for line in answer.lines:
        say_prose(line)
    if not answer.ok:
        raise typer.Exit(ExitCode.FAILED)
