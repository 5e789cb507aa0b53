"""A kill loop whose mail is at a server that is killed as well."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, Protocol

from tests.crash.children import nursery
from tests.crash.loop import KillLoop, Victim
from tests.desk import Desk


class Server(Protocol):
    """Runs, and can be killed and started again."""

    def start(self) -> object: ...
    def kill(self) -> None: ...


def storm(
    desk: Desk,
    server: Server,
    chance: random.Random,
    rounds: int,
    victims: tuple[Victim, ...],
    *,
    recipient: Mapping[str, Any],
    sender: str = "",
    parallel: int = 1,
) -> None:
    """`rounds` kills by lot, and all that must hold after; `sender`, `recipient` as for `KillLoop`."""

    def kill_server() -> None:
        server.kill()
        time.sleep(chance.uniform(0.0, 0.3))  # how long it is away is part of the lot
        server.start()

    with nursery() as children:
        loop = KillLoop(
            desk,
            children,
            chance,
            parallel=parallel,
            sender=sender,
            recipient=recipient,
            kill_broker=kill_server,
        )
        try:
            loop.run(rounds, victims)
            loop.check()
        finally:
            print(f"\n{loop.report()}")
            loop.end()
