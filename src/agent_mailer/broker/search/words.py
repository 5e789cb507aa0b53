"""The words by which mail is found, the same in either database; pure.

Words are runs of letters and digits, in lower case. Scripts that put no blanks between words (Chinese, Japanese, Thai,
Lao, Khmer) are cut into pairs of neighbours, so that any part of a sentence finds it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import msgspec

LONGEST_WORD = 64
MOST_TEXT = 65_536
"""Characters of a body that are looked into."""
SHORTEST_BEGINNING = 4
"""Letters before a `*`: what begins with fewer is nearly everything."""
AROUND = 100

_UNSPACED = r"\u0e00-\u0edf\u1780-\u17df\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(rf"([{_UNSPACED}]+)|[^\W_{_UNSPACED}]+")
_BLANKS = {sign: sign if chr(sign).isalnum() else " " for sign in range(128)}
"""With it the same runs stand between blanks, in a text that is all ASCII: nearly all mail, in a tenth of the time."""


class Wanted(msgspec.Struct, frozen=True):
    """What all of a message must hold: these words, and words with these beginnings."""

    words: tuple[str, ...]
    beginnings: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.words or self.beginnings)


def words_of(subject: str, body: str) -> list[str]:
    """Each word once."""
    text = f"{subject}\n{body[:MOST_TEXT]}"
    if text.isascii():
        return [*dict.fromkeys([run[:LONGEST_WORD] for run in dict.fromkeys(text.lower().translate(_BLANKS).split())])]
    return [*dict.fromkeys(_words(text))]


def wanted_by(query: str) -> Wanted:
    """The words of what a person asks for; `work*`: what begins so."""
    words: dict[str, None] = {}
    beginnings: dict[str, None] = {}
    for part in query.split():
        found = [*_asked(part)]
        if found and part.endswith("*") and len(found[-1]) >= SHORTEST_BEGINNING:
            beginnings[found.pop()] = None
        for word in found:
            if len(word) == 1 and _RUNS.match(word)[1]:  # type: ignore[index]
                beginnings[word] = None
            else:
                words[word] = None
    return Wanted(tuple(words), tuple(beginnings))


def snippet(body: str, wanted: Wanted) -> str:
    """What stands around the first of the words that is in the body; else its beginning."""
    lowered = body.lower()
    places = [lowered.find(word) for word in (*wanted.words, *wanted.beginnings)]
    at = min((place for place in places if place >= 0), default=-1)
    if at < 0:
        return body[: 2 * AROUND]
    start, end = max(0, at - AROUND), at + AROUND
    return ("..." if start else "") + body[start:end] + ("..." if end < len(body) else "")


def _plain(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _words(text: str) -> Iterator[str]:
    for run in _RUNS.finditer(_plain(text)):
        if run[1]:
            # The last one alone, too: so a single sign is the beginning of something wherever it stands.
            yield from (run[1][at : at + 2] for at in range(len(run[1])))
        else:
            yield run[0][:LONGEST_WORD]


def _asked(text: str) -> Iterator[str]:
    for run in _RUNS.finditer(_plain(text)):
        if run[1]:
            yield from (run[1][at : at + 2] for at in range(max(1, len(run[1]) - 1)))
        else:
            yield run[0][:LONGEST_WORD]
