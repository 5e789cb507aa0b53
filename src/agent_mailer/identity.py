"""Who the agent says it is: the identity lines of `AGENT.md`, and their agreement with the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable

IDENTITY_FILES = ("AGENT.md", "SOUL.md")

MOST_BYTES = 1024 * 1024
LONGEST_LINE = 1000
"""What is larger is not looked at: the identity stands at the top, in short lines."""

_LABELS = {
    "name": "agent_name",
    "agent name": "agent_name",
    "agent_name": "agent_name",
    "address": "address",
    "agent address": "address",
    "agent id": "agent_id",
    "agent_id": "agent_id",
    "id": "agent_id",
    "broker": "broker_url",
    "broker url": "broker_url",
    "broker_url": "broker_url",
}
_BULLET = re.compile(r"\s*[-*]\s*\*\*(?P<label>[^*]+?)\*\*\s*:\s*(?P<value>.*)")
_PLAIN = re.compile(r"(?P<label>[A-Za-z_ ]+?)\s*:\s*(?P<value>.*)")
_HEADING = re.compile(r"#+\s*(?P<title>.*)")
_FOREIGN_SECTIONS = ("protocol", "邮箱协议", "api", "system prompt", "身份提示词")
"""Sections whose lines are examples and instructions, not identity."""

_COMPARED = ("agent_id", "address", "agent_name")


def read_identity(workdir: Path) -> dict[str, str]:
    """The identity in the workdir's AGENT.md, else SOUL.md: config key -> value. Empty where there is none."""
    return _read(workdir)[1]


def _read(workdir: Path) -> tuple[str, dict[str, str]]:
    """The name of the file that counts, and what it says."""
    for name in IDENTITY_FILES:
        with suppress(OSError):
            text = read_regular(workdir / name, MOST_BYTES, follow=True)[:MOST_BYTES].decode("utf-8", "replace")
            return name, parse_identity(text)
    return IDENTITY_FILES[0], {}


def parse_identity(text: str) -> dict[str, str]:
    """Bullets `- **Label**: value` or lines `Label: value`; the first of each counts, fences are passed over."""
    found: dict[str, str] = {}
    fenced = foreign = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        if len(line) > LONGEST_LINE:
            continue
        heading = _HEADING.fullmatch(line)
        if heading:
            foreign = any(word in heading["title"].casefold() for word in _FOREIGN_SECTIONS)
            continue
        match = None if foreign else _BULLET.fullmatch(line) or _PLAIN.fullmatch(line)
        key = _LABELS.get(match["label"].strip().casefold()) if match else None
        if match is not None and key is not None:
            found.setdefault(key, match["value"].strip().strip("`").strip())
    return {key: value for key, value in found.items() if value}


def require_agreement(workdir: Path, configured: Mapping[str, str]) -> None:
    """Raises ConfigFault where AGENT.md names another agent than the configuration."""
    name, identity = _read(workdir)
    for key in _COMPARED:
        ours, theirs = configured.get(key, ""), identity.get(key, "")
        if key == "address" and ("@" in ours) is not ("@" in theirs):
            continue  # the address at a broker and the handle of a folder mailbox are two names of one agent
        if ours and theirs and ours != theirs:
            raise ConfigFault(
                "identity_mismatch",
                f"{workdir / name} says {key} {printable(theirs)!r}, config.toml says {printable(ours)!r}",
                f"correct one of them (agent-mailer config set {key} VALUE), or run with --ignore-agent-md-mismatch",
            )
