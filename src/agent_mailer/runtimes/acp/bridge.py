"""The program of a turn that talks with an agent: prompt on stdin, our own JSON lines on stdout, the agent on pipes.

`python -m agent_mailer.runtimes.acp.bridge ORDERS` (`Orders` as JSON). A turn's streams are files, since it outlives
its watcher; an agent of the Agent Client Protocol wants someone to talk with. To whoever holds the turn this process
counts as the agent. SIGTERM: the agent is told to cancel, then it leaves, and the status is 143. Where the agent ends
before it has answered there is no result, and the status is the agent's.

The agent is started first; what knows its language, and is not small, is loaded while it starts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from agent_mailer.process.talking import Stop, Talking

LONGEST = 16 * 1024 * 1024
"""Bytes of a line that is read; lists of commands and settings have tens of thousands."""


def _start(said: str) -> Talking | str:
    """The agent, or why there is none."""
    orders = json.loads(said)
    drop = orders.get("drop", ())
    env = {name: value for name, value in os.environ.items() if name not in drop}
    try:
        return Talking(orders["argv"], env=env, cwd=Path(orders["workdir"]), longest=LONGEST)
    except OSError as error:
        return f"{orders['argv'][0]} cannot be started: {error.strerror or error}"


def main() -> int:
    stop, agent = Stop(), _start(sys.argv[1])
    # Only who asks for the types of annotations needs it, and it takes as long to load as all of ours.
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    from agent_mailer.runtimes.acp.exchange import exchange

    return exchange(sys.argv[1], agent, stop)


if __name__ == "__main__":
    sys.exit(main())
