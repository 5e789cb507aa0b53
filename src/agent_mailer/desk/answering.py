"""A person's answer to what an agent asks before it does it, given at this machine: at a terminal or on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent_mailer.desk.asking import ask, require_person
from agent_mailer.errors import MailerError
from agent_mailer.state.requests import Request, Verb

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.approvals import Answer, Approval, Verdict

LIST = "agent-mailer approvals list"


class Given(NamedTuple):
    """What a person has said, and what counts: of two answers the first."""

    given: Answer
    counts: Answer

    @property
    def first(self) -> bool:
        return self.given == self.counts


def answer(
    place: Workplace, found: Approval, verdict: Verdict, *, reason: str = "", always: bool = False, changed: str = ""
) -> Given:
    """Durable when it returns; `wake` tells the watcher. Raises UsageFault inside a turn, MailerError where the agent
    has gone on.
    """
    from agent_mailer.state.approvals import Answer, By

    require_person()
    book, now = place.state.approvals, place.clock.now()
    known = book.answer_to(found.id)
    if known is None and found.over:
        raise MailerError("over", "its message is done with; nothing was changed", f"{LIST} --all")
    if known is None and found.expires_at <= now:
        why = "nobody has answered it in time: the agent goes on without it"
        raise MailerError("expired", why, f"{LIST} --all")
    given = Answer(verdict, now, By.COMMAND, reason=reason, always=always, changed=changed)
    return Given(given, known or book.answer(found, given))


def wake(place: Workplace, question: str) -> str:
    """Have the answer carried out; why that waits for the watcher's next look, empty where it does not."""
    try:
        ask(place, Request(Verb.ANSWERED, (question,)))
    except MailerError as fault:
        return f"the answer counts; it is carried out at the next look ({fault.message})"
    return ""
