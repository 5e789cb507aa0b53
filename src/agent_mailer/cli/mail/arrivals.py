"""`mail watch`, `drain`, `receipts`, `who`: mail that comes to a person, what became of mail sent, who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.mail import steps
from agent_mailer.cli.mail.options import (
    As,
    Context,
    KindOption,
    Labels,
    PriorityOption,
    Refs,
    as_screen,
    head,
    not_in_turn,
    parse_context,
    parse_kind,
    parse_labels,
    parse_priority,
    parse_refs,
    person_at,
    whole,
)
from agent_mailer.cli.options import Json, MaildirRoot, Workdir
from agent_mailer.cli.terminal.printing import json_text, local_time, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.mailbox.port import Message, Unreadable
    from agent_mailer.people.arrivals import Arrival

NO_MAIL_IN_TIME = 4
NEWEST = 20
Lines = Annotated[bool, typer.Option("--json", help="Print a JSON object a line for scripts; errors too.")]


def watch(
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes after.")] = False,
    timeout: Annotated[
        int,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0, help="Leave after so long, with status 4 if none came; 0: never."
        ),
    ] = 0,
    sender: Annotated[str | None, typer.Option("--from", metavar="ADDRESS", help="Only from this sender.")] = None,
    kind: KindOption = None,
    priority: PriorityOption = None,
    labels: Labels = None,
    refs: Refs = None,
    context: Context = None,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Lines = False,
) -> None:
    """Wait until mail is there, and list it; it stays unread."""
    from agent_mailer.people.port import Search

    not_in_turn("mail watch")
    search = Search(
        sender=sender or "",
        kind=parse_kind(kind),
        priority=parse_priority(priority),
        labels=parse_labels(labels),
        refs=parse_refs(refs),
        context=parse_context(context),
    )

    def arrived(message: Message, arrival: Arrival) -> None:
        if as_json:
            say(json_text({"event": arrival.value, "message": head(message)}))
        else:
            envelope = message.envelope
            when, who = local_time(envelope.created), printable(envelope.sender, 24)
            say(f"{when}  {who}  {printable(envelope.id)}  {printable(message.subject, 60)}")

    person = person_at(whose, workdir, maildir_root)
    if not person.watch(search, arrived, seconds=timeout or None, follow=follow):
        raise typer.Exit(NO_MAIL_IN_TIME)


def drain(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="The oldest N; 0 is all.")] = 0,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Lines = False,
) -> None:
    """Print all mail that waits, oldest first; each then counts as read."""
    not_in_turn("mail drain")
    count = 0

    def drained(item: Message | Unreadable) -> None:
        from agent_mailer.mailbox.port import Message

        nonlocal count
        if not isinstance(item, Message):
            note(f"{printable(item.locator)} is no message ({item.why}); it lies in the dead letters now")
            return
        if as_json:
            say(json_text(whole(item)))
        else:
            say(("\n" + "-" * 72 + "\n" if count else "") + as_screen(item))
        count += 1

    person_at(whose, workdir, maildir_root).drain(drained, limit)
    if not count:
        note("no new mail")


def who(whose: As = None, workdir: Workdir = None, maildir_root: MaildirRoot = None, as_json: Json = False) -> None:
    """List who has a mailbox here, what they said of themselves last, and whether a watcher takes their mail."""
    from agent_mailer.clock import iso

    not_in_turn("mail who")
    found = person_at(whose, workdir, maildir_root).who()
    if as_json:
        shown = [
            {
                "address": one.address,
                "status": one.status or None,
                "last_seen": None if one.at is None else iso(one.at),
                "note": one.note,
                "watched": one.watched,
            }
            for one in found
        ]
        steps.told({"agents": shown}, steps.SEND)
        return
    rows = [
        (
            printable(one.address, 64),
            printable(one.status, 24),
            "" if one.at is None else local_time(one.at),
            "watched" if one.watched else "",
            printable(one.note, 60),
        )
        for one in found
    ]
    say(columns(rows, ("address", "status", "last seen", "", "note"), ids=("address",), whole=("status", "last seen")))


def receipts(
    message_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="A message, or as much of its id as is unique. Default: those sent last.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The newest N that were sent.")] = NEWEST,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """Show how far messages are with their recipients: taken (drained), or unreadable there (dlq)."""
    from agent_mailer.clock import iso

    not_in_turn("mail receipts")
    found = person_at(whose, workdir, maildir_root).told(message_id, limit)
    if as_json:
        shown = [
            {
                "message": one.message,
                "recipient": one.recipient,
                "stage": one.stage or None,
                "at": None if one.at is None else iso(one.at),
                "detail": one.detail,
            }
            for one in found
        ]
        steps.told({"receipts": shown}, steps.LOOK)
        return
    if not found:
        note("nothing was sent")
        return
    rows = [
        (
            printable(one.message, 64),
            printable(one.recipient, 40),
            printable(one.stage or "not taken", 24),
            "" if one.at is None else local_time(one.at),
            printable(one.detail, 80),
        )
        for one in found
    ]
    say(columns(rows, ("id", "to", "stage", "date", "detail"), endings=("id",), whole=("stage", "date")))


def sent(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="The newest N; 0 is all.")] = NEWEST,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """List what you have sent, the newest at the end; `mail read ID` shows one, `mail receipts` how far each is."""
    not_in_turn("mail sent")
    found = person_at(whose, workdir, maildir_root).sent(limit)
    if as_json:
        newest: list[steps.Step] = [(["receipts", found[-1].envelope.id], "how far the newest is")] if found else []
        steps.told({"messages": [head(message) for message in found]}, *newest, steps.SEND)
        return
    if not found:
        note("nothing was sent")
        return
    rows = [
        (
            local_time(message.envelope.created),
            printable(", ".join(message.envelope.to), 40),
            printable(message.envelope.id, 64),
            printable(message.subject, 60),
        )
        for message in found
    ]
    say(columns(rows, ("date", "to", "id", "subject"), endings=("id",), whole=("date",)))
