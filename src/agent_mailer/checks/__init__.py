"""What `verify` and `doctor` look at: is everything there that a watcher needs, and if not, what mends it?

One small function a check: none raises, and none changes anything. Here: what a check found, and the guard under which
each runs.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec

from agent_mailer.errors import ExitCode, MailerError, mend
from agent_mailer.names import printable

LONGEST = 400

_OURS_TO_MEND = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)
"""What is wrong with a file's place or permissions; any other error is a disk that does not answer now."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class CheckResult(msgspec.Struct, frozen=True):
    """One line of `verify` and `doctor`.

    `looked_at` is the file, folder or command in question; `fix` the command that mends it, empty where nothing is
    wrong; `exit_code` what `verify` ends with should this be the first failure, 0 otherwise.
    """

    name: str
    looked_at: str
    result: Level
    text: str
    fix: str = ""
    exit_code: int = ExitCode.OK.value


def ok(name: str, looked_at: object, text: str) -> CheckResult:
    return CheckResult(name, str(looked_at), Level.OK, printable(text, LONGEST))


def warning(name: str, looked_at: object, text: str, fix: str) -> CheckResult:
    return CheckResult(name, str(looked_at), Level.WARNING, printable(text, LONGEST), fix)


def failed(name: str, looked_at: object, text: str, fix: str, exit_code: ExitCode = ExitCode.CONFIG) -> CheckResult:
    return CheckResult(name, str(looked_at), Level.FAILED, printable(text, LONGEST), fix, exit_code.value)


def guarded(name: str, looked_at: object, check: Callable[[], CheckResult]) -> CheckResult:
    """The result of `check`, or the error that kept it from one, as a failure."""
    try:
        return check()
    except MailerError as fault:
        code = ExitCode.UNAVAILABLE if fault.exit_code is ExitCode.FAILED else fault.exit_code
        return failed(name, looked_at, fault.message, fault.fix, code)
    except OSError as error:
        where = error.filename or looked_at
        code = ExitCode.CONFIG if error.errno in _OURS_TO_MEND else ExitCode.UNAVAILABLE
        return failed(name, looked_at, f"{where}: {error.strerror or error}", mend(error, looked_at), code)


def first_failure(results: Iterable[CheckResult]) -> int:
    """The exit code of the first failure; 0 where there is none."""
    return next((result.exit_code for result in results if result.result is Level.FAILED), ExitCode.OK.value)
