"""`amp login`, `logout`, `whoami`: a person's login at a broker."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.errors import ConfigFault, MailerError, UsageFault
from agent_mailer.mailbox.amp.answers import RequestRefused
from agent_mailer.names import printable
from agent_mailer.setup.logins import Login

login_app, logout_app, whoami_app = single(), single(), single()

DEFAULT_BROKER = "http://localhost:9800"
MOST_PASSWORD = 4096

Broker = Annotated[str, typer.Argument(metavar="[BROKER]", help="The broker's URL.", show_default=False)]
BrokerUrl = Annotated[
    str,
    typer.Option(
        "--broker-url", "--broker", metavar="URL", help="The broker's URL; else $AMP_BROKER_URL.", show_default=False
    ),
]
Username = Annotated[
    str, typer.Option("--username", metavar="NAME", help="Your name there; else $AMP_USERNAME.", show_default=False)
]
Password = Annotated[
    str,
    typer.Option(
        "--password",
        metavar="WORD|-",
        help="Every user of the machine sees a password given here (ps): better $AMP_PASSWORD, or -, which reads it.",
        show_default=False,
    ),
]


@login_app.command("login", cls=FastCommand)
def login(
    broker: Broker = "",
    user: Annotated[str, typer.Argument(metavar="[USER]", help="Your name there.", show_default=False)] = "",
    broker_url: BrokerUrl = "",
    username: Username = "",
    password: Password = "",
) -> None:
    """Log in at a broker, and remember that in ~/.agent-mailer/credentials.json; `init` uses it, too.

    A login that is there is replaced: another name or password is another login.
    """
    made = log_in(broker or broker_url, user or username, password)
    say(f"logged in at {printable(made.broker_url, 200)} as {printable(made.username, 60)}")


@logout_app.command("logout", cls=FastCommand)
def logout(broker: Broker = "", broker_url: BrokerUrl = "") -> None:
    """End the login at a broker, there and here. Agents go on: each has a key of its own."""
    from agent_mailer.disk import Disk
    from agent_mailer.setup.logins import find_login, forget_login

    known, told = find_login(Path.home(), broker or broker_url), ""
    try:
        asyncio.run(_end(known))
    except (MailerError, RequestRefused) as fault:
        told = f"; the broker could not be told ({printable(fault.message, 200)})"
    forget_login(Path.home(), known, Disk())
    say(f"logged out at {printable(known.broker_url, 200)}{told}")


@whoami_app.command("whoami", cls=FastCommand)
def whoami(as_json: Json = False) -> None:
    """Each login that is kept, the default broker's first, and whether the broker still takes it."""
    from agent_mailer.setup.logins import all_logins

    logins = all_logins(Path.home())
    rows = [(known, asyncio.run(_standing(known))) for known in logins]
    if as_json:
        json_out([{"broker_url": one.broker_url, "username": one.username, "state": state} for one, state in rows])
        return
    if not rows:
        say("nobody is logged in: amp login BROKER USER")
    for known, state in rows:
        say(f"{printable(known.username, 60)} at {printable(known.broker_url, 200)}: {state}")


async def _end(known: Login, token: str = "") -> None:
    """At its broker. `token`: a later one of the same person's, which may count where its own does no longer."""
    from agent_mailer.mailbox.amp.account import AccountClient

    if known.key_id:
        async with AccountClient(known.broker_url, token or known.token) as account:
            await account.remove_key(known.key_id)
    async with AccountClient(known.broker_url, known.token) as account:
        await account.log_out()


async def _standing(known: Login) -> str:
    from agent_mailer.mailbox.amp.account import AccountClient
    from agent_mailer.mailbox.port import MailboxRefused

    try:
        async with AccountClient(known.broker_url, known.token) as account:
            await account.me()
    except MailboxRefused:
        return f"no longer logged in (amp login {printable(known.broker_url, 200)})"
    except (MailerError, RequestRefused) as fault:
        return f"cannot be asked: {printable(fault.message, 200)}"
    return "logged in"


def log_in(broker_url: str, username: str, password: str, *, team: str = "") -> Login:
    """By what was given, the environment, and what a person types; kept, as one of that `team` alone if that is named.

    Raises UsageFault, RefusedFault, …
    """
    from agent_mailer.cli.terminal.questions import a_url, ask
    from agent_mailer.disk import Disk
    from agent_mailer.mailbox.amp.account import AccountClient
    from agent_mailer.mailbox.amp.account import log_in as ask_broker
    from agent_mailer.mailbox.amp.client import at_broker
    from agent_mailer.setup.logins import find_login, keep_login

    asking = sys.stdin.isatty()
    url = broker_url or os.environ.get("AMP_BROKER_URL", "")
    if not url:
        url = str(ask("The broker's URL", DEFAULT_BROKER, a_url)) if asking else DEFAULT_BROKER
    try:
        a_url(url)
    except MailerError as fault:
        what = f"{printable(url, 100)!r} is no broker's address: {fault.message}"
        raise UsageFault("bad_url", what, "amp login http://HOST:PORT USER") from None
    name = username or os.environ.get("AMP_USERNAME", "") or (typer.prompt("Your name there") if asking else "")
    if not name:
        raise UsageFault("no_username", "there is nobody to log in", "amp login BROKER USER")
    secret = _password(password, asking=asking)
    before = None
    try:
        before = find_login(Path.home(), url)
    except ConfigFault as fault:
        if fault.code != "no_login":
            raise

    async def enter() -> Login:
        token = await ask_broker(url, name, secret)
        async with AccountClient(url, token) as account:
            key = await account.add_own_key(f"{name} at {platform.node() or 'a host'}")
        return Login(url.rstrip("/"), name, token, key.raw_key, key.id)

    with at_broker("amp login"):
        made = asyncio.run(enter())
    keep_login(Path.home(), made, Disk(), team)
    if before is not None and before.key_id:
        # Nobody has it any more. One without a key is another program's.
        with suppress(MailerError, RequestRefused):
            asyncio.run(_end(before, made.token if before.username == name else ""))
    return made


def _password(given: str, *, asking: bool) -> str:
    if given == "-" and not asking:
        return sys.stdin.buffer.readline(MOST_PASSWORD).decode("utf-8", "replace").rstrip("\r\n")
    if given not in ("", "-"):
        return given
    if (said := os.environ.get("AMP_PASSWORD", "")) and given != "-":
        return said
    if not asking:
        raise UsageFault("no_password", "there is no password", "give it as $AMP_PASSWORD, or --password -")
    typed: str = typer.prompt("Password", hide_input=True, err=True)
    return typed
