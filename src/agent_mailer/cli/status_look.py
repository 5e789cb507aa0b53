"""Looking at a workdir for `status`: takes no lock and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli import status_view as view
from agent_mailer.cli.status_health import next_wake, problems_of
from agent_mailer.cli.status_mailbox import Look, look_at_mailbox

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.turns import OpenTurn

LAST_EVENTS = 5
LAST_RESULTS = 5
LOG_SEARCHED = 128 * 1024
"""Bytes at the end of a log file in which the last results are looked for, before all turns are listed."""


def look(place: Workplace, mailbox_of: Look = look_at_mailbox, *, past: bool = True) -> view.StatusView:
    """The state as it is now. Without `past` neither results nor events are looked for."""
    from agent_mailer.state.troubles import seen_from_outside

    damaged: list[tuple[Path, str]] = []
    tell = place.folder.damaged

    def note(path: Path, why: str) -> None:
        damaged.append((path, why))
        tell(path, why)

    place.folder.damaged = note
    state, now = place.state, place.clock.now()
    watcher = _watcher(place)
    trouble = (state.trouble.read() or seen_from_outside(place.folder.path, now)) if watcher.running else None
    pause, today = state.pause.read(), state.usage.today()
    open_turns = [turn for turn in state.turns.indexed() if not state.turns.is_settled(turn.turn_id)]
    busy = {turn.msg_id for turn in open_turns}
    retries = [entry for entry in state.retries.all() if entry.envelope.id not in busy]
    mailbox = mailbox_of(place, busy | {entry.envelope.id for entry in retries})
    # Whoever has answered is waited for no longer, though the answer waits.
    moving = {turn.thread_id for turn in open_turns} | {queued.thread for queued in mailbox.queue}
    found = view.StatusView(
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
        results=tuple(sorted(_results(place), key=lambda result: -result.at)) if past else (),
        today=view.TodayView(
            today.turns,
            today.seconds,
            today.usage.input_tokens,
            today.usage.output_tokens,
            round(today.usage.cost_usd, 6),
        ),
        next_wake=None,
        last_events=_last_events(place) if past else (),
    )
    problems = problems_of(found, damaged, place.config.runtime)
    return msgspec.structs.replace(
        found, healthy=not problems, problems=tuple(problems), next_wake=next_wake(found, now)
    )


def _turn(place: Workplace, turn: OpenTurn, now: float) -> view.TurnView:
    found = view.TurnView(
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
    from agent_mailer.checks.locks import flock_holder
    from agent_mailer.process import read_stat, runs_for
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


def _last_events(place: Workplace) -> tuple[dict[str, object], ...]:
    from agent_mailer.cli.log_lines import tail

    return tuple(line.record for line in tail(place.folder.log, LAST_EVENTS))


def _results(place: Workplace) -> Iterator[view.ResultView]:
    """The turns settled last."""
    turns = place.state.turns
    for turn_id in _settled_last(place):
        record = turns.load(turn_id)
        if record is None or record.settlement is None:
            continue
        settlement, envelope = record.settlement, record.envelope
        yield view.ResultView(
            turn_id,
            envelope.id,
            envelope.thread,
            envelope.sender,
            settlement.outcome.value,
            settlement.decided_at,
            settlement.seconds,
            settlement.usage.cost_usd if settlement.usage is not None else 0.0,
            settlement.question or settlement.detail,
        )


def _settled_last(place: Workplace) -> list[str]:
    """Ids of turns. The end of the log tells them at once; where it does not, the newest folders do."""
    from agent_mailer.state.turns import is_turn_id

    turns, found = place.state.turns, list[str]()
    for file in (place.folder.log, place.folder.log.with_name(f"{place.folder.log.name}.1")):
        named = dict.fromkeys(reversed(list(_settled_by_log(file))))
        found += [turn_id for turn_id in named if is_turn_id(turn_id) and turns.is_settled(turn_id)]
        if len(found) >= LAST_RESULTS:
            return found[:LAST_RESULTS]
    return turns.newest_settled(LAST_RESULTS)


def _settled_by_log(file: Path) -> Iterator[str]:
    from agent_mailer.cli.log_lines import parse

    with suppress(OSError), file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_SEARCHED))
        for line in stream.read(LOG_SEARCHED).split(b"\n"):
            if b'"turn_settled"' in line:
                yield str(parse(line).record.get("turn_id", ""))
