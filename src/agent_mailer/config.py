"""The typed configuration: its keys, what each is and may do, and where each value came from."""

# Annotations are evaluated as they are read: as texts that are evaluated later they cost each command a millisecond.

import os
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from agent_mailer.choices import AutoReply, CommandOutput, OnConflict, PermissionMode, RemoteAccess
from agent_mailer.config_tables import (
    LIVE,
    RESTART,
    STOPS,
    TO_DEFAULT,
    TURN,
    Alarm,
    Approve,
    Count,
    CountOrNone,
    DollarsOrOff,
    Environment,
    Guards,
    Limits,
    McpAgentMailKeys,
    Notify,
    RelayKeys,
    Retry,
    SandboxKeys,
    ScheduleKeys,
    Seconds,
    SecondsOrOff,
    Takes,
    Widens,
)
from agent_mailer.errors import ConfigFault

ENV_PREFIX = "AGENT_MAILER_"
SECRET_KEYS = frozenset({"api_key", "notify.apprise"})


class RuntimeKind(StrEnum):
    CLAUDE = "claude"
    CODEX = "codex"
    COMMAND = "command"
    INFINITI = "infiniti"
    ACP = "acp"


class MailboxKind(StrEnum):
    MAILDIR = "maildir"
    AMP = "amp"
    MCP_AGENT_MAIL = "mcp_agent_mail"
    RELAY = "relay"


class GlobalNote(StrEnum):
    """Whether a turn may change the note of all threads, by which one thread reaches every other."""

    WRITE = "write"
    READ = "read"


class Delivery(StrEnum):
    """Who works on mail first: the agent's own turns, or a live session that a person sits at."""

    HEADLESS = "headless"
    LIVE_FIRST = "live-first"


class GitCare(StrEnum):
    KEEP_OUT = "keep-out"
    LEAVE = "leave"


