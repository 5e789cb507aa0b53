"""What can be done next, in each JSON answer of `mail`: commands, each with its reason."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from agent_mailer.cli.terminal.printing import json_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_mailer.mailbox.port import Message

Step = tuple[list[str], str]
"""The words after `agent-mailer mail`, and why."""

LOOK: Step = (["inbox"], "what waits")
SEND: Step = (["send", "--to", "ADDRESS", "--subject", "SUBJECT", "--body", "TEXT"], "write to somebody")


def told(answer: dict[str, object], *steps: Step) -> None:
    """Print the answer, with what can be done next."""
    following = [{"command": shlex.join(["agent-mailer", "mail", *words]), "why": why} for words, why in steps]
    json_out({**answer, "next": following})


def about(messages: Sequence[Message]) -> tuple[Step, ...]:
    """What can be done with the last of these messages."""
    if not messages:
        return (LOOK, SEND)
    last = messages[-1].envelope
    return (
        (["reply", last.id, "--body", "TEXT"], f"answer {last.sender}"),
        (["thread", last.thread], "read the whole thread"),
    )
