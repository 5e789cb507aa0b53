"""Is the workdir set up: state folder, configuration, documents, templates; and git, which must not take it along."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Template

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.config import Loaded
from agent_mailer.disk import read_regular
from agent_mailer.identity import IDENTITY_FILES, MOST_BYTES, parse_identity, read_identity, require_agreement
from agent_mailer.process.environment import find_tool
from agent_mailer.prompts import PromptKind, template_fault
from agent_mailer.state.folder import StateFolder


def check_folder(folder: StateFolder) -> CheckResult:
    """There, private, and of a format that we know."""

    def look() -> CheckResult:
        folder.check()
        return ok("folder", folder.path, "there, private, of a known format")

    return guarded("folder", folder.path, look)


def check_config(
    path: Path, load: Callable[[], Loaded], missing: Callable[[], Sequence[tuple[str, str]]]
) -> CheckResult:
    """Every value is one, nothing that `watch` needs is missing, and no key is misspelt."""

    def look() -> CheckResult:
        loaded, lacking = load(), missing()
        if lacking:
            flags = " ".join(f"{flag} ..." for _, flag in lacking)
            named = ", ".join(key for key, _ in lacking)
            return failed("config", path, f"missing: {named}", f"agent-mailer init {flags}")
        if loaded.unknown:
            named = ", ".join(loaded.unknown)
            return warning("config", path, f"keys that mean nothing here: {named}", "agent-mailer config edit")
        config = loaded.config
        runtime, mode = config.runtime, config.permission_mode
        return ok("config", path, f"complete: runtime {runtime}, permission mode {mode}, mailbox {config.mailbox_kind}")

    return guarded("config", path, look)


def check_identity(workdir: Path, configured: Mapping[str, str]) -> CheckResult:
    """AGENT.md and the configuration mean the same agent."""
    path = _identity_file(workdir)

    def look() -> CheckResult:
        require_agreement(workdir, configured)
        named = ", ".join(f"{key} {value}" for key, value in read_identity(workdir).items() if key in configured)
        if not named:
            return ok("identity", path, f"no file names an agent; the configuration says {configured.get('address')}")
        return ok("identity", path, f"agrees: {named}")

    return guarded("identity", path, look)


def check_agent_md(workdir: Path, api_key: str) -> CheckResult:
    """The identity file can be read whole, and does not hold the broker's key, which the agent must never see."""
    path = _identity_file(workdir)

    def look() -> CheckResult:
        try:
            data = read_regular(path, MOST_BYTES, follow=True)
        except FileNotFoundError:
            return ok("agent_md", path, "not there; nothing needs it")
        if api_key and api_key.encode() in data:
            return warning(
                "agent_md", path, "holds the broker's key (api_key), and the agent reads this file", f"$EDITOR {path}"
            )
        if len(data) > MOST_BYTES:
            text = f"larger than {MOST_BYTES} bytes: what stands behind them is not looked at"
            return warning("agent_md", path, text, f"$EDITOR {path}")
        found = parse_identity(data.decode("utf-8", "replace"))
        return ok("agent_md", path, f"names {', '.join(found)}" if found else "names no agent")

    return guarded("agent_md", path, look)


def _identity_file(workdir: Path) -> Path:
    # os.path: a folder that may not be entered is no error here.
    there = (workdir / name for name in IDENTITY_FILES if os.path.lexists(workdir / name))
    return next(there, workdir / IDENTITY_FILES[0])


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
        fault = template_fault(kind, Template(read_regular(path).decode("utf-8")))
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
    program = find_tool("git", [workdir])
    if program is None:
        return [ok("git", workdir, "git is not installed")]
    return [guarded("git", folder, partial(_git, program, top, folder)) for top, folder in inside]


def _git(program: str, top: Path, folder: Path) -> CheckResult:
    from agent_mailer.process.commands import run_briefly
    from agent_mailer.process.environment import git_call

    def run(*words: str) -> tuple[int | None, str]:
        argv, env = git_call(program, words, [top])
        done = run_briefly(argv, env=env, cwd=top, seconds=GIT_SECONDS)
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
