"""What claude's own failures mean, as a table: the first row that fits decides. Pure.

Typed fields decide before words do, and the words looked at are claude's own, never those of the model or a tool.
"""

from __future__ import annotations

import re

import msgspec

from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome

DETAIL_LIMIT = 500

OLD_LIMIT = "Claude AI usage limit reached"
"""How older versions tell it, with the moment of its end in seconds after a bar."""

NO_START = "Claude Code could not start"
"""It cannot confine itself, say: nothing ran."""

_MILLISECONDS = 100_000_000_000
_OLD_LIMIT = re.compile(rf"{OLD_LIMIT}\|([0-9]{{9,16}})")


class Failure(msgspec.Struct, frozen=True):
    """One failure as an event tells it: `kind` is the event's `error`, `api_error` its narrower name, `words` its text.

    `subtype` and `reason` (why it stopped) are those of a result.
    """

    subtype: str = ""
    reason: str = ""
    kind: str = ""
    api_error: str = ""
    status: int | None = None
    words: str = ""


class Meaning(msgspec.Struct, frozen=True):
    """What a failure comes to; `fix` is the command that mends it."""

    outcome: Outcome
    fix: str = ""

    def detail(self, words: str) -> str:
        """One line for people: claude's first line, and what mends it."""
        first = next((line.strip() for line in words.splitlines() if line.strip()), "")
        said = printable(first, DETAIL_LIMIT - len(self.fix) - 3)
        return f"{said} ({self.fix})" if said and self.fix else said or self.fix


class _Row(msgspec.Struct, frozen=True):
    """Fits where any of its columns does."""

    meaning: Meaning
    subtypes: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    api_errors: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    server_errors: bool = False
    words: tuple[str, ...] = ()
    """Beginnings of claude's text."""

    def fits(self, failure: Failure) -> bool:
        return (
            failure.subtype in self.subtypes
            or failure.reason in self.reasons
            or failure.kind in self.kinds
            or failure.api_error in self.api_errors
            or failure.status in self.statuses
            or (self.server_errors and failure.status is not None and failure.status >= 500)
            or bool(self.words and failure.words.startswith(self.words))
        )


_LOG_IN = Meaning(
    Outcome.SIGNED_OUT, "claude auth login, or name the key's variable: agent-mailer config edit, [env] pass"
)
_BILL = Meaning(Outcome.SIGNED_OUT, "see to the account's billing at the provider, then: agent-mailer resume")
_LIMITED = Meaning(Outcome.LIMITED)
_UNAVAILABLE = Meaning(Outcome.UNAVAILABLE)
_MODEL = Meaning(Outcome.UNAVAILABLE, "agent-mailer config set model ...")
_LOST = Meaning(Outcome.SESSION_LOST)
_FAILED = Meaning(Outcome.FAILED)

