"""What fake servers share: a database that stays, and a process of its own that can be killed, and started again."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.desk import until


class FakeDatabase:
    """Used by the threads that answer calls, and by a test: one at a time."""

    def __init__(self, database: Path, tables: str) -> None:
        self._lock = threading.RLock()
        self._base = sqlite3.connect(database, check_same_thread=False, timeout=30)
        self._base.row_factory = sqlite3.Row
        self._base.executescript(tables)

    @contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        """It in one transaction, while no call is answered."""
        with self._lock, self._base:
            yield self._base

    def asked(self, statement: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(statement, values).fetchall()

    def close(self) -> None:
        self._base.close()


class FakeProcess:
    """`python -m MODULE PORT DATABASE`, which prints its port; `root` is its API's path, `lives` answers 200."""

    def __init__(self, module: str, database: Path, *, root: str, lives: str) -> None:
        self._module = module
        self._database = database
        self._root = root
        self._lives = lives
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._root}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(self._port), str(self._database)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        until(self._answers, "the server's first answer")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}{self._lives}", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
