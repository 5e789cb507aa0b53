"""`test-runtime`: one tiny real turn with the agent's settings, in a scratch folder."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say, screen_text
from agent_mailer.errors import ConfigFault, ExitCode, MailerError, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.checks.trial import TrialReport
    from agent_mailer.events import LogRecord
    from agent_mailer.state.lock import WorkdirLock

DEFAULT_SECONDS = 120
LONGEST_SECONDS = 86400
LAST_LINES = 5
_STDERR_LOOK = 16 * 1024

Keep = Annotated[bool, typer.Option("--keep", help="Leave the scratch folder where it is, to look around.")]
Timeout = Annotated[int, typer.Option("--timeout", help="Seconds the turn may take.")]

app = single()


@app.command("test-runtime", cls=LightCommand)
def trial_of_runtime(
    workdir: Workdir = None, keep: Keep = False, timeout: Timeout = DEFAULT_SECONDS, as_json: Json = False
) -> None:
    """Have the agent program answer one mail, started just as a watcher starts it; say what is wrong if it does not.

    It works in a scratch folder with a mailbox of its own: the agent's mailbox and state are not touched. Exits 0 with
    an answer, 69 where the program or its service is not to be had, 77 where it is not logged in, else 1.
    """
    try_out(workdir, {}, keep=keep, timeout=timeout, as_json=as_json)


def try_out(workdir: Path | None, flags: Mapping[str, object], *, keep: bool, timeout: int, as_json: bool) -> None:
    """Run the trial turn and leave with its exit status."""
    if not 0 < timeout <= LONGEST_SECONDS:
        raise UsageFault("bad_timeout", f"--timeout {timeout}: give 1 to {LONGEST_SECONDS} seconds", "")
    place = workplace(workdir, flags)
    _require_runtime(place)
    scratch = Path(tempfile.mkdtemp(prefix="agent-mailer-test-")).resolve()
    kept = keep
    try:
        found = _run(place, scratch, timeout, quiet=as_json)
        kept = keep or found.exit_code != ExitCode.OK
    finally:
        if not kept:
            shutil.rmtree(scratch, ignore_errors=True)
    found = msgspec.structs.replace(found, scratch=str(scratch) if kept else None)
    if as_json:
        json_out(found)
    else:
        _tell(found)
    raise typer.Exit(found.exit_code)


def _require_runtime(place: Workplace) -> None:
    """Raises ConfigFault where it is not said what to start; an address is not needed."""
    if place.folder.path.exists():
        place.folder.check()
    lacking = [(key, flag) for key, flag in place.missing() if key != "address"]
    if lacking:
        named = ", ".join(key for key, _ in lacking)
        fix = "agent-mailer init " + " ".join(f"{flag} ..." for _, flag in lacking)
        raise ConfigFault("incomplete", f"{place.folder.config}: missing {named}", fix)


def _run(place: Workplace, scratch: Path, seconds: int, *, quiet: bool) -> TrialReport:
    """The real watcher over a workdir and a mailbox that live as long as this turn."""
    import asyncio

    from agent_mailer.assemble import Workplace
    from agent_mailer.checks.trial import HANDLE, trial_settings
    from agent_mailer.mailbox.maildir.layout import make_root

    workdir, root = scratch / "workdir", scratch / "mail"
    place.disk.make_directory(workdir)
    make_root(place.disk, root, [HANDLE])
    trial = Workplace(workdir, trial_settings(place.config, place.workdir, root, seconds))
    trial.disk.make_directory(trial.folder.path)
    events: list[LogRecord] = []
    trial.log.listen(events.append)
    if not quiet:
        trial.log.listen(_show)
    lock = trial.lock()
    lock.acquire()
    try:
        trial.prepare()
        stopped = asyncio.run(_watch_once(trial, lock))
    finally:
        lock.release()
    if stopped:
        note("stopped")
        raise typer.Exit(130)
    return _report(place, trial, events, seconds)


async def _watch_once(trial: Workplace, lock: WorkdirLock) -> bool:
    """Send the mail and have it worked on; True if a signal ended that."""
    import asyncio

    from agent_mailer.checks.trial import BODY, HANDLE, SUBJECT
    from agent_mailer.mailbox.maildir.layout import USER
    from agent_mailer.mailbox.port import Action, Draft
    from agent_mailer.people.folder import send
    from agent_mailer.people.port import new_key
    from agent_mailer.watch.watcher import Watcher

    draft = Draft(new_key(), Action.SEND, trial.clock.now(), to=(HANDLE,), subject=SUBJECT, body=BODY)
    await send(trial.mailbox(USER), draft)
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
    from agent_mailer.checks.trial import TrialReport, exit_code_of, fix_of
    from agent_mailer.events import EventName
    from agent_mailer.outcomes import Outcome

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
    detail = str(fields.get("detail") or "")
    if outcome is Outcome.DONE and answer is None:
        detail = detail or "the turn ended well, but no answer arrived"
    taken = float(str(fields["seconds"]))
    stderr = _last_lines(turn_dir)
    return TrialReport(code.value, runtime, outcome, detail, taken, answer, stderr, fix)


def _answer(trial: Workplace) -> str | None:
    """What arrived for the person, notices left out."""
    import asyncio

    from agent_mailer.mailbox.maildir.layout import USER
    from agent_mailer.mailbox.port import Automatic, Message

    async def read() -> list[str]:
        mailbox = trial.mailbox(USER)
        found = [await mailbox.read(envelope) for envelope in (await mailbox.pending(10)).envelopes]
        mail = [message for message in found if isinstance(message, Message)]
        return [message.body.strip() for message in mail if message.envelope.automatic is not Automatic.NOTICE]

    return next(iter(asyncio.run(read())), None)


def _fix_by_program(place: Workplace) -> str:
    """What the program says of itself: that it is missing, or its first probe that fails."""
    from agent_mailer.checks.agent import first_complaint
    from agent_mailer.cli.verify import program_of

    try:
        complaint = first_complaint(place.runtime(), program_of(place))
    except MailerError as fault:
        return fault.fix
    return complaint.fix if complaint is not None else ""


def _last_lines(turn_dir: Path) -> tuple[str, ...]:
    from agent_mailer.process.holder import STDERR_FILE
    from agent_mailer.process.output import tail_text

    lines = tail_text(turn_dir / STDERR_FILE, _STDERR_LOOK).splitlines()
    return tuple(printable(line, 300) for line in lines if line.strip())[-LAST_LINES:]


def _show(record: LogRecord) -> None:
    from agent_mailer.cli.terminal.event_lines import as_sentence
    from agent_mailer.events import EventName

    # What would follow for a message of the agent's own would be taken for news of the agent.
    if record.event not in (EventName.PAUSED, EventName.RETRY_SCHEDULED, EventName.DEAD_LETTER):
        say(as_sentence(record))


def _tell(found: TrialReport) -> None:
    from agent_mailer.checks.trial import WORD

    say()
    if not found.exit_code and found.answer is not None:
        say(f"{found.runtime} answered after {found.seconds:.1f} s:\n\n{screen_text(found.answer)}")
        if WORD not in found.answer.lower():
            say(f"\nIt was asked for the word {WORD}: perhaps it has not read the mail.")
    else:
        ended = (
            f"{found.runtime} ended as {found.outcome}" if found.outcome else f"{found.runtime} did not get to a turn"
        )
        say(f"{ended} after {found.seconds:.1f} s: {printable(found.detail, 600) or 'without a word'}")
        if found.answer:
            say(f"  it says: {printable(found.answer, 600)}")
        for line in found.stderr:
            say(f"  stderr: {line}")
        say(f"  mend: {found.fix}")
    if found.scratch:
        say(f"\nKept: {found.scratch}")
