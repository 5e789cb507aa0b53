"""What a person chooses between in the configuration, where a port, or the engine, acts on it: closed sets and no more.

The ports hand on those that are theirs. Here they can be had without a port: every command reads a configuration, and
few need what starts and confines programs.
"""

from __future__ import annotations

from enum import StrEnum


class PermissionMode(StrEnum):
    """What the agent may do unasked. Never guessed: the user chooses."""

    ACCEPT_EDITS = "acceptEdits"
    BYPASS_PERMISSIONS = "bypassPermissions"
    PLAN = "plan"


class CommandOutput(StrEnum):
    """What the command writes to stdout. Chosen in the config, never guessed from the output."""

    TEXT = "text"
    JSONL = "jsonl"


class AutoReply(StrEnum):
    """Whether the agent's final words are sent as the answer."""

    IF_SILENT = "if-silent"
    NEVER = "never"
    ALWAYS = "always"


class OnConflict(StrEnum):
    """What becomes of mail whose turn cannot have its paths now."""

    WAIT = "wait"
    FAIL = "fail"


class RemoteAccess(StrEnum):
    """How much may be asked from elsewhere. `operate`: what gives an agent no power that it did not have."""

    NONE = "none"
    OPERATE = "operate"
    ALL = "all"


class Kind(StrEnum):
    """What stands around a turn."""

    OFF = "off"
    BWRAP = "bwrap"
    LANDLOCK = "landlock"
    SRT = "srt"
    COMMAND = "command"


class Network(StrEnum):
    """Whom a turn may reach. `model`: the provider of the agent program, and this machine."""

    ON = "on"
    OFF = "off"
    MODEL = "model"


class MailboxAccess(StrEnum):
    """What a turn sees of the folder mailbox."""

    HIDE = "hide"
    WRITE = "write"
