"""A watcher from its start to its end, of a workplace that is known. What parses commands is not needed for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from agent_mailer.cli import stays
from agent_mailer.errors import ExitCode

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable

    from agent_mailer.assemble import Workplace
    from agent_mailer.events import Listener, LogRecord
    from agent_mailer.service.notify import Notifier
    from agent_mailer.state.lock import WorkdirLock
    from agent_mailer.trust.verdict import Verdict
    from agent_mailer.watch.room import Room
    from agent_mailer.watch.watcher import Watcher


def begin() -> Notifier | None:
    """Before anything else, as the process that watches; who is told how it goes, if anybody."""
    from agent_mailer.process.first import heed_signals
    from agent_mailer.service.notify import take_notifier

    if os.getpid() == 1:
        heed_signals()
    return take_notifier(os.environ)


def ready(place: Workplace, *, ignore_mismatch: bool = False) -> None:
    """Raises ConfigFault where it cannot be watched as it is."""
    from agent_mailer.checks.limits import require_proc
    from agent_mailer.watch.trouble import at_the_start

    place.require_complete()
    with at_the_start(place.folder.path):
        if os.path.lexists(place.folder.path):
            place.folder.check()
    if not ignore_mismatch:
        place.require_identity()
    require_proc()


def watch_here() -> ExitCode:
    """`watch --no-interactive` in the current folder. Raises MailerError, OSError."""
    from agent_mailer.assemble import Workplace, workdir_at

    notifier = begin()
    return watch_at(Workplace(workdir_at(None), {}), notifier)


def watch_at(
    place: Workplace, notifier: Notifier | None, *, once: bool = False, ignore_mismatch: bool = False
) -> ExitCode:
    """Until it is told to end; with `once`, until what is due has run. Raises MailerError, OSError."""
    from agent_mailer.state.workdirs import remember
    from agent_mailer.watch.trouble import at_the_start

    ready(place, ignore_mismatch=ignore_mismatch)
    stays()
    _tell_unknown(place)
    lock = place.lock()
    with at_the_start(place.folder.path):
        place.folder.disk.make_directory(place.folder.path)
        lock.acquire()
    try:
        tell_lost = _show_events(place)
        with at_the_start(place.folder.path):
            place.prepare()
        before = place.trust.verdict
        place.trust.remember()
        remember(place.workdir)
        try:
            return asyncio.run(_run(place, lock, notifier, before, once=once))
        finally:
            tell_lost()
    finally:
        lock.release()


def _tell_unknown(place: Workplace) -> None:
    """A key with a typing error counts for nothing, which nobody would find."""
    from agent_mailer.cli.terminal.printing import note
    from agent_mailer.config_faults import EDIT, Mistyped, look_alikes, told

    for key in place.loaded.unknown:
        note(f"warning: {told(place.folder.config, [Mistyped(key, look_alikes(key))])} ({EDIT})")


async def _run(
    place: Workplace, lock: WorkdirLock, notifier: Notifier | None, verdict: Verdict, *, once: bool
) -> ExitCode:
    from agent_mailer import __version__
    from agent_mailer.events import EventName
    from agent_mailer.retake import ConfigFiles
    from agent_mailer.state.notes import seed_memory
    from agent_mailer.watch.settings import Settings
    from agent_mailer.watch.trouble import at_the_start
    from agent_mailer.watch.watcher import End, Watcher

    with at_the_start(place.folder.path):
        seed_memory(place.folder.memory, place.config.agent_name or place.handle, place.disk)
        room = place.room(lock)
    await _prove(place, room)
    settings = Settings(room, ConfigFiles(place, verdict))
    watcher = Watcher(room, once=once, settings=settings)
    _obey_signals(watcher, lock)
    place.log.emit(
        EventName.WATCH_STARTED,
        version=__version__,
        agent=place.handle,
        mailbox=place.config.mailbox_kind.value,
        runtime=place.config.runtime.value if place.config.runtime else None,
        sandbox=place.config.sandbox.kind.value,
        pid=os.getpid(),
    )
    _tell_what_is_short(place)
    with at_the_start(place.folder.path):
        settings.begin()
    beats = _report(place, notifier) if notifier is not None else None
    end = await watcher.run()
    if beats is not None:
        beats.cancel()
    if end is End.HANDED_OVER:
        place.log.emit(EventName.WATCH_HANDED_OVER)
    else:
        pause = place.state.pause.read()
        place.log.emit(EventName.WATCH_STOPPED, reason=end.value, paused=pause.reason.value if pause else None)
    return ExitCode.FAILED if once and watcher.failed else ExitCode.OK


def _tell_what_is_short(place: Workplace) -> None:
    """Before it hurts: what mail will sooner or later run into here."""
    from agent_mailer.checks import Level
    from agent_mailer.checks.limits import check_limits
    from agent_mailer.checks.machine import check_disk, check_file_events
    from agent_mailer.events import EventName

    folder = place.folder.path
    for found in (
        *check_limits(place.config.max_parallel_turns),
        *check_disk([folder, *place.folders_in_git()]),
        check_file_events(folder),
    ):
        if found.result is not Level.OK:
            place.log.emit(EventName.MACHINE_SHORT, why=f"{found.looked_at}: {found.text}", fix=found.fix)


async def _prove(place: Workplace, room: Room) -> None:
    """No turn is started in a sandbox that does not hold. Raises ConfigFault."""
    from agent_mailer.errors import ConfigFault
    from agent_mailer.runtimes.port import RuntimeMissing

    if room.confinement is None:
        return
    from agent_mailer.checks.agent import program_of

    try:
        launch = program_of(place).launch
    except RuntimeMissing:
        return  # there is no turn without it; the first one that can be started is preceded by the proof
    proof = await room.confinement.prove(launch)
    if not proof.holds:
        raise ConfigFault(
            "sandbox_not_proved", f"the sandbox does not hold, so no turn is started: {proof.text}", proof.fix
        )


def _report(place: Workplace, notifier: Notifier) -> Task[None]:
    """Tell systemd that we are ready, and from then on what we do. The task shows that the loop turns."""
    import faulthandler

    from agent_mailer.service.notify import Reporter

    if notifier.watchdog is not None:
        # What systemd sends to a loop that stands still: where it stands is then in the journal.
        faulthandler.enable(all_threads=False)
    reporter = Reporter(notifier, place.state.pause.read())
    place.log.listen(reporter.note)
    reporter.begin()
    return asyncio.create_task(notifier.keep_beating())


def _obey_signals(watcher: Watcher, lock: WorkdirLock) -> None:
    """TERM, INT and HUP stop after a grace, asked twice at once; USR1 hands over. What we are left, we reap.

    Who started us may want HUP and INT ignored: nohup does, and a shell for what it puts into the background.
    """
    from agent_mailer.process.first import reap_strangers
    from agent_mailer.processes import inherit_orphans

    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        lock.leaving()
        watcher.stop(None if asked == 1 else 0.0)

    def hand_over() -> None:
        lock.leaving()
        watcher.hand_over()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR1, hand_over)
    if inherit_orphans():
        loop.add_signal_handler(signal.SIGCHLD, reap_strangers)


def _show_events(place: Workplace) -> Callable[[], None]:
    """Returns what tells, at the end, of lines that nobody has read."""
    from agent_mailer.cli.terminal.streams import unhurried
    from agent_mailer.events import EventName

    streams = unhurried()
    show = _printer(place)

    def tell_lost(*, at_the_end: bool) -> None:
        if lost := sum(stream.take_lost(at_the_end=at_the_end) for stream in streams):
            place.log.emit(EventName.OUTPUT_DROPPED, lines=lost)

    def listener(record: LogRecord) -> None:
        # First: with this record there is again something to be read.
        tell_lost(at_the_end=False)
        show(record)

    place.log.listen(listener)
    return lambda: tell_lost(at_the_end=True)


def _printer(place: Workplace) -> Listener:
    """On a terminal a line a mail, else the log's own lines."""
    if not sys.stdout.isatty():
        from agent_mailer.cli.terminal.event_lines import as_json_line

        return as_json_line
    from functools import partial

    from agent_mailer.cli.watch.screen import Screen, header
    from agent_mailer.views.health import LOGINS

    login = LOGINS.get(place.config.runtime, "") if place.config.runtime is not None else ""
    return Screen(partial(header, place), login).show
