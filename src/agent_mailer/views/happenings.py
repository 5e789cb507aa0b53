"""What happens while somebody watches: of a mail one happening when it comes, and one for what came of it. Pure.

What needs a person has the command that ends it beside what it is; what only explains comes last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from agent_mailer.amounts import counted, dollars, duration
from agent_mailer.clock import from_iso
from agent_mailer.events import EventName, LogRecord
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import PauseReason

ID_SHOWN = 8
"""The end of an id tells ids apart, and names one in every command."""

MOST_TOOLS = 30
"""Names of tools that are kept of a turn; all are counted."""


_SERVER = re.compile(r"^.*(?:__|\.)")


class Tone(StrEnum):
    """How it is for the person: he has to do something, he may want to know, it is well, or it is by the way."""

    BAD = "bad"
    ODD = "odd"
    GOOD = "good"
    NEWS = "news"
    ASIDE = "aside"


class Happening(msgspec.Struct, frozen=True):
    """`head` says in a few words what it is, `mend` what ends it or when it ends by itself, `text` all else.

    All three are printable; `ts` is ISO 8601.
    """

    ts: str
    head: str
    tone: Tone = Tone.NEWS
    mend: str = ""
    text: str = ""


class Running(msgspec.Struct):
    """A turn that runs. `since` is what `Story.clock` said."""

    sender: str
    subject: str
    since: float
    doing: str = ""
    tools: list[str] = msgspec.field(default_factory=list)
    count: int = 0


class _Turn(msgspec.Struct):
    """What is known of a turn until it is settled."""

    sender: str = ""
    subject: str = ""
    tools: list[str] = msgspec.field(default_factory=list)
    count: int = 0
    outcome: str = ""
    detail: str = ""
    question: str = ""
    cost: float = 0.0
    to: list[str] = msgspec.field(default_factory=list)
    fate: Happening | None = None
    answers: bool = True


class Story:
    """Takes in the events as they come; says which of them make a line, and which turns run."""

    def __init__(self, login: str = "") -> None:
        """`login` is the command that logs the agent program in."""
        self._login = login
        self._turns: dict[str, _Turn] = {}
        self.running: dict[str, Running] = {}

    def tell(self, record: LogRecord, now: float) -> Happening | None:
        """What a person sees of it; `now` in seconds, by a clock that only goes on."""
        fields = record.fields
        turn_id = str(fields.get("turn_id", ""))
        turn = self._turns.setdefault(turn_id, _Turn()) if turn_id else _Turn()
        match record.event:
            case EventName.TURN_CLAIMED:
                turn.sender, turn.subject = _text(fields, "sender"), record.shown
                attempt = fields.get("attempt")
                again = f"attempt {attempt}  " if isinstance(attempt, int) and attempt > 1 else ""
                return Happening(record.ts, f"mail from {turn.sender}", text=f"{again}{turn.subject}".rstrip())
            case EventName.TURN_STARTED | EventName.TURN_ADOPTED:
                if fields.get("running") is not False:
                    self.running[turn_id] = Running(turn.sender, turn.subject, now)
                adopted = record.event is EventName.TURN_ADOPTED
                return _of(record, "goes on", Tone.ASIDE, "a turn of the watcher before this one") if adopted else None
            case EventName.TURN_PROGRESS:
                self._note_progress(turn_id, turn, fields)
                return None
            case EventName.TURN_ENDED:
                self.running.pop(turn_id, None)
                turn.outcome, turn.question = _text(fields, "outcome"), record.shown
                turn.detail = _text(fields, "detail")
                cost = fields.get("cost_usd")
                turn.cost = float(cost) if isinstance(cost, int | float) else 0.0
                return None
            case EventName.ITEM_DELIVERED:
                turn.to.append(_text(fields, "to"))
                return None
            case EventName.RETRY_SCHEDULED | EventName.DEAD_LETTER if turn.outcome:
                # Of several messages of a turn the first one's fate tells of all.
                turn.fate = turn.fate or _of_message(record)
                return None
            case EventName.TURN_SETTLED:
                seconds = fields.get("seconds")
                turn.outcome = turn.outcome or _text(fields, "outcome")
                self._turns.pop(turn_id, None)
                return _settled(record, turn, float(seconds) if isinstance(seconds, int | float) else 0.0)
            case EventName.TURN_DROPPED:
                self._turns.pop(turn_id, None)
            case EventName.WATCH_STOPPED | EventName.WATCH_HANDED_OVER | EventName.WATCH_FAULT:
                self.running.clear()
            case EventName.PAUSED:
                return _paused(record, self._login)
            case _:
                pass
        found = _of_message(record) or _of_watcher(record) or _plainly(record)
        return found if found is not _NOTHING else None

    def _note_progress(self, turn_id: str, turn: _Turn, fields: Mapping[str, object]) -> None:
        if tool := _text(fields, "tool"):
            turn.count += 1
            # How a program calls what an MCP server offers is no news: the tool's own name is.
            name = _SERVER.sub("", tool) or tool
            if name not in turn.tools and len(turn.tools) < MOST_TOOLS:
                turn.tools.append(name)
        if (running := self.running.get(turn_id)) is not None:
            running.doing, running.count = _text(fields, "text"), turn.count


def _settled(record: LogRecord, turn: _Turn, seconds: float) -> Happening | None:
    spent = [f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"]
    if turn.count:
        spent.append(counted(turn.count, "tool"))
    if turn.cost > 0:
        spent.append(dollars(turn.cost))
    text = " · ".join(spent)
    names = f"  {' '.join(turn.tools)}" if turn.tools else ""
    others = f" and {len(turn.to) - 1} more" if len(turn.to) > 1 else ""
    to = f"{turn.to[0]}{others}" if turn.to else ""
    match turn.outcome:
        case Outcome.DONE:
            answered = not turn.sender or turn.sender in turn.to
            if answered and to:
                to = f"{turn.sender}{others}" if turn.sender else to
            head = f"answered {to}" if to and answered else f"sent to {to}" if to else "done, no answer"
            return Happening(record.ts, head, Tone.GOOD, text=text + names)
        case Outcome.BLOCKED:
            return Happening(record.ts, f"asks {to}".rstrip(), Tone.ODD, text=f"{text}  {turn.question}".rstrip())
        case Outcome.ASKED:
            return None  # the question itself was told
        case Outcome.LIMITED | Outcome.SIGNED_OUT | Outcome.UNAVAILABLE if (
            turn.fate is None or turn.fate.tone is Tone.ODD
        ):
            return None  # so was the pause, after which it is tried again
        case _:
            pass
    if turn.fate is None:
        what = f"ended {turn.outcome.replace('_', ' ')}"
        return Happening(record.ts, what, Tone.ODD, text=f"{text}  {turn.detail}".rstrip())
    return msgspec.structs.replace(turn.fate, text="  ".join(filter(None, (turn.fate.text or turn.detail, text))))


def _paused(record: LogRecord, login: str) -> Happening:
    reason, left = _text(record.fields, "reason"), record.fields.get("in_seconds")
    resume = "agent-mailer resume"
    if reason == PauseReason.SIGNED_OUT:
        # It is looked at again by and by; but only a person changes it.
        mend, tone = f"{login}, then: {resume}" if login else resume, Tone.BAD
    elif isinstance(left, int | float):
        mend, tone = f"until {_moment(from_iso(record.ts), left)}, or: {resume}", Tone.ODD
    else:
        mend, tone = resume, Tone.ODD if reason == PauseReason.BY_HAND else Tone.BAD
    if reason in (PauseReason.BUDGET, PauseReason.TOO_MANY_TURNS):
        mend += "; why: agent-mailer limits"
    return Happening(record.ts, f"PAUSED  {reason.replace('_', ' ')}", tone, mend, _text(record.fields, "detail"))


def _of_message(record: LogRecord) -> Happening | None:
    """What became of one message."""
    fields = record.fields
    why, key = _text(fields, "why"), _ending(_text(fields, "message_id"))
    sender = _text(fields, "sender")
    match record.event:
        case EventName.RETRY_SCHEDULED:
            outcome = _text(fields, "outcome")
            left = fields.get("in_seconds")
            failed = outcome in {one for one in Outcome if one.counts}
            times = f" (failed {_times(fields.get('attempts'))})" if failed else ""
            when = f"in {duration(left)}" if isinstance(left, int | float) and left >= 1 else "now"
            mend = f"tried again {when}{times}"
            head = outcome.replace("_", " ")
            return Happening(record.ts, head.upper() if failed else head, Tone.BAD if failed else Tone.ODD, mend)
        case EventName.DEAD_LETTER:
            return Happening(record.ts, "GIVEN UP", Tone.BAD, f"agent-mailer dead-letter retry {key}", why)
        case EventName.MESSAGE_STUCK:
            kind = _text(fields, "kind")
            return Happening(
                record.ts, f"STUCK  {kind}", Tone.BAD, f"agent-mailer stuck show {_ending(_text(fields, 'key'))}", why
            )
        case EventName.MESSAGE_HELD:
            guard = _text(fields, "guard")
            release = f"agent-mailer held release {key}"
            return Happening(record.ts, f"HELD  {guard}", Tone.ODD, release, f"from {sender}: {why}")
        case EventName.APPROVAL_ASKED:
            ask = _text(fields, "question")
            return Happening(
                record.ts, "ASKS YOU", Tone.ODD, f"agent-mailer approvals show {ask}", _text(fields, "tool")
            )
        case EventName.APPROVAL_ANSWERED:
            return _of(record, f"answer: {_text(fields, 'verdict')}", Tone.NEWS, f"by {sender or _text(fields, 'by')}")
        case EventName.ITEM_REFUSED:
            to = f"NOT SENT to {_text(fields, 'to')}"
            return Happening(record.ts, to, Tone.BAD, f"agent-mailer stuck show {key}", why)
        case EventName.ITEM_POSTPONED:
            return Happening(
                record.ts, f"waits to send to {_text(fields, 'to')}", Tone.ODD, "tried again by itself", why
            )
        case EventName.MESSAGE_UNREADABLE:
            if "cannot be put away" not in why:
                return _NOTHING  # that it is stuck was told
            return Happening(
                record.ts, "UNREADABLE", Tone.BAD, "agent-mailer stuck list", f"{_text(fields, 'file')}: {why}"
            )
        case EventName.MESSAGE_GONE:
            return _of(record, "mail is gone", Tone.ODD, why)
        case EventName.MESSAGE_SET_ASIDE:
            return _of(record, "put aside", Tone.ASIDE, f"{key}: settled already")
        case EventName.MESSAGE_SKIPPED:
            return _of(record, "no turn", Tone.ASIDE, f"{key}: {why}")
        case EventName.MESSAGE_REVIVED:
            return _of(record, "again", Tone.NEWS, f"{key}, which was given up")
        case EventName.MESSAGE_RELEASED | EventName.MESSAGE_OFFERED:
            return _of(record, _text(fields, "how") or "offered", Tone.NEWS, key)
        case EventName.TAKEN_OVER:
            return _of(record, "taken over", Tone.NEWS, f"{key}: {why}")
        case EventName.MESSAGE_DONE | EventName.SESSION_BOUND | EventName.SESSION_DROPPED:
            return _NOTHING
        case _:
            return None


def _of_watcher(record: LogRecord) -> Happening | None:
    """What is about the watcher and what stands around it."""
    fields = record.fields
    why, fix = _text(fields, "why"), _text(fields, "fix")
    match record.event:
        case EventName.WATCH_STOPPING:
            running, grace = fields.get("running"), fields.get("grace")
            if not running:
                return _NOTHING
            turns = "its turn" if running == 1 else f"{running} turns"
            if not isinstance(grace, int | float) or grace <= 0:
                return _of(record, "stopping", Tone.ODD, f"ends {turns} now; the mail is tried again at the next start")
            waits = f"waits up to {duration(grace)} for {turns}; Ctrl-C again ends them now"
            return Happening(record.ts, "stopping", Tone.ODD, waits)
        case EventName.WATCH_STOPPED:
            paused = _text(fields, "paused")
            left = f"paused ({paused.replace('_', ' ')}): mail may wait" if paused else ""
            drained = _text(fields, "reason") == "drained"
            return _of(record, "no more mail is due" if drained else "stopped", Tone.NEWS, left)
        case EventName.WATCH_HANDED_OVER:
            return _of(record, "handed over", Tone.NEWS, "running turns go on; the next watcher takes them up")
        case EventName.TURN_STOPPING:
            reason = _text(fields, "reason")
            shown = reason.replace("_", " ")
            return _NOTHING if reason == "finished" else _of(record, "ending a turn", Tone.ODD, shown)
        case EventName.RESUMED:
            return _of(record, "resumed", Tone.GOOD, f"was paused: {_text(fields, 'reason').replace('_', ' ')}")
        case EventName.MAILBOX_BACK:
            return _of(record, "the mailbox is back", Tone.GOOD)
        case EventName.REQUEST_APPLIED:
            request = _text(fields, "request")
            said = request in ("pause", "resume", "heard")
            return _NOTHING if said else _of(record, "asked for", Tone.ASIDE, f"{request} {_text(fields, 'targets')}")
        case EventName.STATE_DAMAGED:
            return Happening(
                record.ts, "DAMAGED", Tone.BAD, "agent-mailer doctor --repair", f"{_text(fields, 'file')}: {why}"
            )
        case EventName.TURN_DROPPED:
            return Happening(record.ts, "DAMAGED", Tone.BAD, "agent-mailer doctor --repair", "a turn's record")
        case EventName.MAILBOX_TROUBLE | EventName.STATE_TROUBLE:
            head = "NO MAILBOX" if record.event is EventName.MAILBOX_TROUBLE else "NO DISK"
            return Happening(record.ts, head, Tone.BAD, fix or "tried again by itself", why)
        case EventName.NOTICE_GIVEN_UP:
            return Happening(record.ts, "NOT TOLD YOU", Tone.BAD, "agent-mailer test-notify", why)
        case EventName.NOTICE_FAILED:
            return Happening(record.ts, "not told you yet", Tone.ODD, "tried again by itself", why)
        case EventName.NOTICE_SENT:
            return _of(record, "told you", Tone.ASIDE, f"{_text(fields, 'kind')} by {_text(fields, 'by')}")
        case EventName.SURVIVORS:
            return Happening(record.ts, "STILL RUNNING", Tone.BAD, f"kill -9 {_text(fields, 'pids')}", "left by a turn")
        case EventName.UNTRUSTED:
            head = "CONFIGURATION" if why else "NOT TRUSTED"
            return Happening(record.ts, head, Tone.BAD, fix, why or _text(fields, "names"))
        case EventName.CONFIG_TAKEN:
            return _of(record, "configuration taken", Tone.NEWS, _taken(fields))
        case EventName.TRUSTED:
            return _of(record, "trusted", Tone.ASIDE, _text(fields, "basis"))
        case EventName.NOTE_CHANGED:
            refused = fields.get("how") == "refused"
            return _of(record, "note refused" if refused else "note written", Tone.ASIDE, _text(fields, "file"))
        case EventName.INSTRUCTIONS_CHANGED | EventName.RESERVATION_TOUCHED:
            return _of(record, record.event.value.replace("_", " "), Tone.ODD, _text(fields, "file"))
        case EventName.RESERVATION_CONFLICT | EventName.RESERVATION_LOST:
            head = "waits for files" if record.event is EventName.RESERVATION_CONFLICT else "FILES LOST"
            return _of(record, head, Tone.ODD, why)
        case EventName.RESERVATION_RELEASED:
            return _of(record, "gave files back", Tone.ASIDE, "")
        case EventName.SCHEDULE_SENT:
            return _of(record, "sent by the clock", Tone.NEWS, _text(fields, "schedule"))
        case EventName.SCHEDULE_REFUSED:
            return Happening(
                record.ts,
                "NOT SENT by the clock",
                Tone.BAD,
                "agent-mailer schedules",
                f"{_text(fields, 'schedule')}: {why}",
            )
        case EventName.OUTPUT_DROPPED:
            return _of(record, "lines dropped", Tone.ODD, f"{fields.get('lines')}; the log has them: agent-mailer logs")
        case EventName.GIT_KEPT_OUT:
            return _of(record, "git is kept out", Tone.ASIDE, f"of {_text(fields, 'folder')}")
        case EventName.TURN_UNLIMITED | EventName.TEMPLATE_INVALID:
            return _of(record, record.event.value.replace("_", " "), Tone.ODD, f"{_text(fields, 'file')} {why}".strip())
        case event if event in _WRONG:
            return Happening(record.ts, _WRONG[event], Tone.BAD, fix, why)
        case _:
            return None


_NOTHING = Happening("", "")

_WRONG = {
    EventName.MAILBOX_REFUSED: "THE BROKER REFUSES US",
    EventName.GIT_TROUBLE: "GIT",
    EventName.MACHINE_SHORT: "SHORT",
    EventName.CONFIG_REFUSED: "CONFIGURATION",
    EventName.WATCH_FAULT: "FAULT",
    EventName.WATCH_GONE: "GONE",
}


def _plainly(record: LogRecord) -> Happening:
    text = "  ".join(f"{name}={_text(record.fields, name)}" for name in record.fields)
    return Happening(record.ts, record.event.value.replace("_", " "), Tone.ASIDE, text=text)


def _of(record: LogRecord, head: str, tone: Tone, text: str = "") -> Happening:
    return Happening(record.ts, head, tone, text=text.strip())


def _taken(fields: Mapping[str, object]) -> str:
    when = (("now", "now"), ("next_turn", "from the next turn"), ("restart", "when it is started again"))
    return "; ".join(f"{_text(fields, name)} {words}" for name, words in when if fields.get(name))


def _times(count: object) -> str:
    return "once" if count == 1 else f"{count} times"


def _moment(now: float, left: float) -> str:
    when, here = (datetime.fromtimestamp(moment).astimezone() for moment in (now + left, now))
    near = "%H:%M" if when.date() == here.date() else "%a %H:%M" if left < 6 * 86400 else "%Y-%m-%d %H:%M"
    return when.strftime(near)


def _ending(identifier: str) -> str:
    return identifier[-ID_SHOWN:]


def _text(fields: Mapping[str, object], name: str) -> str:
    return printable(str(fields.get(name) or ""), 300)
