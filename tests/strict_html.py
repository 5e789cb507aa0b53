"""HTML read as strictly as no browser does: every tag closed, every id once, every field and button with a name."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

VOID = frozenset(("area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"))
NAMED_BY_LABEL = frozenset(("input", "select", "textarea"))


class Strict(HTMLParser):
    """`problems`: what is wrong; `texts`: what a person reads; `places`: each tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.texts: list[str] = []
        self.places: list[tuple[str, dict[str, str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self._ids: Counter[str] = Counter()
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag, _, _ in self._open]
        self.problems += [f"id {name!r} {many} times" for name, many in self._ids.items() if many > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if len(given) != len(attrs):
            self.problems.append(f"<{tag}> says an attribute twice")
        self.places.append((tag, given))
        if given.get("id"):
            self._ids[given["id"]] += 1
        for name in given:
            if name.startswith("on") or name == "style":
                self.problems.append(f"<{tag} {name}>")
        for name in ("href", "src", "action", "formaction"):
            if given.get(name, "").strip().lower().startswith(("javascript:", "data:", "vbscript:")):
                self.problems.append(f"<{tag} {name}={given[name]!r}>")
        if tag == "img" and "alt" not in given:
            self.problems.append("a picture without words")
        for _, _, words in self._open if tag == "img" else ():
            words.append(given.get("alt", ""))
        if tag in NAMED_BY_LABEL and given.get("type") != "hidden" and "aria-label" not in given:
            labelled = any(parent == "label" for parent, _, _ in self._open)
            if not labelled:
                self.problems.append(f"a field without a label: {given.get('name')}")
        if tag not in VOID:
            self._open.append((tag, given, []))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open[-1][0] != tag:
            self.problems.append(f"</{tag}> closes <{self._open[-1][0] if self._open else 'nothing'}>")
            return
        _, given, words = self._open.pop()
        if tag in ("button", "a", "summary") and not "".join(words).strip() and "aria-label" not in given:
            self.problems.append(f"a <{tag}> without a name: {given}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        for _, _, words in self._open:
            words.append(data)

    def many(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.places)


def check(text: str) -> Strict:
    """The page, which is without fault. Raises AssertionError."""
    page = Strict(text)
    assert page.problems == [], page.problems[:5]
    many = {tag: page.many(tag) for tag in ("main", "h1", "title")}
    assert many == {"main": 1, "h1": 1, "title": 1}, many
    return page
