"""SPEC.md and README.md say what the program is: every table that can be compared is."""

from __future__ import annotations

import ast
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard, get_type_hints

import msgspec
import pytest
import typer
from msgspec import Meta

from agent_mailer.cli.app import app
from agent_mailer.config import DOCS, Config, keys, load
from agent_mailer.errors import ExitCode
from agent_mailer.events import EventName
from agent_mailer.outcomes import Outcome
from agent_mailer.prompts import PLACEHOLDERS, PromptKind
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput, Result

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "src" / "agent_mailer"
SPEC = (PROJECT / "SPEC.md").read_text("utf-8")
README = (PROJECT / "README.md").read_text("utf-8")
GUIDES = ["README.md", "README.zh.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
"""What people read; `docs/cli.md` is written by a tool."""
DOCUMENTS = {name: (PROJECT / name).read_text("utf-8") for name in ("SPEC.md", *GUIDES)}

COMMAND = re.compile(r"agent-mailer(?: [a-z][a-z-]*)+")


def section(title: str) -> str:
    """The text of a section of SPEC.md, `6` or `6.1`, with what is below it."""
    level = "###" if "." in title else "##"
    found = re.search(
        rf"^{level} {re.escape(title)}\.? .*?(?=^#{{2,{len(level)}}} |\Z)", SPEC, re.MULTILINE | re.DOTALL
    )
    assert found, f"SPEC.md has no section {title}"
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


def table(title: str, *head: str) -> list[dict[str, str]]:
    """The one table of a section whose head begins so, as dictionaries."""
    [rows] = [rows for rows in tables(section(title)) if tuple(rows[0][: len(head)]) == head]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def code(cell: str) -> str:
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found, f"{cell} is no code"
    return found[1]


@cache
def tree() -> Mapping[str, Any]:
    """Every command by its words, without the program's name."""
    return dict(_walk(typer.main.get_command(app), ()))


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        yield " ".join(words), command
        return
    context = command.make_context("agent-mailer", [], resilient_parsing=True)
    for name in command.list_commands(context):
        yield from _walk(command.get_command(context, name), (*words, name))


def test_every_promise_names_a_test_that_exists() -> None:
    rows = table("12", "promise", "section", "test")
    assert len(rows) > 50
    for row in rows:
        path, _, name = code(row["test"]).partition("::")
        assert name in _names_in(PROJECT / path), f"{row['promise']}: there is no {path}::{name}"
        for place in re.findall(r"[0-9]+(?:\.[0-9]+)?|I[0-9]", row["section"]):
            assert place.startswith("I") or section(place)
    promises = [row["promise"] for row in rows]
    assert len(set(promises)) == len(promises)


@cache
def _names_in(path: Path) -> frozenset[str]:
    """Tests of a file: `test_x`, `TestX` and `TestX::test_x`, those inherited from a suite of ours included."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            names |= {f"{node.name}::{name}" for name in (*methods, *_suite_methods(frozenset(bases)))}
    return frozenset(names)


@cache
def _suite_methods(bases: frozenset[str]) -> list[str]:
    return [
        item.name
        for path in (SOURCE / "testing").glob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in bases
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    ]


def test_the_outcomes_are_those_of_the_program() -> None:
    rows = {code(row["outcome"]): row for row in table("6.1", "outcome", "means")}
    assert list(rows) == [outcome.value for outcome in Outcome]
    for outcome in Outcome:
        row = rows[outcome.value]
        assert row["attempt"] == ("+1" if outcome.counts else "0"), outcome
        assert row["pauses"] == ("yes" if outcome.pauses else "no"), outcome
        assert (row["session"] == "provisional") == outcome.keeps_session, outcome
        assert row["then"].startswith("settled") == outcome.settles, outcome


def test_the_exit_codes_are_those_of_the_program() -> None:
    rows = {int(row["code"]): code(row["name"]) for row in table("9", "code", "name")}
    assert rows == {exit_code.value: exit_code.name for exit_code in ExitCode}


def test_the_events_are_those_of_the_program() -> None:
    rows = {code(row["event"]): row["fields"].split() for row in table("8.6", "event", "fields")}
    assert list(rows) == [event.value for event in EventName]
    emitted = _emitted()
    for event in EventName:
        assert set(rows[event.value]) == emitted[event], event
        assert len(set(rows[event.value])) == len(rows[event.value]), event
    meanings = {name for row in table("8.6", "field", "type") for name in re.findall(r"`(\w+)`", row["field"])}
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


def test_the_templates_and_their_placeholders_are_those_of_the_program() -> None:
    rows = {code(row["template"]): row["placeholders"] for row in table("7.1", "template", "when")}
    assert (
        set(rows) == {kind.value for kind in PromptKind} == {path.stem for path in (PROJECT / "templates").glob("*.md")}
    )
    for kind in PromptKind:
        assert set(re.findall(r"`\$([a-z_]+)`", rows[kind.value])) == PLACEHOLDERS[kind]


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
    """What SPEC.md says of a key's values: `1 to 64`, `a, b`, or nothing."""
    for part in (hint, *getattr(hint, "__args__", ())):
        if isinstance(part, type) and issubclass(part, StrEnum):
            return ", ".join(member.value for member in part)
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, Meta):
            return f"{meta.ge} to {meta.le}"
    return ""


def _default(value: object) -> str:
    if value is None:
        return "none"
    return f"`{value.value}`" if hasattr(value, "value") else f"`{msgspec.json.encode(value).decode()}`"


def test_the_keys_are_those_of_the_program() -> None:
    rows = {code(row["key"]): row for row in table("10.1", "key", "type")}
    leaves = list(_leaves())
    assert list(rows) == [name for name, _, _ in leaves]
    assert set(DOCS) == {name.partition(".")[0] for name in rows}
    for name, hint, default in leaves:
        assert rows[name]["range"] == _range(hint), name
        assert rows[name]["default"] == _default(default), name
        assert rows[name]["meaning"], name


