"""Wiring of the sandbox: from a workdir and its configuration to what stands around its turns."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from agent_mailer.config import Config, expand
from agent_mailer.confine.bounds import Places
from agent_mailer.confine.confinement import Confinement
from agent_mailer.confine.kinds import others_hidden, sandbox_of
from agent_mailer.confine.port import MailboxAccess
from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.layout import FOLDER
from agent_mailer.mailbox.maildir.routes import base_of
from agent_mailer.names import path_name
from agent_mailer.runtimes.port import PermissionMode, RuntimeTraits
from agent_mailer.state.folder import STATE_DIRECTORY
from agent_mailer.state.workdirs import known_workdirs


class Around(msgspec.Struct, frozen=True):
    """What is known of a workdir. `root`: of the folder mailbox, None at a broker; it may raise ConfigFault."""

    workdir: Path
    state: Path
    project: Path | None
    root: Callable[[], Path | None]
    disk: Disk


def confinement_of(config: Config, around: Around, traits: RuntimeTraits) -> Confinement | None:
    """As it is configured; None where a turn is held by its agent program alone."""
    keys = config.sandbox
    path = os.environ.get("PATH", os.defpath)
    sandbox = sandbox_of(keys.kind, command=keys.command, domains=keys.domains, workdir=around.workdir, path=path)
    return None if sandbox is None else Confinement(sandbox, partial(places_of, config, around), traits, around.disk)


def places_of(config: Config, around: Around) -> Places:
    """Raises ConfigFault."""
    from platformdirs import user_cache_path, user_data_path, user_state_path

    keys, workdir, project, root = config.sandbox, around.workdir, around.project, around.root()
    read, write, hide = (tuple(expand(path, workdir) for path in paths) for paths in (keys.read, keys.write, keys.hide))
    mailbox = None if root is None else base_of(root) or root
    shut = keys.mailbox is MailboxAccess.HIDE
    hidden = [user_state_path("agent-mailer"), user_data_path("agent-mailer")]
    opened = [_real(path) for path in (workdir, project, *read, *write) if path is not None]
    others = [other for other in map(_real, known_workdirs(around.disk).all()) if other != opened[0]]
    hidden += others_hidden(others, opened, STATE_DIRECTORY, FOLDER)
    if mailbox is not None and shut:
        hidden.append(mailbox)
    return Places(
        workdir=workdir,
        state=around.state,
        home=Path(os.environ.get("HOME") or Path.home()),
        account=_home_of_the_account(),
        cache=user_cache_path("agent-mailer") / path_name(str(workdir)),
        project=project,
        mailbox=None if shut else mailbox,
        hidden=tuple(hidden),
        read=read,
        write=write,
        hide=hide,
        network=keys.network,
        may_write=config.permission_mode is not PermissionMode.PLAN,
        own_variables=frozenset(config.env.set),
    )


def _home_of_the_account() -> Path | None:
    with suppress(KeyError):
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    return None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
