"""`status`: what the agent of a workdir is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli.light import LightCommand, single
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.printing import duration, json_out, local_time, say
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.turns import OpenTurn

LAST_EVENTS = 5
LISTED = 10_000


BROKER_SECONDS = 3.0


class MailboxView(msgspec.Struct, frozen=True):
    """`root` is the folder or the broker's URL; `waiting` leaves out what is settled or in work; `problem` says why
    nothing is known.
    """

    kind: str
    address: str
    root: str | None = None
    waiting: int = 0
    unreadable: int = 0
    problem: str | None = None


class WatcherView(msgspec.Struct, frozen=True):
    running: bool
    pid: int | None = None
    version: str | None = None


class TurnView(msgspec.Struct, frozen=True):
    turn_id: str
    message_id: str
    thread: str
    sender: str
    phase: str
    seconds: float
    doing: str = ""
    tool: str = ""
    tool_seconds: float | None = None
    tokens: int | None = None
    cost_usd: float | None = None


class RetryView(msgspec.Struct, frozen=True):
    message_id: str
    thread: str
    attempts: int
    starts: int
    due_in_seconds: float
    last_outcome: str | None


class PauseView(msgspec.Struct, frozen=True):
    """Moments are seconds since the epoch; `until` None = until `agent-mailer resume`."""

    reason: str
    since: float
    until: float | None
    detail: str


class TroubleView(msgspec.Struct, frozen=True):
    """What keeps the watcher from its work just now: the mailbox, its credentials, or the disk."""

    what: str
    since: float
    why: str
    fix: str


class TodayView(msgspec.Struct, frozen=True):
    turns: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cost_usd: float


class StatusView(msgspec.Struct, frozen=True):
    """What `status --json` prints."""

    workdir: str
    agent: str
    runtime: str | None
    watcher: WatcherView
    mailbox: MailboxView
    running: tuple[TurnView, ...]
    retries: tuple[RetryView, ...]
    dead_letters: int
    pause: PauseView | None
    trouble: TroubleView | None
    today: TodayView
    last_events: tuple[dict[str, object], ...]


app = single()


@app.command("status", cls=LightCommand)
def status(workdir: Workdir = None, as_json: Json = False) -> None:
    """Show whether the watcher runs, what it works on, and what waits."""
    view = look(configured(workdir))
    if as_json:
        json_out(view)
    else:
        _show(view)


def look(place: Workplace) -> StatusView:
    """The state as it is now; takes no lock and writes nothing."""
    from agent_mailer.cli.log_lines import tail
    from agent_mailer.state.troubles import seen_from_outside

    state, now = place.state, place.clock.now()
    watcher = _watcher(place)
    trouble = (state.trouble.read() or seen_from_outside(place.folder.path, now)) if watcher.running else None
    pause, today = state.pause.read(), state.usage.today()
    open_turns = [turn for turn in state.turns.indexed() if not state.turns.is_settled(turn.turn_id)]
    busy = {turn.msg_id for turn in open_turns}
    retries = [entry for entry in state.retries.all() if entry.envelope.id not in busy]
    return StatusView(
        workdir=str(place.workdir),
        agent=place.config.agent_name or place.handle,
        runtime=place.config.runtime.value if place.config.runtime else None,
        watcher=watcher,
        mailbox=_mailbox(place, busy | {entry.envelope.id for entry in retries}),
        running=tuple(_turn(place, turn, now) for turn in open_turns),
        retries=tuple(
            RetryView(
                entry.envelope.id,
                entry.envelope.thread,
                entry.attempts,
                entry.starts,
                round(max(0.0, entry.not_before - now), 1),
                entry.last_outcome.value if entry.last_outcome else None,
            )
            for entry in retries
        ),
        dead_letters=state.dead_letters.count(),
        pause=PauseView(pause.reason.value, pause.since, pause.until, pause.detail) if pause else None,
        trouble=TroubleView(trouble.what.value, trouble.since, trouble.why, trouble.fix) if trouble else None,
        today=TodayView(
            today.turns,
            today.seconds,
            today.usage.input_tokens,
            today.usage.output_tokens,
            round(today.usage.cost_usd, 6),
        ),
        last_events=tuple(line.record for line in tail(place.folder.log, LAST_EVENTS)),
    )


def _turn(place: Workplace, turn: OpenTurn, now: float) -> TurnView:
    view = TurnView(
        turn.turn_id,
        turn.msg_id,
        turn.thread_id,
        turn.envelope.sender,
        turn.phase.value,
        round(now - turn.started_at, 1),
    )
    progress = place.state.turns.progress(turn.turn_id)
    if progress is None:
        return view
    usage = progress.usage
    return msgspec.structs.replace(
        view,
        doing=progress.doing,
        tool=progress.tool,
        tool_seconds=round(now - progress.tool_since, 1) if progress.tool_since is not None else None,
        tokens=usage.input_tokens + usage.output_tokens if usage else None,
        cost_usd=usage.cost_usd if usage else None,
    )


def _doing(turn: TurnView) -> str:
    tool = f"{printable(turn.tool, 100)} for {duration(turn.tool_seconds or 0.0)}" if turn.tool else ""
    spent = f"{turn.tokens} tokens" if turn.tokens else ""
    paid = f"${turn.cost_usd:.2f}" if turn.cost_usd else ""
    return ", ".join(part for part in (tool or printable(turn.doing, 100), spent, paid) if part)


def _mailbox(place: Workplace, ours: set[str]) -> MailboxView:
    from agent_mailer.config import MailboxKind
    from agent_mailer.errors import MailerError
    from agent_mailer.mailbox.maildir.layout import Paths, check_handle, require_root
    from agent_mailer.mailbox.maildir.listing import StatCache, list_folder

    kind, address = place.config.mailbox_kind, place.handle
    if kind is MailboxKind.AMP:
        return _at_broker(place, len(ours))
    root = None
    try:
        root = place.maildir_root()
        require_root(root)
        check_handle(address)
        envelopes, unreadable = list_folder(Paths(root, address).new, StatCache(LISTED))
    except MailerError as fault:
        return MailboxView(kind.value, address, str(root) if root else None, problem=fault.message)
    except OSError as error:
        return MailboxView(kind.value, address, str(root), problem=f"{error.filename}: {error.strerror}")
    waiting = sum(1 for e in envelopes if e.id not in ours and e.id not in place.state.processed)
    return MailboxView(kind.value, address, str(root), waiting, len(unreadable))


def _at_broker(place: Workplace, ours: int) -> MailboxView:
    """What is unread there; an answer that does not come soon is not waited for."""
    import asyncio

    from agent_mailer.cli.at_broker import at_broker
    from agent_mailer.cli.broker_checks import shown_url
    from agent_mailer.cli.broker_inbox import BrokerInbox
    from agent_mailer.errors import MailerError
    from agent_mailer.mailbox.amp.client import Credentials

    config = place.config
    url = shown_url(config.broker_url)

    async def count() -> int:
        async with asyncio.timeout(BROKER_SECONDS):
            return await BrokerInbox(
                Credentials(config.broker_url, config.agent_id, config.api_key), config.address
            ).unread()

    try:
        with at_broker():
            return MailboxView("amp", config.address, url, max(0, asyncio.run(count()) - ours))
    except MailerError as fault:
        return MailboxView("amp", config.address, url, problem=fault.message)
    except TimeoutError:
        return MailboxView("amp", config.address, url, problem=f"no answer within {BROKER_SECONDS:.0f} s")


def _watcher(place: Workplace) -> WatcherView:
    """Who holds the lock, also where that is another client, which writes down no more than a number."""
    from contextlib import suppress

    from agent_mailer.checks.locks import flock_holder
    from agent_mailer.state.lock import holder_of

    path = place.folder.path / ".lock"
    holder = holder_of(path)
    if holder is not None:
        return WatcherView(running=True, pid=holder.process.pid, version=holder.version)
    pid = None
    with suppress(OSError, ValueError):
        pid = flock_holder(path)
    return WatcherView(running=pid is not None, pid=pid)


def _show(view: StatusView) -> None:
    from agent_mailer.cli.log_lines import sentence

    watcher, mailbox, pause, today = view.watcher, view.mailbox, view.pause, view.today
    _row("agent", f"{printable(view.agent)} in {printable(view.workdir)}")
    _row("watcher", f"running, process {watcher.pid}" if watcher.running else "not running (agent-mailer watch)")
    place = f"{mailbox.kind} {printable(mailbox.root)}" if mailbox.root else mailbox.kind
    _row("mailbox", f"{printable(mailbox.address)} in {place}")
    if mailbox.problem:
        _row("", f"cannot be read: {printable(mailbox.problem, 300)}")
    _row("waiting", str(mailbox.waiting) + (f", and {mailbox.unreadable} unreadable" if mailbox.unreadable else ""))
    if pause is not None:
        until = f"until {local_time(pause.until)}" if pause.until is not None else "until: agent-mailer resume"
        detail = f" ({printable(pause.detail)})" if pause.detail else ""
        _row("paused", f"{pause.reason.replace('_', ' ')}, {until}{detail}")
    if view.trouble is not None:
        what, since = view.trouble.what, local_time(view.trouble.since)
        _row("trouble", f"{what}: {printable(view.trouble.why, 300)} (since {since})")
        if view.trouble.fix:
            _row("", f"mend: {printable(view.trouble.fix, 300)}")
    for turn in view.running:
        what = turn.phase if watcher.running else f"{turn.phase}, left open: the next watcher takes it up"
        _row(
            "turn",
            f"{turn.turn_id}  {duration(turn.seconds)}  {what}  from {printable(turn.sender, 40)}"
            f"  {printable(turn.message_id, 64)}",
        )
        if doing := _doing(turn):
            _row("", doing)
    for entry in view.retries[:10]:
        _row(
            "retry",
            f"{printable(entry.message_id, 64)}  in {duration(entry.due_in_seconds)}, failed {entry.attempts} times,"
            f" last: {entry.last_outcome or 'not started yet'}",
        )
    if len(view.retries) > 10:
        _row("", f"and {len(view.retries) - 10} more")
    if view.dead_letters:
        _row("dead", f"{view.dead_letters} given up (agent-mailer dead-letter list)")
    _row(
        "today",
        f"{today.turns} turns, {duration(today.seconds)}, {today.input_tokens + today.output_tokens} tokens,"
        f" ${today.cost_usd:.2f}",
    )
    if view.last_events:
        say()
    for record in view.last_events:
        say(sentence(record))


def _row(name: str, text: str) -> None:
    say(f"{name:<8}  {text}")
