"""The Agent Mailer Protocol: one agent's mailbox at a broker, over HTTP."""

from __future__ import annotations

from agent_mailer.mailbox import (
    http as http,
)  # first: it loads httpx without what that would cost a watcher for nothing
