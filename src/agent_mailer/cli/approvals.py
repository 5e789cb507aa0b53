"""`approve`, `deny`, `approvals`: what the agent asks a person before it does it, and his answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import some_question
from agent_mailer.cli.options import Json, Workdir, configured, workplace
from agent_mailer.cli.terminal.commands import FastCommand, group, single
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.desk.asking import TURN_DIR, require_person
from agent_mailer.errors import MailerError, UsageFault, quoted
from agent_mailer.names import pick, printable, running_on

if TYPE_CHECKING:
    from agent_mailer.state.approvals import Answer, Approval, Approvals, Verdict
    from agent_mailer.views.values.history import ApprovalView, StandingView

LIST = "agent-mailer approvals list"

app = group("approvals", "What the agent asks you before it does it; what you have allowed for good.")
approve_app = single()
deny_app = single()

Code = Annotated[
    str, typer.Argument(metavar="CODE", help=f"As `{LIST}` shows it, or the notice.", autocompletion=some_question)
]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="Its id, or as much as is unique.")]


@approve_app.command("approve", cls=FastCommand)
def approve(
    code: Code,
    always: Annotated[bool, typer.Option("--always", help="Not ask again for this very call.")] = False,
    change: Annotated[
        Path | None,
        typer.Option(
            "--change",
            metavar="FILE",
            help="Run what stands in FILE instead: the command, or another tool's whole input.",
        ),
    ] = None,
    workdir: Workdir = None,
) -> None:
    """Allow what the agent asks, once."""
    from agent_mailer.state.approvals import Verdict

    if always and change is not None:
        raise UsageFault("usage", "--always is for what was asked, and --change for something else", "leave one out")
    _answer(workdir, code, Verdict.ALLOW, always=always, change=change)


@deny_app.command("deny", cls=FastCommand)
def deny(
    code: Code,
    reason: Annotated[list[str] | None, typer.Argument(metavar="[REASON]...", help="The agent is told.")] = None,
    workdir: Workdir = None,
) -> None:
    """Deny what the agent asks; it goes on without."""
    from agent_mailer.state.approvals import Verdict

    _answer(workdir, code, Verdict.DENY, reason=running_on(" ".join(reason or ()), 500))


@app.command("list", cls=FastCommand)
def list_approvals(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """List what waits for you, and what you have allowed for good."""
    from agent_mailer.views.kept import approvals, standing

    require_person()
    state = configured(workdir).state
    views, always = approvals(state, every=every), standing(state)
    if as_json:
        json_out({"approvals": views, "always": always})
        return
    if views:
        rows = [
            (
                v.code or printable(v.question, 20),
                (v.verdict or "waits") + (", changed" if v.changed else ""),
                _on_a_line(v),
                local_time(v.asked_at),
                local_time(v.expires_at),
                printable(v.thread, 64),
            )
            for v in views
        ]
        head = ("code", "answer", "it wants to run", "asked", "until", "thread")
        say(columns(rows, head, ids=("thread",), whole=("code", "answer", "asked", "until")))
        waits = any(v.code for v in views)
        note(
            "\nyes: agent-mailer approve CODE; no: agent-mailer deny CODE REASON"
            if waits
            else "\nnothing waits for you"
        )
        note("the whole of one: agent-mailer approvals show CODE")
    else:
        note("nothing waits for you")
    if always:
        stand = [(v.question, _on_a_line(v), local_time(v.since)) for v in always]
        say("\n" + columns(stand, ("allowed for good", "it may run", "since"), whole=("allowed for good", "since")))
        note("\nno more: agent-mailer approvals revoke QUESTION")


@app.command("show", cls=FastCommand)
def show(
    question: Annotated[str, typer.Argument(metavar="CODE|QUESTION", autocompletion=some_question)],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show the whole of one: what it would run, where, and why it says so."""
    from agent_mailer.views.kept import approval

    require_person()
    state = configured(workdir).state
    book = state.approvals
    found = book.by_code(question)
    if found is None:
        known = {one.id: one for one in book.all()}
        found = known[pick(question, known, "question", f"{LIST} --all")]
    view = approval(state, found)
    if as_json:
        json_out({"approval": view})
        return
    say(fields(_facts(view)))
    say("\nit wants to run:\n" + "\n".join(f"  {_whole(line)}" for line in view.act.split("\n")))
    if view.said:
        say("\nit says (its own words):\n  " + printable(view.said, 4000))
    if view.code:
        note(f"\nyes: agent-mailer approve {view.code}; no: agent-mailer deny {view.code} REASON")


