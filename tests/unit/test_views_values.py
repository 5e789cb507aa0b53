"""What an event stream relies on: a view's key says what it is about, its version changes when what it shows does."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from agent_mailer.views import values
from agent_mailer.views.values import Part, View
from agent_mailer.views.values.history import LineView, TurnView, WholeTurnView
from agent_mailer.views.values.status import FaultView, QueuedView, StatusView

for module in pkgutil.iter_modules(values.__path__):
    importlib.import_module(f"{values.__name__}.{module.name}")


def kinds(of: type[Part]) -> Iterator[type[Part]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


PARTS = [kind for kind in kinds(Part) if kind is not View]
VIEWS = [kind for kind in PARTS if issubclass(kind, View)]


def some(shape: Any, number: int) -> Any:
    """A value of that type; another one for another number."""
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is tuple:
        return (some(arguments[0], number),)
    if origin is dict:
        return {"event": number}
    if arguments:
        return some(arguments[0], number)
    if issubclass(shape, Part):
        return sample(shape, number)
    if hasattr(shape, "__members__"):
        return list(shape)[number]
    return bytes([number]) if shape is bytes else bool(number % 2) if shape is bool else shape(number)


def sample(kind: type[Part], number: int = 1) -> Any:
    hints = get_type_hints(kind)
    return kind(**{name: some(hints[name], number) for name in kind.__struct_fields__})


def changed(value: Part, field: str) -> Any:
    return msgspec.structs.replace(value, **{field: some(get_type_hints(type(value))[field], 2)})


@pytest.mark.parametrize("kind", VIEWS)
def test_the_version_changes_with_each_field_but_those_that_age(kind: type[View]) -> None:
    view = sample(kind)
    assert view.version == sample(kind).version
    for field in kind.__struct_fields__:
        assert (changed(view, field).version == view.version) == (field in kind.AGES), field


@pytest.mark.parametrize("kind", PARTS)
def test_what_ages_in_a_part_ages_in_the_whole_and_nothing_else_does(kind: type[Part]) -> None:
    class Holder(View, frozen=True):
        ABOUT = "name"

        name: str
        parts: tuple[Part, ...]

    part = sample(kind)
    for field in kind.__struct_fields__:
        same = Holder("x", (changed(part, field),)).version == Holder("x", (part,)).version
        assert same == (field in kind.AGES), field


def test_what_ages_is_only_how_long_ago_or_how_far_away_something_is() -> None:
    assert {(kind.__name__, name) for kind in PARTS for name in kind.AGES} == {
        *(("QueuedView", "seconds"), ("WatcherView", "seconds"), ("WakeView", "at"), ("RetryView", "due_in_seconds")),
        *(("RunningView", "seconds"), ("RunningView", "tool_seconds")),
    }


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_is_known_by_what_it_is_about(kind: type[View]) -> None:
    view = sample(kind)
    about = "raw" if kind is LineView else kind.ABOUT
    assert view.key
    assert view.key == sample(kind).key != changed(view, about).key


def test_a_name_that_is_no_text_has_a_version() -> None:
    view = FaultView("/home/\udc80", ())
    assert view.version != FaultView("/home/\udc81", ()).version


def test_neither_key_nor_version_is_in_the_json() -> None:
    names = {name for kind in (StatusView, TurnView, QueuedView) for name in msgspec.to_builtins(sample(kind))}
    assert not names & {"key", "version"}


def test_a_turn_is_what_it_ended_as_only_when_it_is_settled() -> None:
    turn = msgspec.structs.replace(sample(WholeTurnView), phase="settling", outcome="done", settled=False, waits="")
    assert turn.state == "settling"
    assert msgspec.structs.replace(turn, waits="no room").state == "waits to settle"
    assert msgspec.structs.replace(turn, settled=True).state == "done"
    assert msgspec.structs.replace(turn, settled=True, outcome=None).state == "settling"
