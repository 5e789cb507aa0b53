"""What the demo shows: two agents as shell scripts, their task, and each step as a line."""

from __future__ import annotations

from collections.abc import Mapping

from agent_mailer.events import EventName
from agent_mailer.names import printable

TROUBLE = frozenset(
    {
        EventName.DEAD_LETTER,
        EventName.ITEM_REFUSED,
        EventName.PAUSED,
        EventName.MESSAGE_UNREADABLE,
        EventName.WATCH_FAULT,
        EventName.RETRY_SCHEDULED,
    }
)
"""What never happens when all is well: the demo says so and points at the log."""


def tell(event: Mapping[str, object]) -> str:
    """What happened; empty for what a newcomer need not know."""
    match event.get("event"):
        case EventName.WATCH_STARTED:
            return f"watches its mailbox (process {_of(event, 'pid')})"
        case EventName.TURN_CLAIMED:
            return f"has mail from {_name(event, 'sender')}"
        case EventName.TURN_STARTED:
            return f"starts its agent on it (process {_of(event, 'pid')})"
        case EventName.TURN_ENDED:
            return f"agent has ended: {_of(event, 'outcome')} after {_of(event, 'seconds')} s"
        case EventName.ITEM_DELIVERED:
            return f"sends a message to {_name(event, 'to')}"
        case EventName.MESSAGE_DONE:
            return "settles the message"
        case EventName.WATCH_STOPPED:
            return "stops"
        case str() as name if name in TROUBLE:
            why = _of(event, "why") or _of(event, "detail") or _of(event, "outcome")
            return f"trouble: {name.replace('_', ' ')}: {why}"
    return ""


def is_trouble(event: Mapping[str, object]) -> bool:
    return event.get("event") in TROUBLE


def _name(event: Mapping[str, object], name: str) -> str:
    """An address as the demo calls its owner."""
    return _of(event, name).partition("@")[0]


def _of(event: Mapping[str, object], name: str) -> str:
    return printable(str(event.get(name, "")))


PLANNER = """\
#!/bin/sh
# The planner of the demo. A real one would be a coding agent; this one knows two moves, and mails with the same command
# that a real one uses. Its prompt is on standard input; it does not need to read it.
set -eu

case $AGENT_MAILER_FROM in
CODER) # the work is done: pass the answer on to whoever asked
  agent-mailer mail forward --to PERSON --subject 'Done: the first ten primes' --body 'The coder did it. Its words:'
  ;;
*) # a task: hand it to the coder
  agent-mailer mail forward --to CODER --body 'Please do this, and tell me the result.'
  ;;
esac
"""

CODER = """\
#!/bin/sh
# The coder of the demo: reads its mail, writes a small program, runs it, answers with the result.
set -eu

agent-mailer mail read > task.txt

cat > primes.sh <<'PROGRAM'
n=2 found=0
while [ "$found" -lt 10 ]; do
  d=2
  while [ $((d * d)) -le "$n" ] && [ $((n % d)) -ne 0 ]; do d=$((d + 1)); done
  if [ $((d * d)) -gt "$n" ]; then printf '%s ' "$n"; found=$((found + 1)); fi
  n=$((n + 1))
done
echo
PROGRAM

{
  echo "I wrote $PWD/primes.sh and ran it. It prints:"
  echo
  sh primes.sh
} | agent-mailer mail reply --body-file -
"""

NAMES = ("planner", "coder")


def scripts(person: str, coder: str) -> dict[str, str]:
    """The agents by name; `person` is the address of whoever gives the task."""
    return {"planner": PLANNER.replace("PERSON", person).replace("CODER", coder), "coder": CODER}


TASK_SUBJECT = "The first ten primes"
TASK_BODY = (
    "Please write a small shell program that prints the first ten prime numbers, run it, and tell me what it prints."
)

HOW_TO_BROKER = """\
The same with Claude Code, in your own project. On the machine that all the agents can reach:

  agent-mailer broker serve                  # prints the first steps; elsewhere than on 127.0.0.1 it needs a secret

Then, wherever an agent works:

  cd ~/my-project
  agent-mailer init --broker-url URL --api-key - --address coder --runtime claude --permission-mode acceptEdits
  agent-mailer watch                         # leave it running; a second terminal:
  agent-mailer send --to coder --subject Hello --body 'What is in this folder?' --wait 300
"""

HOW_TO = """\
The same with Claude Code, in your own project:

  cd ~/my-project
  agent-mailer init --address coder --runtime claude --permission-mode acceptEdits
  agent-mailer test-runtime                  # one small turn: does it work here?
  agent-mailer watch                         # leave it running; a second terminal:
  agent-mailer send --to coder --subject Hello --body 'What is in this folder?' --wait 300

With Codex: --runtime codex.

A planner beside it is a second folder with its own `init`, `--address planner` and the same --maildir-root.
"""
