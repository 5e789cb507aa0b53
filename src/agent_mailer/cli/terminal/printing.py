"""What commands print: lines, text made safe for a terminal, moments, money, JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agent_mailer.cli.terminal.screen import LEAST, Ink, paint, plain, width, wrapped
from agent_mailer.names import printable

_NOT_PLAIN = r"[^\x20-\x7e\n]"
_COMMAND = r"(?:agent-mailer|amp)(?: (?!(?:or|then|and|as)\b)[^\s,;:()]+)+"
_JOINERS = "\u200c\u200d"

_done: list[str] = []


def done(what: str) -> None:
    """What must not be done again by whoever sees only that the command has failed after it."""
    _done.append(what)


def done_so_far() -> str:
    return "; ".join(_done)


def say(text: str = "") -> None:
    """One or more lines on stdout; `text` is safe already. Raises OSError."""
    _print(plain(text) + "\n")


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def told_when_done() -> Iterator[list[str]]:
    """Lines about work in several steps, said when all is done or has failed: no reader who goes stops it half-way."""
    lines: list[str] = []
    try:
        yield lines
    except BaseException:
        with suppress(OSError):
            for line in lines:
                say(line)
        raise
    for line in lines:
        say(line)


def say_prose(text: str) -> None:
    """Sentences on stdout, on a terminal broken between words."""
    say(prose(text, width()))


def note(text: str) -> None:
    """A line about the work itself, on stderr, so that stdout holds the result alone; on a terminal broken as prose."""
    _complain(prose(text, width(sys.stderr)))


def prose(text: str, room: int | None) -> str:
    """Lines broken between words, but not within a command: that is copied."""
    if room is None:
        return text
    lines: list[str] = []
    for line in re.sub(_COMMAND, lambda found: found[0].replace(" ", "\0"), text).split("\n"):
        words = line.lstrip(" ")
        indent = line[: len(line) - len(words)]
        lines += [indent + part for part in wrapped(words, max(room - len(indent), LEAST), whole=True)]
    return "\n".join(lines).replace("\0", " ")


def _complain(text: str) -> None:
    sys.stderr.write(plain(text, sys.stderr) + "\n")
    sys.stderr.flush()


def json_out(value: object) -> None:
    """`value` as indented JSON on stdout."""
    _print(json_text(value, indent=2) + "\n")


def json_text(value: object, *, indent: int = 0) -> str:
    """JSON in characters that stdout has and a terminal shows; half characters, control and invisible ones are escapes.

    Whatever reads JSON gets the same text.
    """
    import msgspec

    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        import json

        return json.dumps(msgspec.to_builtins(value), indent=indent or None)
    return re.sub(_NOT_PLAIN, _json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\u{0xD800 + (code - 0x10000 >> 10):04x}\\u{0xDC00 + (code - 0x10000 & 0x3FF):04x}"


def tell_error(message: str, fix: str) -> None:
    """What is wrong, and the command that mends it, on stderr; the command in one line, for whoever copies it."""
    room = width(sys.stderr)
    lines = [part for line in screen_text(f"error: {message}").split("\n") for part in wrapped(line, room, whole=True)]
    _complain("\n".join(lines).replace("error:", paint("error:", Ink.RED, sys.stderr), 1))
    if fix:
        _complain(f"  {paint('fix:', Ink.BOLD, sys.stderr)} {screen_text(fix)}")


def screen_text(text: str) -> str:
    """A body for a terminal: line ends and tabs stay, every other control or invisible character is an escape."""
    return "".join(character if _harmless(character) else _escape(character) for character in text)


def ink_of(state: str) -> Ink:
    """The colour of an outcome or a phase."""
    from agent_mailer.outcomes import Outcome

    if state == Outcome.DONE:
        return Ink.GREEN
    return Ink.RED if state in {outcome for outcome in Outcome if outcome.counts} else Ink.YELLOW


def in_its_colour(state: str) -> str:
    return paint(state, ink_of(state))


def local_time(moment: float) -> str:
    """Seconds since the epoch as a person reads it here: `2025-11-21 08:15`."""
    from datetime import datetime

    try:
        return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")  # noqa: DTZ006 - local is what is wanted
    except (OverflowError, ValueError, OSError):
        return "?"


def local_iso(text: str) -> str:
    """ISO 8601 as a person reads it here; what is none, as it is."""
    from agent_mailer.clock import from_iso

    try:
        return local_time(from_iso(text))
    except ValueError:
        return printable(text, 24)


def _harmless(character: str) -> bool:
    if character in "\n\t" or character in _JOINERS:
        return True
    if " " <= character <= "~":
        return True
    import unicodedata  # as in `screen`

    category = unicodedata.category(character)
    return category == "Zs" or category[0] not in "CZ"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
