"""What the engine was told to do: the values that its decisions are made with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec


class AutoReply(StrEnum):
    """Whether the agent's final words are sent as the answer."""

    IF_SILENT = "if-silent"
    NEVER = "never"
    ALWAYS = "always"


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
    keep_transcripts: int = 7
    trouble_first: float = 1.0
    trouble_longest: float = 120.0
    """The waits between two tries while disk or mailbox refuse."""
    undeliverable_after: float = 86400.0
    """An item still not taken after this long, while other calls succeed, is refused for good."""