@app.command("revoke", cls=FastCommand)
def revoke(question: Question, workdir: Workdir = None) -> None:
    """Take back what you have allowed for good: it is asked again."""
    require_person()
    book = configured(workdir).state.approvals
    chosen = pick(question, [one.id for one in book.standing()], "standing approval", LIST)
    book.revoke(chosen)
    say(f"{chosen}: from the next turn on it is asked again")


@app.command("use", cls=FastCommand)
def use(question: Question) -> None:
    """For a program that asks by itself (jsonl): use up the yes to this question, right before the act, once.

    Exit 0: do it now. Any other: do not.
    """
    from agent_mailer.approvals.turn import Word, read, use_up
    from agent_mailer.disk import Disk
    from agent_mailer.turn_tools import anchor_turn

    given = os.environ.get(TURN_DIR)
    if not given:
        raise UsageFault("not_in_turn", "this is for the agent program, during its turn", "agent-mailer approve CODE")
    directory = Path(given)
    anchor_turn(directory)
    try:
        told = next((one for one in read(directory).told if one.id == question), None)
        if told is None or told.word is not Word.ALLOW:
            word = told.word.value if told is not None else "not asked"
            raise MailerError("not_allowed", f"{printable(question, 40)}: {word}", "go on without it")
        if not use_up(Disk(), directory, told.id):
            why = f"{told.id} was used up before: whether it was done is not known"
            raise MailerError("used_up", why, "look whether it was done; ask anew in another turn")
    except (OSError, ValueError) as error:
        raise MailerError("turn_over", f"it cannot be used up: {error}", "end your work") from None
    say("allowed: do it now, once")


def _answer(
    workdir: Path | None,
    code: str,
    verdict: Verdict,
    *,
    reason: str = "",
    always: bool = False,
    change: Path | None = None,
) -> None:
    from agent_mailer.approvals.calls import Call, shown
    from agent_mailer.desk.answering import answer, wake
    from agent_mailer.state.approvals import Verdict

    require_person()
    place = configured(workdir)
    book = place.state.approvals
    found = book.by_code(code)
    if found is None:
        raise _unknown(code)
    changed = _changed(found, change) if change is not None else ""
    given = answer(place, found, verdict, reason=reason, always=always, changed=changed)
    if not given.first:
        _told_before(book, found, given.counts, given.given)
        return
    allowed = "allowed for good" if always else "allowed instead, once" if changed else "allowed, once"
    runs = Call(found.call.tool, changed or found.call.input)
    say(f"{allowed if verdict is Verdict.ALLOW else 'denied'}: {shown(runs, 200)}")
    if why := wake(place, found.id):
        note(why)


def _told_before(book: Approvals, found: Approval, counts: Answer, given: Answer) -> None:
    """The first answer counts. The same once more is no mistake."""
    from agent_mailer.state.approvals import UNREADABLE

    said = f"{counts.outruns}, {local_time(counts.at)}"
    if counts.reason == UNREADABLE:
        why = f"{UNREADABLE}, and counts as none: {book.folder / found.id}.answer; nothing was changed"
        raise MailerError("answered", why, f"agent-mailer approvals show {found.id}")
    spent = f"; used up in turn {found.used}" if found.used else ""
    if counts.verdict == given.verdict and counts.changed == given.changed:
        if given.always and not any(one.id == found.id for one in book.standing()):
            # The first was for once; or it came no further than that.
            book.allow_for_good(found, given.at)
            say(f"{said}{spent}; from now on it is allowed for good")
            return
        note(f"{said}{spent}; nothing was changed")
        return
    raise MailerError("answered", f"{said}{spent}; nothing was changed", f"agent-mailer approvals show {found.id}")


