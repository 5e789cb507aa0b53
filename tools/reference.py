"""Writes what docs/reference can take from the code; `--check` says whether it is up to date.

`--proof build/proof.json` takes what a run of `./run test --all` did into docs/proof.json, and that into the page on
how it was proved.

A page keeps its own words; a block of it between `<!-- written by tools/reference.py: NAME -->` and `<!-- end -->` is
written here.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin

import msgspec
from msgspec import Meta

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.proved import Proof

from agent_mailer.config import leaves
from agent_mailer.views.values.history import (
    ApprovalView,
    DeadLetterView,
    HeldView,
    LimitView,
    NoteChangeView,
    NoteTextView,
    NoteView,
    SessionView,
    StandingView,
    StuckView,
    ThreadView,
)
from agent_mailer.views.values.status import AllView, StatusView

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
PROOF = DOCS / "proof.json"
PAGES = (*sorted((DOCS / "reference").glob("*.md")), DOCS / "how-it-was-proved.md")
BLOCK = re.compile(r"(<!-- written by tools/reference\.py: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def keys() -> str:
    """Every key of the configuration."""
    rows = [
        f"| `{leaf.name}` | {_kind(leaf.hint)} | {_default(leaf.default)} | {leaf.takes.value} | {leaf.widens or ''} | "
        f"{leaf.sentence} |"
        for leaf in leaves()
    ]
    return "\n".join(["| key | value | default | taken | widens; untrusted | is |", "|---|---|---|---|---|---|", *rows])


def status() -> str:
    """Every value that `status --json` prints, in the order in which they are met."""
    return "\n\n".join(_value(view) for view in _views(StatusView, AllView))


def history() -> str:
    """Every value that is printed of turns, threads, sessions, dead letters, held mail, approvals, limits and notes."""
    views = _views(
        *(ThreadView, SessionView, DeadLetterView, HeldView, ApprovalView, StandingView, LimitView, StuckView),
        *(NoteView, NoteTextView, NoteChangeView),
    )
    return "\n\n".join(_value(view) for view in views)


def proof() -> str:
    """What the harnesses did in the last long run that was taken."""
    run = msgspec.json.decode(PROOF.read_bytes(), type=Proof)
    rows = [
        f"| {harness} | {', '.join(f'{number:,} {what}' for what, number in sorted(numbers.items()))} |"
        for harness, numbers in sorted(run.counts.items())
    ]
    table = "\n".join(["| harness | did, in this run |", "|---|---|", *rows])
    tests = f"{run.passed:,} tests passed, {run.failed or 'none'} failed, in {run.seconds // 60} minutes"
    return f"{run.day}, commit `{run.commit}`, {run.system}: {tests}.\n\n{table}"


BLOCKS: Mapping[str, Callable[[], str]] = {"keys": keys, "status": status, "history": history, "proof": proof}


def _value(view: type[msgspec.Struct]) -> str:
    said = re.sub(r"\bNone\b", "nothing", inspect.cleandoc(view.__doc__ or "").replace("\n", " "))
    rows = [f"| `{field.encode_name}` | {_kind(field.type)} |" for field in msgspec.structs.fields(view)]
    table = "\n".join(["| field | is |", "|---|---|", *rows])
    return "\n\n".join(filter(None, (f"### {_title(view)}", said, table)))


def _views(*roots: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """These, each followed by the ones it holds; no one twice."""
    waiting, seen = list(roots), set()
    while waiting:
        view = waiting.pop(0)
        if view not in seen:
            seen.add(view)
            yield view
            waiting[:0] = [part for field in msgspec.structs.fields(view) for part in _structs_in(field.type)]


def _structs_in(hint: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and not get_args(hint) and issubclass(hint, msgspec.Struct):
        yield hint
    for part in get_args(hint):
        yield from _structs_in(part)


def _title(view: type[msgspec.Struct]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", view.__name__.removesuffix("View")).capitalize()


def _kind(hint: object) -> str:
    """A type in the words of a reader: `integer, 1 to 64`, `one of a, b`, `list of text`."""
    bounds = next((f", {part.ge} to {part.le}" for part in get_args(hint) if isinstance(part, Meta)), "")
    inner = get_args(hint)
    origin = get_origin(hint)
    if origin is None and isinstance(hint, type):
        if issubclass(hint, StrEnum):
            return f"one of {', '.join(member.value for member in hint)}"
        if issubclass(hint, msgspec.Struct):
            return f"[{_title(hint).lower()}](#{_title(hint).lower().replace(' ', '-')})"
        return {str: "text", int: "integer", float: "number", bool: "true or false", object: "any value"}[hint]
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"table of {_kind(inner[1])}"
    if hasattr(hint, "__metadata__"):
        return _kind(inner[0]) + bounds
    return " or ".join("nothing" if part is NoneType else _kind(part) for part in inner)


def _default(value: object) -> str:
    if value is None:
        return "nothing"
    return f"`{value.value}`" if isinstance(value, StrEnum) else f"`{msgspec.json.encode(value).decode()}`"


def written(text: str) -> str:
    """A page with its blocks as they should be. Raises KeyError for a block that nobody writes."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


def main() -> None:
    if sys.argv[1:2] == ["--proof"]:
        PROOF.write_bytes(Path(sys.argv[2]).read_bytes())
    stale = []
    for page in PAGES:
        text = page.read_text("utf-8")
        if (fresh := written(text)) != text:
            stale.append(page.name)
            if "--check" not in sys.argv[1:]:
                page.write_text(fresh, "utf-8")
    if stale and "--check" in sys.argv[1:]:
        sys.stderr.write(f"not what the code says: {', '.join(stale)}: python tools/reference.py\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
