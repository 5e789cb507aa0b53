"""What each answer of a broker means. Pure: an answer in, a typed result or a typed error out."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable
from agent_mailer.names import printable

LONGEST_PAUSE: Final = 600.0
"""A broker that asks for more than ten minutes of silence is asked again after ten."""

OUT_OF_REACH = "broker_unreachable"
NO_PROTOCOL = "broker_answer"

NO_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What decoding raises for what is no JSON, or not of the shape that is asked for."""

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer, whole. `where` names the request without credentials; `retry_after` is seconds, 0 = not said."""

    where: str
    status: int
    body: bytes
    retry_after: float = 0.0

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Lost(MailboxUnavailable):
    """The connection failed. `late`: nothing came for so long that another try would take as long."""

    late = False


class NotSent(Lost):
    """The request never reached the broker."""


class InDoubt(Lost):
    """The request may have been carried out; its answer did not arrive."""


class TooLarge(MailboxUnavailable):
    """An answer larger than we read. `start` is its beginning."""

    def __init__(self, where: str, status: int, start: bytes, limit: int) -> None:
        super().__init__(
            "answer_too_large",
            f"{where} answers with more than {limit // (1024 * 1024)} MiB",
            "mark some of the mail read, or use a broker that lists without bodies",
        )
        self.status = status
        self.start = start


class RequestRefused(MailerError):
    """The broker understood the request and refuses it: sending it again is useless."""

    def __init__(self, where: str, status: int, detail: str) -> None:
        super().__init__("broker_refused", f"{where} refuses: {detail}", "")
        self.status = status
        self.detail = detail


class _Detail(msgspec.Struct):
    detail: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Reason(msgspec.Struct):
    reason: str = ""


class _Problem(msgspec.Struct):
    msg: str = ""
    loc: tuple[str | int, ...] = ()


def detail_of(answer: Answer) -> str | None:
    """The reason that an AMP broker gives for a refusal, for people; None where it is not a broker that speaks."""
    try:
        found = msgspec.json.decode(answer.body, type=_Detail)
    except NO_JSON:
        return None
    for raw in (found.detail, found.message, found.error):
        if bytes(raw):
            return _in_words(bytes(raw))
    return None


def reason_of(answer: Answer) -> str:
    """The word by which our broker tells one refusal from another; empty where there is none."""
    with suppress(*NO_JSON):
        return msgspec.json.decode(answer.body, type=_Reason).reason
    return ""


def is_stale(answer: Answer) -> bool:
    """Our stream has lost the agent, or has got it again just now: nothing was done."""
    return answer.status == 409 and reason_of(answer) == "stale"


def may_pass(answer: Answer) -> bool:
    """It is no result, and the same request may have one later."""
    return answer.status >= 500 or answer.status in (408, 429) or is_stale(answer)


def _in_words(raw: bytes) -> str:
    try:
        return printable(msgspec.json.decode(raw, type=str), 300)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        problems = msgspec.json.decode(raw, type=list[_Problem])
        text = "; ".join(f"{'.'.join(str(part) for part in one.loc)}: {one.msg}" for one in problems[:5])
        return printable(text, 300)
    except (msgspec.DecodeError, RecursionError):
        return printable(raw[:300].decode("utf-8", "replace"), 300)


def retry_after(text: str | None, now: float) -> float:
    """`Retry-After` as seconds from `now` (since the epoch): a number or an HTTP date; 0 = none, or nonsense."""
    if not text:
        return 0.0
    if text.strip().isascii() and text.strip().isdigit():
        return min(LONGEST_PAUSE, float(text.strip()[:9]))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(LONGEST_PAUSE, max(0.0, (moment - datetime.fromtimestamp(now, UTC)).total_seconds()))


def unavailable(answer: Answer) -> MailboxUnavailable:
    """What an answer is that is neither the result nor a refusal the caller has a rule for."""
    detail = detail_of(answer)
    said = f": {detail}" if detail else ""
    if answer.status in (408, 429):
        pause = f"; it asks for a pause of {answer.retry_after:.0f} s" if answer.retry_after else ""
        return MailboxUnavailable("broker_busy", f"{answer.where} answers {answer.status}{said}{pause}", "wait")
    if answer.status >= 500:
        return MailboxUnavailable("broker_failed", f"{answer.where} answers {answer.status}{said}", "see its log")
    if answer.status == 407:
        return MailboxUnavailable(
            "proxy_refused", f"a proxy refuses {answer.where}: {answer.status}", "check HTTP_PROXY and HTTPS_PROXY"
        )
    if 300 <= answer.status < 400:
        return MailboxUnavailable(
            "broker_moved",
            f"{answer.where} answers {answer.status}: it sends us elsewhere",
            "agent-mailer config set broker_url URL",
        )
    if answer.ok:
        return not_the_protocol(answer)
    if detail is None:
        return MailboxUnavailable(
            NO_PROTOCOL,
            f"{answer.where} answers {answer.status}, not in the words of a broker: {_glimpse(answer)}",
            "is a proxy in between? agent-mailer config show broker_url",
        )
    fix = "is it the right broker? agent-mailer config set broker_url URL"
    return MailboxUnavailable(NO_PROTOCOL, f"{answer.where} answers {answer.status}{said}", fix)


def not_the_protocol(answer: Answer) -> MailboxUnavailable:
    """The answer says yes, but it is not what the protocol says: HTML of a proxy, cut JSON, other types."""
    return MailboxUnavailable(
        NO_PROTOCOL,
        f"{answer.where} gives no answer of the protocol: {_glimpse(answer)}",
        "is a proxy in between? agent-mailer config show broker_url",
    )


def credentials_refused(answer: Answer) -> MailboxRefused | None:
    """The answer as a refusal of this agent's key or of the agent itself, if it is one."""
    if answer.status not in (401, 403, 404):
        return None
    detail = detail_of(answer)
    if detail is None:
        return None
    if answer.status == 401:
        return MailboxRefused(
            "key_refused",
            f"{answer.where}: {detail} (401)",
            "agent-mailer config set api_key KEY",
        )
    return MailboxRefused(
        "agent_refused",
        f"{answer.where}: {detail} ({answer.status})",
        "check agent_id, broker_url and api_key: agent-mailer config show",
    )


def decode(answer: Answer, shape: type[T]) -> T:
    """The body as `shape`. Raises MailboxUnavailable where it is something else."""
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except NO_JSON:
        raise not_the_protocol(answer) from None


def _glimpse(answer: Answer) -> str:
    if not answer.body:
        return "an empty answer"
    return printable(" ".join(answer.body[:200].decode("utf-8", "replace").split()), 80)