class Source(StrEnum):
    """Where a value came from; the later wins. `TRUSTED` stands in for what the workdir's files say otherwise."""

    DEFAULT = "default"
    AGENT_MD = "AGENT.md"
    FILE = "config.toml"
    TRUSTED = "trusted before"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class Config(msgspec.Struct, frozen=True):
    """Every key, with its default and its sentence. The names of other AMP clients are kept."""

    agent_id: Annotated[str, LIVE, "the agent's id at its broker; compared with AGENT.md"] = ""
    agent_name: Annotated[str, RESTART, TO_DEFAULT, "the agent's name; the address where that is empty"] = ""
    address: Annotated[
        str, RESTART, STOPS, "where the agent gets its mail: its handle, or its address at the broker"
    ] = ""
    broker_url: Annotated[
        str, RESTART, STOPS, "the URL of the broker, or of another server; empty = a folder mailbox"
    ] = ""
    api_key: Annotated[str, LIVE, "the broker's key, or another server's bearer token; shown nowhere"] = ""
    mailbox: Annotated[
        MailboxKind | None,
        RESTART,
        STOPS,
        "maildir, amp, mcp_agent_mail or relay; default: amp when broker_url is set, else maildir",
    ] = None
    maildir_root: Annotated[
        str,
        RESTART,
        STOPS,
        "the folder mailbox's root; default: $AM_ROOT, .amqrc, .agent-mail at the top of the git tree",
    ] = ""
    mcp_agent_mail: Annotated[
        McpAgentMailKeys, "project: whose mail it is at an mcp_agent_mail server, an absolute path"
    ] = McpAgentMailKeys()
    relay: Annotated[
        RelayKeys, "caps, tags, label, channels, profile, approval: as what the agent is shown at an Agent Relay server"
    ] = RelayKeys()
    runtime: Annotated[
        RuntimeKind | None,
        RESTART,
        STOPS,
        "the agent program: claude, codex, infiniti, acp (with `agent`) or command; must be chosen",
    ] = None
    agent: Annotated[
        str, RESTART, STOPS, 'with runtime = "acp": which agent, by the name of its description, as opencode'
    ] = ""
    permission_mode: Annotated[
        PermissionMode | None, TURN, STOPS, "acceptEdits, bypassPermissions or plan; never guessed"
    ] = None
    claude_command: Annotated[str, TURN, TO_DEFAULT, "the claude program, by name or path"] = "claude"
    codex_command: Annotated[str, TURN, TO_DEFAULT, "the codex program, by name or path"] = "codex"
    infiniti_command: Annotated[str, TURN, TO_DEFAULT, "the infiniti program, by name or path"] = "infiniti-agent"
    model: Annotated[str, TURN, "the model of the agent program; empty = its own, which moves with its versions"] = ""
    extra_args: Annotated[
        tuple[str, ...], TURN, TO_DEFAULT, "further arguments of the agent program, a list of words"
    ] = ()
    tools: Annotated[
        tuple[str, ...],
        TURN,
        STOPS,
        "claude's own tools that a turn may use, by name; the mail tools are there in any case",
    ] = ("Bash", "Read", "Edit", "Write", "NotebookEdit", "WebFetch", "WebSearch", "Agent")
    max_budget_usd: Annotated[
        DollarsOrOff, TURN, STOPS, "dollars one turn may cost, where the agent program can count them (claude); 0 = off"
    ] = 0.0
    config_home: Annotated[
        str,
        RESTART,
        TO_DEFAULT,
        "the folder of claude's or codex's settings, login and sessions; empty = the user's own",
    ] = ""
    command: Annotated[
        tuple[str, ...], TURN, STOPS, 'with runtime = "command": the program and its arguments, a list of words'
    ] = ()
    command_output: Annotated[CommandOutput, TURN, "what the command prints: text (its answer) or jsonl (events)"] = (
        CommandOutput.TEXT
    )
    project_dir: Annotated[
        str, TURN, TO_DEFAULT, "the folder the agent works on, where that is not the workdir; named in the prompt"
    ] = ""
    delivery: Annotated[
        Delivery,
        RESTART,
        "headless or live-first: whether mail is offered to your live session before a turn of its own",
    ] = Delivery.HEADLESS
    live_wait: Annotated[Seconds, LIVE, "seconds that mail waits for a live session that was told of it"] = 60
    live_time: Annotated[Seconds, LIVE, "seconds a live session may have a mail that it took, within turn_timeout"] = (
        1800
    )
    git: Annotated[
        GitCare, RESTART, "keep-out or leave: whether state and mail are kept out of the git tree that they lie in"
    ] = GitCare.KEEP_OUT
    poll_interval_idle: Annotated[Seconds, RESTART, "seconds between two looks at the mailbox without an event"] = 60
    poll_interval_active: Annotated[
        Seconds, RESTART, "the same after there was mail, at a broker that cannot wake us"
    ] = 10
    max_retries: Annotated[CountOrNone, LIVE, "further attempts after a failed one before the message is given up"] = 3
    max_starts: Annotated[Count, LIVE, "starts of whatever outcome before the message is given up"] = 10
    max_parallel_turns: Annotated[
        int, Meta(ge=1, le=64), LIVE, "threads worked on side by side; urgent mail takes one place more"
    ] = 1
    batch_low: Annotated[
        bool, LIVE, "low mail of one thread may be handed over as one turn, up to ten messages, when nothing else waits"
    ] = False
    session_max_age_days: Annotated[Count, TURN, "days since its last use after which a session is not resumed"] = 7
    session_max_turns: Annotated[Count, TURN, "turns after which a session is not resumed"] = 50
    session_max_megabytes: Annotated[
        CountOrNone, TURN, "megabytes of output of its turns after which a session is not resumed; 0 = off"
    ] = 20
    auto_reply: Annotated[
        AutoReply, LIVE, "if-silent, never or always: whether the agent's final words are sent as the answer"
    ] = AutoReply.IF_SILENT
    turn_timeout: Annotated[Seconds, LIVE, "seconds a turn may take"] = 3600
    tool_timeout: Annotated[SecondsOrOff, LIVE, "seconds one tool call may take; 0 = the rest of the turn"] = 0
    first_output_timeout: Annotated[
        SecondsOrOff, LIVE, "seconds until the first event; 0 = off (always off for text commands)"
    ] = 60
    silence_timeout: Annotated[
        SecondsOrOff, LIVE, "seconds without an event while no tool runs; 0 = off (always off for text commands)"
    ] = 600
    stop_grace: Annotated[
        SecondsOrOff,
        LIVE,
        "seconds running turns are given when the watcher is stopped; in a container 2, unless it is set",
    ] = 20
    turn_memory: Annotated[
        str,
        TURN,
        STOPS,
        "memory that all processes of a turn may use together, as 4G or 800M; empty = off; needs systemd",
    ] = ""
    memory_global: Annotated[
        GlobalNote, TURN, TO_DEFAULT, "write or read: whether turns may change the note of all threads"
    ] = GlobalNote.WRITE
    keep_transcripts: Annotated[CountOrNone, LIVE, "days a settled turn's output is kept; 0 = only the summary"] = 7
    retry: Annotated[Retry, "first, longest: seconds of backoff between attempts"] = Retry()
    env: Annotated[
        Environment, "pass (names) and set (values): what the agent sees of the environment beyond the basics"
    ] = Environment()
    allow_from: Annotated[
        tuple[str, ...],
        LIVE,
        STOPS,
        "whose mail is worked on: addresses, names, @domains, globs, kind:KIND; empty = everybody's; "
        "other mail is held for you, but for that of people",
    ] = ()
    deny_from: Annotated[
        tuple[str, ...], LIVE, STOPS, "whose mail is held for you, in the same words; people only by name"
    ] = ()
    people: Annotated[
        tuple[str, ...],
        LIVE,
        TO_DEFAULT,
        "addresses and globs of persons, beside `user` in a folder, the operator and notify.address",
    ] = ()
    groups: Annotated[
        tuple[str, ...],
        RESTART,
        "groups whose mail the agent gets in a folder or at a relay, as tag:rust, cap:review, label:the tester",
    ] = ()
    reserve: Annotated[
        tuple[str, ...],
        RESTART,
        'paths of the project that each turn has to itself while it runs, as "src/**"; empty = none',
    ] = ()
    reservations: Annotated[
        bool, RESTART, "whether turns heed and make file reservations without `reserve`; with it they do in any case"
    ] = False
    on_conflict: Annotated[
        OnConflict, RESTART, "wait or fail: what becomes of mail while somebody else has reserved its paths"
    ] = OnConflict.WAIT
    guards: Annotated[
        Guards, "how far agents go among themselves before a person is asked: rounds, hops and turns; 0 = off"
    ] = Guards()
    alarm: Annotated[Alarm, "mail_waits, no_turn: seconds of silence after which the operator is told"] = Alarm()
    limits: Annotated[
        Limits, "what turns may take of a local day: turns, minutes, tokens, dollars; whole, of a thread, for a sender"
    ] = Limits()
    schedule: Annotated[
        tuple[ScheduleKeys, ...],
        LIVE,
        TO_DEFAULT,
        "mail by the clock, each a `[[schedule]]` with name, cron, zone, subject, body (a file), thread",
    ] = ()
    notify: Annotated[
        Notify,
        "command (a list of words) and address (mail): who is told when the agent needs a person; "
        "trouble_after, timeout: seconds",
    ] = Notify()
    approve: Annotated[
        Approve, "tools, refused, expires: before which calls of its own tools the agent asks a person, by mail"
    ] = Approve()
    remote: Annotated[
        RemoteAccess,
        LIVE,
        STOPS,
        "none, operate or all: what people may ask of the watcher at its broker; operate: pause, resume, retry, stop, "
        "deny; all: approve, raise and release, too",
    ] = RemoteAccess.OPERATE
    sandbox: Annotated[
        SandboxKeys, "kind, read, write, hide, network, domains, command, mailbox: what a turn may touch; widens power"
    ] = SandboxKeys()

    @property
    def reserves(self) -> bool:
        """Whether its turns take part in file reservations."""
        return self.reservations or bool(self.reserve)

    @property
    def mailbox_kind(self) -> MailboxKind:
        """`amp` where a broker is named, else the folder."""
        return self.mailbox or (MailboxKind.AMP if self.broker_url else MailboxKind.MAILDIR)


