"""From what watchers report to what needs a person. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime

from agent_mailer.remote.access import RemoteAccess, RemoteVerb, may_be_asked
from agent_mailer.remote.port import (
    Question,
    Report,
    Standing,
    Stuck,
)
from agent_mailer.remote.watched import Watched
from agent_mailer.views.values.needs import NeedKind, NeedView

SILENT_AFTER = 600.0
"""Seconds for which mail may wait for an agent whose watcher was stopped, before somebody has to know."""

_LOGINS = {"claude": "claude auth login", "codex": "codex login"}
_PAUSES = {
    Standing.OUTAGE: NeedKind.OUTAGE,
    Standing.BUDGET: NeedKind.BUDGET,
    Standing.LIMITED: NeedKind.LIMITED,
    Standing.PAUSED: NeedKind.PAUSED,
}


def needs_of(agents: Iterable[Watched], now: float, silent_after: float = SILENT_AFTER) -> list[NeedView]:
    """The most urgent kind first, of a kind the oldest first."""
    known = [(agent, agent.report) for agent in agents if agent.report is not None]
    return in_order([need for agent, report in known for need in _needs(agent, report, now, silent_after)])


def in_order(needs: Iterable[NeedView]) -> list[NeedView]:
    order = {kind: place for place, kind in enumerate(NeedKind)}
    return sorted(needs, key=lambda need: (order[need.kind], need.since, need.id))


def _needs(agent: Watched, report: Report, now: float, silent_after: float) -> Iterator[NeedView]:
    if agent.lost:
        since = _seconds(agent.reported_at)
        yield _need(agent, NeedKind.LOST, since, command="agent-mailer watch", many=max(1, agent.unread))
    elif report.ended:
        since = _seconds(agent.reported_at)
        if agent.unread and now - since >= silent_after:
            yield _need(agent, NeedKind.SILENT, since, command="agent-mailer watch", many=agent.unread)
    else:
        yield from _stopped(agent, report)
    for question in report.questions:
        yield _asked(agent, report, question)
    for turn in report.working:
        if turn.waits and not agent.lost:
            command = f"agent-mailer turns show {turn.turn_id}"
            mail = (turn.thread, turn.message_id)
            yield _need(agent, NeedKind.ANSWER_WAITS, turn.since, turn.turn_id, mail=mail, command=command)
    for counted in report.stuck_counts:
        yield _together(agent, report, NeedKind.STUCK, counted.word, counted.many)
    for counted in report.held_counts:
        yield _together(agent, report, NeedKind.HELD, counted.word, counted.many)
    for one in report.schedules:
        if one.why:
            since, command = one.due or 0.0, "agent-mailer schedules list"
            yield _need(agent, NeedKind.SCHEDULE, since, one.name, why=one.why, tool=one.name, command=command)


def _stopped(agent: Watched, report: Report) -> Iterator[NeedView]:
    """What keeps the whole agent from its work."""
    standing, pause = report.standing, report.pause
    resume = _asks(report, RemoteVerb.RESUME)
    if standing is Standing.SIGNED_OUT:
        since = report.signed_out if report.signed_out is not None else pause.since if pause is not None else 0.0
        command = _LOGINS.get(report.runtime, "agent-mailer doctor")
        yield _need(agent, NeedKind.SIGNED_OUT, since, verb=RemoteVerb.RESUME.value, may=resume, command=command)
    elif standing is Standing.TROUBLE and report.trouble is not None:
        trouble = report.trouble
        yield _need(agent, NeedKind.TROUBLE, trouble.since, why=trouble.what, command="agent-mailer doctor")
    elif pause is not None and standing in _PAUSES:
        yield _need(
            agent,
            _PAUSES[standing],
            pause.since,
            why=pause.reason,
            until=pause.until or 0.0,
            verb=RemoteVerb.RESUME.value,
            may=resume,
            command="agent-mailer limits show" if standing is Standing.BUDGET else "agent-mailer resume",
        )


def _asked(agent: Watched, report: Report, question: Question) -> NeedView:
    mail = (question.thread, question.message_id)
    if not question.tool:
        return _need(agent, NeedKind.QUESTION, question.since, question.id, mail=mail)
    return _need(
        agent,
        NeedKind.APPROVAL,
        question.since,
        question.id,
        tool=question.tool,
        until=question.until or 0.0,
        verb=RemoteVerb.APPROVE.value,
        targets=(question.id,),
        may=_asks(report, RemoteVerb.APPROVE),
        command=f"agent-mailer approvals show {shlex.quote(question.id)}",
        mail=mail,
    )


def _together(agent: Watched, report: Report, kind: NeedKind, word: str, many: int) -> NeedView:
    """What waits for one reason: of as much as is named the oldest tells since when."""
    stuck = kind is NeedKind.STUCK
    named: list[Stuck] = [one for one in (report.stuck if stuck else report.held) if one.reason == word]
    verb = RemoteVerb.RETRY if stuck else RemoteVerb.RELEASE
    first = min(named, key=lambda one: one.since, default=None)
    return _need(
        agent,
        kind,
        first.since if first is not None else 0.0,
        word,
        why=word,
        many=many,
        mail=(first.thread, first.message_id) if first is not None else ("", ""),
        verb=verb.value if named else "",
        targets=tuple(f"{word} {one.key}" if stuck else one.key for one in named),
        may=bool(named) and _asks(report, verb),
        command=f"agent-mailer stuck list --reason {word}" if stuck else f"agent-mailer held list --guard {word}",
    )


def _asks(report: Report, verb: RemoteVerb) -> bool:
    try:
        return may_be_asked(verb, RemoteAccess(report.remote))
    except ValueError:
        # A newer watcher's word.
        return False


def _need(
    agent: Watched,
    kind: NeedKind,
    since: float,
    about: str = "",
    *,
    until: float = 0.0,
    why: str = "",
    many: int = 1,
    tool: str = "",
    mail: tuple[str, str] = ("", ""),
    verb: str = "",
    targets: tuple[str, ...] = (),
    may: bool = False,
    command: str = "",
) -> NeedView:
    """`mail`: its thread and id."""
    return NeedView(
        f"{kind.value}:{agent.agent_id}:{about}",
        kind,
        agent.agent_id,
        agent.address,
        since,
        until,
        why,
        many,
        tool,
        *mail,
        verb,
        targets,
        may and not agent.lost,
        command,
    )


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
