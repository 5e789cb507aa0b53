"""Installs what the e2e tests run into .tools, in exactly these versions, once: agent programs, and srt, a sandbox.

Prints nothing where they are there already. Exit status 69 where they cannot be installed (no npm, no network): the
tests that need them skip then, or fail where CI is set.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from agent_mailer.errors import MailerError, UnavailableFault
from agent_mailer.process.commands import run_command

VERSIONS = {"claude": "2.1.332", "codex": "0.171.0"}
"""The only place where they stand: tests ask here, and compare what the documents say they were tested with."""
DESCRIBED = {"opencode": "1.18.33", "gemini": "0.61.0", "qwen": "0.15.10"}
"""Agents that `runtime = "acp"` starts, in versions that run on the Node which Debian has; the same holds for them."""
SRT = "0.0.78"
"""Of Anthropic's sandbox-runtime, too."""

PACKAGES = {
    "claude": f"@anthropic-ai/claude-code@{VERSIONS['claude']}",
    "codex": f"@openai/codex@{VERSIONS['codex']}",
    "opencode": f"opencode-ai@{DESCRIBED['opencode']}",
    "gemini": f"@google/gemini-cli@{DESCRIBED['gemini']}",
    "qwen": f"@qwen-code/qwen-code@{DESCRIBED['qwen']}",
    "srt": f"@anthropic-ai/sandbox-runtime@{SRT}",
}

TOOLS = Path(__file__).resolve().parents[1] / ".tools"
FOLDERS = {"clis": ("claude", "codex"), "sandbox": ("srt",), "described": ("opencode", "gemini"), "qwen": ("qwen",)}
"""Below it, each with what one call of npm puts there: what is large is not fetched again for what is not."""
_STAMP = "installed"


def binary(name: str) -> Path:
    """Where `name` lies once it is installed."""
    return TOOLS / folder_of(name) / "node_modules" / ".bin" / name


def folder_of(name: str) -> str:
    return next(folder for folder, names in FOLDERS.items() if name in names)


def installed(folder: str) -> bool:
    """Whether just these versions are there."""
    stamp = TOOLS / folder / _STAMP
    return (
        stamp.is_file() and stamp.read_text() == _wanted(folder) and all(map(Path.exists, map(binary, FOLDERS[folder])))
    )


def install(*folders: str) -> None:
    """Install what is missing in these; two at a time wait for each other. Raises UnavailableFault."""
    if all(map(installed, folders)):
        return
    TOOLS.mkdir(exist_ok=True)
    with FileLock(TOOLS / "clis.lock"):
        for folder in folders:
            if not installed(folder):
                _install_anew(folder, {name: PACKAGES[name] for name in FOLDERS[folder]})


def _install_anew(folder: str, packages: Mapping[str, str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableFault("no_npm", "npm is not in PATH", "install Node.js 20 or newer with npm")
    print(f"agent_clis: installing {', '.join(packages.values())} into .tools/{folder}", file=sys.stderr)  # noqa: T201
    fresh = TOOLS / f"{folder}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    # A folder of its own package: npm would go up to whatever package.json it finds.
    (fresh / "package.json").write_text('{"private": true}\n')
    argv = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error", *packages.values()]
    done = run_command(argv, env=os.environ, cwd=fresh)
    if done.status:
        raise UnavailableFault("npm_failed", f"npm could not install them:\n{done.output.strip()[-2000:]}", "")
    with tempfile.TemporaryDirectory(prefix="agent-clis-") as home:
        # Some make their folders in the home of whoever only asks for their version.
        env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")} | {"HOME": home}
        for name, package in packages.items():
            version = package.rpartition("@")[2]
            answer = run_command([str(fresh / "node_modules" / ".bin" / name), "--version"], env=env, cwd=fresh)
            if answer.status or version not in answer.output:
                raise UnavailableFault("cli_broken", f"{package} does not start: {answer.output.strip()[:500]}", "")
    (fresh / _STAMP).write_text(_wanted(folder))
    shutil.rmtree(TOOLS / folder, ignore_errors=True)
    fresh.rename(TOOLS / folder)


def _wanted(folder: str) -> str:
    return "".join(f"{PACKAGES[name]}\n" for name in FOLDERS[folder])


def main() -> int:
    try:
        install(*FOLDERS)
    except (MailerError, OSError) as fault:
        fix = f" ({fault.fix})" if isinstance(fault, MailerError) and fault.fix else ""
        print(f"agent_clis: {fault}{fix}", file=sys.stderr)  # noqa: T201
        return int(UnavailableFault.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
