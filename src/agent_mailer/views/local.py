"""The status of a workdir, read from its state and its mailbox."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.views.health import next_wake, problems_of, urgency
from agent_mailer.views.kept import stuck_counts
from agent_mailer.views.log import tail
from agent_mailer.views.turns import last_results
from agent_mailer.views.values import status as view
from agent_mailer.views.values.history import SpentView
from agent_mailer.views.values.status import MailboxView, QueuedView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Envelope
    from agent_mailer.state.turns import OpenTurn


QUEUE_SHOWN = 5
READ = 500
"""So many of the oldest files are read; of the rest the names are counted."""

BROKER_SECONDS = 3.0

Look = Callable[["Workplace", set[str]], MailboxView]
"""From a workplace and the ids that are in work or to be retried there, to what waits besides."""


def look_at_mailbox(place: Workplace, ours: set[str]) -> MailboxView:
    """A broker that does not answer soon is not waited for."""
    from agent_mailer.config import MailboxKind

    return _at_broker(place, ours) if place.config.mailbox_kind is MailboxKind.AMP else _in_folder(place, ours)


def look_without_asking(place: Workplace, ours: set[str]) -> MailboxView:
    """The same, but no broker is asked: forty of them would not answer at once."""
    from agent_mailer.config import MailboxKind

    if place.config.mailbox_kind is not MailboxKind.AMP:
        return _in_folder(place, ours)
    return MailboxView("amp", place.config.address, _url(place), waiting=None)


def _in_folder(place: Workplace, ours: set[str]) -> MailboxView:
    from agent_mailer.mailbox.maildir.layout import Paths, check_handle, require_root

    address = place.handle
    root = None
    try:
        root = place.maildir_root()
        require_root(root)
        check_handle(address)
        return _waiting(place, root, Paths(root, address).new, ours)
    except MailerError as fault:
        return MailboxView("maildir", address, str(root) if root else None, problem=fault.message)
    except OSError as error:
        return MailboxView("maildir", address, str(root), problem=f"{error.filename}: {error.strerror}")


def _waiting(place: Workplace, root: Path, folder: Path, ours: set[str]) -> MailboxView:
    from agent_mailer.mailbox.maildir.listing import is_message_name, read_names
    from agent_mailer.mailbox.port import Envelope

    names = sorted(name for name in os.listdir(folder) if is_message_name(name))
    if not names:
        return MailboxView("maildir", place.handle, str(root))
    read = list(read_names(folder, names[:READ]))
    envelopes = [found for found in read if isinstance(found, Envelope)]
    others = [name.removesuffix(".md") for name in names[READ:]]
    known = ours | place.state.processed.among([e.id for e in envelopes] + others)
    waiting = [envelope for envelope in envelopes if envelope.id not in known]
    more = sum(1 for message_id in others if message_id not in known)
    unreadable = len(read) - len(envelopes)
    queue = _oldest(waiting, place.clock.now())
    return MailboxView("maildir", place.handle, str(root), len(waiting) + more, unreadable, queue=queue)


def _oldest(envelopes: list[Envelope], now: float) -> tuple[QueuedView, ...]:
    oldest = sorted(envelopes, key=lambda envelope: envelope.created)[:QUEUE_SHOWN]
    return tuple(
        QueuedView(e.id, e.thread, e.sender, e.priority.value, round(max(0.0, now - e.created), 1)) for e in oldest
    )


def _at_broker(place: Workplace, ours: set[str]) -> MailboxView:
    import asyncio

    from agent_mailer.mailbox.amp.client import Credentials, at_broker
    from agent_mailer.mailbox.amp.reading import BrokerInbox

    config = place.config
    inbox = BrokerInbox(Credentials(config.broker_url, config.agent_id, config.api_key), config.address)

    async def ask() -> tuple[int, list[Envelope]]:
        async with asyncio.timeout(BROKER_SECONDS):
            return await inbox.waiting(QUEUE_SHOWN + len(ours))

    try:
        with at_broker():
            total, oldest = asyncio.run(ask())
    except MailerError as fault:
        return MailboxView("amp", config.address, _url(place), problem=fault.message)
    except TimeoutError:
        return MailboxView("amp", config.address, _url(place), problem=f"no answer within {BROKER_SECONDS:.0f} s")
    new = [envelope for envelope in oldest if envelope.id not in ours]
    queue = _oldest(new, place.clock.now())
    return MailboxView("amp", config.address, _url(place), max(len(new), total - len(ours)), queue=queue)


def _url(place: Workplace) -> str:
    from agent_mailer.names import shown_url

    return shown_url(place.config.broker_url)


LAST_EVENTS = 5


def look(place: Workplace, mailbox_of: Look = look_at_mailbox, *, past: bool = True) -> view.StatusView:
    """The state as it is now. Without `past` neither results nor events are looked for."""
    damaged: list[tuple[Path, str]] = []

    def note(path: Path, why: str) -> None:
        damaged.append((path, why))
        tell(path, why)

    now = place.clock.now()
    with place.folder.telling(note) as tell:
        found = _read(place, mailbox_of, now, past=past)
    problems = problems_of(found, damaged, place.config.runtime)
    return msgspec.structs.replace(
        found, healthy=not problems, problems=tuple(problems), next_wake=next_wake(found, now)
    )


def _read(place: Workplace, mailbox_of: Look, now: float, *, past: bool) -> view.StatusView:
    from agent_mailer.state.notices import seen_from_outside

    state = place.state
    watcher = _watcher(place)
    trouble = (state.trouble.read() or seen_from_outside(place.folder.path, now)) if watcher.running else None
    pause, today = state.pause.read(), state.usage.today()
    open_turns = [turn for turn in state.turns.indexed() if not state.turns.is_settled(turn.turn_id)]
    busy = {turn.msg_id for turn in open_turns}
    retries = [entry for entry in state.retries.all() if entry.envelope.id not in busy]
    mailbox = mailbox_of(place, busy | {entry.envelope.id for entry in retries})
    # Whoever has answered is waited for no longer, though the answer waits.
    moving = {turn.thread_id for turn in open_turns} | {queued.thread for queued in mailbox.queue}
    return view.StatusView(
        workdir=str(place.workdir),
        agent=place.config.agent_name or place.handle,
        runtime=place.config.runtime.value if place.config.runtime else None,
        healthy=True,
        problems=(),
        watcher=watcher,
        mailbox=mailbox,
        running=tuple(_turn(place, turn, now) for turn in open_turns),
        retries=tuple(
            view.RetryView(
                entry.envelope.id,
                entry.envelope.thread,
                entry.attempts,
                entry.starts,
                round(max(0.0, entry.not_before - now), 1),
                entry.last_outcome.value if entry.last_outcome else None,
                entry.not_before,
            )
            for entry in retries
        ),
        blocked=tuple(
            view.BlockedView(q.thread, q.message_id, q.turn_id, q.asked, q.at, q.text)
            for q in state.questions.all()
            if q.thread not in moving
        ),
        dead_letters=state.dead_letters.count(),
        pause=view.PauseView(pause.reason.value, pause.since, pause.until, pause.detail) if pause else None,
        trouble=view.TroubleView(trouble.what.value, trouble.since, trouble.why, trouble.fix) if trouble else None,
        results=last_results(place) if past else (),
        today=SpentView(
            today.turns,
            today.seconds,
            today.usage.input_tokens,
            today.usage.output_tokens,
            round(today.usage.cost_usd, 6),
        ),
        next_wake=None,
        stuck=stuck_counts(state),
        last_events=tuple(line.record for line in tail(place.folder.log, LAST_EVENTS)) if past else (),
    )


def _turn(place: Workplace, turn: OpenTurn, now: float) -> view.RunningView:
    found = view.RunningView(
        turn.turn_id,
        turn.msg_id,
        turn.thread_id,
        turn.envelope.sender,
        turn.phase.value,
        round(now - turn.started_at, 1),
    )
    progress = place.state.turns.progress(turn.turn_id)
    if progress is None:
        return found
    usage = progress.usage
    return msgspec.structs.replace(
        found,
        doing=progress.doing,
        tool=progress.tool,
        tool_seconds=round(now - progress.tool_since, 1) if progress.tool_since is not None else None,
        tokens=usage.input_tokens + usage.output_tokens if usage else None,
        cost_usd=usage.cost_usd if usage else None,
    )


def _watcher(place: Workplace) -> view.WatcherView:
    """Who holds the lock, also where that is another client, which writes down no more than a number."""
    from agent_mailer.checks.machine import flock_holder
    from agent_mailer.process.handle import read_stat, runs_for
    from agent_mailer.state.lock import holder_of

    path = place.folder.path / ".lock"
    holder = holder_of(path)
    pid = holder.process.pid if holder is not None else None
    if holder is None:
        with suppress(OSError, ValueError):
            pid = flock_holder(path)
    if pid is None:
        return view.WatcherView(running=False)
    stat = read_stat(pid)
    seconds = runs_for(stat) if stat is not None else None
    return view.WatcherView(
        running=True,
        pid=pid,
        version=holder.version if holder is not None else None,
        seconds=round(seconds, 1) if seconds is not None else None,
        halted=stat is not None and stat.halted,
    )


def everywhere() -> view.AllView:
    """Every workdir of this user. No broker is asked: what waits there is not known."""
    from agent_mailer.disk import Disk
    from agent_mailer.state.workdirs import known_workdirs

    found = sorted((_at(workdir) for workdir in known_workdirs(Disk()).all()), key=urgency)
    return view.AllView(all(one.healthy for one in found), tuple(found))


def _at(workdir: Path) -> view.StatusView | view.FaultView:
    try:
        return look(place_at(workdir), look_without_asking, past=False)
    except MailerError as fault:
        problem = view.ProblemView(view.Problem.UNREADABLE, fault.message, fault.fix)
    except OSError as error:
        text = f"{error.filename or workdir}: {error.strerror or error}"
        problem = view.ProblemView(view.Problem.UNREADABLE, text, f"ls -la {workdir}")
    return view.FaultView(str(workdir), (problem,))


def place_at(workdir: Path) -> Workplace:
    """A workdir to be looked at, made anew for each look: what was read once would be shown for ever."""
    from agent_mailer.assemble import Workplace

    place = Workplace(workdir, damaged=lambda *_: None)
    place.folder.check()
    return place
