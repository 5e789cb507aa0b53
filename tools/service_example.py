"""Writes packaging/agent-mailer.service.example, a unit to copy and edit, from the shipped one; `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGING = Path(__file__).resolve().parents[1] / "packaging"
UNIT = PACKAGING / "agent-mailer@.service"
EXAMPLE = PACKAGING / "agent-mailer.service.example"

HEAD = """\
# One agent as a systemd user service, to copy and edit. Written by tools/service_example.py from agent-mailer@.service.
#
#   cp packaging/agent-mailer.service.example ~/.config/systemd/user/agent-mailer@coder.service
#   (edit the line WorkingDirectory)
#   systemctl --user daemon-reload
#   systemctl --user enable --now agent-mailer@coder.service
#   journalctl --user -u agent-mailer@coder.service -f
#
# `agent-mailer service install` in the agent's workdir does this for you, finds the PATH that claude or codex needs,
# and tries the whole before it enables anything.
# `loginctl enable-linger` keeps the service running while you are not logged in.

"""
WORKDIR = "WorkingDirectory=%h/agents/%i\n"
EDITED = """\
# The agent's folder, the one with .agent-mailer in it. EDIT THIS LINE. %h is your home folder.
WorkingDirectory=%h/agents/coder
"""


def example() -> str:
    """Raises ValueError where the unit no longer has the line that is edited."""
    unit = UNIT.read_text("utf-8")
    body = unit[unit.index("[Unit]") :]
    if body.count(WORKDIR) != 1:
        raise ValueError(f"{UNIT.name} has no line {WORKDIR!r}")
    return HEAD + body.replace(WORKDIR, EDITED)


def main() -> None:
    text = example()
    if "--check" not in sys.argv[1:]:
        EXAMPLE.write_text(text, "utf-8")
    elif not EXAMPLE.exists() or EXAMPLE.read_text("utf-8") != text:
        sys.stderr.write(f"{EXAMPLE.name} is not made from the unit: python tools/service_example.py\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
