"""What keeps a folder out of a git tree, decided and written over plain files: no git runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.git_tree import (
    LOCKED,
    Part,
    Tree,
    is_top,
    keep_out,
    lacking,
    lies_inside_git,
    superproject,
    tree_around,
    tree_at,
    work_of,
)


def repository(git: Path) -> None:
    for folder in (git / "objects", git / "refs", git / "info"):
        folder.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    top = tmp_path / "project"
    repository(top / ".git")
    return top


def ours(top: Path, name: str = ".agent-mailer") -> Path:
    folder = top / name
    folder.mkdir(parents=True)
    return folder


def parts(folder: Path) -> list[tuple[Part, Path]]:
    return [(lack.part, lack.folder) for lack in lacking(folder)]


def made(folder: Path, disk: Disk | None = None) -> tuple[list[Part], str]:
    """What was made, and the fault's code."""
    done, fault = keep_out(disk or Disk(), folder)
    return [lack.part for lack in done], fault.code if fault is not None else ""


def test_a_git_folder_that_is_no_repository_does_not_stop_the_search_and_a_pointer_to_none_does(project: Path) -> None:
    inner = project / "inner"
    (inner / ".git").mkdir(parents=True)
    tree = tree_around(inner / "x")
    assert tree is not None
    assert (tree.top, tree.broken) == (project, "")
    (inner / ".git").rmdir()
    (inner / ".git").write_text("gitdir: ../empty\n")
    (project / "empty").mkdir()
    tree = tree_around(inner / "x")
    assert tree is not None
    assert (tree.top, "is no repository" in tree.broken) == (inner, True)


@pytest.mark.parametrize("path", ["lib/part", '"lib/part"', " lib/part "])
@pytest.mark.parametrize("broken", [False, True])
def test_a_submodule_is_known_by_what_the_tree_around_names_unless_that_is_broken(
    project: Path, path: str, *, broken: bool
) -> None:
    repository(project / "lib/part/.git")
    (project / ".gitmodules").write_text(f'[submodule "p"]\n\tpath = {path}\n')
    inner = tree_at(project / "lib/part")
    assert inner is not None
    if broken:
        (project / ".git").rename(project / "away")
        (project / ".git").write_text("gitdir: nowhere\n")
    assert superproject(inner) == (None if broken else project)


@pytest.mark.parametrize(("inside", "lies"), [("own/x", True), ("common/x", True), ("top/x", False)])
def test_a_folder_inside_either_git_folder_lies_inside_git(tmp_path: Path, inside: str, *, lies: bool) -> None:
    tree = Tree(tmp_path / "top", tmp_path / "own", tmp_path / "common")
    assert lies_inside_git(tmp_path / inside, tree) is lies


@pytest.mark.parametrize(("name", "lacks"), [(".agent-mailer", [Part.IGNORES_ITSELF]), ("mail", [])])
def test_outside_of_every_tree_a_hidden_folder_alone_ignores_itself(
    tmp_path: Path, name: str, lacks: list[Part]
) -> None:
    assert made(ours(tmp_path, name)) == (lacks, "")
    assert made(tmp_path / name) == ([], "")


def test_what_is_for_the_day_on_which_there_is_a_tree_can_wait(tmp_path: Path) -> None:
    class ReadOnly(SystemCalls):
        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return super().open(path, flags, mode)

    assert made(ours(tmp_path), Disk(ReadOnly())) == ([], "")


