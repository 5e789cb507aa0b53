"""The mutants of a module: its text with one thing changed, by mutmut's operators and three of our own.

What would raise a TypeError wherever it is reached (a call without one of its positional arguments) is no mutant here:
any test that comes there finds it, and it would only make the rate look better. Nor is a declaration: an annotation, a
decorator, what a class is made with, an assert.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import libcst as cst
import msgspec
from libcst import matchers as m
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation import mutators


class Mutant(msgspec.Struct, frozen=True):
    """`name`: function and change, the same wherever in the module it stands; `line` counts from 1."""

    name: str
    line: int
    text: str


def mutants(source: str) -> list[Mutant]:
    """In the order of the text; some may be no Python. Raises libcst.ParserSyntaxError."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    finder = _Finder(wrapper.module, source)
    wrapper.visit(finder)
    found: list[Mutant] = []
    known = {source}
    times: Counter[str] = Counter()
    for function, line, text in sorted(finder.found, key=lambda one: one[1]):
        if text in known:
            continue
        known.add(text)
        name = f"{function}: {_change(source, text)}"
        times[name] += 1
        found.append(Mutant(name if times[name] == 1 else f"{name} #{times[name]}", line, text))
    return found


def is_python(mutant: Mutant) -> bool:
    """Looked at late: it costs more than all else here."""
    try:
        ast.parse(mutant.text)
    except SyntaxError:
        return False
    return True


def _change(old: str, new: str) -> str:
    """The first line that differs, as it was and as it is."""
    before, after = old.splitlines(), new.splitlines()
    at = next(number for number, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    gone = len(after) < len(before) and after[at] == before[at + len(before) - len(after)]
    return f"{before[at].strip()} => {'(gone)' if gone else after[at].strip()}"


def _string(node: cst.SimpleString) -> Iterator[cst.CSTNode]:
    """Another text; that it is written otherwise is none of what a decision is about."""
    yield from list(mutators.operator_string(node))[:1]


def _arguments(node: cst.Call) -> Iterator[cst.CSTNode]:
    """None instead of an argument, and without one that has a name."""
    for changed in mutators.operator_arg_removal(node):
        assert isinstance(changed, cst.Call)
        left = [*map(id, changed.args)]
        if len(left) == len(node.args) or any(arg.keyword and id(arg) not in left for arg in node.args):
            yield changed


def _condition(node: cst.If | cst.While | cst.CompIf) -> Iterator[cst.CSTNode]:
    """The opposite, where no operator is there to be turned round."""
    if not m.matches(node.test, m.Comparison() | m.BooleanOperation() | m.UnaryOperation()):
        inner = node.test if node.test.lpar else node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))


def _statement(node: cst.Expr | cst.Raise) -> Iterator[cst.CSTNode]:
    yield cst.Pass()


def _result(node: cst.Return) -> Iterator[cst.CSTNode]:
    if node.value is not None and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(value=cst.Name("None"))


_OPERATORS: Sequence[tuple[type[cst.CSTNode] | tuple[type[cst.CSTNode], ...], Callable[..., object]]] = (
    (cst.BaseNumber, mutators.operator_number),
    (cst.SimpleString, _string),
    (cst.Name, mutators.operator_name),
    ((cst.Assign, cst.AnnAssign), mutators.operator_assignment),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.Call, _arguments),
    (cst.Call, mutators.operator_symmetric_string_methods_swap),
    (cst.Lambda, mutators.operator_lambda),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, mutators.operator_swap_op),
    (cst.Match, mutators.operator_match),
    (cst.IfExp, mutators.operator_if_exp),
    ((cst.If, cst.While, cst.CompIf), _condition),
    ((cst.Expr, cst.Raise), _statement),
    (cst.Return, _result),
)


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, module: cst.Module, source: str) -> None:
        super().__init__()
        self._module = module
        self._source = source
        self._begins = [0]
        for row in source.splitlines(keepends=True):
            self._begins.append(self._begins[-1] + len(row))
        self._names: list[str] = []
        self.found: list[tuple[str, int, str]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self._names.append(node.name.value)
            # Its body alone, and what a parameter is where nobody says it.
            if isinstance(node, cst.FunctionDef):
                for parameter in (*node.params.params, *node.params.kwonly_params):
                    if parameter.default is not None:
                        parameter.default.visit(self)
            node.body.visit(self)
            self._names.pop()
            return False
        if isinstance(node, (cst.Annotation, cst.Import, cst.ImportFrom, cst.Assert)) or _is_text(node):
            return False
        if isinstance(node, cst.If) and m.matches(node.test, m.Name("TYPE_CHECKING")):
            return False
        if isinstance(node, cst.Subscript) and m.matches(node.value, m.Name("Literal")):
            return False
        for kind, operator in _OPERATORS:
            if isinstance(node, kind):
                for changed in operator(node):  # type: ignore[attr-defined]
                    self._take(node, changed)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        return

    def _take(self, node: cst.CSTNode, changed: cst.CSTNode) -> None:
        place = self.get_metadata(PositionProvider, node)
        assert isinstance(place, CodeRange)
        first, last = (self._begins[at.line - 1] + at.column for at in (place.start, place.end))
        here = self._source[first:last]
        code: Callable[[cst.CSTNode], str] = self._module.code_for_node
        bare = partial(_without_brackets, node)
        for shown in (code, lambda one: code(one).strip(), lambda one: code(bare(one))):
            if shown(node) == here:
                text = self._source[:first] + shown(changed) + self._source[last:]
                break
        else:
            whole = self._module.deep_replace(node, changed)
            assert isinstance(whole, cst.Module)
            text = whole.code
        self.found.append((".".join(self._names) or "module", place.start.line, text))


def _without_brackets(like: cst.CSTNode, node: cst.CSTNode) -> cst.CSTNode:
    """`node` without the brackets that it has taken over from `like`: these stand outside of what is replaced."""
    taken_over = getattr(node, "lpar", None) and getattr(node, "lpar", None) is getattr(like, "lpar", None)
    return node.with_changes(lpar=[], rpar=[]) if taken_over else node


def _is_text(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Expr) and isinstance(node.value, (cst.SimpleString, cst.ConcatenatedString))
