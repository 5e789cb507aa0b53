"""`send`: a message from a person, and the wait for its answer."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import some_address
from agent_mailer.cli.mail import steps
from agent_mailer.cli.mail.options import (
    Body,
    BodyFile,
    Context,
    KindOption,
    Labels,
    Now,
    PriorityOption,
    Refs,
    Subject,
    Thread,
    To,
    as_screen,
    in_turn,
    mail_at,
    parse_context,
    parse_kind,
    parse_labels,
    parse_priority,
    parse_refs,
    read_body,
    tell_staged,
    whole,
)
from agent_mailer.cli.options import Json, MaildirRoot, Workdir
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import done, note, say
from agent_mailer.errors import ExitCode, UsageFault, mend, said_of
from agent_mailer.names import one_of, printable, split_addresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Draft
    from agent_mailer.people import Person
    from agent_mailer.people.port import Sent, Waited


app = single()

LONGEST_SUBJECT = 70
WAIT_FOR = 120
NOT_IN_TIME = 4


@app.command("send", cls=FastCommand)
def send(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADDRESS] [TEXT]",
            help="Instead of --to and --body: to whom, and what. Without --subject its first line is the subject.",
            show_default=False,
            autocompletion=some_address,
        ),
    ] = None,
    to: To = None,
    subject: Subject = "",
    body: Body = None,
    body_file: BodyFile = None,
    thread: Thread = "",
    sender: Annotated[
        str | None,
        typer.Option(
            *("--from", "--as"),
            metavar="ADDRESS",
            help="Who sends it. Default: $AM_ME, else user; at a broker its operator.",
            show_default=False,
        ),
    ] = None,
    kind: KindOption = None,
    priority: PriorityOption = None,
    labels: Labels = None,
    refs: Refs = None,
    context: Context = None,
    dedupe_key: Annotated[
        str | None, typer.Option("--dedupe-key", metavar="KEY", help="Send it once, however often this is run.")
    ] = None,
    wait: Annotated[
        int | None,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            help="Wait for the answer and print it; status 0 answered, 1 given up, 3 a question, "
            "4 no answer: in time, or none will come.",
        ),
    ] = None,
    wait_for: Annotated[
        str | None,
        typer.Option(
            "--wait-for",
            metavar="STAGE",
            help="Wait until all have taken it (drained), or it was found unreadable (dlq), not for the answer; "
            f"status 0 so it is, 1 it can never be, 4 not in time (--wait, else {WAIT_FOR} seconds).",
        ),
    ] = None,
    now: Now = False,
    workdir: Workdir = None,
    maildir_root: MaildirRoot = None,
    as_json: Json = False,
) -> None:
    """Send a message; during a turn it is the agent's, and staged."""
    to, body = _of_words(words or [], to, body, body_file)
    recipients = split_addresses(to)
    if not recipients:
        raise UsageFault(
            "no_recipient", "there is no recipient", 'agent-mailer send ADDRESS "TEXT" (agent-mailer mail contacts)'
        )
    if words and body and not subject:
        subject = _first_line(body)
    turn = in_turn()
    if turn is not None:
        outside = {"--from": sender, "--dedupe-key": dedupe_key, "--maildir-root": maildir_root}
        _refuse_in_turn({**outside, "--wait": wait, "--wait-for": wait_for})
        staged = turn.send(
            recipients,
            read_body(body, body_file),
            subject=subject,
            thread=thread,
            kind=parse_kind(kind),
            priority=parse_priority(priority),
            labels=parse_labels(labels),
            refs=parse_refs(refs),
            context=parse_context(context),
            now=now,
        )
        tell_staged(staged, now=now)
        return
    if now:
        raise UsageFault("no_turn", "--now is for an agent's turn; a person's mail leaves at once anyway", "")
    if dedupe_key is not None and not dedupe_key.strip():
        raise UsageFault("bad_key", "the dedupe key is empty", "")
    if wait is not None and wait < 0:
        raise UsageFault("bad_wait", "--wait is a number of seconds", "")
    from agent_mailer.mailbox.port import Action, Draft
    from agent_mailer.people import new_key, person_at

    place, who = mail_at(sender, workdir, maildir_root)
    person = person_at(place, who, note)
    draft = Draft(
        new_key(dedupe_key),
        Action.SEND,
        _now(),
        to=recipients,
        subject=subject,
        body=read_body(body, body_file),
        thread=thread,
        kind=parse_kind(kind),
        priority=parse_priority(priority),
        labels=parse_labels(labels),
        refs=parse_refs(refs),
        context=parse_context(context),
    )
    if wait_for is None:
        _send_as_person(person, draft, wait, str(workdir or ""), as_json=as_json)
        if wait is None and not as_json:
            _tell_unwatched(place, draft.to)
    else:
        seconds = WAIT_FOR if wait is None else wait
        _send_and_wait_for(person, draft, wait_for, seconds, str(workdir or ""), as_json=as_json)


def _of_words(
    words: list[str], to: list[str] | None, body: str | None, body_file: str | None
) -> tuple[list[str], str | None]:
    """Recipients and text, of which the words without options say what no option does. Raises UsageFault."""
    recipients, rest = (to, words) if to else (words[:1], words[1:])
    if not rest:
        return recipients, body
    if body is not None or body_file is not None:
        raise UsageFault(
            "two_texts", f"{shlex.join(rest)} is a second text, beside --body or --body-file", "leave one out"
        )
    if len(rest) > 1:
        whole = shlex.join([*([] if to else words[:1]), " ".join(rest)])
        raise UsageFault("many_words", "the text is several words: put it in quotes", f"agent-mailer send {whole}")
    return recipients, rest[0]


