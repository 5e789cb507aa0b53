"""What codex's words about a failure mean, and when a used-up quota comes back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.process.output import tail_text

_DETAIL_LIMIT = 500
_THREAD_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Failure(msgspec.Struct, frozen=True):
    """`detail` is one line for people, with the way out where there is one."""

    outcome: Outcome
    detail: str


class _Row(msgspec.Struct, frozen=True):
    pattern: re.Pattern[str]
    outcome: Outcome
    fix: str = ""


def _row(pattern: str, outcome: Outcome, fix: str = "") -> _Row:
    return _Row(re.compile(pattern, re.IGNORECASE | re.DOTALL), outcome, fix)


_LOGIN = "codex login, or a valid key in a variable that [env] pass names"
_MODEL = "agent-mailer config set model NAME"

# Of `turn.failed`: the first row that matches says it. Bodies of the provider's answers follow most of these words, so
# the patterns hold on to how codex begins.
_MESSAGES = (
    _row(r"missing environment variable", Outcome.SIGNED_OUT, "name the variable in [env] pass, and set it"),
    _row(r"(unexpected status|exceeded retry limit, last status:) 40[123]\b", Outcome.SIGNED_OUT, _LOGIN),
    _row(
        r"your (access token|authentication session) could not be refreshed|not logged in", Outcome.SIGNED_OUT, _LOGIN
    ),
    _row(
        r"quota exceeded|to use codex with your chatgpt plan", Outcome.SIGNED_OUT, "the plan or billing of the account"
    ),
    _row(r"you.ve hit your usage limit", Outcome.LIMITED),
    _row(r"(unexpected status|exceeded retry limit, last status:) 429\b|rate limit exceeded", Outcome.LIMITED),
    _row(r"selected model is at capacity", Outcome.LIMITED),
    _row(r"codex ran out of room", Outcome.SESSION_LOST),
    _row(r"(unexpected status|exceeded retry limit, last status:) (5\d\d|408)\b", Outcome.UNAVAILABLE),
    _row(r"we.re currently experiencing high demand|policy-restricted capacity", Outcome.UNAVAILABLE),
    _row(r"stream disconnected|connection failed|(request )?timed? ?out", Outcome.UNAVAILABLE),
    _row(r"(unexpected status|exceeded retry limit, last status:) 404\b", Outcome.UNAVAILABLE, _MODEL),
    _row(r"the model \S+ does not exist|the requested model", Outcome.UNAVAILABLE, _MODEL),
    _row(r"""\{"detail": ?"the '[^']*' model is not supported""", Outcome.UNAVAILABLE, _MODEL),
)

# Of its error line on stderr, where codex ended without a turn: nobody has seen the message by then, it is innocent.
_STDERR = (
    _row(r".*required mcp servers failed to initialize", Outcome.UNAVAILABLE, "agent-mailer doctor"),
    _row(r".*already has an active writer", Outcome.UNAVAILABLE, "another codex has this session open: end it"),
    _row(r".*(no rollout found|thread/resume failed|failed to read session metadata)", Outcome.SESSION_LOST),
    _row(r".*turn/start failed", Outcome.FAILED),
    _row(r".*codex_home points to", Outcome.UNAVAILABLE, "agent-mailer config set config_home FOLDER"),
    _row(r".*model provider \S+ not found", Outcome.UNAVAILABLE, "the settings of codex, or extra_args, name it"),
    _row(r".*unknown feature flag", Outcome.UNAVAILABLE, "another version of codex: npm install -g @openai/codex"),
)


def classify(message: str) -> Failure:
    """What the message of `turn.failed` means."""
    return _look_up(_MESSAGES, message, Outcome.FAILED)


def classify_retry(message: str) -> Failure:
    """What the reason of a retry means, should no more come of it: at its best an outage."""
    failure = _look_up(_MESSAGES, message, Outcome.UNAVAILABLE)
    return failure if failure.outcome.pauses else Failure(Outcome.UNAVAILABLE, failure.detail)