class Loaded(msgspec.Struct, frozen=True):
    """A configuration, the source of each value that is no default, and the keys of the file that we do not know."""

    config: Config
    sources: Mapping[str, Source]
    unknown: tuple[str, ...] = ()

    def source(self, key: str) -> Source:
        return self.sources.get(key, Source.DEFAULT)


HINTS = dict(Config.__annotations__)


def _sentence(hint: object) -> str:
    return next(part for part in get_args(hint)[1:] if type(part) is str)


DOCS = {key: _sentence(hint) for key, hint in HINTS.items()}
"""What each key is, in one sentence."""


def keys() -> tuple[str, ...]:
    return Config.__struct_fields__


class Leaf(msgspec.Struct, frozen=True):
    """A key that has a value of its own, those of the tables as `retry.first`. `hint` is its type, bounds included.

    `widens` is None for a key that widens no power.
    """

    name: str
    hint: Any
    default: object
    sentence: str
    takes: Takes
    widens: Widens | None


@cache
def leaves() -> tuple[Leaf, ...]:
    """In the order of the file."""
    return tuple(chain.from_iterable(map(leaves_of, keys())))


@cache
def leaves_of(key: str) -> tuple[Leaf, ...]:
    """Those of a table, or the key itself."""
    table = getattr(Config(), key)
    if not isinstance(table, msgspec.Struct):
        return (_leaf(key, HINTS[key], table),)
    inner = type(table).__annotations__
    named = zip(table.__struct_fields__, table.__struct_encode_fields__, strict=True)
    return tuple(_leaf(f"{key}.{shown}", inner[own], getattr(table, own)) for own, shown in named)


def _leaf(name: str, hint: Any, default: object) -> Leaf:  # noqa: ANN401 - a type of any kind
    marks = get_args(hint)[1:]
    takes = next(mark for mark in marks if isinstance(mark, Takes))
    return Leaf(name, hint, default, _sentence(hint), takes, next((m for m in marks if isinstance(m, Widens)), None))


def expand(path: str, workdir: Path) -> Path:
    """A path of the configuration: `~` expanded, relative to the workdir, normalised without following links.

    Raises ConfigFault for what can be no path.
    """
    try:
        if "\0" in path:
            raise RuntimeError("a path holds no NUL")
        return Path(os.path.normpath(workdir / Path(path).expanduser()))
    except RuntimeError as error:
        raise ConfigFault("bad_path", f"{path!r} is no path: {error}", "agent-mailer config edit") from None
