"""The stream of a page: what it is told, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fastapi import Response
from starlette.types import Message

from agent_mailer.console.live import CHANGED, PING, Live, hello


def test_a_change_in_the_instant_of_a_heartbeat_is_told() -> None:
    said: list[bytes] = []

    async def play() -> None:
        pages = Live()
        opened = pages.begin("alice", str(pages.number))
        opened.heartbeat_seconds = 0.0  # so that each wait has its heartbeat, too
        closed = asyncio.Event()

        async def receive() -> Message:
            await closed.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            said.append(message.get("body", b""))
            if said.count(PING) == 1 and said[-1] == PING:
                opened.look_again()
            if said[-1] == CHANGED:
                closed.set()
            if len(said) > 50:
                raise TimeoutError

        await opened.go_on(receive, send)

    asyncio.run(play())
    assert said[1] == hello(0)
    assert CHANGED in said[:5]


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda pages: pages.changed("alice"), True),
        (lambda pages: pages.arrived([("an agent", 1)]), True),
        (lambda pages: None, False),
    ],
    ids=["an act", "mail", "nothing"],
)
def test_what_changes_while_no_page_is_open_is_told_to_the_one_that_was_made_before(
    change: Callable[[Live], None], *, stale: bool
) -> None:
    pages = Live()
    made_at = str(pages.number)
    change(pages)
    assert pages.begin("alice", made_at).stale is stale


def test_whoever_is_told_of_a_change_is_given_nothing_that_was_drawn_before_it() -> None:
    async def play() -> None:
        pages = Live()
        opened = pages.begin("alice", str(pages.number))
        drawings = pages.drawings("alice")
        assert drawings is not None
        state = "old"

        async def draw() -> Response:
            return Response(state)

        assert (await drawings.of(("needs",), draw)).body == b"old"
        state = "new"
        pages.changed("alice")
        await opened.woken.wait()
        assert (await drawings.of(("needs",), draw)).body == b"new"

    asyncio.run(play())


def test_a_page_hears_of_each_change_once_and_of_the_heartbeat_else() -> None:
    assert hello(15.0) == b"event: hello\ndata: 15\n\n"
    assert hello(0.5) == b"event: hello\ndata: 0.5\n\n"
