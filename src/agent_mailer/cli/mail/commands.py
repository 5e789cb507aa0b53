"""`mail` and `fetch`: the agent's mail during its turn; anywhere else a person's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.mail import arrivals, keeping, steps
from agent_mailer.cli.mail.options import (
    As,
    Body,
    BodyFile,
    Context,
    KindOption,
    Labels,
    MessageId,
    Now,
    PriorityOption,
    Refs,
    Subject,
    To,
    as_screen,
    head,
    in_turn,
    parse_context,
    parse_kind,
    parse_labels,
    parse_priority,
    parse_refs,
    person_at,
    read_body,
    show,
    tell_staged,
    whole,
)
from agent_mailer.cli.mail.registering import register
from agent_mailer.cli.mail.reserving import release, reservations, reserve
from agent_mailer.cli.mail.send import send
from agent_mailer.cli.options import Json, MaildirRoot, Quiet, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group, single
from agent_mailer.cli.terminal.printing import done, note, say, screen_text
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import UsageFault
from agent_mailer.names import split_addresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_mailer.mailbox.port import Message
    from agent_mailer.turn_tools.commands import AgentMail


SHOWN = 100
"""As many lines as anybody looks at; that there are more is said."""

READS = "reads the mailbox"

app = group("mail", "Read and write mail: as the agent during its turn, elsewhere as a person.")


@app.command("inbox", cls=FastCommand)
def inbox(
    every: Annotated[bool, typer.Option("--all", help="Also what was read.")] = False,
    unread: Annotated[bool, typer.Option("--unread", help="Only what was not read (the default).")] = False,
    sender: Annotated[str | None, typer.Option("--from", metavar="ADDRESS", help="Only from this sender.")] = None,
    kind: KindOption = None,
    priority: PriorityOption = None,
    labels: Labels = None,
    refs: Refs = None,
    context: Context = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="The newest N; 0 is all.")] = SHOWN,
    offset: Annotated[int, typer.Option("--offset", metavar="N", min=0, help="Leave out the newest N.")] = 0,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List the mail that waits; during a turn the mail that it is for."""
    turn = _turn(whose)
    if every and unread:
        raise UsageFault("two_choices", "--all is also what was read, --unread only what was not", "give one of them")
    found: Sequence[tuple[Message, bool]]
    more = False
    if turn is not None:
        found = [(message, True) for message in turn.messages()]
    else:
        from agent_mailer.people.port import Search

        search = Search(
            sender=sender or "",
            kind=parse_kind(kind),
            priority=parse_priority(priority),
            labels=parse_labels(labels),
            refs=parse_refs(refs),
            context=parse_context(context),
            limit=limit + 1 if limit else 0,
            offset=offset,
        )
        with shown(READS, quiet=quiet or as_json):
            found = person_at(whose, workdir, maildir_root).inbox(search, read_too=every)
        more = bool(limit) and len(found) > limit
        found = found[1:] if more else found
    if as_json:
        listed = {"messages": [{**head(message), "new": new} for message, new in found], "more": more}
        steps.told(listed, *([(["read", found[0][0].envelope.id], "read the oldest")] if found else []), steps.SEND)
    elif not found:
        note("no mail" if every else "no new mail (agent-mailer mail inbox --all shows what was read)")
    else:
        say(_listing(found))
    if more:
        note(f"there are older ones: --offset {offset + limit}, or --limit 0 for all")


