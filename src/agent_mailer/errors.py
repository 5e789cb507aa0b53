"""Errors as part of the interface: what is wrong, where, and the command that mends it."""

from __future__ import annotations

import errno
import os
import re
import stat
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ABOUT_ONE = (
    "init|config|verify|doctor|test-runtime|test-claude|test-notify|watch|status|logs|send|inbox|mail|turns|sessions|"
    "memory|stuck|held|approvals|approve|deny|limits|schedules|dead-letter|fetch|pause|resume|take"
)
# Compiled when something went wrong: at the import it would cost every command as much as a module.
_COMMAND = rf"agent-mailer (?:{_ABOUT_ONE})\b(?: (?!(?:or|then|and|with|as)\b)(?:'[^']*'|[^\s,;:()])+)*"
# Elsewhere `--all` is every message, session or question of one folder.
_NAMES_A_FOLDER = r"(?:^| )(?:-C|--workdir|--maildir-root|--help)\b|agent-mailer (?:status|cost)\b[^,;]* --all\b"
_DRAFT = r"/\.tmp\.(?P<name>[^/]+)\.[0-9a-f]{12}\Z"
_MEANT = {ord(mark): f"\\{mark}" for mark in "\\'"}


class ExitCode(IntEnum):
    """Exit codes of every command (SPEC section 9). systemd does not restart on 77 and 78."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    BUSY = 75
    REFUSED = 77
    CONFIG = 78


def said_of(fix: str, workdir: str) -> str:
    """What mends something in a workdir, for whoever reads it in another folder: its first command of ours names that.

    What names a folder already, is about more than one, or has no command of ours stays as it is.
    """
    found = re.search(_COMMAND, fix) if workdir else None
    if found is None or re.search(_NAMES_A_FOLDER, fix):
        return fix
    return f"{fix[: found.end()]} -C {quoted(workdir)}{fix[found.end() :]}"


def quoted(text: object) -> str:
    """A path, or another text, as one word of a command that somebody types: whole, nothing unseen."""
    import shlex  # as rarely needed

    word = str(text)
    if word.isprintable():
        return shlex.quote(word)
    marked = word.translate(_MEANT)
    seen = (c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(c)) for c in marked)
    return f"$'{''.join(seen)}'"


def put_aside(path: object) -> str:
    """The command that moves away what is in the place of something else."""
    return f"mv {quoted(path)} {quoted(path)}.old"


class MailerError(Exception):
    """A failure that a user is shown: a stable `code`, one sentence, and what mends it."""

    exit_code = ExitCode.FAILED

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


class UsageFault(MailerError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class ConfigFault(MailerError):
    """Configuration, permissions or identity are wrong."""

    exit_code = ExitCode.CONFIG


class BusyFault(MailerError):
    """Another watcher holds the workdir or the mailbox."""

    exit_code = ExitCode.BUSY


class UnavailableFault(MailerError):
    """The runtime or the mailbox cannot be reached."""

    exit_code = ExitCode.UNAVAILABLE


class RefusedFault(MailerError):
    """Credentials were refused."""

    exit_code = ExitCode.REFUSED


def words_of(error: Exception, known: object = None) -> str:
    """What the system refused and where, without its number; where it is is left out if it is `known`, said already.

    Of what we write under another name until it is whole the name is told that it gets. Of other errors the words;
    plain ones of what is no text, or nested without end.
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        return f"line {line}: the byte 0x{error.object[error.start]:02x} is no {error.encoding.upper()} text"
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    if not isinstance(error.filename, str | bytes) or os.fsdecode(error.filename) == str(known):
        return error.strerror
    place = re.sub(_DRAFT, r"/\g<name>", os.fsdecode(error.filename))
    return f"{place}: {error.strerror}"


def named_by(error: OSError, place: object) -> Path:
    """The whole path that the error names, else `place`."""
    from pathlib import Path

    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else Path(str(place))
    return named if named.is_absolute() else Path(str(place))


def nearest(error: OSError, place: object) -> Path:
    """The same, or the nearest to it that is there: what is missing cannot be looked at."""
    named = named_by(error, place)
    return next((one for one in (named, *named.parents) if os.path.lexists(one)), named)


def mend(error: OSError, place: object) -> str:
    """The command with which a person begins; nothing outside the user's own folders is to be changed.

    `place`: what it is about where the error names no whole path.
    """
    path = nearest(error, place)
    where = quoted(path)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"df -h {where}"
        case errno.EROFS:
            return f"findmnt -T {where}"
        case errno.EMFILE | errno.ENFILE:
            return "raise the limit on open files (ulimit -n, LimitNOFILE=)"
        case errno.EIO:
            return "look at the disk: dmesg | tail"
        case errno.EACCES | errno.EPERM:
            return _opened(path) or f"ls -ld {where}"
        case _:
            return f"ls -ld {where}"


def _opened(path: Path) -> str:
    """What opens `path` or the folder it lies in to their owner; empty where that is not it, or not ours to change."""
    try:
        this, above = path.lstat(), path.parent.lstat()
    except OSError:
        return ""
    if this.st_uid != os.geteuid():
        ours = above.st_uid == os.geteuid()
        return f"sudo chown -R $(id -un) {quoted(path)}" if ours else ""
    for one, found in ((path, this), (path.parent, above)):
        wanted = stat.S_IRWXU if stat.S_ISDIR(found.st_mode) else stat.S_IRUSR | stat.S_IWUSR
        if found.st_uid == os.geteuid() and wanted & ~found.st_mode:
            return f"chmod u+rwX {quoted(one)}"
    return ""
