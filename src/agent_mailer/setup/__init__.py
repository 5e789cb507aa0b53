"""How does a folder become an agent's workdir?

Nothing here prints or asks: a command does, with what these functions return.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.config_faults import flag_of
from agent_mailer.confine.port import Kind
from agent_mailer.errors import MailerError, UsageFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent_mailer.assemble import Workplace


class Wishes(msgspec.Struct, frozen=True):
    """What is wanted beyond the configuration. `role`, `description` and `system_prompt` are a new agent's.

    `adapter` names one of `documents.ADAPTERS`; empty = the runtime's. `replace_protocol` None = not said; `sandbox`
    None = the first kind that holds; `first_mail` is offered to be sent when all is done.
    """

    from_login: bool = False
    role: str = ""
    description: str = ""
    system_prompt: str = ""
    adapter: str = ""
    replace_protocol: bool | None = None
    sandbox: Kind | None = None
    first_mail: str = ""


def mailbox_meant(place: Workplace, values: Mapping[str, object], wishes: Wishes) -> dict[str, object]:
    """What `values` say of the mailbox's kind counts before what the file says: the values that follow from that.

    Raises UsageFault where they say both, ConfigFault where nobody has logged in.
    """
    from agent_mailer.config import MailboxKind

    found: dict[str, object] = {}
    wants_broker = wishes.from_login or "broker_url" in values
    if wants_broker and "maildir_root" in values:
        raise UsageFault("two_mailboxes", "an agent's mail is in a folder or at a broker, not both", "give one of them")
    if wants_broker and place.config.mailbox is MailboxKind.MAILDIR:
        found["mailbox"] = MailboxKind.AMP.value
    if "maildir_root" in values and place.at_broker:
        found["mailbox"] = MailboxKind.MAILDIR.value
    if wishes.from_login and not place.config.broker_url:
        from agent_mailer.setup.logins import find_login

        found["broker_url"] = find_login(Path.home()).broker_url
    return found


@contextmanager
def before_it_is_there() -> Iterator[None]:
    """Where the folder is no workdir yet what goes wrong is told so: what `config` and `verify` would do, the same
    command does.
    """
    again = "the same command again"
    try:
        yield
    except MailerError as fault:
        fix = re.sub(
            r"agent-mailer config set ([a-z_]+) (\S+)",
            lambda found: f"{again}, with {flag_of(found[1])} {found[2]}",
            fault.fix,
        )
        fault.fix = re.sub(r"agent-mailer (?:verify|config show [a-z_]+)", f"then {again}", fix)
        raise


def missing(place: Workplace, wishes: Wishes) -> list[tuple[str, str]]:
    """What a person has to say yet, each with its flag: all that is missing, but for what the broker will say."""
    told = {"agent_id", "address"} if place.at_broker else set()
    if wishes.from_login:
        told.add("api_key")
    return [(key, flag) for key, flag in place.missing() if key not in told]
