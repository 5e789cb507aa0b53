"""A container as far as processes go: a pid namespace, which is killed whole with its process 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests import procfs

PREFIX = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--")
PATIENCE = 60.0


def _why_none() -> str:
    if shutil.which("unshare") is None:
        return "no unshare here"
    tried = subprocess.run([*PREFIX, "true"], capture_output=True, text=True, check=False)
    return f"no pid namespace can be made here: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.fixture(scope="session")
def containers() -> None:
    """Skips where there can be none. In CI there must be."""
    if why := _why_none():
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)


class Container:
    """A command that is process 1 of a pid namespace of its own."""

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, **popen: Any) -> None:
        self._outside = subprocess.Popen([*PREFIX, *words], cwd=cwd, env=env, start_new_session=True, **popen)

    def first(self) -> int:
        """The pid of its process 1 as it is seen from outside; raises ValueError while there is none."""
        [pid] = procfs.children(self._outside.pid)
        return pid

    def said(self) -> str:
        """What it has written, once it has ended; it was started with a pipe for that."""
        return str(self._outside.communicate(timeout=PATIENCE)[0].decode())

    def kill(self) -> None:
        """All of it, at once, by its process 1; returns when nothing of it lives: only then its parent ends."""
        self._signal_until_it_ends(signal.SIGKILL, 0.05)

    def stop(self) -> int:
        """SIGTERM to process 1, as an engine does; its exit status."""
        os.kill(self.first(), signal.SIGTERM)
        return self._outside.wait(PATIENCE)

    def stop_at_any_moment(self) -> int:
        """The same, also before it heeds signals: process 1 does not die of what it does not heed."""
        return self._signal_until_it_ends(signal.SIGTERM, 1.0)

    def _signal_until_it_ends(self, number: signal.Signals, again: float) -> int:
        """Its process 1 may not be there yet, or not heed it yet: once more after `again` seconds; its exit status."""
        while (status := self._outside.poll()) is None:
            for first in procfs.children(self._outside.pid):
                with suppress(ProcessLookupError):
                    os.kill(first, number)
            with suppress(subprocess.TimeoutExpired):
                self._outside.wait(again)
        return status
