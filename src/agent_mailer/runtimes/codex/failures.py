"""What codex's words about a failure mean. Codex gives no codes: its final message is all there is. Pure.

Only that message and, where no turn began, its words on stderr are looked at, never what the agent read or wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome

_DETAIL_LIMIT = 500


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


def _look_up(rows: Sequence[_Row], message: str, otherwise: Outcome) -> Failure:
    text = message.strip()
    for row in rows:
        if row.pattern.match(text):
            shown = printable(text, _DETAIL_LIMIT)
            return Failure(row.outcome, f"{shown} ({row.fix})" if row.fix else shown)
    return Failure(otherwise, printable(text, _DETAIL_LIMIT) or "codex said nothing of why")
