"""The program: its command groups, and how an error reaches a person or a script."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from agent_mailer import __version__
from agent_mailer.cli import watch
from agent_mailer.errors import ExitCode, MailerError

app = typer.Typer(
    name="agent-mailer",
    help="Give a coding agent a mailbox, and run it unattended.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("watch")(watch.watch)


def _version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        typer.echo(f"agent-mailer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run a command. A user never sees a traceback; a bug leaves one where AGENT_MAILER_DEBUG is set."""
    try:
        app(standalone_mode=True)
    except MailerError as fault:
        _tell(fault)
        sys.exit(fault.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except OSError as error:
        _tell(MailerError("system", f"{error.filename or 'the system'}: {error.strerror or error}", ""))
        sys.exit(ExitCode.FAILED)
    except Exception as error:
        if os.environ.get("AGENT_MAILER_DEBUG"):
            raise
        _tell(
            MailerError(
                "fault",
                f"this is a fault of agent-mailer itself: {type(error).__name__}: {error}",
                "run it again with AGENT_MAILER_DEBUG=1 and report what it prints",
            )
        )
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.OK)


def _tell(fault: MailerError) -> None:
    if "--json" in sys.argv[1:]:
        import msgspec

        body = {"error": {"code": fault.code, "message": fault.message, "fix": fault.fix}}
        sys.stdout.write(msgspec.json.encode(body).decode() + "\n")
        return
    sys.stderr.write(f"error: {fault.message}\n")
    if fault.fix:
        sys.stderr.write(f"  mend: {fault.fix}\n")


if __name__ == "__main__":
    main()
