"""Sizes of memory as people write them."""

from __future__ import annotations

SMALLEST = 16 * 1024 * 1024
"""No agent program starts with less."""

_FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MOST_DIGITS = 15


def size_in_bytes(text: str) -> int:
    """`4G` as bytes; 0 for an empty text. Raises ValueError for what is no size, or too small for any agent."""
    if not text:
        return 0
    number, unit = text[:-1], text[-1:].upper()
    if unit.isdecimal():
        number, unit = text, ""
    if not (number.isascii() and number.isdecimal()) or unit not in _FACTORS or len(number) > _MOST_DIGITS:
        raise ValueError(f"must be a size such as 4G or 800M, or empty, not {text!r}")
    size = int(number) * _FACTORS[unit]
    if size < SMALLEST:
        raise ValueError(f"no agent program starts within {text}: give 16M or more, or an empty text for no limit")
    return size
