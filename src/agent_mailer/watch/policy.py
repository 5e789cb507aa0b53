"""What the engine was told to do: the values that its decisions are made with."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from agent_mailer.state.notices import Channel


class AutoReply(StrEnum):
    """Whether the agent's final words are sent as the answer."""

    IF_SILENT = "if-silent"
    NEVER = "never"
    ALWAYS = "always"


class NotifyPolicy(msgspec.Struct, frozen=True):
    """Whom to tell, and how: by `command` with the environment `env`, by mail to `address`, or not at all.

    `timeout`: of the command; `again_after`: until its second try, doubling from there.
    """

    command: tuple[str, ...] = ()
    address: str = ""
    agent: str = ""
    env: Mapping[str, str] = {}
    trouble_after: float = 300.0
    timeout: float = 30.0
    again_after: float = 5.0

    @property
    def channels(self) -> tuple[Channel, ...]:
        return (*([Channel.COMMAND] if self.command else []), *([Channel.MAIL] if self.address else []))


class WatchPolicy(msgspec.Struct, frozen=True):
    """Durations are seconds unless the name says otherwise; None switches a clock off."""

    workdir: Path
    project_dir: Path | None = None
    max_retries: int = 3
    max_starts: int = 10
    max_parallel_turns: int = 1
    retry_first: float = 10.0
    retry_longest: float = 600.0
    session_max_age_days: int = 7
    session_max_turns: int = 50
    session_max_bytes: int | None = 20_000_000
    auto_reply: AutoReply = AutoReply.IF_SILENT
    turn_timeout: float = 3600.0
    tool_timeout: float | None = None
    first_output_timeout: float | None = 60.0
    silence_timeout: float | None = 600.0
    finish_grace: float = 5.0
    stop_grace: float = 20.0
    turn_memory: int = 0
    """Bytes that all processes of a turn may use together; 0 = off."""
    keep_transcripts: int = 7
    trouble_first: float = 1.0
    trouble_longest: float = 120.0
    """The waits between two tries while disk or mailbox refuse."""
    notify: NotifyPolicy = NotifyPolicy()
    undeliverable_after: float = 86400.0
    """An item still not taken after this long, while other calls succeed, is refused for good."""
