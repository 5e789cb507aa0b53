"""`hook`: how programs of elsewhere write to agents of a folder mailbox."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, MaildirRoot, Workdir, absolute, workplace
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say, say_prose
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import BusyFault, UnavailableFault, UsageFault
from agent_mailer.names import HOOK, one_of, pick, printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace
    from agent_mailer.hooks.book import Book
    from agent_mailer.hooks.place import HookPlace
    from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
    from agent_mailer.outside.event import Source

GITHUB_PORT, GENERIC_PORT = 9811, 9812
LOCK_SECONDS = 0.5
"""Whoever lists hooks holds the lock for a moment."""

app = group("hook", "Hooks, by which other programs write to agents of a folder mailbox. At a broker: broker hook.")

To = Annotated[
    list[str], typer.Option("--to", metavar="AGENT", help="Who gets the mail; again for more.", show_default=False)
]
Host = Annotated[str, typer.Option(help="The address to listen at. What is no loopback needs TLS in front.")]
Events = Annotated[list[str] | None, typer.Option("--event", help="Only this event; again for more. A pattern.")]
Actions = Annotated[list[str] | None, typer.Option("--action", help="Only this action of it.")]
Branches = Annotated[list[str] | None, typer.Option("--branch", help="Only this branch, where there is one.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="Only with this label, where there can be one.")]
Which = Annotated[
    str | None, typer.Argument(metavar="[HOOK]", help="Its name. Default: the only one.", show_default=False)
]


@app.command("github", cls=FastCommand)
def github(
    to: To,
    name: Annotated[str, typer.Option(help="Of the hook: a part of its path.")] = "github",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = GITHUB_PORT,
    event: Events = None,
    action: Actions = None,
    branch: Branches = None,
    label: Labels = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Take GitHub's webhooks, and make mail of them, until Ctrl-C. The hook is made where it is new."""
    wanted = (event, action, branch, label)
    _listen("github", name, to, (host, port), wanted, _place(workdir, maildir_root))


