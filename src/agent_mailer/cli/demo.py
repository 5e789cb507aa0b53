"""`demo`: two agents at work, on this machine, in a scratch folder."""

from __future__ import annotations

import errno
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import note, say, screen_text
from agent_mailer.cli.terminal.screen import Ink, paint
from agent_mailer.errors import MailerError, UsageFault

if TYPE_CHECKING:
    from types import FrameType

    from agent_mailer.demo.stage import Stage

ANSWER_SECONDS = 60
PREFIX = "agent-mailer-demo-"
NOBODY_READS = (errno.EPIPE, errno.EIO)
"""The pipe is closed, the terminal is gone."""

LOOK_EVERY = 0.03


app = single()


@app.command("demo", cls=FastCommand)
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch folder where it is, to look around.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Use this folder; it must be new or empty.")
    ] = None,
    broker: Annotated[
        bool, typer.Option("--broker", help="By way of a broker, as agents on different machines would.")
    ] = False,
) -> None:
    """Watch two agents work: one task is sent, handed on, done, and answered."""
    stage = _stage(folder, broker=broker)
    if not keep:
        stage.live_apart()
    try:
        with staged(stage, keep=keep):
            _play(stage)
    except MailerError as fault:
        say()
        raise MailerError(
            fault.code, f"the demo did not come to its end: {fault.message}", f"look into {stage.folder}/*.log"
        ) from None
    if keep:
        say(f"Kept: {stage.folder} ({stage.mail_is})\n")
    say(_within_reach(stage.how_to).rstrip("\n"))


class Staged(Protocol):
    """What is played in a scratch folder, with programs of its own."""

    def close(self) -> None:
        """End every program."""

    def remove(self) -> None:
        """Remove the folder."""


@contextmanager
def staged(stage: Staged, *, keep: bool) -> Iterator[None]:
    """Ends what was started, however it is left, also by a signal, or by a reader who has seen enough. The folder stays
    after a fault, or to `keep` it.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    kept = keep
    try:
        yield
    except KeyboardInterrupt:
        _tell_stopping()
        raise
    except Exception as fault:
        kept = keep or not (isinstance(fault, OSError) and fault.errno in NOBODY_READS)
        raise
    finally:
        # From here on nothing may keep us from ending what was started; it takes a few seconds at most.
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        stage.close()
        if not kept:
            stage.remove()
        for number, heeds in before.items():
            signal.signal(number, heeds)


def _stage(folder: Path | None, *, broker: bool) -> Stage:
    if broker:
        from agent_mailer.cli.broker.database import require_extra
        from agent_mailer.demo.stage import BrokerStage

        require_extra()
        return BrokerStage(_scratch(folder))
    from agent_mailer.demo.stage import FolderStage

    return FolderStage(_scratch(folder))


def _play(stage: Stage) -> None:
    from agent_mailer.demo.story import NAMES, TASK_BODY, TASK_SUBJECT

    started = time.monotonic()
    say(f"Two agents, planner and coder, in {stage.folder}. Each is a folder, a shell script and a watcher.\n")
    for who, what in stage.prepare():
        _line(started, who, what)
    stage.start_watchers()
    _line(started, "you", f'send "{TASK_SUBJECT}" to planner')
    stage.send_task(ANSWER_SECONDS)
    while (finished := stage.answered()) is None:
        _tell_news(stage, started)
        gone = stage.ended_watcher()
        if gone is not None:
            _tell_news(stage, started)
            raise MailerError("watcher_ended", f"the watcher of {gone} ended: {_last_line(stage.output(gone))}")
        time.sleep(LOOK_EVERY)
    time.sleep(LOOK_EVERY)
    _tell_news(stage, started)
    body = _answer(finished.status, finished.output)
    _line(started, "you", "have mail from planner")
    say(f"\nYou had asked:\n\n    {TASK_BODY}\n\nThe answer, as `agent-mailer send --wait` prints it:\n")
    for line in screen_text(body).rstrip("\n").splitlines():
        say(f"    {line}")
    took = time.monotonic() - started
    say(f"\nThat took {took:.1f} s. Nothing else ran: {stage.else_ran}, {len(NAMES)} watchers.\n")


def _tell_news(stage: Stage, started: float) -> None:
    """Raises MailerError at the first event that does not belong here."""
    from agent_mailer.demo.story import is_trouble, tell

    for name, event in stage.new_events():
        told = tell(event)
        if told:
            _line(started, name, told)
        if is_trouble(event):
            raise MailerError("trouble", f"{name}: {told}")


def _answer(status: int, output: str) -> str:
    """The answering mail as text. Raises MailerError where there is none."""
    import msgspec

    from agent_mailer.clock import from_iso, iso

    shape = json_of(output)
    answer = shape.get("answer") if isinstance(shape, dict) else None
    if status or not isinstance(answer, dict):
        raise MailerError("no_answer", f"no answer came: agent-mailer send ended with status {status}")
    head = [
        ("From", str(answer["from"])),
        ("To", ", ".join(msgspec.convert(answer["to"], list[str]))),
        ("Date", iso(from_iso(str(answer["created"])))),
        ("Subject", str(answer["subject"])),
    ]
    return "\n".join(f"{name}: {value}" for name, value in head) + f"\n\n{answer['body']}"


def json_of(output: str) -> object:
    """The JSON at the end; lines on what happened on the way stand before it."""
    import msgspec

    try:
        return msgspec.json.decode(output[output.index("\n{\n") :] if "\n{\n" in output else output)
    except msgspec.DecodeError:
        return None


def _within_reach(how_to: str) -> str:
    """The next steps as they work in the reader's shell: from a checkout its PATH lacks the program."""
    folder = Path(sys.argv[0]).absolute().parent
    if shutil.which("agent-mailer") is not None or not (folder / "agent-mailer").exists():
        return how_to
    heading, gap, steps = how_to.partition("\n\n")
    reach = f"  export PATH={shlex.quote(str(folder))}:$PATH    # in both terminals, until it is installed"
    return f"{heading}{gap}{reach}\n{steps}"


def _line(started: float, who: str, what: str) -> None:
    named = paint(f"{who:<8}", Ink.BOLD if who == "you" else Ink.CYAN)
    say(f"{paint(f'{time.monotonic() - started:6.1f} s', Ink.FAINT)}  {named} {what}")


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return screen_text(lines[-1]) if lines else "it said nothing"


def _scratch(folder: Path | None) -> Path:
    if folder is None:
        from agent_mailer.demo.stage import clear_away

        clear_away(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
        return Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    folder = Path(folder).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageFault("not_empty", f"{folder} is not empty", "give a new folder")
    except (FileExistsError, NotADirectoryError):
        raise UsageFault("no_folder", f"{folder} is not a folder", "give a new folder") from None
    return folder


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    _tell_stopping()
    sys.exit(128 + number)


def _tell_stopping() -> None:
    with suppress(OSError):
        note("stopping")
