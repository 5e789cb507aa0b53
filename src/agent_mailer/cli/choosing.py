"""From what a person typed to the one thing that is meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import printable

_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def pick(typed: str, known: Iterable[str], what: str, fix: str) -> str:
    """The one of `known` that is `typed`, begins so, or (where none does) ends so.

    An id that was cut to fit a screen means what it did there. Raises MailerError where there is none, UsageFault where
    there are several; `fix` is the command that lists them.
    """
    names = list(dict.fromkeys(known))
    if typed not in names:
        typed = typed.removesuffix("…").removesuffix("...")
    if typed in names:
        return typed
    found = [name for name in names if name.startswith(typed)] or [name for name in names if name.endswith(typed)]
    if not typed or not found:
        raise MailerError("unknown", f"there is no {what} {printable(typed)!r}", fix)
    if len(found) > 1:
        some = ", ".join(printable(name, 80) for name in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise UsageFault("ambiguous", f"{printable(typed)!r} could be {some}{more}", f"give more of the {what}; {fix}")
    return found[0]


def split_words(text: str, option: str) -> list[str]:
    """A command line as its words, as a shell splits them. Raises UsageFault for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageFault("bad_quoting", f"{option}: {error} in {printable(text)!r}", "close the quote") from None


def split_addresses(values: Iterable[str]) -> tuple[str, ...]:
    """`--to a --to b` and `--to a,b` alike, each once."""
    names = [name.strip() for value in values for name in value.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def parse_age(text: str) -> float:
    """`14d`, `36h`, `90m` as seconds. Raises UsageFault."""
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise UsageFault("bad_age", f"{printable(text)!r} is no age", "write a number and s, m, h, d or w: 14d")
    return float(found[1]) * _SECONDS[found[2]]


def one_of(text: str, allowed: Iterable[str], option: str) -> str:
    """Raises UsageFault that lists what is allowed."""
    values = list(allowed)
    if text in values:
        return text
    raise UsageFault("bad_value", f"{option} is one of: {', '.join(values)}; not {printable(text)!r}", "")
