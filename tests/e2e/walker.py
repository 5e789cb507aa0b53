"""A newcomer who follows a document: types its commands as they are printed, and looks whether it shows what comes.

What is walked are the fenced blocks of a Markdown file. A block ```sh is typed into a terminal, and every command in it
must succeed. A block ```text is what the terminal shows for the block that was typed there last. All others are left to
the reader. What only a walker needs to know stands in comments before a block:

    <!-- walk: terminal: NAME -->     it belongs to another terminal; the first use of a name opens one, at home
    <!-- walk: stays -->              its last command goes on running; the walk goes on elsewhere
    <!-- walk: keys: C-c -->          no block, but Ctrl-C in the terminal named last
    <!-- walk: asks: TEXT => ANSWER -->   ANSWER is typed when TEXT shows; several comments in this order
    <!-- walk: put: WORD = REGEX -->  WORD in the block stands for group 1 of what matched last in any terminal
    <!-- walk: status: N -->          it ends with this exit status
    <!-- walk: stage: NAME -->        what happens meanwhile behind the scenes: the test knows
    <!-- walk: skip: WHY -->          the block is not typed

In a ```text block a `…` stands for any text, a line that is only `…` for any lines; moments stand for each other
however they are written (`18:00`, `Sat 2026-11-21 16:03:06 UTC`, `6pm`, `Nov 21, 6:00pm`), durations likewise (`2 h`,
`1 h 56 min`), and so do words with digits (ids, pids), small whole numbers only for themselves; runs of blanks are one.
What was spent `today` is any spending where midnight (UTC, the ledger's day) has passed on the way. `/home/you` is the
home.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.clocks import utc_day
from tests.e2e.throwaway import as_throwaway

PATIENCE = 60.0
MISSED_AFTER = 5.0
YOU = "/home/you"
ROWS, COLUMNS = 60, 250

_PROMPT = re.compile(r"<<walk (\d+)>>")
_MIDNIGHT = re.compile(r"^\d{4}-\d\d-\d\d\n", re.MULTILINE)
_PIECES = re.compile(
    r"^<!-- walk: (?P<note>.*?) -->$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block, and the notes before it as (word, value); `line` counts from 1. No language: notes alone."""

    language: str
    text: str
    line: int
    notes: tuple[tuple[str, str], ...]

    def note(self, word: str) -> str | None:
        return next((value for name, value in self.notes if name == word), None)

    def all_notes(self, word: str) -> list[str]:
        return [value for name, value in self.notes if name == word]


