"""The real agent programs, in the versions that tools/agent_clis.py installs."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
from tools.agent_clis import PACKAGES, binary, folder_of, install

from agent_mailer.errors import MailerError


def claude_binary() -> Path:
    return _real("claude")


def codex_binary() -> Path:
    return _real("codex")


def srt_binary() -> Path:
    """Of Anthropic's sandbox-runtime, which needs socat and ripgrep beside it."""
    return _real("srt")


def described_binary(name: str) -> Path:
    """Of an agent that speaks the Agent Client Protocol."""
    return _real(name)


def _real(name: str) -> Path:
    """The program `name`. Where it cannot be had the test is skipped, and with CI set it fails."""
    why = _why_missing(folder_of(name))
    if why:
        reason = f"{PACKAGES[name]} is not there: {why}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return binary(name)


@cache
def _why_missing(folder: str) -> str:
    try:
        install(folder)
    except (MailerError, OSError) as fault:
        return str(fault)
    return ""
