"""The Agent Client Protocol's lines: JSON-RPC 2.0, one message a line, read and written. Pure.

Version 1 as on https://agentclientprotocol.com (read in November 2026); what an agent sends beyond it is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

VERSION: Final = 1

NOT_OFFERED: Final = -32601
"""The protocol's own code for a method that is not there."""
AUTHENTICATE: Final = -32000
"""By which an agent says that it wants a login first."""

Fields = Mapping[str, object]


class Request(msgspec.Struct, frozen=True):
    """Of the agent's to us; it waits for an answer under its own `id`."""

    id: int | str
    method: str
    params: Fields


class Notice(msgspec.Struct, frozen=True):
    """Of the agent's; nobody waits for an answer."""

    method: str
    params: Fields


class Answer(msgspec.Struct, frozen=True):
    """To one of our requests."""

    id: int
    result: Fields


class Refusal(msgspec.Struct, frozen=True):
    """To one of our requests: the error's code, text and data."""

    id: int
    code: int
    message: str
    data: object = None


Message = Request | Notice | Answer | Refusal


def read(line: bytes) -> Message | None:
    """None for what is no message of the protocol. Never raises."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    number, method, params = found.get("id"), found.get("method"), as_fields(found.get("params"))
    if isinstance(method, str):
        if isinstance(number, int | str) and not isinstance(number, bool):
            return Request(number, method, params)
        return Notice(method, params)
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    error = found.get("error")
    if error is None:
        return Answer(number, as_fields(found.get("result")))
    said = as_fields(error)
    code = said.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        code = 0
    return Refusal(number, code, text_at(said, "message"), said.get("data"))


def request(number: int, method: str, params: Fields) -> bytes:
    return _line({"id": number, "method": method, "params": params})


def notice(method: str, params: Fields) -> bytes:
    return _line({"method": method, "params": params})


def answer(number: int | str, result: Fields) -> bytes:
    return _line({"id": number, "result": result})


def refusal(number: int | str, code: int, message: str) -> bytes:
    return _line({"id": number, "error": {"code": code, "message": message}})


def _line(fields: dict[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **fields}) + b"\n"


def as_fields(value: object) -> Fields:
    """Empty where it is no object."""
    return value if isinstance(value, dict) else {}


def text_at(value: object, path: str) -> str:
    """The text at `path` (`toolCall._meta.toolName`); empty where there is none."""
    found = at(value, path)
    return found if isinstance(found, str) else ""


def number_at(value: object, path: str) -> int | None:
    """A count, no negative one; None where there is none."""
    found = at(value, path)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 10**18 else None


def at(value: object, path: str) -> object:
    """What stands at a path of names, separated by dots; None where there is nothing."""
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def all_in(value: object, name: str) -> list[Fields]:
    """The objects of a list that stands at `name`."""
    found = at(value, name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
