"""The way in. Of what keeps running there may be dozens: a watcher begins without what parses the other commands."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

WATCH = ["watch", "--no-interactive"]
"""What starts watchers gives them just these words."""


def main() -> NoReturn:
    """`agent-mailer`: a command, as it was typed."""
    if sys.argv[1:] == WATCH:
        _watch()
    from agent_mailer.cli.app import main as any_command

    any_command()


def amp() -> NoReturn:
    """`amp`, which is `agent-mailer team`."""
    from agent_mailer.cli.app import amp as any_command

    any_command()


def _watch() -> NoReturn:
    from agent_mailer.cli.ending import status_of
    from agent_mailer.cli.home import settle_home
    from agent_mailer.cli.terminal.screen import prepare_streams
    from agent_mailer.cli.terminal.streams import last_words, leave, open_what_is_closed

    def watch() -> int:
        from agent_mailer.cli.watch.running import watch_here

        settle_home(os.environ)
        return watch_here()

    open_what_is_closed()
    prepare_streams()
    try:
        status = status_of(watch)
    finally:
        last_words()
    leave(status)
