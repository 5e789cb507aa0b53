"""Telling a person of a notice once: by the operator's command, by Apprise, or by mail to his address."""

from __future__ import annotations

import platform
import shlex

import msgspec

from agent_mailer.approvals.calls import shown
from agent_mailer.clock import iso
from agent_mailer.mailbox.port import (
    Action,
    Automatic,
    Delivered,
    Delivery,
    Draft,
    Kind,
    Mailbox,
    MailboxUnavailable,
    Outgoing,
    Refused,
    Unknown,
)
from agent_mailer.names import printable, prompt_word
from agent_mailer.state.approvals import Approval, Approvals, shown_code
from agent_mailer.state.held import Guard
from agent_mailer.state.notices import Channel, Notice, NoticeKind
from agent_mailer.turn_tools import ISOLATED
from agent_mailer.watch.apprising import tell_urls
from agent_mailer.watch.linking import LinkMaker
from agent_mailer.watch.occasions import MANY
from agent_mailer.watch.rules import WatchPolicy

VARIABLE = "AGENT_MAILER_NOTICE_"

_PAUSED = {
    "limited": "the provider's limit is reached",
    "signed_out": "its login is missing or refused",
    "unavailable": "the agent program, or its service, is not to be had",
    "quiet_hours": "these are its quiet hours (guards.quiet_hours)",
    "machine": "the machine has enough to do (guards)",
    "budget": "what it may take of a day is taken (limits)",
    "too_many_turns": "it has had as many turns within an hour as it may (guards.turns_per_hour)",
}
_SILENT = {
    "mail_waits": "mail waits longer than it may (alarm.mail_waits)",
    "no_turn": "mail came, and no turn was begun for too long (alarm.no_turn)",
}
_STUCK = {"not-sent": "send what it wrote for"}
_TROUBLE = {"mailbox": "its mailbox", "credentials": "its key, which is refused", "disk": "its disk"}


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the command is told, on its standard input and (each field by its name in capitals) in its environment."""

    id: str
    kind: str
    at: str
    agent: str
    workdir: str
    host: str
    reason: str
    text: str
    fix: str
    message_id: str = ""
    thread: str = ""
    sender: str = ""
    turn_id: str = ""
    attempts: int = 0
    until: str = ""
    why: str = ""
    question: str = ""
    act: str = ""
    said: str = ""
    code: str = ""
    link: str = ""


def facts_of(
    notice: Notice, agent: str, workdir: str, host: str, approval: Approval | None = None, link: str = ""
) -> Facts:
    """Names that a sender chose come as words of a prompt do: without a blank or a sign that a shell knows.

    `approval`: what is asked, `link` where it can be answered. `act` and `said` are then the agent's own words, on one
    line each.
    """
    message = prompt_word(notice.message_id, "message") if notice.message_id else ""
    thread = prompt_word(notice.thread, "thread") if notice.thread else ""
    where = f"-C {shlex.quote(workdir)}"
    fix = f"agent-mailer status {where}"
    match notice.kind:
        case NoticeKind.BLOCKED:
            text = f"{agent} asks a human: message {message} in thread {thread}"
            fix = f"agent-mailer turns show {notice.turn_id} {where}"
        case NoticeKind.APPROVAL:
            what = f"it may run {shown(approval.call, 300) if approval else 'something'}"
            text = f"{agent} asks whether {'it may run many things' if notice.reason == MANY else what}"
            if not notice.question and notice.reason != MANY:
                text = f"an answer to {agent} by mail has changed nothing"
            code = f"approve {shown_code(approval.code)}" if approval else "approvals list"
            fix = f"agent-mailer {code} {where}"
        case NoticeKind.DEAD_LETTER:
            text = f"{agent} gave up message {message} in thread {thread}: {notice.reason}, {notice.attempts} attempts"
            letter = message if message == notice.message_id else ""
            fix = f"agent-mailer dead-letter {f'retry {letter}' if letter else 'list'} {where}"
        case NoticeKind.STUCK:
            what = f"message {message}" if message else "a message"
            text = f"{agent} could not {_STUCK.get(notice.reason, 'work on')} {what}: {notice.reason.replace('-', ' ')}"
            plain = prompt_word(notice.stuck, "") == notice.stuck
            fix = f"agent-mailer stuck {f'show {notice.stuck}' if plain else 'list'} {where}"
        case NoticeKind.HELD:
            text = _held(notice, agent, message)
            fix = (
                f"agent-mailer held {f'show {message}' if message and message == notice.message_id else 'list'} {where}"
            )
        case NoticeKind.ALARM:
            text = f"{agent}: {_SILENT.get(notice.reason, notice.reason)}"
        case NoticeKind.PAUSED:
            text = f"{agent} is paused: {_PAUSED.get(notice.reason, notice.reason)}"
        case NoticeKind.RESUMED:
            text = f"{agent} works again (it was paused: {notice.reason})"
        case NoticeKind.TROUBLE:
            text = f"{agent} cannot work because of {_TROUBLE.get(notice.reason, notice.reason)}"
            fix = notice.fix or fix
        case NoticeKind.TROUBLE_OVER:
            text = f"{agent} works again (there was trouble with {_TROUBLE.get(notice.reason, notice.reason)})"
        case NoticeKind.UNTRUSTED:
            text = f"{agent}: somebody has changed what a person has to trust; what was trusted goes on counting"
            fix = f"agent-mailer config trust {where}"
        case NoticeKind.TRUST_UPGRADE:
            text = f"{agent}: its configuration counts as trusted as it was found, for this once"
            fix = f"agent-mailer config show {where}"
        case NoticeKind.INSTRUCTIONS:
            text = f"{agent} has changed files that tell agents, or git, what to do"
            fix = f"agent-mailer turns show {notice.turn_id} {where}"
        case NoticeKind.RESERVED:
            text = f"while {agent} worked files changed that others have reserved"
            fix = f"agent-mailer turns show {notice.turn_id} {where}"
        case NoticeKind.SCHEDULE:
            text = f"{agent}: what its schedule {notice.schedule} sends did not leave"
            mend = "config trust" if notice.reason in ("body_changed", "body_untrusted") else "schedules list"
            fix = f"agent-mailer {mend} {where}"
        case NoticeKind.GONE:
            text = f"{agent} has no watcher any more: its service has failed, and is not started again"
            fix = f"agent-mailer verify {where}"
        case NoticeKind.TEST:
            text = f"{agent} can tell you when it needs you: this is a test"
    return Facts(
        id=notice.id,
        kind=notice.kind.value,
        at=iso(notice.at),
        agent=agent,
        workdir=workdir,
        host=host,
        reason=notice.reason,
        text=text,
        fix=fix,
        message_id=message,
        thread=thread,
        sender=prompt_word(notice.sender, "sender") if notice.sender else "",
        turn_id=notice.turn_id,
        attempts=notice.attempts,
        until=iso(notice.until) if notice.until is not None else "",
        why=notice.why,
        question=notice.question,
        act=shown(approval.call) if approval else "",
        said=printable(approval.call.why, 1000) if approval else "",
        code=shown_code(approval.code) if approval else "",
        link=link,
    )


def _held(notice: Notice, agent: str, message: str) -> str:
    if notice.reason == Guard.WHO:
        sender = f"mail of {prompt_word(notice.sender, 'sender')}" if notice.sender else "mail of many other senders"
        return f"{agent} holds {sender}, which is not worked on and not answered: {notice.why}"
    text = f"{notice.why}: go on, or stop? {agent} holds message {message}"
    if notice.reason == Guard.BUDGET or not notice.sender:
        # What is set for a sender or a thread a person has his share of, too.
        return text
    return f"{text}; if {prompt_word(notice.sender, 'the sender')} is a person, name him in people"


def draft_of(notice: Notice, facts: Facts, address: str, *, by_mail: bool = False) -> Draft:
    """The same notice gives the same draft, and so the same final id. `by_mail`: an answer in the thread counts."""
    lines = [f"{facts.text}.", ""]
    lines += [f"{name}: {value}" for name, value in (("since", facts.at), ("next try", facts.until)) if value]
    if facts.question:
        return _question(notice, facts, address, by_mail=by_mail)
    lines += [f"why: {facts.why}"] if facts.why else []
    lines += [f"host: {facts.host}", f"folder: {facts.workdir}", "", f"To begin with: {facts.fix}"]
    return Draft(
        f"notice-{notice.id}",
        Action.SEND,
        notice.at,
        to=(address,),
        subject=f"{facts.agent}: {facts.kind.replace('_', ' ')}",
        body="\n".join(lines) + "\n",
        # An answer of his to what was asked: he looks for what became of it where he gave it.
        thread=notice.thread if notice.kind is NoticeKind.APPROVAL else "",
        kind=Kind.STATUS,
        automatic=Automatic.NOTICE,
    )


def _question(notice: Notice, facts: Facts, address: str, *, by_mail: bool) -> Draft:
    """In the thread of the mail that it is about. Without a code it says where that is shown."""
    deny = facts.fix.replace("agent-mailer approve ", "agent-mailer deny ", 1)
    how = [facts.fix, deny] if facts.code else [f"agent-mailer approvals list -C {shlex.quote(facts.workdir)}"]
    if facts.link:
        how.append(f"or at this page, once: {facts.link}")
    if by_mail:
        code = facts.code or "CODE"
        words = " | ".join((f"allow {code}", f"allow always {code}", f"deny {code} REASON"))
        how.append(f"or by mail to {facts.agent}, whose first line is just: {words}")
    told = [
        ("it wants to run", facts.act),
        ("it says (its own words)", facts.said),
        ("for mail of", f"{facts.sender}, message {facts.message_id}"),
        ("in the folder", facts.workdir),
        ("host", facts.host),
        ("asked", facts.at),
        ("until", facts.until),
    ]
    lines = [f"{facts.agent} asks whether it may run this, once:", ""]
    lines += [f"{name}: {value}" for name, value in told if value]
    return Draft(
        f"notice-{notice.id}",
        Action.SEND,
        notice.at,
        to=(address,),
        subject=f"{facts.agent} asks for a yes",
        body="\n".join([*lines, "", "To answer:", *(f"  {line}" for line in how)]) + "\n",
        thread=notice.thread,
        kind=Kind.QUESTION,
        automatic=Automatic.NOTICE,
    )


class Teller:
    def __init__(self, policy: WatchPolicy, mailbox: Mailbox, approvals: Approvals | None = None) -> None:
        self._policy = policy
        self._mailbox = mailbox
        self._approvals = approvals
        self._apprised: dict[str, frozenset[int]] = {}
        self._links = LinkMaker(mailbox)

    def asks_sender(self, notice: Notice) -> bool:
        """Whether the question goes to whom the message came from, too; where he is the operator he has it anyway."""
        return self._policy.approve.asks_sender and notice.sender not in (
            "",
            self._mailbox.address,
            self._policy.notify.address,
        )

    def has_it(self, notice: Notice) -> bool:
        """Whether mail to the operator would go to whom the message came from: he has his answer in its thread, but
        for what he is asked.
        """
        if notice.question:
            return False
        composed = self._compose(notice, Channel.MAIL)
        return not isinstance(composed, Refused) and all(item.recipient == notice.sender for item in composed)

    async def tell(self, notice: Notice, channel: Channel) -> Delivery:
        """Unknown: try again later."""
        link = ""
        if notice.question and channel is not Channel.SENDER and (asked := self._asked(notice)) is not None:
            # Whoever has it answers as the operator.
            link = await self._links.link_of(asked, self._remaining(asked))
        match channel:
            case Channel.COMMAND:
                return await self._by_command(notice, link)
            case Channel.APPRISE:
                return await self._by_apprise(notice, link)
            case Channel.MAIL | Channel.SENDER:
                return await self._by_mail(notice, channel, link)

    async def _by_command(self, notice: Notice, link: str) -> Delivery:
        from agent_mailer.process.commands import run_briefly_async

        policy = self._policy
        facts = self._facts(notice, link)
        told = {k: str(v) for k, v in msgspec.to_builtins(facts).items()}
        try:
            done = await run_briefly_async(
                policy.notify.command,
                env={**policy.notify.env, **{VARIABLE + name.upper(): value for name, value in told.items()}},
                cwd=policy.workdir,
                seconds=policy.notify.timeout,
                most_bytes=16 * 1024,
                mark=f"notice-{notice.id}",
                stdin=msgspec.json.encode(facts) + b"\n",
            )
        except (OSError, ValueError) as error:
            # A word or a name with a NUL in it is a ValueError.
            why = getattr(error, "strerror", None) or error
            return Unknown(f"{printable(policy.notify.command[0])} cannot be started: {why}")
        if done.status == 0:
            return Delivered()
        if done.status is None:
            return Unknown(f"it was not done after {policy.notify.timeout:g} s")
        last = next((line for line in reversed(done.output.splitlines()) if line.strip()), "")
        return Unknown(f"it ended with {done.status}" + (f": {printable(last)}" if last else ""))

    async def _by_apprise(self, notice: Notice, link: str) -> Delivery:
        policy, known = self._policy.notify, self.apprised(notice)
        draft = draft_of(notice, self._facts(notice, link), "")
        try:
            told = await tell_urls(
                policy.urls,
                known,
                draft.subject,
                draft.body,
                isolated=ISOLATED,
                env=policy.env,
                seconds=policy.timeout,
                mark=f"apprise-{notice.id}",
            )
        except OSError as error:
            return Unknown(f"Python cannot be started: {error.strerror or error}")
        self._apprised[notice.id] = known | {one.url for one in told if not one.why}
        missed = [one.why for one in told if one.why]
        if missed:
            return Unknown("; ".join(missed))
        self._apprised.pop(notice.id, None)
        return Delivered()

    def apprised(self, notice: Notice) -> frozenset[int]:
        """The URLs, by their places, that have it, where others still lack it."""
        return self._apprised.get(notice.id, frozenset()) | frozenset(notice.apprise.urls)

    async def _by_mail(self, notice: Notice, channel: Channel, link: str) -> Delivery:
        composed = self._compose(notice, channel, link)
        if isinstance(composed, Refused):
            return composed
        for item in composed:
            delivery = await self._deliver(item)
            if not isinstance(delivery, Delivered):
                return delivery
        return Delivered()

    async def _deliver(self, item: Outgoing) -> Delivery:
        mailbox = self._mailbox
        try:
            # Where a second delivery is not recognised, an earlier watcher may have made the first.
            if not mailbox.capabilities.recognises_delivery and await mailbox.look(item):
                return Delivered()
            return await mailbox.deliver(item)
        except MailboxUnavailable as fault:
            return Unknown(fault.message)

    def _compose(self, notice: Notice, channel: Channel, link: str = "") -> tuple[Outgoing, ...] | Refused:
        facts, policy = self._facts(notice, link), self._policy
        if facts.code and not self._policy.approve.tells_codes:
            # The agent can read it there.
            facts = msgspec.structs.replace(facts, code="", link="")
        to = notice.sender if channel is Channel.SENDER else policy.notify.address
        vouched, hidden = self._mailbox.capabilities.vouches, policy.approve.mail_hidden
        by_mail = policy.who.may_answer(to, vouched=vouched, hidden=hidden)
        if channel is Channel.SENDER:
            by_mail = by_mail or (policy.approve.asks_sender and policy.who.may_answer_own(to, vouched=vouched))
        draft = draft_of(notice, facts, to, by_mail=by_mail)
        if channel is Channel.SENDER:
            draft = msgspec.structs.replace(draft, key=f"{draft.key}-sender")
        composed = self._mailbox.compose(draft, None, notice.turn_id or notice.id)
        return composed if isinstance(composed, Refused) else tuple(composed)

    def _asked(self, notice: Notice) -> Approval | None:
        return self._approvals.get(notice.question) if notice.question and self._approvals is not None else None

    def _remaining(self, asked: Approval) -> float:
        return 0.0 if self._approvals is None else self._approvals.remaining(asked)

    def _facts(self, notice: Notice, link: str) -> Facts:
        policy = self._policy
        return facts_of(notice, policy.notify.agent, str(policy.workdir), platform.node(), self._asked(notice), link)
