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
from tests.desk import PATIENCE, until

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

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: `Enter`, `C-c`, `C-d`, `Up`, `q`."""
        self._ask("send-keys", *keys)

    def type(self, text: str, *, enter: bool = True) -> None:
        """Text as it is, and Enter."""
        self._ask("send-keys", "-l", "--", text)
        if enter:
            self.press("Enter")

    def resize(self, width: int, height: int) -> None:
        self._ask("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *, escapes: bool = False) -> str:
        """What is on the screen now, without blanks at the ends of lines; with `escapes` colours are in it."""
        shown = self._ask("capture-pane", "-p", *(["-e"] if escapes else []))
        return "\n".join(line.rstrip() for line in shown.split("\n")).rstrip("\n")

    def everything(self) -> str:
        """The screen with all that was scrolled out of it; wrapped lines are whole again."""
        shown = self._ask("capture-pane", "-p", "-J", "-S", "-")
        return "\n".join(line.rstrip() for line in shown.split("\n")).rstrip("\n")

    def until(self, *texts: str, patience: float = PATIENCE) -> str:
        """Wait until every text is on the screen; returns the screen."""
        deadline = time.monotonic() + patience
        while True:
            shown = self.screen()
            missing = [text for text in texts if text not in shown]
            if not missing:
                return shown
            over = " The program has ended." if self.has_ended else ""
            if time.monotonic() > deadline or (over and all(text not in self.screen() for text in missing)):
                pytest.fail(f"never on the screen: {missing}.{over} It shows:\n{shown}")
            time.sleep(0.02)

    def until_ended(self, patience: float = PATIENCE) -> int:
        """Wait until the program has ended; returns its exit status (128 + N for signal N)."""
        until(lambda: self.has_ended, "the program in the terminal ends", patience)
        status, signal = (
            self._ask("display-message", "-p", "#{pane_dead_status}/#{pane_dead_signal}").strip().split("/")
        )
        return int(status) if status else 128 + int(signal or 0)

    @property
    def has_ended(self) -> bool:
        return self._ask("display-message", "-p", "#{pane_dead}").strip() == "1"

    def _start(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], size: tuple[int, int]) -> None:
        inside = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        width, height = size
        self._ask("new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(cwd), *inside, "--", *argv)

    def _end(self) -> None:
        pids = [int(pid) for pid in self._ask("display-message", "-p", "#{pid} #{pane_pid}").split()]
        self._ask("kill-server")
        until(lambda: not any(_runs(pid) for pid in pids), "the terminal and its program end")

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False
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


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