def _first_line(text: str) -> str:
    first = next((line for line in map(str.strip, text.splitlines()) if line), "")
    return first if len(first) <= LONGEST_SUBJECT else f"{first[: LONGEST_SUBJECT - 1].rstrip()}…"


def _send_and_wait_for(
    person: Person, draft: Draft, wait_for: str, seconds: int, workdir: str, *, as_json: bool
) -> None:
    from agent_mailer.people.arrivals import Fate

    wanted = Fate(one_of(wait_for, (fate.value for fate in Fate), "--wait-for"))
    person.require_receipts(draft.to, wanted)
    sent = person.send(draft)
    done(f"sent as {sent.id}")
    fate = person.wait_for_fate(sent, wanted, seconds)
    look = f"{said_of('agent-mailer mail receipts', workdir)} {sent.id}"
    if as_json:
        steps.told({**_as_json(sent, None), "stage": fate.value if fate is not None else None}, *_next(sent))
    else:
        say(sent.id)
    if fate is None:
        note(f"not {wanted.value} after {seconds} s; later: {look}")
        raise typer.Exit(NOT_IN_TIME)
    if fate is not wanted:
        note(f"it could not be read at its destination: {look}")
        raise typer.Exit(ExitCode.FAILED)


def _send_as_person(person: Person, draft: Draft, wait: int | None, workdir: str, *, as_json: bool) -> None:
    sent = person.send(draft)
    done(f"sent as {sent.id}")
    waited = None
    if wait is not None:
        how = "already sent" if sent.already else "delivered"
        note(f"{how} to {', '.join(sent.recipients)}: {sent.id}")
        from agent_mailer.views.standing import Neighbours

        try:
            waited = person.wait_for_answer(sent, wait, Neighbours(person.is_of).standing)
        except KeyboardInterrupt:
            inbox, story = (said_of(f"agent-mailer mail {verb}", workdir) for verb in ("inbox", "thread"))
            note(f"\nit stays sent, and is worked on. What comes of it: {inbox}; how far it is: {story} {sent.id}")
            raise
    if as_json:
        steps.told(_as_json(sent, waited), *_next(sent))
    elif waited is None:
        if sent.already:
            note("already sent: nothing new was delivered")
        say(sent.id)
    else:
        _tell_end(sent, waited, wait or 0, workdir)
    if waited is not None and waited.ending.status:
        raise typer.Exit(waited.ending.status)


def _tell_unwatched(place: Workplace, recipients: Sequence[str]) -> None:
    """Who does not wait would not hear that nobody works on it."""
    from agent_mailer.cli.mail.unwatched import unwatched
    from agent_mailer.teams.stopped import starts_again

    try:
        alone = [*unwatched(place, recipients)]
    except OSError as error:
        where = error.filename or place.workdir
        note(f"whether anybody watches cannot be seen: {where}: {error.strerror} ({mend(error, where)})")
        return
    for recipient, workdir in alone:
        again = starts_again(workdir) or f"agent-mailer watch -C {shlex.quote(str(workdir))}"
        note(f"nobody watches for {printable(recipient, 100)}: {again}")


def _tell_end(sent: Sent, waited: Waited, seconds: int, workdir: str) -> None:
    from agent_mailer.people.port import Ending

    if waited.answer is not None:
        say(as_screen(waited.answer))
    if waited.ending is Ending.TIMEOUT:
        known = "; ".join(f"{name} {_where_it_stands(waited, name)}" for name in sent.recipients)
        end = "" if known.endswith((".", "?", "!")) else "."
        note(f"no answer after {seconds} s: {known}{end} Later: {said_of('agent-mailer mail inbox', workdir)}")
    elif waited.ending is Ending.UNANSWERED:
        note("no answer will come: " + "; ".join(f"{name} {one.text}" for name, one in waited.reports.items()))
    elif waited.ending is Ending.BLOCKED:
        note(
            "the agent asks; answer it with: agent-mailer mail reply "
            + (waited.answer.envelope.id if waited.answer else "")
        )
    elif waited.ending is Ending.DEAD and waited.answer is None:
        given_up = [f"{name} {one.text}" for name, one in waited.reports.items() if one.final]
        note("; ".join(given_up) or "the message could not be read at its destination")


def _where_it_stands(waited: Waited, name: str) -> str:
    report = waited.reports.get(name)
    if report is not None:
        return report.text
    if name in waited.taken:
        return "has taken it; what it does with it cannot be seen from here"
    return "has not taken it: does its watcher run?"


def _next(sent: Sent) -> tuple[steps.Step, ...]:
    return ((["thread", sent.thread], "what became of it"), steps.LOOK)


def _as_json(sent: Sent, waited: Waited | None) -> dict[str, object]:
    shape: dict[str, object] = {
        "id": sent.id,
        "thread": sent.thread,
        "to": list(sent.recipients),
        "already": sent.already,
    }
    if waited is not None:
        shape["end"] = waited.ending.value
        shape["answer"] = whole(waited.answer) if waited.answer is not None else None
        shape["standing"] = {name: {"state": one.state, "text": one.text} for name, one in waited.reports.items()}
    return shape


def _refuse_in_turn(given: dict[str, object]) -> None:
    named = [option for option, value in given.items() if value is not None]
    if named:
        raise UsageFault("in_turn", f"{', '.join(named)}: not during a turn; what an agent sends is staged", "")


def _now() -> float:
    from agent_mailer.clock import SystemClock

    return SystemClock().now()
