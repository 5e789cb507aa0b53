"""What takes long is done while the loop goes on: in a thread of its own, where one is to be had, else in the loop.

asyncio's own pool of threads raises where the system lets us start none, and once more when the loop ends.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


async def meanwhile(call: Callable[[], T]) -> T:
    """What `call` returns or raises. Where we are cancelled it goes on, and nobody hears of it."""
    import asyncio  # whoever has no loop does without

    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if found.done():
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result, error = call(), None
        except Exception as fault:
            result, error = None, fault
        # The loop may have ended since.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, result, error)

    in_passing(run)
    return await found


def in_passing(act: Callable[[], None]) -> None:
    """Nobody waits for it where it can be helped, neither now nor at our end."""
    try:
        Thread(target=act, daemon=True).start()
    except RuntimeError:
        act()
