"""The logins that `amp login` keeps for a person, in `~/.agent-mailer/credentials.json`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable

LARGEST = 1024 * 1024


class Login(msgspec.Struct, frozen=True):
    """A person at one broker. The token is a secret."""

    broker_url: str
    username: str
    token: str

    def __repr__(self) -> str:
        return f"Login({self.username!r} at {self.broker_url!r})"


class _Entry(msgspec.Struct):
    token: str
    username: str = ""


class _File(msgspec.Struct):
    credentials: dict[str, _Entry] = {}
    default_broker_url: str = ""


def credentials_file(home: Path) -> Path:
    return home / ".agent-mailer" / "credentials.json"


def find_login(home: Path, broker_url: str = "") -> Login:
    """The login at `broker_url`, else at the default broker, else the only one. Raises ConfigFault."""
    path = credentials_file(home)
    fix = f"amp login {broker_url or 'BROKER-URL'}"
    try:
        found = msgspec.json.decode(read_regular(path, LARGEST, follow=True), type=_File)
    except FileNotFoundError:
        raise ConfigFault("no_login", f"{path} does not exist: nobody has logged in", fix) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigFault("bad_login", f"{path} holds no logins: {error}", fix) from None
    except OSError as error:
        raise ConfigFault("bad_login", f"{path} cannot be read: {error.strerror}", f"ls -l {path}") from None
    logins = {url.rstrip("/"): entry for url, entry in found.credentials.items() if entry.token}
    wanted = (broker_url or found.default_broker_url).rstrip("/")
    if not wanted and len(logins) == 1:
        wanted = next(iter(logins))
    entry = logins.get(wanted)
    if entry is None:
        known = ", ".join(printable(url, 100) for url in logins) or "none"
        named = f"no login at {printable(wanted, 100)}" if wanted else "no default broker"
        raise ConfigFault("no_login", f"{path} has {named}; logins are kept at: {known}", fix)
    return Login(wanted, entry.username, entry.token)
