"""Whether an agent has done its work: `end_turn` alone is no proof of it. Pure.

Measured with eight agents: some answer `end_turn` without a word after a limit, a quota or an outage, some give the
provider's error as their answer, some end a stream that was cut as if it were whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.acp.descriptor import Meaning
from agent_mailer.runtimes.acp.orders import Ended, Failure, Staged, Verdict
from agent_mailer.runtimes.acp.wire import AUTHENTICATE

_DETAIL = 300
# Most turns fail in no way, and each would pay for what is compiled here.
_CONTEXT = (
    r"context.{0,20}(overflow|length|window|limit)|context exceeds|maximum context|prompt is too long|too many tokens"
)
_QUOTA = r"quota|usage.?limit|rate.?limit|too many requests|resource.?exhausted|insufficient.?(credit|balance)"
_LOGIN = (
    r"(incorrect|invalid|missing|bad|expired|\bno).{0,20}\b(key|credentials?|token)\b|unauthori[sz]ed|authenticat"
    r"|api key not valid|forbidden|permission.?denied|not logged in"
)
_AWAY = (
    r"econn|etimedout|enotfound|socket hang up|fetch failed|connection|network|timed? ?out|overloaded|unavailable"
    r"|internal server error|bad gateway|stream|aborted"
)
_PROVIDER = r"api_?(call_?)?error|provider"
_STATUS = r"(?<![0-9])([45][0-9]{2})(?![0-9])"

WAS_THAT_ALL = (
    "If what you have just said is your whole answer, then only say so as the next line asks, and nothing else. "
    "If not, go on, say your whole answer again, and then do it."
)
"""To an agent of which nothing but its words says that they are not the half of a stream that was cut."""
_TWICE = "the agent has ended twice with words and without `finish`: nothing says that they are all of its answer"

_STOPS = {
    "max_tokens": "the answer was longer than the agent's limit of tokens",
    "max_turn_requests": "the agent asked its model as often as it may in one turn",
    "refusal": "the model refuses to go on",
    "cancelled": "the agent was told to stop",
}

OF_CATEGORY = {
    "access": Outcome.SIGNED_OUT,
    "limit": Outcome.LIMITED,
    "service": Outcome.UNAVAILABLE,
    "connection": Outcome.UNAVAILABLE,
    "request": Outcome.FAILED,
}
"""Of a typed failure, as the adapters of Claude Code and Codex give it when they are asked to."""


def judge(
    ended: Ended, staged: Staged, *, resumed: bool, errors: Sequence[Meaning] = (), answers: Sequence[Meaning] = ()
) -> Verdict:
    """`resumed`: in a session of before; without one, none can be lost."""
    if ended.failure is not None:
        return of_failure(ended.failure, errors, resumed=resumed)
    if ended.stop in _STOPS:
        return Verdict(Outcome.FAILED, _STOPS[ended.stop])
    if ended.stop != "end_turn":
        return Verdict(Outcome.FAILED, f"the agent ended with a word that is unknown: {printable(ended.stop, 60)!r}")
    text = ended.text or (ended.before if staged.finished else "")
    if staged.asked:
        return Verdict(Outcome.DONE, "a person is asked", text)
    known = _meaning(Failure(ended.text), answers)
    if known is not None and not staged.finished:
        return _settled(known, ended.text, resumed=resumed)
    if staged.mail or staged.finished:
        return Verdict(Outcome.DONE, "", text)
    if not ended.text.strip():
        if ended.rejected:
            tools = ", ".join(printable(name, 60) for name in dict.fromkeys(ended.rejected))
            return Verdict(Outcome.FAILED, f"the agent ended after a tool that it may not use here: {tools}")
        return Verdict(Outcome.UNAVAILABLE, "the agent ended without a word, as it does where its provider fails")
    if ended.tokens == 0:
        return Verdict(Outcome.UNAVAILABLE, "the agent ended with words for which its model was not asked")
    return Verdict(Outcome.DONE, "", ended.text)


def rests_on_words(ended: Ended, staged: Staged, answers: Sequence[Meaning]) -> bool:
    """Whether it would count as done by what it said alone."""
    shown = staged.mail or staged.finished or staged.asked
    return not shown and judge(ended, staged, resumed=False, answers=answers).outcome is Outcome.DONE


def of_a_second_word(said: Ended, then: Ended, staged: Staged) -> Verdict | None:
    """`said` was doubted, `then` is how it ended when it was asked for `finish`. None = as any other end is judged."""
    if staged.mail or staged.finished or staged.asked:
        return Verdict(Outcome.DONE, "", then.before or said.text)
    if then.failure is None and then.stop == "end_turn" and then.text.strip():
        return Verdict(Outcome.FAILED, _TWICE)
    return None


def of_failure(failure: Failure, errors: Sequence[Meaning], *, resumed: bool) -> Verdict:
    """What an error means, by the descriptor first, by what is typed in it, and last by its words."""
    outcome = _meaning(failure, errors) or _typed(failure) or _worded(failure.text) or _general(failure)
    return _settled(outcome, failure.text or f"error {failure.code}", resumed=resumed)


def _settled(outcome: Outcome, words: str, *, resumed: bool) -> Verdict:
    if outcome is Outcome.SESSION_LOST and not resumed:
        # In a new session it is the message's own fault.
        outcome = Outcome.FAILED
    return Verdict(outcome, printable(words, _DETAIL))


def _meaning(failure: Failure, rows: Sequence[Meaning]) -> Outcome | None:
    for row in rows:
        by_code = row.code is None or row.code in (failure.code, failure.status)
        by_text = not row.text or re.match(row.text, failure.text) is not None
        if by_code and by_text:
            return row.as_outcome
    return None


def _typed(failure: Failure) -> Outcome | None:
    if failure.kind in OF_CATEGORY:
        return OF_CATEGORY[failure.kind]
    if failure.code == AUTHENTICATE:
        return Outcome.SIGNED_OUT
    if _says(_CONTEXT, failure.kind):
        return Outcome.SESSION_LOST
    status = failure.status or (failure.code if 400 <= failure.code < 600 else 0)
    return _of_status(status, failure.text)


def _general(failure: Failure) -> Outcome:
    """It says no more than that its provider has refused; or not even that."""
    return Outcome.UNAVAILABLE if _says(_PROVIDER, failure.kind) else Outcome.FAILED


def _of_status(status: int, text: str) -> Outcome | None:
    if status in (401, 402, 403):
        return Outcome.SIGNED_OUT
    if status in (429, 529):
        return Outcome.LIMITED
    if status in (404, 408) or 500 <= status < 600:
        return Outcome.UNAVAILABLE
    if status in (400, 413, 422):
        # Refused by the provider: the conversation does not fit, or is not accepted.
        return Outcome.SESSION_LOST if _says(_CONTEXT, text) else _worded(text) or Outcome.SESSION_LOST
    return None


def _worded(text: str) -> Outcome | None:
    found = re.search(_STATUS, text)
    if found and (outcome := _of_status(int(found[1]), "")) is not None:
        return outcome
    if _says(_CONTEXT, text):
        return Outcome.SESSION_LOST
    if _says(_QUOTA, text):
        return Outcome.LIMITED
    if _says(_LOGIN, text):
        return Outcome.SIGNED_OUT
    return Outcome.UNAVAILABLE if _says(_AWAY, text) else None


def _says(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None
