"""What commands ask: applied by the watcher that runs, or by the command itself where none does. Idempotent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Mailbox
from agent_mailer.names import is_turn_id, meant, printable, prompt_word, running_on
from agent_mailer.schedules.sending import run_now, skip_once
from agent_mailer.state import State
from agent_mailer.state.lifts import OrderVerb
from agent_mailer.state.notices import Channel
from agent_mailer.state.records import AfterStop, Pause, PauseReason, Phase, StopAsked
from agent_mailer.state.requests import Answer, Request, Verb
from agent_mailer.state.stuck import StuckKind, split_key
from agent_mailer.watch.answering import tell_answered
from agent_mailer.watch.guards.holding import carry_out
from agent_mailer.watch.stuck import drop_stuck, retry_stuck

MOST_AT_ONCE = 1000
"""So many are taken up by one request: the watcher's loop stands still meanwhile."""

LINES = 50


def apply_waiting(state: State, mailbox: Mailbox | None = None, *, takes: bool = False) -> bool:
    """Apply every waiting request but pings, oldest first; whether there may be open turns now. Raises OSError.

    `mailbox` is where mail that was put away can be put back; without it that is answered so. `takes`: a live session's
    wish is left to the look that follows.
    """
    opened = False
    left = (Verb.PING, Verb.TAKE) if takes else (Verb.PING,)
    for name, request in state.requests.waiting():
        if request is not None and request.verb in left:
            continue
        if not state.requests.take(name):
            continue
        if request is None:
            state.log.emit(EventName.REQUEST_REFUSED, request=name, why="not a request")
            state.requests.answer(name, Answer(ok=False, lines=("the request could not be read",)))
        else:
            state.requests.answer(name, apply(state, request, mailbox))
            opened = opened or request.verb is Verb.STUCK_RETRY
    return opened


def apply(state: State, request: Request, mailbox: Mailbox | None = None, person: str = "") -> Answer:
    """Do what is asked; `person`: by whom, where that is known. The caller holds the workdir's lock."""
    if request.verb in (Verb.STUCK_RETRY, Verb.STUCK_DROP):
        answer = _stuck(state, request, mailbox)
    else:
        answer = _VERBS[request.verb](state, request)
    event = EventName.REQUEST_APPLIED if answer.ok else EventName.REQUEST_REFUSED
    label = "thread" if request.verb is Verb.SESSIONS_INVALIDATE else "message"
    targets = " ".join(prompt_word(target, label) for target in request.targets)
    state.log.emit(event, request=request.verb.value, targets=targets or None, person=person or None)
    return answer


def _stuck(state: State, request: Request, mailbox: Mailbox | None) -> Answer:
    """`targets` are `<kind> <key>`; with none, all of the kind `reason`, or of every kind."""
    retry = request.verb is Verb.STUCK_RETRY
    wanted = _by_kind(request.targets) if request.targets else _all_stuck(state, request.reason, retry=retry)
    left = MOST_AT_ONCE
    over = 0
    results: list[tuple[bool, str]] = []
    for kind, keys in wanted.items():
        # To forget what was given up is one write, however much it is.
        some = keys[:left] if retry or kind is not StuckKind.GIVEN_UP else keys
        left, over = max(0, left - len(some)), over + len(keys) - len(some)
        results += retry_stuck(state, kind, some, mailbox) if retry else drop_stuck(state, kind, some)
    return told_of(results, over)


def _by_kind(targets: Sequence[str]) -> dict[StuckKind, list[str]]:
    found: dict[StuckKind, list[str]] = {}
    for target in targets:
        name, _, key = target.partition(" ")
        with suppress(ValueError):
            found.setdefault(StuckKind(name), []).append(key)
    return found


def _all_stuck(state: State, reason: str, *, retry: bool) -> dict[StuckKind, list[str]]:
    given_up = {letter.msg_id: letter.turn_id for letter in state.dead_letters.all()}
    unsent = state.unsent.all()
    if retry and not reason:
        # Its message runs again, and its agent writes anew: sent as well it would be there twice.
        turns = set(given_up.values())
        unsent = [key for key in unsent if (split := split_key(key)) is None or split[0] not in turns]
    found = {StuckKind.GIVEN_UP: list(given_up), StuckKind.NOT_SENT: unsent}
    for entry in state.stuck.all():
        found.setdefault(entry.kind, []).append(entry.key)
    return {kind: keys for kind, keys in found.items() if kind.value == reason or (keys and not reason)}


def told_of(results: list[tuple[bool, str]], more: int) -> Answer:
    """What failed first, where there are too many to be told."""
    lines = [line for _, line in sorted(results, key=lambda result: result[0])] or ["nothing is stuck"]
    if len(lines) > LINES:
        done = sum(ok for ok, _ in results)
        lines = [*lines[:LINES], f"… in all {len(results)}, of which {done} went well"]
    if more > 0:
        lines.append(f"{more} more are left for the next time: say it again")
    return Answer(ok=any(ok for ok, _ in results) or not results, lines=tuple(lines))


