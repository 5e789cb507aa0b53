"""What `init` does once it knows what is wanted: the mailbox's kind, the broker, the documents, the configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from agent_mailer.cli.init.wizard import ask_what_is_missing, default_name, refusal
from agent_mailer.cli.options import workplace
from agent_mailer.cli.terminal.printing import note, say
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.setup.registering import Joined


class Wishes(msgspec.Struct, frozen=True):
    """What `init` does beyond the configuration. `ask`: there is a person to ask; `then_watch`: a watcher follows."""

    from_login: bool = False
    role: str = ""
    description: str = ""
    system_prompt: str = ""
    adapter: str = ""
    replace_protocol: bool | None = None
    ask: bool = False
    then_watch: bool = False
    gitignore: bool = True


def move_in(place: Workplace, values: dict[str, object], wishes: Wishes) -> None:
    """Ask for what `values` and the folder do not tell, where there is a person to ask, then do it all."""
    _choose_mailbox(place, values, wishes)
    place = workplace(place.workdir, values)
    if wishes.ask and _missing(place, wishes):
        values |= ask_what_is_missing(place)
        place = workplace(place.workdir, values)
    finish(place, values, wishes)


def _choose_mailbox(place: Workplace, values: dict[str, object], wishes: Wishes) -> None:
    """What the flags say of the mailbox's kind counts before what the file says."""
    from agent_mailer.config import MailboxKind

    at_broker = wishes.from_login or "broker_url" in values
    if at_broker and "maildir_root" in values:
        raise UsageFault("two_mailboxes", "an agent's mail is in a folder or at a broker, not both", "give one of them")
    if at_broker and place.config.mailbox is MailboxKind.MAILDIR:
        values["mailbox"] = MailboxKind.AMP.value
    if "maildir_root" in values and place.config.mailbox_kind is MailboxKind.AMP:
        values["mailbox"] = MailboxKind.MAILDIR.value
    if wishes.from_login and not place.config.broker_url:
        from agent_mailer.setup.found import find_login

        values["broker_url"] = find_login(Path.home()).broker_url


def _missing(place: Workplace, wishes: Wishes) -> list[tuple[str, str]]:
    """What is to be asked for: all that is missing, but for what the broker will say."""
    told = {"agent_id", "address"} if _at_broker(place) else set()
    if wishes.from_login:
        told.add("api_key")
    return [(key, flag) for key, flag in place.missing() if key not in told]


def _at_broker(place: Workplace) -> bool:
    from agent_mailer.config import MailboxKind

    return place.config.mailbox_kind is MailboxKind.AMP


def finish(
    place: Workplace, values: dict[str, object], wishes: Wishes, flags: Mapping[str, object] | None = None
) -> None:
    """Register where that is due, then write: documents first, the configuration last.

    `values` are to be written; `flags` count besides.
    """
    if _at_broker(place) and _needs_joining(place, values, wishes):
        joined = _join(place, wishes)
        values |= _of(joined)
        place = workplace(place.workdir, {**(flags or {}), **values})
        say(f"{'registered' if joined.registered else 'found     '} {printable(joined.me.address)} at {_shown(place)}")
        identity = joined.identity
    else:
        place.require_complete()
        identity = ""
    from agent_mailer.setup.workdir import set_up
    from agent_mailer.state.workdirs import remember

    done = set_up(place, values, gitignore=wishes.gitignore, documents=lambda: _documents(place, identity, wishes))
    remember(place.workdir)
    for line in done.lines:
        say(line)
    fault = refusal(place, {})
    if fault is not None:
        note(f"\nwarning: {fault.message}\n  mend: {fault.fix}")
    here = [] if place.workdir == _cwd() else ["-C", str(place.workdir)]
    say("\nNext, in another terminal:" if wishes.then_watch else "\nNext:")
    if not wishes.then_watch:
        say("  " + shlex.join(["agent-mailer", "watch", *here]))
    words = ["agent-mailer", "send", *here, "--to", place.handle, "--subject", "Hello", "--body", "Who are you?"]
    say("  " + shlex.join([*words, "--wait", "60"]) + ("\n" if wishes.then_watch else ""))


def _needs_joining(place: Workplace, values: dict[str, object], wishes: Wishes) -> bool:
    """Nobody is asked about an agent whose file is whole, so that the rest can be changed while the broker is down."""
    config = place.config
    named = {"broker_url", "api_key", "agent_id", "address", "agent_name"} & set(values)
    return bool(named) or wishes.from_login or not (config.agent_id and config.address and config.api_key)


def _join(place: Workplace, wishes: Wishes) -> Joined:
    from agent_mailer.setup.found import find_login
    from agent_mailer.setup.registering import Wish, join_with_key, join_with_login

    config = place.config
    if place.folder.path.exists():
        place.folder.check()
    by_login = wishes.from_login or (wishes.ask and not config.api_key)
    lacking = [(key, flag) for key, flag in _missing(place, wishes) if not (by_login and key == "api_key")]
    if lacking:
        named = ", ".join(f"{key} ({flag})" for key, flag in lacking)
        raise ConfigFault("incomplete", f"{place.folder.config}: missing {named}", "give the flags, or use a terminal")
    wish = Wish(
        agent_id=config.agent_id,
        address=config.address,
        name=config.agent_name,
        fallback=default_name(place.workdir),
        role=wishes.role,
        description=wishes.description,
        system_prompt=wishes.system_prompt,
    )
    if by_login:
        return join_with_login(find_login(Path.home(), config.broker_url), config.api_key, wish)
    return join_with_key(config.broker_url, config.api_key, wish)


def _of(joined: Joined) -> dict[str, object]:
    me = joined.me
    found: dict[str, object] = {
        "broker_url": me.broker_url,
        "api_key": joined.api_key,
        "agent_id": me.agent_id,
        "address": me.address,
    }
    return found | ({"agent_name": me.name} if me.name else {})


def _documents(place: Workplace, from_broker: str, wishes: Wishes) -> list[str]:
    """Write the agent's documents; returns lines that say what became of each."""
    from agent_mailer.setup import documents as files
    from agent_mailer.setup.documents import ADAPTERS, Adapter, Self

    config, workdir = place.config, place.workdir
    wanted = _at_broker(place) or bool(wishes.adapter)
    kind = wishes.adapter or (config.runtime.value if config.runtime is not None else "")
    adapter: Adapter | None = ADAPTERS.get(kind)
    identity = adapter.identity if adapter is not None else "AGENT.md"
    me = Self(
        name=config.agent_name or place.handle,
        address=place.handle,
        agent_id=config.agent_id,
        broker_url=config.broker_url,
        role=wishes.role,
        system_prompt=wishes.system_prompt,
    )
    if wanted:
        files.plan_identity(workdir, identity, me, from_broker)  # refuses a stranger's before anything is written
    ask_person = (lambda question: typer.confirm(question, default=True)) if wishes.ask else None
    changes = files.plan_replacements(workdir)
    lines = files.offer_replacements(changes, place.disk, wanted=wishes.replace_protocol, ask=ask_person)
    if not wanted:
        return lines
    change = files.plan_identity(workdir, identity, me, from_broker)
    lines += [files.write(change, place.disk)] if change is not None else []
    leading = files.plan_adapter(workdir, adapter) if adapter is not None else None
    return lines + ([files.write(leading, place.disk)] if leading is not None else [])


def _shown(place: Workplace) -> str:
    """The broker's URL without what may be a password in it."""
    from urllib.parse import urlsplit

    parts = urlsplit(place.config.broker_url)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", 100)


def _cwd() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None
