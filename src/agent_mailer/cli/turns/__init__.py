"""`turns`: the runs of the agent, open and settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.amounts import dollars
from agent_mailer.cli.completion import OUTCOMES, any_of, some_thread, some_turn
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import in_its_colour, json_out, local_time, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import ExitCode, UsageFault
from agent_mailer.names import one_of, printable, running_on

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.views.values.history import WholeTurnView

app = group("turns", "The runs of the agent: one for each message, or more where one failed.")


@app.command("list", cls=FastCommand)
def list_turns(
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="How many of the newest.")] = 20,
    thread: Annotated[
        str | None,
        typer.Option("--thread", metavar="THREAD", help="Only of this thread.", autocompletion=some_thread),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            "--outcome",
            metavar="OUTCOME",
            help="Only those that ended so: failed, timed_out …",
            autocompletion=any_of("done", "blocked", *OUTCOMES),
        ),
    ] = None,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """List turns, the newest at the end."""
    from agent_mailer.cli.turns.story import took
    from agent_mailer.outcomes import Outcome
    from agent_mailer.views.turns import find_thread, newest_turns

    if limit < 1:
        raise UsageFault("bad_value", "--limit is a number of turns, at least 1", "")
    wanted = one_of(outcome, Outcome, "--outcome") if outcome is not None else None
    place = configured(workdir)
    state = place.state
    turns = newest_turns(state, limit, find_thread(state, thread) if thread is not None else None, wanted)
    if as_json:
        json_out({"turns": turns})
    elif not turns:
        note("no such turns" if thread or wanted else "no turns yet")
    else:
        from agent_mailer.people.about import subjects

        about = subjects(place, (turn.message_id for turn in turns))
        rows = [
            (
                turn.turn_id,
                local_time(turn.claimed_at),
                in_its_colour(turn.state),
                took(turn),
                dollars(turn.cost_usd or 0.0),
                printable(turn.sender, 24),
                printable(turn.thread, 64),
                running_on(about.get(turn.message_id, ""), 80),
            )
            for turn in turns
        ]
        head = ("turn", "claimed", "state", "took", "cost", "from", "thread", "subject")
        say(columns(rows, head, endings=("turn",), whole=("claimed", "state", "took", "cost")))
    if not as_json:
        _tell_of_offers(place)


def _tell_of_offers(place: Workplace) -> None:
    """What is no turn yet, since a live session may have it first."""
    from agent_mailer.config import Delivery

    if place.config.delivery is not Delivery.LIVE_FIRST:
        return
    from agent_mailer.views.kept import offered_in

    now = place.clock.now()
    if not (offers := offered_in(place, (), now)):
        return
    from agent_mailer.cli.status.one import offered_to
    from agent_mailer.views.local import watcher_of

    for offer in offers if watcher_of(place).running else ():
        note(f"{printable(offer.message_id)} is offered {offered_to(offer, now)}")


@app.command("show", cls=FastCommand)
def show(
    turn_id: Annotated[
        str,
        typer.Argument(metavar="TURN", help="A turn's id, or as much of it as is unique.", autocompletion=some_turn),
    ],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show one turn: how it ended, what left from it, where its files are, and what the agent said and did."""
    from agent_mailer.views.output import output_lines
    from agent_mailer.views.turns import whole_turn

    place = configured(workdir)
    turn = whole_turn(place.state, turn_id)
    if as_json:
        json_out({"turn": turn})
        return
    say(fields(_facts(turn)))
    say()
    empty = True
    for line in output_lines(place, turn):
        empty = False
        say(line)
    if empty:
        note("no output of this turn is kept")


@app.command("stop", cls=FastCommand)
def stop(
    turn_id: Annotated[
        str,
        typer.Argument(metavar="TURN", help="A turn's id, or as much of it as is unique.", autocompletion=some_turn),
    ],
    retry: Annotated[bool, typer.Option("--retry", help="Then run its message again: the default.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Then drop its message, and tell its sender.")] = False,
    ask_sender: Annotated[bool, typer.Option("--ask", help="Then ask its sender how to go on.")] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Told with it: one line.")] = "",
    workdir: Workdir = None,
) -> None:
    """Stop a turn: its processes end, it counts as interrupted, and costs its message no attempt."""
    import asyncio

    from agent_mailer.desk.asking import ask, watched
    from agent_mailer.names import pick
    from agent_mailer.process.tree import sweep
    from agent_mailer.state.records import AfterStop
    from agent_mailer.state.requests import Request, Verb

    if retry + drop + ask_sender > 1:
        raise UsageFault("bad_option", "--retry, --drop and --ask exclude each other", "")
    then = AfterStop.DROP if drop else AfterStop.ASK if ask_sender else AfterStop.RETRY
    place = configured(workdir)
    chosen = pick(turn_id, place.state.turns.ids(), "turn", "agent-mailer turns list")
    answer = ask(place, Request(Verb.TURNS_STOP, (chosen,), reason=reason, then=then))
    for line in answer.lines:
        say(line)
    if not answer.ok:
        raise typer.Exit(ExitCode.FAILED)
    if not watched(place):
        asyncio.run(sweep(chosen))
        note("no watcher runs here: its processes are ended, the next watcher does the rest")


@app.command("thread", cls=FastCommand)
def thread(
    name: Annotated[
        str,
        typer.Argument(
            metavar="THREAD",
            help="A thread, or a message in it: as much of the name as is unique.",
            autocompletion=some_thread,
        ),
    ],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Tell the story of a thread: its messages, the turns over them, how each ended, what it cost, what is open."""
    from agent_mailer.cli.turns.story import tell_story
    from agent_mailer.views.turns import find_thread, thread_story

    place = configured(workdir)
    story = thread_story(place, find_thread(place.state, name))
    if as_json:
        json_out(story)
        return
    say(f"thread {printable(story.thread, 300)}\n")
    tell_story(story)


def _facts(turn: WholeTurnView) -> Iterator[tuple[str, str]]:
    """Names and values for a terminal; those without a value are left out by who prints them."""
    from agent_mailer.cli.turns.story import spent_words
    from agent_mailer.views.turns import spent

    ended = turn.outcome is not None
    yield "turn", turn.turn_id
    yield "message", f"{printable(turn.message_id, 128)} from {printable(turn.sender, 80)}"
    yield "with", ", ".join(printable(other, 128) for other in turn.batch)
    yield "thread", printable(turn.thread, 300)
    yield "outcome" if ended else "phase", in_its_colour(turn.state)
    yield "waits", printable(turn.waits, 600)
    yield "detail", printable(turn.detail or "", 300)
    yield "reserved", printable(turn.touched, 600)
    yield "question", running_on(turn.question or "", 300)
    yield "attempt", str(turn.attempt) if turn.attempt > 1 else ""
    yield "claimed", local_time(turn.claimed_at)
    yield "spent", spent_words(spent([turn])).removeprefix("1 turn, ") if ended else ""
    yield "stopped", turn.stopped or "" if ended else ""
    yield "process", str(turn.pid) if turn.pid and not ended else ""
    yield "session", turn.session if turn.session is not None else turn.resumed or ""
    for sent in turn.sent:
        why = f": {sent.why}" if sent.why else ""
        yield "sent", printable(f"{sent.id} to {sent.to}, {sent.state}{why}", 300)
    yield "folder", turn.folder
