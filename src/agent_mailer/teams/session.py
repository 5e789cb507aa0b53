"""A team's session of tmux: a window with the board, one for each agent. It is asked where it was opened.

A shell of another TMUX_TMPDIR, or in another server, means another tmux by the same words.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import BusyFault, MailerError, UnavailableFault, UsageFault
from agent_mailer.names import printable
from agent_mailer.process.commands import run_command
from agent_mailer.process.environment import find_tool
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive
from agent_mailer.teams.place import is_one
from agent_mailer.teams.stopped import FOLDER

MARK = "@amp_dir"
"""The option of a tmux session that says whose it is."""

BOARD = "Team"
"""No agent's name: those have small letters."""
_SERVER = "tmux"


class _Server(msgspec.Struct, frozen=True):
    """The server in which a session was opened."""

    socket: str
    process: ProcessIdentity


def _server_of(directory: Path) -> _Server | None:
    """None where none is known, or it runs no more."""
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        found = msgspec.json.decode(read_regular(directory / FOLDER / _SERVER, 16 * 1024), type=_Server)
        return found if is_alive(found.process) else None
    return None


class Session:
    """The team's session of tmux. Raises UnavailableFault where there is no tmux."""

    def __init__(self, team: str, directory: Path) -> None:
        self.name = f"amp-{team}"
        self._directory = directory
        found = find_tool("tmux", [directory])
        if found is None:
            raise UnavailableFault("no_tmux", "tmux is not installed", "apt install tmux, or: amp start --detach")
        self._tmux = found
        self._server = _server_of(directory)

    def exists(self) -> bool:
        return self._do("has-session", "-t", f"={self.name}")[0] == 0

    def is_ours(self) -> bool:
        """Whether it was made for this very folder."""
        status, said = self._do("show-options", "-v", "-t", f"={self.name}:", MARK)
        return status == 0 and bool(said.strip()) and is_one(Path(said.strip()), self._directory)

    def require_ours(self) -> None:
        if self.exists() and not self.is_ours():
            raise BusyFault(
                "session_taken",
                f"the tmux session {self.name} is there, and not of this team's folder ({self._directory})",
                f"tmux attach -t '={self.name}' to look at it; tmux kill-session -t '={self.name}' to end it",
            )

    def out_of_reach(self) -> str:
        """What is wrong where it was opened in a server that runs, and does not answer; else empty."""
        server = self._server
        if server is None or self._do("list-sessions")[0] == 0:
            return ""
        pid = server.process.pid
        return (
            f"its tmux session {self.name} is in a server (pid {pid}) that cannot be reached at {server.socket}; "
            f"kill -USR1 {pid} makes it listen there again, kill {pid} ends it with all that runs in it"
        )

    def open(self, board: Sequence[str]) -> None:
        """With the board as its first window; nothing where it is open already. Raises MailerError."""
        if self.exists():
            return
        self._server = None
        where = ("-d", "-s", self.name, "-n", BOARD, "-c", str(self._directory), "-x", "160", "-y", "48")
        self._must(
            "new-session",
            *where,
            shlex.join(board),
            ";",
            "set-option",
            "-t",
            f"={self.name}:",
            MARK,
            str(self._directory),
        )
        self._keep_server()

    def _keep_server(self) -> None:
        """Which server that was: the next command may be typed where another one is meant."""
        said = self._do("display-message", "-p", "-t", f"={self.name}:", "#{pid} #{socket_path}")[1].strip()
        pid, _, socket = said.partition(" ")
        process = identify(int(pid)) if pid.isdecimal() else None
        if process is not None and socket:
            self._server = _Server(socket, process)
            Disk().replace(self._directory / FOLDER / _SERVER, msgspec.json.encode(self._server), sync=Sync.NONE)

    def show(self, name: str, workdir: Path, words: Sequence[str]) -> None:
        """A window of that name in which `words` run; what they said stays to be read when they end."""
        self.close(name)
        # The last one is named by its place: a name may be a number, which is another window's.
        last = f"={self.name}:{{end}}"
        self._must(
            *("new-window", "-d", "-a", "-t", last, "-n", name, "-c", str(workdir), shlex.join(words)),
            *(";", "set-option", "-w", "-t", last, "remain-on-exit", "on"),
            *(";", "set-option", "-w", "-t", last, "automatic-rename", "off"),
        )

    def close(self, name: str) -> None:
        """By its id: by a name tmux finds one that only begins so, or stands at that number."""
        said = self._do("list-windows", "-t", f"={self.name}:", "-F", "#{window_id} #{window_name}")[1]
        for one, _, called in (line.partition(" ") for line in said.splitlines()):
            if called == name:
                self._do("kill-window", "-t", one)

    def kill(self) -> None:
        self._do("kill-session", "-t", f"={self.name}")
        path = self._directory / FOLDER / _SERVER
        if path.exists():
            Disk().remove(path)

    def ended(self) -> dict[str, str]:
        """What each window whose program has ended still shows."""
        form = "#{pane_dead} #{pane_id} #{window_name}"
        status, said = self._do("list-panes", "-s", "-t", f"={self.name}:", "-F", form)
        dead = [line.split(" ", 2)[1:] for line in said.splitlines() if line.startswith("1 ")] if status == 0 else []
        return {name: self._do("capture-pane", "-p", "-J", "-S", "-", "-t", pane)[1] for pane, name in dead}

    def attach_words(self) -> list[str]:
        """What a person's terminal runs to see it. Raises UsageFault in a terminal of another server."""
        inside = os.environ.get("TMUX", "").rpartition(",")[0].rpartition(",")[0]
        words = [*self._words, "switch-client" if inside else "attach-session", "-t", f"={self.name}"]
        if inside and self._server is not None and os.path.realpath(inside) != os.path.realpath(self._server.socket):
            what = f"this terminal is in another tmux server than the session {self.name}"
            words[-3] = "attach-session"
            raise UsageFault("another_tmux", what, f"in a terminal without tmux: {shlex.join(words)}")
        return words

    @property
    def _words(self) -> tuple[str, ...]:
        return (self._tmux, "-S", self._server.socket) if self._server is not None else (self._tmux,)

    def _do(self, *words: str) -> tuple[int, str]:
        done = run_command((*self._words, *words), env=os.environ, cwd=self._directory)
        return done.status, done.output

    def _must(self, *words: str) -> None:
        status, said = self._do(*words)
        if status:
            raise MailerError("tmux_refused", f"tmux {words[0]}: {printable(said.strip(), 200)}", "amp start --detach")