KNOWN_NOTES = {"terminal", "stays", "keys", "asks", "put", "status", "stage", "skip"}
_BY_THEMSELVES = {"keys", "stage"}


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a document in order; the notes `keys` and `stage` are blocks of their own."""
    notes: list[tuple[str, str]] = []
    for found in _PIECES.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["note"] is None:
            yield Block(found["language"], found["text"], line, tuple(notes))
            notes = []
            continue
        word, _, value = found["note"].partition(": ")
        assert word in KNOWN_NOTES, f"line {line}: what is {word!r}?"
        if word in _BY_THEMSELVES:
            yield Block("", "", line, (*notes, (word, value)))
            notes = []
        else:
            notes.append((word, value))
    assert not notes, f"notes without a block: {notes}"


class Paper:
    """What a terminal shows, from the first line on, without colours: text, and what is drawn over it."""

    _CONTROL = re.compile(r"\r\n|[\r\n]|\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")
    _BEGUN = re.compile(r"(?:\r|\x1b(?:\[[0-9;?]*)?)$")

    def __init__(self) -> None:
        self.text = ""
        self._at = 0
        self._begun = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> None:
        text = self._begun + self._decode(data)
        self._begun = begun[0] if (begun := self._BEGUN.search(text)) else ""
        text = text.removesuffix(self._begun)
        start = 0
        for control in self._CONTROL.finditer(text):
            self._write(text[start : control.start()])
            self._obey(control[0])
            start = control.end()
        self._write(text[start:])

    def _write(self, text: str) -> None:
        self.text = self.text[: self._at] + text + self.text[self._at + len(text) :]
        self._at += len(text)

    def _obey(self, control: str) -> None:
        if control in ("\n", "\r\n"):
            self._at = len(self.text)
            self._write("\n")
        elif control == "\r":
            self._at = self.text.rfind("\n", 0, self._at) + 1
            # What is typed is not echoed, nor is the Enter that would end the line of the prompt.
            if prompt := re.compile(r"<<walk [^>]*>>").match(self.text, self._at):
                self._at = prompt.end()
        elif control.endswith("A"):
            for _ in range(int(control[2:-1] or 1)):
                self._at = self.text.rfind("\n", 0, max(0, self.text.rfind("\n", 0, self._at))) + 1
        elif control.endswith("J"):
            self.text = self.text[: self._at]
        elif control.endswith("K"):
            end = self.text.find("\n", self._at)
            self.text = self.text[: self._at] + (self.text[end:] if end >= 0 else "")


class Terminal:
    """A shell on a pseudo-terminal of its own, of the type that most people sit before."""

    def __init__(self, shell: Sequence[str], env: Mapping[str, str], home: Path, scratch: Path) -> None:
        self._scratch = scratch
        self._paper = Paper()
        self._since = 0
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        modes = termios.tcgetattr(follower)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(follower, termios.TCSANOW, modes)
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *shell],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=home,
            env={**env, "PS1": "<<walk ${failed:-0}>>", "PS2": "", "TERM": "xterm-256color"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test runner may ignore it
        )
        os.close(follower)
        self._leader = leader
        self._await_prompt("its first prompt")
        self._shell = os.tcgetpgrp(leader)

    @property
    def screen(self) -> str:
        return self._paper.text

    def type(self, script: str, asks: Sequence[tuple[str, str]] = (), *, stays: bool = False) -> int:
        """Run the lines of `script` in the shell; the exit status of the last one that failed, else 0."""
        path = self._scratch / "typed.sh"
        path.write_text(f"trap 'failed=$?' ERR\nfailed=0\n{script}")
        self._since = len(self.screen)
        self._send(f". {path}\n")
        at = self._since
        for question, answer in asks:
            # The blank after a question comes when the program is ready to read, and not before.
            at = self._await_text(f"{question} ", at)
            self._send(f"{answer}\n")
        if stays:
            # A watcher or a broker says when it is ready; whoever reads this goes on then, and no sooner.
            self._until(lambda: bool(self.shown().strip()), script, self.shown)
            return 0
        return self._await_prompt(script)

    def shows(self, wanted: re.Pattern[str], what: str, you: Mapping[str, str]) -> None:
        """What came since the last block is the pattern; where a command still runs, wait until it is among it."""

        def seen() -> str:
            return vague(self.shown(), you)

        if _PROMPT.search(self.screen, self._since):
            assert wanted.fullmatch(seen()), f"{what}\n--- the terminal shows:\n{seen()}\n--- which is:\n{self.shown()}"
        else:
            self._until(lambda: wanted.search(seen()), what, seen)

    def shown(self) -> str:
        """What came since the last block was typed, without our prompts, and as if no midnight had come between."""
        return _MIDNIGHT.sub("", _PROMPT.sub("", self.screen[self._since :]))

    def interrupt(self) -> None:
        """Ctrl-C, and once more where it seems to have been missed, until the shell is back."""
        end = time.monotonic() + PATIENCE
        pressed = -MISSED_AFTER
        while not _PROMPT.search(self.screen, self._since):
            assert time.monotonic() < end, f"Ctrl-C in vain:\n{self.screen[-2000:]}"
            # Where the shell has the terminal it is about to start the program, or about to be back: a Ctrl-C would end
            # what is typed next, or bring a second prompt.
            if os.tcgetpgrp(self._leader) != self._shell and time.monotonic() - pressed > MISSED_AFTER:
                os.write(self._leader, b"\x03")
                pressed = time.monotonic()
            self._read(0.5)

    def close(self) -> None:
        """End what still runs in it; the shell goes with its terminal."""
        try:
            if not _PROMPT.search(self.screen, self._since):
                self.interrupt()
            self._send("exit\n")
            self._process.wait(PATIENCE)
        finally:
            os.close(self._leader)
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()

    def _await_text(self, text: str, start: int) -> int:
        """Where the text ends that shows after `start`."""
        self._until(lambda: text in self.screen[start:], f"to be asked {text!r}")
        return self.screen.index(text, start) + len(text)

    def _await_prompt(self, what: str) -> int:
        self._until(lambda: _PROMPT.search(self.screen, self._since), f"the end of {what}")
        found = _PROMPT.search(self.screen, self._since)
        assert found is not None
        return int(found[1])

    def _until(self, ready: Callable[[], object], what: str, seen: Callable[[], str] | None = None) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            shown = seen or (lambda: self.screen[-3000:])
            assert time.monotonic() < end, f"waited in vain: {what}\n--- the terminal shows:\n{shown()}"
            assert self._read(0.5) or self._process.poll() is None, f"the shell is gone: {what}\n{shown()}"

    def _read(self, seconds: float) -> bool:
        """Take in what there is, after at most `seconds`; whether anything came."""
        if not select.select([self._leader], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._leader, 65536)
        except OSError:
            return False
        self._paper.feed(data)
        return bool(data)

    def _send(self, text: str) -> None:
        os.write(self._leader, text.encode())


Stage = Callable[["Walk"], None]
Enter = Callable[[Sequence[str]], list[str]]


class Walk:
    """One document, from its beginning to its end, in one home.

    `same` maps what stands in the document to what is so here, `places` our folders to those of a reader.
    """

    def __init__(self, env: Mapping[str, str], home: Path, scratch: Path, enter: Enter) -> None:
        self.env = dict(env)
        self._enter = enter
        self.home = home
        self.scratch = scratch
        self.same: dict[str, str] = {}
        self.places = {str(home): YOU}
        self.terminals: dict[str, Terminal] = {}
        self._at = "1"
        self._began = utc_day()
        self.typed = 0
        self.compared = 0

    def follow(self, document: str, stages: Mapping[str, Stage]) -> None:
        for block in blocks(document):
            try:
                self._follow(block, stages)
            except BaseException as error:
                for name, terminal in self.terminals.items():
                    error.add_note(f"--- terminal {name} at last:\n{terminal.screen[-1500:]}")
                raise

    def _follow(self, block: Block, stages: Mapping[str, Stage]) -> None:
        self._at = block.note("terminal") or self._at
        if (stage := block.note("stage")) is not None:
            stages[stage](self)
        elif block.note("keys") == "C-c":
            self.here.interrupt()
        elif block.note("skip") is None and block.language == "sh":
            self._type(block)
        elif block.note("skip") is None and block.language == "text":
            self._compare(block)

    @property
    def here(self) -> Terminal:
        return self.terminal(self._at)

    def terminal(self, name: str) -> Terminal:
        if name not in self.terminals:
            scratch = self.scratch / f"terminal-{name}"
            scratch.mkdir()
            shell = self._enter(["bash", "--norc", "--noprofile", "--noediting", "-i"])
            self.terminals[name] = Terminal(shell, self.env, self.home, scratch)
        return self.terminals[name]

    def behind_the_scenes(self, *words: str, cwd: str = "") -> None:
        """A command of ours that the document does not print, in the folder `cwd` of the home."""
        script = f'cd "$HOME/{cwd}" && exec "$@"'
        done = subprocess.run(
            self._enter(["sh", "-c", script, "sh", str(self.home / ".local/bin/agent-mailer"), *words]),
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _type(self, block: Block) -> None:
        script = self.ours(block.text)
        for put in block.all_notes("put"):
            word, _, pattern = put.partition(" = ")
            script = re.sub(rf"\b{word}\b", self._last(pattern), script)
        asks = [(text, answer) for text, _, answer in (note.partition(" => ") for note in block.all_notes("asks"))]
        stays = block.note("stays") is not None
        status = self.here.type(script, asks, stays=stays)
        wanted = int(block.note("status") or 0)
        assert stays or status == wanted, f"line {block.line}: exit status {status}\n{script}\n{self.here.shown()}"
        assert "Traceback" not in self.here.shown(), self.here.shown()
        self.typed += 1

    def _compare(self, block: Block) -> None:
        what = f"line {block.line} promises\n{block.text}"
        promised = self.ours(block.text)
        if utc_day() != self._began:
            promised = _TODAY.sub("today …", promised)
        self.here.shows(pattern_of(promised), what, self.places)
        self.compared += 1

    def ours(self, text: str) -> str:
        for theirs, ours in self.same.items():
            text = text.replace(theirs, ours)
        return text

    def _last(self, pattern: str) -> str:
        for terminal in (self.here, *self.terminals.values()):
            found = re.findall(pattern, terminal.screen)
            if found:
                return str(found[-1])
        raise AssertionError(f"no terminal has shown {pattern!r}\n{self.here.screen[-2000:]}")

    def close(self) -> None:
        """The terminals that were opened last first: watchers before the broker that they talk to."""
        while self.terminals:
            self.terminals.popitem()[1].close()


@contextmanager
def walking(env: Mapping[str, str], home: Path, scratch: Path, enter: Enter = as_throwaway) -> Iterator[Walk]:
    """`enter` makes a command line one that runs where the walk takes place."""
    walk = Walk(env, home, scratch, enter)
    try:
        yield walk
    finally:
        walk.close()


_TODAY = re.compile(r"^today .*$", re.MULTILINE)
_WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_DATE = rf"(?:{_WEEKDAY},? )?\d{{4}}-\d\d-\d\d"
_DAY = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{1,2}(?:, \d{4})?(?:,| at)?"
_HALF = r" ?(?:[ap]m|[AP]M)"
_ZONE = r" (?:[A-Z]{3,5}|[+-]\d{2,4})"
_CLOCK = rf"(?:\d{{1,2}}(?::\d\d){{1,2}}(?:\.\d+)?(?:{_HALF})?|\d{{1,2}}{_HALF})(?:{_ZONE})?"
_MOMENT = re.compile(
    rf"(?<![^\s(\[\"'])(?:(?:{_DATE}|{_DAY}|{_WEEKDAY}) {_CLOCK}|{_DATE}|{_DAY}|{_CLOCK})(?![^\s),.;:\]])"
)
_DURATION = re.compile(r"(?<![\w.-])\d+(\.\d+)? ?(s|min|h|d|days?)(?![\w-])(?: \d+ (?:s|min|h)\b)?")
_ODD = re.compile(r"(?<![^\s=(\[\"'])(?=[^\s]*\d)(?!\d{1,2}(?![^\s),.;\]]))[^\s]+")


def vague(text: str, places: Mapping[str, str]) -> str:
    """The text without what differs from one walk to the next."""
    for real, shown in places.items():
        text = text.replace(real, shown)
    return "\n".join(map(_vague_line, text.splitlines())).strip("\n") + "\n"


def _vague_line(line: str) -> str:
    line = re.sub(r"\s+", " ", line).strip()
    return _ODD.sub("#", _DURATION.sub("# s", _MOMENT.sub("#", line)))


def pattern_of(promised: str) -> re.Pattern[str]:
    """What a block of text promises, for `vague` text: the same lines, one below the other."""
    lines = vague(promised, {}).splitlines()
    parts = [
        r"(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))).replace(r"\#", r"\S*") + "\n"
        for line in lines
    ]
    return re.compile("".join(["(?m)^", *parts]))
