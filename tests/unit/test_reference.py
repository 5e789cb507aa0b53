"""docs/reference says what the program is: what is generated is fresh, every other table agrees with the code."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeGuard, get_args, get_type_hints

import msgspec
import pytest
from msgspec import Meta
from tests.pages import PROJECT, REFERENCE, SOURCE, code, page, table
from tools.reference import BLOCKS, written

from agent_mailer.config import DOCS, Config, keys, leaves
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.outcomes import Outcome
from agent_mailer.prompts import PLACEHOLDERS, PromptKind
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput, Result
from agent_mailer.state.notices import Notice, NoticeKind
from agent_mailer.state.records import DeadLetter, Pause, RetryEntry, SessionEntry, Settlement, TurnRecord
from agent_mailer.turn_tools.mcp_tools import TOOLS
from agent_mailer.views.values.status import Problem

CONFIGURATION, EVENTS, FILES, RUNTIMES, STATUS, TOOLS_PAGE = (
    f"docs/reference/{name}.md" for name in ("configuration", "events", "files", "runtimes", "status", "tools")
)

RECORDS: Mapping[str, type[msgspec.Struct]] = {
    "Envelope": Envelope,
    "Turn": TurnRecord,
    "Settlement": Settlement,
    "Item": Outgoing,
    "Retry": RetryEntry,
    "Session": SessionEntry,
    "Dead letter": DeadLetter,
    "Pause": Pause,
    "Notice": Notice,
}


@pytest.mark.parametrize("name", [*REFERENCE, "docs/how-it-was-proved.md"])
def test_what_is_generated_is_what_the_code_says(name: str) -> None:
    assert written(page(name)) == page(name), "python tools/reference.py"


@pytest.mark.parametrize(
    ("name", "block", "true", "stale"),
    [
        (CONFIGURATION, "keys", "| `max_retries` |", "| `max_tries` |"),
        (STATUS, "status", "| `next_wake` |", "| `wakes` |"),
    ],
)
def test_a_stale_page_is_noticed(name: str, block: str, true: str, stale: str) -> None:
    old = page(name).replace(true, stale)
    assert old != page(name)
    assert block in BLOCKS
    assert written(old) == page(name)


def test_the_keys_are_those_of_the_program() -> None:
    rows = {code(row["key"]): row for row in table(page(CONFIGURATION), "key", "value")}
    found = list(_leaves())
    assert list(rows) == [name for name, _, _ in found] == [leaf.name for leaf in leaves()]
    assert set(DOCS) == {name.partition(".")[0] for name in rows}
    for name, hint, default in found:
        assert _range(hint) in rows[name]["value"], name
        assert rows[name]["default"] == _default(default), name
        assert rows[name]["is"], name


def _leaves() -> Iterator[tuple[str, Any, object]]:
    """Name, type and default of every key, those of the tables with a dot."""
    defaults = Config()
    hints = get_type_hints(Config, include_extras=True)
    for key in keys():
        value = getattr(defaults, key)
        if not isinstance(value, msgspec.Struct):
            yield key, hints[key], value
            continue
        inner = get_type_hints(type(value), include_extras=True)
        for name, shown in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            yield f"{key}.{shown}", inner[name], getattr(value, name)


def _range(hint: Any) -> str:
    """What the page says of a key's values: `1 to 64`, `a, b`, or nothing."""
    for part in (get_args(hint)[0], *get_args(get_args(hint)[0])):
        if isinstance(part, type) and issubclass(part, StrEnum):
            return ", ".join(member.value for member in part)
    for meta in hint.__metadata__:
        if isinstance(meta, Meta):
            return f"{meta.ge} to {meta.le}"
    return ""


def _default(value: object) -> str:
    if value is None:
        return "nothing"
    return f"`{value.value}`" if hasattr(value, "value") else f"`{msgspec.json.encode(value).decode()}`"


def test_the_templates_and_their_placeholders_are_those_of_the_program() -> None:
    rows = {code(row["template"]): row["placeholders"] for row in table(page(TOOLS_PAGE), "template", "when")}
    assert (
        set(rows) == {kind.value for kind in PromptKind} == {path.stem for path in (PROJECT / "templates").glob("*.md")}
    )
    for kind in PromptKind:
        assert set(re.findall(r"`\$([a-z_]+)`", rows[kind.value])) == PLACEHOLDERS[kind]