@app.command("read", cls=FastCommand)
def read(
    message_id: MessageId = None,
    unread: Annotated[bool, typer.Option("--unread", help="All that was not read, oldest first.")] = False,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Print a message; outside a turn it then counts as read."""
    turn = _turn(whose)
    if unread and message_id is not None:
        raise UsageFault("two_choices", "--unread is all that was not read, ID one message", "give one of them")
    if turn is None and unread:
        person = person_at(whose, workdir, maildir_root)
        with shown(READS, quiet=quiet or as_json):
            messages = [person.read(message.envelope.id) for message, _ in person.inbox(read_too=False)]
        _show_unread(messages, as_json=as_json)
    elif turn is None:
        with shown(READS, quiet=quiet or as_json):
            found = person_at(whose, workdir, maildir_root).read(_required(message_id))
        show(found, as_json=as_json)
    elif message_id is None and not as_json and len(turn.messages()) > 1:
        _show_all(turn.messages())
    else:
        show(turn.message(message_id), as_json=as_json)


@app.command("thread", cls=FastCommand)
def thread(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[THREAD]", help="A thread, or the id of a message in it.", show_default=False),
    ] = None,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Print a whole thread, oldest message first."""
    turn = _turn(whose)
    if turn is not None:
        messages = turn.thread()
    else:
        with shown(READS, quiet=quiet or as_json):
            messages = person_at(whose, workdir, maildir_root).thread(_required(name))
    if as_json:
        steps.told({"messages": [whole(message) for message in messages]}, *steps.about(messages))
        return
    _show_all(messages)


@app.command("contacts", cls=FastCommand)
def contacts(
    whose: As = None, workdir: Workdir = None, maildir_root: MaildirRoot = None, as_json: Json = False
) -> None:
    """List whom mail can be sent to."""
    turn = _turn(whose)
    found = turn.contacts() if turn is not None else person_at(whose, workdir, maildir_root).contacts()
    if as_json:
        steps.told({"contacts": [{"address": one.address, "note": one.note} for one in found]}, steps.SEND)
        return
    for contact in found:
        say(screen_text(contact.address + (f"  ({contact.note})" if contact.note else "")))


@app.command("reply", cls=FastCommand)
def reply(
    message_id: MessageId = None,
    body: Body = None,
    body_file: BodyFile = None,
    subject: Subject = "",
    kind: KindOption = None,
    now: Now = False,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Answer a message."""
    turn = _turn(whose)
    if turn is not None:
        turn.message(message_id)
        text = read_body(body, body_file)
        staged = turn.reply(text, subject=subject, kind=parse_kind(kind), now=now, message=message_id)
        tell_staged(staged, now=now)
        return
    _not_outside(now)
    person = person_at(whose, workdir, maildir_root)
    _told(person.reply(_required(message_id), read_body(body, body_file), subject=subject, kind=parse_kind(kind)))


@app.command("forward", cls=FastCommand)
def forward(
    message_id: MessageId = None,
    to: To = None,
    body: Body = None,
    body_file: BodyFile = None,
    subject: Subject = "",
    kind: KindOption = None,
    now: Now = False,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Pass a message on, with a note above it if you give one."""
    turn = _turn(whose)
    recipients = split_addresses(to or [])
    text = read_body(body, body_file, optional=True)
    if turn is not None:
        turn.message(message_id)
        staged = turn.forward(recipients, text, subject=subject, kind=parse_kind(kind), now=now, message=message_id)
        tell_staged(staged, now=now)
        return
    _not_outside(now)
    person = person_at(whose, workdir, maildir_root)
    _told(person.forward(_required(message_id), recipients, text, subject=subject, kind=parse_kind(kind)))


def _told(message_id: str) -> None:
    done(f"sent as {message_id}")
    say(message_id)


app.command("send", cls=FastCommand)(send)
app.command("register", cls=FastCommand)(register)
app.command("reserve", cls=FastCommand)(reserve)
app.command("release", cls=FastCommand)(release)
app.command("reservations", cls=FastCommand)(reservations)
app.command("watch", cls=FastCommand)(arrivals.watch)
app.command("drain", cls=FastCommand)(arrivals.drain)
app.command("who", cls=FastCommand)(arrivals.who)
app.command("receipts", cls=FastCommand)(arrivals.receipts)
app.command("sent", cls=FastCommand)(arrivals.sent)
app.command("search", cls=FastCommand)(keeping.search)
app.command("archive", cls=FastCommand)(keeping.archive)
app.command("trash", cls=FastCommand)(keeping.trash)
app.command("restore", cls=FastCommand)(keeping.restore)


@app.command("finish", cls=FastCommand)
def finish(
    done: Annotated[bool, typer.Option("--done", help="The work is done (the default).")] = False,
    no_reply: Annotated[bool, typer.Option("--no-reply", help="No answer is wanted.")] = False,
    blocked: Annotated[
        str | None, typer.Option("--blocked", metavar="QUESTION", help="Only a human can decide: ask this.")
    ] = None,
) -> None:
    """During a turn: say how it ends."""
    turn = _turn(None)
    if turn is None:
        raise UsageFault("no_turn", "there is no turn here: an agent finishes its own turn", "agent-mailer mail inbox")
    if blocked is not None and (done or no_reply):
        raise UsageFault("two_ends", "a turn that is blocked is not done, and its question is sent", "")
    if blocked is not None and not blocked.strip():
        raise UsageFault("no_question", "the question is empty", 'agent-mailer mail finish --blocked "your question"')
    turn.finish(reply_wanted=not no_reply, question=(blocked or "").strip())
    if blocked is not None:
        say(f"noted: blocked; {turn.fate_of_question()}")
    else:
        say("noted: done" + ("; nothing is sent by itself" if no_reply else ""))


def _show_unread(messages: Sequence[Message], *, as_json: bool) -> None:
    if as_json:
        steps.told({"messages": [whole(message) for message in messages]}, *steps.about(messages))
    elif messages:
        _show_all(messages)
    else:
        note("no new mail (agent-mailer mail inbox --all shows what was read)")


def _show_all(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages):
        if number:
            say("\n" + "-" * 72)
        say(as_screen(message))


def _listing(found: Sequence[tuple[Message, bool]]) -> str:
    from agent_mailer.cli.terminal.printing import local_time
    from agent_mailer.names import printable

    rows = [
        (
            "new" if new else "",
            local_time(message.envelope.created),
            printable(message.envelope.sender, 24),
            message.envelope.kind.value if message.envelope.kind else "",
            printable(message.envelope.id, 64),
            printable(message.subject, 60),
        )
        for message, new in found
    ]
    return columns(rows, ("", "date", "from", "kind", "id", "subject"), endings=("id",), whole=("", "date", "kind"))


def _turn(whose: str | None) -> AgentMail | None:
    turn = in_turn()
    if turn is not None and whose is not None:
        raise UsageFault("in_turn", "during a turn the mail is the agent's own: --as is for people", "leave out --as")
    return turn


def _required(message_id: str | None) -> str:
    if not message_id:
        raise UsageFault("no_message", "which message?", "agent-mailer mail inbox")
    return message_id


def _not_outside(now: bool) -> None:
    if now:
        raise UsageFault("no_turn", "--now is for an agent's turn; a person's mail leaves at once anyway", "")


inbox_app = single()
inbox_app.command("inbox", cls=FastCommand)(inbox)
fetch_app = single()


@fetch_app.command("fetch", cls=FastCommand)
def fetch(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="The message's id, or as much of it as is unique.")],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Print a message from the agent's mailbox without claiming it."""
    from agent_mailer.people import agent_of

    message, _ = agent_of(configured(workdir)).find(message_id)
    show(message, as_json=as_json)
