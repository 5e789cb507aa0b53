"""An agent that follows a script: `python -m agent_mailer.testing.scripted_agent SCRIPT.json`.

The script is `{"steps": [...], "attempts": {"2": [...]}, "witness": "FILE"}`; `attempts` replaces the steps for the
attempt with that number (from AGENT_MAILER_ATTEMPT). `$NAME` and `${NAME}` in texts, paths and words are variables
of the environment. Each step has exactly one key:

    {"print": TEXT}          a line on stdout             {"error": TEXT}     a line on stderr
    {"write": TEXT}          TEXT on stdout, no line end  {"emit": {...}}     an object as one JSON line on stdout
    {"sleep": SECONDS}                                    {"wait_for": FILE}  until FILE exists
    {"touch": FILE}          make FILE                    {"save_prompt": FILE}  stdin into FILE
    {"save_env": FILE}       the environment as JSON into FILE
    {"witness": MARK}        append {"mark", "turn", "message", "attempt", "session", "pid"} to the witness file
    {"ignore": ["TERM"]}     ignore these signals
    {"spawn": {...}}         start a process that sleeps: `seconds`, `session` (its own), `orphan` (its parent leaves),
                             `scrub` (an empty environment), `ignore_term`, `pid_file` (appears with its pid)
    {"run": [WORDS]}         run a command, its output on stderr; the word {python} is this interpreter; a command that
                             fails ends the agent with its status
    {"exit": STATUS}         leave now                    {"die": "KILL"}     die by that signal

At the end of its steps it leaves with status 0; a script that cannot be read is status 64.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess  # noqa: TID251 - an agent starts what it likes
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

_POLL = 0.01
_BAD_SCRIPT = 64

_SLEEPER = """\
[ -z "$3" ] || trap '' TERM
[ -z "$2" ] || { echo $$ >"$2.tmp" && mv "$2.tmp" "$2"; }
exec sleep "$1"
"""


class Spawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seconds: float = 600.0
    session: bool = False
    orphan: bool = False
    scrub: bool = False
    ignore_term: bool = False
    pid_file: str = ""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    print: str | None = None
    error: str | None = None
    write: str | None = None
    emit: dict[str, object] | None = None
    sleep: float | None = None
    wait_for: str | None = None
    touch: str | None = None
    save_prompt: str | None = None
    save_env: str | None = None
    witness: str | None = None
    ignore: list[str] | None = None
    spawn: Spawn | None = None
    run: list[str] | None = None
    exit: int | None = None
    die: str | None = None

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in self.__struct_fields__) != 1:
            raise ValueError("a step has exactly one key")


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: list[Step] = []
    attempts: dict[str, list[Step]] = {}
    witness: str = ""

    def steps_now(self) -> list[Step]:
        return self.attempts.get(os.environ.get("AGENT_MAILER_ATTEMPT", ""), self.steps)


def perform(step: Step, script: Script) -> None:
    if step.print is not None:
        _say(_expand(step.print) + "\n")
    if step.write is not None:
        _say(_expand(step.write))
    if step.emit is not None:
        _say(json.dumps(step.emit) + "\n")
    if step.error is not None:
        sys.stderr.write(_expand(step.error) + "\n")
        sys.stderr.flush()
    if step.sleep is not None:
        time.sleep(step.sleep)
    if step.wait_for is not None:
        awaited = _path(step.wait_for)
        while not awaited.exists():
            time.sleep(_POLL)
    if step.touch is not None:
        _path(step.touch).touch()
    if step.save_prompt is not None:
        _path(step.save_prompt).write_bytes(sys.stdin.buffer.read())
    if step.save_env is not None:
        _path(step.save_env).write_text(json.dumps(dict(os.environ)))
    if step.witness is not None:
        _bear_witness(_path(script.witness), step.witness)
    for name in step.ignore or ():
        signal.signal(_signal(name), signal.SIG_IGN)
    if step.spawn is not None:
        _spawn(step.spawn)
    if step.run is not None:
        _run(step.run)
    if step.exit is not None:
        sys.exit(step.exit)
    if step.die is not None:
        _die(_signal(step.die))


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _bear_witness(path: Path, mark: str) -> None:
    line = {
        "mark": mark,
        "turn": os.environ.get("AGENT_MAILER_TURN_ID"),
        "message": os.environ.get("AGENT_MAILER_MESSAGE_ID"),
        "attempt": os.environ.get("AGENT_MAILER_ATTEMPT"),
        "session": os.environ.get("AGENT_MAILER_SESSION_ID"),
        "pid": os.getpid(),
    }
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # No line lies in two pages: who reads beside a writer, or after one that was killed, finds it whole or not.
        os.write(fd, json.dumps(line).encode().ljust(511) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


def _spawn(spawn: Spawn) -> None:
    words = [str(spawn.seconds), _expand(spawn.pid_file), "yes" if spawn.ignore_term else ""]
    argv = ["/bin/sh", "-c", _SLEEPER, "sleeper", *words]
    if spawn.orphan:
        argv = ["/bin/sh", "-c", '"$@" &', "parent", *argv]
    child = subprocess.Popen(  # noqa: S603
        argv,
        start_new_session=spawn.session,
        env={"PATH": "/usr/bin:/bin"} if spawn.scrub else None,
    )
    if spawn.orphan:
        child.wait()
    if spawn.pid_file:
        while not _path(spawn.pid_file).exists():
            time.sleep(_POLL)


def _run(words: list[str]) -> None:
    argv = [sys.executable if word == "{python}" else _expand(word) for word in words]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)


def _die(number: signal.Signals) -> NoReturn:
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)  # noqa: TID251 - it is itself
    time.sleep(3600)
    raise AssertionError("survived its own signal")


def _signal(name: str) -> signal.Signals:
    return signal.Signals["SIG" + name.removeprefix("SIG")]


def _expand(text: str) -> str:
    return os.path.expandvars(text)


def _path(text: str) -> Path:
    return Path(_expand(text))


def main(arguments: list[str]) -> None:
    try:
        script = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Script)
    except (IndexError, OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"scripted agent: {error}\n")
        sys.exit(_BAD_SCRIPT)
    for step in script.steps_now():
        perform(step, script)


if __name__ == "__main__":
    main(sys.argv[1:])
