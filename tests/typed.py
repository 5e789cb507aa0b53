"""The installed command as a person or script types it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests import forked

COMMAND = str(Path(sys.executable).parent / "agent-mailer")
PATIENCE = 120.0


class Terminal(io.StringIO):
    """What a command that is called in this process takes for a terminal: what is typed there, or shown."""

    def isatty(self) -> bool:
        return True


class Typed(NamedTuple):
    """How a command ended. No command may ever show a traceback."""

    status: int
    out: str
    err: str

    @classmethod
    def of(cls, status: int, out: bytes, err: bytes) -> Typed:
        return cls(status, out.decode(), err.decode())

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def type_in(
    cwd: Path, *words: str | Path, env: Mapping[str, str] | None = None, stdin: str | bytes | None = None
) -> Typed:
    """Run `agent-mailer WORDS` in `cwd`; `stdin` None is an empty one."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    argv = [COMMAND, *map(str, words)]
    whole = {**os.environ, **(env or {})}
    if forked.fits(whole):
        result = Typed.of(*forked.run(argv, cwd, whole, data or b"", PATIENCE))
    else:
        done = subprocess.run(
            argv, cwd=cwd, env=whole, input=data or b"", capture_output=True, timeout=PATIENCE, check=False
        )
        result = Typed.of(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in result.out + result.err, result
    assert "fault of agent-mailer itself" not in result.out + result.err, result
    return result
