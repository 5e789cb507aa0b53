"""What a broker is told at its start."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """`database` is an SQLAlchemy URL with an async driver; `uploads` a folder; sizes are bytes, durations seconds."""

    database: str
    uploads: Path
    secret: str
    domain: str = "amp.localhost"
    max_body_bytes: int = 1_048_576
    """Of one message's body; a request may be a little larger than twice this."""
    max_file_bytes: int = 10 * 1_048_576
    token_seconds: int = 30 * 86400
    cookie_seconds: int = 86400
    heartbeat_seconds: float = 15.0
    claim_seconds: float = 86400.0
    """How long a claim keeps a message from other watchers."""
    login_attempts: str = "10/5 minutes"
    """Wrong passwords that a user name, and an address, may give before it has to wait."""
