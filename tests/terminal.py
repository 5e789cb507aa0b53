"""A real terminal for tests: tmux with a server of its own. Keys go in, what a person would see comes out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import PATIENCE, until

# tmux now and then loses how a program ended: a shell around it writes that down.
KEEPER = 'trap : INT QUIT; file=$1; shift; "$@"; echo $? >"$file.new"; mv "$file.new" "$file"'

SETTINGS = """\
set -g default-terminal screen-256color
set -g remain-on-exit on
set -g remain-on-exit-format ""
set -g exit-empty off
set -g status off
set -g escape-time 0
set -g history-limit 5000
"""


class Terminal:
    """One window in which one program runs; what it showed stays when it has ended."""

    def __init__(self, tmux: str, folder: Path) -> None:
        self._tmux = [tmux, "-u", "-S", str(folder / "socket"), "-f", str(folder / "tmux.conf")]
        self._status = folder / "status"

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: `Enter`, `C-c`, `C-d`, `Up`, `q`."""
        if "C-c" in keys:
            until(self._waits, "the program waits")
        self._ask("send-keys", *keys)

    def type(self, text: str, *, enter: bool = True) -> None:
        """Text as it is, and Enter."""
        self._ask("send-keys", "-l", "--", text)
        if enter:
            self.press("Enter")

    def resize(self, width: int, height: int) -> None:
        self._ask("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *, escapes: bool = False) -> str:
        """What is on the screen now, without blanks at the ends of lines; with `escapes` its colours, too."""
        shown = self._ask("capture-pane", "-p", *(["-e"] if escapes else []))
        return "\n".join(line.rstrip() for line in shown.split("\n")).rstrip("\n")

    def everything(self) -> str:
        """The screen with all that was scrolled out of it; wrapped lines are whole again."""
        shown = self._ask("capture-pane", "-p", "-J", "-S", "-")
        return "\n".join(line.rstrip() for line in shown.split("\n")).rstrip("\n")

    def until(self, *texts: str, patience: float = PATIENCE) -> str:
        """Wait until every text is on the screen, on one line or wrapped over several; returns the screen."""
        deadline = time.monotonic() + patience
        while True:
            ended = self.has_ended  # asked first: what it showed is all on the screen then
            words = " ".join(self._ask("capture-pane", "-p", "-J").split())
            shown = self.screen()  # asked last: what is returned has what was seen
            missing = [text for text in texts if text not in shown and text not in words]
            if not missing:
                return shown
            if ended or time.monotonic() > deadline:
                over = " The program has ended." if ended else ""
                pytest.fail(f"never on the screen: {missing}.{over} It shows:\n{shown}")
            time.sleep(0.02)

    def until_ended(self, patience: float = PATIENCE) -> int:
        """Wait until the program has ended; returns its exit status (128 + N for signal N)."""
        until(lambda: self.has_ended, "the program in the terminal ends", patience)
        return int(self._status.read_text())

    @property
    def has_ended(self) -> bool:
        """All that it showed is on the screen then."""
        return self._status.exists() and self._ask("display-message", "-p", "#{pane_dead}").strip() == "1"

    def _start(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], size: tuple[int, int]) -> None:
        inside = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        width, height = size
        words = ["-d", "-x", str(width), "-y", str(height), "-c", str(cwd), *inside, "--"]
        words += ["/bin/sh", "-c", KEEPER, "keeper", str(self._status), *argv]
        # tmux takes the PATH of whoever asks for a new session over what -e says.
        self._ask("new-session", *words, path=env.get("PATH"))

    def _waits(self) -> bool:
        keeper = int(self._ask("display-message", "-p", "#{pane_pid}"))
        return all(map(waits, procfs.children(keeper)))

    def _end(self) -> None:
        server, keeper = map(int, self._ask("display-message", "-p", "#{pid} #{pane_pid}").split())
        pids = [server, keeper, *procfs.children(keeper)]
        self._ask("kill-server")
        until(lambda: not any(map(procfs.runs, pids)), "the terminal and its program end")

    def _ask(self, *words: str, path: str | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *words],
            env=_without_size(os.environ) | ({"PATH": path} if path is not None else {}),
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"tmux {' '.join(words)}: {done.stderr}"
        return done.stdout


@contextmanager
def terminal(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    *,
    width: int = 100,
    height: int = 40,
) -> Iterator[Terminal]:
    """`argv` in a terminal of that size, with our environment and `env`; ended at the end of the block.

    The test is skipped where there is no tmux, and fails where CI is set.
    """
    tmux = shutil.which("tmux")
    if tmux is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is not installed; CI needs it")
        pytest.skip("tmux is not installed")
    # Not in the test's own folder: the path of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="am-tmux-") as name:
        folder = Path(name)
        (folder / "tmux.conf").write_text(SETTINGS)
        shown = Terminal(tmux, folder)
        shown._start(argv, cwd, env or {}, (width, height))
        try:
            yield shown
        finally:
            shown._end()


def _without_size(env: Mapping[str, str]) -> dict[str, str]:
    """readline, once imported, puts the size of our own terminal into the environment, past os.environ."""
    return {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}


def waits(pid: int) -> bool:
    """Whether the process waits: for a key, a moment, another process. One that has shown its prompt waits for a key.

    Python loses a Ctrl-C that comes between the prompt and the wait for a key: it is looked at after the next key.
    """
    return procfs.state(pid) == "S"
