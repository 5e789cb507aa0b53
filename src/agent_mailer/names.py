"""Texts that came from outside: as words of a prompt, printable, as what a person meant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from agent_mailer.errors import MailerError, UsageFault

if TYPE_CHECKING:
    from hashlib import sha256 as sha256  # noqa: PLC0414 - others take it from here
else:
    # As `random` of the standard library does: `hashlib` loads OpenSSL, a tenth of what a short command takes.
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256  # before Python 3.12
        except ImportError:
            from hashlib import sha256

# A short command needs one or two of them, a watcher all; `re` itself takes longer to look one up than to match a name.
compiled = cache(re.compile)
_SAFE_PATH = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_SAFE_WORD = r"[A-Za-z0-9][A-Za-z0-9._@/:+-]{0,127}"
_TURN_ID = r"\d{8}T\d{6}-[0-9a-f]{8}"
# Never empty, never an option, never a path upwards.
_SESSION_ID = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}"
_WORD = r"[a-z]+-([0-9a-f]{16})"
_ESCAPE = rb"(?s)\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
"""Of a text in JSON; the group is half of a character."""
_NOT_SLUG = r"[^A-Za-z0-9._-]+"

GLOBAL_NOTE = "global"
"""The name of the note of all threads; a thread called so has its own note under another name."""


def path_name(identifier: str) -> str:
    """A file name for `identifier`: itself where it is harmless, else a readable slug plus a hash of the whole."""
    if compiled(_SAFE_PATH).fullmatch(identifier):
        return identifier
    plain = identifier
    if not identifier.isascii():
        import unicodedata  # half a megabyte, for few names

        plain = unicodedata.normalize("NFKD", identifier)
    slug = compiled(_NOT_SLUG).sub("-", plain).strip("-._")[:48] or "id"
    return f"{slug}~{_digest(identifier)}"


def whole_characters(data: bytes) -> bytes:
    """`data`, JSON, without halves of characters, which programs in JavaScript write and no text can hold: for one of
    them nothing of an answer could be read.
    """
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return re.sub(_ESCAPE, lambda found: rb"\ufffd" if found[1] else found[0], data)


DEDUPE_KEY = "dedupe:"
"""A draft whose key begins so goes out once, whichever turn or command sends it."""

HOOK = "hook--"
"""How the address of a hook begins, and nobody else's: what it sends comes from outside."""


def is_hook(address: str) -> bool:
    """Whether mail of that sender came through a hook: nobody of ours wrote it."""
    return address.casefold().startswith(HOOK)


def new_turn_id(now: float) -> str:
    """Sorts by `now`, seconds since the epoch, to a 4096th: what runs again at once comes after what ran before."""
    within = datetime.fromtimestamp(now, UTC).microsecond * 4096 // 1_000_000
    return f"{turn_id_at(now)}-{within:03x}{os.urandom(3).hex()[:5]}"


def turn_id_at(moment: float) -> str:
    """Where the ids of turns begin that started then or later."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%S}"


def turn_began(turn_id: str) -> float:
    """When it began, to the second; 0 for what is no turn's id."""
    if not is_turn_id(turn_id):
        return 0.0
    with suppress(ValueError):
        return datetime.strptime(f"{turn_id[:15]}+0000", "%Y%m%dT%H%M%S%z").timestamp()
    return 0.0


def is_turn_id(text: str) -> bool:
    """Whether `text` may become the name of a turn's folder."""
    return compiled(_TURN_ID).fullmatch(text) is not None


def is_session_id(text: str) -> bool:
    """Whether `text` can name a session of an agent program: it may become a word of somebody's command line."""
    return compiled(_SESSION_ID).fullmatch(text) is not None


def prompt_word(identifier: str, label: str) -> str:
    """`identifier` as one word of a prompt; one that could carry a sentence becomes `label` plus a hash."""
    if compiled(_SAFE_WORD).fullmatch(identifier):
        return identifier
    return f"{label}-{_digest(identifier)}"


