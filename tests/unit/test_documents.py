"""What people read is true: commands, options, settings and links exist, and every document is in the index."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.pages import PROJECT, REFERENCE, code, page, table, tables

from agent_mailer import __version__
from agent_mailer.cli.app import app
from agent_mailer.config_values import load

README = page("README.md")
DOCS = sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))
GUIDES = ["README.md", "README.zh.md", *DOCS, *REFERENCE]
"""What people read; `docs/cli.md` is written by a tool."""
DOCUMENTS = {name: page(name) for name in ("SPEC.md", "SECURITY.md", *GUIDES)}

COMMAND = re.compile(r"agent-mailer(?: [a-z][a-z-]*)+")


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


def test_the_commands_are_those_of_the_program() -> None:
    rows = [code(row["command"]) for row in table(page("docs/reference/commands.md"), "command", "does")]
    # The program alone is one, too.
    assert sorted(rows) == sorted(["agent-mailer", *(f"agent-mailer {words}" for words in tree())])


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
        if words[1:] in (["--version"], []):
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


LINKED = [*GUIDES, "SPEC.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/CONFORMANCE.md"]


@pytest.mark.parametrize("name", LINKED)
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


@pytest.mark.parametrize("name", LINKED)
def test_a_link_is_written_so_that_it_is_looked_at(name: str) -> None:
    """In one form alone; what leads outside is whole, for a person or `./run site -b linkcheck` to ask."""
    text = (PROJECT / name).read_text("utf-8")
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^\[[^\]]+\]:|\bhref=|<https?:", prose, re.MULTILINE), "a link in another form"
    for link in _links(text):
        if "://" in link:
            assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w./#?=&%~-]*)?", link), link


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


NOTHING_TO_SHOW = {
    "README",
    "architecture",
    "compared",
    "container",  # no engine here, on which it could be seen
    "live-sessions",
    "permission-modes",
    "public-threads",
    "releasing",
    "threat-model",
    "what-was-seen",
}
"""Pages about what is so, not about what one types; some have tables of what was seen."""
LOOKED_UP = {"approvals", "broker", "notices", "reasons", "runtimes", "service"}
"""References whose guide shows what one sees, and that lead to it."""
AT_A_SERVER = {"mcp-agent-mail", "relay"}
"""References to what is at a server of others, which nobody who reads has at hand."""
MADE = {"cli"}
"""Written by a tool from what it shows."""
SEEN = re.compile(r"^```sh\n.*?^```\n\n(?:<!-- .*? -->\n\n)*```text\n\s*\S.*?^```$", re.MULTILINE | re.DOTALL)
"""What one types, and below it what comes of it: the walker compares the two with what really comes."""


@pytest.mark.parametrize("name", [*DOCS, *REFERENCE])
def test_a_page_begins_with_what_it_is_for_and_shows_what_one_sees(name: str) -> None:
    text = page(name)
    title, _, rest = text.partition("\n\n")
    assert title.startswith("# ")
    assert re.match(r"[\w*`.]", rest), f"it begins with {rest[:20]!r}"
    known = NOTHING_TO_SHOW | MADE if name in DOCS else LOOKED_UP | AT_A_SERVER
    shown = SEEN.search(text) is not None or "![" in text
    assert shown is (Path(name).stem not in known), "it shows nothing, or is listed as a page that has nothing to show"


def test_what_shows_nothing_is_no_page() -> None:
    for text in (
        "```sh\nx\n```\n\n```toml\na = 1\n```",
        "```sh\nx\n```\n\n```text\n\n```",
        "```text\na\n```",
        "```\na\n```",
    ):
        assert SEEN.search(text) is None, text
    assert SEEN.search("```sh\nx\n```\n\n<!-- walk: x -->\n\n```text\na\n```")


def test_every_document_is_in_the_index() -> None:
    listed = {link.partition("#")[0] for link in _links(DOCUMENTS["docs/README.md"])}
    assert {name.removeprefix("docs/") for name in (*DOCS, *REFERENCE)} - {"README.md"} <= listed


def test_the_version_is_that_of_the_changelog() -> None:
    """A tree with unreleased changes says so in its version; a released one is dated there."""
    [top, *older] = re.findall(r"^## (.+)$", page("CHANGELOG.md"), re.MULTILINE)
    dated = re.compile(r"(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)")
    assert all(dated.fullmatch(heading) for heading in older)
    if top == "Unreleased":
        assert re.fullmatch(r"\d+\.\d+\.\d+\.dev\d+", __version__)
    else:
        released = dated.fullmatch(top)
        assert released
        assert released[1] == __version__
