"""docs/permission-modes.md says what was seen, with the versions that the tests install."""

from __future__ import annotations

import re

import msgspec
from tests.e2e.probes import CASES, OFF, PAGE, PROBES, read_seen, written
from tests.pages import PROJECT, page
from tools.agent_clis import SRT, VERSIONS


def test_the_page_says_what_was_seen() -> None:
    seen, text = read_seen(), PAGE.read_text()
    assert written(text, seen) == text, "python -m tests.e2e.probes"
    other = [
        msgspec.structs.replace(seen[0], reached={**seen[0].reached, "ssh": not seen[0].reached["ssh"]}),
        *seen[1:],
    ]
    assert written(text, other) != text


def test_everything_was_looked_at_in_every_mode_with_these_versions() -> None:
    seen = read_seen()
    assert [(one.sandbox, one.cli, one.mode) for one in seen] == CASES
    assert {one.version for one in seen} == set(VERSIONS.values())
    for one in seen:
        assert list(one.reached) == [probe.name for probe in PROBES]


def test_codex_keeps_to_its_profile() -> None:
    for one in read_seen():
        if (one.cli, one.mode) == ("codex", "acceptEdits") and one.sandbox in (OFF, "bwrap"):
            assert one.reached["commit"]
            kept = ("login", "configuration", "templates", "state", "hooks", "key", "ssh")
            assert not any(one.reached[name] for name in kept)


def test_a_sandbox_of_ours_keeps_what_is_ours_in_every_mode() -> None:
    for one in read_seen():
        if one.sandbox != OFF:
            kept = ("configuration", "templates", "state", "mail", "ssh", "outside", "temporary")
            assert not any(one.reached[name] for name in kept), one


DOCUMENTS = ("README.md", "README.zh.md", "docs/what-was-seen.md")


def test_the_documents_name_the_versions_that_the_tests_install() -> None:
    for name in DOCUMENTS:
        for version in VERSIONS.values():
            assert version in page(name), name
    for name in ("docs/sandbox.md", "docs/what-was-seen.md"):
        assert f" {SRT}" in page(name), name


def test_no_test_has_a_version_of_its_own() -> None:
    literal = re.compile("|".join(map(re.escape, (*VERSIONS.values(), SRT))))
    for path in (PROJECT / "tests").rglob("*.py"):
        assert not literal.search(path.read_text()), f"{path}: take it from tools/agent_clis.py"
