"""What is known of one agent program, as data: how it is called, what its words mean. One TOML file an agent."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from agent_mailer.errors import ConfigFault, quoted, words_of
from agent_mailer.names import printable, stays_inside
from agent_mailer.outcomes import Outcome

if TYPE_CHECKING:
    from agent_mailer.runtimes.port import PermissionMode

LARGEST = 64 * 1024
NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
ANY_KIND = "*"
SERVER = "agent_mailer"
"""The name of our tools' server, as an agent sees it."""


class UsageOf(StrEnum):
    """What the counts that an agent gives are about."""

    PROMPT = "prompt"
    SESSION = "session"
    LAST = "last"
    """The last request to its model alone: less than the turn took."""
    REQUESTS = "requests"
    """Each request to its model, told beside its words."""
    NONE = "none"


class MailBy(StrEnum):
    """How the agent reaches its mail: our tools, or the commands where it does not offer these to its model."""

    MCP = "mcp"
    COMMANDS = "commands"


class Mode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One permission mode in the agent's own words.

    `session_mode` is an id that the agent offers, `args` and `env` what is added to its start. `allow_kinds`: kinds of
    tools that are allowed where it asks; `*` = all.
    """

    session_mode: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    allow_kinds: tuple[str, ...] = ()


class Modes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plan: Mode | None = None
    acceptEdits: Mode | None = None  # noqa: N815 - the words of the configuration
    bypassPermissions: Mode | None = None  # noqa: N815

    def of(self, mode: PermissionMode) -> Mode | None:
        found: Mode | None = getattr(self, mode.value)
        return found


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one field that the agent fills from its own registry, as a path in its permission request
    (`toolCall._meta.toolName`) or in what it announced the tool with (`announced.title`); and what stands there, whole,
    for our mail tools: a regular expression. `name` is one whose group is the tool's name, where more stands there.
    """

    field: str
    name: str = ""
    mail: str = r"mcp__agent_mailer__[a-z_]+"


class Meaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error by its code, or by a regular expression of its text, from its beginning; and what it means."""

    outcome: Literal["limited", "signed_out", "unavailable", "session_lost", "failed"]
    code: int | None = None
    text: str = ""

    @property
    def as_outcome(self) -> Outcome:
        return Outcome(self.outcome)


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line of its headless mode means: one in which `when` stands, a value by its path (`message.role`).

    The other fields are paths: of the line, or, where `each` is one to a list in it, of each part in which `part`
    stands. `session` is an id, `text` words to whoever asked, `tool` and `tool_end` ids of a call with its `name`.
    `error`, with an HTTP `status` and its own word (`kind`), tells that it has failed; `ends`: nothing follows.
    """

    when: dict[str, str | int | bool]
    each: str = ""
    part: dict[str, str | int | bool] = {}
    session: str = ""
    model: str = ""
    text: str = ""
    tool: str = ""
    name: str = ""
    tool_end: str = ""
    input_tokens: str = ""
    output_tokens: str = ""
    error: str = ""
    status: str = ""
    kind: str = ""
    ends: bool = False


class Headless(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it does a turn without a protocol: the prompt on its input, JSON lines on its output, and it leaves.

    `resume` are words that go on in a session, $session. `server` are words that name our tools' server to it, as the
    JSON object `mcpServers` that many know ($servers), and `server_env` variables for the same.
    """

    lines: tuple[Line, ...]
    resume: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    server_env: dict[str, str] = {}


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it is pointed at a model server of our own: words that are added, variables, and files below its home.
    `$URL` stands for the server's address.
    """

    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    files: dict[str, str] = {}

    @property
    def known(self) -> bool:
        return bool(self.env or self.files)


class Descriptor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`argv` are the program and its words. `keys`: variables that hold its logins, by which an account is known."""

    argv: tuple[str, ...]
    title: str = ""
    install: str = ""
    """The command that installs it."""
    version: tuple[str, ...] = ("--version",)
    """Its words to tell its version."""
    node: int = 0
    """The oldest major version of Node that its current version runs on; 0 = it needs none."""
    env: dict[str, str] = {}
    """What a turn sets; what the user sets in `[env]` wins."""
    keys: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    """Words that choose a model, with $model."""
    modes: Modes = Modes()
    named: Named | None = None
    """None = it is not told which tool asks: none of those that do is a mail tool."""
    mail: MailBy = MailBy.MCP
    resume: Literal["auto", "never"] = "auto"
    usage: UsageOf = UsageOf.NONE
    errors: tuple[Meaning, ...] = ()
    answers: tuple[Meaning, ...] = ()
    """Words of a provider that an agent gives as its own answer."""
    silent_for: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300
    """Seconds without a word after which the turn is ended as an outage, while no tool runs."""
    leaves_in: Annotated[float, msgspec.Meta(ge=0, le=60)] = 2.0
    """Seconds it is given to leave once its input is closed."""
    home: tuple[str, ...] = ()
    """Folders that it must write, relative to the home folder."""
    executes: tuple[str, ...] = ()
    """Of a project, in the folder it works in or above it: what its program runs by itself, in every mode."""
    check: Check = Check()
    headless: Headless | None = None
    """None = it speaks the Agent Client Protocol."""


def read(data: bytes, where: str) -> Descriptor:
    """Raises ConfigFault that says what is wrong with it and where it lies."""
    # The bridge of each turn loads this module for its types.
    import tomllib

    fix = f"$EDITOR {quoted(where)}"
    if len(data) > LARGEST:
        raise ConfigFault("bad_descriptor", f"{where} has more than {LARGEST} bytes", fix)
    try:
        found = msgspec.convert(tomllib.loads(data.decode("utf-8-sig")), Descriptor)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigFault("bad_descriptor", f"{where} does not describe an agent: {words_of(error)}", fix) from error
    if why := _fault(found):
        raise ConfigFault("bad_descriptor", f"{where} does not describe an agent: {why}", fix)
    return found


def _fault(found: Descriptor) -> str:
    if not found.argv or not found.argv[0]:
        return "argv names no program"
    patterns = [
        *([] if found.named is None else [found.named.mail, found.named.name]),
        *(one.text for one in (*found.errors, *found.answers)),
    ]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"{printable(pattern, 100)!r} is no regular expression: {error}"
    if found.named is not None and found.named.name and re.compile(found.named.name).groups != 1:
        return "named.name has to have one group: the tool's name"
    if any(one.code is None and not one.text for one in (*found.errors, *found.answers)):
        return "an error is known by its code or its text, and one has neither"
    for name in (*found.home, *found.check.files, *found.executes):
        if not stays_inside(name):
            return f"{printable(name, 100)!r} leads out of the home folder, or is all of it"
    return "" if found.headless is None else _fault_of_lines(found)


def _fault_of_lines(found: Descriptor) -> str:
    assert found.headless is not None
    lines, named = found.headless.lines, found.headless.resume
    if not any(line.ends for line in lines):
        return "headless.lines has none that ends a turn"
    if any(not line.when for line in lines):
        return "a line of headless.lines is known by nothing"
    if found.resume != "never" and not any(line.session for line in lines):
        return "resume is not never, and no line of headless.lines tells a session"
    if found.resume != "never" and not any("$session" in word for word in named):
        return "resume is not never, and headless.resume does not name $session"
    if found.mail is MailBy.MCP and not any("$servers" in word for word in _of_servers(found.headless)):
        return "mail is mcp, and neither headless.server nor headless.server_env names $servers"
    return ""


def _of_servers(headless: Headless) -> tuple[str, ...]:
    return (*headless.server, *headless.server_env.values())
