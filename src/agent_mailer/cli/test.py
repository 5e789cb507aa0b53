"""`test-runtime`, `test-claude`, `test-notify`: one real trial each."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured, workplace
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say, screen_text
from agent_mailer.errors import ConfigFault, ExitCode, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.checks.trial import TrialReport
    from agent_mailer.events import LogRecord
    from agent_mailer.mailbox.port import Delivery


DEFAULT_SECONDS = 120
LONGEST_SECONDS = 86400

Keep = Annotated[bool, typer.Option("--keep", help="Leave the scratch folder where it is, to look around.")]
Timeout = Annotated[int, typer.Option("--timeout", help="Seconds the turn may take.")]

app = single()


@app.command("test-runtime", cls=FastCommand)
def runtime(
    workdir: Workdir = None, keep: Keep = False, timeout: Timeout = DEFAULT_SECONDS, as_json: Json = False
) -> None:
    """Have the agent program answer one mail, started just as a watcher starts it; say what is wrong if it does not.

    It works in a scratch folder with a mailbox of its own: the agent's mailbox and state are not touched. Exits 0 with
    an answer, 69 where the program or its service is not to be had, 77 where it is not logged in, else 1.
    """
    run_trial(workdir, {}, keep=keep, timeout=timeout, as_json=as_json)


def run_trial(workdir: Path | None, flags: Mapping[str, object], *, keep: bool, timeout: int, as_json: bool) -> None:
    """Run the trial turn and leave with its exit status."""
    from agent_mailer.checks.trial import try_turn

    if not 0 < timeout <= LONGEST_SECONDS:
        raise UsageFault("bad_timeout", f"--timeout {timeout}: give 1 to {LONGEST_SECONDS} seconds", "")
    listen = (lambda _: None) if as_json else _show
    found = try_turn(workplace(workdir, flags), timeout, listen, keep=keep)
    if found is None:
        note("stopped")
        raise typer.Exit(130)
    if as_json:
        json_out(found)
    else:
        _tell(found)
    raise typer.Exit(found.exit_code)


def _show(record: LogRecord) -> None:
    from agent_mailer.cli.terminal.event_lines import as_sentence
    from agent_mailer.events import EventName

    # What would follow for a message of the agent's own would be taken for news of the agent.
    if record.event not in (EventName.PAUSED, EventName.RETRY_SCHEDULED, EventName.DEAD_LETTER):
        say(as_sentence(record))


def _tell(found: TrialReport) -> None:
    from agent_mailer.checks.trial import WORD

    say()
    if not found.exit_code and found.answer is not None:
        say(f"{found.runtime} answered after {found.seconds:.1f} s:\n\n{screen_text(found.answer)}")
        if WORD not in found.answer.lower():
            say(f"\nIt was asked for the word {WORD}: perhaps it has not read the mail.")
    else:
        ended = (
            f"{found.runtime} ended as {found.outcome}" if found.outcome else f"{found.runtime} did not get to a turn"
        )
        say(f"{ended} after {found.seconds:.1f} s: {printable(found.detail, 600) or 'without a word'}")
        if found.answer:
            say(f"  it says: {printable(found.answer, 600)}")
        for line in found.stderr:
            say(f"  stderr: {line}")
        say(f"  fix: {found.fix}")
    if found.scratch:
        say(f"\nKept: {found.scratch}")


claude_app = single()


@claude_app.command("test-claude", cls=FastCommand)
def claude(
    workdir: Workdir = None, keep: Keep = False, timeout: Timeout = DEFAULT_SECONDS, as_json: Json = False
) -> None:
    """As test-runtime, with Claude Code whatever the agent's runtime is."""
    run_trial(workdir, {"runtime": "claude"}, keep=keep, timeout=timeout, as_json=as_json)


notify_app = single()


@notify_app.command("test-notify", cls=FastCommand)
def notify(workdir: Workdir = None, as_json: Json = False) -> None:
    """Tell the operator something harmless, now, by every way of [notify]: command, address, apprise."""
    import asyncio

    from agent_mailer.mailbox.port import Delivered

    place = configured(workdir)
    place.require_complete()
    if not place.policy().notify.channels:
        raise ConfigFault(
            "nobody_to_tell",
            "[notify] names neither a command nor an address nor an Apprise URL",
            "agent-mailer config set notify.command …",
        )
    results = asyncio.run(_notify(place))
    _remember(place, [by for by, delivery in results.items() if isinstance(delivery, Delivered)])
    told = all(isinstance(delivery, Delivered) for delivery in results.values())
    rows = [
        {
            "by": by,
            "told": isinstance(delivery, Delivered),
            "why": "" if isinstance(delivery, Delivered) else delivery.why,
        }
        for by, delivery in results.items()
    ]
    if as_json:
        json_out({"ok": told, "ways": rows})
    else:
        for row in rows:
            say(f"{row['by']}: {'told' if row['told'] else row['why']}")
    raise typer.Exit(ExitCode.OK if told else ExitCode.FAILED)


def _remember(place: Workplace, heard: list[str]) -> None:
    """What did not reach the operator before is a problem no longer."""
    if {one.by.value for one in place.state.notices.told.untold} & set(heard):
        from agent_mailer.desk.asking import ask
        from agent_mailer.state.requests import Request, Verb

        ask(place, Request(Verb.HEARD, tuple(heard)))


async def _notify(place: Workplace) -> dict[str, Delivery]:
    from agent_mailer.state.notices import Notice, NoticeKind
    from agent_mailer.watch.telling import Teller

    mailbox, policy = place.mailbox(), place.policy()
    notice = Notice(f"test-{secrets.token_hex(4)}", NoticeKind.TEST, place.clock.now(), "by_hand")
    teller = Teller(policy, mailbox)
    try:
        return {channel.value: await teller.tell(notice, channel) for channel in policy.notify.channels}
    finally:
        await mailbox.close()
