"""The documents as tests read them: pages, sections, tables."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src" / "agent_mailer"
REFERENCE = sorted(f"docs/reference/{path.name}" for path in (PROJECT / "docs" / "reference").glob("*.md"))


@cache
def page(name: str) -> str:
    return (PROJECT / name).read_text("utf-8")


def section(number: str) -> str:
    """The text of a numbered section of SPEC.md with what is below it."""
    level = "###" if "." in number else "##"
    found = re.search(
        rf"^{level} {re.escape(number)}\.? .*?(?=^#{{2,{len(level)}}} |\Z)", page("SPEC.md"), re.MULTILINE | re.DOTALL
    )
    assert found, f"SPEC.md has no section {number}"
    return found[0]


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, the head first."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not inside:
            found.append([])
            inside = True
        if not all(set(cell) <= set("-: ") for cell in cells):
            found[-1].append(cells)
    return found


def table(text: str, *head: str) -> list[dict[str, str]]:
    """The one table of a text whose head begins so, as dictionaries."""
    [rows] = [rows for rows in tables(text) if tuple(rows[0][: len(head)]) == head]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def code(cell: str) -> str:
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found, f"{cell} is no code"
    return found[1]
