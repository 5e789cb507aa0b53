"""A file in the person's editor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import split_words

FALLBACKS = ("sensible-editor", "nano", "vi")


def open_editor(path: Path) -> None:
    """Open `path`, return when the editor has ended. Raises UsageFault if there is none, MailerError if it failed."""
    from agent_mailer.process.commands import run_in_terminal

    words = _editor()
    try:
        status = run_in_terminal([*words, str(path)])
    except OSError as error:
        raise UsageFault("no_editor", f"{words[0]} cannot be started: {error.strerror}", "export EDITOR=…") from None
    if status:
        raise MailerError("editor_failed", f"{words[0]} ended with status {status}; nothing was taken over", "")


def _editor() -> list[str]:
    for name in ("VISUAL", "EDITOR"):
        if os.environ.get(name, "").strip():
            return split_words(os.environ[name], f"${name}")
    found = next((path for name in FALLBACKS if (path := shutil.which(name))), None)
    if found is None:
        raise UsageFault("no_editor", "there is no editor: $EDITOR is not set", "export EDITOR=…")
    return [found]
