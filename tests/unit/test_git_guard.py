"""What git obeys in a tree, as it is kept from a turn: whatever an agent has made there, and whoever works there."""

from __future__ import annotations

import fcntl
import os
import stat
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
    part = submodule(top, "part")
    for number in range(MOST_REPOSITORIES):
        (worktree.parent / f"a{number}").mkdir()
    assert is_kept(worktree / "commondir", top)
    assert is_kept(part / "config", top), "nor what comes after them"


def test_what_stands_there_for_two_watchers_stays_until_the_last_is_done(top: Path) -> None:
    """Its name gone it would no longer be kept from the other's turn, in whatever namespace that has it."""
    mask, disk = top / ".git" / "commondir", Disk()
    mine, others = put_in_place(disk, [top]), put_in_place(disk, [top])
    take_away(disk, [top], mine)
    assert mask.exists()
    take_away(disk, [top], others)
    assert not mask.exists()


def test_what_another_watcher_takes_away_at_this_very_moment_is_put_there_again(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, lock, taken = top / ".git" / "commondir", fcntl.flock, list[int]()

    def meanwhile(fd: int, how: int) -> None:
        if not taken:
            mask.unlink()
        taken.append(how)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    for fd in put_in_place(Disk(), [top]):
        os.close(fd)
    assert mask.read_text() == ".\n"


def test_what_a_killed_watcher_left_there_is_taken_away_by_the_next(top: Path) -> None:
    mask, disk = top / ".git" / "commondir", Disk()
    mask.write_text(".\n")
    take_away(disk, [top], put_in_place(disk, [top]))
    assert not mask.exists()


def of_one(repository: Path) -> set[Path]:
    return {repository / name for name in ("hooks", "config", "config.worktree", "info/attributes", "commondir")}


def of_a_worktree(folder: Path) -> set[Path]:
    folder.mkdir(parents=True)
    return {folder / name for name in ("commondir", "gitdir", "config.worktree")}


def test_all_that_git_obeys_is_kept_of_the_tree_its_worktrees_and_its_submodules(top: Path) -> None:
    git, part = top / ".git", submodule(top, "lib/part")
    inner = submodule(top, "lib/part/modules/inner")
    (top / "lib" / "part").mkdir(parents=True)
    (top / "lib" / "part" / ".git").write_text("gitdir: ../../.git/modules/lib/part\n")
    (part / "config").write_text("[core]\n\tworktree = ../../../../lib/part\n")
    wanted = of_one(git) | of_one(part) | of_one(inner) | {top / "lib" / "part" / ".git"}
    for repository in (git, part, inner):
        wanted |= of_a_worktree(repository / "worktrees" / "beside")
    assert {one.path for one in kept_in(top)} == wanted
    assert {one.path for one in kept_in(git)} == wanted, "who opens the git folder opens no more of it"


@pytest.mark.parametrize("settings", ["[extensions]\n\tworktreeConfig = true\n", "[Extensions] worktreeconfig\n"])
def test_what_is_not_there_has_something_in_its_place_that_git_takes_for_nothing(top: Path, settings: str) -> None:
    git, disk = top / ".git", Disk()
    (git / "config").write_text((git / "config").read_text() + settings)
    for path in (git / "hooks").iterdir():
        path.unlink()
    (git / "hooks").rmdir()
    theirs = submodule(top, "theirs") / "commondir"
    theirs.write_text("../../..\n")
    held = put_in_place(disk, [top])
    made = {name: (git / name).stat().st_mode for name in ("hooks", "config.worktree", "commondir")}
    assert [(stat.S_ISDIR(mode), stat.S_IMODE(mode)) for mode in made.values()] == [
        (True, 0o755), (False, 0o644), (False, 0o644)
    ]  # fmt: skip
    assert subprocess.run(["git", "-C", str(top), "status", "-s"], check=False).returncode == 0
    take_away(disk, [top], held)
    assert not (git / "commondir").exists()
    assert theirs.read_text() == "../../..\n"
    for fd in held:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_nothing_is_put_where_a_planted_pointer_leads(top: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / ".git").write_text(f"gitdir: {top}/.git\n")
    before = sorted(top.rglob("*"))
    assert put_in_place(Disk(), [planted]) == []
    assert sorted(top.rglob("*")) == before


def test_what_git_would_obey_is_found_wherever_an_agent_has_made_it(top: Path, tmp_path: Path) -> None:
    (top / "a" / "bare" / "objects").mkdir(parents=True)
    (top / "a" / "bare" / "HEAD").write_text("ref: refs/heads/main\n")
    (top / "a" / "bare" / "config").touch()
    (top / "a" / "whole" / ".git").mkdir(parents=True)
    (top / "a" / "whole" / ".git" / "hooks").symlink_to(tmp_path)
    (top / "a" / "led").mkdir()
    (top / "a" / "led" / ".git").write_text("gitdir: ../../.git/modules/part\n")
    part = submodule(top, "part")
    for name in ("objects", "refs", "hooks"):
        (part / name).mkdir()
    (part / "config").write_text("[core]\n\tworktree = ../../../a/led\n")
    (part / "hooks" / "pre-commit").touch()
    (part / "hooks" / "pre-push.sample").touch()
    put_in_place(Disk(), [top])
    assert set(obeyed_in(top / "a")) == {
        *(top / "a" / "bare" / "config", top / "a" / "whole" / ".git" / "hooks", top / "a" / "led" / ".git"),
        *(part / "config", part / "hooks" / "pre-commit"),
    }
