"""What differs between what is trusted and what stands in a workdir, fit to be shown: no secret, no escape."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from agent_mailer.names import printable
from agent_mailer.setup.config_file import shown
from agent_mailer.trust.standing import BODIES, TEMPLATES
from agent_mailer.trust.verdict import Basis, Verdict
from agent_mailer.views.values.status import DifferenceView, TrustView

MOST_LINES = 200
LONGEST_LINE = 300


def trust_view(workdir: str, verdict: Verdict) -> TrustView:
    """What is trusted of a workdir, and what is not."""
    return TrustView(
        workdir=workdir,
        trusted=not verdict.changed and verdict.basis is not Basis.NOBODY,
        basis=verdict.basis.value,
        why=verdict.why,
        hash=verdict.there.digest,
        differences=tuple(_difference(verdict, name) for name in verdict.changed),
    )


def _difference(verdict: Verdict, name: str) -> DifferenceView:
    if name.startswith(TEMPLATES):
        file = name.removeprefix(TEMPLATES)
        before, after = verdict.counts.templates.get(file), verdict.there.templates.get(file)
        lines = tuple(_diff(before, after))
        return DifferenceView(name, _size(before), _size(after), lines[:MOST_LINES] + _more(len(lines) - MOST_LINES))
    if name.startswith(BODIES):
        path = name.removeprefix(BODIES)
        return DifferenceView(
            printable(name), _hash(verdict.counts.bodies.get(path)), _hash(verdict.there.bodies.get(path))
        )
    before_value, after_value = verdict.counts.values.get(name), verdict.there.values.get(name)
    if isinstance(before_value, Mapping) or isinstance(after_value, Mapping):
        # Values of variables are as secret as a key; their names are not.
        old, new = _table(before_value), _table(after_value)
        lines = tuple(
            f"{printable(one)}: {'is new' if one not in old else 'is gone' if one not in new else 'has another value'}"
            for one in sorted({*old, *new})
            if old.get(one) != new.get(one)
        )
        return DifferenceView(name, _names(old), _names(new), lines[:MOST_LINES] + _more(len(lines) - MOST_LINES))
    return DifferenceView(name, shown(name, before_value), shown(name, after_value))


def _diff(before: bytes | None, after: bytes | None) -> Iterator[str]:
    old, new = _lines(before), _lines(after)
    for line in difflib.unified_diff(old, new, "trusted", "there", lineterm="", n=2):
        yield printable(line, LONGEST_LINE)


def _lines(text: bytes | None) -> list[str]:
    return text.decode("utf-8", "replace").split("\n") if text is not None else []


def _size(text: bytes | None) -> str:
    return "ours" if text is None else f"{len(text)} bytes"


def _hash(digest: str | None) -> str:
    return "-" if digest is None else f"sha256 {digest[:12]}"


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _names(table: Mapping[str, object]) -> str:
    return printable(", ".join(sorted(table)), LONGEST_LINE) or "-"


def _more(count: int) -> tuple[str, ...]:
    return (f"… {count} more lines",) if count > 0 else ()
