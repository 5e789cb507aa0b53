"""How an error reaches a person or a script, and which status it leaves."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, cast

from agent_mailer.cli.terminal.printing import done_so_far, json_text, tell_error
from agent_mailer.cli.terminal.streams import OUTPUT, let_go
from agent_mailer.errors import ExitCode, MailerError, UsageFault, mend, said_of, words_of
from agent_mailer.names import printable

_NAME = re.compile(r"[a-z][a-z-]*\Z")
_NO_OUTPUT = "output"
DEEPEST = 3
"""So many names a command has at most, as `broker user add`."""


class _Where(Protocol):
    command_path: str


class _UsageError(Protocol):
    """What typer raises for a command line that it does not understand."""

    exit_code: int
    ctx: _Where | None

    def show(self) -> None: ...

    def format_message(self) -> str: ...


def status_of(play: Callable[[], object]) -> int:
    """Its exit status; what it raises is told."""
    try:
        status = play()
    except MailerError as fault:
        if fault.code in ("not_configured", "no_maildir_root", "incomplete"):
            from agent_mailer.cli.elsewhere import naming_agents

            fault = naming_agents(fault, sys.argv[1:], os.environ)
        fault.fix = said_of(fault.fix, _folder_in(sys.argv[1:]))
        if not fault.fix and (isinstance(fault, UsageFault) or fault.code == "bad_value"):
            fault.fix = _help()
        _tell(fault)
        return fault.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        let_go(sys.stdout)
        return ExitCode.OK
    except OSError as error:
        _tell(_fault_of(error))
        return ExitCode.FAILED
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _tell_usage(cast(_UsageError, error))
        if isinstance(error, UnicodeEncodeError):
            # Half a character, as the system hands us words that are no UTF-8: it can be in no message and no file.
            _tell(UsageFault("not_text", f"this is not UTF-8 text: {printable(error.object, 100)}", "give UTF-8"))
            return ExitCode.USAGE
        if os.environ.get("AGENT_MAILER_DEBUG"):
            raise
        _tell(
            MailerError(
                "fault",
                f"this is a fault of agent-mailer itself: {type(error).__name__}: {error}",
                "run it again with AGENT_MAILER_DEBUG=1 and report what it prints",
            )
        )
        return ExitCode.FAILED
    return status if isinstance(status, int) else ExitCode.OK


def _folder_in(words: Sequence[str]) -> str:
    """The folder that was named on the command line; the command that mends something there names it, too."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("-C", "--workdir"):
            return after
        if word.startswith("--workdir="):
            return word.partition("=")[2]
    return ""


def _tell(fault: MailerError) -> None:
    """On stdout for a program that reads it there; where nobody takes it, for people."""
    if done := done_so_far():
        fault.message = f"{done}; after that: {fault.message}"
    if _wants_json() and fault.code != _NO_OUTPUT:
        body = {"error": {"code": fault.code, "message": fault.message, "fix": fault.fix}}
        try:
            sys.stdout.write(json_text(body) + "\n")
            sys.stdout.flush()
        except OSError:
            let_go(sys.stdout)
        else:
            return
    with suppress(OSError):
        tell_error(fault.message, fault.fix)


def _fault_of(error: OSError) -> MailerError:
    """What the system refused, in words of ours: it may be no more than that nobody can take what is printed."""
    words = error.strerror or str(error)
    if error.filename == OUTPUT:
        let_go(sys.stdout)
        fix = "print it elsewhere: put > FILE behind the command, where df -h shows room"
        if done_so_far():
            fix = "agent-mailer mail sent shows it; typed again it would be sent again"
        return MailerError(_NO_OUTPUT, f"what this prints cannot be written: {words}", fix)
    if error.filename is None:
        return MailerError("system", f"the system: {words}", "df -h" if error.errno == errno.ENOSPC else "")
    return MailerError("system", words_of(error), mend(error, error.filename))


def _help() -> str:
    """The help of the command that was typed: it begins with its names."""
    typed = itertools.takewhile(_NAME.match, sys.argv[1:])
    return " ".join(["agent-mailer", *itertools.islice(typed, DEEPEST), "--help"])


def _tell_usage(error: _UsageError) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # the name of a group alone: its commands
    else:
        words = error.ctx.command_path if error.ctx is not None else "agent-mailer"
        _tell(UsageFault("usage", error.format_message(), f"{words} --help"))
    return error.exit_code


def _wants_json() -> bool:
    return "--json" in sys.argv[1:]
