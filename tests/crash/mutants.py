"""Bytes as they come from outside, and as nobody means them: real ones with some of their parts exchanged.

JSON is changed by its values (a number where a text was, a text of digits that `int` does not read, what is too deep,
too large or missing), and everything by its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

NUMBERS = (
    "",
    "²",
    "٣",
    "9" * 5000,
    "1e999",
    "-0",
    "0x10",
    " 7 ",
    "+1",
    "1_0",
    "NaN",
    "12abc",
    "0" * 400,
    "-1",
    "99999999999999",
)
TEXTS = (
    *NUMBERS,
    "\x00",
    "\ud800",
    "\u202e",
    "\x1b[31m",
    "../../etc/passwd",
    "a" * 70_000,
    "\n---\n",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999+23:59",
    "2026-02-30T99:99:99Z",
    "Fri, 99 Foo 99999 00:00:00 GMT",
)
VALUES: tuple[object, ...] = (
    *TEXTS,
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    -1e308,
    float("inf"),
    float("nan"),
    0.1,
    [],
    {},
    [[]],
    {"": {}},
    [None],
    [{"a": [1]}],
    {"id": None, "type": 5},
)
DEEP = b"[" * 3000 + b"]" * 3000

Change = Callable[[bytes], bytes]


def changed(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of `seeds` after up to four changes; now and then it stays as it is."""
    changes = st.lists(st.one_of(_value_changes(), _byte_changes()), max_size=4)
    return st.builds(_apply, st.sampled_from(list(seeds)), changes)


def _apply(data: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        data = change(data)
    return data


def _value_changes() -> st.SearchStrategy[Change]:
    what = st.one_of(st.sampled_from(VALUES), st.integers(), st.floats(), st.text(max_size=20))
    return st.builds(_of_a_value, st.integers(0, 400), what, st.sampled_from(("set", "set", "set", "drop", "twice")))


def _of_a_value(which: int, value: object, how: str) -> Change:
    def change(data: bytes) -> bytes:
        """The JSON from the first brace or bracket on; what is before and after it stays."""
        for start, end in _objects(data):
            try:
                root = json.loads(data[start:end])
            except (ValueError, RecursionError):
                continue
            places = list(_places(root))
            if not places:
                return data
            holder, key = places[which % len(places)]
            if how == "set":
                holder[key] = value
            elif how == "drop":
                del holder[key]
            elif isinstance(holder, list):
                holder.append(holder[key])
            else:
                holder[f"{key}"] = [holder[key]]
            text = json.dumps(root, ensure_ascii=bool(which % 2), separators=(",", ":"))
            return data[:start] + text.encode("utf-8", "surrogatepass") + data[end:]
        return data

    return change


def _objects(data: bytes) -> Iterator[tuple[int, int]]:
    """Where JSON may stand: a whole, a header between lines, one line of many."""
    whole = data.strip()
    if whole[:1] in (b"{", b"["):
        yield 0, len(data)
    head = data.find(b"{")
    if head >= 0:
        for mark in (b"\n---", b"\n\n", b"\n"):
            if (end := data.find(mark, head)) > 0:
                yield head, end


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    found: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        found = iter(list(value.items()))
    elif isinstance(value, list):
        found = iter(list(enumerate(value)))
    for key, inner in found:
        yield value, key
        yield from _places(inner)


def _byte_changes() -> st.SearchStrategy[Change]:
    where = st.integers(0, 5000)
    pieces = [
        DEEP,
        b"\xff",
        b"\x00",
        b"\n",
        b"\r\n",
        b'"',
        b"{",
        b"}",
        b"\\ud800",
        b"\xe2\x80\xa8",
        b"1" * 5000,
        b"\xef\xbb\xbf",
    ]
    inserted = st.one_of(st.sampled_from(pieces), st.binary(max_size=12))
    return st.builds(_of_bytes, where, st.integers(0, 40), inserted)


def _of_bytes(where: int, length: int, inserted: bytes) -> Change:
    def change(data: bytes) -> bytes:
        at = where % (len(data) + 1)
        if length > 35:
            return data[:at]  # cut off
        return data[:at] + inserted + data[at + length :]

    return change
