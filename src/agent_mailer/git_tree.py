"""Our folders in somebody's git tree: what git must neither commit nor stash nor clean, and how it is kept from it.

Two things, as either alone is not enough: an anchored line in the repository's own `info/exclude`, and a bare
repository without a commit inside the folder, which git takes for another's. Plain files only: to run git is to run
what the project has configured.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import MailerError, mend, quoted
from agent_mailer.names import printable

MARK = b"agent-mailer: git in the tree above leaves this folder alone because of this repository\n"
CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
"""Bare: git is refused in here too, and editors do not take it for a project."""

HEAD = b"ref: refs/heads/nothing\n"
IGNORES_ITSELF = b"# Made by agent-mailer: should this folder become part of a git tree.\n*\n"
LOCKED = b"an agent of agent-mailer lives in it: its mail and its state would be deleted\n"
_MOST_BYTES = 1 << 20
_AMQS_BLOCK = "# Agent Message Queue"
"""How the line begins that `amq` writes above what it ignores itself."""
_PART = re.compile(rb"^\s*path\s*=(.+)$", re.MULTILINE | re.IGNORECASE)
_WORK = re.compile(rb"^\s*worktree\s*=(.+)$", re.MULTILINE | re.IGNORECASE)


class Part(Enum):
    """What is made, in this order."""

    LINE = "the line in git's own exclude file"
    SHELTER = "the repository inside that stops git"
    LOCK = "the lock of the worktree"
    IGNORES_ITSELF = "a .gitignore of its own"


class Tree(msgspec.Struct, frozen=True):
    """A git tree: its top, its git folder, and the one that its worktrees share.

    `broken` says why it is not believed: git refuses it, or works with another tree's repository (`strange`).
    """

    top: Path
    git: Path
    common: Path
    broken: str = ""
    strange: bool = False


class Lack(msgspec.Struct, frozen=True):
    """A part that `folder` does not have yet: to be written at `path`."""

    part: Part
    folder: Path
    path: Path
    line: bytes = b""


class GitFault(MailerError):
    """Why a folder cannot be kept out of its tree."""


def top_of(folder: Path) -> Path | None:
    """The nearest folder upward that is a top."""
    return next(_tops(folder), None)


def is_top(folder: Path) -> bool:
    """Whether it has a `.git` that is not ours."""
    return os.path.lexists(folder / ".git") and not _is_ours(folder)


def as_git_sees(folder: Path) -> Path:
    """Without links above it."""
    return _real(folder.parent) / folder.name


def tops_of(folder: Path) -> list[Path]:
    """Where a tree around `folder` could begin, the nearest first, as git sees them."""
    nearest = as_git_sees(folder).parent
    return [nearest, *nearest.parents]


def tree_around(folder: Path) -> Tree | None:
    """The tree around `folder`, as git sees it. A `.git` that is no repository does not stop the search."""
    return next((tree for top in _tops(folder.parent) if (tree := tree_at(top)) is not None), None)


def tree_at(top: Path) -> Tree | None:
    """The tree whose top that is; None where git looks further up. `top` is as git sees it."""
    dot = top / ".git"
    try:
        is_link = stat.S_ISLNK(dot.lstat().st_mode)
        mode = dot.stat().st_mode
        git = dot if stat.S_ISDIR(mode) else _named_in(dot)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Tree(top, dot, dot, f"{dot} cannot be read: {error.strerror}")
    if git is None:
        return Tree(top, dot, dot, f"{dot} is neither a folder nor does it name one")
    try:
        named = _read(git / "commondir", 4096).strip()
        common = Path(os.path.normpath(git / os.fsdecode(named)))
    except OSError:
        common = git
    if not _is_repository(git, common):
        return None if git is dot else Tree(top, git, common, f"{dot} names {git}, which is no repository")
    if is_link:
        return Tree(top, git, common, f"{dot} is a link, and what it leads to may be others' as well", strange=True)
    if not _belongs(dot, git, common):
        return Tree(top, git, common, f"{dot} leads to {common}, which knows nothing of it", strange=True)
    return Tree(top, git, common)


def superproject(tree: Tree) -> Path | None:
    """The top of the tree that has this one as a submodule, and can remove it with all that is ignored in it."""
    outer = None if tree.broken else tree_around(tree.top)
    if outer is None or outer.broken:
        return None
    if tree.git.is_relative_to(_real(outer.common)):
        return outer.top
    with suppress(OSError):
        named = _PART.findall(_read(outer.top / ".gitmodules", _MOST_BYTES))
        if os.fsencode(tree.top.relative_to(outer.top)) in (name.strip().strip(b'"') for name in named):
            return outer.top
    return None


def lies_inside_git(folder: Path, tree: Tree) -> bool:
    return any(folder.is_relative_to(_real(place)) for place in (tree.git, tree.common))


def lacking(folder: Path) -> list[Lack]:
    """What `folder` lacks. Raises GitFault where it cannot be had, OSError where nobody can tell."""
    return [lack for place in _places(folder) for lack in _lacking(place)]


def keep_out(disk: Disk, folder: Path) -> tuple[list[Lack], GitFault | None]:
    """Make what `folder` lacks. Returns what was made, and the first fault: the other parts are made all the same."""
    made: list[Lack] = []
    faults: list[GitFault] = []
    lacks: list[Lack] = []
    try:
        for place in _places(folder):
            for lack in _lacking(place):
                lacks.append(lack)
    except GitFault as fault:
        faults.append(fault)
    except OSError as error:
        faults.append(_fault(folder, error))
    for lack in lacks:
        try:
            _make(disk, lack)
        except GitFault as fault:
            faults.append(fault)
        except OSError as error:
            # What is for the day on which there is a tree can wait until then.
            if lack.part is not Part.IGNORES_ITSELF:
                faults.append(_fault(lack.path, error))
        else:
            made.append(lack)
    return made, faults[0] if faults else None


def old_lines(folder: Path) -> list[str]:
    """What an earlier version wrote for `folder` into the project's `.gitignore`: it hides each folder of that name.

    What stands in a block of AMQ's is AMQ's: `amq` would write it again.
    """
    tree = tree_around(folder)
    if tree is None:
        return []
    with suppress(OSError):
        lines = _read(tree.top / ".gitignore", _MOST_BYTES).decode("utf-8", "replace").splitlines()
        return [line for line in _outside_amqs_blocks(lines) if line == f"{folder.name}/"]
    return []


def _outside_amqs_blocks(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            inside = line.startswith(_AMQS_BLOCK)
        elif not inside:
            yield line


def _fault(path: Path, error: OSError) -> GitFault:
    return GitFault("git", f"{error.filename or path}: {error.strerror or error}", mend(error, path))


def _places(folder: Path) -> Iterator[Path]:
    """The folder as git sees it; where it is a link, what it leads to as well."""
    place = as_git_sees(folder)
    yield place
    if place.is_symlink():
        yield _real(place)


def _lacking(place: Path) -> Iterator[Lack]:
    if not os.path.lexists(place):
        return
    tree = tree_around(place)
    a_link = place.is_symlink()
    if tree is None:
        # Should somebody make one. Whose name begins with no dot is a folder of his own choice, and left alone.
        # No shelter yet: git would refuse the first `add` in the tree, as it asks no ignore file in another repository.
        names = (".git", ".gitignore")
        if place.name.startswith(".") and not a_link and not any(os.path.lexists(place / name) for name in names):
            yield Lack(Part.IGNORES_ITSELF, place, place / ".gitignore")
        return
    inside = tree_at(place)
    shelter = not a_link and (inside is None or inside.broken)
    if tree.broken:
        if tree.strange and shelter:
            yield Lack(Part.SHELTER, place, place / ".git")
        # Nothing that runs git there: an agent may have made it.
        raise GitFault("broken_tree", tree.broken, f"ls -l {quoted(tree.top / '.git')}")
    if lies_inside_git(place, tree):
        return
    line = _line(tree.top, place)
    exclude = tree.common / "info" / "exclude"
    if not _has(exclude, line):
        yield Lack(Part.LINE, place, exclude, line)
    if shelter:
        yield Lack(Part.SHELTER, place, place / ".git")
    # `git worktree remove` deletes what is ignored without a word.
    if os.path.lexists(tree.git / "gitdir") and not os.path.lexists(tree.git / "locked"):
        yield Lack(Part.LOCK, place, tree.git / "locked")


def _make(disk: Disk, lack: Lack) -> None:
    match lack.part:
        case Part.LINE:
            _append(disk, lack.path, lack.line)
        case Part.SHELTER:
            _shelter(disk, lack.path)
        case Part.LOCK:
            disk.create(lack.path, LOCKED, sync=Sync.NONE)
            disk.system.chmod(lack.path, 0o644)
        case Part.IGNORES_ITSELF:
            disk.create(lack.path, IGNORES_ITSELF, sync=Sync.NONE)


def _append(disk: Disk, exclude: Path, line: bytes) -> None:
    """Never through a link: others may read what it leads to, and an agent may have made it."""
    for path in (exclude.parent, exclude):
        if path.is_symlink():
            why = f"{path} is a link, and what it leads to may be others' as well"
            raise GitFault("exclude_link", why, f"put the line {printable(os.fsdecode(line))} there yourself")
    made = not os.path.lexists(exclude)
    if not exclude.parent.is_dir():
        disk.make_directory(exclude.parent)
        disk.system.chmod(exclude.parent, 0o755)
    if not made and not stat.S_ISREG(exclude.lstat().st_mode):
        raise GitFault("exclude_no_file", f"{exclude} is not a regular file", f"ls -ld {quoted(exclude)}")
    disk.append_line(exclude, line, sync=Sync.NONE)
    if made:
        disk.system.chmod(exclude, 0o644)


def _shelter(disk: Disk, git: Path) -> None:
    if git.is_symlink() or (os.path.lexists(git) and not git.is_dir()):
        raise GitFault("no_shelter", f"{git} is in the place of what keeps git out", f"rm {quoted(git)}")
    for folder in (git, git / "objects", git / "refs"):
        disk.make_directory(folder)
    # HEAD is the last: without it git sees no repository.
    for name, data in (("description", MARK), ("config", CONFIG), ("HEAD", HEAD)):
        disk.replace(git / name, data, sync=Sync.NONE)


def _tops(folder: Path) -> Iterator[Path]:
    return filter(is_top, (folder, *folder.parents))


def _is_ours(place: Path) -> bool:
    try:
        return read_regular(place / ".git" / "description", len(MARK)) == MARK
    except OSError:
        return False


def _belongs(dot: Path, git: Path, common: Path) -> bool:
    """Whether what `.git` leads to is that tree's own, by its own word.

    An agent can write the pointer, and we write, and let it write, where it leads: but not what lies there.
    """
    if git == dot:
        return common == git
    if common != git:
        # A worktree: git's own note in the common folder leads back.
        back = _named_back(git / "gitdir")
        return common == git.parent.parent and git.parent.name == "worktrees" and back == _real(dot)
    # A submodule: its settings name the folder.
    return work_of(git) == _real(dot.parent)


def work_of(git: Path) -> Path | None:
    """The folder that a git folder's settings name as the one it belongs to."""
    try:
        found = _WORK.findall(_read(git / "config", _MOST_BYTES))
    except OSError:
        return None
    return _real(git / os.fsdecode(found[-1].strip().strip(b'"'))) if found else None


