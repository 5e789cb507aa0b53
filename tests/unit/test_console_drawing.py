"""What is drawn once for all who ask for the same, and when it is drawn anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fastapi import Request, Response

from agent_mailer.broker.protocol import Fault
from agent_mailer.console.drawing import Drawings, Key, key_of
from agent_mailer.console.words import VIEW_COOKIE


def drawing(drawn: list[int], fault: Fault | None = None) -> Callable[[], Awaitable[Response]]:
    async def draw() -> Response:
        drawn.append(len(drawn))
        mine = drawn[-1]
        await asyncio.sleep(0)
        if fault is not None:
            raise fault
        return Response(f"{mine}", 200, {"X-Said": "yes"})

    return draw


def test_what_many_ask_for_at_once_is_drawn_once_until_something_changes() -> None:
    async def all_of_it() -> None:
        drawn: list[int] = []
        some, draw = Drawings(60), drawing(drawn)
        first = await asyncio.gather(*(some.of(("a",), draw) for _ in range(9)), some.of(("b",), draw))
        assert [bytes(answer.body) for answer in first] == [b"0"] * 9 + [b"1"]
        assert first[0].headers["X-Said"] == "yes"
        some.forget()
        assert (await some.of(("a",), draw)).body == b"2"
        assert (await some.of(("a",), draw)).body == b"2"

    asyncio.run(all_of_it())


def test_without_a_word_of_a_change_it_is_drawn_anew_after_a_while() -> None:
    async def all_of_it() -> None:
        drawn: list[int] = []
        some, draw = Drawings(0), drawing(drawn)
        assert [(await some.of(("a",), draw)).body for _ in range(2)] == [b"0", b"1"]

    asyncio.run(all_of_it())


def test_who_asked_first_may_leave_and_a_refusal_is_everybodys() -> None:
    async def all_of_it() -> None:
        drawn: list[int] = []
        some = Drawings(60)
        first, second = (asyncio.ensure_future(some.of(("a",), drawing(drawn))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).body == b"0"
        refused = (some.of(("b",), drawing(drawn, Fault(404, "gone"))) for _ in range(2))
        for answer in await asyncio.gather(*refused, return_exceptions=True):
            assert isinstance(answer, Fault)
        with pytest.raises(Fault):
            await some.of(("b",), drawing(drawn))

    asyncio.run(all_of_it())


def asked(path: str = "/console/thread", query: str = "id=1", by: str = "", **headers: str) -> Key:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return key_of(Request({"type": "http", "path": path, "query_string": query.encode(), "headers": given}), by)


def test_two_who_are_shown_something_else_have_another_key() -> None:
    different = {
        asked(),
        asked(path="/console/message"),
        asked(query="id=2"),
        asked(by="a superadmin"),
        asked(host="mail.example.org"),
        asked(cookie=f"{VIEW_COOKIE}=zh"),
        asked(accept_language="zh"),
        asked(accept_encoding="gzip"),
    }
    assert len(different) == 8
    assert asked(cookie="other=1", user_agent="x") == asked()
