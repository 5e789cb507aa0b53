"""A person's answer by mail: whose counts, which mail is one, and what becomes of it.

Whoever can write into a mailbox can write any name into it: an answer counts where the mailbox vouches for the sender,
or where a proved sandbox keeps the agent out of the mailbox. Any other mail is ordinary mail, whatever its words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Envelope, Gone, Mailbox
from agent_mailer.names import running_on
from agent_mailer.state import State
from agent_mailer.state.approvals import CODE, TOKEN, Answer, Approval, By, Verdict, read_code
from agent_mailer.state.notices import Notice, NoticeKind
from agent_mailer.watch.guards.who import names_of
from agent_mailer.watch.rules import WatchPolicy

if TYPE_CHECKING:
    from agent_mailer.watch.notices import Notices  # and with it the engine, which `status` does not use

LONGEST_REASON = 500
"""Characters, as of a reason at the terminal."""

_FIRST_LINE = re.compile(r"(allow always|allow|deny) (\S.*)")
_BY_LINK = re.compile(f"(allow|deny) link ({TOKEN.pattern})(?: (.*))?")


class Said(msgspec.Struct, frozen=True):
    """What the first line of a mail says. `code` as it is looked up, `sure`: it is meant as one, right or wrong;
    `token` of a link in its place.
    """

    verdict: Verdict
    code: str
    always: bool = False
    reason: str = ""
    sure: bool = True
    token: str = ""


def said_in(body: str) -> Said | None:
    """Of its very first line, which says nothing else: what stands below, a mail that is quoted say, is no answer."""
    line = body.partition("\n")[0].rstrip()
    if (linked := _BY_LINK.fullmatch(line)) is not None:
        verdict = Verdict.DENY if linked[1] == "deny" else Verdict.ALLOW
        return Said(verdict, "", reason=running_on(linked[3] or "", LONGEST_REASON), token=linked[2])
    matched = _FIRST_LINE.fullmatch(line)
    if matched is None:
        return None
    verb, rest = matched.groups()
    words = rest.split()
    # A code may be typed with a blank in its middle.
    for count in range(1, min(len(words), 2) + 1):
        typed = " ".join(words[:count])
        if CODE.fullmatch(code := read_code(typed)) and (verb == "deny" or count == len(words)):
            reason = running_on(" ".join(words[count:]), LONGEST_REASON)
            verdict = Verdict.DENY if verb == "deny" else Verdict.ALLOW
            # Eight letters can be a word, as in "allow everyone".
            return Said(verdict, code, verb == "allow always", reason, sure=not (typed.isalpha() and typed.islower()))
    return None


async def answers_in(
    mailbox: Mailbox, state: State, policy: WatchPolicy, listed: Iterable[Envelope]
) -> dict[str, Said]:
    """Which of these are answers, by id. Only of a person, and where something was asked, is a body looked at, once.

    Raises MailboxUnavailable and OSError.
    """
    book, who, own_too = state.approvals, policy.who, policy.approve.asks_sender
    vouched, hidden = mailbox.capabilities.vouches, policy.approve.mail_hidden
    found: dict[str, Said] = {}
    asked: list[Approval] | None = None
    for envelope in listed:
        sender = envelope.sender
        person = all(who.may_answer(name, vouched=vouched, hidden=hidden) for name in names_of(envelope))
        if not person and not (own_too and who.may_answer_own(sender, vouched=vouched)):
            continue
        if envelope.id in book.passed or envelope.automatic is not Automatic.NO or envelope.id in state.processed:
            continue
        asked = book.all() if asked is None else asked
        theirs = {one.code for one in asked if person or one.sender == sender}
        if not theirs:
            if asked:
                # What is asked of him later he cannot have answered before.
                book.pass_over(envelope.id)
            continue
        message = await mailbox.read(envelope)
        if isinstance(message, Gone):
            continue
        said = said_in(message.body)
        # What a link leads to is mail of the operator's, and nothing that a person writes.
        linked = said is not None and bool(said.token)
        if said is not None and ((person and vouched) if linked else said.code in theirs or (person and said.sure)):
            found[envelope.id] = said
        else:
            book.pass_over(envelope.id)
    return found


def take_answer(state: State, notices: Notices, envelope: Envelope, said: Said) -> None:
    """Durable when it returns; done again it changes nothing. Whoever answers in vain is told why. Raises OSError."""
    book, now = state.approvals, state.folder.clock.now()
    found = book.by_token(said.token) if said.token else book.by_code(said.code)
    why = "no question has that code"
    if found is not None:
        given = Answer(
            said.verdict,
            now,
            By.LINK if said.token else By.MAIL,
            reason=said.reason,
            always=said.always,
            who=envelope.sender,
            message_id=envelope.id,
        )
        counts = book.answer_to(found.id)
        if counts is None and (found.over or found.expires_at <= now):
            why = "it came too late, the agent goes on without it"
        else:
            counts = counts or book.answer(found, given)
            why = "" if counts.message_id == envelope.id else counts.outruns
        if not why:
            if given.always and counts is not None and counts.verdict is Verdict.ALLOW:
                # Whoever took it before may have come no further than the answer.
                book.allow_for_good(found, counts.at)
            tell_answered(state, found, given)
            return
    digest = hashlib.sha256(envelope.id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    notices.tell_sender(
        Notice(
            id=f"{NoticeKind.APPROVAL}-vain-{digest}",
            kind=NoticeKind.APPROVAL,
            at=now,
            reason=IN_VAIN,
            message_id=envelope.id,
            thread=envelope.thread,
            sender=envelope.sender,
            why=why,
        )
    )


IN_VAIN = "in_vain"


def tell_answered(state: State, known: Approval, answer: Answer) -> None:
    state.log.emit(
        EventName.APPROVAL_ANSWERED,
        message_id=known.message_id,
        thread=known.thread,
        question=known.id,
        verdict=answer.verdict.value,
        by=answer.by.value,
        sender=answer.who or None,
    )
