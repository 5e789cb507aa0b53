"""The broker of a team's own: who it is now, begun, ended, and its user logged in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, MailerError, RefusedFault, UsageFault
from agent_mailer.locks import HOLDS_ON
from agent_mailer.teams import embedded
from agent_mailer.teams.stopped import at, is_stopped

if TYPE_CHECKING:
    from agent_mailer.setup.logins import Login
    from agent_mailer.teams.running import Where


def standing(directory: Path) -> embedded.Standing | None:
    """None where it does not run. Raises ConfigFault where the broker's packages are missing."""
    from agent_mailer.cli.broker.database import require_extra

    require_extra()
    from agent_mailer.broker.data import find_data, who_serves

    serving = who_serves(find_data(embedded.folder_of(directory), None, {}))
    return embedded.Standing(serving.url, serving.pid) if serving is not None else None


def begin(directory: Path) -> embedded.Standing:
    """The running broker, started where it does not run. Raises MailerError."""
    return embedded.begin(directory, Disk(), standing)


def require_by_hand(where: Where | None) -> None:
    """Raises UsageFault for services: nobody would start its broker anew."""
    from agent_mailer.teams.running import Where

    if where is Where.SYSTEMD:
        what = f"broker_url {embedded.EMBEDDED} lives with a team that is started by hand, and services outlive that"
        fix = "amp start --detach; or a broker of its own as a service: docs/operating-a-broker.md"
        raise UsageFault("broker_embedded", what, fix)


def end(directory: Path) -> bool:
    """End it with a word; False where it did not run. Raises UnavailableFault where it does not end."""
    return embedded.end(standing(directory))


@contextmanager
def ended_if_refused(directory: Path) -> Iterator[None]:
    """What is refused leaves no broker behind that was begun for it: there is one for a team that is to run."""
    from agent_mailer.teams.kept import changing, has_team
    from agent_mailer.teams.running import watchers_in

    try:
        yield
    except (MailerError, typer.Abort):
        # In a folder that is no team's there may be a broker of somebody's own. Who is at it just now looks himself.
        if embedded.url_of(directory) != embedded.EMBEDDED:
            with suppress(MailerError), changing(directory, Disk(), HOLDS_ON):
                if (is_stopped(directory) or not has_team(directory)) and not watchers_in(directory):
                    end(directory)
        raise


def log_in_there(directory: Path) -> Login:
    """The login at the team's own broker, which runs then. Raises MailerError."""
    from agent_mailer.cli.team.login import log_in
    from agent_mailer.setup.logins import find_login

    url = begin(directory).url
    person = embedded.person_of(directory, Disk())
    try:
        kept = find_login(Path.home(), url)
        if kept.username == person.username:
            return kept
    except ConfigFault as fault:
        if fault.code != "no_login":
            raise
    try:
        return log_in(url, person.username, person.password, team=str(directory))
    except RefusedFault:
        # Who has no login yet may have been broken off anywhere before it.
        embedded.require_user(directory, person)
    return log_in(url, person.username, person.password, team=str(directory))


def line_of(directory: Path) -> str:
    """For a person."""
    broker = standing(directory)
    if broker is None:
        return f"its broker does not run (amp start {at(directory)})"
    return f"its broker runs at {broker.url} (pid {broker.pid}; its data: {embedded.folder_of(directory)})"
