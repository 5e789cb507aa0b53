"""`broker simulate`: how much a broker carries here, by a fleet that works as watchers do."""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.cli.broker.database import require_extra
from agent_mailer.cli.broker.upkeep import size
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import MailerError, UsageFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_mailer.checks.fleet import Broker, Carried

START_SECONDS = 60.0
END_SECONDS = 15.0
LOOK_EVERY = 0.05
BEATS = 30.0
"""Seconds in which each stream has said twice that it is there: in fewer its share of a core cannot be told."""
MACHINES = (10, 100)
"""For which it is reckoned."""
KEY = "AGENT_MAILER_API_KEY"
_URL = re.compile(r"a broker at (http://\S+)")
_INVITE = re.compile(r"--invite (\w+)")

app = single()


class _Added(msgspec.Struct):
    """What `broker user add --json` prints."""

    api_key: str


@app.command("simulate", cls=FastCommand)
def simulate(
    agents: Annotated[int, typer.Option(min=2, max=10_000, help="How many listen at the end.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Of each of three parts: idle, paced, full.")] = 5.0,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="URL", help=f"A broker that runs, by the key in {KEY}.", show_default=False),
    ] = None,
    fill: Annotated[
        bool, typer.Option("--fill", help="With --at: yes, leave simulated agents and mail in what that broker keeps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what a broker carries here, with few agents and with many, and what each more costs.

    Without --at by a broker of its own over a scratch folder, which goes again. Each agent listens, claims and settles
    as a watcher does, without turns. The fleet takes a processor itself: what is told is what both carry together.
    """
    require_extra()
    from agent_mailer.errors import ConfigFault

    if at is None:
        if fill:
            raise UsageFault("no_broker", "--fill is for a broker that runs", "--at URL")
        with _own_broker() as broker:
            found = _measured(broker, agents, seconds)
    else:
        if not fill:
            words = "agents and mail would be left in what that broker keeps, and nobody else's work would be quick"
            raise UsageFault("others_data", words, "leave out --at for a broker of its own; or say --fill")
        if not os.environ.get(KEY):
            raise ConfigFault(
                "no_key", f"a broker that runs is asked by a key, and {KEY} is not set", f"export {KEY}=amk_…"
            )
        from agent_mailer.checks.fleet import Broker

        found = _measured(Broker(at, os.environ[KEY]), agents, seconds)
    if as_json:
        json_out({"processors": os.cpu_count(), "measured": found})
    else:
        _say(found, seconds)


def _measured(broker: Broker, agents: int, seconds: float) -> list[Carried]:
    import asyncio

    from agent_mailer.checks.fleet import measure
    from agent_mailer.mailbox.amp.client import at_broker

    _more_descriptors()
    with at_broker():
        return asyncio.run(measure(broker, sorted({max(1, agents // 10), agents}), seconds, note))


def _say(found: Sequence[Carried], seconds: float) -> None:
    head = ("AGENTS", "CONNECTIONS", "IDLE", "MEMORY", "P50", "P99", "SENT/S", "SETTLED/S", "CPU A MESSAGE")
    say(columns([_row(one) for one in found], head))
    say(f"\nof one of {os.cpu_count()} processors, which the fleet shares; a message: sent, told, claimed and settled")
    for one in found:
        if one.lost:
            note(f"with {one.agents} agents {one.lost} messages were not settled in time")
    from agent_mailer.checks.fleet import reckon

    few, many = found[0], found[-1]
    for machines in MACHINES:
        by = reckon(few, many, machines * many.agents)
        if by is None:
            return
        idle = f" {by.idle:.1%} of a core while nothing comes," if seconds >= BEATS else ""
        say(
            f"{machines} machines with {many.agents} agents each: {by.connections} connections, {size(by.memory)},"
            f"{idle} {by.a_minute:.1f} messages a minute for each agent"
        )
    if seconds < BEATS:
        note(f"what idle streams take is seen in {BEATS:.0f} seconds and more: --seconds {BEATS:.0f}")


def _row(one: Carried) -> tuple[str, ...]:
    of = one.process
    seen = ("?", "?", "?") if of is None else (str(of.connections), f"{of.idle:.1%}", size(of.memory))
    cost = "?" if of is None else f"{of.cost * 1e3:.2f} ms"
    waits = (f"{one.p50 * 1e3:.0f} ms", f"{one.p99 * 1e3:.0f} ms")
    return (str(one.agents), *seen, *waits, f"{one.sends:.0f}", f"{one.settled:.0f}", cost)


@contextmanager
def _own_broker() -> Iterator[Broker]:
    """Over a folder that is removed. Raises MailerError where it does not start."""
    from agent_mailer.checks.fleet import Broker
    from agent_mailer.process.commands import run_command, start_command

    env = surroundings(os.environ)
    program = [sys.executable, "-m", "agent_mailer.cli.app"] if not _beside().is_file() else [str(_beside())]
    with tempfile.TemporaryDirectory(prefix="agent-mailer-simulate-") as name:
        folder = Path(name)
        data = ("--data", str(folder / "data"))
        argv = [*program, "broker", "serve", "--port", "0", *data, "--domain", "simulated.localhost"]
        running = start_command(argv, env=env, cwd=folder, output=folder / "said")
        try:
            said = _first_words(folder / "said", running.status)
            invite, url = _INVITE.search(said), _URL.search(said)
            if invite is None or url is None:
                raise MailerError("not_started", f"the broker says something unknown: {said.strip()}")
            words = [*program, "broker", "user", "add", "simulated", "--invite", invite[1], *data, "--json"]
            secret: Mapping[str, str] = {**env, "AGENT_MAILER_PASSWORD": secrets.token_hex(16)}
            added = run_command(words, env=secret, cwd=folder)
            key = msgspec.json.decode(added.output, type=_Added).api_key
            yield Broker(url[1], key, running.pid)
        finally:
            running.stop(END_SECONDS)


def surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what is about another broker: its database, its secret."""
    return {name: value for name, value in environ.items() if not name.startswith(("AGENT_MAILER_", "DATABASE_URL"))}


def _beside() -> Path:
    return Path(sys.executable).parent / "agent-mailer"


def _first_words(path: Path, status: Callable[[], object]) -> str:
    end = time.monotonic() + START_SECONDS
    while "Ctrl-C" not in (said := path.read_text("utf-8", "replace")):
        if status() is not None or time.monotonic() > end:
            raise MailerError("not_started", f"the broker did not start: {said.strip()}")
        time.sleep(LOOK_EVERY)
    return said


def _more_descriptors() -> None:
    """Each agent has a connection or two."""
    import resource

    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
