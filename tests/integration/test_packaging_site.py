"""The documents build as a site without a warning, and every page of them can be reached from its navigation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.pages import PROJECT
from tests.sizes import LONG


@LONG
def test_the_site_is_built_and_every_page_is_in_its_navigation(tmp_path: Path) -> None:
    words = [
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "-b",
        "html",
        "-c",
        "docs/site",
        "-d",
        str(tmp_path / "trees"),
    ]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, ".", str(tmp_path / "site")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (built.returncode, built.stderr) == (0, "")
    first = (tmp_path / "site" / "README.html").read_text()
    navigation = first[first.index('class="sidebar-tree"') :]
    linked = set(re.findall(r'class="reference internal" href="([^"#]+)\.html"', navigation))
    pages = [PROJECT / name for name in ("SPEC.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    pages += (PROJECT / "docs").rglob("*.md")
    missing = {path.relative_to(PROJECT).with_suffix("").as_posix() for path in pages} - linked
    assert not missing, f"not in a table of docs/README.md: {missing}"
