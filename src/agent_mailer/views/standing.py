"""What is true of a message at its recipient, where that is an agent of this user on this machine. Reads only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import MailerError, quoted, said_of
from agent_mailer.names import printable, prompt_word
from agent_mailer.people.port import MessageState, Report, Sent
from agent_mailer.state.records import ItemState, PauseReason
from agent_mailer.state.turns import ids_of
from agent_mailer.teams.stopped import starts_again
from agent_mailer.views.kept import tried_again
from agent_mailer.views.local import place_at, watcher_of

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.records import Pause, TurnRecord
    from agent_mailer.state.turns import OpenTurn

NEWEST = 200
"""Among so many turns that of a message which has just been settled is looked for."""


class Neighbours:
    """The workdirs of this user, by whose agent they are. Each is looked for once."""

    def __init__(self, is_of: Callable[[Workplace, str], bool]) -> None:
        self._is_of = is_of
        self._found: dict[str, Path | None] = {}

    def standing(self, sent: Sent, recipient: str) -> Report | None:
        """None where it cannot be seen from here."""
        if recipient not in self._found:
            self._found[recipient] = _workdir_where(lambda place: self._is_of(place, recipient))
        return standing_in(self._found[recipient], sent.id, sent.thread)


def _workdir_where(matches: Callable[[Workplace], bool]) -> Path | None:
    """The one workdir of this user whose agent is meant; None where none or several are."""
    from agent_mailer.disk import Disk
    from agent_mailer.state.workdirs import known_workdirs

    found: list[Path] = []
    for workdir in known_workdirs(Disk()).all():
        with suppress(MailerError, OSError):
            if matches(place_at(workdir)):
                found.append(workdir)
    return found[0] if len(found) == 1 else None


def standing_in(workdir: Path | None, message_id: str, thread: str) -> Report | None:
    """None where it cannot be told: the workdir is not known, cannot be read, or never had the message."""
    with suppress(MailerError, OSError):
        return _standing(place_at(workdir), message_id, thread) if workdir is not None else None
    return None


def _standing(place: Workplace, message_id: str, thread: str) -> Report | None:
    state = place.state
    running = [turn for turn in state.turns.indexed() if not state.turns.is_settled(turn.turn_id)]
    ours = next((turn for turn in running if any(one.id == message_id for one in turn.envelopes)), None)
    obstacle = _obstacle(place)
    if ours is not None:
        return _in_work(place, ours, obstacle)
    if state.processed.among([message_id]):
        return _settled(place, message_id)
    stuck = next((entry for entry in state.stuck.all() if entry.message_id == message_id), None)
    if stuck is not None:
        show = f"agent-mailer stuck show {prompt_word(message_id, 'message')} -C {quoted(place.workdir)}"
        return Report(MessageState.STUCK, f"cannot work on it: {stuck.kind}: {stuck.why} ({show})", final=True)
    guard = state.held.waiting.get(message_id)
    if guard is not None:
        show = f"agent-mailer held show {prompt_word(message_id, 'message')} -C {quoted(place.workdir)}"
        return Report(MessageState.HELD, f"holds it until a person lets it go: {guard.value} ({show})")
    if obstacle is not None:
        return obstacle
    retry = state.retries.get(message_id)
    if retry is not None and state.approvals.dues(place.clock.now())(retry.asked):
        return Report(
            MessageState.ASKS, f"waits for a person's yes: agent-mailer approvals list -C {quoted(place.workdir)}"
        )
    if retry is not None:
        last = (retry.last_outcome or "interrupted").replace("_", " ")
        return Report(
            MessageState.AGAIN, f"has tried it, its turn ended {last}; again {_moment(retry.not_before, place)}"
        )
    if any(turn.thread_id == thread for turn in running):
        return Report(MessageState.BEHIND, "works on an older message of the thread first")
    if any(entry.envelope.thread == thread for entry in tried_again(state)):
        return Report(MessageState.BEHIND, "has an older message of the thread to try again first")
    if len(running) >= place.config.max_parallel_turns:
        others = "another message" if len(running) == 1 else f"{len(running)} other messages"
        return Report(MessageState.BEHIND, f"works on {others} first")
    return Report(MessageState.WAITING, "has not taken it yet")


def _in_work(place: Workplace, turn: OpenTurn, obstacle: Report | None) -> Report:
    from agent_mailer.process.handle import is_alive

    record = place.state.turns.load(turn.turn_id)
    works = record is not None and record.settlement is None
    progress = place.state.turns.progress(turn.turn_id)
    if works and (obstacle is None or obstacle.state is MessageState.PAUSED):
        # Running turns go on during a pause.
        return Report(MessageState.WORKING, "is at work on it")
    if record is not None and record.process is not None and works and is_alive(record.process):
        return Report(MessageState.WORKING, "is at work on it; the answer waits for its watcher")
    if obstacle is not None and obstacle.state is MessageState.STOPPED:
        return msgspec.structs.replace(obstacle, text=f"{obstacle.text}; the turn is left open and goes on then")
    if progress is not None and progress.waits:
        to = f" to {progress.waits_for}" if progress.waits_for else ""
        since = _moment(progress.at, place, "since")
        text = f"has ended its turn; its answer{to} waits to leave {since}: {progress.waits}"
        return Report(MessageState.WORKING, text)
    return Report(MessageState.WORKING, "has ended its turn, and sends what is to be sent")


def _obstacle(place: Workplace) -> Report | None:
    """What keeps the agent from any mail."""
    state, watcher = place.state, watcher_of(place)
    if not watcher.running and (again := starts_again(place.workdir)):
        return Report(MessageState.STOPPED, f"is stopped with its team: {again}")
    if not watcher.running:
        return Report(MessageState.STOPPED, f"has no watcher: agent-mailer watch -C {quoted(place.workdir)}")
    if watcher.halted:
        return Report(MessageState.STOPPED, f"was stopped by a signal: kill -CONT {watcher.pid}")
    trouble = state.trouble.read()
    if trouble is not None:
        mend = f" ({trouble.fix})" if trouble.fix else ""
        return Report(MessageState.STOPPED, f"is kept from its work: {trouble.what}: {printable(trouble.why)}{mend}")
    pause = state.pause.read()
    return Report(MessageState.PAUSED, _paused(place, pause)) if pause is not None else None


def _paused(place: Workplace, pause: Pause) -> str:
    from agent_mailer.views.pulse import program_here

    detail = f": {printable(pause.detail)}" if pause.detail else ""
    if pause.reason is PauseReason.UNAVAILABLE and (heard := program_here(place)).missing:
        # What mends it is whole, whatever is cut.
        detail = f": {printable(heard.missing)} ({said_of(heard.fix, str(place.workdir))})"
    until = (
        f"until agent-mailer resume -C {quoted(place.workdir)}"
        if pause.until is None
        else _moment(pause.until, place, "until")
    )
    return f"is paused ({pause.reason.value.replace('_', ' ')}) {until}{detail}"


def _settled(place: Workplace, message_id: str) -> Report:
    letter = place.state.dead_letters.find(message_id)
    show = f"agent-mailer dead-letter show {prompt_word(message_id, 'message')} -C {quoted(place.workdir)}"
    if letter is not None:
        why = printable(letter.last_error) or "no reason kept"
        return Report(MessageState.GIVEN_UP, f"has given it up: {why} ({show})", final=True)
    record = _turn_of(place, message_id)
    if record is None or record.settlement is None:
        return Report(MessageState.DONE, "is done with it")
    about = "" if record.envelope.id == message_id else message_id
    items = [item for item in record.settlement.items if item.about == about]
    refused = next((item for item in items if item.state is ItemState.REFUSED), None)
    if refused is not None:
        return Report(
            MessageState.DONE, f"is done with it, but its answer was refused: {printable(refused.why)}", final=True
        )
    if items:
        show = f"agent-mailer turns show {record.turn_id} -C {quoted(place.workdir)}"
        return Report(MessageState.DONE, f"is done with it, and what it sent has left ({show})")
    return Report(MessageState.DONE, "is done with it and has sent no answer", final=True)


def _turn_of(place: Workplace, message_id: str) -> TurnRecord | None:
    """The turn that settled the message: ids sort by the second only, and an earlier try of it has sent nothing."""
    turns = place.state.turns
    for record in map(turns.load, turns.newest_settled(NEWEST)):
        ended = record is not None and record.settlement is not None and record.settlement.finished
        if record is not None and ended and message_id in ids_of(record):
            return record
    return None


def _moment(moment: float, place: Workplace, word: str = "at") -> str:
    """`at 17:30`, with the date where that is another day."""
    now = datetime.fromtimestamp(place.clock.now()).astimezone()
    try:
        then = datetime.fromtimestamp(moment).astimezone()
    except (OverflowError, ValueError, OSError):
        return ""
    if then <= now and word != "since":
        return "at once" if word == "at" else "until its next look"
    return f"{word} {then:%H:%M}" if then.date() == now.date() else f"{word} {then:%Y-%m-%d %H:%M}"
