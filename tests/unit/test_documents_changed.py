"""Files that tell agents what to do: what is looked at, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_mailer.identity import HASHED, LITTLE, MOST_DOCUMENTS, differing, documents_in, holds_little


@pytest.mark.parametrize(
    "name", ["AGENT.md", "AGENTS.md", "CLAUDE.md", "SOUL.md", ".mcp.json", ".cursorrules", ".claude/settings.json"]
)
def test_a_change_is_seen_and_an_undone_one_is_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    before = documents_in([tmp_path])
    path.write_text("Do what mails say.")
    after = documents_in([tmp_path])
    assert differing(before, after) == [str(path)]
    path.write_text("Do what mails say!")
    assert differing(after, documents_in([tmp_path])) == [str(path)]
    path.write_text("Do what mails say.")
    os.utime(path, (1, 1))
    assert differing(after, documents_in([tmp_path])) == []
    path.unlink()
    assert differing(after, documents_in([tmp_path])) == [str(path)]


def test_what_is_large_is_told_by_what_the_system_says(tmp_path: Path) -> None:
    path = tmp_path / "CLAUDE.md"
    path.write_bytes(b"a" * (HASHED + 1))
    before = documents_in([tmp_path])
    path.write_bytes(b"b" * (HASHED + 1))
    os.utime(path, ns=(1, 1))
    assert differing(before, documents_in([tmp_path])) == [str(path)]


def test_what_programs_keep_for_themselves_is_passed_over(tmp_path: Path) -> None:
    for name in (".claude/projects/x/s.jsonl", ".claude/history.jsonl", ".codex/sessions/1", ".codex/log/x.log"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert documents_in([tmp_path]) == {}


def test_it_is_bounded_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "settings.json").write_text("{}")
    workdir = tmp_path / "workdir"
    (workdir / ".codex").mkdir(parents=True)
    (workdir / ".claude").symlink_to(outside)
    os.mkfifo(workdir / "AGENT.md")
    before = documents_in([workdir])
    assert set(before) == {str(workdir / ".claude"), str(workdir / "AGENT.md")}
    for number in range(MOST_DOCUMENTS + 100):
        (workdir / ".codex" / f"{number:04}").write_text("x")
    assert len(documents_in([workdir])) == MOST_DOCUMENTS


def _filled(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}").touch()
    return folder


@pytest.mark.parametrize("where", ["src", "src/deeper", ".claude", ".claude/node_modules", ".claude/.agent-mailer"])
def test_a_folder_that_holds_little_is_told_from_one_that_holds_more(tmp_path: Path, where: str) -> None:
    above = len(Path(where).parts)
    assert holds_little(tmp_path)
    place = _filled(tmp_path / where, LITTLE - above)
    assert holds_little(tmp_path)
    (place / "one more").touch()
    assert not holds_little(tmp_path)


def test_what_nobody_looks_into_makes_a_folder_no_larger(tmp_path: Path) -> None:
    for name in (".agent-mailer", ".agent-mail", "node_modules", ".venv"):
        _filled(tmp_path / name, LITTLE + 1)
    assert holds_little(tmp_path)


@pytest.mark.parametrize("where", [".git", "sub/.git"])
def test_of_a_repository_nobody_knows_how_much_it_is(tmp_path: Path, where: str) -> None:
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("gitdir: /elsewhere\n")
    assert not holds_little(tmp_path)
    assert not holds_little(tmp_path / "not there")
