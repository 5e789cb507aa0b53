"""`stuck`: what was not worked on, and what did not leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import REASONS, any_of, some_stuck
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import in_its_colour, json_out, local_iso, local_time, note, say, screen_text
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import UsageFault
from agent_mailer.names import pick, printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace
    from agent_mailer.state.requests import Verb
    from agent_mailer.state.stuck import StuckKind
    from agent_mailer.views.values.history import DeadLetterView, StuckView

app = group("stuck", "What was not worked on and what did not leave: look, take it up again, drop it.")

LIST = "agent-mailer stuck list"
SHOWN = 100

Key = Annotated[
    str,
    typer.Argument(metavar="KEY", help="What the list calls it, or as much as is unique.", autocompletion=some_stuck),
]
Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY]...", help="What the list calls them, or as much of each as is unique.", autocompletion=some_stuck
    ),
]
Every = Annotated[bool, typer.Option("--all", help="Every one.")]
Reason = Annotated[
    str | None,
    typer.Option(
        "--reason",
        metavar="REASON",
        help="Only those that are stuck so: given-up, not-sent, unreadable, too-large, used-id …",
        autocompletion=any_of(*REASONS),
    ),
]


@app.command("list", cls=FastCommand)
def list_stuck(
    reason: Reason = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Show the newest N; 0 = all.")] = SHOWN,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """List what waits for you and why, the newest at the end."""
    from agent_mailer.views.kept import stuck, stuck_counts

    state = configured(workdir).state
    views = stuck(state, reason, limit)
    total = sum(one.count for one in stuck_counts(state, state.dead_letters.count()) if reason in (None, one.reason))
    if as_json:
        json_out({"stuck": list(views), "total": total})
    elif not total:
        note("nothing is stuck so" if reason else "nothing is stuck")
    else:
        rows = [
            (printable(v.key, 64), v.reason, printable(v.sender, 24), local_time(v.at), printable(v.why, 100))
            for v in views
        ]
        head = ("key", "reason", "from", "since", "why")
        say(columns(rows, head, endings=("key",), whole=("reason", "since")))
        if total > len(views):
            note(f"\nand {total - len(views)} more, which are older: --limit 0, --reason")
        note("\nlook:       agent-mailer stuck show KEY\ntry again:  agent-mailer stuck retry KEY")


@app.command("show", cls=FastCommand)
def show(key: Key, workdir: Workdir = None, as_json: Json = False) -> None:
    """Show one of them: what it is, why, and what the agent wrote where that did not leave."""
    from agent_mailer.state.stuck import StuckKind
    from agent_mailer.views.kept import dead_letter, kept_of, one_stuck

    place = configured(workdir)
    state = place.state
    view = one_stuck(state, key)
    letter = dead_letter(state, view.message_id) if view.reason == StuckKind.GIVEN_UP else None
    if as_json:
        json_out({"stuck": view})
        return
    if letter is not None:
        tell_letter(letter)
        for kept in kept_of(state, letter.turn_id):
            note(f"what the agent wrote for it: agent-mailer stuck show {kept}")
        for attempt in letter.history:
            for change in state.notes.history.kept(attempt.turn_id):
                note(
                    f"a note that it had written: agent-mailer memory diff {change}, agent-mailer memory apply {change}"
                )
    else:
        say(fields(_facts(view)))
        if view.text:
            say("\n" + screen_text(view.text))
        if view.turn_id:
            note(f"\nwhat the agent did: agent-mailer turns show {printable(view.turn_id, 64)}")
    name = printable(view.key, 128)
    if view.reason == StuckKind.TOO_LARGE or (not place.in_folder and view.reason == StuckKind.USED_ID):
        note(f"\nonly its sender can help, by sending it again; then forget it: agent-mailer stuck drop {name}")
    else:
        note(f"\nonce more: agent-mailer stuck retry {name}")


@app.command("retry", cls=FastCommand)
def retry(keys: Keys = None, every: Every = False, reason: Reason = None, workdir: Workdir = None) -> None:
    """Take it up again: work on the mail, send the answer."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.STUCK_RETRY, keys, reason, workdir, every=every)


@app.command("drop", cls=FastCommand)
def drop(keys: Keys = None, every: Every = False, reason: Reason = None, workdir: Workdir = None) -> None:
    """Want it no more; mail stays where it was put, settled."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.STUCK_DROP, keys, reason, workdir, every=every)


def _ask(verb: Verb, keys: list[str] | None, reason: str | None, workdir: Path | None, *, every: bool) -> None:
    from agent_mailer.views.kept import reason_of, stuck_targets

    place = configured(workdir)
    require_choice(keys, reason, every=every, listing=LIST)
    kind = reason_of(reason)
    known = stuck_targets(place.state) if keys else {}
    ask_for(place, verb, [known[pick(typed, known, "stuck thing", LIST)] for typed in keys or ()], kind)


def require_choice(names: list[str] | None, reason: str | None, *, every: bool, listing: str) -> None:
    """Raises UsageFault unless either some are named, or all are meant."""
    if bool(names) == every:
        what = f"--all --reason {reason}" if reason is not None and not names else "--all"
        raise UsageFault("which", f"name what is meant, or give {what}", listing)
    if reason is not None and names:
        raise UsageFault("which", "--reason chooses among all: it goes with --all", f"{listing} --reason {reason}")


def ask_for(place: Workplace, verb: Verb, targets: list[str], kind: StuckKind | None) -> None:
    """Have it done to the `targets`, as the watcher names them, or to all, of one kind where that is said."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request

    ask_and_tell(place, Request(verb, tuple(targets), reason=kind.value if kind is not None else ""))


def tell_letter(letter: DeadLetterView) -> None:
    """A message that was given up: who sent it, every attempt and how it ended."""
    say(fields(_letter_facts(letter)))
    if letter.history:
        rows = [
            (local_time(attempt.at), attempt.turn_id, attempt.outcome, printable(attempt.detail, 200))
            for attempt in letter.history
        ]
        head = ("ended", "turn", "outcome", "detail")
        say("\n" + columns(rows, head, endings=("turn",), whole=("ended", "outcome")))
    note(f"\nits text: agent-mailer fetch {printable(letter.message_id, 128)}")
    if letter.turn_id:
        note(f"what the agent did: agent-mailer turns show {printable(letter.turn_id, 64)}")


def _letter_facts(letter: DeadLetterView) -> Iterator[tuple[str, str]]:
    yield "message", printable(letter.message_id, 128)
    yield "from", printable(letter.sender or "", 80)
    yield "thread", printable(letter.thread, 300)
    yield "sent", local_iso(letter.created) if letter.created else ""
    yield "given up", local_iso(letter.stuck_at)
    yield "outcome", in_its_colour(letter.outcome or "")
    yield "last error", printable(letter.last_error, 600)
    yield "attempts", str(len(letter.history) or letter.retries or "")


def _facts(view: StuckView) -> Iterator[tuple[str, str]]:
    yield "key", printable(view.key, 400)
    yield "reason", view.reason
    yield "why", printable(view.why, 600)
    yield "since", local_time(view.at)
    yield "message", printable(view.message_id, 400)
    yield "from", printable(view.sender, 80)
    yield "to", printable(view.to, 200)
    yield "thread", printable(view.thread, 300)
