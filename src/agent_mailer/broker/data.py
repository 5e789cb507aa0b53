"""What a broker is told at its start; where its data lies, who holds it, and the secret of its tokens."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from agent_mailer import __version__
from agent_mailer.errors import BusyFault, ConfigFault, put_aside, quoted
from agent_mailer.installed import command_for

SHORTEST_SECRET = 32
DEFAULT_URL = "http://127.0.0.1:9800"
LOCK_SECONDS = 1.0
_POSTGRES = "postgresql+psycopg"
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_GIVE_ONE = (
    """export AGENT_MAILER_SECRET_KEY="$(openssl rand -hex 32)", and keep it: with another all must log in anew"""
)


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What one user may take; 0: as much as there is. Days are those of UTC, sizes bytes."""

    messages_per_day: int = 0
    bytes_per_day: int = 0
    """Of bodies."""
    file_bytes: int = 0
    """Of all files that are stored."""


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """`days`: of what was read, and of uploads; `bytes`: of all bodies together; `audit_days`: of who did what. 0: for
    ever, and any number.
    """

    days: int = 0
    bytes: int = 0
    audit_days: int = 0


class Settings(msgspec.Struct, frozen=True):
    """`database` is an SQLAlchemy URL; `uploads` a folder; sizes are bytes, durations seconds."""

    database: str
    uploads: Path
    secret: str
    domain: str = "amp.localhost"
    max_body_bytes: int = 1_048_576
    """Of one message's body; a request may be a little larger than twice this."""
    max_file_bytes: int = 10 * 1_048_576
    token_seconds: int = 30 * 86400
    cookie_seconds: int = 86400
    heartbeat_seconds: float = 15.0
    claim_seconds: float = 86400.0
    """How long a claim keeps a message from other watchers."""
    login_attempts: str = "10/5 minutes"
    """Wrong passwords that a user name, and an address, may give before it has to wait."""
    streams_per_key: int = 4096
    streams_per_host: int = 4096
    quota: Quota = Quota()
    request_seconds: float = 120.0
    """Within which a request has to come whole."""
    keep: Keep = Keep()
    metrics_token: str = ""
    """What opens the numbers from elsewhere than this machine."""
    hosts: frozenset[str] = frozenset()
    """The names that a request may ask for in `Host`; empty: any. Numbers always."""


class Data(msgspec.Struct, frozen=True):
    """`database`: an SQLAlchemy URL with its driver; `file`: where that is an SQLite file; `options`: the command
    line that leads here again, empty for the usual place."""

    folder: Path
    database: str
    file: Path | None
    uploads: Path
    options: str


class Serving(msgspec.Struct, frozen=True):
    """Who holds a database, as the lock file says it."""

    pid: int
    version: str
    url: str


def find_data(folder: Path | None, database: str | None, environment: Mapping[str, str]) -> Data:
    """Flags count before the environment, and that before the user's data folder. Makes nothing. Raises ConfigFault."""
    given = database or environment.get("AGENT_MAILER_DATABASE_URL") or environment.get("DATABASE_URL") or ""
    url = driver_url(given) if given else ""
    file = _sqlite_file(url)
    if folder is not None:
        home = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100
    else:
        home = _usual_folder() if file is None else file.parent
    url = url or f"sqlite:///{home / 'broker.db'}"
    uploads = environment.get("AGENT_MAILER_UPLOAD_DIR")
    options = [f"--data {shlex.quote(str(home))}"] if folder is not None else []
    # What may hold a password is not repeated.
    options += ["--database URL"] if database else []
    return Data(
        home,
        url,
        _sqlite_file(url),
        Path(os.path.abspath(uploads)) if uploads else home / "uploads",  # noqa: PTH100
        " ".join(options),
    )


def _usual_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("agent-mailer") / "broker"


