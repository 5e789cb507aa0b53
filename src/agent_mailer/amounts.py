"""Amounts as people read them: of things, of time, of money."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds in two units at most: `42 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    minutes = left // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def dollars(amount: float) -> str:
    """An amount for people, never rounded to nothing; empty where there is none."""
    if amount <= 0:
        return ""
    if amount >= 0.995:
        return f"${amount:.2f}"
    text = f"${amount:.4f}"
    return text if text != "$0.0000" else "<$0.0001"
