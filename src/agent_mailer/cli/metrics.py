"""`metrics`: every workdir of a user as numbers, for Prometheus."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from agent_mailer.cli.options import Workdir
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import say
from agent_mailer.errors import MailerError, UsageFault, mend
from agent_mailer.names import printable

ENDING = ".prom"
"""Of the files that a collector reads; it must never find half of one."""
READABLE = 0o644
"""The collector is somebody else."""

app = single()


@app.command("metrics", cls=FastCommand)
def metrics(
    textfile: Annotated[
        Path | None,
        typer.Option(
            "--textfile",
            metavar="FILE.prom",
            help="Write them to this file, as a whole, for node_exporter's textfile collector.",
            show_default=False,
        ),
    ] = None,
    workdir: Workdir = None,
) -> None:
    """Print numbers of all your agents, for Prometheus: what waits, runs, is stuck, and what today took.

    Run it by a timer; watchers write nothing for it. The names are in docs/reference/metrics.md.
    """
    from agent_mailer import __version__
    from agent_mailer.clock import SystemClock
    from agent_mailer.views.local import everywhere
    from agent_mailer.views.metrics import as_text

    if textfile is not None and textfile.suffix != ENDING:
        raise UsageFault("bad_name", f"a collector reads files that end in {ENDING}", f"--textfile {textfile}{ENDING}")
    found = everywhere(workdirs=None if workdir is None else [workdir.absolute()])
    text = as_text(found, __version__, SystemClock().now())
    if textfile is None:
        say(text.rstrip("\n"))
    else:
        _replace(textfile, text)


def _replace(path: Path, text: str) -> None:
    """Whoever reads it finds what was there or what is, never a part. Raises MailerError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("x", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), READABLE)
            stream.write(text)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise MailerError(
            "not_written", f"{printable(str(path))} cannot be written: {error.strerror}", mend(error, path)
        ) from None