@pytest.mark.parametrize("title", RECORDS)
def test_the_fields_of_a_record_are_those_of_the_program(title: str) -> None:
    text = page(FILES).partition(f"### {title}\n")[2].partition("\n#")[0]
    named = [name for head in re.findall(r"^\* (`.*?):", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", head)]
    assert named == list(RECORDS[title].__struct_fields__)


def test_the_problems_are_those_of_the_program() -> None:
    rows = [code(row["`code`"]) for row in table(page(STATUS), "`code`", "when")]
    assert rows == [problem.value for problem in Problem]


def test_the_notices_are_those_of_the_program() -> None:
    rows = [code(row["kind"]) for row in table(page("docs/reference/notices.md"), "kind", "reason")]
    assert rows == [kind.value for kind in NoticeKind]


def test_the_tools_of_a_turn_are_those_of_the_program() -> None:
    rows = [code(row["tool"]) for row in table(page(TOOLS_PAGE), "tool", "arguments")]
    assert rows == [tool.name for tool in TOOLS]


def test_the_variables_of_a_turn_are_those_of_the_program() -> None:
    rows = {code(row["variable"]) for row in table(page(RUNTIMES), "variable", "value")}
    source = "".join((SOURCE / "runtimes" / name).read_text("utf-8") for name in ("command.py", "programs.py"))
    assert rows == set(re.findall(r'"(AGENT_MAILER_[A-Z_]+)"', source))


def test_the_lines_of_a_typed_command_are_understood() -> None:
    runtime = CommandRuntime(("agent",), CommandOutput.JSONL, {})
    lines = [code(row["line"]) for row in table(page(RUNTIMES), "line", "means")]
    for line in lines:
        assert runtime.parse(line.encode()), line
    said = {msgspec.json.decode(line)["type"] for line in lines}
    handled = set(
        re.findall(r'^    "([a-z_]+)": _', (SOURCE / "runtimes" / "own_lines.py").read_text("utf-8"), re.MULTILINE)
    )
    assert said == handled
    tail = page(RUNTIMES).partition("`outcome` is ")[2].partition(";")[0]
    allowed = set(re.findall(r"`([a-z_]+)`", tail))
    for outcome in Outcome:
        [result] = runtime.parse(msgspec.json.encode({"type": "result", "outcome": outcome.value}))
        assert isinstance(result, Result)
        assert (result.outcome is outcome and outcome.value in allowed) or (
            result.outcome is Outcome.FAILED and outcome.value not in allowed
        ), outcome


def test_the_events_are_those_of_the_program() -> None:
    rows = {code(row["event"]): row["fields"].split() for row in table(page(EVENTS), "event", "fields")}
    assert list(rows) == [event.value for event in EventName]
    emitted = _emitted()
    for event in EventName:
        assert set(rows[event.value]) == emitted[event], event
        assert len(set(rows[event.value])) == len(rows[event.value]), event
    meanings = {name for row in table(page(EVENTS), "field", "type") for name in re.findall(r"`(\w+)`", row["field"])}
    assert meanings == {"ts", "event", *(field for fields in rows.values() for field in fields)}


def _emitted() -> Mapping[EventName, set[str]]:
    """The fields with which the source tells of each event, by `emit` and by `show`."""
    found: dict[EventName, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        module = ast.parse(path.read_text("utf-8"))
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for call in ast.walk(function):
                    if _tells(call):
                        fields = {keyword.arg for keyword in call.keywords if keyword.arg}
                        assert all(keyword.arg for keyword in call.keywords), f"{path}: fields that nobody can read off"
                        for event in _events_of(call.args[0], function, module):
                            found[event] |= fields
    return found


def _tells(node: ast.AST) -> TypeGuard[ast.Call]:
    """A call of the log's `emit` or `show`."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("emit", "show")):
        return False
    owner = node.func.value
    return (owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")) in ("log", "_log")


def _events_of(node: ast.expr, function: ast.AST, module: ast.Module) -> set[EventName]:
    """What the first argument may be: an event by name, one of two, one of a table, or what the callers give."""
    named = {
        EventName[part.attr]
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "EventName"
    }
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"EventName"}
    for place in ast.walk(function) if not named else ():
        if isinstance(place, ast.Assign) and any(getattr(target, "id", "") in names for target in place.targets):
            named |= _events_of(place.value, place, module)
    for place in module.body if not named else ():
        if isinstance(place, ast.Assign) and any(getattr(target, "id", "") in names for target in place.targets):
            named |= _events_of(place.value, place, module)
    if not named and isinstance(function, ast.FunctionDef):
        # Its own argument: whatever this module passes to it.
        for call in ast.walk(module):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == function.name and call.args:
                named |= _events_of(call.args[0], call, module)
    assert named, f"{ast.unparse(node)}: which events are these?"
    return named
