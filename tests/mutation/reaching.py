"""Which tests come to which line of a module, in whatever process: only these have to look at what is changed there."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import msgspec
import pytest
from tests.reach import Trail, reached, statements

ASKED = ".followed"
"""In the copy of the tree: whoever begins there follows, whatever environment it has. The file and the modules."""


class Reach(msgspec.Struct, frozen=True):
    """By the names of tests, in the order of what they cost: lines that each came to, and seconds."""

    lines: dict[str, tuple[int, ...]]
    seconds: dict[str, float]

    def to(self, source: str, line: int) -> list[str]:
        """Tests that come to the statement that has `line`, the cheapest first; what every import runs all come to."""
        around = _around(source, line)
        if around is None:
            return list(self.lines)
        first, last = around
        return [name for name, lines in self.lines.items() if any(first <= one <= last for one in lines)]

    def within(self, names: Sequence[str], seconds: float) -> list[str]:
        """As many of the first as take so long together; one at least."""
        spent = [*accumulate(self.seconds[name] for name in names)]
        return [name for number, name in enumerate(names) if number == 0 or spent[number] <= seconds]

    def cost(self, names: Sequence[str]) -> float:
        return sum(self.seconds[name] for name in names)


def _around(source: str, line: int) -> tuple[int, int] | None:
    """First and last line of the statement of a function that has it."""
    found = [(first, last) for _, first, last in statements(ast.parse(source)) if first <= line <= last]
    return min(found, key=lambda one: one[1] - one[0]) if found else None


def function_of(source: str, line: int) -> str:
    """The outermost function whose statements have `line`, with the names of its classes; empty where none has."""
    if _around(source, line) is None:
        return ""
    return _outermost(ast.parse(source), line, "")


def _outermost(tree: ast.AST, line: int, name: str) -> str:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if node.lineno <= line <= (node.end_lineno or node.lineno):
            whole = f"{name}.{node.name}".lstrip(".")
            return _outermost(node, line, whole) if isinstance(node, ast.ClassDef) else whole
    return ""


class Watches:
    """A plugin of pytest. What the first test of a file comes to while it is set up, all of that file count as theirs:
    it may be a fixture of them all.
    """

    def __init__(self, folder: Path, modules: Sequence[Path]) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._modules = folder, modules
        self._trail = Trail(folder / "begin", modules)
        self._ways: list[tuple[str, Path, Path]] = []
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    def _to(self, target: Path) -> None:
        Path(ASKED).write_text(":".join(map(str, (target, *self._modules))))
        self._trail.begin(target)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        number = len(self._ways)
        setup, call = self._folder / f"{number}.setup", self._folder / f"{number}.call"
        self._ways.append((item.nodeid, setup, call))
        self._to(setup)
        yield
        self._to(call)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def told(self) -> dict[str, Reach]:
        """By the path of the module."""
        Path(ASKED).unlink(missing_ok=True)
        ways = [(name, reached(setup), reached(call)) for name, setup, call in self._ways]
        ways = [way for way in ways if way[0] not in self._failed]
        seconds = {name: self._seconds.get(name, 0.0) for name, _, _ in ways}
        cheapest_first = dict(sorted(seconds.items(), key=itemgetter(1)))
        found = {}
        for module in self._modules:
            of_file: dict[str, set[int]] = {}
            lines: dict[str, tuple[int, ...]] = {}
            for name, setup, call in ways:
                own = setup.get(module, set())
                shared = of_file.setdefault(name.partition("::")[0], own)
                lines[name] = tuple(sorted(shared | own | call.get(module, set())))
            found[str(module)] = Reach({name: lines[name] for name in cheapest_first}, cheapest_first)
        return found
