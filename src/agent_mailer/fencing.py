"""Wiring of the agent programs' own fences: what of ours, and of others, their tools may not touch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent_mailer.config import Config
from agent_mailer.confine.port import MailboxAccess
from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.port import Reach


def reach_of(
    config: Config, file: Path, workdir: Path, project: Path | None, mailbox: Callable[[], Path | None]
) -> Reach:
    """`file` is the configuration, in the state folder; `mailbox` the folder mailbox's root, and may raise ConfigFault.

    The mailbox is hidden as from a sandbox: the tools of a turn have its mail, and who may write into the folder is
    whoever he says. A folder in which the agent works cannot be hidden from it.
    """
    hidden = [file, Path.home() / ".agent-mailer" / "credentials.json", *_of_the_user()]
    if config.sandbox.mailbox is MailboxAccess.HIDE:
        with suppress(ConfigFault, OSError):
            root = mailbox()
            hidden += [] if root is None else [_base(root)]
    works_in = [workdir, *([] if project is None else [project])]
    apart = (path for path in hidden if not any(folder.is_relative_to(path) for folder in works_in))
    return Reach(hidden=tuple(apart), kept=(file.parent,))


def _of_the_user() -> tuple[Path, ...]:
    """Trust, approvals, pauses; a broker's database and keys."""
    from platformdirs import user_config_path, user_data_path, user_state_path

    return user_state_path("agent-mailer"), user_data_path("agent-mailer"), user_config_path("agent-mailer")


def _base(root: Path) -> Path:
    from agent_mailer.mailbox.maildir.routes import base_of

    return base_of(root) or root