def _unknown(code: str) -> MailerError:
    """Whose it is, where it is another agent's."""
    from agent_mailer.disk import Disk
    from agent_mailer.state.workdirs import known_workdirs

    shown = printable(code, 40)
    for other in known_workdirs(Disk()).all():
        with suppress(MailerError, OSError):
            if workplace(other, damaged=lambda *_: None).state.approvals.by_code(code) is not None:
                why = f"{shown} is a code of the agent in {other}, not of this one; nothing was changed"
                return UsageFault("other_agent", why, f"the same with -C {quoted(other)}")
    return UsageFault("no_code", f"no question of this agent has the code {shown}; nothing was changed", LIST)


def _changed(found: Approval, file: Path) -> str:
    """The input to run instead, as JSON. Raises UsageFault and OSError."""
    from agent_mailer.approvals.calls import MOST_INPUT, as_input

    text = _read(file, MOST_INPUT)
    before = json.loads(found.call.input)
    try:
        if found.call.command is not None and isinstance(before["command"], str):
            chosen = as_input({**before, "command": text.rstrip("\n")})
        else:
            after = json.loads(text)
            if not isinstance(after, dict) or after.keys() != before.keys():
                raise ValueError(f"it must be a JSON object with the fields {', '.join(sorted(before))}")
            chosen = as_input(after)
    except (ValueError, RecursionError) as error:
        why = f"{printable(str(file))}: {printable(str(error), 400)}"
        raise UsageFault("bad_change", why, f"begin with: {found.call.input[:200]}") from None
    if len(chosen) > MOST_INPUT:
        raise UsageFault("too_large", f"more than {MOST_INPUT} characters of JSON", "something shorter")
    return chosen


def _read(file: Path, most: int) -> str:
    """No more is read than may stand there, whatever it is."""
    if str(file) == "-":
        data = sys.stdin.buffer.read(most + 1)
    else:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    if len(data) > most:
        raise UsageFault("too_large", f"{printable(str(file))} has more than {most} bytes", "something shorter")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageFault("bad_change", f"{printable(str(file))} is no text in UTF-8", "a file with the command")
    if not text.strip():
        raise UsageFault("bad_change", f"nothing stands in {printable(str(file))}", "agent-mailer deny CODE REASON")
    return text


def _on_a_line(view: ApprovalView | StandingView) -> str:
    """What is beside a command comes first: no length of the command hides it."""
    beside = f" {printable(view.beside, 200)}" if view.beside else ""
    return f"{printable(view.tool, 40)}{beside}: {printable(view.act, 200)}"


def _whole(line: str) -> str:
    """What is to be answered is never cut here: what stands at its end counts as much."""
    return printable(line, 12 * len(line))


def _facts(view: ApprovalView) -> Iterator[tuple[str, str]]:
    yield "question", view.question
    yield "code", view.code
    yield "state", view.state
    yield "tool", printable(view.tool, 200)
    yield "with", _whole(view.beside)
    yield "folder", printable(view.folder, 400)
    yield "for mail of", printable(view.sender, 200)
    yield "message", printable(view.message_id, 400)
    yield "thread", printable(view.thread, 300)
    yield "turn", view.turn_id
    yield "asked", local_time(view.asked_at)
    yield "until", local_time(view.expires_at)
    if view.verdict is not None and view.answered_at is not None:
        yield "answer", f"{view.verdict}, {local_time(view.answered_at)}, by {view.by}"
        yield "reason", printable(view.reason, 500)
        yield "runs instead", _whole(view.changed)
