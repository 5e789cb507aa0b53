"""The Agent Mailer Protocol: one agent's mailbox at a broker, over HTTP."""

from __future__ import annotations

import sys

# httpx imports a command line of its own where it can, whose packages would cost a watcher 5 MiB for nothing.
_HIDDEN = "httpx._main"
if "httpx" not in sys.modules:
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]
    try:
        import httpx  # noqa: F401
    finally:
        del sys.modules[_HIDDEN]
