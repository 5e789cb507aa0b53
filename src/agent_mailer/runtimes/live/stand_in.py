"""The process of a live turn: `python -m agent_mailer.runtimes.live.stand_in ORDERS`. It waits, and holds nothing else.

To whoever holds the turn it counts as the agent. The watcher may die meanwhile; this goes on.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from agent_mailer.file_events import FileEvents
from agent_mailer.process.handle import wait_gone
from agent_mailer.runtimes.live.adapter import EXPIRED, GIVEN_BACK, GONE, OUTBOX, Orders, word_in
from agent_mailer.turn_tools import FINISHED, anchor_turn


async def stand_in(orders: Orders) -> int:
    """Returns the exit status. A word that was left counts, also where the session ended right after."""
    turn_dir = Path(orders.turn_dir)
    events = FileEvents([turn_dir / OUTBOX])
    gone = asyncio.ensure_future(wait_gone([orders.process], orders.seconds))
    try:
        while not (word := word_in(turn_dir)) and not gone.done():
            woken = asyncio.ensure_future(events.wait())
            await asyncio.wait({gone, woken}, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
        word = word or word_in(turn_dir)
        if word:
            return 0 if word == FINISHED else GIVEN_BACK
        return GONE if gone.result() else EXPIRED
    finally:
        gone.cancel()
        events.close()


def main() -> int:
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    anchor_turn(Path(orders.turn_dir))
    return asyncio.run(stand_in(orders))


if __name__ == "__main__":
    sys.exit(main())