def _invalidate_sessions(state: State, request: Request) -> Answer:
    threads = request.targets or tuple(state.sessions.bound())
    lines: list[str] = []
    dropped = 0
    for thread in threads:
        state.questions.drop(thread)
        if state.sessions.invalidate(thread):
            dropped += 1
            lines.append(f"{printable(thread)}: the next message starts fresh")
        else:
            lines.append(f"{printable(thread)}: no session")
    return Answer(ok=dropped > 0 or not request.targets, lines=tuple(lines) or ("no sessions",))


def _prune_sessions(state: State, request: Request) -> Answer:
    removed = state.sessions.prune(request.seconds)
    return Answer(ok=True, lines=(f"{removed} sessions forgotten",))


def _stop_turn(state: State, request: Request) -> Answer:
    """Whoever follows the turn ends it; where nobody does, whoever asks."""
    lines: list[str] = []
    stopped = False
    for turn_id in request.targets:
        record = state.turns.load(turn_id) if is_turn_id(turn_id) else None
        shown = printable(turn_id)
        if record is None:
            lines.append(f"{shown}: no such turn")
        elif record.settlement is not None:
            lines.append(f"{shown}: it has ended: {record.settlement.outcome}")
        else:
            reason = running_on(request.reason, 300)
            state.turns.ask_stop(turn_id, StopAsked(request.then, state.folder.clock.now(), reason))
            stopped = True
            lines.append(f"{shown}: is being stopped; {_THEN[request.then]}")
    return Answer(ok=stopped, lines=tuple(lines) or ("no turn was named",))


_THEN = {
    AfterStop.RETRY: "its message runs again",
    AfterStop.DROP: "its message is dropped, and its sender told",
    AfterStop.ASK: "its sender is asked how to go on",
}


def _pause(state: State, request: Request) -> Answer:
    now = state.folder.clock.now()
    state.pause.write(Pause(PauseReason.BY_HAND, since=now, detail=running_on(request.reason)))
    state.log.emit(EventName.PAUSED, reason=PauseReason.BY_HAND.value, detail=request.reason or None)
    return Answer(ok=True, lines=("paused: running turns go on, nothing new is started until: agent-mailer resume",))


def _resume(state: State, request: Request) -> Answer:
    del request
    known = state.pause.read() or (state.pause.account.read() if state.pause.account is not None else None)
    if known is None:
        # Whoever resumes has logged in, or will be told otherwise by the next turn.
        state.login.forget()
        return Answer(ok=True, lines=("nothing was paused",))
    state.pause.lift(known, by_hand=True)
    return Answer(ok=True, lines=("resumed",))


def _order(state: State, request: Request) -> Answer:
    """A request gives no power: what is to be done the order says, which lies where no agent writes."""
    given = request.targets[0] if request.targets else ""
    order = state.lifts.order(given)
    if order is None:
        return Answer(ok=False, lines=("no person has ordered that",))
    if order.verb in (OrderVerb.RUN, OrderVerb.SKIP):
        name, line = order.targets
        results, left = [(run_now if order.verb is OrderVerb.RUN else skip_once)(state, name, line, order.until)], 0
    else:
        results, left = carry_out(state, order)
    state.lifts.done(given)
    return told_of(results, left)


def _answered(state: State, request: Request) -> Answer:
    """The answer lies where no agent writes; that there is one is told here, and looked for at the next look."""
    for name in request.targets:
        known, answer = state.approvals.get(name), state.approvals.answer_to(name)
        if known is not None and answer is not None:
            tell_answered(state, known, answer)
    return Answer(ok=True, lines=())


def _ping(state: State, request: Request) -> Answer:
    """Where a command applies it, nobody else is there to be asked."""
    del state, request
    return Answer(ok=False, lines=("no watcher",))


def _take(state: State, request: Request) -> Answer:
    """Where a command applies it nobody watches, and a watcher that gives nothing to sessions does not, either. What a
    killed one had begun to give is the session's.
    """
    for record in map(state.turns.load, state.turns.open_ids()):
        if record is None or record.live is None or record.live != request.by or record.phase is not Phase.RUNNING:
            continue
        if any(meant(one, [record.envelope.id]) for one in request.targets):
            return Answer(ok=True, lines=(record.turn_id,))
    why = 'no watcher with delivery = "live-first" runs here: nobody can give it to you'
    return Answer(ok=False, lines=(why, "agent-mailer config set delivery live-first, then agent-mailer watch"))


def _heard(state: State, request: Request) -> Answer:
    for channel in Channel:
        if channel.value in request.targets:
            state.notices.works(channel)
    return Answer(ok=True, lines=())


_VERBS = {
    Verb.TAKE: _take,
    Verb.SESSIONS_INVALIDATE: _invalidate_sessions,
    Verb.SESSIONS_PRUNE: _prune_sessions,
    Verb.TURNS_STOP: _stop_turn,
    Verb.PAUSE: _pause,
    Verb.RESUME: _resume,
    Verb.ORDER: _order,
    Verb.ANSWERED: _answered,
    Verb.HEARD: _heard,
    Verb.PING: _ping,
}
