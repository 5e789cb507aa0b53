"""A list that a broker writes while it reads it: whatever becomes of the rest meanwhile, it is a list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from fastapi.responses import StreamingResponse

from agent_mailer.broker.messages.routes import json_list


@pytest.mark.parametrize(
    "portions",
    [
        [],
        [[]],
        [["a", "b"]],
        [["a", "b"], []],
        [[], []],
        [[], ["a"]],
        [["a"], [], ["b"]],
        [["a"], [], []],
        [[], [], ["a"], ["b"]],
    ],
)
def test_a_list_is_one_however_much_was_read_elsewhere_meanwhile(portions: list[list[str]]) -> None:
    async def read() -> AsyncIterator[Sequence[Any]]:
        for portion in portions:
            yield portion

    async def written() -> bytes:
        answered = await json_list(read(), html=False)
        if not isinstance(answered, StreamingResponse):
            return bytes(answered.body)
        return b"".join([bytes(piece) async for piece in answered.body_iterator])  # type: ignore[arg-type]

    assert json.loads(asyncio.run(written())) == [one for portion in portions for one in portion]
