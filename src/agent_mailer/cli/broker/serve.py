"""`broker serve`: the broker as a process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli import stays
from agent_mailer.cli.broker.database import DatabaseUrl, DataFolder, data_of
from agent_mailer.cli.options import MOST_KEPT_DAYS
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import note, say
from agent_mailer.cli.terminal.streams import unhurried
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.broker.data import Data

DEFAULT_DOMAIN = "amp.localhost"

app = single()


@app.command("serve", cls=FastCommand)
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; elsewhere than on loopback only with a secret.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9800,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    domain: Annotated[str | None, typer.Option(help="The end of every address.", show_default=DEFAULT_DOMAIN)] = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option("--host-name", help="A name under which clients ask for this broker, as a proxy passes it on."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option("--trusted-proxy", help="An address or network of a proxy, whose X-Forwarded-For counts."),
    ] = None,
    streams_per_key: Annotated[int, typer.Option(min=1, help="Watchers that may listen with one key.")] = 4096,
    streams_per_host: Annotated[int, typer.Option(min=1, help="Watchers that may listen from one address.")] = 4096,
    request_seconds: Annotated[
        float, typer.Option(min=1, help="A connection over which no whole request comes for so long is ended.")
    ] = 120,
    messages_per_day: Annotated[
        int, typer.Option(min=0, help="Messages that a user may send in a day (UTC); 0: any number.")
    ] = 0,
    bytes_per_day: Annotated[int, typer.Option(min=0, help="Bytes of bodies that a user may send in a day.")] = 0,
    keep_days: Annotated[
        int,
        typer.Option(min=0, max=MOST_KEPT_DAYS, help="Read mail and uploads that are older are deleted; 0: none."),
    ] = 0,
    keep_audit_days: Annotated[
        int,
        typer.Option(min=0, max=MOST_KEPT_DAYS, help="Entries of `broker audit` that are older are deleted; 0: none."),
    ] = 0,
    keep_bytes: Annotated[
        int, typer.Option(min=0, help="Of all bodies; beyond it the oldest that was read goes; 0: any number.")
    ] = 0,
    published_on_loopback: Annotated[
        bool,
        typer.Option("--published-on-loopback", help="Only this machine reaches HOST: the port of a container."),
    ] = False,
    file_bytes: Annotated[int, typer.Option(min=0, help="Bytes that a user's stored files may come to.")] = 0,
    max_body_bytes: Annotated[int, typer.Option(min=1024, help="Bytes that the body of a message may have.")] = (
        1_048_576
    ),
    max_file_bytes: Annotated[int, typer.Option(min=1024, help="Bytes that one file may have.")] = 10_485_760,
    login_attempts: Annotated[
        int, typer.Option(min=1, help="Wrong passwords for a user, and from an address, in five minutes.")
    ] = 10,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request, on stderr.")] = False,
    log_format: Annotated[
        str, typer.Option(metavar="text|json", help="How lines on stderr are written: for people, or for programs.")
    ] = "text",
) -> None:
    """Run the broker until Ctrl-C.

    The environment counts where an option is not given: AGENT_MAILER_DATABASE_URL, AGENT_MAILER_DOMAIN,
    AGENT_MAILER_UPLOAD_DIR, AGENT_MAILER_HOST_NAMES and AGENT_MAILER_TRUSTED_PROXIES (with commas); and
    AGENT_MAILER_SECRET_KEY, which signs the tokens of people, and AGENT_MAILER_METRICS_TOKEN, which opens /metrics from
    elsewhere.
    """
    data = data_of(folder, database)
    stays()
    unhurried()
    from agent_mailer.broker.data import (
        Keep,
        Quota,
        Settings,
        held,
        hosts_of,
        is_loopback,
        is_weak,
        make_folders,
        proxies_of,
        secret_of,
    )
    from agent_mailer.broker.logs import Form
    from agent_mailer.broker.serving import bind, inherited, run, url_of

    if log_format not in tuple(Form):
        raise UsageFault(
            "bad_format", f"there is no log format {printable(log_format)!r}", "--log-format text, or json"
        )

    os.umask(0o077)
    proxies = proxies_of(trusted_proxy or _listed("AGENT_MAILER_TRUSTED_PROXIES"))
    with inherited(os.environ) or bind(host, port) as bound:
        url, listens_at = url_of(bound), "localhost" if published_on_loopback else bound.getsockname()[0]
        hosts = hosts_of(host if is_loopback(host) else listens_at, host_name or _listed("AGENT_MAILER_HOST_NAMES"))
        make_folders(data)
        secret = secret_of(data, listens_at, os.environ)
        if is_weak(secret):
            note("AGENT_MAILER_SECRET_KEY is short: whoever guesses it on this machine logs in as anybody")
        with held(data, url):
            from sqlalchemy.exc import SQLAlchemyError

            from agent_mailer.broker.app import create_app
            from agent_mailer.broker.migrate import database_fault
            from agent_mailer.console.mounting import mount

            ends_with = domain or os.environ.get("AGENT_MAILER_DOMAIN") or DEFAULT_DOMAIN
            settings = Settings(
                data.database,
                data.uploads,
                secret,
                ends_with,
                hosts=hosts,
                metrics_token=os.environ.get("AGENT_MAILER_METRICS_TOKEN", ""),
                streams_per_key=streams_per_key,
                streams_per_host=streams_per_host,
                request_seconds=request_seconds,
                max_body_bytes=max_body_bytes,
                max_file_bytes=max_file_bytes,
                login_attempts=f"{login_attempts}/5 minutes",
                keep=Keep(days=keep_days, bytes=keep_bytes, audit_days=keep_audit_days),
                quota=Quota(messages_per_day=messages_per_day, bytes_per_day=bytes_per_day, file_bytes=file_bytes),
            )
            app = create_app(settings)
            mount(app)
            try:
                run(
                    app,
                    bound,
                    lambda invite: _greet(data, url, invite),
                    log_form=Form(log_format),
                    access_log=access_log,
                    request_seconds=request_seconds,
                    proxies=proxies,
                )
            except SQLAlchemyError as error:
                raise database_fault(data.database, error) from None


def _listed(variable: str) -> list[str]:
    return [word.strip() for word in os.environ.get(variable, "").split(",") if word.strip()]


def _greet(data: Data, url: str, invite: str | None) -> None:
    """`invite`: the code of the first user, while there is none."""
    from agent_mailer import __version__
    from agent_mailer.broker.documents import steps

    say(f"agent-mailer {__version__}: a broker at {url}")
    say(f"data: {data.folder if data.file is None else data.file.parent}")
    if invite is not None:
        say(
            f"\nNobody is registered yet. The invite code of the first user is {invite}\n\nNext, in another terminal:\n"
        )
        for step in steps(url, invite=invite, data=data.options):
            say(f"  {step.command}\n      {step.does}")
        say()
    say("Ctrl-C stops it.")
    if os.environ.get("NOTIFY_SOCKET"):
        from agent_mailer.service.notify import take_notifier

        manager = take_notifier(os.environ)
        if manager is not None:
            manager.ready(f"at {url}")
    sys.stdout.flush()
