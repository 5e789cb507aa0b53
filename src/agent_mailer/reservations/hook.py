"""What an agent program runs around a shell command of its own: has it changed what somebody else has reserved?

`python -m agent_mailer.reservations.hook TURN_FOLDER`: the program's JSON on standard input. Before a command it notes
what lies at the paths that others hold, after it what has changed there meanwhile; the watcher reads that when the turn
has ended. It says nothing before a command, and keeps none from anything: what cannot be noted is not told.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from agent_mailer.clock import iso
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.names import printable, whole_digest
from agent_mailer.reservations.calls import Before, Line, Sighting, compared, note, put_before, take_before
from agent_mailer.reservations.snapshots import taken
from agent_mailer.reservations.turn import HELD, held_in
from agent_mailer.turn_tools import ISOLATED, anchor_turn

PRE: Final = "PreToolUse"
AFTER: Final = ("PostToolUse", "PostToolUseFailure")
"""The second is claude's for a command that fails."""

_LARGEST: Final = 64 * 1024 * 1024
_SHOWN: Final = 5


def argv_for(directory: Path) -> tuple[str, ...]:
    """How an agent program starts it. Where nobody holds anything, that is all that is looked at."""
    ours = (sys.executable, ISOLATED, "-m", "agent_mailer.reservations.hook", str(directory))
    return ("/bin/sh", "-c", '[ -e "$0" ] || exit 0; exec "$@"', str(directory / HELD), *ours)


def begin(disk: Disk, directory: Path, call: str, now: float) -> None:
    """Raises OSError, ValueError."""
    held = held_in(directory)
    if held is None:
        return
    note(disk, directory, Line(now, call))
    others = held.standing(now)
    if others:
        snapshot = taken(Path(held.project), [one.pattern for one in others], now)
        put_before(disk, directory, call, Before(held.project, tuple(others), snapshot))


def end(disk: Disk, directory: Path, call: str, now: float, *, goes_on: bool = False) -> tuple[Sighting, ...]:
    """What of others' has changed since the command began, and is theirs still. `goes_on`: it was started to run on.
    Raises OSError, ValueError.
    """
    before, held = take_before(disk, directory, call), held_in(directory)
    if before is None and held is None:
        return ()
    seen: tuple[Sighting, ...] = ()
    if before is not None and held is not None:
        still = {(one.owner, one.pattern) for one in held.standing(now)}
        seen = compared(before, now, [one for one in before.others if (one.owner, one.pattern) in still])
    note(disk, directory, Line(time.time(), call, ended=not goes_on, seen=seen))
    return seen


def to_the_agent(seen: tuple[Sighting, ...], event: str) -> str:
    """What its program tells the agent, at once; nothing where nothing has changed."""
    if not seen:
        return ""
    named = ", ".join(f"{printable(one.path, 200)} ({printable(one.owner.address, 80)})" for one in seen[:_SHOWN])
    more = f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else ""
    words = (
        f"While this command ran, until {iso(seen[0].until)}, files changed that others have reserved: {named}{more}. "
        "If the command did that, say so in your answer, and leave these files alone from now on. "
        "Their holder is told when your turn ends."
    )
    return json.dumps({"hookSpecificOutput": {"hookEventName": event, "additionalContext": words}})


def run(directory: Path, stdin: TextIO, stdout: TextIO) -> None:
    """One command's beginning or end."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, MailerError):
        fields = json.loads(stdin.read(_LARGEST))
        event, call = fields["hook_event_name"], _call_of(fields)
        if event == PRE:
            begin(Disk(), directory, call, time.time())
        elif event in AFTER:
            given = fields.get("tool_input")
            goes_on = isinstance(given, dict) and given.get("run_in_background") is True
            stdout.write(to_the_agent(end(Disk(), directory, call, time.time(), goes_on=goes_on), event))
            stdout.flush()


def _call_of(fields: Mapping[str, object]) -> str:
    """By which its beginning and its end are known to be one; of two that are alike at once the first end counts."""
    named = fields.get("tool_use_id")
    if isinstance(named, str) and named:
        return named
    given = json.dumps(fields.get("tool_input"), sort_keys=True)
    return f"like-{whole_digest(given)[:32]}"


def main() -> int:
    directory = Path(sys.argv[1])
    anchor_turn(directory)
    run(directory, sys.stdin, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