@app.command("generic", cls=FastCommand)
def generic(
    to: To,
    name: Annotated[str, typer.Option(help="Of the hook: a part of its path.")] = "generic",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = GENERIC_PORT,
    event: Events = None,
    branch: Branches = None,
    label: Labels = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Take any program's signed events, and make mail of them, until Ctrl-C. The hook is made where it is new."""
    wanted = (event, None, branch, label)
    _listen("generic", name, to, (host, port), wanted, _place(workdir, maildir_root))


@app.command("list", cls=FastCommand)
def listed(workdir: Workdir = None, maildir_root: MaildirRoot = None, as_json: Json = False) -> None:
    """The hooks of this folder mailbox, and whether each has its listener."""
    from agent_mailer.hooks.place import HookPlace, hook_names
    from agent_mailer.state.workdirs import user_state

    place = _place(workdir, maildir_root)
    root, state = place.maildir_root(), user_state()
    rows = [(name, _listens(HookPlace(state, root, name, place.disk))) for name in hook_names(state, root)]
    if as_json:
        json_out([{"name": name, "listens": listens} for name, listens in rows])
    elif rows:
        say(columns([(name, "listens" if on else "no listener") for name, on in rows], ("HOOK", ""), whole=("HOOK",)))
    else:
        say("No hooks: agent-mailer hook github --to AGENT")


@app.command("secret", cls=FastCommand)
def secret(
    hook: Annotated[str, typer.Argument(metavar="HOOK", help="Its name; made where it is new.", show_default=False)],
    roll: Annotated[
        bool, typer.Option("--roll", help="Another one first. The one before counts no more, at once.")
    ] = False,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Print what callers sign with. A running listener needs no restart."""
    from agent_mailer.desk.asking import require_person

    require_person()
    found = _hook(_place(workdir, maildir_root), hook)
    if not found.exists:
        note(f"{found.name} is a new hook; its listener has not begun yet (agent-mailer hook list)")
    found.make()
    if roll:
        found.roll()
    say(found.secret())


@app.command("deliveries", cls=FastCommand)
def deliveries(
    hook: Which = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="sent|counted|resolved|ignored|failed", help="Only these.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest N.")] = 100,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """What came by a hook, and what became of it; the newest first."""
    from agent_mailer.outside.items import Outcome

    wanted = None if outcome is None else Outcome(one_of(outcome, list(Outcome), "--outcome"))
    found = _book(_place(workdir, maildir_root), hook).newest(wanted, limit)
    if as_json:
        json_out(found)
        return
    rows = [
        (
            printable(one.delivery, 40),
            local_time(one.at),
            printable(one.event, 30),
            one.outcome if one.occurrences < 2 else f"{one.outcome} ({one.occurrences})",
            printable(one.reason, 80),
            printable(f"{one.origin} {one.item}".strip(), 60),
        )
        for one in found
    ]
    head = ("DELIVERY", "CAME", "EVENT", "OUTCOME", "REASON", "ABOUT")
    say(columns(rows, head, whole=("CAME", "OUTCOME")) if rows else "Nothing came by it.")


@app.command("items", cls=FastCommand)
def items(
    hook: Which = None,
    limit: Annotated[int, typer.Option(min=1, help="The last told N.")] = 100,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """What is open, as a hook told it, and what is resolved."""
    found = _book(_place(workdir, maildir_root), hook).told(limit)
    if as_json:
        json_out(found)
        return
    rows = [
        (
            printable(f"{one.origin} {one.item}", 60),
            "open" if one.is_open else "over",
            str(one.occurrences),
            local_time(one.first_at),
            local_time(one.last_at),
        )
        for one in found
    ]
    say(columns(rows, ("ABOUT", "", "TIMES", "FIRST", "LAST"), ids=()) if rows else "Nothing was told as open.")


@app.command("retry", cls=FastCommand)
def retry(
    hook: Which = None,
    delivery: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this one, or how its id begins. Default: all that failed.")
    ] = None,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
) -> None:
    """Have what failed tried again, now."""
    book = _book(_place(workdir, maildir_root), hook)
    failed = book.failed()
    if delivery is not None:
        failed = [pick(delivery, failed, "failed delivery", "agent-mailer hook deliveries --outcome failed")]
    with book.change():
        book.make_due(failed)
    many = len(failed)
    say(f"{many} will be tried again within half a minute, while its listener runs." if many else "Nothing failed.")


@app.command("missed", cls=FastCommand)
def missed(
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Or an organization.", show_default=False)],
    hook_id: Annotated[
        int, typer.Argument(metavar="NUMBER", help="The webhook's, the end of its page's address.", show_default=False)
    ],
    api: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="GitHub's API. Default: $GITHUB_API_URL, else api.github.com.", show_default=False
        ),
    ] = None,
) -> None:
    """Have GitHub send again what never arrived, with the token in $GITHUB_TOKEN. What did arrive is known again."""
    from agent_mailer.hooks.missed import API, GitHub

    token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN")
    if not token:
        raise UsageFault(
            "no_token", "GITHUB_TOKEN is not set", "GITHUB_TOKEN=$(gh auth token) agent-mailer hook missed …"
        )
    github = GitHub(api or os.environ.get("GITHUB_API_URL") or API, token, repository, hook_id)
    try:
        found = github.missed()
        for one in found:
            github.ask_again(one)
            what = f"{one.event} {one.action or ''}".strip()
            say(f"asked for again: {printable(one.guid, 60)} {printable(what, 60)}")
    finally:
        github.close()
    if not found:
        say("Everything that GitHub lists has arrived.")


def _listen(
    kind: str,
    name: str,
    to: list[str],
    address: tuple[str, int],
    wanted: tuple[list[str] | None, ...],
    place: Workplace,
) -> None:
    from agent_mailer.desk.asking import require_person
    from agent_mailer.hooks.book import Book
    from agent_mailer.hooks.listening import Hook, Listener
    from agent_mailer.hooks.taking import Taking
    from agent_mailer.locks import FileLock
    from agent_mailer.mailbox.maildir.passing import forget_old
    from agent_mailer.outside.event import Source
    from agent_mailer.outside.rules import Rules, bad_pattern

    require_person()
    if words := bad_pattern([one for some in wanted for one in some or ()]):
        raise UsageFault("bad_pattern", words, f"agent-mailer hook {kind} --help")
    rules = Rules(*(tuple(some or ()) for some in wanted))
    found = _hook(place, name)
    mailbox = _mailbox(place, name, to)
    found.make()
    lock = FileLock(found.lock)
    if not lock.acquire(LOCK_SECONDS):
        raise BusyFault("hook_busy", f"the hook {name} has its listener already", "agent-mailer hook list")
    book = Book(found.book)
    try:
        forget = partial(forget_old, place.disk, mailbox.root, mailbox.address)
        taking = Taking(name, mailbox, tuple(dict.fromkeys(to)), book, place.clock, note, forget)
        hook = Hook(name, Source(kind), rules, found.secret)
        try:
            listener = Listener(address, hook, taking, place.clock, note)
        except OSError as error:
            why = f"{address[0]}:{address[1]} cannot be had: {error.strerror or error}"
            raise UnavailableFault("no_address", why, "give another --port") from None
        _welcome(listener.server_address[:2], hook.path, hook.kind, name, to)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=listener.stop).start())
        listener.run()
    finally:
        book.close()
        lock.release()


def _welcome(address: tuple[object, ...], path: str, kind: Source, name: str, to: list[str]) -> None:
    host, port = str(address[0]), address[1]
    shown = f"[{host}]" if ":" in host else host
    caller = "Its callers sign TIME.BODY with it (HMAC-SHA256): X-Agent-Mailer-Signature: t=TIME,v1=HEX"
    if kind == "github":
        caller = "At GitHub: Settings, Webhooks, that path as it is reached from there, application/json, the secret."
    say_prose(
        f"The hook {name}, for {', '.join(to)}, at http://{shown}:{port}{path}\n"
        f"Its secret: agent-mailer hook secret {name}\n{caller}\nCtrl-C stops it."
    )


def _mailbox(place: Workplace, name: str, to: list[str]) -> MaildirMailbox:
    """The hook's own end, made where it is missing, so that those who get its mail can answer."""
    from agent_mailer.mailbox.maildir import layout

    mailbox = place.mailbox(f"{HOOK}{name}")
    layout.require_root(mailbox.root)
    if unknown := [one for one in to if not layout.known(mailbox.root, one) or one.startswith(HOOK)]:
        known = [one for one in layout.mailboxes(mailbox.root) if not one.startswith(HOOK)]
        raise UsageFault(
            "unknown_recipient",
            f"nobody is called {', '.join(printable(one, 100) for one in unknown)} in {mailbox.root}",
            f"known are: {', '.join(known)}",
        )
    layout.make_mailbox(place.disk, mailbox.root, mailbox.address)
    return mailbox


def _place(workdir: Path | None, maildir_root: str | None) -> Workplace:
    flags = {"mailbox": "maildir", "maildir_root": absolute(maildir_root)} if maildir_root else {}
    place = workplace(workdir, flags)
    if not place.in_folder:
        raise UsageFault("no_folder_mailbox", "this agent's mail is at a server", "agent-mailer broker hook --help")
    return place


def _hook(place: Workplace, name: str) -> HookPlace:
    from agent_mailer.hooks.place import HookPlace
    from agent_mailer.state.workdirs import user_state

    return HookPlace(user_state(), place.maildir_root(), name, place.disk)


def _book(place: Workplace, name: str | None) -> Book:
    from agent_mailer.hooks.book import Book
    from agent_mailer.hooks.place import hook_at
    from agent_mailer.state.workdirs import user_state

    return Book(hook_at(user_state(), place.maildir_root(), name, place.disk).book)


def _listens(place: HookPlace) -> bool:
    from agent_mailer.locks import FileLock

    if not place.lock.exists():
        return False
    lock = FileLock(place.lock)
    try:
        return not lock.acquire()
    finally:
        lock.release()