def test_the_variables_of_a_turn_are_those_of_the_program() -> None:
    rows = {code(row["variable"]) for row in table("10.2", "variable", "value")}
    source = "".join((SOURCE / "runtimes" / name).read_text("utf-8") for name in ("command.py", "environment.py"))
    assert rows == set(re.findall(r'"(AGENT_MAILER_[A-Z_]+)"', source))


def test_the_lines_of_a_typed_command_are_understood() -> None:
    runtime = CommandRuntime(("agent",), CommandOutput.JSONL, {})
    lines = [code(row["line"]) for row in table("10.3", "line", "means")]
    for line in lines:
        assert runtime.parse(line.encode()), line
    said = {msgspec.json.decode(line)["type"] for line in lines}
    handled = set(
        re.findall(r'^    "([a-z_]+)": _', (SOURCE / "runtimes" / "command.py").read_text("utf-8"), re.MULTILINE)
    )
    assert said == handled
    tail = section("10.3").partition("`outcome` is ")[2].partition(";")[0]
    allowed = set(re.findall(r"`([a-z_]+)`", tail))
    for outcome in Outcome:
        [result] = runtime.parse(msgspec.json.encode({"type": "result", "outcome": outcome.value}))
        assert isinstance(result, Result)
        assert (result.outcome is outcome and outcome.value in allowed) or (
            result.outcome is Outcome.FAILED and outcome.value not in allowed
        ), outcome


def test_the_commands_are_those_of_the_program() -> None:
    rows = [code(row["command"]) for row in table("9", "command", "does")]
    assert sorted(rows) == sorted(f"agent-mailer {words}" for words in tree())


def _named_commands(text: str) -> set[str]:
    spans = re.findall(r"`([^`\n]+)`", text)
    return {found[0] for span in spans if (found := COMMAND.match(span))}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_that_is_named_exists(name: str) -> None:
    known = tree()
    groups = {" ".join(words.split()[:length]) for words in known for length in range(1, words.count(" ") + 1)}
    for named in _named_commands(DOCUMENTS[name]):
        words = named.split()[1:]
        begins = {" ".join(words[:length]) for length in range(1, len(words) + 1)}
        assert begins & set(known) or " ".join(words) in groups, f"{name}: there is no {named}"


def _command_lines(text: str) -> Iterator[list[str]]:
    """Command lines of ours in the fenced blocks, as words; a line that ends in a backslash goes on."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.lstrip().startswith(("agent-mailer ", "./run ")):
                yield shlex.split(line, comments=True)


def test_the_documents_have_what_is_looked_for_in_them() -> None:
    assert len(list(_command_lines(README))) > 15
    every = "\n".join(DOCUMENTS.values())
    assert len(_named_commands(every)) > 30
    assert _settings(every)


@pytest.mark.parametrize("name", GUIDES)
def test_command_lines_in_the_documents_are_taken(name: str) -> None:
    for words in _command_lines(DOCUMENTS[name]):
        if words[0] == "./run":
            assert re.search(rf"^  {words[1]}\b", (PROJECT / "run").read_text("utf-8"), re.MULTILINE), words
            continue
        if words[1:] == ["--version"]:
            continue
        command, rest = _command_of(words[1:])
        if words[1:3] == ["config", "set"]:
            rest = rest[:1]  # what follows the key is its value
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in options, f"{shlex.join(words)}: there is no option {word}"


def _command_of(words: list[str]) -> tuple[Any, list[str]]:
    known = tree()
    for length in (3, 2, 1):
        command = known.get(" ".join(words[:length]))
        if command is not None:
            return command, words[length:]
    raise AssertionError(f"there is no command agent-mailer {shlex.join(words)}")


def test_the_chinese_readme_has_the_same_commands_and_links() -> None:
    chinese = DOCUMENTS["README.zh.md"]
    assert _blocks(chinese) == _blocks(README)
    assert re.findall(r"<!-- .*? -->", chinese) == re.findall(r"<!-- .*? -->", README)
    other = {"README.md", "README.zh.md"}
    assert set(_links(chinese)) - other == set(_links(README)) - other
    assert [len(rows) for rows in tables(chinese)] == [len(rows) for rows in tables(README)]
    assert len(re.findall(r"^## ", chinese, re.MULTILINE)) == len(re.findall(r"^## ", README, re.MULTILINE))


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)


def _links(text: str) -> list[str]:
    """Where the links of a text lead, those in its blocks left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("name", [*GUIDES, "SPEC.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_every_link_into_the_project_leads_somewhere(name: str) -> None:
    here = PROJECT / name
    for link in _links(here.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        found = here.parent / target if target else here
        assert found.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in _anchors(found), f"{name}: {link}"


@cache
def _anchors(path: Path) -> frozenset[str]:
    """The names under which a document's headings can be linked to."""
    titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


def _settings(text: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", GUIDES)
def test_settings_in_the_documents_are_taken(name: str, tmp_path: Path) -> None:
    for text in _settings(DOCUMENTS[name]):
        path = tmp_path / "config.toml"
        path.write_text(text)
        path.chmod(0o600)
        assert not load(path, {}, {}).unknown, text


def test_every_document_is_in_the_index() -> None:
    listed = {link.partition("#")[0] for link in _links(DOCUMENTS["docs/README.md"])}
    assert {path.name for path in (PROJECT / "docs").glob("*.md")} - {"README.md"} <= listed


def test_the_changelog_knows_this_version() -> None:
    from agent_mailer import __version__

    assert f"## {__version__}" in (PROJECT / "CHANGELOG.md").read_text("utf-8")
