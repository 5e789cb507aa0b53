"""A workdir's state as one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from agent_mailer.amounts import counted, dollars, duration
from agent_mailer.cli.terminal.printing import ink_of, local_time
from agent_mailer.cli.terminal.screen import Ink, Part, Row, laid_out, side_by_side
from agent_mailer.names import printable, running_on
from agent_mailer.views.configured import doubtful
from agent_mailer.views.values.status import (
    OfferedView,
    Problem,
    ResultView,
    RetryView,
    RunningView,
    ScheduleView,
    SettlingView,
    StatusView,
    Wake,
    WakeView,
)

LISTED = 5
"""Of each kind; the rest is counted."""

_WAITS = {
    Wake.MAIL: "when mail comes",
    Wake.TURN: "when a turn ends, or mail comes",
    Wake.RETRY: "to try again",
    Wake.SCHEDULE: "to send what is due by then, or when mail comes",
    Wake.OFFER: "for a live session to take its mail, then works on it itself",
    Wake.FILES: "when nobody else holds its files: tried every few seconds",
    Wake.PROBE: "to see whether the pause is over",
    Wake.RESUME: "after: agent-mailer resume",
    Wake.TROUBLE: "tries again by itself until the trouble is over",
}


_SHOWN_HERE = (
    Problem.WATCHER_SILENT,
    Problem.PROGRAM,
    Problem.OUTAGE,
    Problem.ANSWER_WAITS,
    Problem.UNTOLD,
    Problem.STATE_DAMAGED,
)


def screen(view: StatusView, now: float, room: int | None) -> list[str]:
    """Lines of at most `room` columns; None = as long as they are."""
    return laid_out([Row(name, tuple(parts)) for name, parts in _rows(view, now) if parts], room)


def _rows(view: StatusView, now: float) -> Iterator[tuple[str, Sequence[Part]]]:
    yield "agent", [Part(f"{printable(view.agent)} in {printable(view.workdir, 4096)}")]
    yield "health", [_health(view)]
    yield "watcher", [_watcher(view)]
    yield "mailbox", _mailbox(view)
    yield "sandbox", [Part(view.sandbox)]
    yield "trust", [_trust(view)]
    yield "config", list(_config(view))
    yield "limits", _uncounted(view)
    yield "paused", _pause(view, now)
    yield "problem", list(_other_problems(view))
    yield "trouble", _trouble(view, now)
    for turn in view.running:
        yield "turn", _turn(view, turn)
    for ended in view.settling:
        yield "settles", _settling(view, ended, now)
    yield "waiting", _queue(view)
    yield "offered", _offered(view, now)
    yield "files", _in_the_way(view, now)
    yield "retry", _retries(view)
    yield "blocked", _blocked(view, now)
    if view.dead_letters:
        yield "dead", [Part(f"{view.dead_letters} given up (agent-mailer dead-letter list)", Ink.RED)]
    stuck = [f"{one.count} {one.reason}" for one in view.stuck if one.reason != "given-up"]
    yield "stuck", [Part(f"{', '.join(stuck)} (agent-mailer stuck list)", Ink.RED)] if stuck else []
    held = [f"{one.count} {one.guard}" for one in view.held]
    yield "held", [Part(f"{', '.join(held)} (agent-mailer held list)", Ink.YELLOW)] if held else []
    yield "asks", _asks(view, now)
    yield "schedule", _schedules(view, now)
    yield "last", _results(view, now)
    yield "today", [_today(view)]
    yield "next", [_next(view.next_wake, now)] if view.next_wake is not None else []


def _asks(view: StatusView, now: float) -> list[Part]:
    if not view.asked:
        return []
    tools = ", ".join(dict.fromkeys(printable(one.tool, 40) for one in view.asked[:5]))
    first = view.asked[0]
    text = f"{len(view.asked)} for your yes: {tools}, since {_moment(first.at, now)} (agent-mailer approvals list)"
    alone = [Part("without a proved sandbox the agent may give itself one")] if view.self_approving else []
    return [Part(text, Ink.YELLOW), *alone]


def _health(view: StatusView) -> Part:
    if view.healthy and view.pause is not None:
        return Part(f"waiting: {view.pause.reason.replace('_', ' ')}", Ink.YELLOW)
    if view.healthy:
        return Part("stopped", Ink.FAINT) if view.stopped else Part("healthy", Ink.GREEN)
    return Part("not healthy: " + "; ".join(printable(problem.text, 200) for problem in view.problems), Ink.RED)


def _watcher(view: StatusView) -> Part:
    watcher = view.watcher
    if view.stopped:
        return Part(f"stopped with its team ({view.stopped})", Ink.FAINT)
    if not watcher.running:
        return Part("not running (agent-mailer watch)", Ink.RED)
    since = f" for {duration(watcher.seconds)}" if watcher.seconds is not None else ""
    if watcher.halted:
        return Part(f"stopped by a signal: process {watcher.pid} (kill -CONT {watcher.pid})", Ink.RED)
    return Part(f"running{since}, process {watcher.pid}")


def _mailbox(view: StatusView) -> list[Part]:
    mailbox = view.mailbox
    place = f"{mailbox.kind} {printable(mailbox.root, 4096)}" if mailbox.root else mailbox.kind
    parts = [Part(f"{printable(mailbox.address)} in {place}")]
    if mailbox.problem is not None:
        parts.append(Part(f"cannot be read: {printable(mailbox.problem, 300)}", Ink.RED))
    for problem in (one for one in view.problems if one.code is Problem.MAILBOX):
        if mailbox.problem is None:
            parts.append(Part(printable(problem.text, 300), Ink.RED))
        parts.append(Part(f"fix: {printable(problem.fix, 4096)}"))
    if mailbox.elsewhere:
        parts.append(Part(f"{mailbox.elsewhere} in cur that another reader took, never worked on here"))
    return parts


def _config(view: StatusView) -> Iterator[Part]:
    """What is wrong with it, else what of it nobody knows."""
    wrong = [problem for problem in view.problems if problem.code is Problem.CONFIG]
    for problem in wrong:
        yield Part(printable(problem.text, 600), Ink.RED)
        yield Part(f"fix: {printable(problem.fix, 4096)}")
    told = "".join(problem.text for problem in wrong)
    if any(f"the key {name}" not in told for name in view.unknown):
        meant = doubtful(view.unknown)
        named = printable(", ".join(view.unknown), 300)
        yield Part(f"nothing here knows {named}{meant} (agent-mailer config edit)", Ink.YELLOW)


def _trust(view: StatusView) -> Part:
    if view.untrusted and not any(problem.code is Problem.UNTRUSTED for problem in view.problems):
        return Part(f"what was trusted counts, not what is there: {', '.join(view.untrusted)}", Ink.YELLOW)
    if view.untrusted:
        return Part(f"not as it was trusted: {', '.join(view.untrusted)} (agent-mailer config trust)", Ink.RED)
    alone = "; without a proved sandbox the agent may trust for itself" if view.sandbox == "off" else ""
    return Part(f"as trusted{alone}")


def _pause(view: StatusView, now: float) -> list[Part]:
    pause = view.pause
    if pause is None:
        return []
    until = f"until {_moment(pause.until, now)}" if pause.until is not None else "until: agent-mailer resume"
    detail = f": {printable(pause.detail)}" if pause.detail else ""
    needs_person = any(problem.code in ("signed_out", "paused") for problem in view.problems)
    parts = [Part(f"{pause.reason.replace('_', ' ')}, {until}{detail}", Ink.RED if needs_person else Ink.YELLOW)]
    return parts + [Part(f"fix: {p.fix}") for p in view.problems if p.code == Problem.SIGNED_OUT]


def _uncounted(view: StatusView) -> list[Part]:
    if not view.uncounted:
        return []
    hold = "holds" if len(view.uncounted) == 1 else "hold"
    text = f"{', '.join(view.uncounted)} {hold} nothing: its program does not count that; turns and minutes count"
    return [Part(f"{text} (agent-mailer config set limits.turns_per_day N)", Ink.YELLOW)]


def _other_problems(view: StatusView) -> Iterator[Part]:
    """What no row of its own shows."""
    for problem in view.problems:
        if problem.code in _SHOWN_HERE or (problem.code == Problem.SIGNED_OUT and view.pause is None):
            yield Part(printable(problem.text, 300), Ink.RED)
            yield Part(f"fix: {printable(problem.fix, 4096)}")


def _trouble(view: StatusView, now: float) -> list[Part]:
    trouble = view.trouble
    if trouble is None:
        return []
    parts = [Part(f"{trouble.what}: {printable(trouble.why, 300)} (since {_clock(trouble.since, now)})", Ink.RED)]
    return [*parts, Part(f"fix: {printable(trouble.fix, 300)}")] if trouble.fix else parts


def _turn(view: StatusView, turn: RunningView) -> list[Part]:
    phase = turn.phase if view.watcher.running else f"{turn.phase}, left open: the next watcher takes it up"
    more = f", {len(turn.batch) + 1} messages" if turn.batch else ""
    parts = [
        Part(f"{turn.turn_id}  {duration(turn.seconds)}  {phase}{more}"),
        Part(f"from {printable(turn.sender, 40)}  thread {printable(turn.thread, 64)}", cut=True),
    ]
    doing = _doing(turn)
    return [*parts, Part(doing, Ink.GREEN)] if doing else parts


def _settling(view: StatusView, turn: SettlingView, now: float) -> list[Part]:
    left = "" if view.watcher.running else ", left open: the next watcher takes it up"
    what = f"an answer to {printable(turn.to, 80)}" if turn.to else "its end"
    waits = f", {what} waits to leave: {printable(turn.why, 300)}" if turn.why else ""
    line = f"{turn.turn_id}  ended {_ago(turn.since, now)}{waits}{left}"
    ended = Part(line, Ink.YELLOW) if waits else Part(line)
    return [ended, Part(f"from {printable(turn.sender, 40)}  thread {printable(turn.thread, 64)}", cut=True)]


def _doing(turn: RunningView) -> str:
    tool = f"{printable(turn.tool, 100)} for {duration(turn.tool_seconds or 0.0)}" if turn.tool else ""
    spent = f"{turn.tokens} tokens" if turn.tokens else ""
    paid = dollars(turn.cost_usd) if turn.cost_usd else ""
    return ", ".join(part for part in (tool or printable(turn.doing, 100), spent, paid) if part)


def _queue(view: StatusView) -> list[Part]:
    mailbox = view.mailbox
    if mailbox.problem is not None:
        return []
    count = "nobody has asked the broker" if mailbox.waiting is None else str(mailbox.waiting)
    oldest = f", the oldest for {duration(mailbox.queue[0].seconds)}" if mailbox.queue else ""
    unreadable = f", and {mailbox.unreadable} unreadable" if mailbox.unreadable else ""
    lines = [
        [duration(one.seconds), printable(one.sender, 40), printable(one.thread, 64) + _urgent(one.priority)]
        for one in mailbox.queue[:LISTED]
    ]
    return [Part(count + oldest + unreadable), *(Part(line, cut=True) for line in side_by_side(lines))]


def _offered(view: StatusView, now: float) -> list[Part]:
    soonest = sorted(view.offered, key=lambda offer: offer.until)
    parts = [Part(f"{printable(offer.message_id)} {offered_to(offer, now)}", Ink.GREEN) for offer in soonest[:LISTED]]
    return parts + _more(len(soonest))


def _in_the_way(view: StatusView, now: float) -> list[Part]:
    parts = [
        Part(f"{printable(one.path, 80)} is {printable(one.holder, 60)}'s until {_moment(one.until, now)}", Ink.YELLOW)
        for one in view.in_the_way[:LISTED]
    ]
    return [*parts, *_more(len(view.in_the_way)), Part("all: agent-mailer mail reservations")] if parts else []


def offered_to(offer: OfferedView, now: float) -> str:
    """To whom, since when, and until when they have it alone."""
    return f"to {printable(' '.join(offer.to), 80)} since {_clock(offer.since, now)} until {_moment(offer.until, now)}"


def _urgent(priority: str) -> str:
    return f"  {priority}" if priority != "normal" else ""


def _retries(view: StatusView) -> list[Part]:
    soonest = sorted(view.retries, key=lambda entry: entry.due_in_seconds)
    parts = [
        Part(f"{printable(entry.thread, 64)} in {duration(entry.due_in_seconds)}, {_failures(entry)}")
        for entry in soonest[:LISTED]
    ]
    return parts + _more(len(soonest))


def _failures(entry: RetryView) -> str:
    """Of one that failed before any process ran no outcome is kept."""
    count = entry.attempts
    failed = ("not failed", "failed once")[count] if count < 2 else f"failed {count} times"
    last = (entry.last_outcome or "").replace("_", " ")
    return failed + (f", last: {last}" if last else "" if count else ", not started yet")


def _blocked(view: StatusView, now: float) -> list[Part]:
    parts: list[Part] = []
    for one in view.blocked[:LISTED]:
        asked = f"{printable(one.thread, 64)}: {printable(one.asked, 40)} was asked {_ago(one.since, now)}"
        parts += [Part(asked, Ink.YELLOW), *([Part(running_on(one.question, 500), cut=True)] if one.question else [])]
    return parts + _more(len(view.blocked))


def _schedules(view: StatusView, now: float) -> list[Part]:
    """Those first that do not leave, then those that come next."""
    ordered = sorted(view.schedules, key=lambda one: (not one.why, one.next_at or float("inf")))
    return [_schedule(one, now) for one in ordered[:LISTED]] + _more(len(ordered))


def _schedule(one: ScheduleView, now: float) -> Part:
    if one.why:
        return Part(f"{one.name}: {printable(one.why, 300)} (agent-mailer schedules list)", Ink.RED)
    if one.sending is not None:
        return Part(f"{one.name}: due since {_clock(one.sending, now)}", Ink.YELLOW)
    return Part(f"{one.name} {_moment(one.next_at, now) if one.next_at is not None else 'comes no more'}")


def _results(view: StatusView, now: float) -> list[Part]:
    lines = [
        [
            result.outcome.replace("_", " "),
            _ago(result.at, now),
            printable(result.thread, 24),
            printable(result.sender, 24),
            "  ".join(part for part in (duration(result.seconds), dollars(result.cost_usd), _why(result)) if part),
        ]
        for result in view.results
    ]
    shown = side_by_side(lines)
    return [Part(line, ink_of(result.outcome), cut=True) for line, result in zip(shown, view.results, strict=True)]


def _why(result: ResultView) -> str:
    return "" if result.outcome == "done" else running_on(result.detail)


def _today(view: StatusView) -> Part:
    today = view.today
    tokens = f"{today.input_tokens + today.output_tokens} tokens"
    spent = (counted(today.turns, "turn"), duration(today.seconds), tokens, dollars(today.cost_usd))
    return Part(", ".join(part for part in spent if part))


def _next(wake: WakeView, now: float) -> Part:
    if wake.at is None:
        return Part(_WAITS[wake.why])
    when = "now" if wake.at <= now else f"at {_moment(wake.at, now)}"
    return Part(f"{when}, {_WAITS[wake.why]}")


def _more(count: int) -> list[Part]:
    return [Part(f"and {count - LISTED} more")] if count > LISTED else []


def _moment(moment: float, now: float) -> str:
    return _clock(moment, now) + (f" (in {duration(moment - now)})" if moment > now else "")


def _ago(moment: float, now: float) -> str:
    return f"{duration(now - moment)} ago"


def _clock(moment: float, now: float) -> str:
    """`17:30` today, otherwise with the date."""
    return local_time(moment).removeprefix(local_time(now)[:11])


def stamp(now: float) -> str:
    """The moment of a look, to the second."""
    return datetime.fromtimestamp(now).astimezone().strftime("%H:%M:%S")