def classify_stderr(line: str) -> Failure:
    """What the error means with which codex ended before any turn."""
    return _look_up(_STDERR, line, Outcome.UNAVAILABLE)


def is_usage_limit(message: str) -> bool:
    """Whether the message is about an account's quota, which comes back at a moment it may name."""
    return "usage limit" in message


def is_thread_id(text: str) -> bool:
    return _THREAD_ID.fullmatch(text) is not None


def _look_up(rows: Sequence[_Row], message: str, otherwise: Outcome) -> Failure:
    text = message.strip()
    for row in rows:
        if row.pattern.match(text):
            shown = printable(text, _DETAIL_LIMIT)
            return Failure(row.outcome, f"{shown} ({row.fix})" if row.fix else shown)
    return Failure(otherwise, printable(text, _DETAIL_LIMIT) or "codex said nothing of why")


_LOOK = 256 * 1024
_USED_UP = 100.0
_MINUTE = 60.0
_SUFFIX = re.compile(r"(\d)(st|nd|rd|th),")
_MOMENT = re.compile(
    r"try again at (?P<date>[A-Z][a-z]{2} \d{1,2}(?:st|nd|rd|th), \d{4} )?(?P<time>\d{1,2}:\d\d [AP]M)", re.IGNORECASE
)


class _Window(msgspec.Struct, frozen=True):
    used_percent: float = 0.0
    resets_at: float | None = None


class _RateLimits(msgspec.Struct, frozen=True):
    primary: _Window | None = None
    secondary: _Window | None = None


class _Payload(msgspec.Struct, frozen=True):
    type: str = ""
    rate_limits: _RateLimits | None = None


class _Entry(msgspec.Struct, frozen=True):
    payload: _Payload


def reset_time(home: Path, thread_id: str | None, message: str, *, seen: float, zone: str | None) -> float | None:
    """Seconds since the epoch, or None where nobody says. `seen` is about when the message was printed.

    `zone` is the TZ of the agent: the message tells local time, to the minute.
    """
    exact = _from_rollout(home, thread_id, seen) if thread_id and is_thread_id(thread_id) else None
    return exact if exact is not None else _from_words(message, seen, _zone(zone))


def _from_rollout(home: Path, thread_id: str, seen: float) -> float | None:
    """The end of the windows that are used up, from the last rate limits that the session's file has."""
    try:
        found = sorted((home / "sessions").glob(f"*/*/*/rollout-*-{thread_id}.jsonl"))
    except OSError:
        return None
    for line in reversed(tail_text(found[-1], _LOOK).split("\n")) if found else ():
        if '"rate_limits"' not in line:
            continue
        limits = _limits(line)
        windows = [w for w in (limits.primary, limits.secondary) if w is not None] if limits else []
        if windows:
            ends = [w.resets_at for w in windows if w.used_percent >= _USED_UP and w.resets_at is not None]
            return max((end for end in ends if end > seen - _MINUTE), default=None)
    return None


def _limits(line: str) -> _RateLimits | None:
    try:
        payload = msgspec.json.decode(line, type=_Entry).payload
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return payload.rate_limits if payload.type == "token_count" else None


def _from_words(message: str, seen: float, zone: ZoneInfo | None) -> float | None:
    found = _MOMENT.search(message)
    if found is None:
        return None
    try:
        clock = datetime.strptime(found["time"].upper(), "%I:%M %p")  # noqa: DTZ007 - local by its nature
        if found["date"]:
            day = datetime.strptime(_SUFFIX.sub(r"\1,", found["date"].strip()), "%b %d, %Y")  # noqa: DTZ007
            named = day.replace(hour=clock.hour, minute=clock.minute)
            return named.replace(tzinfo=zone).timestamp() + _MINUTE
        today = datetime.fromtimestamp(seen, zone)
        named = today.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        if named.timestamp() < seen - _MINUTE:
            named += timedelta(days=1)
        return named.timestamp() + _MINUTE
    except (ValueError, OverflowError, OSError):
        return None


def _zone(name: str | None) -> ZoneInfo | None:
    """None = this machine's."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
