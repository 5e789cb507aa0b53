"""What tests of schedules share: where seeds begin, where a schedule is played, whether a planted race is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import agent_mailer

SEED = int(os.environ.get("SCHEDULE_SEED", "20261128"))
"""The first of as many as are asked for; with `SCHEDULES=1` that one alone."""
MANY = int(os.environ.get("SCHEDULES", "0"))
"""So many, whatever the size."""

FOLDER = Path(agent_mailer.__file__).parent
_PROJECT = Path(__file__).parents[2]


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder where there is such a place: nothing here is about what survives a power failure."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@contextmanager
def naming(seed: int, told: Callable[[], Sequence[str]]) -> Iterator[None]:
    """What fails within says how it is repeated, and what was `told` of it."""
    try:
        yield
    except BaseException as fault:
        fault.add_note(f"SCHEDULE_SEED={seed} SCHEDULES=1 repeats it: {', '.join(told())}, with {FOLDER}")
        raise


def find_planted(base: Path, module: str, right: str, wrong: str, test: str, schedules: int, first: int = 0) -> None:
    """In a copy below `base` whose `module` has `wrong` for `right` the quick form of the `test` fails, and says by
    which seed: one of so many from the `first` on.
    """
    copy = base / "src" / "agent_mailer"
    shutil.copytree(FOLDER, copy)
    shutil.copytree(_PROJECT / "templates", base / "templates")
    text = (copy / module).read_text()
    assert text.count(right) == 1
    (copy / module).write_text(text.replace(right, wrong))
    env = {**os.environ, "PYTHONPATH": str(copy.parent), "SCHEDULES": str(schedules), "SCHEDULE_SEED": str(first)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "quick", test],
        cwd=_PROJECT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert str(copy) in done.stdout, "it was the copy that failed"
    assert "SCHEDULES=1 repeats it" in done.stdout
