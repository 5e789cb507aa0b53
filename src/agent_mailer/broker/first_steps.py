"""What a person types first: the same words at the broker's start, on its page, and after each command."""

from __future__ import annotations

import shlex

import msgspec


class Step(msgspec.Struct, frozen=True):
    """A command, and what it does."""

    command: str
    does: str


def add_user(invite: str, data: str = "") -> Step:
    """`data`: the options that lead to the database, where it is not the usual one."""
    return Step(
        f"agent-mailer broker user add alice --invite {invite}{data and ' ' + data}",
        "makes you a user of this broker and prints an API key",
    )


def set_up_agent(url: str, key: str) -> Step:
    return Step(
        f"agent-mailer init --broker-url {shlex.quote(url)} --api-key {key}",
        "in the folder of an agent: registers it here and sets the folder up",
    )


def steps(url: str, *, invite: str = "CODE", key: str = "KEY", data: str = "") -> tuple[Step, Step]:
    """The first two."""
    return add_user(invite, data), set_up_agent(url, key)


WATCH = Step("agent-mailer watch", "in that folder: runs the agent on its mail")