def driver_url(url: str) -> str:
    """An SQLAlchemy URL with the driver that there is. Raises ConfigFault."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    example = "sqlite:////var/lib/agent-mailer/broker.db"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigFault("bad_database_url", "the database URL cannot be read", f"give one like {example}") from None
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise ConfigFault("bad_database_url", "the database URL names no file", f"give one like {example}")
        path = os.path.abspath(parsed.database)  # noqa: PTH100
        return f"sqlite:///{path}"
    if parsed.drivername not in ("postgres", "postgresql", _POSTGRES):
        raise ConfigFault(
            "bad_database_url",
            f"the database URL asks for {parsed.drivername}; there is SQLite, and PostgreSQL",
            f"give one like {example} or postgresql://amp@localhost/amp",
        )
    parsed = parsed.set(drivername=_POSTGRES)
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        raise ConfigFault(
            "no_driver",
            f"for PostgreSQL packages are needed that are not installed ({error})",
            command_for("broker", "postgres"),
        ) from None
    return parsed.render_as_string(hide_password=False)


def _sqlite_file(url: str) -> Path | None:
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else None


def make_folders(data: Data) -> None:
    """The folders, 0700, and an empty database file, 0600, where they are missing. Raises ConfigFault."""
    _make([data.folder, data.uploads])
    make_database(data)


def make_database(data: Data) -> None:
    """The database file alone. Raises ConfigFault."""
    if data.file is not None:
        _make([data.file.parent])
        # SQLite gives the files that it puts beside the database the database's own mode.
        try:
            os.close(os.open(data.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigFault(
                "no_database", f"{data.file} cannot be opened: {error.strerror}", "give another folder with --data DIR"
            ) from None


def _make(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir():
            continue
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise _no_folder(folder, error) from None


def _no_folder(folder: Path, error: OSError) -> ConfigFault:
    return ConfigFault(
        "no_data_folder", f"the folder {folder} cannot be made: {error.strerror}", "give another one with --data DIR"
    )


@contextmanager
def held(data: Data, url: str) -> Iterator[None]:
    """Hold the database for a broker that serves at `url`. Raises BusyFault naming the holder, ConfigFault.

    Only a database file is held: what other databases allow is theirs to say.
    """
    if data.file is None:
        yield
        return
    path = _lock_path(data.file)
    # Never the soft fallback: a crash would leave that behind.
    # And not at the first try: a command may be looking who holds it.
    lock = FileLock(path, timeout=LOCK_SECONDS, mode=0o600, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise _busy(data.file) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_FLOCK:
            raise ConfigFault(
                "no_lock", f"{path} cannot be locked: {error.strerror}", f"ls -l {quoted(path)}"
            ) from None
        raise ConfigFault(
            "no_flock", f"{path}: this file system cannot lock files", "put the data on a local file system"
        ) from None
    try:
        with suppress(OSError):
            # Only for whoever asks who holds it: a full disk keeps nobody from serving.
            path.write_bytes(msgspec.json.encode(Serving(os.getpid(), __version__, url)) + b"\n")
        yield
        with suppress(OSError):
            path.write_bytes(b"")
    finally:
        lock.release()


def who_serves(data: Data) -> Serving | None:
    """The broker that serves this database now; None where there is none, or it does not say."""
    if data.file is None:
        return None
    path = _lock_path(data.file)
    if not path.exists():
        return None
    lock = FileLock(path, timeout=0, mode=0o600, fallback_to_soft=False)
    try:
        with lock:
            return None
    except Timeout:
        pass
    except (NotImplementedError, OSError):
        return None
    return _named_in(path)


def _named_in(path: Path) -> Serving | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Serving)
    except (OSError, msgspec.DecodeError):
        return None


def _busy(file: Path) -> BusyFault:
    holder = _named_in(_lock_path(file))
    if holder is None:
        return BusyFault("broker_busy", f"another broker serves {file}", "give another folder with --data DIR")
    return BusyFault(
        "broker_busy",
        f"another broker (pid {holder.pid}, agent-mailer {holder.version}, at {holder.url}) serves {file}",
        f"use that one, or stop it with: kill {holder.pid}",
    )


def _lock_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")


def is_number(host: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def hosts_of(host: str, names: Sequence[str]) -> frozenset[str]:
    """What `Settings.hosts` is for a broker that listens at `host`.

    On loopback every page that a browser shows can reach it, under a name of that page's own; elsewhere the names are
    not known unless they are given.
    """
    given = {name.strip().rstrip(".").lower() for name in names if name.strip()}
    if not given and not is_loopback(host):
        return frozenset()
    return frozenset(given | {"localhost", host.lower()})


def proxies_of(named: Sequence[str]) -> tuple[str, ...]:
    """Addresses and networks. Raises ConfigFault where one is neither."""
    for one in named:
        try:
            ipaddress.ip_network(one, strict=False)
        except ValueError:
            raise ConfigFault(
                "bad_proxy", f"{one!r} is no address and no network", "--trusted-proxy 10.0.0.7, or 10.0.0.0/24"
            ) from None
    return tuple(named)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret_of(data: Data, host: str, environment: Mapping[str, str]) -> str:
    """What signs the tokens: from the environment, or, for a broker on loopback, kept in the data folder. There a given
    one may be short (`is_weak`): who can guess it is on this machine.

    Raises ConfigFault where there is none and strangers could reach the broker.
    """
    given = environment.get("AGENT_MAILER_SECRET_KEY")
    if given:
        if is_weak(given) and not is_loopback(host):
            raise ConfigFault(
                "weak_secret", f"AGENT_MAILER_SECRET_KEY is shorter than {SHORTEST_SECRET} characters", _GIVE_ONE
            )
        return given
    if not is_loopback(host):
        raise ConfigFault(
            "no_secret", f"a broker at {host} can be reached from elsewhere and needs a secret", _GIVE_ONE
        )
    return _kept_secret(data.folder / "secret")


def is_weak(secret: str) -> bool:
    return len(secret) < SHORTEST_SECRET


def _kept_secret(path: Path) -> str:
    try:
        # Before anything is written: on a full disk a broker that has its secret starts.
        if not path.exists():
            _make_secret(path)
        kept = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        look = f"ls -l {shlex.quote(str(path))}; df {shlex.quote(str(path.parent))}"
        raise ConfigFault("no_secret", f"{path} cannot be read or made: {why}", look) from None
    if is_weak(kept):
        raise ConfigFault(
            "weak_secret",
            f"{path} is damaged",
            f"put a backup of it in its place; without one all must log in anew: {put_aside(path)}",
        )
    return kept


def _make_secret(path: Path) -> None:
    """By a link, so that nobody reads half of it. Raises OSError."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_hex(32).encode() + b"\n")
        os.fsync(fd)
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.close(fd)
        made.unlink()
