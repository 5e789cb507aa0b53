"""A trial turn: one mail, worked on by the real watcher with the agent's settings, in a scratch folder."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.checks.agent import first_complaint, program_of
from agent_mailer.config import Config, expand
from agent_mailer.errors import ExitCode, MailerError
from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.maildir.layout import USER, make_root
from agent_mailer.mailbox.port import Action, Automatic, Draft, Message
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.people import new_key
from agent_mailer.people.folder import FolderMail
from agent_mailer.people.send import send
from agent_mailer.process.holder import STDERR_FILE
from agent_mailer.process.output import tail_text
from agent_mailer.watch.watcher import Watcher

if TYPE_CHECKING:
    from agent_mailer.state.lock import WorkdirLock

LAST_LINES = 5
_STDERR_LOOK = 16 * 1024

HANDLE = "agent"
SUBJECT = "trial"
WORD = "pong"
BODY = f"This is a trial of the mail and of nothing else. Answer with the one word {WORD}, then end. Change no file.\n"

TAKEN_OVER = (
    "runtime",
    "agent",
    "permission_mode",
    "claude_command",
    "codex_command",
    "infiniti_command",
    "model",
    "extra_args",
    "tools",
    "max_budget_usd",
    "config_home",
    "command",
    "command_output",
    "env",
    "first_output_timeout",
    "silence_timeout",
    "tool_timeout",
)
"""What decides how the agent program is started. Neither the project nor the mailbox nor a key of the broker."""


def trial_settings(config: Config, workdir: Path, root: Path, seconds: int) -> dict[str, object]:
    """The settings of the trial, as flags of its own workdir: one message, one attempt, `seconds` of time.

    What they name relative to the agent's `workdir` is named whole, since the trial works elsewhere. Raises ConfigFault
    for what can be no path.
    """
    plain: dict[str, object] = msgspec.to_builtins(config, builtin_types=())
    settings = {key: plain[key] for key in TAKEN_OVER if key in plain}
    for key in ("claude_command", "codex_command", "infiniti_command"):
        settings[key] = _program(str(settings[key]), workdir)
    settings["command"] = [
        _program(word, workdir) if not i else _file(word, workdir) for i, word in enumerate(config.command)
    ]
    if config.config_home:
        settings["config_home"] = str(expand(config.config_home, workdir))
    opened = config.sandbox
    settings["sandbox"] = {
        **msgspec.to_builtins(opened),
        **{key: [str(expand(path, workdir)) for path in getattr(opened, key)] for key in ("write", "hide")},
        # The agent's own workdir, with the program in it perhaps, is another agent's for the trial.
        "read": [str(expand(path, workdir)) for path in (*opened.read, ".")],
        "command": [_program(word, workdir) if not i else word for i, word in enumerate(opened.command)],
    }
    return {
        **settings,
        "address": HANDLE,
        "agent_name": HANDLE,
        "mailbox": "maildir",
        "maildir_root": str(root),
        "auto_reply": "if-silent",
        "max_retries": 0,
        "max_starts": 2,
        "max_parallel_turns": 1,
        "turn_timeout": seconds,
        "keep_transcripts": 1,
        "stop_grace": 0,
    }


def _program(word: str, workdir: Path) -> str:
    """A program named with a slash is taken from the workdir; any other from the PATH."""
    return str(workdir.absolute() / word) if "/" in word else word


def _file(word: str, workdir: Path) -> str:
    """An argument that is a file of the workdir, like the script of an interpreter."""
    try:
        return str(workdir.absolute() / word) if word and (workdir / word).is_file() else word
    except (OSError, ValueError):
        return word


class TrialReport(msgspec.Struct, frozen=True):
    """What `test-runtime --json` prints. `outcome` None = no turn came to an end; `stderr` its last lines.

    `scratch` is the folder that was kept, with the turn's whole output; `exit_code` that of the command.
    """

    exit_code: int
    runtime: str
    outcome: Outcome | None
    detail: str
    seconds: float
    answer: str | None
    stderr: tuple[str, ...]
    fix: str
    scratch: str | None = None


def exit_code_of(outcome: Outcome | None, *, answered: bool) -> ExitCode:
    if outcome is Outcome.DONE and answered:
        return ExitCode.OK
    if outcome in (Outcome.UNAVAILABLE, Outcome.LIMITED):
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED if outcome is Outcome.SIGNED_OUT else ExitCode.FAILED


def fix_of(outcome: Outcome | None, seconds: int, transcript: str) -> str:
    """The command that mends it, where neither the program nor its probes name a better one.

    `transcript` is the folder with the turn's stdout and stderr.
    """
    match outcome:
        case Outcome.DONE:
            return f"it printed no answer: look at {transcript}/stdout"
        case Outcome.BLOCKED:
            return "agent-mailer config set permission_mode MODE (acceptEdits, bypassPermissions or plan)"
        case Outcome.TIMED_OUT:
            return f"give it more time: --timeout {seconds * 3}; or look at {transcript}/stdout"
        case Outcome.LIMITED:
            return "wait until the limit is lifted (a watcher does), or log in with another account"
        case Outcome.SIGNED_OUT:
            return "log the program in, or name its key in [env] pass: agent-mailer config edit"
        case Outcome.UNAVAILABLE:
            return "agent-mailer doctor"
        case Outcome.INTERRUPTED:
            return "run it again"
        case None:
            return "agent-mailer doctor"
        case _:
            return f"look at {transcript}/stderr and {transcript}/stdout, then: agent-mailer config edit"


def try_turn(place: Workplace, seconds: int, listen: Callable[[LogRecord], None], *, keep: bool) -> TrialReport | None:
    """Have the agent program answer one mail; neither the agent's mailbox nor its state is touched.

    `listen` gets each event as it happens. The scratch folder stays with `keep`, or where there was no answer. Returns
    None where a signal ended it; raises ConfigFault where it is not said what to start: an address is not needed.
    """
    if place.folder.path.exists():
        place.folder.check()
    lacking = [(key, flag) for key, flag in place.missing() if key != "address"]
    if lacking:
        from agent_mailer.config_faults import incomplete

        raise incomplete(place.folder.config, place.loaded, lacking)
    scratch = Path(tempfile.mkdtemp(prefix="agent-mailer-test-")).resolve()
    kept = keep
    try:
        found = _run(place, scratch, seconds, listen)
        kept = keep or (found is not None and found.exit_code != ExitCode.OK)
    finally:
        if not kept:
            shutil.rmtree(scratch, ignore_errors=True)
    return found and msgspec.structs.replace(found, scratch=str(scratch) if kept else None)


def _run(place: Workplace, scratch: Path, seconds: int, listen: Callable[[LogRecord], None]) -> TrialReport | None:
    """The real watcher over a workdir and a mailbox that live as long as this turn."""
    workdir, root = scratch / "workdir", scratch / "mail"
    place.disk.make_directory(workdir)
    make_root(place.disk, root, [HANDLE])
    trial = Workplace(workdir, trial_settings(place.config, place.workdir, root, seconds))
    trial.disk.make_directory(trial.folder.path)
    events: list[LogRecord] = []
    trial.log.listen(events.append)
    trial.log.listen(listen)
    lock = trial.lock()
    lock.acquire()
    try:
        trial.folder.prepare()
        stopped = asyncio.run(_watch_once(trial, lock))
    finally:
        lock.release()
    return None if stopped else _report(place, trial, events, seconds)


async def _watch_once(trial: Workplace, lock: WorkdirLock) -> bool:
    """Send the mail and have it worked on; True if a signal ended that."""
    draft = Draft(new_key(), Action.SEND, trial.clock.now(), to=(HANDLE,), subject=SUBJECT, body=BODY)
    await send(FolderMail(trial.mailbox(USER)), draft)
    # A pause of the account neither holds this turn back nor comes of it: a person asked for one try.
    watcher = Watcher(trial.room(lock, alone=True), once=True)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        watcher.stop(0.0)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    await watcher.run()
    return stopped


def _report(place: Workplace, trial: Workplace, events: Sequence[LogRecord], seconds: int) -> TrialReport:
    """What happened, and where it went wrong the best word there is on what mends it."""
    runtime = str(place.config.runtime)
    ends = [event for event in events if event.event is EventName.TURN_ENDED]
    if not ends:
        why = next((str(event.fields["why"]) for event in reversed(events) if "why" in event.fields), "no turn ended")
        code, fix = exit_code_of(None, answered=False), fix_of(None, seconds, "")
        return TrialReport(code.value, runtime, None, why, 0.0, None, (), fix)
    fields = ends[-1].fields
    outcome = Outcome(str(fields["outcome"]))
    answer = _answer(trial) if outcome.settles else None
    code = exit_code_of(outcome, answered=answer is not None)
    turn_dir = trial.state.turns.path(str(fields["turn_id"]))
    fix = "" if code is ExitCode.OK else _fix_by_program(place) or fix_of(outcome, seconds, str(turn_dir))
    detail = str(fields.get("detail") or "").removesuffix(f" ({fix})")
    if outcome is Outcome.DONE and answer is None:
        detail = detail or "the turn ended well, but no answer arrived"
    taken = float(str(fields["seconds"]))
    stderr = _last_lines(turn_dir)
    return TrialReport(code.value, runtime, outcome, detail, taken, answer, stderr, fix)


def _answer(trial: Workplace) -> str | None:
    """What arrived for the person, notices left out."""

    async def read() -> list[str]:
        mailbox = trial.mailbox(USER)
        found = [await mailbox.read(envelope) for envelope in (await mailbox.pending(10)).envelopes]
        mail = [message for message in found if isinstance(message, Message)]
        return [message.body.strip() for message in mail if message.envelope.automatic is not Automatic.NOTICE]

    return next(iter(asyncio.run(read())), None)


def _fix_by_program(place: Workplace) -> str:
    """What the program says of itself: that it is missing, or its first probe that fails."""
    try:
        complaint = first_complaint(place.runtime(), program_of(place))
    except MailerError as fault:
        return fault.fix
    return complaint.fix if complaint is not None else ""


def _last_lines(turn_dir: Path) -> tuple[str, ...]:
    lines = tail_text(turn_dir / STDERR_FILE, _STDERR_LOOK).splitlines()
    return tuple(printable(line, 300) for line in lines if line.strip())[-LAST_LINES:]
