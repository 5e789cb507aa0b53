"""A broker of the team's own (`--broker embedded`): data in the team's folder, begun and ended with the team.

Who it is, is asked of the lock of its data, never remembered. Its port is chosen once, and kept.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import secrets
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, MailerError, UnavailableFault, quoted
from agent_mailer.names import printable
from agent_mailer.process.commands import CommandApart, run_command, start_apart
from agent_mailer.process.handle import identify, send, wait_gone
from agent_mailer.service.install import own_program

EMBEDDED = "embedded"
"""What `broker_url` in `team.yaml` is then."""

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
LOOK_EVERY = 0.02
_FOLDER, _PERSON, _PORT = "broker", "person.json", "port"


class Person(msgspec.Struct, frozen=True):
    """Its only user. The password is a secret."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Person({self.username!r})"


class Standing(msgspec.Struct, frozen=True):
    """A broker that runs."""

    url: str
    pid: int


Look = Callable[[Path], Standing | None]
"""Asks the lock of the data in a team's folder who serves it; None = nobody."""


def folder_of(directory: Path) -> Path:
    """Its data."""
    return directory / _FOLDER


def url_of(directory: Path) -> str:
    """Where it answers while it runs; `embedded` before it has ever run."""
    port = _port(directory)
    return f"http://127.0.0.1:{port}" if port else EMBEDDED


def begin(directory: Path, disk: Disk, look: Look) -> Standing:
    """The running broker, started where it does not run. Raises MailerError with its last words, ConfigFault."""
    found = look(directory)
    if found is None:
        disk.make_directory(folder_of(directory), sync=Sync.FULL)
        words = _broker(directory, "serve", "--port", str(_port(directory)))
        errors = directory / "logs" / "broker.err"
        disk.make_directory(errors.parent)
        disk.replace(errors, b"", sync=Sync.NONE)
        command = start_apart(words, env=_environment(), cwd=directory, errors=errors)
        found = _until_it_serves(directory, command, errors, look)
    # Also of one whose beginner has ended before this: its agents are to find it there the next time.
    if not _port(directory):
        disk.replace(folder_of(directory) / _PORT, found.url.rpartition(":")[2].encode() + b"\n", sync=Sync.FULL)
    return found


def end(found: Standing | None) -> bool:
    """End it with a word; False where it did not run. Raises UnavailableFault where it does not end."""
    process = identify(found.pid) if found is not None else None
    if found is None or process is None:
        return False
    send(process, signal.SIGTERM)
    if not asyncio.run(wait_gone([process], STOP_SECONDS)):
        raise UnavailableFault("not_stopped", f"the broker (pid {found.pid}) does not end", f"kill -9 {found.pid}")
    return True


def person_of(directory: Path, disk: Disk) -> Person:
    """Who its user is; chosen where nobody has been. Whether the broker knows is for `require_user`.

    Raises ConfigFault.
    """
    path = folder_of(directory) / _PERSON
    if path.exists():
        try:
            return msgspec.json.decode(read_regular(path), type=Person)
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError):
            fix = f"agent-mailer broker user list --data {shlex.quote(str(folder_of(directory)))}, and write it anew"
            raise ConfigFault("bad_person", f"{path} does not say who its user is", fix) from None
    name = re.sub(r"[^a-z0-9-]", "-", _who().lower())[:30].strip("-")
    person = Person(name if len(name) >= 3 else f"user-{name}".strip("-"), secrets.token_urlsafe(24))
    disk.replace(path, msgspec.json.encode(person) + b"\n", sync=Sync.FULL)
    path.chmod(0o600)
    return person


def require_user(directory: Path, person: Person) -> None:
    """The broker has this user, with this password, whatever was broken off before. Raises MailerError."""
    said = []
    for verb in ("add", "password"):
        words = _broker(directory, "user", verb, person.username)
        done = run_command(words, env={**_environment(), "AGENT_MAILER_PASSWORD": person.password}, cwd=directory)
        if not done.status:
            return
        said.append(printable(done.output, 400))
    look = _broker(directory, "user", "list")
    raise MailerError("no_user", f"its broker takes no user: {'; '.join(said)}", shlex.join(look))


def _until_it_serves(directory: Path, command: CommandApart, errors: Path, look: Look) -> Standing:
    until = time.monotonic() + READY_SECONDS
    while True:
        found = look(directory)
        if found is not None and _listens(found.url):
            return found
        if command.status() is not None:
            said = errors.read_text("utf-8", "replace").strip().splitlines()
            words = printable(" ".join(said[-3:]), 400) or "it said nothing"
            fix = f"end what has its port; or rm {shlex.quote(str(folder_of(directory) / _PORT))}, and: amp up"
            raise MailerError("no_broker", f"the team's broker ended: {words}", fix)
        if time.monotonic() > until:
            raise UnavailableFault("no_broker", "the team's broker does not answer", f"cat {quoted(errors)}")
        time.sleep(LOOK_EVERY)


def _listens(url: str) -> bool:
    """Whether it answers, not only holds its data."""
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    with suppress(URLError, OSError), build_opener(ProxyHandler({})).open(f"{url}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _port(directory: Path) -> int:
    """0 = it has none yet."""
    with suppress(OSError, ValueError):
        number = int(read_regular(folder_of(directory) / _PORT, 16))
        return number if 0 < number < 65536 else 0
    return 0


def _who() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "user"


def _broker(directory: Path, *words: str) -> tuple[str, ...]:
    """A command about its data. Raises ConfigFault."""
    program = own_program(os.environ.get("PATH", os.defpath))
    return (str(program), "broker", *words, "--data", str(folder_of(directory)))


def _environment() -> Mapping[str, str]:
    """Without what is about another broker: its database, its domain, its secret."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_MAILER_")}
    own.pop("DATABASE_URL", None)
    return own
