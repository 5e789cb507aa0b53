"""The status of a workdir, read from its state and its mailbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import MailerError, quoted, said_of
from agent_mailer.teams.stopped import starts_again
from agent_mailer.views.configured import configured
from agent_mailer.views.health import Learned, next_wake, problems_of, urgency
from agent_mailer.views.kept import asked_of, held_counts, offered_in, stuck_counts, tried_again, untold, without_asked
from agent_mailer.views.log import tail
from agent_mailer.views.pulse import Listen, Pulses, ask_all, could_answer, listen
from agent_mailer.views.reserved import in_the_way
from agent_mailer.views.schedules import schedules
from agent_mailer.views.spending import uncounted
from agent_mailer.views.taken import Count, taken_by_others
from agent_mailer.views.turns import last_results, running_turn, settling_turn
from agent_mailer.views.values import status as view
from agent_mailer.views.values.history import SpentView
from agent_mailer.views.values.status import MailboxView, QueuedView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Envelope

QUEUE_SHOWN = 5
READ = 500
"""So many of the oldest files are read; of the rest the names are counted."""

READ_AT_BROKER = 100
BROKER_SECONDS = 3.0

Look = Callable[["Workplace", set[str]], MailboxView]
"""From a workplace and the ids that are in work or to be retried there, to what waits besides."""


def look_at_mailbox(place: Workplace, ours: set[str]) -> MailboxView:
    """A broker that does not answer soon is not waited for."""
    from agent_mailer.config import MailboxKind

    if place.config.mailbox_kind in (MailboxKind.MCP_AGENT_MAIL, MailboxKind.RELAY):
        return _at_server(place, ours)
    return _at_broker(place, ours) if place.config.mailbox_kind is MailboxKind.AMP else _in_folder(place, ours)


def look_without_asking(place: Workplace, ours: set[str], taken: Count = taken_by_others) -> MailboxView:
    """The same, but no broker is asked: forty of them would not answer at once."""
    if place.in_folder:
        return _in_folder(place, ours, taken)
    return MailboxView(place.config.mailbox_kind.value, place.config.address, _url(place), waiting=None)


def _in_folder(place: Workplace, ours: set[str], taken: Count = taken_by_others) -> MailboxView:
    from agent_mailer.mailbox.maildir.layout import Paths, check_handle, require_root

    address = place.handle
    if not address and "address" in place.trust.verdict.changed:
        # That is told: whose mailbox it would be is not known before.
        return MailboxView("maildir", "", waiting=None)
    root = None
    try:
        root = place.maildir_root()
        require_root(root)
        check_handle(address)
        return _waiting(place, root, Paths(root, address).new, ours, taken)
    except MailerError as fault:
        return MailboxView("maildir", address, str(root) if root else None, problem=fault.message)
    except OSError as error:
        return MailboxView("maildir", address, str(root), problem=f"{error.filename}: {error.strerror}")


def _waiting(place: Workplace, root: Path, folder: Path, ours: set[str], taken: Count) -> MailboxView:
    from agent_mailer.mailbox.maildir.dated import read_names
    from agent_mailer.mailbox.maildir.format import is_message_name
    from agent_mailer.mailbox.port import Envelope

    names = sorted(name for name in os.listdir(folder) if is_message_name(name))
    elsewhere = taken(place, folder.with_name("cur"), ours)
    if not names:
        return MailboxView("maildir", place.handle, str(root), elsewhere=elsewhere)
    read = list(read_names(folder, names[:READ]))
    waiting = _candidates(place, [found for found in read if isinstance(found, Envelope)], ours)
    others = {name.removesuffix(".md") for name in names[READ:]} - ours
    more = len(others - place.state.processed.among(others))
    unreadable = sum(not isinstance(found, Envelope) for found in read)
    queue = _oldest(waiting, place.clock.now())
    return MailboxView(
        "maildir", place.handle, str(root), len(waiting) + more, unreadable, queue=queue, elsewhere=elsewhere
    )


def _candidates(place: Workplace, listed: list[Envelope], ours: set[str]) -> list[Envelope]:
    """Those of the messages listed that the engine would run, by its own look."""
    from agent_mailer.mailbox.port import Listing
    from agent_mailer.watch.backlog import see

    if not listed:
        return []
    found = see(Listing(tuple(listed)), place.state, place.policy(), ours)
    return [candidate.envelope for candidate in found.candidates]


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
            return await inbox.waiting(READ_AT_BROKER + len(ours))

    try:
        with at_broker():
            total, oldest = asyncio.run(ask())
    except MailerError as fault:
        return MailboxView("amp", config.address, _url(place), problem=fault.message)
    except TimeoutError:
        return MailboxView("amp", config.address, _url(place), problem=f"no answer within {BROKER_SECONDS:.0f} s")
    new = _candidates(place, oldest, ours)
    passed_by = sum(envelope.id not in ours for envelope in oldest) - len(new)
    queue = _oldest(new, place.clock.now())
    waiting = max(len(new), total - len(ours) - passed_by)
    return MailboxView("amp", config.address, _url(place), waiting, queue=queue)


def _at_server(place: Workplace, ours: set[str]) -> MailboxView:
    """Where the name was never registered, nobody is asked: a look registers none."""
    import asyncio

    from agent_mailer.at_server import mcp_agent_mail, relay
    from agent_mailer.config import MailboxKind

    config = place.config
    kind = config.mailbox_kind.value

    async def ask() -> list[Envelope]:
        if config.mailbox_kind is MailboxKind.RELAY:
            async with asyncio.timeout(BROKER_SECONDS):
                return [envelope for envelope, _, new in await relay(place, config.address).everything() if new]
        mailbox = mcp_agent_mail(place, config.address)
        if mailbox.registered is None:
            raise MailerError("not_registered", f"{config.address} is not registered there yet", "agent-mailer watch")
        async with asyncio.timeout(BROKER_SECONDS):
            return [envelope for envelope, _, new in await mailbox.everything() if new]

    try:
        new = _candidates(place, asyncio.run(ask()), ours)
    except MailerError as fault:
        return MailboxView(kind, config.address, _url(place), problem=fault.message)
    except TimeoutError:
        return MailboxView(kind, config.address, _url(place), problem=f"no answer within {BROKER_SECONDS:.0f} s")
    return MailboxView(kind, config.address, _url(place), len(new), queue=_oldest(new, place.clock.now()))


def _url(place: Workplace) -> str:
    from agent_mailer.names import shown_url

    return shown_url(place.config.broker_url)


LAST_EVENTS = 5


def look(
    place: Workplace, mailbox_of: Look = look_at_mailbox, listening: Listen = listen, *, past: bool = True
) -> view.StatusView:
    """The state as it is now. Without `past` neither results nor events are looked for."""
    damaged: list[tuple[Path, str]] = []

    def note(path: Path, why: str) -> None:
        damaged.append((path, why))
        tell(path, why)

    now = place.clock.now()
    with place.folder.telling(note) as tell:
        found = _read(place, mailbox_of, now, past=past)
        learned = Learned(
            heard=listening(place, found.watcher),
            config=configured(place, watched=found.watcher.running),
            signed_out=place.state.login.read(),
            outage_after=float(place.config.notify.trouble_after),
            untold=untold(place),
        )
        if learned.heard.turns is False:
            # Who left meanwhile does not stand still.
            found = msgspec.structs.replace(found, watcher=watcher_of(place))
    problems = problems_of(found, damaged, place.config.runtime, learned, now)
    return msgspec.structs.replace(
        found, healthy=not problems, problems=tuple(problems), next_wake=next_wake(found, now)
    )


def _read(place: Workplace, mailbox_of: Look, now: float, *, past: bool) -> view.StatusView:
    from agent_mailer.state.notices import seen_from_outside

    state = place.state
    watcher = watcher_of(place)
    trouble = (state.trouble.read() or seen_from_outside(place.folder.path, now)) if watcher.running else None
    pause, today = state.pause.read(), state.usage.today()
    open_turns = [turn for turn in state.turns.indexed() if not state.turns.is_settled(turn.turn_id)]
    busy = {envelope.id for turn in open_turns for envelope in turn.envelopes}
    settling = {t.turn_id: found for t in open_turns if (found := settling_turn(state, t)) is not None}
    asked = asked_of(state)
    retries = [entry for entry in without_asked(tried_again(state), asked) if entry.envelope.id not in busy]
    given_up = state.dead_letters.count()
    mailbox = mailbox_of(place, busy | {entry.envelope.id for entry in state.retries.all()})
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
        running=tuple(running_turn(state, turn, now) for turn in open_turns if turn.turn_id not in settling),
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
        dead_letters=given_up,
        pause=view.PauseView(pause.reason.value, pause.since, pause.until, pause.detail, pause.guessed)
        if pause
        else None,
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
        stuck=stuck_counts(state, given_up),
        sandbox=place.config.sandbox.kind.value,
        untrusted=place.trust.verdict.changed,
        held=held_counts(state),
        asked=asked,
        self_approving=place.config.sandbox.kind.value == "off" and bool(asked or place.config.approve.tools),
        settling=tuple(settling.values()),
        schedules=tuple(schedules(place)),
        unknown=place.loaded.unknown,
        uncounted=uncounted(place),
        offered=offered_in(place, busy, now) if watcher.running else (),
        stopped="" if watcher.running else starts_again(place.workdir),
        in_the_way=in_the_way(place) if watcher.running and mailbox.waiting else (),
        last_events=tuple(line.record for line in tail(place.folder.log, LAST_EVENTS)) if past else (),
    )


def watcher_of(place: Workplace) -> view.WatcherView:
    """Who holds the lock, also where that is another client, which writes down no more than a number."""
    from agent_mailer.checks.machine import flock_holder
    from agent_mailer.processes import read_stat, runs_for
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


def everywhere(pulses: Pulses | None = None, workdirs: Iterable[Path] | None = None) -> view.AllView:
    """These workdirs; None = every one of this user. No broker is asked: what waits there is not known. Without
    `pulses` all watchers are asked now, and waited for.
    """
    places: list[Workplace] = []
    found: list[view.StatusView | view.FaultView] = []
    for workdir in _known() if workdirs is None else workdirs:
        try:
            places.append(place_at(workdir))
        except (MailerError, OSError) as fault:
            found.append(_fault(workdir, fault))
    listening = (
        pulses.listen if pulses is not None else ask_all(place for place in places if could_answer(watcher_of(place)))
    )
    for place in places:
        try:
            found.append(look(place, look_without_asking, listening, past=False))
        except (MailerError, OSError) as fault:
            found.append(_fault(place.workdir, fault))
    found.sort(key=urgency)
    return view.AllView(all(one.healthy for one in found), tuple(found))


def _known() -> list[Path]:
    """With the one that we stand in: where it was moved there no watcher has told of it yet."""
    from agent_mailer.disk import Disk
    from agent_mailer.state.folder import STATE_DIRECTORY
    from agent_mailer.state.workdirs import known_workdirs

    known = known_workdirs(Disk()).all()
    with suppress(OSError):
        here = Path.cwd()
        if (here / STATE_DIRECTORY / "config.toml").is_file() and not any(map(here.samefile, known)):
            return [*known, here]
    return known


def places() -> list[Workplace]:
    """Every workdir of this user that can be looked at."""
    from agent_mailer.disk import Disk
    from agent_mailer.state.workdirs import known_workdirs

    found = []
    for workdir in known_workdirs(Disk()).all():
        with suppress(MailerError, OSError):
            found.append(place_at(workdir))
    return found


def _fault(workdir: Path, fault: MailerError | OSError) -> view.FaultView:
    if isinstance(fault, MailerError):
        problem = view.ProblemView(view.Problem.UNREADABLE, fault.message, said_of(fault.fix, str(workdir)))
    else:
        text = f"{fault.filename or workdir}: {fault.strerror or fault}"
        problem = view.ProblemView(view.Problem.UNREADABLE, text, f"ls -la {quoted(workdir)}")
    return view.FaultView(str(workdir), (problem,))


def place_at(workdir: Path) -> Workplace:
    """A workdir to be looked at, made anew for each look: what was read once would be shown for ever."""
    from agent_mailer.assemble import Workplace

    place = Workplace(workdir, damaged=lambda *_: None)
    place.folder.check()
    return place