def _named_back(file: Path) -> Path | None:
    try:
        return _real(Path(os.fsdecode(_read(file, 4096).strip())))
    except OSError:
        return None


def _named_in(file: Path) -> Path | None:
    word, _, named = _read(file, 4096).rstrip(b"\r\n").partition(b": ")
    if word != b"gitdir" or not named or b"\0" in named:
        return None
    return _real(file.parent / os.fsdecode(named))


def _is_repository(git: Path, common: Path) -> bool:
    """As git decides it."""
    if not ((common / "objects").is_dir() and (common / "refs").is_dir()):
        return False
    if (git / "HEAD").is_symlink():
        return True
    try:
        return re.match(rb"ref: *refs/|[0-9a-f]{40}", read_regular(git / "HEAD", 256)) is not None
    except OSError:
        return False


def _line(top: Path, place: Path) -> bytes:
    """A pattern that means this very folder. A line break cannot be quoted, but any character can be left open."""
    name = os.fsencode(place.relative_to(_real(top)))
    quoted = re.sub(rb"([\\*?\[])", rb"\\\1", name)
    return b"/" + re.sub(rb"[\r\n]", b"?", quoted) + (b"" if place.is_symlink() else b"/")


def _has(exclude: Path, line: bytes) -> bool:
    """Whether the last word on it is ours. Raises OSError where it cannot be read."""
    try:
        data = _read(exclude, _MOST_BYTES)
        if len(data) > _MOST_BYTES:
            raise OSError(errno.EFBIG, "larger than anybody reads", str(exclude))
        found = data.splitlines()
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
            return False
        raise
    bare = line.rstrip(b"/")
    said = [entry for entry in found if entry.removeprefix(b"!").rstrip(b"/") == bare]
    return bool(said) and not said[-1].startswith(b"!")


def _read(path: Path, limit: int) -> bytes:
    """What git reads it reads through links, and so do we; nothing of it is believed but where git looks."""
    return read_regular(_real(path), limit)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