_TABLE = (
    _Row(_LOST, words=("No conversation found with session ID", "Error: --resume requires a valid session ID")),
    _Row(
        Meaning(Outcome.FAILED, "agent-mailer config set max_budget_usd ..."),
        subtypes=frozenset({"error_max_budget_usd"}),
        reasons=frozenset({"budget_exhausted"}),
    ),
    _Row(
        _FAILED,
        subtypes=frozenset({"error_max_turns", "error_max_structured_output_retries"}),
        reasons=frozenset({"max_turns"}),
    ),
    # Stopped by somebody's signal: neither the message nor the account is at fault.
    _Row(Meaning(Outcome.INTERRUPTED), reasons=frozenset({"aborted_streaming", "aborted_tools"})),
    # Some of these come with 403, which alone means the login.
    _Row(_UNAVAILABLE, api_errors=frozenset({"network_edge_blocked", "connection_failed", "stream_idle_timeout"})),
    _Row(
        _BILL,
        kinds=frozenset({"billing_error"}),
        api_errors=frozenset({"model_requires_usage_credits"}),
        statuses=frozenset({402}),
        words=("Credit balance is too low",),
    ),
    _Row(
        _LOG_IN,
        kinds=frozenset(
            {
                "authentication_failed",
                "oauth_org_not_allowed",
                "account_on_hold",
                "verification_required",
                "cloud_credential_error",
            }
        ),
        statuses=frozenset({401, 403}),
        words=("Not logged in", "Invalid API key"),
    ),
    _Row(
        _LIMITED,
        kinds=frozenset({"rate_limit", "overloaded"}),
        api_errors=frozenset({"usage_limit_reached"}),
        statuses=frozenset({429, 529}),
        words=(OLD_LIMIT, "API Error: Repeated 529", "API Error: Overloaded"),
    ),
    _Row(
        _UNAVAILABLE,
        kinds=frozenset({"server_error"}),
        statuses=frozenset({408}),
        server_errors=True,
        words=(
            NO_START,
            "Request timed out",
            "API Error: API returned an empty or malformed response",
            "API Error: Connection",
            "API Error: Stream ended",
            "API Error: Stream idle timeout",
            "API Error: Unable to connect",
        ),
    ),
    # A server of the call that a person has allowed: it is pending still.
    _Row(
        _UNAVAILABLE,
        reasons=frozenset({"tool_deferred_unavailable"}),
        subtypes=frozenset({"tool_deferred_unavailable"}),
    ),
    _Row(_MODEL, kinds=frozenset({"model_not_found"}), statuses=frozenset({404})),
    # Refused by the provider, and too long an answer: a session is not what is wrong.
    _Row(
        _FAILED,
        api_errors=frozenset({"max_output_tokens"}),
        kinds=frozenset({"max_output_tokens"}),
    ),
    # The conversation does not fit or is not accepted. With a fresh session that is the message's own fault.
    _Row(
        _LOST,
        reasons=frozenset({"prompt_too_long", "blocking_limit", "image_error", "rapid_refill_breaker"}),
        api_errors=frozenset({"message_over_context_limit"}),
        statuses=frozenset({400, 413}),
        words=("Prompt is too long",),
    ),
)

_ARGUMENTS = Meaning(Outcome.UNAVAILABLE, "claude does not take its arguments: agent-mailer config set extra_args ...")

_TOO_OLD = Meaning(
    Outcome.UNAVAILABLE,
    "this claude is older than the fence of its tools: npm install --global @anthropic-ai/claude-code",
)

# What claude writes to stderr instead of any event. Only the beginning of a line counts.
_STDERR = (
    (_LIMITED, (OLD_LIMIT,)),
    (_UNAVAILABLE, (NO_START,)),
    (_LOST, ("No conversation found with session ID", "Error: --resume requires a valid session ID")),
    (_LOST, ("Error: Session ID ",)),
    # The call that was pending in the session is so no longer: the session is well.
    (Meaning(Outcome.ASKED), ("Error: No deferred tool marker found",)),
    # Before the row of all the others: ours, which a person cannot leave out.
    (_TOO_OLD, tuple(f"error: unknown option '{option}'" for option in ("--tools", "--setting-sources", "--settings"))),
    (
        _ARGUMENTS,
        (
            "error: unknown option",
            "error: option ",
            "error: unknown command",
            "error: too many arguments",
            "Error: Invalid MCP configuration",
            "Error: Settings file not found",
            "Error: System prompt file not found",
            "Error: --session-id with ",
        ),
    ),
    (
        Meaning(
            Outcome.UNAVAILABLE,
            "run the watcher as another user, or agent-mailer config set permission_mode acceptEdits",
        ),
        ("--dangerously-skip-permissions cannot be used with root",),
    ),
    (
        Meaning(Outcome.UNAVAILABLE, "npm install --global @anthropic-ai/claude-code"),
        ("Error: claude native binary not installed",),
    ),
)


def as_seconds(moment: float) -> float:
    """A moment that may be told in milliseconds."""
    return moment / 1000 if moment > _MILLISECONDS else moment


def old_limit(words: str) -> float | None:
    """When the limit ends, where these words are all that an older version says of it."""
    found = _OLD_LIMIT.fullmatch(words.strip())
    return as_seconds(float(found[1])) if found else None


def meaning_of(failure: Failure) -> Meaning | None:
    """None where nothing is known of it."""
    return next((row.meaning for row in _TABLE if row.fits(failure)), None)


def meaning_of_stderr(text: str) -> tuple[Meaning, str] | None:
    """The meaning of the last line known to us, with that line."""
    for line in reversed(text.splitlines()):
        for meaning, beginnings in _STDERR:
            if line.startswith(beginnings):
                return meaning, line
    return None
