"""`held`: mail that a guard stopped, and what a person says to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import GUARDS, any_of, some_held
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say, screen_text
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import pick, printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Message
    from agent_mailer.state.lifts import OrderVerb
    from agent_mailer.views.values.history import HeldView

app = group("held", "Mail that a guard stopped: look, have it worked on, want it no more, allow its sender.")

LIST = "agent-mailer held list"
SHOWN = 100

Key = Annotated[
    str, typer.Argument(metavar="MESSAGE", help="Its id, or as much as is unique.", autocompletion=some_held)
]
Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MESSAGE]...", help="Their ids, or as much as is unique.", autocompletion=some_held),
]
Every = Annotated[bool, typer.Option("--all", help="Every one.")]
Sender = Annotated[str | None, typer.Option("--from", metavar="SENDER", help="Only mail of this sender.")]
ByGuard = Annotated[
    str | None,
    typer.Option(
        "--guard", metavar="GUARD", help="Only what this guard holds: who, hops, pair …", autocompletion=any_of(*GUARDS)
    ),
]


@app.command("list", cls=FastCommand)
def list_held(
    sender: Sender = None,
    guard: ByGuard = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Show the newest N; 0 = all.")] = SHOWN,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """List what is held and why, the newest at the end."""
    from agent_mailer.views.kept import held, held_counts

    state = configured(workdir).state
    views = held(state, guard, sender)
    shown = views[-limit:] if limit else views
    if as_json:
        json_out({"held": shown, "total": sum(one.count for one in held_counts(state))})
    elif not views:
        note("nothing is held" if guard is None and sender is None else "nothing is held so")
    else:
        rows = [(printable(v.message_id, 64), v.guard, printable(v.sender, 40), local_time(v.at), v.why) for v in shown]
        head = ("message", "guard", "from", "since", "why")
        say(columns(rows, head, endings=("message",), whole=("guard", "since")))
        if len(views) > len(shown):
            note(f"\nand {len(views) - len(shown)} more, which are older: --limit 0, --from, --guard")
        note("\nwork on it:       agent-mailer held release MESSAGE\nwant it no more:  agent-mailer held drop MESSAGE")


@app.command("show", cls=FastCommand)
def show(key: Key, workdir: Workdir = None, as_json: Json = False) -> None:
    """Show one of them, with its text."""
    place = configured(workdir)
    view = _chosen(place, key)
    message = _read(place, view.message_id)
    if as_json:
        json_out(
            {"held": view, "subject": message.subject if message else None, "body": message.body if message else None}
        )
        return
    say(fields(_facts(view, message)))
    say("\n" + (screen_text(message.body) if message else "its text cannot be read just now"))
    note(f"\nwork on it: agent-mailer held release {printable(view.message_id, 128)}")


@app.command("release", cls=FastCommand)
def release(
    keys: Keys = None, every: Every = False, sender: Sender = None, guard: ByGuard = None, workdir: Workdir = None
) -> None:
    """Have it worked on, whatever the guards say of it."""
    from agent_mailer.state.lifts import OrderVerb

    _order(OrderVerb.RELEASE, keys, sender, guard, workdir, every=every)


@app.command("drop", cls=FastCommand)
def drop(
    keys: Keys = None, every: Every = False, sender: Sender = None, guard: ByGuard = None, workdir: Workdir = None
) -> None:
    """Want it no more: it counts as settled, and stays in the mailbox to be read. Its sender hears nothing."""
    from agent_mailer.state.lifts import OrderVerb

    _order(OrderVerb.DROP, keys, sender, guard, workdir, every=every)


@app.command("allow", cls=FastCommand)
def allow(
    senders: Annotated[
        list[str] | None, typer.Argument(metavar="[SENDER]...", help="As the list names them; none = show who is.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back: allow_from and deny_from decide again.")] = False,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Work on mail of these senders from now on, whatever allow_from and deny_from say, and on what is held of it."""
    from agent_mailer.cli.requests import order_and_tell
    from agent_mailer.state.lifts import Order, OrderVerb

    place = configured(workdir)
    if senders:
        verb = OrderVerb.DISALLOW if undo else OrderVerb.ALLOW
        if not undo:
            _require_senders(place, senders)
        order_and_tell(place, Order(verb, tuple(dict.fromkeys(senders))))
        return
    if undo:
        raise UsageFault("which", "name whose mail is no longer allowed", "agent-mailer held allow")
    allowed = place.state.lifts.standing.allowed
    if as_json:
        json_out({"allowed": allowed})
    elif allowed:
        say("\n".join(printable(one, 300) for one in allowed))
        note("\ntake it back: agent-mailer held allow --undo SENDER")
    else:
        note("nobody is allowed beyond allow_from and deny_from")


def _require_senders(place: Workplace, typed: list[str]) -> None:
    """Who is allowed is allowed as he writes: a pattern would fit nobody. Raises UsageFault."""
    from agent_mailer.views.kept import held
    from agent_mailer.watch.guards.who import bad_pattern, is_pattern

    doubtful = [one for one in typed if bad_pattern([one]) or is_pattern(one)]
    if not doubtful:
        return
    known = {view.sender for view in held(place.state)}
    for one in doubtful:
        if one in known:
            continue
        if bad_pattern([one]):
            raise UsageFault("bad_sender", f"{printable(one)!r} is no sender", LIST)
        why = f"{printable(one)!r} is a pattern: here each sender has his name; patterns stand in allow_from"
        raise UsageFault("a_pattern", why, "agent-mailer config edit")


def _order(
    verb: OrderVerb,
    keys: list[str] | None,
    sender: str | None,
    guard: str | None,
    workdir: Path | None,
    *,
    every: bool,
) -> None:
    from agent_mailer.cli.requests import order_and_tell
    from agent_mailer.state.lifts import Order
    from agent_mailer.views.kept import held

    place = configured(workdir)
    if bool(keys) == (every or sender is not None or guard is not None):
        raise UsageFault("which", "name what is held, or give --all, --from or --guard", LIST)
    waiting = place.state.held.waiting
    chosen = (
        tuple(dict.fromkeys(pick(typed, waiting, "held message", LIST) for typed in keys))
        if keys
        else tuple(view.message_id for view in held(place.state, guard, sender))
    )
    if not chosen:
        raise MailerError("unknown", "nothing is held so", LIST)
    order_and_tell(place, Order(verb, chosen))


def _chosen(place: Workplace, key: str) -> HeldView:
    from agent_mailer.views.kept import held

    message_id = pick(key, place.state.held.waiting, "held message", LIST)
    return next(view for view in held(place.state) if view.message_id == message_id)


def _read(place: Workplace, message_id: str) -> Message | None:
    import asyncio

    entry = place.state.held.find([message_id]).get(message_id)
    if entry is None or entry.envelope is None:
        return None
    from agent_mailer.mailbox.port import Gone

    try:
        found = asyncio.run(place.mailbox().read(entry.envelope))
    except MailerError:
        return None
    return None if isinstance(found, Gone) else found


def _facts(view: HeldView, message: Message | None) -> Iterator[tuple[str, str]]:
    yield "message", printable(view.message_id, 400)
    yield "guard", view.guard
    yield "why", printable(view.why, 600)
    yield "since", local_time(view.at)
    yield "from", printable(view.sender, 80)
    yield "thread", printable(view.thread, 300)
    if message is not None:
        yield "subject", printable(message.subject, 200)
