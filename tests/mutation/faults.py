"""The faults that a tired person makes, which are larger than an operator: two steps in the other order, a guard left
out, a lock not taken, one of several conditions forgotten, a failure passed on or swallowed, only the first of several,
a word left out of what is said to another.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.mutation.points import Mutant

_LEAVES = (ast.Return, ast.Continue, ast.Break, ast.Raise)
_PLACED = (ast.stmt, ast.expr, ast.excepthandler, ast.keyword)
Edit = tuple[ast.AST, ast.AST, str]
"""From the begin of the one to the end of the other: what stands there instead."""


def faults(source: str) -> list[Mutant]:
    """In the order of the text."""
    text = _Text(source)
    found: list[Mutant] = []
    times: Counter[str] = Counter()
    for function, node in _nodes(ast.parse(source), ""):
        for what, (first, last, instead) in _faults_of(node, text):
            name = f"{function}: {what}: {' '.join(text.of(first, first).split())[:80]}"
            times[name] += 1
            known = name if times[name] == 1 else f"{name} #{times[name]}"
            found.append(Mutant(known, _line(first), text.changed(first, last, instead)))
    return sorted((one for one in found if one.text != source), key=lambda one: one.line)


class _Text:
    def __init__(self, source: str) -> None:
        self._bytes = source.encode()
        self._begins = [0]
        for row in self._bytes.splitlines(keepends=True):
            self._begins.append(self._begins[-1] + len(row))

    def _span(self, first: ast.AST, last: ast.AST) -> tuple[int, int]:
        assert isinstance(first, _PLACED)
        assert isinstance(last, _PLACED)
        begin = self._begins[first.lineno - 1] + first.col_offset
        return begin, self._begins[(last.end_lineno or 0) - 1] + (last.end_col_offset or 0)

    def of(self, first: ast.AST, last: ast.AST) -> str:
        begin, end = self._span(first, last)
        return self._bytes[begin:end].decode()

    def between(self, first: ast.AST, last: ast.AST) -> str:
        return self._bytes[self._span(first, first)[1] : self._span(last, last)[0]].decode()

    def changed(self, first: ast.AST, last: ast.AST, instead: str) -> str:
        begin, end = self._span(first, last)
        return (self._bytes[:begin] + instead.encode() + self._bytes[end:]).decode()


def _line(node: ast.AST) -> int:
    assert isinstance(node, _PLACED)
    return node.lineno


def _nodes(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    declared = _declared(tree)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assert) or node in declared:
            continue
        inner = name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}".lstrip(".")
        yield inner or "module", node
        yield from _nodes(node, inner)


def _declared(node: ast.AST) -> list[ast.AST]:
    """Its annotations and what it is made with."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None), *getattr(node, "decorator_list", ())]
    return [one for one in found if one is not None] + [*(node.bases if isinstance(node, ast.ClassDef) else ())]


def _faults_of(node: ast.AST, text: _Text) -> Iterator[tuple[str, Edit]]:
    made = isinstance(node, ast.FunctionDef) and node.name == "__init__"
    for body in () if made else ("body", "orelse", "finalbody"):
        yield from _other_order(getattr(node, body, None), text)
    match node:
        case ast.If(body=[*_, last], orelse=[]) if isinstance(last, _LEAVES):
            yield "no guard", (node, node, "pass")
        case ast.BoolOp(op=op, values=values):
            word = " and " if isinstance(op, ast.And) else " or "
            for left_out in values:
                rest = word.join(f"({text.of(one, one)})" for one in values if one is not left_out)
                yield f"not asked {text.of(left_out, left_out)}", (node, node, f"({rest})")
        case (
            ast.With(items=[ast.withitem(optional_vars=None)]) | ast.AsyncWith(items=[ast.withitem(optional_vars=None)])
        ):
            begin = node.body[0]
            yield "not within", (node, begin, f"if True:\n{' ' * begin.col_offset}{text.of(begin, begin)}")
        case ast.Try(handlers=handlers):
            for handler in handlers:
                yield "passed on", (handler.body[0], handler.body[-1], "raise")
                yield "swallowed", (handler.body[0], handler.body[-1], "pass")
            if node.finalbody:
                yield "not in the end", (node.finalbody[0], node.finalbody[-1], "pass")
        case ast.For(iter=several):
            yield from _first_alone(several, text)
        case ast.comprehension(ifs=[*asked], iter=several, is_async=waits):
            if not waits:
                yield from _first_alone(several, text)
            for one in asked:
                yield "not sifted", (one, one, "True")
        case ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1 and text.of(node, node).startswith("("):
            for left_out in elements:
                rest = ", ".join(text.of(one, one) for one in elements if one is not left_out)
                yield f"without {text.of(left_out, left_out)}", (node, node, f"({rest},)")
        case ast.Call(func=called, args=[*positional], keywords=[*named]):
            for argument in named:
                rest = ", ".join(text.of(one, one) for one in (*positional, *named) if one is not argument)
                yield f"not said {argument.arg}", (node, node, f"{text.of(called, called)}({rest})")
        case ast.BinOp(op=ast.BitOr()):
            yield "only the left", (node, node, f"({text.of(node.left, node.left)})")
            yield "only the right", (node, node, f"({text.of(node.right, node.right)})")


def _first_alone(several: ast.expr, text: _Text) -> Iterator[tuple[str, Edit]]:
    """What has no end is asked for no more than two."""
    yield "the first alone", (several, several, f'[first for first, _ in zip({text.of(several, several)}, "1")]')


def _other_order(body: Sequence[ast.stmt] | None, text: _Text) -> Iterator[tuple[str, Edit]]:
    """Two steps of which neither uses what the other has made."""
    if not isinstance(body, list):
        return
    for one, next_ in pairwise(body):
        acts = _calls(one) and _calls(next_) and (_is_felt(one) or _is_felt(next_))
        # Where both only give names to what is there, nobody can look in between.
        acts = acts and (_has_call(one) or _has_call(next_))
        if acts and not (_made(one) & _used(next_) or _made(next_) & _used(one)):
            swapped = text.of(next_, next_) + text.between(one, next_) + text.of(one, one)
            yield "in the other order", (one, next_, swapped)


def _calls(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return _is_felt(node) or _has_call(node)


def _has_call(node: ast.stmt) -> bool:
    return any(isinstance(one, ast.Call | ast.Await) for one in ast.walk(node))


def _is_felt(node: ast.stmt) -> bool:
    """Others see that it was done."""
    return any(
        (isinstance(one, ast.Expr) and not isinstance(one.value, ast.Constant))
        or (isinstance(one, ast.Attribute | ast.Subscript) and isinstance(one.ctx, ast.Store | ast.Del))
        for one in ast.walk(node)
    )


def _names(node: ast.AST, *how: type[ast.expr_context]) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, how)}


def _made(node: ast.AST) -> set[str]:
    return _names(node, ast.Store)


def _used(node: ast.AST) -> set[str]:
    return _names(node, ast.Load, ast.Store)
