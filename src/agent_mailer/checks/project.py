"""What lies around the state: prompt templates of the user's own, and git, which must not take the state along."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from string import Template

from agent_mailer.checks.result import CheckResult, failed, guarded, ok, warning
from agent_mailer.disk import read_regular
from agent_mailer.prompts import PromptKind, template_fault

GIT_SECONDS = 10.0


def check_templates(folder: Path) -> list[CheckResult]:
    """Every override can be used; one that cannot would be passed over for the shipped template."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return [ok("templates", folder, "no overrides; the shipped templates are used")]
    except OSError as error:
        return [warning("templates", folder, f"cannot be read: {error.strerror}", f"ls -ld {folder}")]
    bad = [fault for name in names if (fault := _template(folder / name)) is not None]
    return bad or [ok("templates", folder, f"valid: {', '.join(names)}" if names else "no overrides")]


def _template(path: Path) -> CheckResult | None:
    known = {f"{kind}.md": kind for kind in PromptKind}
    kind = known.get(path.name)
    if kind is None:
        if path.name.startswith(".") or path.name.endswith("~"):
            return None
        text = f"is no template; there are {', '.join(known)}"
        return warning("templates", path, text, f"mv {path} to one of these names, or remove it")
    try:
        fault = template_fault(kind, Template(read_regular(path, follow=True).decode("utf-8")))
    except OSError as error:
        fault = error.strerror or str(error)
    except UnicodeDecodeError:
        fault = "it is not UTF-8 text"
    return failed("templates", path, f"cannot be used: {fault}", f"$EDITOR {path}") if fault else None


def check_git(workdir: Path, folders: Sequence[Path]) -> list[CheckResult]:
    """State and mail that lie in a git tree are ignored there, and nothing of them is tracked."""
    inside = [(top, folder) for folder in folders if (top := _top(folder)) is not None]
    if not inside:
        return [ok("git", workdir, "not in a git tree")]
    program = shutil.which("git")
    if program is None:
        return [ok("git", workdir, "git is not installed")]
    return [guarded("git", folder, partial(_git, program, top, folder)) for top, folder in inside]


def _git(program: str, top: Path, folder: Path) -> CheckResult:
    from agent_mailer.process.commands import run_briefly

    # What names another tree or index in our environment is not meant for this one.
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {"GIT_OPTIONAL_LOCKS": "0"}

    def run(*words: str) -> tuple[int | None, str]:
        done = run_briefly([program, *words], env=env, cwd=top, seconds=GIT_SECONDS)
        return done.status, done.output

    name = str(folder.relative_to(top))
    status, tracked = run("ls-files", "--", name)
    if status == 0 and tracked.strip():
        text = f"git tracks {len(tracked.splitlines())} of its files: mail, and perhaps a key"
        return failed("git", folder, text, f"git -C {top} rm -r --cached {name}")
    status, said = run("check-ignore", "-q", "--no-index", f"{name}/")
    if status == 0:
        return ok("git", folder, "ignored by git")
    if status == 1:
        return warning("git", folder, "git does not ignore it", f"echo '{name}/' >> {top / '.gitignore'}")
    return warning("git", folder, f"git does not tell: {said.strip() or 'no answer in time'}", f"git -C {top} status")


def _top(folder: Path) -> Path | None:
    return next(_tops(folder), None)


def _tops(folder: Path) -> Iterator[Path]:
    return (above for above in folder.parents if os.path.lexists(above / ".git"))
