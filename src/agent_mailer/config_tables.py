"""Tables of the configuration, the ranges of their numbers, and what is to be said of each key.

Each key is declared once: here where it is a table's own, else in `config.py`.
"""

# Annotations are evaluated as they are read: as texts that are evaluated later they cost each command a millisecond.

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from agent_mailer.choices import Kind, MailboxAccess, Network

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountOrNone = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[int, Meta(ge=1, le=30 * 86400)]
SecondsOrOff = Annotated[int, Meta(ge=0, le=30 * 86400)]
TokensOrNone = Annotated[int, Meta(ge=0, le=10**12)]
SCHEDULE_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}\Z"
DollarsOrOff = Annotated[float, Meta(ge=0, le=1_000_000)]


class Takes(StrEnum):
    """When a watcher that runs takes a value that was changed."""

    LIVE = "live"
    TURN = "next turn"
    RESTART = "restart"


LIVE, TURN, RESTART = Takes


class Widens(StrEnum):
    """The key widens power: of what stands in the workdir only a value that a person trusts counts.

    Where nobody has trusted anything, the key counts as not set, or nothing starts: some have no narrow value.
    """

    TO_DEFAULT = "as not set"
    STOPS = "nothing starts"


TO_DEFAULT, STOPS = Widens


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[retry]`: the wait after the n-th failure is random between 0 and min(longest, first * 2^(n-1)) seconds."""

    first: Annotated[Seconds, LIVE, "seconds after the first failed attempt, at most; doubles with each"] = 10
    longest: Annotated[Seconds, LIVE, "seconds that no wait is longer than"] = 600


class McpAgentMailKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mcp_agent_mail]`: what that server wants to know beside its URL and our name."""

    project: Annotated[
        str, RESTART, STOPS, "the project at the server, a path; empty = project_dir, or the workdir; agents share one"
    ] = ""


class RelayKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[relay]`: as what an agent is shown at an Agent Relay server, whose own variables are the defaults."""

    caps: Annotated[
        tuple[str, ...], RESTART, "what the agent can do, for mail to `cap:`; default: $AGENT_RELAY_CAPS, or chat"
    ] = ()
    tags: Annotated[tuple[str, ...], RESTART, "for mail to `tag:`; default: $AGENT_RELAY_TAGS"] = ()
    label: Annotated[str, RESTART, "for mail to `label:`; default: $AGENT_RELAY_LABEL"] = ""
    channels: Annotated[
        tuple[str, ...], RESTART, "channels whose mail it gets; default: $AGENT_RELAY_CHANNELS, or all"
    ] = ()
    profile: Annotated[str, RESTART, STOPS, "a profile of the relay's file of them; default: $AGENT_RELAY_PROFILE"] = ""
    approval: Annotated[
        str,
        Meta(pattern=r"^(open|guarded|read-only)?\Z"),
        RESTART,
        STOPS,
        "open, guarded (a person is asked) or read-only (permission_mode plan); default: $AGENT_RELAY_APPROVAL",
    ] = ""


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"pass_": "pass"}):
    """`[env]`: names the agent may see beyond the basics, and values set for it."""

    pass_: Annotated[
        tuple[str, ...], TURN, TO_DEFAULT, "names of variables that the agent may see beyond the basics"
    ] = ()
    set: Annotated[dict[str, str], TURN, TO_DEFAULT, "variables set for the agent"] = {}


