"""The installed command as a person or script types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = str(Path(sys.executable).parent / "agent-mailer")


class Typed(NamedTuple):
    """How a command ended. No command may ever show a traceback."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def type_in(
    cwd: Path, *words: str | Path, env: Mapping[str, str] | None = None, stdin: str | bytes | None = None
) -> Typed:
    """Run `agent-mailer WORDS` in `cwd`; `stdin` None is an empty one."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [COMMAND, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=data if data is not None else b"",
        capture_output=True,
        timeout=120,
        check=False,
    )
    result = Typed(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.out + result.err, result
    assert "fault of agent-mailer itself" not in result.out + result.err, result
    return result