def memory_file(memory: Path, thread: str) -> Path:
    """The note of one thread. Its path stands in the prompt, so an odd thread id leaves no word of itself in it."""
    word = prompt_word(thread, "thread")
    if thread.casefold() == GLOBAL_NOTE:
        word = "thread-of-that-name"
    return memory / f"{path_name(thread) if word == thread else word.replace('-', '~', 1)}.md"


def text_digest(sender: str, subject: str, body: str) -> str:
    """Of what somebody says, wherever he says it."""
    return whole_digest("\0".join((sender, subject, body.rstrip("\r\n"))))


def whole_digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def stays_inside(name: str) -> bool:
    """Whether a path leads to something below where it starts from."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def did_you_mean(words: Iterable[str]) -> str:
    """`; did you mean plan or play?`, to stand behind what is wrong; empty where there is no word."""
    named = " or ".join(words)
    return f"; did you mean {named}?" if named else ""


def one_line(text: str) -> str:
    """`text` with a question mark for each character that could end a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def printable(text: str, limit: int = 200) -> str:
    """`text` for a terminal or a log line: control characters and line ends shown as escapes, cut at `limit`."""
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def running_on(text: str, limit: int = 200) -> str:
    """The same of a text of several lines that gets one: they run on, a blank between."""
    return printable(" ".join(text.split()), limit)


def shown_url(url: str) -> str:
    """A broker's URL for people: without what may be a password in it."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def shown_path(path: str, limit: int = 80) -> str:
    """A PATH for people, each folder once: as many of the first as fit into `limit` characters, and how many more."""
    folders = [printable(one) for one in dict.fromkeys(path.split(os.pathsep)) if one]
    shown = folders[:1]
    while len(shown) < len(folders) and len(", ".join(folders[: len(shown) + 1])) <= limit:
        shown = folders[: len(shown) + 1]
    more = len(folders) - len(shown)
    return (", ".join(shown) + (f" and {more} more" if more else "")) or "which is empty"


def _digest(text: str) -> str:
    return whole_digest(text)[:16]


_AGE = r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def meant(typed: str, known: Iterable[str]) -> list[str]:
    """Of `known` the one that is `typed`, else those that begin so, else those that end so.

    An id that was cut to fit a screen means what it did there, and a word (`prompt_word`) what it stands for.
    """
    names = list(dict.fromkeys(known))
    if typed not in names and (word := compiled(_WORD).fullmatch(typed)):
        typed = next((name for name in names if _digest(name) == word[1]), typed)
    if typed not in names:
        typed = typed.removesuffix("…").removesuffix("...").removeprefix("…").removeprefix("...")
    if not typed or typed in names:
        return [typed] if typed else []
    return [name for name in names if name.startswith(typed)] or [name for name in names if name.endswith(typed)]


def pick(typed: str, known: Iterable[str], what: str, fix: str) -> str:
    """The one of `known` that is `meant`; `fix` is the command that lists them.

    Raises MailerError where there is none, UsageFault where there are several.
    """
    found = meant(typed, known)
    if not found:
        raise MailerError("unknown", f"there is no {what} {printable(typed)!r}", fix)
    if len(found) > 1:
        some = ", ".join(printable(name, 80) for name in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise UsageFault("ambiguous", f"{printable(typed)!r} could be {some}{more}", f"give more of the {what}; {fix}")
    return found[0]


def split_words(text: str, option: str) -> list[str]:
    """A command line as its words, as a shell splits them. Raises UsageFault for an open quote."""
    import shlex

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
    found = compiled(_AGE).fullmatch(text.strip().lower())
    if found is None:
        raise UsageFault("bad_age", f"{printable(text)!r} is no age", "write a number and s, m, h, d or w: 14d")
    return float(found[1]) * _SECONDS[found[2]]


def one_of(text: str, allowed: Iterable[str], option: str) -> str:
    """Raises UsageFault that lists what is allowed."""
    values = list(allowed)
    if text in values:
        return text
    raise UsageFault("bad_value", f"{option} is one of: {', '.join(values)}; not {printable(text)!r}", "")