class Notify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[notify]`: who is told when the agent needs a person; without command, address and apprise nobody."""

    command: Annotated[
        tuple[str, ...], RESTART, TO_DEFAULT, "the program that tells you, and its arguments; empty = off"
    ] = ()
    address: Annotated[str, RESTART, TO_DEFAULT, "where a notice is mailed to; empty = off"] = ""
    apprise: Annotated[
        tuple[str, ...],
        RESTART,
        TO_DEFAULT,
        "Apprise URLs that tell you (ntfy, Telegram, ...); shown nowhere; empty = off",
    ] = ()
    trouble_after: Annotated[SecondsOrOff, RESTART, "seconds that trouble lasts before it is told"] = 300
    timeout: Annotated[int, Meta(ge=1, le=600), RESTART, "seconds that the command, or apprise, may take"] = 30


class AskedBy(StrEnum):
    """Who is asked for a yes."""

    OPERATOR = "operator"
    SENDER = "sender"


class Approve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[approve]`: before which calls of its own tools the agent asks a person."""

    tools: Annotated[
        tuple[str, ...],
        TURN,
        STOPS,
        'a person is asked first: tools by name or glob, as WebFetch, mcp__*, "Bash(git push *)"; empty = for none',
    ] = ()
    refused: Annotated[
        bool, TURN, STOPS, "whether a person is asked for what permission_mode refuses; needs [notify]"
    ] = True
    expires: Annotated[Seconds, LIVE, STOPS, "seconds after which a question counts as not answered"] = 3 * 86400
    by: Annotated[
        AskedBy, RESTART, STOPS, "operator or sender: who is asked; sender: whoever sent the message is asked, too"
    ] = AskedBy.OPERATOR


class SandboxKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[sandbox]`: what a turn may touch. Paths are absolute, begin with ~, or count from the workdir."""

    kind: Annotated[
        Kind,
        RESTART,
        STOPS,
        "what stands around a turn: off, bwrap, landlock, srt or command; `init` writes what works",
    ] = Kind.OFF
    read: Annotated[
        tuple[str, ...], RESTART, TO_DEFAULT, "paths that a turn may read although a sandbox would hide them"
    ] = ()
    write: Annotated[
        tuple[str, ...], RESTART, TO_DEFAULT, "paths that a turn may write beside the workdir and project_dir"
    ] = ()
    hide: Annotated[
        tuple[str, ...], RESTART, STOPS, "paths that a turn may not even read, beside logins, mail and other agents"
    ] = ()
    network: Annotated[
        Network, RESTART, STOPS, "on, off, or model: the model's provider and this machine alone (srt)"
    ] = Network.ON
    domains: Annotated[
        tuple[str, ...],
        RESTART,
        TO_DEFAULT,
        "with network = model: the hosts that may be reached; empty = the provider's",
    ] = ()
    command: Annotated[
        tuple[str, ...], RESTART, STOPS, 'with kind = "command": the program that confines, and its words'
    ] = ()
    mailbox: Annotated[MailboxAccess, RESTART, TO_DEFAULT, "hide or write: whether a turn sees the folder mailbox"] = (
        MailboxAccess.HIDE
    )


class ScheduleKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[schedule]]`: mail that a person sends by the clock. `body` is a file, below the workdir or anywhere."""

    name: Annotated[str, Meta(pattern=SCHEDULE_NAME)]
    cron: str
    zone: str = "UTC"
    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    body: Annotated[str, Meta(min_length=1, max_length=4096)]
    thread: Annotated[str, Meta(max_length=128)] = ""


class Alarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[alarm]`: silence that the operator is told of, once while it lasts; 0 = off."""

    mail_waits: Annotated[SecondsOrOff, LIVE, STOPS, "seconds that mail waits before that is told; 0 = off"] = 0
    no_turn: Annotated[
        SecondsOrOff, LIVE, STOPS, "seconds without a new turn although mail waits, before that is told; 0 = off"
    ] = 0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: what turns may take of a local day; 0 = no limit."""

    turns_per_day: Annotated[CountOrNone, LIVE, STOPS, "turns a day; more mail waits until midnight; 0 = no limit"] = 0
    minutes_per_day: Annotated[CountOrNone, LIVE, STOPS, "minutes that they take together"] = 0
    tokens_per_day: Annotated[
        TokensOrNone,
        LIVE,
        STOPS,
        "tokens that they take together; one whose program counts none is held by turns and minutes alone",
    ] = 0
    dollars_per_day: Annotated[
        DollarsOrOff, LIVE, STOPS, "dollars, as the agent program counts them; advice where a subscription pays"
    ] = 0.0
    turns_per_thread: Annotated[
        CountOrNone, LIVE, STOPS, "the same of one thread a day; its mail is held beyond it"
    ] = 0
    minutes_per_thread: Annotated[CountOrNone, LIVE, STOPS, "minutes of one thread"] = 0
    tokens_per_thread: Annotated[TokensOrNone, LIVE, STOPS, "tokens of one thread"] = 0
    dollars_per_thread: Annotated[DollarsOrOff, LIVE, STOPS, "dollars of one thread"] = 0.0
    turns_per_sender: Annotated[
        CountOrNone, LIVE, STOPS, "the same for one sender a day; its mail is held beyond it"
    ] = 0
    minutes_per_sender: Annotated[CountOrNone, LIVE, STOPS, "minutes for one sender"] = 0
    tokens_per_sender: Annotated[TokensOrNone, LIVE, STOPS, "tokens for one sender"] = 0
    dollars_per_sender: Annotated[DollarsOrOff, LIVE, STOPS, "dollars for one sender"] = 0.0
    share: Annotated[str, LIVE, STOPS, "a name: all agents of yours with the same share one day"] = ""


class Guards(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[guards]`: how far agents go among themselves before a person is asked; 0 = off."""

    max_hops: Annotated[
        CountOrNone, LIVE, TO_DEFAULT, "messages of a chain without a person, before one is held; 0 = off"
    ] = 64
    pair_rounds: Annotated[
        CountOrNone,
        LIVE,
        TO_DEFAULT,
        "times that mail comes back here by the same hands within `window` without a person; 0 = off",
    ] = 8
    ring_rounds: Annotated[CountOrNone, LIVE, TO_DEFAULT, "the same of all agents together; 0 = off"] = 12
    new_threads: Annotated[CountOrNone, LIVE, TO_DEFAULT, "threads that answers begin within `window`; 0 = off"] = 30
    rounds_per_day: Annotated[
        CountOrNone, LIVE, TO_DEFAULT, "the same of one agent, and of one thread, within a day; 0 = off"
    ] = 200
    turns_per_hour: Annotated[
        CountOrNone, LIVE, TO_DEFAULT, "turns within an hour that no person is known to want; more mail waits; 0 = off"
    ] = 120
    window: Annotated[Seconds, LIVE, TO_DEFAULT, "seconds"] = 600
    quiet_hours: Annotated[
        str, LIVE, STOPS, "local times at which no turn starts, as 22:00-07:00, several with a comma; empty = off"
    ] = ""
    max_load: Annotated[DollarsOrOff, LIVE, TO_DEFAULT, "load of a minute beyond which no turn starts; 0 = off"] = 0.0
    min_memory: Annotated[str, LIVE, TO_DEFAULT, "free memory below which no turn starts, as 2G; empty = off"] = ""
    min_disk: Annotated[str, LIVE, TO_DEFAULT, "free disk below which no turn starts, as 5G; empty = off"] = ""


SMALLEST = 16 * 1024 * 1024
"""No agent program starts with less."""

_FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MOST_DIGITS = 15


def size_in_bytes(text: str) -> int:
    """`4G` as bytes; 0 for an empty text. Raises ValueError for what is no size, or too small for any agent."""
    if not text:
        return 0
    number, unit = text[:-1], text[-1:].upper()
    if unit.isdecimal():
        number, unit = text, ""
    if not (number.isascii() and number.isdecimal()) or unit not in _FACTORS or len(number) > _MOST_DIGITS:
        raise ValueError(f"must be a size such as 4G or 800M, or empty, not {text!r}")
    size = int(number) * _FACTORS[unit]
    if size < SMALLEST:
        raise ValueError(f"no agent program starts within {text}: give 16M or more, or an empty text for no limit")
    return size
