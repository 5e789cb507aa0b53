"""The documents as a site: `./run site` builds it with Sphinx and MyST. The pages stay plain Markdown."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "src"))

from agent_mailer import __version__ as release  # noqa: E402

project = "agent-mailer"
author = "The agent-mailer authors"
language = "en"
extensions = ["myst_parser"]
include_patterns = ["README.md", "SPEC.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**.md"]
root_doc = "README"
html_theme = "furo"
html_title = f"agent-mailer {release}"
html_extra_path = ["../../README.zh.md", "../../LICENSE"]
myst_heading_anchors = 4
# Links to what is no page (the licence, an example) are checked by tests/unit/test_documents.py.
suppress_warnings = ["myst.xref_missing"]

INDEX = "docs/README"
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
LINK = re.compile(r"^\| \[[^\]]+\]\(([^)#]+\.md)\)", re.MULTILINE)
ABOUT = ["CHANGELOG", "CONTRIBUTING", "SECURITY"]


def contents(index: str) -> str:
    """The site's navigation from the tables of docs/README.md: a part for each of its sections."""
    parts = SECTION.split(index)[1:]
    trees = [
        _tree(title, [_document(link) for link in LINK.findall(table)])
        for title, table in zip(parts[::2], parts[1::2], strict=True)
    ]
    return "\n".join([*trees, _tree("The project", ABOUT)])


def _document(link: str) -> str:
    return (PROJECT / "docs" / link).resolve().relative_to(PROJECT).with_suffix("").as_posix()


def _tree(title: str, documents: list[str]) -> str:
    lines = "\n".join(f"/{document}" for document in documents)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{lines}\n```\n"


def _add_contents(_app: Sphinx, document: str, source: list[str]) -> None:
    """Only the first page carries the navigation, and only in the site: a directive means nothing in plain Markdown."""
    if document == root_doc:
        source[0] += _tree("Documentation", [INDEX]) + contents((PROJECT / f"{INDEX}.md").read_text("utf-8"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add_contents)
