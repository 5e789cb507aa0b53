"""Which statements of some modules were run, by any process of a test run, whatever ended it.

`Trail` writes each statement's line to a file at once, so that a process that is killed has told. Every interpreter
that begins with the environment of `asked` follows, and those that it forks.
"""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

VARIABLE = "REACH"
CHANCE = "by chance: "
"""How the reason of a statement begins that a run may reach, or not."""
SOURCE = Path(__file__).parents[1] / "src" / "agent_mailer"


class Trail:
    """Lines of some modules that begin to run, in this process and those that it forks: `target` has each once."""

    def __init__(self, target: Path, modules: Sequence[Path]) -> None:
        self._names = {str(path) for path in modules}
        self._target = target
        self._seen: set[tuple[str, int]] = set()

    def begin(self, target: Path) -> None:
        """From here on in another file, and all anew."""
        self._target = target
        self._seen = set()
        self.follow()

    def follow(self) -> None:
        """From now on. Whoever had set another way of looking has ended ours: then once more."""
        if sys.gettrace() is None:
            threading.settrace(self._on_call)
            sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._on_line if frame.f_code.co_filename in self._names else None

    def _on_line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            if place not in self._seen:
                # Where a test leaves no room or no file to be opened another time will do: an error here ends it all.
                with suppress(OSError):
                    # Opened anew each time: who forks a command closes what it had open.
                    fd = os.open(self._target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    try:
                        os.write(fd, f"{place[0]}:{place[1]}\n".encode())
                    finally:
                        os.close(fd)
                    self._seen.add(place)
        return self._on_line


_asked: list[Trail] = []


def follow_if_asked() -> None:
    """`REACH` is the file, and after a colon each of the modules."""
    if said := os.environ.get(VARIABLE):
        target, *modules = said.split(":")
        _asked.append(Trail(Path(target), [Path(module) for module in modules]))
        _asked[0].follow()


def pytest_runtest_setup() -> None:
    """As a plugin of pytest (`-p tests.reach`)."""
    for trail in _asked:
        trail.follow()


def asked(target: Path, modules: Sequence[Path], site: Path) -> dict[str, str]:
    """The environment of a process that is to follow. `site`: a folder to be made."""
    site.mkdir()
    project = Path(__file__).parents[1]
    begin = f"import sys\nsys.path.append({str(project)!r})\nfrom tests.reach import follow_if_asked\nsys.path.pop()\n"
    (site / "sitecustomize.py").write_text(f"{begin}follow_if_asked()\n")
    return {VARIABLE: ":".join(map(str, (target, *modules))), "PYTHONPATH": str(site)}


def reached(target: Path) -> dict[Path, set[int]]:
    found: dict[Path, set[int]] = {}
    for line in target.read_text().splitlines() if target.exists() else ():
        name, _, number = line.rpartition(":")
        found.setdefault(Path(name), set()).add(int(number))
    return found


def missed(module: Path, lines: set[int]) -> list[str]:
    """The statements in functions of `module` of which no line was run, as `function: text`, in their order."""
    text = module.read_text()
    rows = text.splitlines()
    return [
        f"{name}: {rows[first - 1].strip()}"
        for name, first, last in statements(ast.parse(text))
        if lines.isdisjoint(range(first, last + 1))
    ]


def not_reached(
    target: Path, parts: Mapping[Path, Sequence[str]], known: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """What nobody reached and no reason is known for; and what is known as out of reach, and was reached or is gone.

    `parts`: of a module the functions whose names begin so, or all.
    """
    lines = reached(target)
    found = [
        f"{path.relative_to(SOURCE)} {one}"
        for path, begins in parts.items()
        for one in missed(path, lines.get(path, set()))
        if not begins or one.startswith(tuple(begins))
    ]
    there = {f"{path.relative_to(SOURCE)} {one}" for path in parts for one in missed(path, set())}
    wrong = [one for one, why in known.items() if one not in there or (one not in found and not why.startswith(CHANCE))]
    return [one for one in found if one not in known], wrong


def statements(tree: ast.AST, name: str = "", *, inside: bool = False) -> Iterator[tuple[str, int, int]]:
    """Function, first and last line of each statement that leaves a trace when it is run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            of_class = isinstance(node, ast.ClassDef)
            yield from statements(node, f"{name}.{node.name}".lstrip("."), inside=not of_class)
        elif isinstance(node, ast.stmt):
            if inside and not isinstance(node, (ast.Try, ast.Pass, ast.Nonlocal, ast.Global)) and not _is_text(node):
                body: list[ast.stmt] = getattr(node, "body", [])
                last = max(node.lineno, body[0].lineno - 1) if body else (node.end_lineno or node.lineno)
                yield name, node.lineno, last
            yield from statements(node, name, inside=inside)
        elif isinstance(node, (ast.ExceptHandler, ast.match_case)):
            yield from statements(node, name, inside=inside)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
