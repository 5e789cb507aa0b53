"""Does git leave state and mail alone, where they lie in a tree of it?"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from agent_mailer.checks import CheckResult, guarded, ok, warning
from agent_mailer.checks import failed as failure
from agent_mailer.config import GitCare
from agent_mailer.errors import quoted
from agent_mailer.git_tree import (
    GitFault,
    Part,
    Tree,
    as_git_sees,
    lacking,
    lies_inside_git,
    old_lines,
    superproject,
    tree_around,
)
from agent_mailer.process.environment import find_tool, git_call

GIT_SECONDS = 10.0
REPAIR = "agent-mailer doctor --repair"
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_HARMLESS = (".agent-mailer", ".agent-mail")
"""Nobody else has folders of these names."""


def check_git(workdir: Path, folders: Sequence[Path], care: GitCare) -> list[CheckResult]:
    """State and mail that lie in a git tree are kept out of it, and nothing of them is tracked."""
    there = [as_git_sees(folder) for folder in folders if os.path.lexists(folder)]
    inside = [(folder, tree) for folder in there if (tree := tree_around(folder)) is not None]
    if not inside:
        return [ok("git", workdir, "not in a git tree")]
    results = []
    for folder, tree in inside:
        results.append(guarded("git", folder, lambda folder=folder, tree=tree: _look(folder, tree, care)))  # type: ignore[misc]
        results += [_old(tree, line) for line in old_lines(folder) if folder.name not in _HARMLESS]
    return results


def tracked(folder: Path) -> CheckResult | None:
    """Where git has files of that folder in its index: no ignoring keeps those out. None where it has none."""
    return _asked(folder, _tracked)


def taken_back(folder: Path) -> CheckResult | None:
    """Where a pattern of the project takes in again what its exclude file, which is in order, keeps out."""
    return _asked(folder, _taken_back)


def _asked(folder: Path, ask: Callable[[str, Path, Tree], CheckResult | None]) -> CheckResult | None:
    seen = as_git_sees(folder)
    tree = tree_around(seen) if os.path.lexists(folder) else None
    if tree is None or tree.broken or lies_inside_git(seen, tree):
        return None
    program = find_tool("git", [tree.top])
    return None if program is None else ask(program, seen, tree)


def in_a_submodule(folder: Path) -> str:
    """What git does there, and asks nobody; empty where it is in none."""
    tree = tree_around(as_git_sees(folder))
    return "" if tree is None else _part_of(tree).removeprefix("; it ")


def _look(folder: Path, tree: Tree, care: GitCare) -> CheckResult:
    if lies_inside_git(folder, tree):
        text = f"lies in git's own folder {tree.git}, and goes with it"
        return warning("git", folder, text, "set the agent up in another folder: agent-mailer init")
    if tree.broken:
        return warning("git", folder, tree.broken, f"ls -l {quoted(tree.top / '.git')}")
    program = find_tool("git", [tree.top])
    if program is not None and (found := _tracked(program, folder, tree)) is not None:
        return found
    if care is GitCare.LEAVE:
        return ok("git", folder, 'left to you (git = "leave")')
    try:
        lacks = [lack for lack in lacking(folder) if lack.part is not Part.IGNORES_ITSELF]
    except GitFault as fault:
        return warning("git", folder, fault.message, fault.fix)
    if lacks:
        named = ", ".join(f"{lack.part.value} ({lack.path})" for lack in lacks)
        return warning("git", folder, f"git may commit, stash or delete it; missing: {named}", REPAIR)
    if program is not None and (found := _taken_back(program, folder, tree)) is not None:
        return found
    rest = " and ".join(old_lines(folder))
    hint = f"; the line {rest} of an earlier version in {tree.top / '.gitignore'} can go" if rest else ""
    return ok("git", folder, f"kept out of git; only {_what_deletes(folder, tree)} deletes it{hint}{_part_of(tree)}")


def _what_deletes(folder: Path, tree: Tree) -> str:
    """Git heeds nothing that we could put in its way there."""
    ways = ["`git clean -ffdx`"]
    if folder.parent != tree.top:
        ways.append(f"`git sparse-checkout` without {folder.parent.relative_to(tree.top)}/")
    if tree.git != tree.common:
        ways.append("`git worktree remove -f -f`")
    return " or ".join(ways)


def _part_of(tree: Tree) -> str:
    """Nobody can keep git from it."""
    outer = superproject(tree)
    return (
        "" if outer is None else f"; it lies in a submodule: `git rm` and `git submodule deinit` in {outer} delete it"
    )


def _old(tree: Tree, line: str) -> CheckResult:
    path = tree.top / ".gitignore"
    text = f"the line {line} of an earlier version hides every folder of that name in the project, whoever's it is"
    return warning("git", path, text, f"take the line out: $EDITOR {quoted(path)}")


def _tracked(program: str, folder: Path, tree: Tree) -> CheckResult | None:
    name = str(folder.relative_to(tree.top))
    status, listed = _git(program, tree, "--literal-pathspecs", "ls-files", "--", name)
    if status == 0 and listed.strip():
        many = len(listed.splitlines())
        kept = "commits keep what they have, and a checkout of one writes over yours"
        text = f"git tracks {many} of its files: mail, and perhaps a key; {kept}"
        return failure("git", folder, text, f"git -C {shlex.quote(str(tree.top))} rm -r --cached {shlex.quote(name)}")
    if status != 0:
        said = listed.strip() or "no answer in time"
        return warning("git", folder, f"git does not tell: {said}", f"git -C {shlex.quote(str(tree.top))} status")
    return None


def _taken_back(program: str, folder: Path, tree: Tree) -> CheckResult | None:
    name = f"./{folder.relative_to(tree.top)}"
    if _git(program, tree, "check-ignore", "-q", "--no-index", "--", name)[0] != 1:
        return None
    _, said = _git(program, tree, "check-ignore", "-v", "-n", "--no-index", "--", name)
    pattern = said.partition("\t")[0]
    text = f"a pattern of the project takes it in again, and `git add -A` fails there: {pattern}"
    return warning("git", folder, text, _last_word(folder, tree.top / pattern.partition(":")[0]))


def _last_word(folder: Path, ignored_by: Path) -> str:
    """The line that ignores it again, in the file that does not: a later pattern counts more than an earlier one."""
    if not ignored_by.is_file() or not folder.is_relative_to(ignored_by.parent):
        return f"git -C {shlex.quote(str(folder.parent))} check-ignore -v {shlex.quote(folder.name)}"
    line = f"/{folder.relative_to(ignored_by.parent)}/"
    if not _PLAIN.fullmatch(line):
        return f"$EDITOR {shlex.quote(str(ignored_by))}"
    return f"printf '\\n{line}\\n' >>{shlex.quote(str(ignored_by))}"


def _git(program: str, tree: Tree, *words: str) -> tuple[int | None, str]:
    """Only for what no plain file says; without what the project, or our environment, would have git run or take."""
    from agent_mailer.process.commands import run_briefly

    argv, env = git_call(program, ("-c", "core.quotePath=false", *words), [tree.top])
    done = run_briefly(argv, env=env, cwd=tree.top, seconds=GIT_SECONDS)
    return done.status, done.output