def test_of_a_link_the_link_has_its_line_and_what_it_leads_to_all_of_it(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    repository(other / ".git")
    target = ours(other, "mail")
    link = project / ".agent-mail"
    link.symlink_to(target)
    assert parts(link) == [(Part.LINE, link), (Part.LINE, target), (Part.SHELTER, target)]
    assert made(link) == ([Part.LINE, Part.LINE, Part.SHELTER], "")
    assert (project / ".git/info/exclude").read_text().splitlines()[-1] == "/.agent-mail"
    assert (other / ".git/info/exclude").read_text().splitlines()[-1] == "/mail/"
    assert lacking(link) == []


def test_a_link_outside_of_every_tree_is_left_alone(tmp_path: Path) -> None:
    link = tmp_path / ".agent-mail"
    link.symlink_to(ours(tmp_path, "mail"))
    assert lacking(link) == []


@pytest.mark.parametrize("a_link", [False, True])
def test_what_stands_in_the_place_of_the_shelter_and_is_no_repository_is_told(project: Path, *, a_link: bool) -> None:
    if a_link:
        (project / "empty").mkdir()
        (ours(project) / ".git").symlink_to(project / "empty")
    else:
        (ours(project) / ".git").write_text("gitdir: nowhere\n")
    assert parts(project / ".agent-mailer") == [(part, project / ".agent-mailer") for part in (Part.LINE, Part.SHELTER)]
    assert made(project / ".agent-mailer") == ([Part.LINE], "no_shelter")


@pytest.mark.parametrize(("strange", "done"), [(False, []), (True, [Part.SHELTER])])
def test_in_a_broken_tree_nothing_is_written_but_where_git_works_with_anothers(
    project: Path, done: list[Part], *, strange: bool
) -> None:
    (project / ".git").rename(project / "elsewhere")
    if strange:
        (project / ".git").symlink_to(project / "elsewhere")
    else:
        (project / ".git").write_text("gitdir: nowhere\n")
    assert made(ours(project)) == (done, "broken_tree")


def test_what_git_reads_others_may_read_whatever_our_files_are(project: Path, tmp_path: Path) -> None:
    (project / ".git/info").rmdir()
    assert made(ours(project)) == ([Part.LINE, Part.SHELTER], "")
    assert (project / ".git/info").stat().st_mode & 0o777 == 0o755
    assert (project / ".git/info/exclude").stat().st_mode & 0o777 == 0o644
    own = project / ".git/worktrees/beside"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/side\n")
    (own / "commondir").write_text("../..\n")
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / ".git").write_text(f"gitdir: {own}\n")
    (own / "gitdir").write_text(f"{beside}/.git\n")
    assert made(ours(beside)) == ([Part.SHELTER, Part.LOCK], ""), "the line is the repository's already"
    assert (own / "locked").read_bytes() == LOCKED
    assert (own / "locked").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("linked", ["info", "info/exclude"])
def test_no_line_is_written_through_a_link_and_the_shelter_is_made_all_the_same(
    project: Path, tmp_path: Path, linked: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    place = project / ".git" / linked
    if linked == "info":
        place.rmdir()
        elsewhere.mkdir()
    else:
        elsewhere.write_text("")
    place.symlink_to(elsewhere)
    assert made(ours(project)) == ([Part.SHELTER], "exclude_link")
    assert not list(elsewhere.iterdir()) if elsewhere.is_dir() else elsewhere.read_text() == ""


def test_an_exclude_file_that_is_none_is_told_and_holds_up_nobody(project: Path) -> None:
    os.mkfifo(project / ".git/info/exclude")
    assert made(ours(project)) == ([Part.SHELTER], "exclude_no_file")


def test_git_sees_no_repository_before_all_of_it_is_there(project: Path) -> None:
    written: list[str] = []

    class Seen(SystemCalls):
        def replace(self, source: Path, target: Path) -> None:
            written.append(target.name)
            super().replace(source, target)

    assert made(ours(project), Disk(Seen())) == ([Part.LINE, Part.SHELTER], "")
    assert written[-1] == "HEAD"
    assert sorted(written) == ["HEAD", "config", "description"]


def test_our_shelter_is_no_top_and_whatever_else_is_there_is_one(project: Path) -> None:
    folder = ours(project)
    made(folder)
    assert (is_top(folder), is_top(project), is_top(project / "nowhere")) == (False, True, False)
    tree = tree_around(folder / "inbox")
    assert tree is not None
    assert tree.top == project
    (folder / ".git/description").write_text("somebody's\n")
    assert is_top(folder)


@pytest.mark.parametrize("pointer", [b"gitdir: a\0b\n", b"gitdir: \n", b"gitdir:x\n", b"dir: x\n", b""])
def test_a_pointer_that_names_nothing_is_broken(project: Path, pointer: bytes) -> None:
    inner = ours(project, "inner")
    (inner / ".git").write_bytes(pointer)
    tree = tree_at(inner)
    assert tree is not None
    assert "neither a folder nor does it name one" in tree.broken


def test_a_worktree_that_its_repository_does_not_keep_is_not_believed(project: Path, tmp_path: Path) -> None:
    """Made by an agent: both point at each other, and the common folder is a person's."""
    own, beside = tmp_path / "made", tmp_path / "beside"
    for folder in (own, beside):
        folder.mkdir()
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "commondir").write_text(f"{project}/.git\n")
    (own / "gitdir").write_text(f"{beside}/.git\n")
    (beside / ".git").write_text(f"gitdir: {own}\n")
    tree = tree_at(beside)
    assert tree is not None
    assert (tree.strange, "knows nothing of it" in tree.broken) == (True, True)


def test_of_two_folders_that_its_settings_name_the_last_is_the_submodules(project: Path, tmp_path: Path) -> None:
    (project / ".git/config").write_text("[core]\n\tworktree = ../first\n\tworktree = ../second\n")
    assert work_of(project / ".git") == project / "second"
    assert work_of(tmp_path / "nothing") is None
