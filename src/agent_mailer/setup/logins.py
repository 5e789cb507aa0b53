"""A person's logins at brokers: `~/.agent-mailer/credentials.json`, which other AMP launchers share."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, quoted, words_of
from agent_mailer.names import printable

LARGEST_LOGINS = 1024 * 1024


class Login(msgspec.Struct, frozen=True):
    """A person at one broker. The token is a secret, and so is `api_key`, by which that person's mail is sent and read;
    empty where another program has logged them in.
    """

    broker_url: str
    username: str
    token: str
    api_key: str = ""
    key_id: str = ""

    def __repr__(self) -> str:
        return f"Login({self.username!r} at {self.broker_url!r})"


class _Entry(msgspec.Struct, omit_defaults=True):
    token: str
    username: str = ""
    api_key: str = ""
    key_id: str = ""
    team: str = ""
    """The folder of the team whose own broker it is; then it counts only where that broker is named."""

    def at(self, url: str) -> Login:
        return Login(url, self.username, self.token, self.api_key, self.key_id)


class _File(msgspec.Struct):
    credentials: dict[str, _Entry] = {}
    default_broker_url: str = ""

    def logins(self) -> dict[str, _Entry]:
        """By broker, without what has been logged out."""
        return {url.rstrip("/"): entry for url, entry in self.credentials.items() if entry.token}


def credentials_file(home: Path) -> Path:
    return home / ".agent-mailer" / "credentials.json"


def find_login(home: Path, broker_url: str = "") -> Login:
    """The login at `broker_url`, else at the default broker, else the only one. Raises ConfigFault."""
    path = credentials_file(home)
    fix = f"amp login {broker_url or 'BROKER-URL'}"
    found = _read(path, fix)
    if found is None:
        raise ConfigFault("no_login", f"{path} does not exist: nobody has logged in", fix)
    logins = found.logins()
    wanted = (broker_url or found.default_broker_url).rstrip("/")
    if not wanted and len(open_to_all := [url for url, entry in logins.items() if not entry.team]) == 1:
        wanted = open_to_all[0]
    entry = logins.get(wanted)
    if entry is None:
        known = ", ".join(printable(url, 100) for url in logins) or "none"
        named = f"no login at {printable(wanted, 100)}" if wanted else "no default broker"
        raise ConfigFault("no_login", f"{path} has {named}; logins are kept at: {known}", fix)
    return entry.at(wanted)


def all_logins(home: Path) -> list[Login]:
    """The login at the default broker first; none at a broker of a team's own.

    Raises ConfigFault for a file that holds none.
    """
    found = _read(credentials_file(home), "amp login BROKER-URL") or _File()
    default = found.default_broker_url.rstrip("/")
    logins = [entry.at(url) for url, entry in found.logins().items() if not entry.team]
    return sorted(logins, key=lambda login: login.broker_url != default)


def keep_login(home: Path, login: Login, disk: Disk, team: str = "") -> None:
    """Remember it, and its broker as the default if it is not that of one `team`; what else is in the file stays.

    Raises ConfigFault, OSError.
    """
    path = credentials_file(home)
    shape = _shape(path)
    url = login.broker_url.rstrip("/")
    entries = {known: entry for known, entry in _entries(shape).items() if known.rstrip("/") != url}
    entries[url] = _raw(_Entry(login.token, login.username, login.api_key, login.key_id, team))
    default = {} if team else {"default_broker_url": _raw(url)}
    _write(path, {**shape, "credentials": _raw(entries), **default}, disk)


def forget_login(home: Path, login: Login, disk: Disk) -> None:
    """Its broker is the default one no longer. Raises ConfigFault, OSError."""
    path = credentials_file(home)
    shape = _shape(path)
    entries = {known: entry for known, entry in _entries(shape).items() if known.rstrip("/") != login.broker_url}
    default = msgspec.json.decode(shape.get("default_broker_url", msgspec.Raw(b'""')), type=str)
    if default.rstrip("/") == login.broker_url:
        left = {url: msgspec.json.decode(entry, type=_Entry) for url, entry in entries.items()}
        default = next((url for url, entry in left.items() if not entry.team), "")
    _write(path, {**shape, "credentials": _raw(entries), "default_broker_url": _raw(default)}, disk)


def _read(path: Path, fix: str) -> _File | None:
    """None where there is no file."""
    try:
        return msgspec.json.decode(read_regular(path, LARGEST_LOGINS, follow=True), type=_File)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigFault(
            "bad_login",
            f"{path} holds no logins: {words_of(error)}",
            f"mv {quoted(path)} {quoted(path)}.damaged, then {fix}",
        ) from None
    except OSError as error:
        raise ConfigFault("bad_login", f"{path} cannot be read: {error.strerror}", f"ls -l {quoted(path)}") from None


def _shape(path: Path) -> dict[str, msgspec.Raw]:
    """The file's fields, also those that others keep there. Raises ConfigFault for a file that is damaged."""
    if _read(path, "amp login BROKER-URL") is None:
        return {}
    return msgspec.json.decode(read_regular(path, LARGEST_LOGINS, follow=True), type=dict[str, msgspec.Raw])


def _entries(shape: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(shape.get("credentials", msgspec.Raw(b"{}")), type=dict[str, msgspec.Raw])


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _write(path: Path, shape: dict[str, msgspec.Raw], disk: Disk) -> None:
    disk.make_directory(path.parent, sync=Sync.FULL)
    disk.replace(path, msgspec.json.format(msgspec.json.encode(shape)) + b"\n", sync=Sync.FULL)
