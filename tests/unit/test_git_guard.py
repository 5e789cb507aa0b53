"""What git obeys in a tree, as it is kept from a turn: whatever an agent has made there, and whoever works there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.sizes import LONG

from agent_mailer.disk import Disk
from agent_mailer.git_guard import MOST_REPOSITORIES, kept_in, obeyed_in, put_in_place, take_away


@pytest.fixture
def top(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path / "top")], check=True)
    return tmp_path / "top"


def submodule(top: Path, name: str) -> Path:
    made = top / ".git" / "modules" / name
    made.mkdir(parents=True)
    (made / "HEAD").write_text("ref: refs/heads/main\n")
    (made / "config").write_text("[core]\n")
    return made


def is_kept(path: Path, top: Path) -> bool:
    kept = {one.path for one in kept_in(top)}
    return not kept.isdisjoint((path, *path.parents))


@pytest.mark.parametrize(
    "decoys", ["repositories", *(pytest.param(one, marks=LONG) for one in ("folders", "deep folders")), "files"]
)
def test_no_number_of_folders_hides_a_submodule(top: Path, decoys: str) -> None:
    """Made in one turn they would open its settings, and its hooks, to the next."""
    real = submodule(top, "zlib")
    assert is_kept(real / "config", top)
    assert not is_kept(real / "index", top)
    for number in range(MOST_REPOSITORIES if decoys == "repositories" else 1100):
        match decoys:
            case "repositories":
                submodule(top, f"a{number}")
            case "folders":
                (top / ".git" / "modules" / f"a{number}").mkdir()
            case "deep folders":
                (top / ".git" / "modules" / "a" / f"{number}").mkdir(parents=True)
            case _:
                (top / ".git" / "modules" / f"a{number}").touch()
    assert is_kept(real / "config", top)
    assert decoys == "files" or top / ".git" / "modules" in obeyed_in(top)


def test_no_number_of_worktrees_hides_one(top: Path) -> None:
    worktree = top / ".git" / "worktrees" / "z"
    worktree.mkdir(parents=True)
    assert is_kept(worktree / "commondir", top)
    assert not is_kept(worktree / "index", top)
    for number in range(MOST_REPOSITORIES):
        (worktree.parent / f"a{number}").mkdir()
    assert is_kept(worktree / "commondir", top)


def test_what_stands_there_for_two_watchers_stays_until_the_last_is_done(top: Path) -> None:
    """Its name gone it would no longer be kept from the other's turn, in whatever namespace that has it."""
    mask, disk = top / ".git" / "commondir", Disk()
    mine, others = put_in_place(disk, [top]), put_in_place(disk, [top])
    take_away(disk, [top], mine)
    assert mask.exists()
    take_away(disk, [top], others)
    assert not mask.exists()


def test_what_a_killed_watcher_left_there_is_taken_away_by_the_next(top: Path) -> None:
    mask, disk = top / ".git" / "commondir", Disk()
    mask.write_text(".\n")
    take_away(disk, [top], put_in_place(disk, [top]))
    assert not mask.exists()
