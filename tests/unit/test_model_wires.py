"""The model server's wires: a tool is told what its schema names, and where none is said, all."""

from __future__ import annotations

from typing import Any

import pytest

from agent_mailer.testing.model_wires import Gemini, OpenAiChat, Wire

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}}}


def chat(schema: object) -> dict[str, Any]:
    return {"tools": [{"function": {"name": "x"}}, {"function": {"name": "bash", "parameters": schema}}]}


def gemini(schema: object, key: str = "parametersJsonSchema") -> dict[str, Any]:
    return {"tools": [{"functionDeclarations": [{"name": "x"}, {"name": "bash", key: schema}]}]}


@pytest.mark.parametrize(
    ("wire", "body"),
    [(OpenAiChat(), chat(SCHEMA)), (Gemini(), gemini(SCHEMA)), (Gemini(), gemini(SCHEMA, "parameters"))],
)
def test_what_a_tool_takes_is_what_its_schema_names(wire: Wire, body: dict[str, Any]) -> None:
    assert wire.tools(body) == ["x", "bash"]
    assert wire.takes(body, "bash") == frozenset({"command", "timeout"})
    assert wire.takes(body, "x") is None
    assert wire.takes(body, "not offered") is None


@pytest.mark.parametrize("schema", [None, {}, [], {"type": "object"}, {"properties": []}])
def test_where_it_is_not_said_it_is_told_all(schema: object) -> None:
    assert OpenAiChat().takes(chat(schema), "bash") is None
    assert Gemini().takes(gemini(schema), "bash") is None
    assert OpenAiChat().takes({}, "bash") is None
    assert Gemini().takes({}, "bash") is None
