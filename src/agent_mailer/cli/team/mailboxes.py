"""Where a new team's mail is to be, by what was typed: a folder, AMQ's tree, a broker."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli.team.login import log_in
from agent_mailer.cli.terminal.printing import say
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.names import one_of

if TYPE_CHECKING:
    from agent_mailer.setup.logins import Login
    from agent_mailer.teams.plan import Team

COLLAB = "collab"
"""The session that `amq coop init` makes, and `amq coop exec` joins."""


class Mail(msgspec.Struct, frozen=True):
    """What was said of where the team's mail is to be."""

    local: bool
    amq: bool
    broker_url: str
    username: str
    password: str

    @property
    def embedded(self) -> bool:
        """A broker of the team's own. Raises UsageFault for what does not go with it."""
        from agent_mailer.teams.embedded import EMBEDDED

        if self.broker_url != EMBEDDED:
            return False
        if self.local or self.amq or self.username or self.password:
            raise UsageFault("two_mailboxes", "a broker of the team's own needs no user, and no folder", "")
        return True

    def tree(self) -> Path | None:
        """The mailbox of AMQ's co-op that is found from here, a session where there is one. Raises ConfigFault."""
        from agent_mailer.mailbox.maildir.layout import find_root, is_folder
        from agent_mailer.mailbox.maildir.layout import roster as handles

        if not self.amq:
            return None
        without = "amq coop init makes it; without --amq the team has a folder of its own: amp up --local"
        try:
            root = find_root(None, os.environ, Path.cwd())
        except ConfigFault as fault:
            raise ConfigFault("no_coop", fault.message, without) from None
        if is_folder(root / COLLAB / "agents"):
            root = root / COLLAB
        if not (is_folder(root / "agents") and handles(root)):
            raise ConfigFault("no_coop", f"{root} is no tree of AMQ's", without)
        return root

    def login(self, url: str) -> Login:
        """At that broker: as it is kept, or anew where a name or password was given."""
        from agent_mailer.setup.logins import find_login

        if not (self.username or self.password):
            try:
                return find_login(Path.home(), url)
            except ConfigFault as fault:
                if fault.code != "no_login" or not url:
                    raise
        return log_in(url, self.username, self.password)

    def choose(self) -> Login | None:
        """Of a new team; None = a folder. A login that is kept counts; a person may be asked. Raises UsageFault."""
        from agent_mailer.setup.logins import all_logins

        given = self.broker_url or self.username or self.password
        if self.local or self.amq:
            if given or (self.local and self.amq):
                raise UsageFault("two_mailboxes", "mail is in one place", "give one of --local, --amq and a broker")
            return None
        url = self.broker_url or os.environ.get("AMP_BROKER_URL", "")
        if given or url or all_logins(Path.home()):
            return self.login(url)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return None
        from agent_mailer.cli.terminal.questions import ask
        from agent_mailer.cli.terminal.tables import choices

        say("Where is the team's mail to be?")
        say(
            choices((("folder", "files on this machine; nothing else is needed"), ("broker", "an Agent Mailer broker")))
        )
        chosen = ask("Mailbox", "folder", lambda text: one_of(text, ("folder", "broker"), "Mailbox"))
        return log_in("", "", "") if chosen == "broker" else None


def where_mail_is(plan: Team) -> str:
    """For a person."""
    if plan.root is not None:
        return f"its mail is in AMQ's tree {plan.root}"
    if plan.local:
        return "its mail is in that folder, no broker is needed"
    return f"its mail is at {plan.broker_url}{', a broker of its own' if plan.embedded else ''}"
