"""What the bridge is told when it is started, as one word of its command line, and what it says in the end."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.acp.descriptor import Line, MailBy, Meaning, Named, UsageOf


class Orders(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn with one agent. Nothing in it is secret: what is, stands in the environment.

    `argv` is the agent's, its program absolute; `roots` are the folders that it works in, `kept` what in them it never
    changes. `server` are the words by which the mail tools are started, `server_env` their variables. `asks`: the
    turn's folder says what a person is asked. `drop` are variables that are ours and not the agent's.
    """

    argv: tuple[str, ...]
    title: str
    workdir: str
    turn_dir: str
    server: tuple[str, ...] = ()
    server_env: Mapping[str, str] = {}
    session: str | None = None
    session_mode: str = ""
    allow_kinds: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    named: Named | None = None
    mail: MailBy = MailBy.MCP
    asks: bool = False
    usage: UsageOf = UsageOf.NONE
    errors: tuple[Meaning, ...] = ()
    answers: tuple[Meaning, ...] = ()
    silent_for: float = 300.0
    leaves_in: float = 2.0
    drop: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    """What its own lines mean, where it does not speak the protocol."""


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, as the agent typed it. `status`: of HTTP, where it is told; `kind`: its own word."""

    text: str = ""
    code: int = 0
    status: int = 0
    kind: str = ""


class Ended(msgspec.Struct, frozen=True):
    """How the agent ended the prompt, before anybody believes it.

    `stop` is its own word, empty where it gave none. `text` came after its last tool, `before` is the last that came
    before it. `tokens`: of the prompt; None where it does not count. `rejected`: tools that we refused it.
    """

    stop: str = ""
    text: str = ""
    before: str = ""
    tokens: int | None = None
    rejected: tuple[str, ...] = ()
    failure: Failure | None = None


class Staged(msgspec.Struct, frozen=True):
    """What the turn's outbox shows when the prompt is over: mail, the word `finish`, questions to a person."""

    mail: bool = False
    finished: bool = False
    asked: bool = False


class Verdict(msgspec.Struct, frozen=True):
    outcome: Outcome
    detail: str = ""
    text: str = ""
