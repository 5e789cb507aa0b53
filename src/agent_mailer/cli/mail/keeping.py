"""`mail search`, `archive`, `trash`, `restore`: a person finds mail again, and puts away what is over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.mail import steps
from agent_mailer.cli.mail.options import As, mail_at, not_in_turn
from agent_mailer.cli.options import Json, MaildirRoot, Quiet, Workdir
from agent_mailer.cli.terminal.printing import local_time, note, say
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.people.keeping import Away, Keeping, Shelf

MOST = 20

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]", help="A thread's id, or a message's. Default: list what is there.", show_default=False
    ),
]


def search(
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS", help="All of these; work* is what begins so.", show_default=False)
    ],
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The newest N.")] = MOST,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find mail by its words, the newest last; at a broker that of all your agents, archived or not."""
    from agent_mailer.clock import iso
    from agent_mailer.people.keeping import run

    not_in_turn("mail search")
    keeping = _keeping(whose, workdir, maildir_root)
    with shown("reads the mailbox", quiet=quiet or as_json):
        found, more = run(keeping, keeping.search(" ".join(words), limit))
    if as_json:
        listed = [
            {
                "id": one.id,
                "thread": one.thread,
                "from": one.sender,
                "to": list(one.to),
                "subject": one.subject,
                "created": iso(one.created),
                "snippet": one.snippet,
            }
            for one in found
        ]
        first = [(["thread", found[0].thread], "read the newest one's thread")] if found else []
        steps.told({"messages": listed, "more": more}, *first, steps.LOOK)
        return
    if not found:
        note("nothing was found")
    for one in reversed(found):
        ends = f"{printable(one.sender, 40)} to {printable(', '.join(one.to), 40)}"
        say(f"{local_time(one.created)}  {ends}  {printable(one.id)}")
        say(f"    {printable(one.subject, 100) or '(no subject)'}")
        say(f"    {printable(one.snippet, 200)}")
    if more:
        note(f"there are older ones: --limit {limit * 5}")


def archive(
    what: What = None,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """Put a thread away at a broker: it leaves the inboxes, unread mail too, until new mail comes in it, or restore."""
    from agent_mailer.people.keeping import Shelf

    not_in_turn("mail archive")
    _put_or_list(_keeping(whose, workdir, maildir_root), what, Shelf.ARCHIVE, as_json=as_json)


def trash(
    what: What = None,
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """Throw away a thread, or a message that nobody has answered, at a broker; until restore no agent sees it."""
    from agent_mailer.people.keeping import Shelf

    not_in_turn("mail trash")
    _put_or_list(_keeping(whose, workdir, maildir_root), what, Shelf.TRASH, as_json=as_json)


def restore(
    what: Annotated[str, typer.Argument(metavar="ID", help="As it is listed, or how that begins.", show_default=False)],
    whose: As = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """Bring back what is archived or in the trash; watchers get what of it is unread."""
    from agent_mailer.people.keeping import run

    not_in_turn("mail restore")
    keeping = _keeping(whose, workdir, maildir_root)
    away = run(keeping, keeping.bring_back(what))
    if as_json:
        steps.told({"restored": _as_json(away)}, (["thread", away.thread], "read it"))
    else:
        say(f"brought back: {'message' if away.message else 'thread'} {printable(away.id)}")


def _put_or_list(keeping: Keeping, what: str | None, shelf: Shelf, *, as_json: bool) -> None:
    from agent_mailer.people.keeping import run

    if what is not None:
        away = run(keeping, keeping.put(what, shelf))
        if as_json:
            steps.told({shelf.value: [_as_json(away)]}, (["restore", away.id], "bring it back"))
        else:
            kind = "message" if away.message else "thread"
            say(f"in the {shelf}: {kind} {printable(away.id)}; agent-mailer mail restore {printable(away.id)}")
        return
    found = run(keeping, keeping.listed(shelf))
    if as_json:
        steps.told({shelf.value: [_as_json(one) for one in found]}, steps.LOOK)
        return
    if not found:
        note(f"nothing is in the {shelf}")
        return
    rows = [
        (
            local_time(one.since),
            "message" if one.message else f"thread of {one.messages}",
            printable(one.id, 64),
            printable(one.subject, 60),
        )
        for one in found
    ]
    say(columns(rows, ("since", "what", "id", "subject"), endings=("id",), whole=("since", "what")))


def _as_json(away: Away) -> dict[str, object]:
    from agent_mailer.clock import iso

    return {
        "id": away.id,
        "thread": away.thread,
        "message": away.message or None,
        "subject": away.subject,
        "shelf": away.shelf.value,
        "since": iso(away.since) if away.since else None,
    }


def _keeping(whose: str | None, workdir: Path | None, maildir_root: str | None) -> Keeping:
    from agent_mailer.people import keeping_at

    return keeping_at(*mail_at(whose, workdir, maildir_root))
